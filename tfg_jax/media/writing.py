"""MP4 out: H.264 with AAC, whole or not at all."""

import itertools
import os
from collections.abc import Callable, Iterable
from fractions import Fraction

import av
import numpy as np

from tfg_jax.errors import MediaError, StorageError
from tfg_jax.media.probing import Colour

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_UNSPECIFIED = Colour()


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
    colour: Colour = _UNSPECIFIED,
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
    self._samples = _pieces(itertools.chain((first,), blocks), rate)

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


def _pieces(blocks, size):
  for block in blocks:
    for start in range(0, len(block), size):
      yield np.ascontiguousarray(block[start : start + size])
