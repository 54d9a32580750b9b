"""Painting with soft, antialiased shapes on transparent layers.

Positions and widths are in points: a frame is 96 points wide, whatever its size in pixels. Colours
are RGB in 0 to 255. Sprites hold premultiplied RGBA, so that they warp without dark fringes.
"""

import dataclasses
import functools
import math

import cv2
import numpy as np

POINTS = 96  # of a frame, across
OVERSAMPLING = 2  # sprites are this much finer than frames
_SHIFT = 4  # fractional bits of OpenCV's coordinates
_ONE = 1 << _SHIFT


@dataclasses.dataclass(frozen=True, eq=False)
class Sprite:
  """A painted part: (H, W, 4) uint8 premultiplied RGBA, its upper left corner at pixel (x, y)."""

  pixels: np.ndarray
  x: int
  y: int


class Layer:
  """A rectangle of points (x0, y0, x1, y1) to paint on, empty at first.

  Args:
    bounds: of the rectangle; widened to whole pixels.
    scale: pixels per point of the sprite that comes out.
    finer: the painting is this much finer than the sprite.
  """

  def __init__(self, bounds, scale, *, finer=2):
    low = [math.floor(bound * scale) for bound in bounds[:2]]
    high = [math.ceil(bound * scale) for bound in bounds[2:]]
    self._corner, self._finer = low, finer
    self.scale = scale * finer
    self._shape = ((high[1] - low[1]) * finer, (high[0] - low[0]) * finer)
    self._paint = np.zeros((*self._shape, 4), np.float32)
    # From points to OpenCV's fixed-point coordinates, which are those of pixel centres.
    self._offset = np.array([low[0] * finer + 0.5, low[1] * finer + 0.5]) * _ONE

  def mask(self, polygon):
    """(H, W) uint8 coverage of a closed polygon, (N, 2) points; for `inside`."""
    mask = np.zeros(self._shape, np.uint8)
    cv2.fillPoly(mask, [self._fixed(polygon)], 255, cv2.LINE_AA, _SHIFT)
    return mask

  def alpha(self):
    """(H, W) uint8 coverage of everything painted so far; for `inside`."""
    return self._paint[..., 3].astype(np.uint8)

  def fill(self, points, colour, *, opacity=1.0, blur=0.0, inside=None):
    """Fills a closed polygon. `blur` softens its edge (points); `inside` is a mask that cuts it."""
    fixed = self._fixed(points)
    window = self._window(fixed, 3 * blur)
    if window is None:
      return
    mask, moved = _blank(window, fixed)
    cv2.fillPoly(mask, [moved], 255, cv2.LINE_AA, _SHIFT)
    self._blend(mask, window, colour, opacity, blur, inside)

  def stroke(
    self, points, colour, width, *, opacity=1.0, blur=0.0, inside=None, closed=False, taper=False
  ):
    """Draws a line with round ends through (N, 2) points; `taper` thins it towards both ends."""
    if taper:
      points = np.asarray(points)
      direction = np.empty_like(points)
      direction[1:-1] = points[2:] - points[:-2]
      direction[0], direction[-1] = points[1] - points[0], points[-1] - points[-2]
      length = np.hypot(direction[:, 0], direction[:, 1]) + 1e-9
      half = width / 2 * _thinning(len(points)) / length
      normal = np.stack([-direction[:, 1] * half, direction[:, 0] * half], axis=1)
      shape = np.concatenate([points + normal, (points - normal)[::-1]])
      self.fill(shape, colour, opacity=opacity, blur=blur, inside=inside)
      return
    fixed = self._fixed(points)
    window = self._window(fixed, 3 * blur + width)
    if window is None:
      return
    mask, moved = _blank(window, fixed)
    thickness = max(1, round(width * self.scale))
    cv2.polylines(mask, [moved], closed, 255, thickness, cv2.LINE_AA, _SHIFT)
    self._blend(mask, window, colour, opacity, blur, inside)

  def cover(self, colour, *, opacity, inside):
    """Paints wherever the mask is."""
    window = slice(0, self._shape[0]), slice(0, self._shape[1])
    self._blend(inside, window, colour, opacity, 0.0, None)

  def finish(self):
    """What was painted, cut to where there is something, as a Sprite."""
    height, width = self._shape[0] // self._finer, self._shape[1] // self._finer
    paint = self._paint
    if self._finer > 1:
      paint = cv2.resize(paint, (width, height), interpolation=cv2.INTER_AREA)
    pixels = cv2.add(paint, 0.0, dtype=cv2.CV_8U)
    x, y, width, height = cv2.boundingRect(pixels[..., 3])
    return Sprite(
      np.ascontiguousarray(pixels[y : y + height, x : x + width]),
      self._corner[0] + x,
      self._corner[1] + y,
    )

  def _fixed(self, points):
    return np.rint(np.asarray(points) * (self.scale * _ONE) - self._offset).astype(np.int32)

  def _window(self, fixed, margin):
    """Rows and columns that a shape with a margin (points) can touch; None if outside the layer."""
    x, y, width, height = cv2.boundingRect(fixed)
    margin = math.ceil(margin * self.scale) + 1
    top, left = max((y >> _SHIFT) - margin, 0), max((x >> _SHIFT) - margin, 0)
    bottom = min(((y + height) >> _SHIFT) + margin + 1, self._shape[0])
    right = min(((x + width) >> _SHIFT) + margin + 1, self._shape[1])
    if top >= bottom or left >= right:
      return None
    return slice(top, bottom), slice(left, right)

  def _blend(self, mask, window, colour, opacity, blur, inside):
    if blur:
      mask = soften(mask, blur * self.scale)
    if inside is not None:
      mask = cv2.multiply(mask, inside[window], scale=1 / 255)
    share = np.multiply(mask, np.float32(opacity / 255))
    target = self._paint[window]
    change = np.array((*colour, 255), np.float32) - target
    change *= share[..., None]
    target += change


