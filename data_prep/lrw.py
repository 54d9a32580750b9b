r"""Prepares LRW (Chung and Zisserman, 2016): 500 words in the news, 29 frames each, for DAVS.

python -m data_prep.lrw --input=lipread_mp4 --output=DIR --workers=16

INPUT is the official download, unpacked: WORD/{train,val,test}/WORD_00001.mp4, 256 px at 25 frames
per second. Only people who have signed the BBC's agreement get it.

Faces are aligned by eyes and mouth as DAVS does it, to 260 px; the box in a record is the central
256, which training shifts. The eyes count twice, as in the official script. Points are MTCNN's and
not those of the official 106-point detector, which is not public.
"""

import dataclasses
import functools
import glob
import os

import numpy as np
from absl import app, flags

from data_prep import shards
from tfg_jax import errors
from tfg_jax.errors import ConfigError, DataError

CORPUS = 'lrw'
LICENCE = 'BBC: non-commercial research under a signed agreement'
FPS = 25
FRAMES = 29
SPLITS = {'train': 'train', 'val': 'valid', 'test': 'test'}  # folder -> split
_EDGE = 2  # pixels between the aligned picture and the crop that networks see


@dataclasses.dataclass(frozen=True)
class Source:
  """One clip of the corpus."""

  path: str
  clip_id: str  # WORD_00001, and the split: numbers begin anew in each
  word: str
  label: int
  split: str

  def __str__(self):
    return self.path


def find_clips(directory) -> dict[str, list[Source]]:
  """Split -> its clips, sorted. Words are numbered in alphabetical order.

  Raises:
    DataError: if there are none, or a word lacks a split.
  """
  words = sorted(
    name for name in os.listdir(directory) if os.path.isdir(os.path.join(directory, name))
  )
  if not words:
    raise DataError('there are no folders of words', where=directory, hint='unpack the archives')
  found = {split: [] for split in SPLITS.values()}
  for label, word in enumerate(words):
    for folder, split in SPLITS.items():
      root = os.path.join(directory, word, folder)
      paths = sorted(glob.glob(os.path.join(glob.escape(root), '*.mp4')))
      if not paths:
        raise DataError(f'{word} has no clips in {folder}', where=root)
      for path in paths:
        clip_id = f'{os.path.basename(path).removesuffix(".mp4")}/{split}'
        found[split].append(Source(path, clip_id, word.lower(), label, split))
  return found


@functools.cache
def _detector():
  from data_prep import landmarks

  return landmarks.mtcnn_landmarks()


def make_clip(source: Source, *, detector=None):
  """Reads one clip and aligns its faces.

  Returns:
    `records.Clip` with the extra `word_label`, the word's number.

  Raises:
    DataError, MediaError: if the file is damaged, not 29 frames long, or shows no face.
  """
  from data_prep import landmarks
  from tfg_jax import alignment, media
  from tfg_jax.data import records

  wav = media.read_audio(source.path)
  with media.VideoReader(source.path) as reader:
    pictures = list(reader.scan())
  if len(pictures) != FRAMES:
    raise DataError(f'it has {len(pictures)} frames instead of {FRAMES}', where=source.path)
  try:
    faces = landmarks.aligned_faces(pictures, detector or _detector(), eyes_twice=True)
  except DataError as error:
    raise DataError(error.what, where=source.path) from error
  size = alignment.SIZE
  return records.Clip(
    clip_id=source.clip_id,
    frames=records.encode_jpegs(faces),
    height=size,
    width=size,
    fps=float(FPS),
    boxes=np.tile(np.array([_EDGE, _EDGE, size - _EDGE, size - _EDGE]), (FRAMES, 1)),
    wav=wav[: FRAMES * 16_000 // FPS],
    sample_rate=16_000,
    word=source.word,
    split=source.split,
    extras={'word_label': np.array([source.label])},
  )


def prepare(directory, output, *, workers=1, progress=True):
  """Writes the corpus as records; see `shards.write_corpus` for what it returns and raises."""
  from tfg_jax import alignment
  from tfg_jax.data import records

  splits = find_clips(directory)
  words = sorted({source.word for source in splits['train']})
  info = records.DatasetInfo(
    corpus=CORPUS,
    fps=float(FPS),
    height=alignment.SIZE,
    width=alignment.SIZE,
    sample_rate=16_000,
    licence=LICENCE,
    preparation=dict(words=words, clips=sum(len(own) for own in splits.values())),
  )
  return shards.write_corpus(output, info, splits, make_clip, workers=workers, progress=progress)


def define_flags(values=flags.FLAGS):
  """Defines the flags; other commands have an --output too, so importing this does not."""
  flags.DEFINE_string('input', None, 'The folder lipread_mp4.', flag_values=values)
  flags.DEFINE_string('output', None, 'Directory to write the records to.', flag_values=values)
  flags.DEFINE_integer('workers', os.cpu_count(), 'Processes.', flag_values=values)


def main(argv, values=flags.FLAGS):
  errors.check_arguments(argv, values, 'input', 'output')
  if not os.path.isdir(values.input):
    raise ConfigError(f'--input={values.input} is not a folder', hint='give that of lipread_mp4')
  info, skipped = prepare(values.input, values.output, workers=values.workers)
  print(shards.summary(values.output, info, skipped))


if __name__ == '__main__':
  define_flags()
  app.run(errors.exit_on_expected_failure(main), flags_parser=errors.parse_flags)
