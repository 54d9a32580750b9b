"""Pictures of any file by their times, in order and at random."""

import itertools
import zlib
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from absl import logging

from tfg_jax.errors import MediaError
from tfg_jax.media import containers, probing

MAX_RATE = 240  # frames per second; beyond it timestamps are broken rather than fast


class VideoReader:
  """The frames of a video, in order and at random, as RGB uint8 (H, W, 3).

  The first pass through the file (`scan`, or the first use of `times`, `rate` or `frames`) decodes
  all of it and notes every frame's time, so that damage shows at the start of a long job. A still
  image is a video of one frame.

  Args:
    path: a video or an image.
    seconds: how much of it to read; later frames are taken not to exist. None: all of it.

  Attributes:
    width, height: pixels as shown.
    pixel_aspect: width of a pixel over its height.
    colour: the file's `Colour`.

  Raises:
    MediaError: see `probe`; and if the file has no video, or is damaged on the way.
  """

  def __init__(self, path, *, seconds: float | None = None):
    self.path = str(path)
    self._seconds = np.inf if seconds is None else seconds
    info = probing.probe(path)
    if not info.has_video:
      raise MediaError('the file has no video stream', where=path)
    self.width, self.height = info.width, info.height
    self.pixel_aspect, self.colour = info.pixel_aspect, info.colour
    self._declared_rate = info.rate
    self._container = None
    self._position = None  # index of the frame that the open decoder gives next
    self._last = None  # (index, picture) given last
    self._times = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def close(self):
    """Gives the file back; what is read next opens it again."""
    if self._container is not None:
      self._container.close()
      self._container = self._position = self._last = None

  def scan(self) -> Iterator[np.ndarray]:
    """Yields every frame in order; when it is exhausted, `times` and `rate` are known."""
    for frame in self._scan():
      yield self._picture(frame)

  @property
  def times(self) -> np.ndarray:
    """(T,) float64 seconds from the first frame, increasing."""
    if self._times is None:
      for _ in self._scan():
        pass
    return self._times

  @property
  def rate(self) -> Fraction:
    """Frames per second: as declared where the timestamps agree within 5 %, else as measured.

    The tolerance keeps rates like 25.34, which an edit list makes of 25 fps frames: it is what
    players show and what other tools take the file to have.

    Raises:
      MediaError: for rates that no video has.
    """
    times, declared = self.times, self._declared_rate
    if len(times) > 1:
      measured = Fraction((len(times) - 1) / times[-1]).limit_denominator(100_000)
      if not declared or abs(declared / measured - 1) > 0.05:
        declared = measured
    if not declared or declared > MAX_RATE:
      raise MediaError(
        f'the video has {float(declared or 0):g} frames per second; 0 to {MAX_RATE} can be used',
        where=self.path,
        hint='its timestamps may be broken: re-encode it, e.g. with ffmpeg -i IN -r 25 OUT.mp4',
      )
    return declared

  def __len__(self):
    return len(self.times)

  def frames(self, start: int, stop: int) -> Iterator[np.ndarray]:
    """Yields frames start..stop-1 (indices into `times`).

    Goes on from where it stands or from the nearest key frame before `start`, whichever is less
    work; containers that cannot seek are decoded from their beginning.

    Raises:
      MediaError: if a frame is another one than when `times` was found.
    """
    if not 0 <= start <= stop <= len(self):
      raise IndexError(f'frames {start}..{stop} of {len(self)}')
    if start < stop and self._last is not None and self._last[0] == start:
      yield self._last[1]
      start += 1
    if start == stop:
      return
    key = max((index for index in self._keys if index <= start), default=0)
    if self._position is None or not key <= self._position <= start:
      self._seek(start)
    while self._position < stop:
      frame = next(self._frames, None)
      index = self._position
      if frame is None or (index in self._keys and _checksum(frame) != self._keys[index]):
        raise MediaError(f'frame {index} decodes differently the second time', where=self.path)
      self._position += 1
      if index >= start:
        self._last = index, self._picture(frame)
        yield self._last[1]

  def _scan(self):
    pts, keys = [], {}
    with containers.open_container(self.path) as container:
      stream = containers.video_stream(container)
      for index, frame in enumerate(containers.decode_pictures(self.path, container, stream)):
        if index == 0:
          start = frame.time
        elif start is not None and (frame.time or start) - start > self._seconds:
          break
        pts.append(frame.pts)
        if frame.key_frame:
          keys[index] = _checksum(frame)
        yield frame
      time_base = stream.time_base
    self._keys = keys  # {index: checksum} of the key frames
    if None not in pts and (np.diff(pts) > 0).all():
      self._pts = np.array(pts, np.int64)
      self._times = (self._pts - self._pts[0]) * float(time_base)
    else:
      rate = self._declared_rate or Fraction(25)
      logging.warning(
        '%s: timestamps are missing or not in order; %g fps assumed', self.path, float(rate)
      )
      self._pts = None
      self._declared_rate = rate
      self._times = np.arange(len(pts)) / float(rate)

  def _seek(self, start):
    """Opens the decoder so that it gives a frame at or before `start` next."""
    keys = [index for index in self._keys if index <= start][::-1]
    # Some containers land after the place asked for: ask for earlier and earlier ones.
    tries = [] if self._pts is None else keys[0:1] + keys[1:2] + keys[3:4] + keys[7:8]
    for key in tries:
      self._restart()
      try:
        position = self._land(self._pts[key])
      except (av.error.FFmpegError, MediaError):
        continue  # decoding from the beginning has worked before
      if position is not None and position <= start:
        self._position = position
        return
    self._restart()
    self._frames = containers.decode_pictures(
      self.path, self._container, containers.video_stream(self._container)
    )
    self._position = 0

  def _land(self, pts):
    """Seeks and decodes up to a key frame, which `_frames` gives next; returns its index or None.

    Frames before a key frame may lean on ones that were not decoded. A key frame is known by its
    checksum: timestamps after a seek in MPEG program streams are off by a frame or more.
    """
    stream = containers.video_stream(self._container)
    self._container.seek(int(pts), stream=stream, backward=True)
    self._frames = containers.decode_pictures(self.path, self._container, stream)
    for frame in self._frames:
      if frame.key_frame and frame.pts is not None:
        checksum = _checksum(frame)
        same = [index for index, other in self._keys.items() if other == checksum]
        self._frames = itertools.chain((frame,), self._frames)
        return min(same, key=lambda index: abs(self._pts[index] - frame.pts), default=None)
    return None

  def _restart(self):
    self.close()
    self._container = containers.open_container(self.path)

  def _picture(self, frame):
    turns = containers.quarter_turns(frame)
    picture = np.rot90(frame.to_ndarray(format='rgb24'), turns)
    if picture.shape != (self.height, self.width, 3):
      height, width = picture.shape[:2]
      raise MediaError(
        f'the picture changes from {self.width}x{self.height} to {width}x{height} on the way',
        where=self.path,
        hint='re-encode it to one size, e.g. with ffmpeg -i IN -s 1280x720 OUT.mp4',
      )
    return np.ascontiguousarray(picture)


def on_screen(times: np.ndarray, rate: Fraction) -> np.ndarray:
  """Which frame each frame of a constant rate shows, (T,) int.

  Frame k of it lasts from k / rate to (k + 1) / rate and shows what is on screen in the middle of
  that time, so a constant rate is copied frame by frame and a variable one is held.

  Args:
    times: of the frames, seconds from the first.
    rate: frames per second.
  """
  count = round(float(times[-1] * rate)) + 1
  middles = (np.arange(count) + 0.5) / float(rate)
  return np.searchsorted(times, middles, 'right') - 1


def read_image(path) -> np.ndarray:
  """The first picture of a file as RGB uint8 (H, W, 3), turned as its EXIF says."""
  with VideoReader(path) as reader:
    return next(reader.frames(0, 1))


def _checksum(frame):
  return zlib.crc32(np.ascontiguousarray(frame.to_ndarray(format='gray')))
