"""LRS3-TED (Afouras et al., 2018): sentences of TED talks, cut to one face track each.

INPUT has trainval/TALK/NUMBER.mp4 and test/TALK/NUMBER.mp4, 224 px at 25 frames per second, with
NUMBER.txt beside them. The pretrain archive is not used. Split test is the official one; a share of
the talks of trainval becomes valid.

Pictures are scaled to the 160 px of LRS2; faces are sought in them, or come from --boxes=DIR with
DIR/TALK/NUMBER.npy, in the pixels of the video.
"""

import glob
import os

from data_prep.corpora.lrs2 import FRAMING, read_text
from data_prep.listing import Drop, Listing, RawClip, Sound, divide
from tfg_jax.errors import DataError

__all__ = ['FRAMING', 'LICENCE', 'list_clips']
LICENCE = 'CC BY-NC-ND 4.0 of the TED talks; research use only'


def list_clips(directory, *, valid_share: float = 0.01, boxes: str = '') -> Listing:
  """Lists the clips.

  Args:
    directory: see above.
    valid_share: of the talks of trainval.
    boxes: folder of face boxes; '' has them found.

  Raises:
    ConfigError: for a share that cannot be.
    DataError: if a folder has no clips.
  """
  found = {}
  for folder in ('trainval', 'test'):
    root = os.path.join(directory, folder)
    found[folder] = sorted(glob.glob(os.path.join(glob.escape(root), '*', '*.mp4')))
    if not found[folder]:
      raise DataError(
        'there is no TALK/NUMBER.mp4', where=root, hint='unpack the official archives'
      )
  splits = divide(map(_talk, found['trainval']), {'valid': valid_share})
  clips, drops = [], []
  for folder, paths in found.items():
    for path in paths:
      clip_id = f'{_talk(path)}/{os.path.basename(path).removesuffix(".mp4")}'
      split = 'test' if folder == 'test' else splits[_talk(path)]
      text = read_text(f'{path.removesuffix(".mp4")}.txt')
      if text is None:
        drops.append(Drop(clip_id, split, 'it has no transcript that begins with "Text:"', path))
        continue
      clips.append(
        RawClip(
          clip_id=clip_id,
          split=split,
          video=path,
          sounds=(Sound(path),),
          text=text,
          boxes=os.path.join(boxes, *clip_id.split('/')) + '.npy' if boxes else '',
        )
      )
  return Listing(clips, drops)


def _talk(path):
  return os.path.basename(os.path.dirname(path))
