"""Draws a talking head from speech alone: no picture says what the speaker looks like.

The speech is heard, drawn and written in chunks: memory holds one chunk of frames, and 32 kB of
speech per second. Who speaks is heard once, in stretches from all of it.
"""

import dataclasses
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

from tfg_jax import marks, media, synthetic_video
from tfg_jax.synthetic_video import CHUNK_FRAMES, SPEECH_RATE

_STRETCHES = 16  # at most: more would not make the mean of who is heard much surer


@dataclasses.dataclass(frozen=True)
class Talker:
  """A trained system, ready to draw.

  `describe` takes `wav` (M, L) int16 at 16 kHz and `num_samples` (M,) int32, and returns a dict of
  arrays, which `draw` takes with `wav`, `num_samples` and `times` of a chunk (see
  `synthetic_video.heard`); `draw` returns (N, S, S, 3) uint8 RGB.
  """

  maker: marks.Maker
  face_size: int
  rate: Fraction  # frames per second
  clip_samples: int  # L, of a training clip
  describe: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
  draw: Callable[[dict[str, np.ndarray]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Request:
  """What to make. Paths are files."""

  audio: str
  output: str

  def check(self):
    """Raises MediaError if the audio has no sound or the output cannot be written."""
    media.check_sound(self.audio)
    media.check_output(self.output, inputs=(self.audio,))


@dataclasses.dataclass(frozen=True)
class Made:
  """What `talk` wrote."""

  frames: int
  seconds: float


def talk(
  request: Request,
  talker: Talker,
  *,
  say: Callable[[str], None] = print,
  progress: synthetic_video.Progress = synthetic_video.progress,
  chunk_frames: int = CHUNK_FRAMES,
) -> Made:
  """Writes `request.output`, as long as the audio.

  Raises:
    MediaError: see `Request.check`; and damaged media.
  """
  request.check()
  speech = media.read_audio(request.audio, SPEECH_RATE)
  made = Made(
    synthetic_video.count_frames(len(speech) / SPEECH_RATE, talker.rate),
    len(speech) / SPEECH_RATE,
  )
  say(f'{request.audio}: {made.seconds:.2f} s')
  said = marks.Marks(
    talker.maker,
    marks.SOUND,
    'the head was drawn',
    'from speech alone',
    'It is no picture of the speaker.',
    {'audio': request.audio},
  )
  frames = draw(speech, made.frames, talker, chunk_frames=chunk_frames)
  with media.VideoWriter(
    request.output,
    talker.face_size,
    talker.face_size,
    talker.rate,
    audio=synthetic_video.sound_track(request.audio, made.seconds),
    metadata=said.tags,
    finish=said.finish,
  ) as writer:
    for frame in progress(frames, 'drawing', made.frames):
      writer.write(frame)
  say(
    synthetic_video.written(
      request.output,
      seconds=made.seconds,
      frames=made.frames,
      size=(talker.face_size, talker.face_size),
      rate=talker.rate,
      what='all drawn from the sound',
    )
  )
  return made


def draw(
  speech: np.ndarray, count: int, talker: Talker, *, chunk_frames: int = CHUNK_FRAMES
) -> Iterator[np.ndarray]:
  """Yields `count` frames, RGB uint8 (S, S, 3), of (N,) int16 speech at 16 kHz."""
  speaker = talker.describe(stretches(speech, talker.clip_samples))
  for start in range(0, count, chunk_frames):
    hearing = synthetic_video.heard(speech, start, chunk_frames, talker.rate)
    yield from talker.draw(hearing | speaker)[: count - start]


def stretches(speech: np.ndarray, length: int) -> dict[str, np.ndarray]:
  """What `Talker.describe` takes: up to 16 stretches that do not overlap, spread over the speech.

  Args:
    speech: (N,) int16.
    length: samples of each; shorter speech is one stretch, padded with silence.
  """
  count = min(max(len(speech) // length, 1), _STRETCHES)
  starts = np.linspace(0, max(len(speech) - length, 0), count).round().astype(int)
  return {
    'wav': np.stack(
      [synthetic_video.fit(speech[start : start + length], length) for start in starts]
    ),
    'num_samples': np.full(count, min(len(speech), length), np.int32),
  }
