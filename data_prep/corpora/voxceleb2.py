"""VoxCeleb2 (Chung et al., 2018): over a million utterances of 6,112 people, as cut by its authors.

INPUT has {dev,test}/mp4/PERSON/VIDEO/UTTERANCE.mp4, face crops of 224 px at 25 frames per second,
and {dev,test}/aac/PERSON/VIDEO/UTTERANCE.m4a. Only people who have agreed to its terms get it.

Split test is the official one, of people who are not in dev. A share of dev's videos, with all of
their utterances, becomes valid: other recordings of people who are in train.
"""

import glob
import os
import zlib

from data_prep.listing import Framing, Listing, RawClip, Sound
from tfg_jax.errors import ConfigError, DataError

LICENCE = 'CC BY 4.0 for the metadata; the videos belong to their owners; research use only'
FRAMING = Framing(crop='face', size=128)  # the crops are faces: the box is the whole frame


def list_clips(directory, *, valid_share: float = 0.005) -> Listing:
  """Lists the utterances of both halves; records have the extra `identity`, the person's number.

  People are numbered within their half.

  Args:
    directory: the unpacked archives.
    valid_share: of dev's videos.

  Raises:
    ConfigError: for a share that cannot be.
    DataError: if a half is missing.
  """
  if not 0 < valid_share < 1:
    raise ConfigError(f'--valid_share={valid_share}; expected above 0 and below 1')
  clips = {'train': [], 'valid': [], 'test': []}
  for half in ('dev', 'test'):
    root = os.path.join(directory, half, 'mp4')
    videos = sorted(glob.glob(os.path.join(glob.escape(root), '*', '*', '*.mp4')))
    if not videos:
      raise DataError(
        'there is no PERSON/VIDEO/UTTERANCE.mp4', where=root, hint='unpack the official archives'
      )
    names = [
      os.path.relpath(path, root).removesuffix('.mp4').replace(os.sep, '/') for path in videos
    ]
    people = {name: i for i, name in enumerate(sorted({name.split('/')[0] for name in names}))}
    for path, name in zip(videos, names, strict=True):
      person, video, _ = name.split('/')
      # The name decides, so that more people or videos change no other one's split.
      share = zlib.crc32(f'{person}/{video}'.encode()) / 2**32
      split = 'test' if half == 'test' else 'valid' if share < valid_share else 'train'
      audio = os.path.join(directory, half, 'aac', *name.split('/')) + '.m4a'
      clips[split].append(
        RawClip(
          clip_id=name,
          split=split,
          video=path,
          sounds=(Sound(audio),),
          speaker=person,
          extras={'identity': [people[person]]},
        )
      )
  return Listing([clip for own in clips.values() for clip in own])
