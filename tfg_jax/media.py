"""Media files in and out: video frames by timestamp, audio as PCM, H.264 with AAC.

Everything goes through PyAV, whose wheel carries FFmpeg with libx264: no program is needed beside
it. Frames are RGB uint8 (H, W, 3) as a viewer sees them (rotation applied), times are seconds from
the first frame, audio is int16. Memory does not grow with the length of a video beyond its table of
timestamps (16 bytes a frame); `read_audio` keeps a whole track, 115 MB for an hour at 16 kHz.
"""

import dataclasses
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

import av
import av.stream
import numpy as np
import soxr
from absl import logging
from PIL import Image

from tfg_jax.errors import MediaError, StorageError

MAX_SIDE = 8192  # pixels; larger declared sizes are refused before anything is allocated for them
MAX_RATE = 240  # frames per second; beyond it timestamps are broken rather than fast
MAX_AUDIO_HOURS = 12
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
PCM_SCALE = 32768  # int16 -> [-1, 1) by this and back, so that 16-bit audio comes through unchanged
_GAP = 0.04  # seconds; audio timestamps that are off by less are rounded, by more sound is lost
_TEXT_AS_VIDEO = ('tty',)  # FFmpeg renders any .txt as ANSI art


@dataclasses.dataclass(frozen=True)
class Colour:
  """How a video codes RGB as YUV, in the numbers of ITU-T H.273 (2: not specified)."""

  matrix: int = 2
  primaries: int = 2
  transfer: int = 2


@dataclasses.dataclass(frozen=True)
class MediaInfo:
  """What a file holds, from its headers and its first picture.

  `width` and `height` are as shown, after rotation; `rate` is frames per second as declared;
  `duration` is in seconds and None where the container does not say. Fields of an absent stream are
  zero.
  """

  path: str
  is_image: bool
  has_video: bool
  has_audio: bool
  duration: float | None
  width: int = 0
  height: int = 0
  rate: Fraction = Fraction(0)
  pixel_aspect: Fraction = Fraction(1)  # width of a pixel over its height
  colour: Colour = Colour()
  audio_rate: int = 0
  audio_channels: int = 0


def probe(path) -> MediaInfo:
  """Looks into a media file; decodes one picture at most.

  Raises:
    MediaError: the file is missing, empty, not media, damaged at the start, has neither sound nor
      pictures, or declares pictures beyond `MAX_SIDE`.
  """
  with _open(path) as container:
    video, audio = _video_stream(container), _audio_stream(container)
    if video is None and audio is None:
      raise MediaError('the file has neither a video nor an audio stream', where=path)
    fields = {}
    if video is not None:
      _check_size(path, video.codec_context.width, video.codec_context.height)
      frame = next(_decode(path, container, video), None)
      if frame is None:
        raise MediaError('the video has no frames', where=path)
      context = video.codec_context
      size, aspect = (frame.width, frame.height), context.sample_aspect_ratio or Fraction(1)
      if _quarter_turns(frame) % 2:
        size, aspect = size[::-1], 1 / aspect
      fields = dict(
        width=size[0],
        height=size[1],
        rate=video.average_rate or video.guessed_rate or Fraction(0),
        pixel_aspect=aspect,
        colour=Colour(context.colorspace, context.color_primaries, context.color_trc),
      )
    if audio is not None:
      context = audio.codec_context
      fields.update(audio_rate=context.sample_rate, audio_channels=context.layout.nb_channels)
    return MediaInfo(
      path=str(path),
      is_image=_is_image(container),
      has_video=video is not None,
      has_audio=audio is not None,
      duration=container.duration / av.time_base if container.duration else None,
      **fields,
    )


