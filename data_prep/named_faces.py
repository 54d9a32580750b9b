r"""Prepares pictures of named people, for the identity encoder of DAVS: one clip of one frame each.

python -m data_prep.named_faces --input=FACES --output=DIR --licence='who allows what' --workers=8

INPUT has a folder for each person with pictures in it, e.g. a subset of MS-Celeb-1M as DAVS used.
Faces are aligned by eyes and mouth to 260 px. A share of the pictures of everybody is held out.
"""

import dataclasses
import functools
import os
import zlib

import numpy as np
from absl import app, flags

from data_prep import shards
from tfg_jax import errors
from tfg_jax.errors import ConfigError, DataError, MediaError

CORPUS = 'named_faces'
_ENDINGS = ('.jpg', '.jpeg', '.png')
_EDGE = 2  # pixels between the aligned picture and the crop that networks see


@dataclasses.dataclass(frozen=True)
class Source:
  """One picture."""

  path: str
  clip_id: str  # PERSON/PICTURE
  person: str
  identity: int  # number of the person
  split: str

  def __str__(self):
    return self.path


def find_pictures(directory, *, valid_share: float) -> dict[str, list[Source]]:
  """Split -> its pictures, sorted. People are numbered in alphabetical order.

  Raises:
    DataError: if there are no people or somebody has fewer than two pictures.
  """
  people = sorted(
    name for name in os.listdir(directory) if os.path.isdir(os.path.join(directory, name))
  )
  if not people:
    raise DataError('there are no folders of people', where=directory)
  found = {'train': [], 'valid': []}
  for identity, person in enumerate(people):
    root = os.path.join(directory, person)
    names = [name for name in os.listdir(root) if name.lower().endswith(_ENDINGS)]
    if len(names) < 2:
      raise DataError(
        f'{person} has {len(names)} pictures; one is to learn from and one to be tested on',
        where=root,
        hint='add pictures, or remove the folder.',
      )
    # By their names, so that more pictures do not move the others to another split.
    names.sort(key=lambda name: zlib.crc32(f'{person}/{name}'.encode()))
    held_out = max(1, round(valid_share * len(names)))
    for index, name in enumerate(names):
      split = 'valid' if index < held_out else 'train'
      source = Source(os.path.join(root, name), f'{person}/{name}', person, identity, split)
      found[split].append(source)
  return {split: sorted(own, key=lambda source: source.clip_id) for split, own in found.items()}


@functools.cache
def _detector():
  from data_prep import landmarks

  return landmarks.mtcnn_landmarks()


def make_clip(source: Source, *, detector=None):
  """Reads one picture and aligns its largest face.

  Returns:
    `records.Clip` of one frame without sound, with the extra `identity`, the person's number.

  Raises:
    DataError, MediaError: if it is no picture, or shows no face.
  """
  import cv2

  from data_prep import landmarks
  from tfg_jax import alignment
  from tfg_jax.data import records

  picture = cv2.imread(source.path, cv2.IMREAD_COLOR)
  if picture is None:
    raise MediaError('this is not a picture', where=source.path)
  picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
  try:
    faces = landmarks.aligned_faces([picture], detector or _detector())
  except DataError as error:
    raise DataError(error.what, where=source.path) from error
  size = alignment.SIZE
  return records.Clip(
    clip_id=source.clip_id,
    frames=records.encode_jpegs(faces),
    height=size,
    width=size,
    fps=25.0,
    boxes=np.array([[_EDGE, _EDGE, size - _EDGE, size - _EDGE]]),
    wav=np.zeros(0, np.int16),
    sample_rate=16_000,
    speaker=source.person,
    split=source.split,
    extras={'identity': np.array([source.identity])},
  )


def prepare(directory, output, *, licence, valid_share=0.05, workers=1, progress=True):
  """Writes the pictures as records; see `shards.write_corpus` for what it returns and raises.

  Raises:
    ConfigError: for settings that cannot work.
  """
  from tfg_jax import alignment
  from tfg_jax.data import records

  if not 0 < valid_share <= 0.5:
    raise ConfigError(f'--valid_share={valid_share}; expected more than 0, at most 0.5')
  splits = find_pictures(directory, valid_share=valid_share)
  people = sorted({source.person for source in splits['train']})
  info = records.DatasetInfo(
    corpus=CORPUS,
    fps=25.0,
    height=alignment.SIZE,
    width=alignment.SIZE,
    sample_rate=16_000,
    licence=licence,
    preparation=dict(people=len(people), valid_share=valid_share),
  )
  return shards.write_corpus(output, info, splits, make_clip, workers=workers, progress=progress)


def define_flags(values=flags.FLAGS):
  """Defines the flags; other commands have an --output too, so importing this does not."""
  flags.DEFINE_string('input', None, 'A folder of folders of pictures.', flag_values=values)
  flags.DEFINE_string('output', None, 'Directory to write the records to.', flag_values=values)
  flags.DEFINE_string('licence', None, 'What the pictures may be used for.', flag_values=values)
  flags.DEFINE_float('valid_share', 0.05, 'Of the pictures of everybody.', flag_values=values)
  flags.DEFINE_integer('workers', os.cpu_count(), 'Processes.', flag_values=values)


def main(argv, values=flags.FLAGS):
  errors.check_arguments(argv, values, 'input', 'output', 'licence')
  if not os.path.isdir(values.input):
    raise ConfigError(f'--input={values.input} is not a folder', hint='see --help')
  info, skipped = prepare(
    values.input,
    values.output,
    licence=values.licence,
    valid_share=values.valid_share,
    workers=values.workers,
  )
  print(shards.summary(values.output, info, skipped, unit='pictures'))


if __name__ == '__main__':
  define_flags()
  app.run(errors.exit_on_expected_failure(main), flags_parser=errors.parse_flags)
