"""From records to batches: numpy dicts of fixed shapes, the same ones again after a resume.

A batch of B clips, padded to T = max_frames:

  frames       uint8 (B, T, H, W, 3)   RGB; zeros behind the clip's end
  boxes        int32 (B, T, 4)         x1, y1, x2, y2, end-exclusive; the last box repeats
  num_frames   int32 (B,)
  wav          int16 (B, S)            S = ceil(T * sample_rate / fps); zeros behind the clip's end
  num_samples  int32 (B,)              the audio ends with the last frame, or earlier
  clip_index   int32 (B,)              number of the clip in its source
  example_mask bool (B,)               evaluation only: False for repeats that fill the last batch

and whatever the system's `sample(clip, rng)` returns for each clip, e.g. windows or tokens. If that
has a `frame_index` (n,), `frames` and `boxes` hold those frames alone, (B, n, ...) in its order: a
system that looks at few frames has no others decoded and sent.

The order of training is one endless stream, shuffled anew in every epoch. Global batch k has the
same rows, with the same random choices, for any number of processes and workers; process p takes
the p-th part of them. So the position is one number, the same everywhere.
"""

import collections
import dataclasses
import fractions
import functools
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from tfg_jax.data import clip_codec, records
from tfg_jax.errors import CheckpointError, DataError

Batch = dict[str, np.ndarray]
Sample = Callable[[clip_codec.Clip, np.random.Generator], dict[str, np.ndarray]]

_AGAIN = 'prepare the records again.'  # what to do about damaged ones


def train_batches(
  source,
  *,
  batch_size,
  seed,
  sample,
  max_frames,
  height,
  width,
  fps=None,
  sample_rate=None,
  num_workers=0,
  num_threads=4,
  process_index=0,
  process_count=1,
):
  """Endless shuffled batches for training.

  Args:
    source: RecordSource.
    batch_size: clips per batch of this process.
    seed: in [0, 2**32); decides the order and every random choice.
    sample: the system's `(clip, rng) -> dict of arrays` of fixed shapes. The clip has at most
      `max_frames` frames, still as JPEG. Must be picklable if there are workers.
    max_frames: T. Of a longer clip a random part of T frames is used, another one each time.
    height, width: of the frames, in pixels.
    fps, sample_rate: in Hz; None takes what the corpus has.
    num_workers: worker processes; 0 decodes in threads of this process.
    num_threads: batches decoded at the same time, in each worker or in this process. Each holds one
      batch in memory.
    process_index, process_count: of the multi-host program.

  Returns:
    BatchIterator.

  Raises:
    DataError: if the corpus has another frame size or rate. Damaged records raise it in `next`.
  """
  _check_corpus(source, height=height, width=width, fps=fps, sample_rate=sample_rate)
  load = _ClipLoader(source, sample, max_frames, height, width)
  stream = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat().random_map(load.train)
  description = {'source': repr(source), 'seed': seed, 'global_batch': batch_size * process_count}
  batches = stream.batch(batch_size, drop_remainder=True)[process_index::process_count]
  return BatchIterator(
    batches, description=description, num_workers=num_workers, num_threads=num_threads
  )


def eval_batches(
  source,
  *,
  batch_size,
  sample,
  max_frames,
  height,
  width,
  fps=None,
  sample_rate=None,
  max_clips=0,
  num_workers=0,
  num_threads=4,
  process_index=0,
  process_count=1,
):
  """One pass in order for evaluation, with as many batches in every process.

  Takes what `train_batches` takes, and `max_clips`, the number of clips from the first on that are
  used (0: all). Of clips longer than `max_frames` the first part is used, and `sample` gets a
  generator seeded by the clip's number, so every pass gives the same batches. The last ones are
  filled up with repeats of the last clip, which `example_mask` marks.
  """
  _check_corpus(source, height=height, width=width, fps=fps, sample_rate=sample_rate)
  load = _ClipLoader(source, sample, max_frames, height, width)
  clips = min(len(source), max_clips or len(source))
  global_batch = batch_size * process_count
  slots = math.ceil(clips / global_batch) * global_batch
  batches = (
    grain.MapDataset.range(slots)
    .map(functools.partial(load.evaluate, clips=clips))
    .batch(batch_size, drop_remainder=True)[process_index::process_count]
  )
  description = {'source': repr(source), 'clips': clips, 'global_batch': global_batch}
  return BatchIterator(
    batches, description=description, num_workers=num_workers, num_threads=num_threads
  )