def _blank(window, fixed):
  """An empty mask of the window, and fixed-point coordinates moved into it."""
  rows, columns = window
  mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
  return mask, fixed - np.array([columns.start << _SHIFT, rows.start << _SHIFT], np.int32)


def soften(mask, deviation):
  """Gaussian blur of a mask, `deviation` in pixels; wide ones are done on a smaller picture."""
  if deviation < 6:
    return cv2.GaussianBlur(mask, (0, 0), deviation)
  height, width = mask.shape
  small = cv2.resize(mask, (-(-width // 4), -(-height // 4)), interpolation=cv2.INTER_AREA)
  small = cv2.GaussianBlur(small, (0, 0), deviation / 4)
  return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


@functools.cache
def _thinning(count):
  return np.maximum(1 - np.abs(np.linspace(-1, 1, count)) ** 2.5, 0.12)


@functools.cache
def _arc(start, end, count):
  t = np.radians(np.linspace(start, end, count))
  return np.stack([np.cos(t), np.sin(t)], axis=1)


def ellipse(centre, radius_x, radius_y, *, angle=0.0, start=0.0, end=360.0, count=48):
  """(count, 2) points of an ellipse or arc; angles in degrees, 0 right, 90 down."""
  points = _arc(start, end, count) * (radius_x, radius_y)
  if angle:
    a = math.radians(angle)
    points = points @ np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
  return points + centre


def smooth(points, *, closed=False, per_segment=8):
  """A Catmull-Rom curve through (N, 2) points."""
  points = np.asarray(points, float)
  ends = (points[-1:], points[:2]) if closed else (points[:1], points[-1:])
  p = np.concatenate([ends[0], points, ends[1]])
  t = np.linspace(0, 1, per_segment, endpoint=False)[:, None]
  pieces = [
    0.5
    * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
  ]
  return np.concatenate(pieces + ([] if closed else [points[-1:]]))


def mix(a, b, share):
  """Colour between a (share 0) and b (share 1)."""
  return tuple(x + share * (y - x) for x, y in zip(a, b, strict=True))


def stack(sprites):
  """Several sprites as one, the first below; each stays where it is."""
  left, top = min(s.x for s in sprites), min(s.y for s in sprites)
  right = max(s.x + s.pixels.shape[1] for s in sprites)
  bottom = max(s.y + s.pixels.shape[0] for s in sprites)
  pixels = np.zeros((bottom - top, right - left, 4), np.uint8)
  for s in sprites:
    height, width = s.pixels.shape[:2]
    below = pixels[s.y - top : s.y - top + height, s.x - left : s.x - left + width]
    rest = cv2.bitwise_not(s.pixels[..., 3])
    rest = cv2.merge([rest, rest, rest, rest])
    below[:] = cv2.add(cv2.multiply(below, rest, scale=1 / 255), s.pixels)
  return Sprite(pixels, left, top)


def place(picture, sprite, linear, shift):
  """Puts a sprite into an RGB picture, moved by an affine map; changes the picture.

  Args:
    picture: (H, W, 3) uint8.
    sprite: Sprite.
    linear, shift: (2, 2) and (2,): a point p of the sprite's plane comes to `linear @ p + shift`.
  """
  # Plain numbers: for a few of them numpy takes longer than the pixels do.
  (a, b), (c, d) = linear.tolist()
  height, width = sprite.pixels.shape[:2]
  x = a * sprite.x + b * sprite.y + float(shift[0])
  y = c * sprite.x + d * sprite.y + float(shift[1])
  left = max(math.floor(x + min(a * width, 0) + min(b * height, 0)) - 1, 0)
  top = max(math.floor(y + min(c * width, 0) + min(d * height, 0)) - 1, 0)
  right = max(math.ceil(x + max(a * width, 0) + max(b * height, 0)) + 1, 0)
  bottom = max(math.ceil(y + max(c * width, 0) + max(d * height, 0)) + 1, 0)
  window = picture[top:bottom, left:right]
  if window.size == 0:
    return
  # warpAffine's coordinates are those of pixel centres, at halves.
  x += (a + b - 1) / 2 - left
  y += (c + d - 1) / 2 - top
  matrix = np.array([[a, b, x], [c, d, y]])
  size = window.shape[1], window.shape[0]
  red, green, blue, alpha = cv2.split(cv2.warpAffine(sprite.pixels, matrix, size))
  rest = cv2.bitwise_not(alpha)
  behind = cv2.multiply(window, cv2.merge([rest, rest, rest]), scale=1 / 255)
  window[:] = cv2.add(behind, cv2.merge([red, green, blue]))
