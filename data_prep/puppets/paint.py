"""Painting with soft, antialiased shapes on transparent layers.

Positions and widths are in points: a frame is 96 points wide, whatever its size in pixels. Colours are
RGB in 0 to 255. Layers hold premultiplied RGBA, so that they can be warped without dark fringes.
"""

import cv2
import numpy as np

POINTS = 96  # of a frame, across
OVERSAMPLING = 2  # layers are this much finer than frames
_SHIFT = 4  # fractional bits of OpenCV's coordinates
_FINER = 2  # painting is this much finer than layers


class Layer:
  """A rectangle of points (x0, y0, x1, y1) to paint on, empty at first."""

  def __init__(self, bounds, pixels_per_point):
    self.bounds = bounds
    self.scale = pixels_per_point * _FINER
    width, height = bounds[2] - bounds[0], bounds[3] - bounds[1]
    self._shape = (round(height * self.scale), round(width * self.scale))
    self._paint = np.zeros((*self._shape, 4), np.float32)

  def mask(self, polygons):
    """(H, W) uint8 coverage of closed polygons, each (N, 2) points; for `inside`."""
    mask = np.zeros(self._shape, np.uint8)
    cv2.fillPoly(mask, [self._fixed(p) for p in polygons], 255, cv2.LINE_AA, _SHIFT)
    return mask

  def fill(self, points, colour, *, opacity=1.0, blur=0.0, inside=None):
    """Fills a closed polygon. `blur` softens its edge (points); `inside` is a mask that cuts it."""
    points = np.asarray(points)
    window = self._window(points, 3 * blur + 1)
    if window is None:
      return
    rows, columns = window
    mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
    fixed = self._fixed(points, rows.start, columns.start)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, _SHIFT)
    self._blend(mask, window, colour, opacity, blur, inside)

  def stroke(
    self, points, colour, width, *, opacity=1.0, blur=0.0, inside=None, closed=False, taper=False
  ):
    """Draws a line with round ends through (N, 2) points; `taper` thins it towards both ends."""
    points = np.asarray(points)
    if taper:
      along = np.linspace(-1, 1, len(points))[:, None]
      half = width / 2 * np.maximum(1 - np.abs(along) ** 2.5, 0.12)
      direction = np.gradient(points, axis=0)
      direction /= np.linalg.norm(direction, axis=1, keepdims=True) + 1e-9
      normal = direction[:, ::-1] * (-1, 1) * half
      outline = np.concatenate([points + normal, (points - normal)[::-1]])
      self.fill(outline, colour, opacity=opacity, blur=blur, inside=inside)
      return
    window = self._window(points, 3 * blur + width + 1)
    if window is None:
      return
    rows, columns = window
    mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
    fixed = self._fixed(points, rows.start, columns.start)
    thickness = max(1, round(width * self.scale))
    cv2.polylines(mask, [fixed], closed, 255, thickness, cv2.LINE_AA, _SHIFT)
    self._blend(mask, window, colour, opacity, blur, inside)

  def erase(self, mask):
    """Makes transparent what the mask covers."""
    self._paint *= 1 - mask[..., None].astype(np.float32) / 255

  def finish(self):
    """The layer as (H, W, 4) uint8, premultiplied RGBA."""
    size = self._shape[1] // _FINER, self._shape[0] // _FINER
    small = cv2.resize(self._paint, size, interpolation=cv2.INTER_AREA)
    return np.clip(small + 0.5, 0, 255).astype(np.uint8)

  def alpha(self):
    """(H, W) uint8 coverage of everything painted so far; for `inside`."""
    return self._paint[..., 3].astype(np.uint8)

  def _fixed(self, points, row=0, column=0):
    # Half a pixel: OpenCV's coordinates are those of pixel centres.
    pixels = (np.asarray(points) - self.bounds[:2]) * self.scale - 0.5 - (column, row)
    return np.round(pixels * (1 << _SHIFT)).astype(np.int32)

  def _window(self, points, margin):
    """Rows and columns that a shape can touch, None if they lie outside the layer."""
    low = np.floor((points.min(0) - margin - self.bounds[:2]) * self.scale).astype(int)
    high = np.ceil((points.max(0) + margin - self.bounds[:2]) * self.scale).astype(int) + 1
    low, high = np.maximum(low, 0), np.minimum(high, self._shape[::-1])
    if (low >= high).any():
      return None
    return slice(low[1], high[1]), slice(low[0], high[0])

  def _blend(self, mask, window, colour, opacity, blur, inside):
    if blur:
      mask = cv2.GaussianBlur(mask, (0, 0), blur * self.scale)
    cover = mask.astype(np.float32)
    cover *= opacity / 255
    if inside is not None:
      cover *= inside[window].astype(np.float32) / 255
    target = self._paint[window]
    source = np.array((*colour, 255), np.float32)
    target += cover[..., None] * (source - target)


def ellipse(centre, radius_x, radius_y, *, angle=0.0, start=0.0, end=360.0, count=48):
  """(count, 2) points of an ellipse or arc; angles in degrees, 0 right, 90 down."""
  t = np.radians(np.linspace(start, end, count))
  points = np.stack([radius_x * np.cos(t), radius_y * np.sin(t)], axis=1)
  a = np.radians(angle)
  turn = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
  return points @ turn + centre


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
  return tuple(float(x) for x in np.add(np.multiply(a, 1 - share), np.multiply(b, share)))


def compose(picture, layer):
  """Puts a premultiplied RGBA layer over an RGB picture of the same size; both uint8."""
  red, green, blue, alpha = cv2.split(layer)
  rest = cv2.bitwise_not(alpha)
  picture = cv2.multiply(picture, cv2.merge([rest, rest, rest]), scale=1 / 255)
  return cv2.add(picture, cv2.merge([red, green, blue]))


def compose_into(below, above):
  """Puts one premultiplied RGBA layer over another of the same size, in place; both uint8."""
  alpha = above[..., 3]
  rest = cv2.bitwise_not(alpha)
  rest = cv2.merge([rest, rest, rest, rest])
  below[:] = cv2.add(cv2.multiply(below, rest, scale=1 / 255), above)
