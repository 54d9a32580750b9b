"""CREMA-D (Cao et al., 2014): 91 actors, 12 sentences, 6 emotions, 7,442 clips.

INPUT is a copy of github.com/CheyneyComputerScience/CREMA-D (its files are in Git LFS) with
VideoFlash/*.flv and AudioWAV/*.wav; names are ACTOR_SENTENCE_EMOTION_LEVEL.

Speech2Video divides it 70 : 15 : 15 and speaks of observed people, so --split_by=clip divides the
clips of every actor alike. --split_by=speaker keeps people apart, for voices never heard before.

Frames are a square around the face, at 30 per second; boxes follow the face in it. Boxes take out
where a head is and how large, not how it leans: that would need landmarks.
"""

import os
import re

import numpy as np

from data_prep.listing import Drop, Framing, Listing, RawClip, Sound
from tfg_jax.errors import ConfigError, DataError

LICENCE = 'ODbL 1.0, github.com/CheyneyComputerScience/CREMA-D'
FRAMING = Framing(crop='square', size=192, fps=30.0)
SPLITS = ('train', 'valid', 'test')

EMOTIONS = {
  'ANG': 'angry',
  'DIS': 'disgusted',
  'FEA': 'afraid',
  'HAP': 'happy',
  'NEU': 'neutral',
  'SAD': 'sad',
}
SENTENCES = {
  'IEO': "It's eleven o'clock",
  'TIE': 'That is exactly what happened',
  'IOM': "I'm on my way to the meeting",
  'IWW': 'I wonder what this is about',
  'TAI': 'The airplane is almost full',
  'MTI': 'Maybe tomorrow it will be cold',
  'IWL': 'I would like a new alarm clock',
  'ITH': "I think I have a doctor's appointment",
  'DFA': "Don't forget a jacket",
  'ITS': "I think I've seen this before",
  'TSI': 'The surface is slick',
  'WSI': "We'll stop in a couple of minutes",
}
# Broken video or sound, by the corpus' own notes.
BROKEN = frozenset(('1076_MTI_SAD_XX', '1076_MTI_NEU_XX', '1064_TIE_SAD_XX', '1064_IEO_DIS_MD'))
_NAME = re.compile(r'(?P<actor>\d{4})_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<level>\w\w)')


def list_clips(directory, *, split_by: str = 'clip', seed: int = 0) -> Listing:
  """Lists the clips; records have the extras `identity`, the actor's number, and `level`.

  Args:
    directory: the copy of the corpus.
    split_by: 'clip' or 'speaker', see above.
    seed: of the division.

  Raises:
    ConfigError: for another `split_by`.
    DataError: if a folder is missing, there are no clips, or a name is not the corpus'.
  """
  if split_by not in ('clip', 'speaker'):
    raise ConfigError(f'--split_by={split_by}; expected clip or speaker')
  files = {}
  for folder, ending in (('VideoFlash', '.flv'), ('AudioWAV', '.wav')):
    path = os.path.join(directory, folder)
    if not os.path.isdir(path):
      raise DataError(
        f'there is no folder {folder}', where=directory, hint='--input is a copy of CREMA-D'
      )
    for file in os.listdir(path):
      if file.endswith(ending):
        files.setdefault(file.removesuffix(ending), set()).add(folder)
  names = sorted(files)
  if not names:
    raise DataError('there are no clips', where=directory, hint='are its files still in Git LFS?')
  for name in names:
    parts = _NAME.fullmatch(name)
    if not parts or parts['emotion'] not in EMOTIONS or parts['sentence'] not in SENTENCES:
      raise DataError(
        f'{name!r} is not ACTOR_SENTENCE_EMOTION_LEVEL', where=directory, hint='move it elsewhere'
      )
  drops = [
    Drop(name, '', 'it is broken by the notes of the corpus') for name in names if name in BROKEN
  ]
  drops += [
    Drop(name, '', f'it is in {folder} only', directory)
    for name in names
    for folder in files[name]
    if len(files[name]) == 1 and name not in BROKEN
  ]
  useless = {drop.clip_id for drop in drops}
  names = [name for name in names if name not in useless]
  actors = sorted({name[:4] for name in names})
  clips = [
    _raw_clip(directory, name, split, actors.index(name[:4]))
    for split, own in divide(names, by=split_by, seed=seed).items()
    for name in own
  ]
  return Listing(clips, drops, facts={'actors': len(actors)})


def _raw_clip(directory, name, split, identity):
  parts = _NAME.fullmatch(name)
  return RawClip(
    clip_id=name,
    split=split,
    video=os.path.join(directory, 'VideoFlash', f'{name}.flv'),
    sounds=(Sound(os.path.join(directory, 'AudioWAV', f'{name}.wav')),),
    speaker=parts['actor'],
    text=SENTENCES[parts['sentence']],
    emotion=EMOTIONS[parts['emotion']],
    extras={'identity': [identity], 'level': [parts['level'].encode()]},
  )


def divide(names, *, by: str, seed: int = 0) -> dict[str, list[str]]:
  """Divides clips 70 : 15 : 15.

  Args:
    names: of clips.
    by: 'clip': each actor's clips are divided, evenly over the emotions; 'speaker': the actors are.
    seed: of the shuffling.

  Returns:
    split -> names, sorted.
  """
  rng = np.random.default_rng(seed)
  divided = {split: [] for split in SPLITS}
  actors = sorted({name[:4] for name in names})
  if by == 'speaker':
    order = rng.permutation(actors)
    for actor, split in zip(order, _places(len(order)), strict=True):
      divided[split] += [name for name in names if name.startswith(f'{actor}_')]
  else:
    for actor in actors:
      own = np.array([name for name in names if name.startswith(f'{actor}_')])
      own = own[rng.permutation(len(own))]
      own = sorted(own.tolist(), key=lambda name: name.split('_')[2])  # stable: shuffled within
      for name, split in zip(own, _places(len(own), rng.random()), strict=True):
        divided[split].append(name)
  return {split: sorted(own) for split, own in divided.items()}


def _places(count, start=0.5):
  """`count` splits in turn: every stretch of 20 has 3 of 'valid' and 3 of 'test', spread out."""
  steps = (np.arange(count) * 3 + int(start * 20)) % 20
  # Steps of 3 go through all of 0..19; three values each make 15 %.
  return ['valid' if step in (0, 1, 2) else 'test' if step in (10, 11, 12) else 'train'
          for step in steps]  # fmt: skip