def seconds_up_to(path, most: float) -> float:
  """How long the sound or the pictures of a file last, whichever is longer, by its packets.

  Files may not declare it (recordings of browsers) or declare anything. Nothing is decoded, and no
  more is read than it takes to know that it is longer than `most`.

  Raises:
    MediaError: the file is missing, empty, not media or damaged.
  """
  with _open(path) as container:
    if _is_image(container):
      return 0.0
    starts, ends, longest = {}, {}, 0.0
    try:
      for packet in container.demux():
        if packet.stream.type not in ('audio', 'video'):
          continue
        stream, unit = packet.stream.index, float(packet.time_base or 0)
        # Without timestamps (a raw stream) each packet follows the one before.
        start = ends.get(stream, 0.0) if packet.pts is None else packet.pts * unit
        ends[stream] = start + (packet.duration or 0) * unit
        longest = max(longest, ends[stream] - starts.setdefault(stream, start))
        if longest > most:
          break
    except av.error.FFmpegError as error:
      raise MediaError(f'the file is damaged ({error.strerror})', where=path) from error
  return longest


def read_tags(path) -> dict[str, str]:
  """What a file says of itself, by names in lower case: tags of a container, texts of a PNG.

  Raises:
    MediaError: the file is missing, empty or not media.
  """
  with _open(path) as container:
    if container.format.name != 'png_pipe':
      return {name.lower(): text for name, text in container.metadata.items()}
  try:
    with Image.open(path) as picture:  # FFmpeg does not give the texts of a PNG
      return {name.lower(): text for name, text in picture.info.items() if isinstance(text, str)}
  except (OSError, ValueError, Image.DecompressionBombError) as error:
    raise MediaError(f'the PNG cannot be read: {error}', where=path) from error


def stream_audio(path, rate: int = 16_000, *, mono: bool = True) -> Iterator[np.ndarray]:
  """Yields a file's audio in blocks of int16 (N, channels).

  Sample 0 belongs to the first video frame where the file has a video (sound that starts later is
  led in by silence, sound before it is cut), else to the first sound. Lost stretches are silence,
  so later sound stays in its place. Channels are averaged for `mono`, as in `librosa.to_mono`; else
  one or two channels stay and more become one. Resampling is soxr HQ.

  Raises:
    MediaError: no audio stream, no samples, values that are not finite, more than
      `MAX_AUDIO_HOURS`, or a format that changes on the way.
  """
  count = 0
  for block in _resample(_source_audio(path, mono=mono), rate):
    count += len(block)
    if count > MAX_AUDIO_HOURS * 3600 * rate:
      raise MediaError(
        f'the audio is longer than {MAX_AUDIO_HOURS} hours', where=path, hint='split the file'
      )
    yield np.clip(np.rint(block * PCM_SCALE), -PCM_SCALE, PCM_SCALE - 1).astype(np.int16)
  if not count:
    raise MediaError('the audio stream has no samples', where=path)


def read_audio(path, rate: int = 16_000) -> np.ndarray:
  """Reads a whole audio track as mono int16 (N,): see `stream_audio`, also for the errors."""
  pcm = bytearray()  # grows in place; a list of blocks would need the memory twice at the end
  for block in stream_audio(path, rate):
    pcm += block.tobytes()
  return np.frombuffer(pcm, np.int16)


