r"""Prepares CREMA-D (Cao et al., 2014): 91 actors, 12 sentences, 6 emotions, 7,442 clips.

python -m data_prep.crema_d --input=CREMA-D --output=DIR --workers=8

INPUT is a copy of github.com/CheyneyComputerScience/CREMA-D (its files are in Git LFS) with
VideoFlash/*.flv and AudioWAV/*.wav; names are ACTOR_SENTENCE_EMOTION_LEVEL. The database is under
the Open Database License.

Speech2Video divides it 70 : 15 : 15 and speaks of observed people, so --split_by=clip divides the
clips of every actor alike. --split_by=actor keeps people apart, for voices never heard before.

Frames are a square around the face, at 30 per second; boxes follow the face in it. Boxes take out
where a head is and how large, not how it leans: that would need landmarks.
"""

import dataclasses
import functools
import os
import re

import numpy as np
from absl import app, flags

from data_prep import shards
from tfg_jax import errors
from tfg_jax.errors import ConfigError, DataError

CORPUS = 'crema_d'
LICENCE = 'ODbL 1.0, github.com/CheyneyComputerScience/CREMA-D'
FPS = 30
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
_ROOM = 1.6  # side of the square over that of the face: hair, and a chin that moves


@dataclasses.dataclass(frozen=True)
class Source:
  """One clip of the corpus."""

  directory: str
  name: str
  split: str
  identity: int  # number of the actor among all
  size: int

  def __str__(self):
    return self.name


def find_clips(directory) -> list[str]:
  """Names of the clips that have video and sound, without the broken ones, sorted.

  Raises:
    DataError: if there are none, or a name is not the corpus'.
  """
  found = []
  for folder, ending in (('VideoFlash', '.flv'), ('AudioWAV', '.wav')):
    path = os.path.join(directory, folder)
    if not os.path.isdir(path):
      raise DataError(
        f'there is no folder {folder}', where=directory, hint='--input is a copy of CREMA-D'
      )
    found.append({name.removesuffix(ending) for name in os.listdir(path) if name.endswith(ending)})
  names = sorted((found[0] & found[1]) - BROKEN)
  if not names:
    raise DataError('no clip has both video and sound', where=directory)
  for name in names:
    parts = _NAME.fullmatch(name)
    if not parts or parts['emotion'] not in EMOTIONS or parts['sentence'] not in SENTENCES:
      raise DataError(
        f'{name!r} is not ACTOR_SENTENCE_EMOTION_LEVEL', where=directory, hint='move it elsewhere'
      )
  return names


def divide(names, *, by: str, seed: int = 0) -> dict[str, list[str]]:
  """Divides clips 70 : 15 : 15.

  Args:
    names: of clips.
    by: 'clip': each actor's clips are divided, evenly over the emotions; 'actor': the actors are.
    seed: of the shuffling.

  Returns:
    split -> names, sorted.
  """
  rng = np.random.default_rng(seed)
  divided = {split: [] for split in SPLITS}
  actors = sorted({name[:4] for name in names})
  if by == 'actor':
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


@functools.cache
def _detector():
  from tfg_jax import faces

  return faces.mtcnn_detector()


def make_clip(source: Source, *, detector=None):
  """Reads one clip, finds its face and cuts it out.

  Returns:
    `records.Clip` with the extra `identity`, the actor's number among all, and `level`, the
    strength of the emotion as the name has it.

  Raises:
    DataError, MediaError: if a file is damaged or no face is found.
  """
  from tfg_jax import faces, media
  from tfg_jax.data import records

  path = os.path.join(source.directory, 'VideoFlash', f'{source.name}.flv')
  sound = os.path.join(source.directory, 'AudioWAV', f'{source.name}.wav')
  wav = media.read_audio(sound)
  with media.VideoReader(path) as reader:
    pictures = list(reader.scan())
    times = reader.times
  sightings = faces.look_for_faces(iter(pictures), detector or _detector())
  track = faces.follow_face(sightings, times)
  if not track.found.any():
    raise DataError('no face was found', where=path)
  boxes = faces.smooth_boxes(faces.fill_gaps(track, times, 'interpolate'), times, track.cuts)
  if np.isnan(boxes).any():
    raise DataError('a shot of it shows no face', where=path)
  seconds = min(len(wav) / 16_000, times[-1] + 1 / FPS)
  chosen = media.on_screen(times, FPS)[: max(1, int(seconds * FPS))]
  frames, boxes = cut_square([pictures[i] for i in chosen], boxes[chosen], source.size)
  parts = _NAME.fullmatch(source.name)
  return records.Clip(
    clip_id=source.name,
    frames=records.encode_jpegs(frames),
    height=source.size,
    width=source.size,
    fps=float(FPS),
    boxes=boxes,
    wav=wav[: round(len(frames) * 16_000 / FPS)],
    sample_rate=16_000,
    speaker=parts['actor'],
    text=SENTENCES[parts['sentence']],
    emotion=EMOTIONS[parts['emotion']],
    split=source.split,
    extras={'identity': np.array([source.identity]), 'level': [parts['level'].encode()]},
  )


