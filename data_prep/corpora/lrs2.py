"""LRS2 (Afouras et al., 2018): sentences of the BBC's programmes, cut to one face track each.

INPUT is the folder of the unpacked archives, mvlrs_v1, with main/PROGRAMME/NUMBER.mp4 (160 px, 25
frames per second) and NUMBER.txt beside it. The official lists train.txt, val.txt and test.txt lie
in it too; the first word of a line is PROGRAMME/NUMBER. The pretrain archive is not used. Only
people who have signed the BBC's agreement get it.

The pictures are kept as they are, since lip readers of LRS2 look at the middle of the whole frame.
Faces are sought in them, or come from --boxes=DIR with DIR/PROGRAMME/NUMBER.npy, as TalkLip has
them.
"""

import os

from data_prep.listing import Drop, Framing, Listing, RawClip, Sound
from tfg_jax.errors import DataError

LICENCE = 'BBC: non-commercial research under a signed agreement'
FRAMING = Framing(crop='none', size=160, min_seconds=0.0)
_SPLITS = {'train': 'train', 'val': 'valid', 'test': 'test'}  # list -> split


def list_clips(directory, *, boxes: str = '') -> Listing:
  """Lists the clips of the three official lists.

  Args:
    directory: mvlrs_v1.
    boxes: folder of face boxes; '' has them found.

  Raises:
    DataError: if a list is missing or empty.
  """
  clips, drops = [], []
  for name, split in _SPLITS.items():
    path = os.path.join(directory, f'{name}.txt')
    try:
      with open(path, encoding='utf-8') as file:
        ids = [line.split()[0] for line in file if line.strip()]
    except OSError as error:
      raise DataError(
        f'the list {name}.txt cannot be read: {error.strerror}',
        where=path,
        hint='put the official lists beside the folder main',
      ) from error
    if not ids:
      raise DataError(f'the list {name}.txt is empty', where=path)
    for clip_id in ids:
      stem = os.path.join(directory, 'main', *clip_id.split('/'))
      text = read_text(f'{stem}.txt')
      if text is None:
        drops.append(Drop(clip_id, split, 'it has no transcript that begins with "Text:"', stem))
        continue
      clips.append(
        RawClip(
          clip_id=clip_id,
          split=split,
          video=f'{stem}.mp4',
          sounds=(Sound(f'{stem}.mp4'),),
          text=text,
          boxes=os.path.join(boxes, *clip_id.split('/')) + '.npy' if boxes else '',
        )
      )
  return Listing(clips, drops)


def read_text(path):
  """The sentence of a transcript, whose first line is 'Text:  SENTENCE'; None without one."""
  try:
    with open(path, encoding='utf-8') as file:
      head, _, text = file.readline().partition(':')
  except (OSError, UnicodeDecodeError):
    return None
  return text.strip() if head == 'Text' and text.strip() else None
