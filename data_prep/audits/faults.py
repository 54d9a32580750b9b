"""What is wrong with a clip, by its measures and by those of all others.

Faults make a clip useless or harmful to train on, and `--fix=drop` leaves it out; remarks are for
people to look at.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence

from data_prep.audits.listening import IN_PLACE, UNKNOWN, Threshold
from data_prep.audits.measures import Measures

# What each means; the report prints it.
FAULTS = {
  'silent': 'less than 5 % of the sound is above -50 dB',
  'frozen': 'one picture stands for a second or more, or for half of the clip',
  'two faces': 'another face stands beside the one of the boxes',
  'shifted': f'lips and sound fit, but only with the sound moved by {IN_PLACE + 1} frames or more',
  'other sound': 'the sound fits the lips no better than that of other clips',
  'copy': 'the same pictures or the same sound as a clip of another split',
}
REMARKS = {
  'clipped': 'more than 0.1 % of the samples are cut off at one extreme',
  'box trembles': 'the face box moves to and fro by more than 5 % of its height',
  'face not found': 'the detector finds no face where the boxes are',
  'sound ends early': 'more than 0.2 s before the pictures',
  'repeated pictures': 'a fifth of the pictures or more only repeat the one before',
}
_SOUND, _STILL, _STILL_SHARE = 0.05, 1.0, 0.5
_CLIPPED, _TREMBLES, _MISSING, _REPEATED = 0.001, 5.0, 0.2, 0.2
# Of the pictures looked at: once may be a mistake of the detector.
_BESIDE = 0.4
_HELD_OUT = ('test', 'valid')  # the copy that is kept is the one in the first of these


@dataclasses.dataclass(frozen=True)
class Finding:
  """A clip, its measures and what is wrong with it: names of `FAULTS` and `REMARKS`."""

  measures: Measures
  faults: tuple[str, ...]
  remarks: tuple[str, ...]


def judge(clips: Sequence[Measures], threshold: Threshold = UNKNOWN) -> list[Finding]:
  """Names the faults of every clip.

  Args:
    clips: all of the record set.
    threshold: what sound and lips of one clip have to reach; UNKNOWN without a sync expert.
  """
  copies = copied(clips)
  return [Finding(clip, _faults(clip, threshold, copies), _remarks(clip)) for clip in clips]


def _faults(clip, threshold, copies):
  heard = threshold.is_known and sync_is_known(clip)
  fits = threshold.passed(clip.match, clip.offset)
  found = {
    'silent': is_silent(clip),
    'frozen': is_frozen(clip),
    'two faces': clip.faces_beside >= _BESIDE,
    'shifted': heard and fits and abs(clip.offset) > IN_PLACE,
    'other sound': heard and not fits,
    'copy': (clip.split, clip.number) in copies,
  }
  return tuple(name for name in FAULTS if found[name])


def is_silent(clip: Measures) -> bool:
  """Whether hardly anything of the clip can be heard."""
  return 1 - clip.silence < _SOUND


def is_frozen(clip: Measures) -> bool:
  """Whether the pictures stand still for long, or all of a short clip."""
  return clip.still >= min(_STILL, _STILL_SHARE * clip.seconds) and clip.still > 1 / clip.fps


def sync_is_known(clip: Measures) -> bool:
  """Whether an expert was asked, and there is something to hear and to see: else its answer means
  nothing."""
  return not (is_silent(clip) or is_frozen(clip) or math.isnan(clip.match))


def _remarks(clip):
  found = {
    'clipped': clip.clipping > _CLIPPED,
    'box trembles': clip.jitter > _TREMBLES,
    'face not found': clip.faces_found == 0,
    'sound ends early': clip.seconds - clip.sound_seconds > _MISSING,
    'repeated pictures': not is_frozen(clip)
    and clip.distinct_fps <= (1 - _REPEATED) * clip.fps
    and clip.seconds * clip.fps > 1,
  }
  return tuple(name for name in REMARKS if found[name])


def copied(clips: Sequence[Measures]) -> set[tuple[str, int]]:
  """(split, number) of clips whose pictures or sound another split has; one of each stays out."""
  found = set()
  for name in ('sound_hash', 'pictures_hash'):
    same = collections.defaultdict(list)
    for clip in clips:
      if not (name == 'sound_hash' and is_silent(clip)):
        same[getattr(clip, name)].append(clip)
    for group in same.values():
      if len({clip.split for clip in group}) > 1:
        keeper = min((clip.split for clip in group), key=_precedence)
        found |= {(clip.split, clip.number) for clip in group if clip.split != keeper}
  return found


def _precedence(split):
  """Splits to be judged on keep their clips, so that results stay comparable."""
  return next((i for i, name in enumerate(_HELD_OUT) if split.startswith(name)), len(_HELD_OUT))
