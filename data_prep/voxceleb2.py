r"""Prepares VoxCeleb2 (Chung et al., 2018): over a million utterances of 6,112 celebrities.

python -m data_prep.voxceleb2 --input=VoxCeleb2 --output=DIR --workers=32

INPUT holds the official download, unpacked: {dev,test}/mp4/PERSON/VIDEO/UTTERANCE.mp4, 224 px face
crops at 25 frames per second, and {dev,test}/aac/PERSON/VIDEO/UTTERANCE.m4a. Only people who have
agreed to its terms get it.

Split test is the official one, of people who are not in dev. A share of dev's videos, with all of
their utterances, becomes valid: other recordings of people who are in train.
"""

import dataclasses
import glob
import os
import zlib

import numpy as np
from absl import app, flags

from data_prep import shards
from tfg_jax import errors
from tfg_jax.errors import ConfigError, DataError

CORPUS = 'voxceleb2'
LICENCE = 'CC BY 4.0 for the metadata; the videos belong to their owners; research use only'
FPS = 25


@dataclasses.dataclass(frozen=True)
class Source:
  """One utterance."""

  video: str  # path
  audio: str
  clip_id: str  # PERSON/VIDEO/UTTERANCE
  split: str
  identity: int  # number of the person among those of the official half
  size: int
  max_frames: int

  def __str__(self):
    return self.clip_id


def find_clips(directory, *, valid_share: float, size: int, max_frames: int):
  """The utterances of both official halves: split -> sources, sorted.

  Raises:
    DataError: if a half is missing or an utterance has no sound.
  """
  splits: dict[str, list[Source]] = {'train': [], 'valid': [], 'test': []}
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
      audio = os.path.join(directory, half, 'aac', *name.split('/')) + '.m4a'
      if not os.path.exists(audio):
        raise DataError(f'utterance {name} has no sound', where=audio)
      person, video, _ = name.split('/')
      # The name decides, so that more people or videos change no other one's split.
      share = zlib.crc32(f'{person}/{video}'.encode()) / 2**32
      split = 'test' if half == 'test' else 'valid' if share < valid_share else 'train'
      splits[split].append(Source(path, audio, name, split, people[person], size, max_frames))
  return splits


def make_clip(source: Source):
  """Reads one utterance; the crops are faces already, so the box is the whole frame.

  Raises:
    DataError, MediaError: if a file is damaged.
  """
  import cv2

  from tfg_jax import media
  from tfg_jax.data import records

  wav = media.read_audio(source.audio)
  with media.VideoReader(source.video, seconds=source.max_frames / FPS) as reader:
    pictures = list(reader.scan())
    times = reader.times
  seconds = min(len(wav) / 16_000, times[-1] + 1 / FPS)
  chosen = media.on_screen(times, FPS)[: max(1, round(seconds * FPS))]
  chosen = chosen[: source.max_frames]
  size = source.size
  frames = [cv2.resize(pictures[i], (size, size), interpolation=cv2.INTER_AREA) for i in chosen]
  return records.Clip(
    clip_id=source.clip_id,
    frames=records.encode_jpegs(frames),
    height=size,
    width=size,
    fps=float(FPS),
    boxes=np.tile(np.array([0, 0, size, size], np.int64), (len(frames), 1)),
    wav=wav[: len(frames) * 16_000 // FPS],
    sample_rate=16_000,
    speaker=source.clip_id.split('/')[0],
    split=source.split,
    extras={'identity': np.array([source.identity])},
  )


def prepare(
  directory, output, *, size=128, valid_share=0.005, max_frames=500, workers=1, progress=True
):
  """Writes the corpus as records; see `shards.write_corpus` for what it returns and raises.

  Raises:
    ConfigError: for settings that cannot work.
  """
  from tfg_jax.data import records

  if not 32 <= size <= 224:
    raise ConfigError(f'--size={size}; expected 32 to 224 pixels')
  if not 0 < valid_share < 1:
    raise ConfigError(f'--valid_share={valid_share}; expected above 0 and below 1')
  splits = find_clips(directory, valid_share=valid_share, size=size, max_frames=max_frames)
  info = records.DatasetInfo(
    corpus=CORPUS,
    fps=float(FPS),
    height=size,
    width=size,
    sample_rate=16_000,
    licence=LICENCE,
    preparation=dict(
      size=size,
      valid_share=valid_share,
      max_frames=max_frames,
      clips=sum(map(len, splits.values())),
    ),
  )
  return shards.write_corpus(output, info, splits, make_clip, workers=workers, progress=progress)


def define_flags(values=flags.FLAGS):
  """Defines the flags; other commands have an --output too, so importing this does not."""
  flags.DEFINE_string('input', None, 'The unpacked VoxCeleb2.', flag_values=values)
  flags.DEFINE_string('output', None, 'Directory to write the records to.', flag_values=values)
  flags.DEFINE_integer('size', 128, 'Width and height of the frames, pixels.', flag_values=values)
  flags.DEFINE_float('valid_share', 0.005, "Share of dev's videos in valid.", flag_values=values)
  flags.DEFINE_integer(
    'max_frames', 500, 'Longer utterances are cut, 25 frames a second.', flag_values=values
  )
  flags.DEFINE_integer('workers', os.cpu_count(), 'Processes.', flag_values=values)


def main(argv, values=flags.FLAGS):
  errors.check_arguments(argv, values, 'input', 'output')
  info, skipped = prepare(
    values.input,
    values.output,
    size=values.size,
    valid_share=values.valid_share,
    max_frames=values.max_frames,
    workers=values.workers,
  )
  print(shards.summary(values.output, info, skipped))


if __name__ == '__main__':
  define_flags()
  app.run(errors.exit_on_expected_failure(main), flags_parser=errors.parse_flags)
