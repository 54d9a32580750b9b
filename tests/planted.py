"""Faults planted into clean clips, for the audit to find: `plant` makes a whole record set of them.

shifted        the sound comes 3 frames too early or too late
silent         nothing but the hiss of a quiet room
other sound    that of another clip; clips with this fault pass theirs on in a ring
frozen         one picture stands from some moment of the first half on
two faces      a second head beside the first, both smaller
"""

import dataclasses
import os

import cv2
import numpy as np

from tfg_jax.data import clip_codec, pipeline, records

FAULTS = ('shifted', 'silent', 'other sound', 'frozen', 'two faces')
_SHIFT = 3  # frames


def plant(directory, output, *, share: float = 0.5, seed: int = 0) -> dict[str, str]:
  """Writes the clips of all splits again, `share` of each split with faults, all kinds as often.

  Returns:
    Clip id -> its fault, '' for none.
  """
  info, rng, truth = records.read_info(directory), np.random.default_rng(seed), {}
  os.makedirs(output, exist_ok=True)
  for split in info.clips:
    source = records.RecordSource(directory, split)
    clips = [clip_codec.decode(source[i]) for i in range(len(source))]
    chosen = rng.permutation(len(clips))[: round(share * len(clips))]
    faults = dict(zip(chosen.tolist(), np.resize(FAULTS, len(chosen)).tolist(), strict=True))
    ring = [number for number, fault in faults.items() if fault == 'other sound']
    donors = dict(zip(ring, np.roll(ring, 1).tolist(), strict=True))
    made = []
    for number, clip in enumerate(clips):
      fault = faults.get(number, '')
      truth[clip.clip_id] = fault
      other = clips[donors.get(number, rng.integers(len(clips)))]
      made.append(clip_codec.encode(with_fault(clip, fault, other, rng)))
    records.write_shard(records.shard_path(output, info.corpus, split, 0, 1), made)
  records.finish_dataset(output, info)
  return truth


def with_fault(clip: clip_codec.Clip, fault: str, other: clip_codec.Clip, rng) -> clip_codec.Clip:
  """The clip with one of `FAULTS`; `other` gives its sound or its face."""
  match fault:
    case 'shifted':
      return moved(clip, int(rng.choice([-_SHIFT, _SHIFT])))
    case 'silent':
      hiss = rng.standard_normal(len(clip.wav)) * 32767 * 10 ** (rng.uniform(-72, -60) / 20)
      return dataclasses.replace(clip, wav=np.round(hiss).astype(np.int16))
    case 'other sound':
      return dataclasses.replace(clip, wav=np.resize(other.wav, len(clip.wav)))
    case 'frozen':
      first = int(rng.integers(len(clip.frames) // 2))
      frames = clip.frames[: first + 1] + [clip.frames[first]] * (len(clip.frames) - first - 1)
      boxes = np.concatenate([clip.boxes[:first], np.tile(clip.boxes[first], (len(frames), 1))])
      return dataclasses.replace(clip, frames=frames, boxes=boxes[: len(frames)])
    case 'two faces':
      return _beside(clip, other, rng)
  return clip


def moved(clip: clip_codec.Clip, frames: int) -> clip_codec.Clip:
  """The clip with its sound later by so many frames, filled up with hiss, and all else as it was.

  Not `repair.moved`, which has to undo it.
  """
  samples = round(frames * clip.sample_rate / clip.fps)
  wav = np.roll(clip.wav, samples)
  beyond = slice(0, samples) if samples > 0 else slice(len(wav) + samples, None)
  wav[beyond] = np.random.default_rng(0).integers(-20, 21, len(wav[beyond]))
  return dataclasses.replace(clip, wav=wav)


def _beside(clip, other, rng):
  """Both heads at 0.7 of their size in one picture, before the first one's background, blurred."""
  sides, pictures, boxes = rng.permutation(2), [], []
  heights = rng.uniform(0.05, 0.25, 2)
  ours, theirs = _decoded(clip), _decoded(other)
  for number, box in enumerate(clip.boxes):
    picture = cv2.GaussianBlur(ours[number], None, clip.width / 6)
    heads = (ours[number], box), (theirs[number % len(theirs)], other.boxes[number % len(theirs)])
    for (frame, there), side, height in reversed(list(zip(heads, sides, heights, strict=True))):
      placed = _paste(picture, frame, there, side, height)
    pictures.append(picture)
    boxes.append(placed)
  return dataclasses.replace(clip, frames=clip_codec.encode_jpegs(pictures), boxes=np.array(boxes))


def _paste(picture, frame, box, side, height):
  """Pastes the head of `frame` into one half of `picture`; returns its box there."""
  size, half = picture.shape[0], picture.shape[1] // 2
  x1, y1, x2, y2 = box
  # The head: hair above and beside the box, as wide as half the picture at 0.7 of its size.
  width = round(half / 0.7)
  left = int(np.clip((x1 + x2 - width) // 2, 0, frame.shape[1] - width))
  top = max(0, y1 - (y2 - y1) // 3)
  head = frame[top : y2 + (y2 - y1) // 6, left : left + width]
  small = cv2.resize(head, (half, round(0.7 * len(head))), interpolation=cv2.INTER_AREA)
  above = min(round(height * size), size - len(small))
  picture[above : above + len(small), side * half : side * half + half] = small
  scale = half / width
  corners = np.array([x1 - left, y1 - top, x2 - left, y2 - top]) * scale
  corners += np.array([side * half, above, side * half, above])
  return np.clip(np.rint(corners), 0, size).astype(np.int64)


def _decoded(clip):
  frames = np.empty((len(clip.frames), clip.height, clip.width, 3), np.uint8)
  pipeline.decode_jpegs(clip.frames, frames, where=clip.clip_id)
  return frames
