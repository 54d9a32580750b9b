"""Faces in one place and size: a similarity transform of landmarks to a template.

Faces of DAVS by eyes and mouth, as Hangz-nju-cuhk/Talking-Face-Generation-DAVS
`preprocess/face_align.py` has them: pictures are what `cv2.warpAffine` and `cv2.resize` make, so
any pictures aligned officially fit. Portraits of SF2F by the pupils, as HQ-VoxCeleb's are (Bai et
al., 2020, section 3).
"""

import math

import cv2
import numpy as np

SIZE = 260  # side of an aligned face, pixels; networks see the central 256
# Left eye, right eye, middle of the mouth, (x, y) on a canvas of 356 x 436.
_TEMPLATE = np.array([[140, 224], [220, 224], [180, 300]], np.float64)
_CANVAS = (356, 436)
_CROP = slice(104, 372), slice(44, 312)  # rows, columns
_OUTSIDE = (127, 127, 127)
# Left and right pupil in a portrait, (x, y) in shares of its side. Where HQ-VoxCeleb has them is
# not published; here MTCNN's boxes come to lie where the official code cuts the face out,
# `portrait.face_crop`: pupils are at 0.27 and 0.73 of their width, 0.375 of their height.
_PUPILS = ((0.38, 0.465), (0.62, 0.465))
_BACKGROUND = (255, 255, 255)  # as behind the segmented people of HQ-VoxCeleb


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


def align_portrait(picture, left_pupil, right_pupil, size: int):
  """Turns, scales and shifts a picture so that the pupils (x, y) come to their places.

  Takes (H, W, 3) uint8. Returns (S, S, 3) uint8; S is the multiple of `size` that is about as sharp
  as the picture, to be shrunk to `size` by averaging. What lies outside is white.
  """
  left, right = (complex(*point) for point in (left_pupil, right_pupil))
  aim_left, aim_right = (complex(*point) for point in _PUPILS)
  # Of complex numbers x + iy a turn and a scale are one factor.
  turn = (aim_right - aim_left) / (right - left)
  side = size * max(1, math.floor(1 / (size * abs(turn))))
  turn *= side
  shift = aim_left * side - turn * left
  transform = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
  return cv2.warpAffine(picture, transform, (side, side), borderValue=_BACKGROUND)
