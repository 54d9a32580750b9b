"""Puppets as files, to try a system on: what one would otherwise film, photograph and record."""

import dataclasses
import pathlib
import wave

import numpy as np

from tfg_jax import media
from tfg_jax.data import clip_codec, pipeline, records

_ENDINGS = {'video': 'mp4', 'image': 'png', 'audio': 'wav', 'boxes': 'npy'}


@dataclasses.dataclass(frozen=True)
class Puppet:
  """The files of one puppet; where its face is goes with them, as detectors know few puppets."""

  video: str  # with its sound
  image: str  # its first frame
  audio: str
  boxes: str  # a .npy, of the faces in the video
  box: str  # x1,y1,x2,y2 of the face in the picture


def find(root: str, count: int) -> list[clip_codec.Clip]:
  """Clips that no training has seen, from the records in `root` if they are of puppets; else new.

  Raises:
    MissingDependencyError: new ones are to be made without the extra `puppet`.
  """
  from data_prep import puppet

  if root and pathlib.Path(root, records.INFO_NAME).exists():
    info = records.read_info(root)
    if info.corpus == puppet.CORPUS:
      for split in ('test', 'valid'):
        if info.clips.get(split):
          return _spread(root, split, count)
  from data_prep.puppets import clip

  settings = clip.Settings(seed=1, size=192)
  return [clip.make_clip(settings, number) for number in range(count)]


def _spread(root, split, count):
  """Clips of different puppets, as far as there are."""
  source = records.RecordSource(root, split)
  clips = [clip_codec.decode(source[number]) for number in range(min(len(source), 8 * count))]
  first = {clip.speaker: clip for clip in reversed(clips)}
  rest = [clip for clip in clips if first[clip.speaker] is not clip]
  return [*reversed(first.values()), *rest][:count]


def write(clip: clip_codec.Clip, folder: pathlib.Path, name: str) -> Puppet:
  """Writes the files of a clip, NAME.mp4, NAME.png and so on, into a folder that is made."""
  folder.mkdir(parents=True, exist_ok=True)
  frames = np.zeros((len(clip.frames), clip.height, clip.width, 3), np.uint8)
  pipeline.decode_jpegs(clip.frames, frames, where=f'clip {clip.clip_id}')
  paths = {kind: str(folder / f'{name}.{ending}') for kind, ending in _ENDINGS.items()}
  with media.VideoWriter(
    paths['video'], clip.width, clip.height, clip.fps, audio=(clip.wav, clip.sample_rate)
  ) as writer:
    for frame in frames:
      writer.write(frame)
  pathlib.Path(paths['image']).write_bytes(clip_codec.encode_pngs(frames[:1])[0])
  with wave.open(paths['audio'], 'wb') as sound:
    sound.setparams((1, 2, clip.sample_rate, 0, 'NONE', ''))
    sound.writeframes(clip.wav.astype('<i2').tobytes())
  np.save(paths['boxes'], clip.boxes.astype(float))
  return Puppet(box=','.join(map(str, clip.boxes[0])), **paths)
