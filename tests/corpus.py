"""A tiny corpus for tests: a grey face whose mouth opens as far as the sound is loud.

Four people take turns; every other clip of each is happy, the rest are sad.
"""

import numpy as np

from tfg_jax.data import clip_codec, records

FRAMES, SIZE, RATE = 16, 48, 16_000
BOX = (6, 4, 42, 46)


def clip(number: int, frames: int = FRAMES) -> clip_codec.Clip:
  """Clip `number`: its own face colour, and loudness that changes every 80 ms."""
  rng = np.random.default_rng(number)
  loudness = np.repeat(rng.random(-(-frames // 2)), 2)[:frames]
  skin = rng.integers(120, 220, 3)
  pictures = np.full((frames, SIZE, SIZE, 3), 60, np.uint8)
  x1, y1, x2, y2 = BOX
  pictures[:, y1:y2, x1:x2] = skin
  for picture, open_by in zip(pictures, loudness, strict=True):
    half = 1 + round(6 * open_by)
    picture[34 - half : 34 + half, 16:32] = 20
  carrier = np.sin(2 * np.pi * 440 * np.arange(frames * 640) / RATE)
  wav = (carrier * np.repeat(loudness, 640) * 20_000).astype(np.int16)
  return clip_codec.Clip(
    clip_id=f'clip{number:04d}',
    frames=clip_codec.encode_jpegs(pictures),
    height=SIZE,
    width=SIZE,
    fps=25.0,
    boxes=np.tile(np.array(BOX, np.int64), (frames, 1)),
    wav=wav,
    sample_rate=RATE,
    speaker=f'person{number % 4}',
    text='ba',
    emotion=('happy', 'sad')[number // 4 % 2],
    split='train',
    extras={
      'identity': np.array([number % 4]),
      'word_label': np.array([number % 3]),
      'traits': np.array([number % 4 / 3, number % 2]),
      'portrait': clip_codec.encode_jpegs(pictures[:1]),
    },
  )


def whole_shards(directory) -> int:
  """The number of finished shards, each of which must be whole: every record is read."""
  paths = [path for path in sorted(directory.glob('*.tfrecord'))]
  for path in paths:
    table = records._load_index(str(path))
    frames = [path.read_bytes()[start : start + 16 + length] for start, length in table]
    for number, ((start, length), frame) in enumerate(zip(table, frames, strict=True)):
      clip_codec.decode(records._checked_data(frame, length, path, number, start))
  return len(paths)


def write(directory, *, train: int = 8, valid: int = 3, frames: int = FRAMES):
  """Writes `train` and `valid` clips as one shard each."""
  directory.mkdir(parents=True, exist_ok=True)
  first = 0
  for split, count in (('train', train), ('valid', valid)):
    clips = [clip_codec.encode(clip(first + i, frames)) for i in range(count)]
    records.write_shard(records.shard_path(directory, 'toy', split, 0, 1), clips)
    first += count
  records.finish_dataset(
    directory,
    records.DatasetInfo(
      corpus='toy',
      fps=25.0,
      height=SIZE,
      width=SIZE,
      sample_rate=RATE,
      licence='CC0',
      preparation={},
    ),
  )
  return directory