def _source_audio(path, *, mono):
  """Yields (sample rate, float32 (N, channels) in [-1, 1]), in time as `stream_audio` says."""
  with _open(path) as container:
    stream = _audio_stream(container)
    if stream is None:
      raise MediaError('the file has no audio stream', where=path)
    shape = None  # from the first frame: headers of HE-AAC may say half the rate or channels
    origin = _first_picture_time(path)
    end = None  # in samples; MP4 declares it and FFmpeg does not cut the last AAC frame to it
    position = 0
    damaged = 0
    for packet in _packets(path, container, stream):
      try:
        frames = packet.decode()
      except av.error.FFmpegError:
        damaged += 1
        continue
      for frame in frames:
        rate, channels = frame.sample_rate, frame.layout.nb_channels
        if shape is not None and shape != (rate, channels):
          raise MediaError(
            f'the audio changes from {shape[0]} Hz, {shape[1]} channels to {rate} Hz, '
            f'{channels} channels on the way',
            where=path,
            hint='re-encode it, e.g. with ffmpeg -i IN -ar 48000 -ac 2 OUT.wav',
          )
        shape = rate, channels
        block = _samples(frame)
        if not np.isfinite(block).all():
          raise MediaError('the audio has samples that are not finite numbers', where=path)
        if mono or channels > 2:
          block = block.mean(axis=1, keepdims=True)
        time = frame.time
        if origin is None:
          origin = time or 0.0
        if end is None and 'mp4' in container.format.name and stream.duration:
          end = round(((time or 0.0) + float(stream.duration * stream.time_base) - origin) * rate)
        if time is not None:
          ahead = round((time - origin) * rate) - position
          if position == 0 and ahead < 0:
            block = block[-ahead:]  # sound before the first picture
          elif ahead > (0 if position == 0 else _GAP * rate):
            if ahead > MAX_AUDIO_HOURS * 3600 * rate:
              raise MediaError(f'the audio jumps ahead by {ahead / rate:.0f} s', where=path)
            position += ahead
            while ahead:
              step = min(ahead, rate)
              yield rate, np.zeros((step, block.shape[1]), np.float32)
              ahead -= step
          elif ahead < -rate:
            origin += ahead / rate  # the clock was set back by a second or more: go on from here
          elif ahead < -_GAP * rate:
            block = block[-ahead:]  # sound that was there already
        if end is not None:
          block = block[: max(end - position, 0)]
        position += len(block)
        if len(block):
          yield rate, block
    if damaged:
      logging.warning('%s: %d audio packets could not be decoded', path, damaged)


def _packets(path, container, stream):
  """Yields a stream's packets; a container that cannot be read on becomes a MediaError."""
  try:
    yield from container.demux(stream)
  except av.error.FFmpegError as error:
    raise MediaError(
      f'the file cannot be read to its end ({error.strerror})',
      where=path,
      hint='copy or download it again.',
    ) from error


def _first_picture_time(path):
  """Seconds on the container's clock; None without a video.

  Read from the picture: the `start_time` that FFmpeg states for Matroska can be that of the sound.
  """
  with _open(path) as container:
    stream = _video_stream(container)
    frame = None if stream is None else next(_decode(path, container, stream), None)
    return None if frame is None else frame.time or 0.0


def _resample(blocks, rate):
  resampler = None
  for source_rate, block in blocks:
    if source_rate == rate:
      yield block
      continue
    if resampler is None:
      resampler = soxr.ResampleStream(source_rate, rate, block.shape[1], 'float32', 'HQ')
      channels = block.shape[1]
    yield resampler.resample_chunk(np.ascontiguousarray(block))
  if resampler is not None:
    yield resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True)


def _samples(frame):
  """An audio frame as float32 (N, channels) in [-1, 1]."""
  values = frame.to_ndarray()
  values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
  if values.dtype == np.uint8:
    return (values.astype(np.float32) - 128) / 128
  if np.issubdtype(values.dtype, np.integer):
    return (values / -float(np.iinfo(values.dtype).min)).astype(np.float32)
  return values.astype(np.float32)


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
    info = probe(path)
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
    with _open(self.path) as container:
      stream = _video_stream(container)
      for index, frame in enumerate(_decode(self.path, container, stream)):
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
    self._frames = _decode(self.path, self._container, _video_stream(self._container))
    self._position = 0

  def _land(self, pts):
    """Seeks and decodes up to a key frame, which `_frames` gives next; returns its index or None.

    Frames before a key frame may lean on ones that were not decoded. A key frame is known by its
    checksum: timestamps after a seek in MPEG program streams are off by a frame or more.
    """
    stream = _video_stream(self._container)
    self._container.seek(int(pts), stream=stream, backward=True)
    self._frames = _decode(self.path, self._container, stream)
    for frame in self._frames:
      if frame.key_frame and frame.pts is not None:
        checksum = _checksum(frame)
        same = [index for index, other in self._keys.items() if other == checksum]
        self._frames = _chain(frame, self._frames)
        return min(same, key=lambda index: abs(self._pts[index] - frame.pts), default=None)
    return None

  def _restart(self):
    self.close()
    self._container = _open(self.path)

  def _picture(self, frame):
    turns = _quarter_turns(frame)
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


