"""Which of the faces in a video speaks: the one whose mouth moves with the sound."""

import dataclasses
from collections.abc import Iterable

import cv2
import numpy as np

from tfg_jax import faces

_SAME = 0.2  # overlap of a face with where it was last seen
_AWAY = 1.0  # seconds; a face that was away for longer begins a new track
# The mouth, as shares of a face box of MTCNN: left, top, right, bottom.
_MOUTH = (0.2, 0.62, 0.8, 1.05)
_PATCH = (24, 16)  # width and height at which the mouth is compared, pixels
_SMOOTHING = 5  # frames
_LAG = 3  # frames by which sound and picture may be off


@dataclasses.dataclass(frozen=True)
class Track:
  """One face through one shot: frames start..stop-1, a box in each."""

  start: int
  stop: int
  boxes: np.ndarray  # (stop - start, 4) float


def face_tracks(sightings: faces.Sightings, times: np.ndarray) -> list[Track]:
  """Follows every face through every shot, in the order in which they begin.

  A face belongs to the track that it overlaps most where that was last seen; between sightings
  boxes are interpolated by time.

  Args:
    sightings: what was seen, see `faces.look_for_faces`.
    times: (T,) seconds.
  """
  done, open_tracks = [], []
  for index in sorted(sightings.faces):
    if sightings.cuts[index]:
      done, open_tracks = done + open_tracks, []
    seen = list(sightings.faces[index])
    pairs = sorted(
      (
        (faces.overlap(track[-1][1], box), number, place)
        for number, track in enumerate(open_tracks)
        for place, box in enumerate(seen)
        if times[index] - times[track[-1][0]] <= _AWAY
      ),
      reverse=True,
    )
    goes_on, placed = set(), set()
    for share, number, place in pairs:
      if share > _SAME and number not in goes_on and place not in placed:
        open_tracks[number].append((index, seen[place]))
        goes_on.add(number)
        placed.add(place)
    open_tracks += [[(index, box)] for place, box in enumerate(seen) if place not in placed]
  tracks = []
  for sighted in sorted(done + open_tracks, key=lambda track: track[0][0]):
    indices, boxes = np.array([index for index, _ in sighted]), np.stack([b for _, b in sighted])
    every = np.arange(indices[0], indices[-1] + 1)
    between = [np.interp(times[every], times[indices], column) for column in boxes.T]
    tracks.append(Track(int(every[0]), int(every[-1]) + 1, np.stack(between, 1)))
  return tracks


def choose(
  tracks: list[Track], pictures: Iterable[np.ndarray], wav: np.ndarray, times: np.ndarray
) -> int:
  """The number of the track whose mouth moves most surely with the sound.

  The certainty is the t statistic of their correlation, so that of two tracks which agree equally
  well with the sound the longer one is chosen. One track alone needs no sound.

  Args:
    tracks: one or more.
    pictures: T RGB uint8 (H, W, 3).
    wav: int16 (N,) at 16 kHz, from the first picture on.
    times: (T,) seconds, evenly spaced.
  """
  if len(tracks) == 1:
    return 0
  motion = mouth_motion(tracks, pictures)
  loudness = sound_level(wav, times)
  certainty = [
    agreement(moves, loudness[track.start : track.stop])
    for track, moves in zip(tracks, motion, strict=True)
  ]
  return int(np.argmax(certainty))


def agreement(motion: np.ndarray, loudness: np.ndarray) -> float:
  """The t statistic of the correlation of two (T,) signals at the best shift within 0.12 s."""
  best = 0.0
  for lag in range(-_LAG, _LAG + 1):
    one = motion[max(lag, 0) : len(motion) + min(lag, 0)]
    other = loudness[max(-lag, 0) : len(loudness) + min(-lag, 0)]
    if len(one) > 2 and one.std() > 0 and other.std() > 0:
      r = np.corrcoef(one, other)[0, 1]
      best = max(best, r * np.sqrt((len(one) - 2) / max(1e-6, 1 - r * r)))
  return float(best)


def mouth_motion(tracks: list[Track], pictures: Iterable[np.ndarray]) -> list[np.ndarray]:
  """How much the mouth of each track changes from frame to frame, (stop - start,) each."""
  motion = [np.zeros(track.stop - track.start) for track in tracks]
  before: list[np.ndarray | None] = [None] * len(tracks)
  for index, picture in enumerate(pictures):
    for number, track in enumerate(tracks):
      if track.start <= index < track.stop:
        patch = _mouth(picture, track.boxes[index - track.start])
        if before[number] is not None:
          motion[number][index - track.start] = np.abs(patch - before[number]).mean()
        before[number] = patch
  return [_smooth(moves) for moves in motion]


def sound_level(wav: np.ndarray, times: np.ndarray) -> np.ndarray:
  """Level of int16 sound at 16 kHz during each frame, (T,): the root of its amplitude."""
  step = times[1] - times[0] if len(times) > 1 else 0.04
  edges = np.rint(np.append(times, times[-1] + step) * 16_000).astype(int)
  squares = np.concatenate([[0], np.cumsum(wav.astype(np.float64) ** 2)])
  edges = np.minimum(edges, len(wav))
  counts = np.maximum(np.diff(edges), 1)
  return _smooth((np.diff(squares[edges]) / counts) ** 0.25)


def _mouth(picture, box):
  """The mouth in grey, `_PATCH`, its light and contrast evened out."""
  x1, y1, x2, y2 = box
  left, top, right, bottom = _MOUTH
  corner = np.array([x1 + left * (x2 - x1), y1 + top * (y2 - y1)])
  scale = np.array([(right - left) * (x2 - x1), (bottom - top) * (y2 - y1)]) / _PATCH
  # OpenCV's coordinates are of pixel centres.
  shift = corner + scale / 2 - 0.5
  matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
  how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
  patch = cv2.warpAffine(picture, matrix, _PATCH, flags=how, borderMode=cv2.BORDER_REPLICATE)
  grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).astype(np.float32)
  return (grey - grey.mean()) / max(float(grey.std()), 4.0)


def _smooth(values):
  """Moving average over `_SMOOTHING` of (T,), fewer at the ends."""
  window = np.ones(_SMOOTHING)
  counts = np.convolve(np.ones(len(values)), window, 'same')[: len(values)]
  return np.convolve(values, window, 'same')[: len(values)] / counts
