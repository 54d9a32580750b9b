"""LRW (Chung and Zisserman, 2016): 500 words in the news, 29 frames each, for DAVS.

INPUT is the folder lipread_mp4 of the official download, unpacked:
WORD/{train,val,test}/WORD_00001.mp4, 256 px at 25 frames per second. Only people who have signed
the BBC's agreement get it.

Faces are aligned by eyes and mouth as DAVS does it, to 260 px; the box in a record is the central
256, which training shifts. The eyes count twice, as in the official script. Points are MTCNN's and
not those of the official 106-point detector, which is not public.
"""

import glob
import os

from data_prep.listing import Framing, Listing, RawClip, Sound, subfolders
from tfg_jax import alignment
from tfg_jax.errors import DataError

LICENCE = 'BBC: non-commercial research under a signed agreement'
FRAMING = Framing(crop='aligned', size=alignment.SIZE, frames=29, eyes_twice=True)
SPLITS = {'train': 'train', 'val': 'valid', 'test': 'test'}  # folder -> split


def list_clips(directory) -> Listing:
  """Lists the clips; records have the extra `word_label`: words are numbered by the alphabet.

  Raises:
    DataError: if there are none, or a word lacks a split.
  """
  words = subfolders(directory, 'words')
  clips = {split: [] for split in SPLITS.values()}
  for label, word in enumerate(words):
    for folder, split in SPLITS.items():
      root = os.path.join(directory, word, folder)
      paths = sorted(glob.glob(os.path.join(glob.escape(root), '*.mp4')))
      if not paths:
        raise DataError(f'{word} has no clips in {folder}', where=root)
      clips[split] += [
        RawClip(
          # Numbers begin anew in each split.
          clip_id=f'{os.path.basename(path).removesuffix(".mp4")}/{split}',
          split=split,
          video=path,
          sounds=(Sound(path),),
          word=word.lower(),
          extras={'word_label': [label]},
        )
        for path in paths
      ]
  facts = {'words': [word.lower() for word in words]}
  return Listing([clip for own in clips.values() for clip in own], facts=facts)
