"""Sound against lips: what a sync expert says of every clip, and what its word is worth.

An expert that is right about 70 % of single windows is right about nearly every clip: the pairings
of all windows are averaged (`tfg_jax.metrics.sync.agreement`). How good a match must be is asked of
the corpus itself: the lips of a sample of clips are heard with the sound of others, and nearly all
of these foreign pairs match worse than a `Threshold`. No constant depends on the expert or the
corpus, unless most of the corpus is wrong.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from tfg_jax import pretrained
from tfg_jax.data import clip_codec, records
from tfg_jax.errors import ConfigError
from tfg_jax.metrics import sync as sync_metrics
from tfg_jax.systems import mouths, sync_expert

FOREIGN_SHARE = 0.97  # of foreign pairs, which must match worse than a clip's own
IN_PLACE = 1  # frames, by which sound may be off that is where it belongs
_RATE = 16_000  # Hz of sound
_SAMPLE, _FOREIGN = 250, 8  # clips, and foreign sounds for each
_SHORTEST = 64  # frames, of the smallest compiled program


@dataclasses.dataclass(frozen=True)
class Heard:
  """Embeddings of one clip, padded: lips and speech (N, D), of which `number` rows are valid."""

  lips: np.ndarray
  speech: np.ndarray
  number: int


@dataclasses.dataclass(frozen=True)
class Threshold:
  """The match that lips and sound of one clip have to reach; NaN where nobody can tell.

  A foreign sound fits best anywhere. That it fits where it is, within `IN_PLACE` frames, is rarer,
  so less is asked of a clip whose sound does.
  """

  in_place: float
  anywhere: float

  @property
  def is_known(self) -> bool:
    """Whether there were enough clips to say how well sounds match."""
    return not np.isnan(self.in_place)

  def passed(self, match: float, offset: float) -> bool:
    """Whether a clip's best match, with its sound moved by `offset` frames, is good enough."""
    return match >= (self.in_place if abs(offset) <= IN_PLACE else self.anywhere)


UNKNOWN = Threshold(np.nan, np.nan)


class Listener:
  """A sync expert that listens to one clip after the other.

  Args:
    folder: workdir of a run of sync_expert, or a converted color_syncnet or syncnet_v2.
    info: of the record set.

  Raises:
    CheckpointError, ConversionError: if the folder holds no such expert.
    ConfigError: if the record set has another frame or sample rate than the expert.
  """

  def __init__(self, folder, info: records.DatasetInfo):
    for name, value, needed in (
      ('frames', info.fps, mouths.FPS),
      ('samples', info.sample_rate, _RATE),
    ):
      if value != needed:
        raise ConfigError(
          f'--sync: the records have {value:g} {name} per second, sync experts know {needed}',
          where=folder,
          hint='prepare the corpus at that rate, or leave --sync out',
        )
    self._judge = sync_expert.read(folder)
    self._variables = sync_expert.variables(pretrained.load(folder))
    self._embed = jax.jit(self._judge.embed_clip)
    self._agree = jax.jit(self._agreement)

  def _agreement(self, lips, speech, number):
    return sync_metrics.agreement(self._judge.similarity(lips, speech), number)

  def hear(self, clip: clip_codec.Clip, frames: np.ndarray) -> Heard | None:
    """Embeds a clip; None if it is shorter than two windows.

    Clips are padded to a power of two, so that a corpus needs few compilations.
    """
    number = int(sync_metrics.num_windows(len(frames), len(clip.wav)))
    if number < 2:
      return None
    length = max(_SHORTEST, 1 << (len(frames) - 1).bit_length())
    padding = length - len(frames)
    samples = length * _RATE // mouths.FPS
    wav = clip.wav[:samples]
    lips, speech = self._embed(
      self._variables,
      {
        'frames': np.pad(frames, ((0, padding), (0, 0), (0, 0), (0, 0))),
        'boxes': np.pad(clip.boxes.astype(np.int32), ((0, padding), (0, 0)), 'edge'),
        'wav': np.pad(wav, (0, samples - len(wav))),
        'num_samples': np.int32(len(wav)),
      },
    )
    return Heard(np.asarray(lips), np.asarray(speech), number)

  def agreement(self, lips: Heard, speech: Heard) -> sync_metrics.Agreement:
    """Of one clip's lips with the sound of the same or of another clip."""
    length = min(len(lips.lips), len(speech.speech))
    number = jnp.int32(min(lips.number, speech.number))
    return jax.device_get(self._agree(lips.lips[:length], speech.speech[:length], number))


def foreign_matches(listener: Listener, sample: list[Heard]) -> np.ndarray:
  """(pairs, 2): of the sample's lips with the sounds of its next few clips, in place, anywhere."""
  matches = []
  for place, heard in enumerate(sample):
    for step in range(1, min(_FOREIGN + 1, len(sample))):
      found = listener.agreement(heard, sample[(place + step) % len(sample)])
      near = slice(sync_metrics.MAX_SHIFT - IN_PLACE, sync_metrics.MAX_SHIFT + IN_PLACE + 1)
      matches.append((np.nanmax(found.matches[near]), found.match))
  return np.array(matches, float)


def threshold(foreign: np.ndarray) -> Threshold:
  """What `FOREIGN_SHARE` of foreign pairs do not reach."""
  return Threshold(*np.quantile(foreign, FOREIGN_SHARE, axis=0).tolist())


@functools.cache
def sampled(clips: int) -> frozenset[int]:
  """Which of so many clips are kept for `foreign_matches`, evenly spread."""
  return frozenset(np.linspace(0, clips - 1, min(clips, _SAMPLE)).astype(int).tolist())