class VideoWriter:
  """Writes H.264 and AAC into an MP4 that appears under its name only when it is complete.

      with VideoWriter('out.mp4', width, height, Fraction(25), audio=(wav, 16_000)) as writer:
        writer.write(frame)

  Even sizes are coded as yuv420p, which plays everywhere. 4:2:0 cannot hold an odd width or height,
  and padding or cropping would change the picture, so odd sizes are coded as yuv444p: the size
  stays exact, but browsers other than Chrome and hardware players may not show it.

  Args:
    path: ends in .mp4; its folder must exist.
    width, height: pixels.
    rate: frames per second.
    audio: (samples, sample rate): int16 (N,) or (N, channels), one or two of them, or an iterable
      of such blocks; the rate is one of `AAC_RATES`. Its length is the caller's concern.
    pixel_aspect: width of a pixel over its height.
    colour: how to code RGB: that of the source, so that its colours stay the same in every player.
    metadata: container tags, e.g. {'comment': ...}.
    finish: called when the file is complete and before it gets its name, with the path where it is
      and the path that it will have; it may change the file.
    quality: x264's constant rate factor: 0 is lossless, 18 looks lossless, 23 is x264's default.

  Raises:
    MediaError: the path cannot be written, the audio rate is not one of AAC's, or no frame was
      written.
  """

  def __init__(
    self,
    path,
    width: int,
    height: int,
    rate: Fraction,
    *,
    audio=None,
    pixel_aspect: Fraction = Fraction(1),
    colour: Colour = Colour(),
    metadata: dict[str, str] | None = None,
    finish: Callable[[str, str], None] | None = None,
    quality: int = 18,
  ):
    check_output(path)
    self.path = os.path.abspath(path)
    self._finish = finish
    self._shape = (height, width, 3)
    self._matrix = {1: 1, 5: 5, 6: 5, 9: 9, 10: 9}.get(colour.matrix)  # H.273 -> swscale
    self._partial = os.path.join(
      os.path.dirname(self.path), f'.{os.path.basename(self.path)}.{os.getpid()}.partial'
    )
    self._format = 'yuv420p' if width % 2 == height % 2 == 0 else 'yuv444p'
    self._rate = Fraction(rate).limit_denominator(100_000)  # MP4 and H.264 clocks have 32 bits
    self._count = self._sent = 0
    self._samples = None
    self._container = av.open(self._partial, 'w', format='mp4', options={'movflags': '+faststart'})
    self._container.metadata.update(metadata or {})
    # At this quality 'veryfast' takes half the time of 'fast' and a fifth less space, at -0.4 dB.
    self._video = self._container.add_stream(
      'libx264', rate=self._rate, options={'crf': str(quality), 'preset': 'veryfast'}
    )
    self._video.width, self._video.height, self._video.pix_fmt = width, height, self._format
    context = self._video.codec_context
    context.sample_aspect_ratio = pixel_aspect
    if self._matrix:
      context.colorspace, context.color_range = colour.matrix, 1
      context.color_primaries, context.color_trc = colour.primaries, colour.transfer
    if audio is not None:
      try:
        self._open_audio(*audio)
      except BaseException:
        self._discard()
        raise

  def _open_audio(self, samples, rate):
    if rate not in AAC_RATES:
      raise MediaError(
        f'AAC has no sample rate of {rate} Hz', where=self.path, hint=f'one of {AAC_RATES}'
      )
    blocks = iter([samples] if isinstance(samples, np.ndarray) else samples)
    first = next((block for block in blocks if len(block)), None)
    if first is None:
      raise MediaError(
        'the audio to write has no samples', where=self.path, hint='give sound, or none'
      )
    channels = 1 if first.ndim == 1 else first.shape[1]
    self._layout = {1: 'mono', 2: 'stereo'}[channels]
    self._audio_rate = rate
    self._audio = self._container.add_stream('aac', rate=rate, layout=self._layout)
    self._samples = _pieces(_chain(first, blocks), rate)

  def __enter__(self):
    return self

  def write(self, frame: np.ndarray):
    """Appends one RGB uint8 (H, W, 3) frame."""
    if frame.shape != self._shape or frame.dtype != np.uint8:
      raise ValueError(f'frame {frame.dtype}{frame.shape}, not uint8{self._shape}')
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format='rgb24')
    picture = picture.reformat(format=self._format, dst_colorspace=self._matrix)
    picture.pts, picture.time_base = self._count, 1 / self._rate
    self._mux(self._video.encode, picture)
    self._count += 1
    # The two streams keep pace, so that players need not look far and neither piles up in memory.
    while self._samples is not None and self._sent < self._count / self._rate * self._audio_rate:
      self._send_audio()

  def _send_audio(self):
    block = next(self._samples, None)
    if block is None:
      self._samples = None
      return
    piece = av.AudioFrame.from_ndarray(block.reshape(1, -1), format='s16', layout=self._layout)
    piece.sample_rate, piece.pts = self._audio_rate, self._sent
    piece.time_base = Fraction(1, self._audio_rate)
    self._sent += piece.samples
    self._mux(self._audio.encode, piece)

  def _mux(self, encode, item):
    try:
      for packet in encode(item):
        self._container.mux(packet)
    except OSError as error:
      raise MediaError(
        f'cannot write: {error.strerror}', where=self.path, hint=StorageError.next_step
      ) from error

  def __exit__(self, kind, *_):
    if kind is not None:
      self._discard()
      return
    try:
      if not self._count:
        raise MediaError(
          'no frame was written', where=self.path, hint='see that the input has frames'
        )
      while self._samples is not None:
        self._send_audio()
      for stream in self._container.streams:
        self._mux(stream.encode, None)
      try:
        self._container.close()
        if self._finish:
          self._finish(self._partial, self.path)
        os.replace(self._partial, self.path)
      except OSError as error:
        raise MediaError(
          f'cannot write: {error.strerror}', where=self.path, hint=StorageError.next_step
        ) from error
    except BaseException:
      self._discard()
      raise

  def _discard(self):
    try:
      self._container.close()
    finally:
      if os.path.exists(self._partial):
        os.remove(self._partial)


