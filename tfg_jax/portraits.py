"""Draws the portrait of whoever speaks in an audio file, with a trained SF2F."""

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np

from tfg_jax import errors, marks, media
from tfg_jax.features import audio, voice

_STEPS = (1.25, 2.5, 5.0, 10.0, 20.0)  # seconds of speech behind the pictures of a strip


@dataclasses.dataclass(frozen=True)
class Painter:
  """A trained system, ready to draw.

  `draw` takes `voice` (S,) int16 as `voice.cut` returns it, `num_samples` () int32 and `lengths`
  (K,) int32 frames; it returns (K, P, P, 3) uint8 RGB, one portrait for each length.
  """

  maker: marks.Maker
  voice_activity: str
  draw: Callable[[dict[str, np.ndarray]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Request:
  """What to draw. Paths are files."""

  audio: str  # or a video with sound
  output: str  # a .png
  strip: str | None = None  # another one, for portraits from 1.25, 2.5, 5, ... s side by side

  def check(self):
    """Finds what can be found in a second.

    Raises:
      ConfigError: both outputs are the same file.
      MediaError: the audio has no sound, or an output cannot be written.
    """
    media.check_sound(self.audio)
    media.check_output(self.output, '.png', inputs=(self.audio,))
    if self.strip:
      media.check_output(self.strip, '.png', inputs=(self.audio,))
      if os.path.realpath(self.strip) == os.path.realpath(self.output):
        raise errors.ConfigError(
          '--strip and --output are the same file', where=self.strip, hint='name another .png'
        )


def draw(request: Request, painter: Painter, *, say: Callable[[str], None] = print) -> float:
  """Writes a portrait; returns the seconds of speech that it was drawn from.

  Raises:
    ConfigError: see `Request.check`.
    DataError: nobody speaks in the file.
    MediaError: it is no sound, or an output cannot be written.
  """
  request.check()
  try:
    sound = media.read_audio(request.audio, audio.SAMPLE_RATE)
    heard = voice.voiced(sound, painter.voice_activity)
  except errors.DataError as error:
    raise errors.DataError(error.what, where=request.audio, hint=error.hint) from error
  seconds = len(heard) / audio.SAMPLE_RATE
  portraits = painter.draw(growing(heard, _STEPS if request.strip else ()))
  said = marks.Marks(
    painter.maker,
    marks.SOUND,
    'the portrait was drawn',
    'from a voice',
    'It shows no real person.',
    {'audio': request.audio},
  )
  marks.write_png(portraits[-1], request.output, said)
  say(f'Wrote {request.output}: drawn from {seconds:.2f} s of speech.')
  if request.strip:
    marks.write_png(np.concatenate(list(portraits), axis=1), request.strip, said)
    say(f'Wrote {request.strip}: {len(portraits)} portraits from more and more of it.')
  say(
    'It is synthetic, and no likeness of a known person; the file and '
    f'{marks.sidecar_of(request.output)} say so.'
  )
  return seconds


def growing(heard: np.ndarray, seconds: Sequence[float]) -> dict[str, np.ndarray]:
  """What `Painter.draw` takes, for the beginnings of a voice and for all of it.

  Args:
    heard: (N,) int16; a voice that is shorter than a window is repeated.
    seconds: of the beginnings; those beyond the end are left out.
  """
  heard = np.resize(heard, max(len(heard), voice.window_samples(voice.WINDOW)))
  frames = int(audio.num_frames(len(heard)))
  lengths = [int(100 * x) for x in seconds if voice.WINDOW <= 100 * x < frames]
  window, number = voice.cut(heard, 0, frames)
  return {
    'voice': window,
    'num_samples': np.int32(number),
    'lengths': np.array([*lengths, frames], np.int32),
  }
