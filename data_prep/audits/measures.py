"""What can be measured of one record by itself: its pictures, its boxes and its sound."""

import dataclasses
import hashlib

import cv2
import numpy as np

from tfg_jax.data import clip_codec, pipeline

_TICK = 0.04  # seconds, the grain of levels
_QUIET = -50.0  # dB of full scale; a room is below, speech is above
_FLOOR = -100.0  # dB, of digital silence
# Mean difference of two pictures, of 255: below, it is one picture twice. The noise of a camera
# makes 0.5 or more of it, also behind an H.264 encoder that did not skip the picture.
_SAME = 0.1
_THUMBNAIL = 64  # pixels, at which pictures are compared
_FLAT = 3  # samples on end at one extreme value are cut off, not loud


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measures:
  """One row of `audit.csv`.

  Attributes:
    clip, split, speaker, text: as in the record; `number` is its place in the split.
    seconds: of its pictures; sound_seconds of its sound.
    fps: frames per second; source_fps: before they were resampled, NaN where the record does not
      know; distinct_fps: pictures per second that differ from the one before.
    face_height: median of the boxes, pixels; face_share: of the picture's area.
    jitter: how far the box trembles, root mean square of the second difference of its centre, in
      percent of its height.
    level: of the loud parts of the sound (95th percentile of 40 ms), dB of full scale.
    silence: share of its 40 ms that are below -50 dB.
    clipping: share of its samples that are cut off.
    still: longest stretch of one and the same picture, seconds.
    faces_found: share of the pictures looked at in which the detector finds the face of the boxes;
      faces_beside: in which it finds another one. NaN if nobody looked.
    match, confidence, offset: see `tfg_jax.metrics.sync.Agreement`; NaN without a sync expert.
    sound_hash, pictures_hash: equal for copies.
  """

  number: int
  clip: str
  split: str
  speaker: str
  text: str
  seconds: float
  sound_seconds: float
  fps: float
  source_fps: float
  distinct_fps: float
  face_height: float
  face_share: float
  jitter: float
  level: float
  silence: float
  clipping: float
  still: float
  sound_hash: str
  pictures_hash: str
  faces_found: float = float('nan')
  faces_beside: float = float('nan')
  match: float = float('nan')
  confidence: float = float('nan')
  offset: float = float('nan')


def decode(clip: clip_codec.Clip, where: str) -> np.ndarray:
  """Its pictures, (T, H, W, 3) uint8 RGB."""
  frames = np.empty((len(clip.frames), clip.height, clip.width, 3), np.uint8)
  pipeline.decode_jpegs(clip.frames, frames, where=where)
  return frames


def measure(clip: clip_codec.Clip, frames: np.ndarray, number: int) -> Measures:
  """Measures record `number` of its split; `frames` are what `decode` returns."""
  level, silence = sound_level(clip.wav, clip.sample_rate)
  changed = changes(frames) > _SAME
  sides = (clip.boxes[:, 2:] - clip.boxes[:, :2]).astype(float)
  source = clip.extras.get('source_fps', ())
  return Measures(
    number=number,
    clip=clip.clip_id,
    split=clip.split,
    speaker=clip.speaker,
    text=clip.text,
    seconds=len(frames) / clip.fps,
    sound_seconds=len(clip.wav) / clip.sample_rate,
    fps=clip.fps,
    source_fps=float(source[0]) if len(source) else float('nan'),
    distinct_fps=clip.fps * (1 + changed.sum()) / len(frames),
    face_height=float(np.median(sides[:, 1])),
    face_share=float(np.median(sides.prod(1)) / (clip.height * clip.width)),
    jitter=box_jitter(clip.boxes),
    level=level,
    silence=silence,
    clipping=clipping(clip.wav),
    still=(longest(~changed) + 1) / clip.fps if len(frames) > 1 else 0.0,
    sound_hash=hashlib.sha256(clip.wav.tobytes()).hexdigest()[:16],
    pictures_hash=hashlib.sha256(b''.join(clip.frames)).hexdigest()[:16],
  )


def changes(frames: np.ndarray) -> np.ndarray:
  """How far each picture (T, H, W, 3) differs from the one before: (T - 1,), of 255."""
  size = (_THUMBNAIL, _THUMBNAIL)
  small = [cv2.resize(x, size, interpolation=cv2.INTER_AREA).astype(np.float32) for x in frames]
  return np.array([np.abs(a - b).mean() for a, b in zip(small, small[1:], strict=False)])


def longest(true: np.ndarray) -> int:
  """Length of the longest run of True."""
  edges = np.flatnonzero(np.diff(np.r_[False, true, False].astype(int)))
  return int(np.max(edges[1::2] - edges[::2], initial=0))


def box_jitter(boxes: np.ndarray) -> float:
  """See `Measures.jitter`; boxes are (T, 4)."""
  if len(boxes) < 3:
    return 0.0
  centres = (boxes[:, :2] + boxes[:, 2:]) / 2
  bends = np.linalg.norm(np.diff(centres, n=2, axis=0), axis=1)
  height = max(1.0, float(np.median(boxes[:, 3] - boxes[:, 1])))
  return 100 * float(np.sqrt(np.mean(bends**2))) / height


def sound_level(wav: np.ndarray, rate: int) -> tuple[float, float]:
  """`level` and `silence` of int16 sound; no sound at all is silent."""
  tick = round(_TICK * rate)
  count = len(wav) // tick
  if not count:
    return _FLOOR, 1.0
  ticks = wav[: count * tick].reshape(count, tick).astype(np.float64) / 32768
  levels = 10 * np.log10(np.maximum(np.square(ticks).mean(1), 10 ** (_FLOOR / 10)))
  return float(np.percentile(levels, 95)), float((levels < _QUIET).mean())


def clipping(wav: np.ndarray) -> float:
  """Share of the samples of int16 sound that stand flat at its positive or negative extreme."""
  if len(wav) < _FLAT or np.abs(wav.astype(int)).max() < 16_384:
    return 0.0
  wide = wav.astype(int)
  flat = 0
  for extreme in (wide.max(), wide.min()):
    at = np.r_[False, np.abs(wide - extreme) <= 1, False]
    edges = np.flatnonzero(np.diff(at.astype(int)))
    runs = edges[1::2] - edges[::2]
    flat += runs[runs >= _FLAT].sum()
  return float(flat / len(wav))