def check_output(path, suffix: str = '.mp4', *, inputs: Iterable = ()):
  """Raises MediaError unless a file can be written to `path`: to be asked before hours of work.

  Args:
    path: of the output, with the ending `suffix`.
    suffix: with its dot, in lower case.
    inputs: files that it must not replace.
  """
  path = os.path.abspath(path)
  if not path.lower().endswith(suffix):
    raise MediaError(
      f'{os.path.basename(path)} does not end in {suffix}',
      where=path,
      hint=f'name a file that ends in {suffix}',
    )
  if os.path.isdir(path):
    raise MediaError('the output is a folder', where=path, hint='name a file in it')
  folder = os.path.dirname(path)
  if not os.path.isdir(folder):
    raise MediaError(
      'the folder of the output does not exist', where=folder, hint=f'mkdir -p {folder}'
    )
  if not os.access(folder, os.W_OK):
    raise MediaError(
      'the folder of the output cannot be written to', where=folder, hint=StorageError.next_step
    )
  for other in inputs:
    if os.path.exists(path) and os.path.samefile(other, path):
      raise MediaError('the output would replace an input', where=other, hint='name another file')


def check_pictures(path, *, still: bool):
  """Raises MediaError unless the file is a picture (`still`), or a video (not `still`)."""
  info = probe(path)
  if not info.has_video:
    raise MediaError('the file has no video stream', where=path)
  if info.is_image != still:
    what, flag = ('a still image', '--image') if info.is_image else ('a video', '--video')
    raise MediaError(f'this is {what}', where=path, hint=f'use {flag}')


