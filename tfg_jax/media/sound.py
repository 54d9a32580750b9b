"""Sound of any file as int16, in time with its pictures."""

from collections.abc import Iterator

import av
import numpy as np
import soxr
from absl import logging

from tfg_jax.errors import MediaError
from tfg_jax.media import containers

MAX_AUDIO_HOURS = 12
PCM_SCALE = 32768  # int16 -> [-1, 1) by this and back, so that 16-bit audio comes through unchanged
_GAP = 0.04  # seconds; audio timestamps that are off by less are rounded, by more sound is lost


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
  with containers.open_container(path) as container:
    stream = containers.audio_stream(container)
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
  with containers.open_container(path) as container:
    stream = containers.video_stream(container)
    frame = (
      None if stream is None else next(containers.decode_pictures(path, container, stream), None)
    )
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
