"""Small media files for tests: every frame carries its number, so that order can be read back."""

from fractions import Fraction

import av
import numpy as np
import soundfile

from tfg_jax import marks

BITS = 10
MAKER = marks.Maker('fake', 3, 'sha256:abc')  # in place of a trained run


def frame(index: int, width: int = 64, height: int = 48) -> np.ndarray:
  """A grey picture with a light gradient and `index` in black and white columns at the top."""
  picture = np.full((height, width, 3), 100, np.uint8)
  picture[..., 1] += np.linspace(0, 60, width).astype(np.uint8)
  column = width // BITS
  for bit in range(BITS):
    value = 255 if index >> bit & 1 else 0
    picture[: height // 8, bit * column : (bit + 1) * column] = value
  return picture


def number(picture: np.ndarray) -> int:
  """Reads the number of a `frame` back, also after compression."""
  height, width = picture.shape[:2]
  column = width // BITS
  middle = picture[height // 24 : height // 10, column // 2 : BITS * column : column, 1].mean(
    axis=0
  )
  return sum(1 << bit for bit in range(BITS) if middle[bit] > 128)


def tone(seconds: float, rate: int = 16_000, channels: int = 1, hertz: float = 440) -> np.ndarray:
  """int16 (N, channels): a sine at half of full scale."""
  wave = np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate) * 16384
  return np.repeat(wave.astype(np.int16)[:, None], channels, axis=1)


def write_tone(path, seconds, rate=16_000, channels=1, subtype='PCM_16') -> str:
  """Writes a `tone` as a WAV."""
  soundfile.write(path, tone(seconds, rate, channels) / 32768, rate, subtype=subtype)
  return str(path)


def write(
  path,
  count: int = 0,
  *,
  rate=Fraction(25),
  size=(64, 48),
  times=None,
  codec='libx264',
  pixels='yuv420p',
  options=None,
  container=None,
  rotation=0,
  audio=None,
  audio_codec='aac',
  audio_rate=16_000,
  audio_format='s16',
  audio_start=0.0,
):
  """Writes `count` numbered frames and / or audio (int16 (N, channels)) with plain PyAV.

  `times` (seconds) makes the frame rate variable; `audio_start` shifts the sound against the video.
  """
  with av.open(str(path), 'w', format=container) as output:
    if count:
      video = output.add_stream(codec, rate=rate, options=options or {})
      video.width, video.height, video.pix_fmt = *size, pixels
      base = Fraction(1, 1000) if times is not None else 1 / Fraction(rate)
      video.codec_context.time_base = base
      if rotation:
        video.set_display_rotation(rotation)
    if audio is not None:
      layout = {1: 'mono', 2: 'stereo', 6: '5.1'}[audio.shape[1]]
      sound = output.add_stream(audio_codec, rate=audio_rate, layout=layout)
    for index in range(count):
      picture = av.VideoFrame.from_ndarray(frame(index, *size), format='rgb24')
      picture.time_base = base
      picture.pts = index if times is None else round(times[index] * 1000)
      output.mux(video.encode(picture))
    if audio is not None:
      for start in range(0, len(audio), 1000):
        block = np.ascontiguousarray(audio[start : start + 1000]).reshape(1, -1)
        piece = av.AudioFrame.from_ndarray(block, format='s16', layout=layout)
        piece.sample_rate, piece.time_base = audio_rate, Fraction(1, audio_rate)
        piece.pts = start + round(audio_start * audio_rate)
        output.mux(sound.encode(piece))
      output.mux(sound.encode(None))
    if count:
      output.mux(video.encode(None))
  return str(path)
