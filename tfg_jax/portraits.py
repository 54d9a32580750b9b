"""Draws the portrait of whoever speaks in an audio file, with a trained SF2F.

`tfg_jax.generate` calls `draw` where its output is a .png.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, PngImagePlugin

import tfg_jax
from tfg_jax import errors, media
from tfg_jax.features import audio, voice

_STEPS = (1.25, 2.5, 5.0, 10.0, 20.0)  # seconds of speech behind the pictures of a strip


@dataclasses.dataclass(frozen=True)
class Painter:
  """A trained system, ready to draw.

  `draw` takes `voice` (S,) int16 as `voice.cut` returns it, `num_samples` () int32 and `lengths`
  (K,) int32 frames; it returns (K, P, P, 3) uint8 RGB, one portrait for each length.
  """

  name: str  # for the notes in the file
  voice_activity: str
  draw: Callable[[dict[str, np.ndarray]], np.ndarray]


def load_painter(workdir: str | pathlib.Path) -> Painter:
  """The painter of a run's best checkpoint, on this machine's first device.

  Raises:
    CheckpointError: the workdir has none, or it is of another system.
  """
  import jax

  from tfg_jax import trained
  from tfg_jax.systems.sf2f import SF2F

  run = trained.load(workdir)
  if not isinstance(run.system, SF2F):
    raise errors.CheckpointError(
      f'a run of {run.run.system} draws no portraits.',
      where=workdir,
      hint='name the workdir of an sf2f run, or an output that ends in .mp4.',
    )
  draw = jax.jit(run.system.generate)
  return Painter(
    name=f'{run.run.system}, step {run.step}',
    voice_activity=run.system.settings.voice_activity,
    draw=lambda inputs: np.asarray(draw(run.state, inputs)),
  )


def check_output(path: str):
  """Raises MediaError unless a PNG can be written to `path`."""
  path = os.path.abspath(path)
  folder = os.path.dirname(path)
  if not path.lower().endswith('.png'):
    raise errors.MediaError(
      f'{os.path.basename(path)} does not end in .png', where=path, hint='name a .png'
    )
  if os.path.isdir(path):
    raise errors.MediaError('the output is a folder', where=path, hint='name a file in it')
  if not os.path.isdir(folder):
    raise errors.MediaError(
      'the folder of the output does not exist', where=folder, hint=f'mkdir -p {folder}'
    )


def draw(
  sound: str,
  output: str,
  painter: Painter,
  *,
  strip: str | None = None,
  say: Callable[[str], None] = print,
) -> float:
  """Writes a portrait; returns the seconds of speech that it was drawn from.

  Args:
    sound: an audio file, or a video with sound.
    output: the .png to write.
    painter: see `load_painter`.
    strip: another .png, for portraits from 1.25, 2.5, 5, ... seconds side by side; None: not.
    say: for the person at the terminal.

  Raises:
    DataError: nobody speaks in the file.
    MediaError: it is no sound, or an output cannot be written.
  """
  for path in (output, strip) if strip else (output,):
    check_output(path)
  try:
    heard = voice.voiced(media.read_audio(sound, audio.SAMPLE_RATE), painter.voice_activity)
  except errors.DataError as error:
    raise errors.DataError(error.what, where=sound, hint=error.hint) from error
  seconds = len(heard) / audio.SAMPLE_RATE
  portraits = painter.draw(growing(heard, _STEPS if strip else ()))
  _write(output, portraits[-1], painter)
  say(f'Wrote {output}: drawn from {seconds:.2f} s of speech.')
  if strip:
    _write(strip, np.concatenate(list(portraits), axis=1), painter)
    say(f'Wrote {strip}: {len(portraits)} portraits from more and more of it.')
  say('It is synthetic, and no likeness of a known person; a note in the file says so.')
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


def _write(path, picture, painter):
  note = (
    f'Synthetic portrait: drawn by tfg_jax {tfg_jax.__version__} ({painter.name}) from a voice. '
    'It shows no real person.'
  )
  notes = PngImagePlugin.PngInfo()
  for key in ('Comment', 'Description'):
    notes.add_text(key, note)
  partial = f'{path}.{os.getpid()}.partial'
  try:
    Image.fromarray(picture).save(partial, format='PNG', pnginfo=notes)
    os.replace(partial, path)
  except OSError as error:
    raise errors.MediaError(f'the file cannot be written: {error.strerror}', where=path) from error
