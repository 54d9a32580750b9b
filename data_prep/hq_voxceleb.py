r"""Prepares HQ-VoxCeleb (Bai et al., 2020): portraits of VoxCeleb's speakers, and their speech.

python -m data_prep.hq_voxceleb --input=data/VoxCeleb --speech=raw_wav --output=DIR --workers=32

INPUT is laid out as BAI-Yeqi/SF2F_PyTorch wants it:
    vox1/vox1_meta.csv, vox2/full_vox2_meta.csv   who is whom, and in which order
    vox{1,2}/masked_faces/NAME/*.jpg              aligned portraits on white
    split.json                                    optional: who is where; see `split_of_row`
SPEECH holds VoxCeleb itself: vox{1,2}/{dev,test}/ID/CLIP/UTTERANCE.wav or .m4a.

A record is up to 30 s of one person's speech, in order, with all of their portraits. `utterances`
holds where each utterance starts and ends, in samples. Nobody is in two splits.
"""

import csv
import dataclasses
import glob
import json
import os

import numpy as np
from absl import app, flags

from data_prep import shards
from tfg_jax import errors
from tfg_jax.errors import ConfigError, DataError

CORPUS = 'hq_voxceleb'
LICENCE = 'VoxCeleb metadata CC BY 4.0; portraits and speech belong to their owners; research only'
SECONDS = 30  # of a record, and of its one frame
_RATE = 16_000
_META = {  # sub-corpus -> (file, separator, column of the id, column of the name)
  'vox1': ('vox1_meta.csv', '\t', 'VoxCeleb1 ID', 'VGGFace1 ID'),
  'vox2': ('full_vox2_meta.csv', ',', 'VoxCeleb2ID', 'Name'),
}
_SPLITS = {'train': 'train', 'val': 'valid', 'test': 'test'}  # theirs -> ours


@dataclasses.dataclass(frozen=True)
class Piece:
  """A stretch of an utterance, in seconds."""

  path: str
  start: float
  seconds: float


@dataclasses.dataclass(frozen=True)
class Source:
  """One record."""

  clip_id: str  # SUB/NAME/NUMBER
  name: str
  split: str
  identity: int  # place among the people of the split, sorted
  portraits: tuple[str, ...]
  pieces: tuple[Piece, ...]
  size: int

  def __str__(self):
    return self.clip_id


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


def find_clips(directory: str, speech: str, *, size: int) -> dict[str, list[Source]]:
  """The records to be: split -> sources. People without portraits or speech are left out.

  Raises:
    DataError: see `read_people`; or if nobody has both, or a sound file is damaged.
  """
  found: dict[str, list] = {split: [] for split in _SPLITS.values()}
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
  if not any(found.values()):
    raise DataError(
      'nobody has both portraits and speech',
      where=directory,
      hint=f'look into {directory}/vox1/masked_faces and {speech}/vox1/dev',
    )
  return {
    split: [
      Source(f'{sub}/{name}/{number:04d}', name, split, identity, portraits, pieces, size)
      for identity, (sub, name, portraits, sounds) in enumerate(sorted(people))
      for number, pieces in enumerate(pack(sounds))
    ]
    for split, people in found.items()
  }


def pack(paths, length: float = SECONDS):
  """Yields tuples of pieces that last `length` seconds or less together; longer files are split.

  Raises:
    MediaError: for a file that is not sound.
  """
  from tfg_jax import media

  current, free = [], length
  for path in paths:
    left = media.probe(path).duration or 0.0
    start = 0.0
    while left > 0:
      if current and min(left, length) > free:
        yield tuple(current)
        current, free = [], length
      taken = min(left, length)
      current.append(Piece(path, start, taken))
      start, left, free = start + taken, left - taken, free - taken
  if current:
    yield tuple(current)


def make_clip(source: Source):
  """Reads one record.

  Raises:
    DataError, MediaError: if a file is damaged.
  """
  from tfg_jax import media
  from tfg_jax.data import records
  from tfg_jax.features import portrait

  waves = []
  for piece in source.pieces:
    wav = media.read_audio(piece.path, _RATE)
    start = round(piece.start * _RATE)
    waves.append(wav[start : start + round(piece.seconds * _RATE)])
  wav = np.concatenate(waves)[: SECONDS * _RATE]
  ends = np.minimum(np.cumsum([len(wave) for wave in waves]), len(wav))
  starts = np.concatenate([[0], ends[:-1]])
  pictures = []
  for path in source.portraits:
    with open(path, 'rb') as file:
      pictures.append(portrait.read(file.read(), source.size, where=path))
  pictures = records.encode_pngs(pictures)
  size = source.size
  return records.Clip(
    clip_id=source.clip_id,
    frames=pictures[:1],
    height=size,
    width=size,
    fps=1 / SECONDS,
    boxes=np.array([[0, 0, size, size]], np.int64),
    wav=wav,
    sample_rate=_RATE,
    speaker=source.name,
    split=source.split,
    extras={
      'identity': np.array([source.identity]),
      'portrait': pictures,
      'utterances': np.stack([starts, ends], 1).ravel(),
    },
  )


def prepare(directory, speech, output, *, size=128, workers=1, progress=True):
  """Writes the corpus as records; see `shards.write_corpus` for what it returns and raises.

  Raises:
    ConfigError: for a size that no network draws.
  """
  from tfg_jax.data import records

  if size not in (64, 128, 256):
    raise ConfigError(f'--size={size}; expected 64, 128 or 256 pixels')
  splits = find_clips(directory, speech, size=size)
  people = {split: len({source.name for source in own}) for split, own in splits.items()}
  info = records.DatasetInfo(
    corpus=CORPUS,
    fps=1 / SECONDS,
    height=size,
    width=size,
    sample_rate=_RATE,
    licence=LICENCE,
    preparation=dict(size=size, people=people, clips=sum(map(len, splits.values()))),
  )
  return shards.write_corpus(output, info, splits, make_clip, workers=workers, progress=progress)


def define_flags(values=flags.FLAGS):
  """Defines the flags; other commands have an --output too, so importing this does not."""
  flags.DEFINE_string('input', None, 'Folder of portraits and metadata.', flag_values=values)
  flags.DEFINE_string('speech', None, 'Folder of VoxCeleb 1 and 2.', flag_values=values)
  flags.DEFINE_string('output', None, 'Directory to write the records to.', flag_values=values)
  flags.DEFINE_integer('size', 128, 'Side of the portraits, pixels.', flag_values=values)
  flags.DEFINE_integer('workers', os.cpu_count(), 'Processes.', flag_values=values)


def main(argv, values=flags.FLAGS):
  errors.check_arguments(argv, values, 'input', 'speech', 'output')
  info, skipped = prepare(
    values.input, values.speech, values.output, size=values.size, workers=values.workers
  )
  people = sum(info.preparation['people'].values())
  print(shards.summary(values.output, info, skipped, unit=f'clips of {people} people'))


if __name__ == '__main__':
  define_flags()
  app.run(errors.exit_on_expected_failure(main), flags_parser=errors.parse_flags)