def cut_square(pictures, boxes, size: int):
  """Cuts one square out of all frames, around where the face is in the middle of its ways.

  Args:
    pictures: T RGB uint8 (H, W, 3).
    boxes: (T, 4) float, the face.
    size: of the result, pixels.

  Returns:
    (T, size, size, 3) uint8, black beyond the picture, and the (T, 4) int64 boxes in them.
  """
  import cv2

  from tfg_jax import faces

  middle = np.median((boxes[:, :2] + boxes[:, 2:]) / 2, axis=0)
  side = _ROOM * np.median(np.maximum(*(boxes[:, 2:] - boxes[:, :2]).T))
  scale = size / side
  corner = middle - side / 2
  # Pixel centres stand at whole numbers for OpenCV, half a pixel beside our corners.
  shift = (0.5 - corner) * scale - 0.5
  matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
  how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
  frames = np.stack([cv2.warpAffine(x, matrix, (size, size), flags=how) for x in pictures])
  moved = (boxes - np.tile(corner, 2)) * scale
  return frames, faces.whole_face_boxes(moved, size, size).astype(np.int64)


def prepare(directory, output, *, split_by='clip', seed=0, size=192, workers=1, progress=True):
  """Writes the corpus as records; see `shards.write_corpus` for what it returns and raises.

  Raises:
    ConfigError: for settings that cannot work.
  """
  from tfg_jax.data import records

  if split_by not in ('clip', 'actor'):
    raise ConfigError(f'--split_by={split_by}', hint='use clip or actor')
  if not 32 <= size <= 512:
    raise ConfigError(f'--size={size}; expected 32 to 512 pixels')
  names = find_clips(directory)
  actors = sorted({name[:4] for name in names})
  splits = {
    split: [Source(str(directory), name, split, actors.index(name[:4]), size) for name in own]
    for split, own in divide(names, by=split_by, seed=seed).items()
  }
  info = records.DatasetInfo(
    corpus=CORPUS,
    fps=float(FPS),
    height=size,
    width=size,
    sample_rate=16_000,
    licence=LICENCE,
    preparation=dict(split_by=split_by, seed=seed, size=size, clips=len(names), actors=len(actors)),
  )
  return shards.write_corpus(output, info, splits, make_clip, workers=workers, progress=progress)


def define_flags(values=flags.FLAGS):
  """Defines the flags; other commands have an --output too, so importing this does not."""
  flags.DEFINE_string('input', None, 'A copy of CREMA-D.', flag_values=values)
  flags.DEFINE_string('output', None, 'Directory to write the records to.', flag_values=values)
  flags.DEFINE_enum(
    'split_by',
    'clip',
    ['clip', 'actor'],
    'clip: every actor is in all splits, as in the paper. actor: nobody is in two.',
    flag_values=values,
  )
  flags.DEFINE_integer('seed', 0, 'Of the division.', flag_values=values)
  flags.DEFINE_integer('size', 192, 'Width and height of the frames, pixels.', flag_values=values)
  flags.DEFINE_integer('workers', os.cpu_count(), 'Processes.', flag_values=values)


def main(argv, values=flags.FLAGS):
  errors.check_arguments(argv, values, 'input', 'output')
  info, skipped = prepare(
    values.input,
    values.output,
    split_by=values.split_by,
    seed=values.seed,
    size=values.size,
    workers=values.workers,
  )
  print(shards.summary(values.output, info, skipped))


if __name__ == '__main__':
  define_flags()
  app.run(errors.exit_on_expected_failure(main), flags_parser=errors.parse_flags)
