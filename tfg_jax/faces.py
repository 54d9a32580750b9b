"""Faces in video: one person's face box for every frame, steady enough to cut and paste by.

    sightings = look_for_faces(frames, mtcnn_detector())     # the slow part; streams
    track = follow_face(sightings, times)                    # one person, with gaps
    boxes = smooth_boxes(fill_gaps(track, times, 'hold'), times, track.cuts)
    boxes = whole_face_boxes(boxes, width, height)           # integers, chin included

Boxes are (T, 4): x1, y1, x2, y2 in pixels, x2 and y2 exclusive; a row of NaN is a frame without
one. Times are seconds. Nothing here depends on a constant frame rate.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable

import cv2
import numpy as np

from tfg_jax.errors import MediaError, MissingDependencyError

Detector = Callable[[list[np.ndarray]], list[np.ndarray]]

GAP_POLICIES = ('keep', 'hold', 'interpolate')
# Short side, in pixels, at which faces are sought: MTCNN finds faces from 20 pixels on, so first
# those from 1/12 of the frame on, at 60 % of the time that the full 360x288 takes and the same
# accuracy (GRID clips); only in frames without one, smaller faces.
_SIDES = (240, 720)
_MIN_SIDE = 48  # below this MTCNN's image pyramid is empty
_CONFIDENCE = 0.9
_CUT = 30  # mean difference of two thumbnails, of 255; heads that move stay below 10
_LOST = 1.0  # seconds; a person who was away for longer may be replaced by another one
_CHIN = 0.06  # of the height, added below: MTCNN ends at the chin of a closed mouth
_MIN_BOX = 8  # pixels
# Seconds; MTCNN's size trembles twice as much as its place.
_CENTRE_WINDOW, _SIZE_WINDOW = 0.24, 0.6


@dataclasses.dataclass(frozen=True)
class Sightings:
  """What a detector saw along a video."""

  faces: dict[int, np.ndarray]  # {frame: (N, 4) boxes}, only of the frames looked at
  cuts: np.ndarray  # (T,) bool, the first frame of each shot


@dataclasses.dataclass(frozen=True)
class FaceTrack:
  """One person's face along a video."""

  boxes: np.ndarray  # (T, 4) float, NaN where there is none
  found: np.ndarray  # (T,) bool
  cuts: np.ndarray  # (T,) bool, the first frame of each shot

  def gaps(self) -> list[tuple[int, int]]:
    """The stretches of frames without the face, as (start, stop)."""
    edges = np.flatnonzero(np.diff(np.r_[True, self.found, True].astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def mtcnn_detector() -> Detector:
  """Loads MTCNN (Zhang et al. 2016) from the `mtcnn` package; weights are inside its wheel.

  Returns:
    A function from a list of RGB uint8 (H, W, 3) frames of one size to their faces, (N, 4) each.

  Raises:
    MissingDependencyError: `mtcnn` or TensorFlow is not installed.
  """
  network = load_mtcnn()

  def detect_at(frames, side):
    short = min(frames[0].shape[:2])
    scale = max(min(1.0, side / short), _MIN_SIDE / short)
    if scale != 1:
      how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
      frames = [cv2.resize(frame, None, fx=scale, fy=scale, interpolation=how) for frame in frames]
    results = network.detect_faces(frames, box_format='xyxy', threshold_onet=_CONFIDENCE)
    return [
      np.array([face['box'] for face in faces], np.float32).reshape(-1, 4) / scale
      for faces in results
    ]

  def detect(frames):
    faces = detect_at(frames, _SIDES[0])
    empty = [index for index, boxes in enumerate(faces) if not len(boxes)]
    if empty and min(frames[0].shape[:2]) > _SIDES[0]:
      again = detect_at([frames[index] for index in empty], _SIDES[1])
      for index, boxes in zip(empty, again, strict=True):
        faces[index] = boxes
    return faces

  return detect


def load_mtcnn():
  """The network of the `mtcnn` package, on the CPU.

  Raises:
    MissingDependencyError: `mtcnn` or TensorFlow is not installed.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # TensorFlow reads it when it is imported
  try:
    import tensorflow as tf
    from mtcnn import MTCNN
  except ImportError as error:
    raise MissingDependencyError(
      f'finding faces needs the package {error.name}',
      hint="pip install 'tfg_jax[demo]', or give the boxes yourself (--box, --boxes)",
    ) from error
  tf.config.set_visible_devices([], 'GPU')  # the accelerator is JAX's
  return MTCNN(device='CPU:0')


def detect_faces(frames: list[np.ndarray], detector: Detector, *, batch: int = 16):
  """All faces of each RGB uint8 (H, W, 3) frame, all of one size: a list of (N, 4) float32."""
  faces = []
  for start in range(0, len(frames), batch):
    faces += detector(frames[start : start + batch])
  return faces


def look_for_faces(
  frames: Iterable[np.ndarray], detector: Detector, *, every: int = 3, batch: int = 16
) -> Sightings:
  """Detects faces along a video that is read once, keeping about `every` x `batch` small frames.

  Looks at each `every`-th frame, and at the ones between where two neighbours disagree: a face
  came, went or moved by half its size, or the shot changed. Every third frame and interpolation
  moves smoothed boxes by 0.3 to 0.45 pixels on faces 140 pixels high (GRID clips), less than MTCNN
  trembles (0.4 to 0.7), in a third of the time.

  Args:
    frames: RGB uint8 (H, W, 3) of one size, in order.
    detector: e.g. `mtcnn_detector()`.
    every: frames from one look to the next; 1 looks at all.
    batch: frames that the detector gets at once.
  """
  faces, cuts = {}, []
  pending = {}  # {frame: picture} since the last look, with the frame of that look
  thumbnail = scale = None

  def look(indices):
    seen = detect_faces([pending[index] for index in indices], detector, batch=batch)
    for index, boxes in zip(indices, seen, strict=True):
      faces[index] = boxes / scale

  def look_at_pending():
    last = max(pending)
    ends = [index for index in pending if index % every == 0 or index == last]
    look([index for index in ends if index not in faces])
    doubtful = []
    for left, right in zip(ends, ends[1:], strict=False):
      if any(cuts[left + 1 : right + 1]) or not _same_faces(faces[left], faces[right]):
        doubtful += range(left + 1, right)
    look(doubtful)
    for index in list(pending):
      if index < last:
        del pending[index]

  for index, frame in enumerate(frames):
    short = min(frame.shape[:2])
    scale = min(1.0, _SIDES[-1] / short)
    if scale < 1:
      frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    before = thumbnail
    thumbnail = cv2.resize(frame, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32)
    cuts.append(before is None or bool(np.abs(thumbnail - before).mean() > _CUT))
    pending[index] = frame
    if index % (every * batch) == 0:
      look_at_pending()
  if pending:
    look_at_pending()
  return Sightings(faces, np.array(cuts, bool))


def follow_face(sightings: Sightings, times: np.ndarray) -> FaceTrack:
  """Follows one person: the largest face of a shot's start, then the one that overlaps it most.

  A face elsewhere is another person, unless the first one has been away for a second. Frames that
  were not looked at are interpolated by time.
  """
  boxes = np.full((len(times), 4), np.nan)
  previous, seen = None, -np.inf
  looked = sorted(sightings.faces)
  for index in looked:
    if sightings.cuts[index] or times[index] - seen > _LOST:
      previous = None
    box = _choose(sightings.faces[index], previous)
    if box is not None:
      boxes[index] = previous = box
      seen = times[index]
  for left, right in zip(looked, looked[1:], strict=False):
    between = np.arange(left + 1, right)
    if len(between) and not np.isnan(boxes[[left, right]]).any():
      boxes[between] = _between(times[between], times[[left, right]], boxes[[left, right]])
  found = ~np.isnan(boxes[:, 0])
  return FaceTrack(boxes, found, sightings.cuts)


def fill_gaps(track: FaceTrack, times: np.ndarray, policy: str) -> np.ndarray:
  """Boxes (T, 4) for frames without a face.

  `keep` leaves them NaN: such frames stay as they are. `hold` goes on with the last box of the
  shot, or the first one before it was seen. `interpolate` goes from the last box to the next one by
  time, and holds where the shot has only one of them. No policy reaches over a cut.
  """
  if policy not in GAP_POLICIES:
    raise ValueError(f'{policy=}; one of {GAP_POLICIES}')
  boxes = track.boxes.copy()
  if policy == 'keep':
    return boxes
  shot = np.cumsum(track.cuts)
  for start, stop in track.gaps():
    for one in np.unique(shot[start:stop]):
      gap = np.flatnonzero(shot[start:stop] == one) + start
      left, right = gap[0] - 1, gap[-1] + 1
      has_left = left >= 0 and shot[left] == one
      has_right = right < len(boxes) and shot[right] == one
      if has_left and has_right and policy == 'interpolate':
        boxes[gap] = _between(times[gap], times[[left, right]], boxes[[left, right]])
      elif has_left or has_right:
        boxes[gap] = boxes[left if has_left else right]
  return boxes


def smooth_boxes(
  boxes: np.ndarray,
  times: np.ndarray,
  cuts: np.ndarray,
  *,
  centre_window: float = _CENTRE_WINDOW,
  size_window: float = _SIZE_WINDOW,
) -> np.ndarray:
  """Averages centre and size over time, (T, 4) -> (T, 4); NaN rows stay.

  The windows are centred (so nothing lags) Hann windows, in seconds. They do not reach over cuts,
  gaps and jumps of half a face.
  """
  if not len(boxes):
    return boxes.copy()
  present = ~np.isnan(boxes[:, 0])
  jumps = np.array([overlap(a, b) < 0.5 for a, b in zip(boxes, boxes[1:], strict=False)], bool)
  breaks = cuts | np.r_[False, jumps | (present[1:] != present[:-1])]
  segment = np.cumsum(breaks)
  centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
  centre = _hann_average(centre, times, segment, centre_window)
  size = _hann_average(size, times, segment, size_window)
  return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def whole_face_boxes(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
  """Adds room for an opening mouth below the chin: (T, 4) float -> what `pixel_boxes` gives."""
  boxes = boxes.copy()
  boxes[:, 3] += _CHIN * (boxes[:, 3] - boxes[:, 1])
  return pixel_boxes(boxes, width, height)


def pixel_boxes(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
  """Rounds and clips boxes to the frame: (T, 4) int32; zeros where under 8 pixels are in it."""
  limits = np.array([width, height, width, height])
  pixels = np.rint(np.clip(np.nan_to_num(boxes), 0, limits)).astype(np.int32)
  pixels[((pixels[:, 2:] - pixels[:, :2]) < _MIN_BOX).any(axis=1)] = 0
  return pixels


def fixed_track(box: list[float], count: int, where: str = '') -> FaceTrack:
  """The same box (x1, y1, x2, y2) in all `count` frames.

  Raises:
    MediaError: the box is not four numbers with x1 < x2 and y1 < y2.
  """
  if len(box) != 4 or not np.isfinite(box).all() or not (box[0] < box[2] and box[1] < box[3]):
    raise MediaError(
      f'{list(box)} is not a box x1,y1,x2,y2 with x1 < x2 and y1 < y2',
      where=where,
      hint='give pixels from the left and the top, as in 80,60,240,220.',
    )
  boxes = np.tile(np.asarray(box, np.float64), (count, 1))
  return _given_track(boxes)


_ROWS = 'save a row x1, y1, x2, y2 for each frame: pixels with x1 < x2, y1 < y2, or NaN.'


def load_track(path, count: int | None = None) -> FaceTrack:
  """Reads boxes from a .npy file of (T, 4) numbers; a row of NaN is a frame without a face.

  Raises:
    MediaError: no such file, not such an array, not one row for each of the `count` frames (None:
      any number will do), or a row that is not a box.
  """
  try:
    boxes = np.load(path, allow_pickle=False)
  except Exception as error:  # numpy meets damage with whatever error its reader trips into
    raise MediaError(
      f'the boxes cannot be read: {error}', where=path, hint='write them with numpy.save.'
    ) from error
  if not isinstance(boxes, np.ndarray) or boxes.ndim != 2 or boxes.shape[1] != 4:
    raise MediaError(
      f'boxes of shape {getattr(boxes, "shape", None)}, not (T, 4)', where=path, hint=_ROWS
    )
  if not np.issubdtype(boxes.dtype, np.number) or np.iscomplexobj(boxes):
    raise MediaError(f'boxes of type {boxes.dtype}, not numbers', where=path, hint=_ROWS)
  if count is not None and len(boxes) != count:
    raise MediaError(f'{len(boxes)} boxes for a video of {count} frames', where=path, hint=_ROWS)
  boxes = boxes.astype(np.float64)
  empty = np.isnan(boxes).all(axis=1)
  wrong = ~empty & ~((boxes[:, :2] < boxes[:, 2:]).all(axis=1) & np.isfinite(boxes).all(axis=1))
  if wrong.any():
    row = int(np.flatnonzero(wrong)[0])
    raise MediaError(
      f'row {row} is {boxes[row].tolist()}, not a box x1, y1, x2, y2', where=path, hint=_ROWS
    )
  return _given_track(boxes)


def _given_track(boxes):
  cuts = np.zeros(len(boxes), bool)
  cuts[:1] = True
  return FaceTrack(boxes, ~np.isnan(boxes[:, 0]), cuts)


def _choose(faces, previous):
  if not len(faces):
    return None
  if previous is None:
    return max(faces, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
  best = max(faces, key=lambda box: overlap(box, previous))
  return best if overlap(best, previous) > 0.1 else None


def _same_faces(one, other):
  """Whether each face of one frame is in about the same place in the other."""
  return len(one) == len(other) and all(max(overlap(a, b) for b in other) > 0.5 for a in one)


def overlap(one, other):
  """Intersection over union of two boxes; NaN boxes give 0."""
  sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
  if not (sides > 0).all():
    return 0.0
  inside = sides.prod()
  return float(inside / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - inside))


def _between(times, ends, boxes):
  """Boxes at `times` on the straight line between two boxes at the two times `ends`."""
  share = ((times - ends[0]) / (ends[1] - ends[0]))[:, None]
  return (1 - share) * boxes[0] + share * boxes[1]


def _hann_average(values, times, segment, window):
  """Weighted averages of rows (T, D) within a centred window of seconds and one segment."""
  averages = values.copy()
  starts = np.maximum(np.searchsorted(times, times - window / 2), np.searchsorted(segment, segment))
  stops = np.minimum(
    np.searchsorted(times, times + window / 2, 'right'), np.searchsorted(segment, segment, 'right')
  )
  for index, (start, stop) in enumerate(zip(starts, stops, strict=True)):
    weights = np.cos(np.pi * (times[start:stop] - times[index]) / window) ** 2
    averages[index] = weights @ values[start:stop] / weights.sum()
  return averages
