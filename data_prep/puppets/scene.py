"""Frames: a puppet with its head in a pose, before a wall, in some light."""

import dataclasses
import functools
import math

import cv2
import numpy as np

from data_prep.puppets import face, features
from data_prep.puppets.face import MOUTH_Y
from data_prep.puppets.paint import OVERSAMPLING, POINTS, ellipse, mix, place


@dataclasses.dataclass(frozen=True)
class Pose:
  """Of a head.

  Attributes:
    yaw, pitch: -1 to 1, about 20 degrees, to the picture's right and down.
    roll: degrees, clockwise.
    x, y: points, right and down.
  """

  yaw: float = 0.0
  pitch: float = 0.0
  roll: float = 0.0
  x: float = 0.0
  y: float = 0.0

  def map(self, look, depth):
    """From a head's points to the frame's, for parts `depth` points before its axis.

    Returns:
      linear (2, 2) and shift (2,): p comes to `linear @ p + shift`.
    """
    cos, sin = math.cos(math.radians(self.roll)), math.sin(math.radians(self.roll))
    wide = look.size * (1 - 0.05 * self.yaw**2)
    high = look.size * look.length
    linear = np.array([[wide * cos, -high * sin], [wide * sin, high * cos]])
    ahead = depth * np.array([self.yaw, 0.8 * self.pitch])
    return linear, face.CENTRE + (self.x, self.y) + linear @ (ahead - face.CENTRE)


# Depth of the layers, points of parallax at full yaw.
_BACK, _HEAD, _FEATURES, _FRONT = -1.6, 0.0, 3.4, 1.0


def paint_frame(look, size, pose, background, *, lids, gaze, brows, mouth):
  """One frame without light and noise.

  Args:
    look: identity.Look.
    size: of the frame, pixels.
    pose: Pose.
    background: (2 * size, 2 * size, 3) uint8 RGB, see `paint_background`.
    lids, gaze, brows, mouth: see features.paint_features.

  Returns:
    (size, size, 3) uint8 RGB.
  """
  scale = size * OVERSAMPLING / POINTS
  parts = face.still(look, scale)
  jaw = jaw_opening(mouth)
  moving = features.paint_features(look, scale, lids=lids, gaze=gaze, brows=brows, mouth=mouth)
  picture = background.copy()
  body = Pose(x=0.45 * pose.x, y=0.3 * pose.y)
  for sprite, (linear, shift) in (
    (parts.back, pose.map(look, _BACK)),
    (parts.body, body.map(_average_size(look), 0)),
    (parts.heads[round(jaw * (face.JAW_LEVELS - 1))], pose.map(look, _HEAD)),
    (moving, pose.map(look, _FEATURES)),
    (parts.front, pose.map(look, _FRONT)),
  ):
    if sprite.pixels.size:
      place(picture, sprite, linear, shift * scale)
  return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)


def jaw_opening(mouth):
  """How far the jaw has dropped, 0 to 1."""
  return min(max(0.8 * float(mouth[0]) * (1 - float(mouth[6])), 0.0), 1.0)


def face_box(look, size, pose):
  """The face from hairline to chin, with room for an open mouth.

  The box does not follow the chin: the upper half of a face would show how far its mouth is open.

  Returns:
    (4,) int64, x1, y1, x2, y2 in pixels, end-exclusive, inside the frame.
  """
  x1, y1, x2, y2 = face.face_extent(look)
  y2 += face.JAW_DROP
  linear, shift = pose.map(look, _HEAD)
  (a, b), (c, d) = (linear * (size / POINTS)).tolist()
  x, y = ((linear @ ((x1 + x2) / 2, (y1 + y2) / 2) + shift) * (size / POINTS)).tolist()
  # A box around the turned face, not around its turned box: the middles of the sides count.
  across, down = (x2 - x1) / 2, (y2 - y1) / 2
  wide = max(abs(a) * across, abs(b) * down)
  high = max(abs(c) * across, abs(d) * down)
  left, top = (min(max(math.floor(v), 0), size - 1) for v in (x - wide, y - high))
  right, bottom = (min(max(math.ceil(v), 1), size) for v in (x + wide, y + high))
  return np.array([left, top, right, bottom], np.int64)


