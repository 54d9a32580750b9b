"""What runs on Beam's workers; apart from `pipeline`, which can be imported without Beam."""

import os
import threading

import apache_beam as beam

from data_prep import pipeline


class MakeShard(beam.DoFn):
  """Makes one shard: an element is a `pipeline.Shard`; nothing comes out but counters.

  Args:
    share_cores: whether other workers use the cores of this machine too.
  """

  def __init__(self, *, share_cores: bool):
    self._share_cores = share_cores
    self._main = os.getpid()

  def setup(self):
    if not self._share_cores or os.getpid() == self._main:
      return
    import cv2

    cv2.setNumThreads(1)
    # TensorFlow reads them when its first operation runs.
    os.environ.setdefault('TF_NUM_INTRAOP_THREADS', '1')
    os.environ.setdefault('TF_NUM_INTEROP_THREADS', '1')
    if os.getppid() == self._main:
      threading.Thread(target=_end_with_parent, args=(self._main,), daemon=True).start()

  def process(self, shard: pipeline.Shard):
    for what, count in pipeline.make_shard(shard).items():
      beam.metrics.Metrics.counter('clips', what).inc(count)


def _end_with_parent(parent):
  """Ends this process when the command that started it was killed."""
  while os.getppid() == parent:
    threading.Event().wait(1)
  os._exit(1)
