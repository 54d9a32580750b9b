"""Faces aligned by their eyes and mouth: what DAVS is fed with."""

import itertools
from collections.abc import Callable, Iterable

import numpy as np

from tfg_jax import faces
from tfg_jax.errors import DataError

# RGB frames of one size -> for each the (3, 2) points left eye, right eye, middle of the mouth (as
# one sees them, x and y in pixels) of its largest face, or None.
Detector = Callable[[list[np.ndarray]], list[np.ndarray | None]]

_BATCH = 16  # frames that the detector gets at once
_SMOOTHING = 5  # frames; MTCNN's points tremble by about a pixel


def mtcnn_landmarks() -> Detector:
  """Loads MTCNN (Zhang et al. 2016) from the `mtcnn` package; weights are inside its wheel.

  Raises:
    MissingDependencyError: `mtcnn` or TensorFlow is not installed.
  """
  network = faces.load_mtcnn()

  def detect(frames):
    return [_largest(seen) for seen in network.detect_faces(frames, box_format='xyxy')]

  return detect


def _largest(seen):
  """The three points of the largest of MTCNN's faces."""
  if not seen:
    return None

  def area(face):
    x1, y1, x2, y2 = face['box']
    return (x2 - x1) * (y2 - y1)

  points = max(seen, key=area)['keypoints']
  eyes = sorted([points['left_eye'], points['right_eye']])  # by x: left first
  mouth = np.mean([points['mouth_left'], points['mouth_right']], axis=0)
  return np.array([*eyes, mouth], np.float64)


def aligned_faces(frames: Iterable[np.ndarray], detector: Detector, *, eyes_twice: bool = False):
  """Brings the face of every frame to one place and size, `tfg_jax.alignment`.

  Frames without a face take its points from their neighbours; points are averaged over 0.2 s of
  video.

  Args:
    frames: T RGB uint8 (H, W, 3), T >= 1; gone through twice.
    detector: e.g. `mtcnn_landmarks()`.
    eyes_twice: see `alignment.face_transform`.

  Returns:
    (T, 260, 260, 3) uint8.

  Raises:
    DataError: if no frame has a face.
  """
  from tfg_jax import alignment

  found = [points for batch in _batches(frames) for points in detector(batch)]
  known = [index for index, points in enumerate(found) if points is not None]
  if not known:
    raise DataError('no face was found')
  tracks = np.stack([found[index] for index in known]).reshape(len(known), -1)
  every = np.arange(len(found))
  points = np.stack([np.interp(every, known, track) for track in tracks.T], axis=1)
  points = _smooth(points).reshape(-1, 3, 2)
  return np.stack(
    [
      alignment.align_face(frame, alignment.face_transform(*three, eyes_twice=eyes_twice))
      for frame, three in zip(frames, points, strict=True)
    ]
  )


def _batches(frames):
  frames = iter(frames)
  while batch := list(itertools.islice(frames, _BATCH)):
    yield batch


def _smooth(values):
  """Moving average of (T, D) over `_SMOOTHING` rows; the first and last row repeat beyond."""
  half = _SMOOTHING // 2
  padded = np.pad(values, ((half, half), (0, 0)), 'edge')
  windows = np.lib.stride_tricks.sliding_window_view(padded, _SMOOTHING, axis=0)
  return windows.mean(axis=-1)