def check_sound(path):
  """Raises MediaError unless the file has an audio stream."""
  if not probe(path).has_audio:
    raise MediaError('the file has no audio stream', where=path)


def _open(path):
  path = os.fspath(path)
  if not os.path.exists(path):
    raise MediaError('the file does not exist', where=path, hint='correct the path')
  if os.path.isdir(path):
    raise MediaError('this is a folder, not a media file', where=path, hint='name a file in it')
  if not os.path.getsize(path):
    raise MediaError('the file is empty (0 bytes)', where=path)
  try:
    container = av.open(path, options={'max_pixels': str(MAX_SIDE**2)}, metadata_errors='replace')
  except PermissionError as error:
    raise MediaError(
      'the file cannot be read: permission denied', where=path, hint='allow reading it'
    ) from error
  except av.error.FFmpegError as error:
    raise MediaError(
      f'this is not a media file that FFmpeg can read ({error.strerror})', where=path
    ) from error
  if container.format.name in _TEXT_AS_VIDEO:
    container.close()
    raise MediaError('this is a text file, not a media file', where=path)
  return container


def _is_image(container):
  return container.format.name == 'image2' or container.format.name.endswith('_pipe')


def _video_stream(container):
  """The first stream of moving pictures; the cover of a music file is not one."""
  cover = av.stream.Disposition.attached_pic
  streams = (s for s in container.streams.video if not s.disposition & cover)
  return next((s for s in streams if _has_decoder(s)), None)


def _audio_stream(container):
  return next((s for s in container.streams.audio if _has_decoder(s)), None)


def _has_decoder(stream):
  return stream.codec_context is not None  # None where FFmpeg does not know the codec


def _check_size(path, width, height):
  # FFmpeg's own limit (max_pixels, see `_open`) leaves a picture that exceeds it without a size.
  if not width or max(width, height) > MAX_SIDE:
    declared = f'is declared {width}x{height}' if width else 'has no size that can be read'
    raise MediaError(
      f'the picture {declared}; at most {MAX_SIDE}x{MAX_SIDE} pixels are read',
      where=path,
      hint='scale it down first, e.g. with ffmpeg -i IN -vf scale=1280:-2 OUT.mp4',
    )


def _decode(path, container, stream):
  """Yields a stream's frames; damage becomes a MediaError that says when."""
  stream.thread_type = 'AUTO'
  stream.codec_context.options = {'max_pixels': str(MAX_SIDE**2)}
  time = 0.0
  try:
    for frame in container.decode(stream):
      _check_size(path, frame.width, frame.height)
      time = frame.time or time
      yield frame
  except av.error.FFmpegError as error:
    raise MediaError(
      f'the video is damaged after {time:.2f} s ({error.strerror})',
      where=path,
      hint='repair it, e.g. with ffmpeg -i IN -c:v libx264 OUT.mp4',
    ) from error


def _quarter_turns(frame):
  """Counter-clockwise quarter turns that show the frame upright."""
  return round(frame.rotation / 90) % 4


def _checksum(frame):
  return zlib.crc32(np.ascontiguousarray(frame.to_ndarray(format='gray')))


def _pieces(blocks, size):
  for block in blocks:
    for start in range(0, len(block), size):
      yield np.ascontiguousarray(block[start : start + size])


def _chain(first, rest):
  yield first
  yield from rest