class BatchIterator:
  """Batches in a fixed order, at a position that can be saved and set.

  Closing ends the threads and worker processes; it is a context manager that does so.

  Args:
    batches: grain MapDataset of batches.
    description: what the order depends on; a saved position fits only the same description.
    num_workers, num_threads: as in `train_batches`.
  """

  def __init__(self, batches, *, description, num_workers, num_threads):
    self._batches = batches
    self._description = description
    self._num_workers = num_workers
    self._num_threads = num_threads
    self._position = 0
    self._iterator = None
    self._closed = False

  def __iter__(self):
    return self

  def __next__(self) -> Batch:
    if self._closed:
      raise ValueError('the batches were closed')
    if self._iterator is None:
      self._iterator = self._start()
    batch = next(self._iterator)
    self._position += 1
    return batch

  def get_state(self) -> dict[str, Any]:
    """Position behind the last batch returned: JSON values, the same in all processes."""
    return {'batches': self._position, **self._description}

  def set_state(self, state):
    """Goes to a position that `get_state` returned; takes no longer for late ones.

    Raises:
      CheckpointError: if the position is of another corpus, seed or global batch size.
    """
    for name, value in self._description.items():
      if state.get(name) != value:
        raise CheckpointError(
          f'the data position was saved with {name}={state.get(name)!r}; this run has {value!r}',
          hint='Resume with the same data settings, or start in a new workdir.',
        )
    self._stop()
    self._position = state['batches']

  def close(self):
    """Ends threads and worker processes; further batches raise ValueError."""
    self._closed = True
    self._stop()

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.close()

  def _start(self):
    # Grain's own iterator state depends on the number of workers; starting at a position does not.
    options = grain.ReadOptions(
      num_threads=self._num_threads, prefetch_buffer_size=self._num_threads
    )
    dataset = self._batches[self._position :].to_iter_dataset(options)
    if self._num_workers:
      if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads its flags; in a notebook nobody has parsed them
      dataset = dataset.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=self._num_workers, per_worker_buffer_size=1)
      )
    return iter(dataset)

  def _stop(self):
    if self._iterator is not None:
      self._iterator.close()
      self._iterator = None


def _check_corpus(source, **config):
  for name, value in config.items():
    has = getattr(source.info, name)
    if value is not None and not math.isclose(value, has, rel_tol=1e-6):
      raise DataError(
        f'corpus {source.info.corpus!r} has {name}={has}; the config says {value}',
        where=source.directory,
        hint=f'Set {name} of the config to that of the corpus, or prepare the corpus again.',
      )


@dataclasses.dataclass(frozen=True)
class _ClipLoader:
  """Turns a clip's number into its arrays."""

  source: records.RecordSource
  sample: Sample
  max_frames: int
  height: int
  width: int

  def train(self, number, rng):
    clip = self._read(number)
    spare = len(clip.frames) - self.max_frames
    start = int(rng.integers(spare + 1)) if spare > 0 else 0
    return self._arrays(number, clip, start, rng)

  def evaluate(self, slot, clips):
    number = min(slot, clips - 1)
    rng = np.random.default_rng(number)
    arrays = self._arrays(number, self._read(number), 0, rng)
    return {**arrays, 'example_mask': np.bool_(slot < clips)}

  def _read(self, number):
    where = self.source.locate(number)
    clip = clip_codec.decode(self.source[number], where=where)
    info = self.source.info
    for name in ('fps', 'sample_rate'):
      # A record keeps fps as float32.
      if not math.isclose(getattr(clip, name), getattr(info, name), rel_tol=1e-6):
        raise DataError(
          f'clip {clip.clip_id} has {name}={getattr(clip, name)}; '
          f'{records.INFO_NAME} says {getattr(info, name)}',
          where=where,
        )
    return clip

  def _arrays(self, number, clip, start, rng):
    rate = fractions.Fraction(self.source.info.sample_rate) / fractions.Fraction(
      self.source.info.fps
    )
    clip = cut(clip, start, self.max_frames, rate)
    where = f'{self.source.locate(number)}, clip {clip.clip_id}'
    wav = np.zeros(math.ceil(self.max_frames * rate), np.int16)
    wav[: len(clip.wav)] = clip.wav
    try:
      sampled = self.sample(clip, rng)
    except DataError as error:
      if error.where:
        raise
      raise DataError(error.what, where=where, hint=error.hint) from error
    index, rows = np.arange(len(clip.frames)), self.max_frames
    if 'frame_index' in sampled:
      index = sampled['frame_index']
      rows = len(index)
    frames = np.zeros((rows, self.height, self.width, 3), np.uint8)
    files = [clip.frames[i] for i in index]
    decode_jpegs(files, frames[: len(index)], where=where, numbers=index)
    boxes = clip.boxes[index].astype(np.int32)
    return {
      'frames': frames,
      'boxes': np.pad(boxes, ((0, rows - len(boxes)), (0, 0)), 'edge'),
      'num_frames': np.int32(len(clip.frames)),
      'wav': wav,
      'num_samples': np.int32(len(clip.wav)),
      'clip_index': np.int32(number),
      **sampled,
    }


