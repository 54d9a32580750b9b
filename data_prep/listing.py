"""What an adapter of a corpus hands over: its clips, as they lie on the disk, and how to cut them.

An adapter is a module of `data_prep.corpora` with

    LICENCE      what the data may be used for, in a line
    FRAMING      how its clips become records; --size, --fps, --crop ... change it
    list_clips   (directory, *, settings of its own) -> Listing; looks at names, opens no video

Everything else is shared: `clip_maker` makes a record of a raw clip, `pipeline` all of them.
"""

import collections
import dataclasses
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from tfg_jax.errors import ConfigError

CROPS = ('track', 'square', 'none', 'face', 'aligned')
VIDEO_ENDINGS = frozenset((
  '.3gp', '.asf', '.avi', '.f4v', '.flv', '.m2ts', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg',
  '.mts', '.mxf', '.ogv', '.ts', '.vob', '.webm', '.wmv',
))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sound:
  """A stretch of a file's sound, in seconds; `seconds` None is all that follows."""

  path: str
  start: float = 0.0
  seconds: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawClip:
  """One clip to be, as the corpus has it.

  Attributes:
    clip_id: unique within the corpus.
    split: e.g. 'train'.
    video: path of its pictures, or of its one picture; '' with `portraits`.
    sounds: its speech, one after the other; () for pictures without any.
    start, seconds: the stretch of the video; `seconds` None is all that follows.
    boxes: path of a .npy with the face in each frame of the video, (T, 4); '' has it found.
    portraits: pictures of the speaker in place of a video (SF2F).
    speaker, text, word, emotion: '' where the corpus has none.
    extras: of the record, name -> list of integers, floats or bytes.
  """

  clip_id: str
  split: str
  video: str = ''
  sounds: tuple[Sound, ...] = ()
  start: float = 0.0
  seconds: float | None = None
  boxes: str = ''
  portraits: tuple[str, ...] = ()
  speaker: str = ''
  text: str = ''
  word: str = ''
  emotion: str = ''
  extras: dict[str, Sequence[Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Drop:
  """A clip that becomes no record; `reason` is the message without its numbers."""

  clip_id: str
  split: str
  message: str
  where: str = ''

  @property
  def reason(self):
    """The message without names and numbers, by which drops are counted."""
    bare = re.sub(r'\s*\([^()]*\)', '', self.message.splitlines()[0])
    return re.sub(r"'[^']*'|\d+(\.\d+)?", '…', bare)


@dataclasses.dataclass(frozen=True)
class Listing:
  """All clips of a corpus: those to be made, and those that the adapter knows to be no use.

  Attributes:
    clips: in order.
    drops: likewise.
    ignored: ending -> number of files that are no clips.
    facts: of the corpus, kept in `dataset_info.json`; JSON values.
  """

  clips: Sequence[RawClip]
  drops: Sequence[Drop] = ()
  ignored: dict[str, int] = dataclasses.field(default_factory=dict)
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Framing:
  """How a raw clip becomes a record.

  Attributes:
    crop: 'track', a square that goes with the face of the one who speaks; 'square', one that stands
      still; 'none', the picture as it is, with the face sought in it; 'face', the picture is the
      face; 'aligned', eyes and mouth brought to their places (DAVS), or a portrait's pupils (SF2F).
    size: width and height of the frames, pixels.
    fps: frames per second.
    room: side of the square over that of the face, for 'track' and 'square'.
    min_seconds, max_seconds: shorter clips are dropped, longer ones are cut.
    frames: the number that every clip must have; None: any.
    crops, sizes: those that this corpus can have; (): any.
    eyes_twice: see `alignment.face_transform`.
  """

  crop: str
  size: int
  fps: float = 25.0
  room: float = 1.6
  min_seconds: float = 0.2
  max_seconds: float = 20.0
  frames: int | None = None
  crops: tuple[str, ...] = ()
  sizes: tuple[int, ...] = ()
  eyes_twice: bool = False

  def __post_init__(self):
    from tfg_jax import alignment

    crops = self.crops or CROPS
    sizes = self.sizes or ((alignment.SIZE,) if self.crop == 'aligned' else ())
    for name, good, expected in (
      ('crop', self.crop in crops, f'one of {", ".join(crops)}'),
      ('size', 32 <= self.size <= 512, '32 to 512 pixels'),
      ('size', not sizes or self.size in sizes, f'one of {sizes}'),
      ('fps', 0 < self.fps <= 120, 'more than 0, at most 120'),
      ('room', 1 <= self.room <= 4, '1 to 4'),
      ('min_seconds', 0 <= self.min_seconds <= self.max_seconds, '0 to --max_seconds'),
      ('max_seconds', self.max_seconds <= 120, 'at most 120'),
    ):
      if not good:
        raise ConfigError(f'--{name}={getattr(self, name)}; expected {expected}')


def divide(names: Iterable[str], shares: dict[str, float]) -> dict[str, str]:
  """Divides names into 'train' and other splits: name -> split.

  The checksums of the names decide, so that further names move few of the others. Every split gets
  one at least where there are enough.

  Args:
    names: of clips, or of people to keep apart.
    shares: split -> share of the names, e.g. {'valid': 0.05, 'test': 0.05}.

  Raises:
    ConfigError: for shares that leave nothing to train on.
  """
  for split, share in shares.items():
    if not 0 <= share < 1 or sum(shares.values()) >= 1:
      raise ConfigError(
        f'--{split}_share={share}; expected 0 or more, and less than 1 with the others'
      )
  order = sorted(set(names), key=lambda name: (zlib.crc32(name.encode(errors='replace')), name))
  divided, first = {}, 0
  for split, share in shares.items():
    count = min(max(1, round(share * len(order))) if share else 0, max(0, len(order) - 1 - first))
    divided |= dict.fromkeys(order[first : first + count], split)
    first += count
  return divided | dict.fromkeys(order[first:], 'train')


def find_files(directory, endings: Iterable[str]) -> tuple[list[str], dict[str, int]]:
  """Paths of the files with these endings in all folders below, sorted; and how many have others.

  Hidden files and folders do not count.
  """
  endings, found, others = frozenset(endings), [], {}
  seen = set()
  for root, folders, names in os.walk(directory, followlinks=True):
    folders[:] = sorted(name for name in folders if not name.startswith('.'))
    if os.path.realpath(root) in seen:  # a link to a folder above
      folders[:] = []
      continue
    seen.add(os.path.realpath(root))
    for name in names:
      ending = os.path.splitext(name)[1].lower()
      if name.startswith('.'):
        continue
      if ending in endings:
        found.append(os.path.join(root, name))
      else:
        others[ending] = others.get(ending, 0) + 1
  return sorted(found), others


def clip_ids(paths: Sequence[str], directory) -> dict[str, str]:
  """Path -> where it is below the directory, without its ending unless two would be the same."""
  bare = {path: os.path.splitext(os.path.relpath(path, directory))[0] for path in paths}
  count = collections.Counter(bare.values())
  return {
    path: (name if count[name] == 1 else os.path.relpath(path, directory)).replace(os.sep, '/')
    for path, name in bare.items()
  }


def subfolders(directory, what: str) -> list[str]:
  """Names of the folders in a folder, sorted.

  Raises:
    DataError: if it has none; `what` says what they should be.
  """
  from tfg_jax.errors import DataError

  names = sorted(
    name for name in os.listdir(directory) if os.path.isdir(os.path.join(directory, name))
  )
  if not names:
    raise DataError(f'there are no folders of {what}', where=directory, hint='see --help')
  return names
