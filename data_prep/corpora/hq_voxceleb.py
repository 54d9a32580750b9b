"""HQ-VoxCeleb (Bai et al., 2020): portraits of VoxCeleb's speakers, and their speech.

INPUT is laid out as BAI-Yeqi/SF2F_PyTorch wants it:
    vox1/vox1_meta.csv, vox2/full_vox2_meta.csv   who is whom, and in which order
    vox{1,2}/masked_faces/NAME/*.jpg              portraits on white, aligned by the pupils
    split.json                                    optional: who is where; see `split_of_row`
--speech names VoxCeleb itself: vox{1,2}/{dev,test}/ID/CLIP/UTTERANCE.wav or .m4a.

A record is up to 30 s of one person's speech, in order, with all of their portraits. Nobody is in
two splits.
"""

import csv
import glob
import json
import os

from data_prep.listing import Drop, Framing, Listing, RawClip, Sound
from tfg_jax.errors import ConfigError, DataError, MediaError

LICENCE = 'VoxCeleb metadata CC BY 4.0; portraits and speech belong to their owners; research only'
SECONDS = 30  # of a record, and of its one frame
FRAMING = Framing(
  crop='face',
  crops=('face', 'aligned'),  # as they are; or by the pupils, for portraits of other people
  size=128,
  sizes=(64, 128, 256),
  fps=1 / SECONDS,
  max_seconds=float(SECONDS),
)
_META = {  # sub-corpus -> (file, separator, column of the id, column of the name)
  'vox1': ('vox1_meta.csv', '\t', 'VoxCeleb1 ID', 'VGGFace1 ID'),
  'vox2': ('full_vox2_meta.csv', ',', 'VoxCeleb2ID', 'Name'),
}
_SPLITS = {'train': 'train', 'val': 'valid', 'test': 'test'}  # theirs -> ours


def split_of_row(row: int) -> str:
  """The split of the person in a row of a metadata file: 8 of 10 people train."""
  return {8: 'test', 9: 'valid'}.get(row % 10, 'train')


def read_people(directory: str) -> dict[str, dict[str, tuple[str, str]]]:
  """Sub-corpus -> name -> (VoxCeleb id, split), in the order of the files.

  Raises:
    DataError: if a file is missing or lacks a column, or the split file is not what it should be.
  """
  people = {}
  for sub, (file_name, separator, id_column, name_column) in _META.items():
    path = os.path.join(directory, sub, file_name)
    try:
      with open(path, encoding='utf-8', newline='') as file:
        rows = [
          {str(key).strip(): str(value).strip() for key, value in row.items()}
          for row in csv.DictReader(file, delimiter=separator)
        ]
    except OSError as error:
      raise DataError(
        f'{file_name} cannot be read: {error.strerror}',
        where=path,
        hint='see --help for the layout',
      ) from error
    for column in (id_column, name_column):
      if rows and column not in rows[0]:
        raise DataError(f'there is no column {column!r}', where=path)
    people[sub] = {
      row[name_column]: (row[id_column], split_of_row(i)) for i, row in enumerate(rows)
    }
  path = os.path.join(directory, 'split.json')
  if os.path.exists(path):
    try:
      with open(path, encoding='utf-8') as file:
        named = {
          (sub, name): _SPLITS[split]
          for sub, splits in json.load(file).items()
          for split, names in splits.items()
          for name in names
        }
    except (ValueError, KeyError, AttributeError) as error:
      raise DataError(
        f'split.json is not {{sub-corpus: {{split: [names]}}}}: {error!r}', where=path
      ) from error
    people = {
      sub: {
        name: (speaker, named[sub, name])
        for name, (speaker, _) in names.items()
        if (sub, name) in named
      }
      for sub, names in people.items()
    }
  return people


def list_clips(directory, *, speech: str | None = None) -> Listing:
  """Lists the records to be. People without portraits or speech are counted as one drop each.

  Args:
    directory: portraits and metadata.
    speech: the folder of VoxCeleb 1 and 2.

  Returns:
    A Listing; its clips have the extra `identity`, the person's place among those of the split. The
    records will have the extras `portrait`, all of the portraits, and `utterances`, where each one
    starts and ends, in samples.

  Raises:
    ConfigError: without `speech`.
    DataError: see `read_people`; or if nobody has both.
  """
  if not speech:
    raise ConfigError('--speech is missing', hint='the folder of VoxCeleb 1 and 2')
  found: dict[str, list] = {split: [] for split in _SPLITS.values()}
  drops = []
  for sub, names in read_people(directory).items():
    for name, (speaker, split) in names.items():
      faces = os.path.join(directory, sub, 'masked_faces', name)
      portraits = tuple(sorted(glob.glob(os.path.join(glob.escape(faces), '*.jpg'))))
      sounds = sorted(
        path
        for half in ('dev', 'test')
        for kind in ('wav', 'm4a')
        for path in glob.glob(
          os.path.join(glob.escape(os.path.join(speech, sub, half, speaker)), '*', f'*.{kind}')
        )
      )
      if portraits and sounds:
        found[split].append((sub, name, portraits, sounds))
      else:
        lacks = ' and '.join([*['portraits'] * (not portraits), *['speech'] * (not sounds)])
        drops.append(Drop(f'{sub}/{name}', split, f'this person has no {lacks}', faces))
  if not any(found.values()):
    raise DataError(
      'nobody has both portraits and speech',
      where=directory,
      hint=f'look into {directory}/vox1/masked_faces and {speech}/vox1/dev',
    )
  clips = []
  for split, people in found.items():
    for identity, (sub, name, portraits, sounds) in enumerate(sorted(people)):
      for number, pieces in enumerate(pack(_lengths(sounds, f'{sub}/{name}', split, drops))):
        clips.append(
          RawClip(
            clip_id=f'{sub}/{name}/{number:04d}',
            split=split,
            sounds=pieces,
            portraits=portraits,
            speaker=name,
            extras={'identity': [identity]},
          )
        )
  return Listing(
    clips, drops, facts={'people': {split: len(people) for split, people in found.items()}}
  )


def _lengths(paths, person, split, drops):
  """Yields (path, seconds) of sound files; those that are damaged become drops."""
  from tfg_jax import media

  for path in paths:
    try:
      yield path, media.probe(path).duration or 0.0
    except MediaError as error:
      drops.append(Drop(f'{person}/{os.path.basename(path)}', split, error.what, error.where))


def pack(sounds, length: float = SECONDS):
  """Yields tuples of `Sound` that last `length` seconds or less together; longer files are split.

  Args:
    sounds: (path, seconds) of files, in order.
    length: seconds.
  """
  current, free = [], length
  for path, left in sounds:
    start = 0.0
    while left > 0:
      if current and min(left, length) > free:
        yield tuple(current)
        current, free = [], length
      taken = min(left, length)
      current.append(Sound(path, start, taken))
      start, left, free = start + taken, left - taken, free - taken
  if current:
    yield tuple(current)
