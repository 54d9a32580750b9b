"""What runs on Beam's workers; apart from `pipeline`, which can be imported without Beam."""

import logging
import os
import threading
import time

import apache_beam as beam

from data_prep import pipeline

_POLL = 0.5  # seconds


class MakeShard(beam.DoFn):
  """Makes one shard: an element is a `pipeline.Shard`; nothing comes out but counters.

  Args:
    command: (process id, path) of a command whose workers share this machine; they end when the
      process or the file is gone. None: workers are the runner's.
  """

  def __init__(self, command: tuple[int, str] | None):
    self._command = command

  def setup(self):
    if self._command is None:
      return
    import cv2

    for name in ('apache_beam', '__main__'):  # Beam's start and end are of no interest
      logging.getLogger(name).setLevel(logging.WARNING)
    cv2.setNumThreads(1)  # the processes share the cores already
    # TensorFlow reads them when its first operation runs.
    os.environ.setdefault('TF_NUM_INTRAOP_THREADS', '1')
    os.environ.setdefault('TF_NUM_INTEROP_THREADS', '1')
    threading.Thread(target=_end_with, args=self._command, daemon=True).start()

  def process(self, shard: pipeline.Shard):
    """Makes one shard, and counts what became of its clips."""
    for what, count in pipeline.make_shard(shard).items():
      beam.metrics.Metrics.counter('clips', what).inc(count)


def _end_with(process, path):
  """Ends this worker with the command that started it; Beam's own would finish their shards."""
  while os.path.exists(path):
    try:
      os.kill(process, 0)
    except ProcessLookupError:
      break
    time.sleep(_POLL)
  os._exit(1)
