"""GRID (Cooke et al., 2006): 34 speakers, 1,000 sentences each of six words, 3 s at 25 fps.

INPUT is any folder that holds its videos, however they are sorted: the archives as unpacked
(s1/bbaf2n.mpg, s1/video/mpg_6000/bbaf2n.mpg) or all in one folder (s1_bbaf2n.mpg). A file's name
ends in the code of its sentence. Word times come from NAME.align or CODE.align, found anywhere
below INPUT; without one the code says the text.

There is no official division. --split_by=clip holds out some sentences of everybody,
--split_by=speaker some speakers; --valid_share and --test_share say how many.
"""

import collections
import os
import re

from data_prep.listing import (
  VIDEO_ENDINGS,
  Drop,
  Framing,
  Listing,
  RawClip,
  Sound,
  clip_ids,
  divide,
  find_files,
)
from tfg_jax.errors import ConfigError, DataError

LICENCE = 'CC BY 4.0, Cooke, Barker, Cunningham, Shao 2006, zenodo.org/record/3625687'
FRAMING = Framing(crop='track', size=160)

_WORDS = (
  dict(b='bin', l='lay', p='place', s='set'),
  dict(b='blue', g='green', r='red', w='white'),
  dict(a='at', b='by', i='in', w='with'),
  {letter: letter for letter in 'abcdefghijklmnopqrstuvxyz'},  # w has three syllables: left out
  {'z': 'zero', '1': 'one', '2': 'two', '3': 'three', '4': 'four', '5': 'five', '6': 'six',
   '7': 'seven', '8': 'eight', '9': 'nine'},
  dict(a='again', n='now', p='please', s='soon'),
)  # fmt: skip
_CODE = re.compile(r'(?:^|.*[^a-z0-9])([blps][bgrw][abiw][a-vx-z][z1-9][anps])')
_SPEAKER = re.compile(r's\d{1,2}')
_TICKS = 25_000  # of an .align file, per second
_SILENCE = ('sil', 'sp')


def list_clips(
  directory, *, split_by: str = 'clip', valid_share: float = 0.05, test_share: float = 0.05
) -> Listing:
  """Lists the clips; records have the extra `word_times` where there is an .align file.

  Args:
    directory: see above.
    split_by: 'clip' or 'speaker'.
    valid_share, test_share: of the clips or speakers.

  Raises:
    ConfigError: for settings that cannot be.
    DataError: if there is no video, or no speaker to divide by.
  """
  if split_by not in ('clip', 'speaker'):
    raise ConfigError(f'--split_by={split_by}; expected clip or speaker')
  files, ignored = find_files(directory, {*VIDEO_ENDINGS, '.align'})
  videos = [path for path in files if not path.endswith('.align')]
  if not videos:
    raise DataError('there are no videos', where=directory, hint='unpack the archives of GRID')
  alignments = {
    (_speaker(path, directory), os.path.basename(path).removesuffix('.align')): path
    for path in files
    if path.endswith('.align')
  }
  codes = {path: _CODE.fullmatch(_stem(path).lower()) for path in videos}
  codes = {path: match[1] for path, match in codes.items() if match}
  uses = collections.Counter(codes.values())
  ids = clip_ids(videos, directory)
  drops = [
    Drop(ids[path], '', f'{_stem(path)!r} does not end in the code of a sentence', path)
    for path in videos
    if path not in codes
  ]
  speakers = {path: _speaker(path, directory) for path in codes}
  keys = {path: ids[path] if split_by == 'clip' else speakers[path] for path in codes}
  if split_by == 'speaker' and '' in keys.values():
    path = next(path for path, key in keys.items() if not key)
    raise DataError(
      'the speaker is not known: neither a folder nor the name says s1 ... s34',
      where=path,
      hint='Use --split_by=clip, or move it elsewhere.',
    )
  splits = divide(keys.values(), {'valid': valid_share, 'test': test_share})
  clips = []
  for path, code in codes.items():
    speaker = speakers[path]
    align = alignments.get((speaker, code))
    if not align and uses[code] == 1:  # two speakers of one sentence have different times
      align = alignments.get(('', code))
    words, times = _read_alignment(align) if align else (None, None)
    spelled = [meaning[letter] for letter, meaning in zip(code, _WORDS, strict=True)]
    clips.append(
      RawClip(
        clip_id=ids[path],
        split=splits[keys[path]],
        video=path,
        sounds=(Sound(path),),
        speaker=speaker,
        text=' '.join(words or spelled),
        extras={'word_times': times} if words else {},
      )
    )
  return Listing(clips, drops, ignored)


def _stem(path):
  return os.path.splitext(os.path.basename(path))[0]


def _speaker(path, directory):
  """'s1' ... 's34' from a folder or the start of the name; '' where neither says it."""
  inside = os.path.relpath(path, os.path.dirname(os.path.abspath(directory)))
  *folders, name = inside.lower().split(os.sep)
  for part in (*folders, name.split('_')[0]):
    if _SPEAKER.fullmatch(part):
      return part
  return ''


def _read_alignment(path):
  """Words of an .align file, and start and end of each in seconds, one after the other."""
  words, times = [], []
  with open(path, encoding='utf-8') as file:
    for line in file:
      start, end, word = line.split()
      if word not in _SILENCE:
        words.append(word)
        times += [int(start) / _TICKS, int(end) / _TICKS]
  return words, times
