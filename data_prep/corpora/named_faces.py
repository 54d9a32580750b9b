"""Pictures of named people, for the identity encoder of DAVS: one clip of one frame each.

INPUT has a folder for each person with pictures in it, e.g. a subset of MS-Celeb-1M as DAVS used.
Faces are aligned by eyes and mouth to 260 px. A share of the pictures of everybody is held out.
"""

import os

from data_prep.listing import Framing, Listing, RawClip, divide, subfolders
from tfg_jax import alignment
from tfg_jax.errors import ConfigError, DataError

LICENCE = ''  # --licence says it
FRAMING = Framing(crop='aligned', size=alignment.SIZE, min_seconds=0.0)
_ENDINGS = ('.jpg', '.jpeg', '.png')


def list_clips(directory, *, valid_share: float = 0.05) -> Listing:
  """Lists the pictures; records have the extra `identity`: people are numbered by the alphabet.

  Args:
    directory: a folder of folders of pictures.
    valid_share: of the pictures of everybody.

  Raises:
    ConfigError: for a share that cannot be.
    DataError: if there are no people or somebody has fewer than two pictures.
  """
  if not 0 < valid_share <= 0.5:
    raise ConfigError(f'--valid_share={valid_share}; expected more than 0, at most 0.5')
  clips = []
  people = subfolders(directory, 'people')
  for identity, person in enumerate(people):
    root = os.path.join(directory, person)
    names = sorted(
      f'{person}/{name}' for name in os.listdir(root) if name.lower().endswith(_ENDINGS)
    )
    if len(names) < 2:
      raise DataError(
        f'{person} has {len(names)} pictures; one is to learn from and one to be tested on',
        where=root,
        hint='add pictures, or remove the folder.',
      )
    splits = divide(names, {'valid': valid_share})
    clips += [
      RawClip(
        clip_id=name,
        split=splits[name],
        video=os.path.join(directory, name),
        speaker=person,
        extras={'identity': [identity]},
      )
      for name in names
    ]
  return Listing(clips, facts={'people': len(people)})
