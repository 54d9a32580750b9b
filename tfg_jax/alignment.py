"""Faces in one place and size: a similarity transform of landmarks to a template (DAVS).

Source: Hangz-nju-cuhk/Talking-Face-Generation-DAVS, `preprocess/face_align.py`; pictures are what
`cv2.warpAffine` and `cv2.resize` make, so any pictures aligned officially fit.
"""

import cv2
import numpy as np

SIZE = 260  # side of an aligned face, pixels; networks see the central 256
# Left eye, right eye, middle of the mouth, (x, y) on a canvas of 356 x 436.
_TEMPLATE = np.array([[140, 224], [220, 224], [180, 300]], np.float64)
_CANVAS = (356, 436)
_CROP = slice(104, 372), slice(44, 312)  # rows, columns
_OUTSIDE = (127, 127, 127)


def similarity(points, template):
  """Rotation, scale and shift that bring points nearest to a template (Procrustes).

  Args:
    points, template: (N, 2) x and y in pixels.

  Returns:
    (2, 3) float64, to be applied to (x, y, 1).
  """
  points, template = np.asarray(points, np.float64), np.asarray(template, np.float64)
  centre, aim = points.mean(0), template.mean(0)
  points, template = points - centre, template - aim
  # One deviation over x and y together.
  scale, aim_scale = points.std(), template.std()
  u, _, vt = np.linalg.svd((points / scale).T @ (template / aim_scale))
  turn = (aim_scale / scale) * (u @ vt).T
  return np.column_stack([turn, aim - turn @ centre])


def face_transform(left_eye, right_eye, mouth, *, eyes_twice: bool = False):
  """The (2, 3) transform from a picture to the canvas, from three points (x, y).

  `mouth` is the middle of its corners. The official script for LRW lists the `eyes_twice`, which
  lets them weigh more.
  """
  points = np.array([left_eye, right_eye, mouth], np.float64)
  rows = [0, 1, 0, 1, 2] if eyes_twice else [0, 1, 2]
  return similarity(points[rows], _TEMPLATE[rows])


def align_face(picture, transform):
  """(H, W, 3) uint8 to the aligned face, (260, 260, 3) uint8; what lies outside is grey."""
  canvas = cv2.warpAffine(picture, transform, _CANVAS, borderValue=_OUTSIDE)
  return cv2.resize(canvas[_CROP], (SIZE, SIZE))