def mouth_centre(look, size, pose):
  """x, y in pixels of the middle of the mouth at rest."""
  linear, shift = pose.map(look, _FEATURES)
  return (linear @ (48.0, MOUTH_Y) + shift) * (size / POINTS)


@functools.lru_cache(maxsize=64)
def _average_size(look):
  """The look with the proportions of the average: bodies do not stretch with heads."""
  return dataclasses.replace(look, size=1.0, length=1.0)


def paint_background(rng, size, colours):
  """A plain wall with something blurred on it, (2 * size, 2 * size, 3) uint8 RGB."""
  pixels = size * OVERSAMPLING
  share = np.linspace(0, 1, pixels, dtype=np.float32)[:, None, None]
  top, bottom = np.array(colours[0], np.float32), np.array(colours[1], np.float32)
  wall = np.tile(top * (1 - share) + bottom * share, (1, pixels, 1))
  unit = pixels / POINTS
  kind = rng.integers(4)
  accent = mix(colours[1], (255, 255, 255), 0.5)
  if kind == 1:  # lights out of focus
    for _ in range(7):
      centre, radius = rng.uniform(0, POINTS, 2), rng.uniform(4, 11)
      _blot(wall, ellipse(centre, radius, radius) * unit, accent, rng.uniform(0.25, 0.6))
  elif kind == 2:  # a window
    x = rng.choice((4, 62))
    for column in (0, 16):
      for row in (0, 22):
        pane = np.array([(0, 0), (14, 0), (14, 20), (0, 20)]) + (x + column, 8 + row)
        _blot(wall, pane * unit, accent, 0.6)
  elif kind == 3:  # stripes
    for x in np.arange(rng.uniform(0, 12), POINTS, 16):
      stripe = np.array([(x, 0), (x + 7, 0), (x + 7, POINTS), (x, POINTS)])
      _blot(wall, stripe * unit, accent, 0.35)
  return cv2.GaussianBlur(wall, (0, 0), 1.6 * unit).clip(0, 255).astype(np.uint8)


def _blot(wall, polygon, colour, opacity):
  mask = np.zeros(wall.shape[:2], np.uint8)
  cv2.fillPoly(mask, [np.round(polygon).astype(np.int32)], 255)
  wall += (mask[..., None] / np.float32(255) * opacity) * (np.array(colour, np.float32) - wall)


def light_map(rng, size, *, amount=1.0):
  """Light from one side with a tint: (size, size, 3) float32 factors around 1."""
  across = np.linspace(-1, 1, size, dtype=np.float32)
  x, y = np.meshgrid(across, across)
  angle = rng.uniform(0, 2 * np.pi)
  slope = 0.16 * amount * rng.random()
  level = 1 + amount * rng.uniform(-0.12, 0.1)
  tint = 1 + 0.04 * amount * rng.standard_normal() * np.array([1, 0.1, -1])
  field = level + slope * (x * np.cos(angle) + y * np.sin(angle))
  return (field[..., None] * tint).astype(np.float32)


class Grain:
  """Noise of a camera: windows of one larger picture of Gaussian noise, elsewhere in each frame."""

  def __init__(self, rng, size, deviation):
    self._noise = rng.standard_normal((2 * size, 2 * size, 3), dtype=np.float32) * deviation
    self._rng, self._size = rng, size

  def next(self):
    """(size, size, 3) float32."""
    y, x = self._rng.integers(self._size + 1, size=2)
    return self._noise[y : y + self._size, x : x + self._size]


def expose(picture, light, noise):
  """Applies a light map and adds (size, size, 3) float32 noise; uint8 in, uint8 out."""
  lit = cv2.multiply(picture, light, dtype=cv2.CV_32F)
  return cv2.add(lit, noise, dtype=cv2.CV_8U)