def cut(clip, start, count, samples_per_frame):
  """Returns `count` frames from `start` on, or all that there are, with their boxes and audio.

  Args:
    clip: Clip.
    start: first frame.
    count: number of frames.
    samples_per_frame: sample_rate / fps as a Fraction; the audio is cut to whole samples.
  """
  stop = min(start + count, len(clip.frames))
  wav = clip.wav[round(start * samples_per_frame) : math.ceil(stop * samples_per_frame)]
  return dataclasses.replace(
    clip,
    frames=clip.frames[start:stop],
    boxes=clip.boxes[start:stop],
    wav=wav[: math.ceil(count * samples_per_frame)],  # both ends rounded may give one sample more
  )


def decode_jpegs(files, out, *, where, numbers=None):
  """Decodes T JPEG files as RGB into `out`, uint8 (T, H, W, 3).

  Raises:
    DataError: if one is no picture or not of H x W; the message names its place among the files, or
      its one of the T `numbers`, with `where`.
  """
  numbers = range(len(files)) if numbers is None else numbers
  for index, file, frame in zip(numbers, files, out, strict=True):
    size = clip_codec.jpeg_size(file)
    # Before anything is decoded: a few bytes can declare gigabytes.
    if size is not None and size != frame.shape[:2]:
      raise DataError(
        f'frame {index} is {size[0]}x{size[1]}; expected {frame.shape[0]}x{frame.shape[1]}',
        where=where,
        hint=f'set data.height and data.width to the size of the frames, or {_AGAIN}',
      )
    picture = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR) if size else None
    if picture is None or picture.shape != frame.shape:
      raise DataError(
        f'frame {index} is not a JPEG picture: {file[:8]!r}...', where=where, hint=_AGAIN
      )
    cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=frame)


class DevicePrefetch:
  """Moves batches to the devices ahead of the step, in a thread of its own.

  Owns `iterator` from here on: nobody else may advance it, and `close` closes it too.

  Args:
    iterator: BatchIterator.
    put: `batch -> what next returns`, e.g. device_put with a sharding; called in the thread.
    depth: batches that may be ready at once.
  """

  def __init__(self, iterator, put, depth=2):
    self._iterator = iterator
    self._put = put
    self._depth = depth
    self._state = iterator.get_state()
    self._ready = collections.deque()
    self._error = None  # what ended the thread, StopIteration included
    self._closed = False
    self._changed = threading.Condition()
    self._waited = 0.0
    self._since = time.perf_counter()
    self._thread = threading.Thread(target=self._run, name='device-prefetch', daemon=True)
    self._thread.start()

  def __iter__(self):
    return self

  def __next__(self):
    """Returns the next batch as `put` made it; an error of the thread comes out here unchanged."""
    begin = time.perf_counter()
    with self._changed:
      self._changed.wait_for(lambda: self._ready or self._error or self._closed)
      self._waited += time.perf_counter() - begin
      if self._closed:
        raise ValueError('the prefetch was closed')
      if not self._ready:
        raise self._error
      batch, self._state = self._ready.popleft()
      self._changed.notify_all()
    return batch

  def get_state(self):
    """Position of the iterator behind the last batch returned: what a checkpoint keeps."""
    return self._state

  def waiting_share(self):
    """Share of the time since the last call, in [0, 1], that `next` spent waiting for data."""
    now = time.perf_counter()
    share = self._waited / max(now - self._since, 1e-9)
    self._waited, self._since = 0.0, now
    return share

  def close(self):
    """Ends the thread, which finishes the batch it is at, and closes the iterator."""
    with self._changed:
      self._closed = True
      self._ready.clear()
      self._changed.notify_all()
    self._thread.join()
    self._iterator.close()

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.close()

  def _run(self):
    try:
      while True:
        with self._changed:
          self._changed.wait_for(lambda: len(self._ready) < self._depth or self._closed)
          if self._closed:
            return
        batch = next(self._iterator)
        state = self._iterator.get_state()
        item = self._put(batch), state
        del batch  # the host copy can go while the thread waits
        with self._changed:
          self._ready.append(item)
          self._changed.notify_all()
        del item
    except BaseException as error:  # whatever it is, the consumer has to see it
      with self._changed:
        self._error = error
        self._changed.notify_all()
