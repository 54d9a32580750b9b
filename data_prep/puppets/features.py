"""The moving parts of a puppet's face: eyes, brows and, above all, the mouth."""

import functools

import numpy as np

from data_prep.puppets.face import BROW_Y, EYE_X, EYE_Y, MOUTH_Y, darker, lighter
from data_prep.puppets.paint import Layer, ellipse, mix, smooth, stack

# Where each of them can be, points.
_EYES = (22, 34, 74, 54)
_BROWS = (22, 24, 74, 44)
_NOSE = (16, 34, 80, 64)
_MOUTH = (26, 56, 70, 94)

HALF_MOUTH = 11.8  # points, at rest
MOUTH_GAP = 14.0  # points between the lips at `open` 1

_TEETH, _CAVITY, _TONGUE = (252, 250, 244), (64, 14, 24), (222, 92, 100)
_LINE = (46, 26, 32)

# From the left corner of the mouth to the right one.
_ALONG = np.linspace(-1, 1, 41)
_BELL = 1 - _ALONG**2
_BOW = (
  1
  + 0.22 * np.exp(-(((np.abs(_ALONG) - 0.27) / 0.18) ** 2))
  - 0.2 * np.exp(-((_ALONG / 0.13) ** 2))
)


def paint_features(look, scale, *, lids, gaze, brows, mouth):
  """Eyes, brows, nose and mouth of one frame.

  Args:
    look: identity.Look.
    scale: pixels per point.
    lids: openness of the eyes, 0 closed, 1 normal, up to 1.4.
    gaze: (x, y) in [-1, 1], where the eyes look.
    brows: (inner, outer) in about [-1, 1], up is positive.
    mouth: the eight visemes.ARTICULATORS.

  Returns:
    paint.Sprite.
  """
  # A few positions of eyes and brows look as good as all of them, and can be kept.
  x, y = gaze
  inner, outer = brows
  return stack(
    [
      _eyes(look, scale, round(lids * 6), round(x * 2), round(y * 2)),
      _brows(look, scale, round(inner * 8), round(outer * 8)),
      _nose(look, scale),
      _mouth(look, scale, tuple(round(float(value) * 100) for value in mouth)),
    ]
  )


@functools.lru_cache(maxsize=2048)
def _eyes(look, scale, lids, gaze_x, gaze_y):
  layer = Layer(_EYES, scale)
  for side in (-1, 1):
    _paint_eye(layer, look, side, lids / 6, (gaze_x / 2, gaze_y / 2))
  return layer.finish()


@functools.lru_cache(maxsize=2048)
def _brows(look, scale, inner, outer):
  layer = Layer(_BROWS, scale)
  for side in (-1, 1):
    _paint_brow(layer, look, side, inner / 8, outer / 8)
  return layer.finish()


@functools.lru_cache(maxsize=64)
def _nose(look, scale):
  """The nose and what hangs on it: moustache and glasses."""
  layer = Layer(_NOSE, scale)
  _paint_nose(layer, look)
  if look.beard in ('moustache', 'full'):
    _paint_moustache(layer, look)
  if look.glasses:
    _paint_glasses(layer, look)
  return layer.finish()


def _paint_eye(layer, look, side, lids, gaze):
  x, size = 48 + side * EYE_X * look.eye_gap, look.eyes
  rx, up, down = 5.9 * size, 5.0 * size, 4.0 * size
  u = np.linspace(-1, 1, 25)
  bell = (1 - u**2) ** 0.62
  upper = np.stack([x + rx * u, EYE_Y - bell * (up * lids - 2.2 * (1 - min(lids, 1)))], axis=1)
  lower = np.stack([x + rx * u, EYE_Y + bell * (down * (0.55 + 0.45 * min(lids, 1)))], axis=1)
  upper[:, 1] = np.minimum(upper[:, 1], lower[:, 1])
  shape = np.concatenate([upper, lower[::-1]])
  lid = darker(look.skin, 0.22)
  # The lid that comes down, and its crease.
  socket = ellipse((x, EYE_Y), rx + 0.3, up * 1.05)
  if lids < 0.95:
    layer.fill(socket, lid, opacity=0.85, blur=0.3)
  crease = np.stack([x + rx * 0.95 * u, EYE_Y - 1.1 - bell * (up * max(lids, 0.7) + 0.9)], axis=1)
  layer.stroke(crease, darker(look.skin, 0.5), 0.8, opacity=0.45, taper=True)
  if lids > 0.12:
    inside = layer.mask(shape)
    layer.fill(shape, (252, 252, 250))
    pupil = np.array([x + gaze[0] * 1.5 - side * 0.25, EYE_Y - 0.35 + gaze[1] * 1.0])
    r = 3.75 * size
    layer.fill(ellipse(pupil, r, r), darker(look.iris, 0.55), inside=inside)
    layer.fill(ellipse(pupil, r * 0.84, r * 0.84), look.iris, inside=inside)
    layer.fill(ellipse(pupil + (0, r * 0.45), r * 0.6, r * 0.4), lighter(look.iris, 0.55),
               opacity=0.6, blur=0.4, inside=inside)  # fmt: skip
    layer.fill(ellipse(pupil, r * 0.5, r * 0.5), (14, 10, 14), inside=inside)
    shade = np.concatenate([upper, (upper + (0, 2.0))[::-1]])
    layer.fill(shade, (80, 60, 84), opacity=0.35, blur=0.5, inside=inside)
    layer.fill(ellipse(pupil + (-1.2 * size, -1.4 * size), 1.15 * size, 1.15 * size),
               (255, 255, 255), inside=inside)  # fmt: skip
    layer.fill(ellipse(pupil + (1.2 * size, 1.3 * size), 0.5, 0.5), (255, 255, 255),
               opacity=0.8, inside=inside)  # fmt: skip
  width = 1.9 if look.lashes else 1.45
  layer.stroke(upper, _LINE, width, taper=True)
  layer.stroke(lower, darker(look.skin, 0.55), 0.7, opacity=0.6, taper=True)
  if look.lashes:
    corner = upper[-4 if side > 0 else 3]
    for reach, rise in ((2.6, 1.3), (1.7, 2.3)):
      tip = corner + (side * reach, -rise * (0.4 + 0.6 * min(lids, 1)))
      layer.stroke(np.linspace(corner, tip, 5), _LINE, 0.9)


def _paint_brow(layer, look, side, inner, outer):
  points = [
    (48 + side * 6.0, BROW_Y + 0.8 - 3.6 * inner),
    (48 + side * 10.5, BROW_Y - 0.9 - 2.6 * inner - 0.6 * outer),
    (48 + side * 15.0, BROW_Y - 1.0 - 1.0 * inner - 2.2 * outer),
    (48 + side * 19.2, BROW_Y + 1.6 - 2.8 * outer),
  ]
  colour = darker(look.hair_colour, 0.3)
  if abs(np.mean(colour) - np.mean(look.skin)) < 45:
    colour = darker(look.hair_colour, 0.6)
  layer.stroke(smooth(points), colour, 2.7 * look.brow, taper=True)


def _paint_nose(layer, look):
  skin, n = look.skin, look.nose
  y = 55.5
  side = smooth([(49.6, 46.5), (50.6, 50.5), (48 + 3.8 * n, y - 1.5)])
  layer.stroke(side, darker(skin, 0.5), 1.6, opacity=0.3, blur=0.6, taper=True)
  layer.fill(ellipse((48.5, y + 1.2), 4.7 * n, 3.1 * n), darker(skin, 0.55), opacity=0.5, blur=0.8)
  for s in (-1, 1):
    layer.fill(ellipse((48 + s * 3.4 * n, y + 0.5), 1.9 * n, 1.6 * n), darker(skin, 0.14))
  layer.fill(ellipse((48, y - 0.2), 3.9 * n, 3.1 * n), mix(skin, (232, 96, 84), 0.16))
  layer.fill(ellipse((46.8, y - 1.5), 1.5 * n, 1.0 * n), lighter(skin, 0.6), opacity=0.7, blur=0.5)
  for s in (-1, 1):
    layer.fill(
      ellipse((48 + s * 2.0 * n, y + 2.0 * n), 1.0 * n, 0.6 * n), darker(skin, 0.75),
      opacity=0.75, blur=0.15,
    )  # fmt: skip


def _paint_moustache(layer, look):
  for side in (-1, 1):
    shape = [(48, 58.4), (48 + side * 5, 58.6), (48 + side * 10.5, 61.2), (48 + side * 5, 61.0),
             (48, 60.8)]  # fmt: skip
    layer.fill(smooth(shape, closed=True), look.hair_colour)
    layer.fill(ellipse((48 + side * 4, 59.2), 3.5, 0.7), lighter(look.hair_colour, 0.4),
               opacity=0.4, blur=0.5)  # fmt: skip


def _paint_glasses(layer, look):
  frame = (44, 40, 58) if np.mean(look.skin) > 110 else (196, 160, 70)
  for side in (-1, 1):
    centre = (48 + side * EYE_X * look.eye_gap, EYE_Y + 0.6)
    if look.glasses == 'round':
      rim = ellipse(centre, 8.6, 8.2)
    else:
      t = np.radians(np.linspace(0, 360, 49)[:-1])
      corner = np.stack([np.cos(t), np.sin(t)], axis=1)
      rim = np.sign(corner) * np.abs(corner) ** 0.5 * (8.8, 6.8) + centre
    layer.fill(rim, (255, 255, 255), opacity=0.1)
    layer.stroke(rim, frame, 1.25, closed=True)
    glint = [(centre[0] - 5.2, centre[1] - 1.5), (centre[0] - 2.6, centre[1] - 5.0)]
    layer.stroke(np.array(glint), (255, 255, 255), 0.9, opacity=0.55)
    ear = [(centre[0] + side * 8.6, centre[1] - 1.5), (48 + side * 27.5, EYE_Y - 0.6)]
    layer.stroke(np.array(ear), frame, 1.2)
  gap = EYE_X * look.eye_gap - 8.5
  layer.stroke(ellipse((48, EYE_Y + 0.2), gap, 1.8, start=180, end=360), frame, 1.2)


def mouth_contours(look, mouth):
  """Shape of the lips.

  Args:
    look: identity.Look.
    mouth: (8,) visemes.ARTICULATORS.

  Returns:
    Four curves from the left corner to the right, (41, 2) points each: upper edge of the upper lip,
    its lower edge, upper edge of the lower lip, its lower edge.
  """
  opening, width, rounding, _, _, tuck, press, smile = mouth
  half = HALF_MOUTH * look.mouth
  half *= 1 + 0.27 * width - 0.2 * rounding + 0.12 * max(smile, 0) - 0.05 * abs(min(smile, 0))
  gap = max(opening, 0) * MOUTH_GAP * (1 - 0.92 * press)
  # Corners rise with a smile; the middle sinks a little, so that the mouth stays where it is.
  bend = -(1.4 + 3.2 * smile) * (np.abs(_ALONG) ** 1.8 - 0.3)
  fullness = look.lips * (1 - 0.42 * press) * (1 + 0.35 * rounding - 0.12 * max(width, 0))
  inner_upper = bend - 0.24 * gap * _BELL**0.6
  inner_lower = bend + 0.76 * gap * _BELL**0.55
  outer_upper = inner_upper - 3.0 * fullness * _BELL**0.75 * _BOW
  # Tucked in, little of the lower lip remains to be seen.
  outer_lower = inner_lower + 4.0 * fullness * (1 - 0.5 * tuck) * _BELL**0.65
  x = 48 + half * _ALONG
  outer_x = 48 + (half + 0.5 + 0.9 * rounding) * _ALONG
  return tuple(
    np.stack([across, MOUTH_Y + down], axis=1)
    for across, down in (
      (outer_x, outer_upper),
      (x, inner_upper),
      (x, inner_lower),
      (outer_x, outer_lower),
    )
  )


@functools.lru_cache(maxsize=1024)  # most hits are closed mouths in silence
def _mouth(look, scale, percent):
  mouth = [value / 100 for value in percent]
  *_, teeth, tongue, tuck, press, smile = mouth
  outer_upper, inner_upper, inner_lower, outer_lower = mouth_contours(look, mouth)
  layer = Layer(_MOUTH, scale, finer=1)
  skin = look.skin
  # Redder than the skin, and on dark skin lighter too: lips are there to be read.
  red = (178, 36, 58) if np.mean(skin) > 110 else (206, 92, 104)
  lip = mix(skin, red, 0.58 if look.lashes else 0.46)
  below = (48.0, outer_lower[20, 1] + 1.6)
  layer.fill(ellipse(below, 6.5, 1.5), darker(skin, 0.5), opacity=0.4, blur=0.9)

  layer.fill(np.concatenate([outer_upper, inner_upper[::-1]]), darker(lip, 0.2))
  lower_lip = np.concatenate([inner_lower, outer_lower[::-1]])
  layer.fill(lower_lip, lip)
  shine = (inner_lower * 0.45 + outer_lower * 0.55)[12:25]
  thickness = outer_lower[20, 1] - inner_lower[20, 1]
  layer.stroke(shine, lighter(lip, 0.6), 0.36 * thickness, opacity=0.6, blur=0.35, taper=True)

  gap = inner_lower[20, 1] - inner_upper[20, 1]
  if gap > 0.3:
    _paint_inside(layer, inner_upper, inner_lower, gap, teeth, tongue, tuck)
  dark = darker(lip, 0.85)
  line = max(0.7, 1.5 - 0.25 * gap) + 0.35 * press
  layer.stroke(inner_upper, dark, line, taper=True)
  if gap > 1:
    layer.stroke(inner_lower, darker(lip, 0.5), 0.6, taper=True)
  for side, corner in ((-1, inner_upper[0]), (1, inner_upper[-1])):
    # Corners, and the folds that a smile presses into the cheeks.
    layer.fill(ellipse(corner + (side * 0.5, 0), 1.0, 0.8), darker(skin, 0.7), opacity=0.55,
               blur=0.4)  # fmt: skip
    if smile > 0.2:
      fold = smooth([corner + (side * 1.6, -3.4), corner + (side * 3.2, -0.4),
                     corner + (side * 2.4, 2.6)])  # fmt: skip
      layer.stroke(fold, darker(skin, 0.5), 0.9, opacity=0.55 * smile, blur=0.25, taper=True)
  return layer.finish()


def _paint_inside(layer, upper, lower, gap, teeth, tongue, tuck):
  """Teeth, tongue and darkness between the lips."""
  hole = np.concatenate([upper, lower[::-1]])
  inside = layer.mask(hole)
  layer.fill(hole, _CAVITY)
  if gap > 0.9:
    # The tongue lies on the floor, or rises behind the teeth, or comes out between them.
    rise = 0.3 + 0.5 * min(tongue / 0.65, 1)
    floor = lower[20, 1]
    half = (lower[-1, 0] - lower[0, 0]) / 2
    layer.fill(
      ellipse((48, floor + 0.15 * gap), 0.62 * half, gap * (rise + 0.1)), _TONGUE, inside=inside
    )
    layer.fill(
      ellipse((48, floor - gap * rise * 0.62), 0.3 * half, 0.14 * gap), lighter(_TONGUE, 0.5),
      opacity=0.5, blur=0.4, inside=inside,
    )  # fmt: skip
  if teeth > 0.08:
    # Both rows when the jaw is nearly closed; the upper one stays in sight when it drops.
    row = min(0.56 * gap, 3.6) * min(1.0, 0.25 + teeth)
    ends = 1 - np.abs(_ALONG)[:, None] ** 6
    layer.fill(np.concatenate([upper - (0, 0.5), (upper + ends * (0, row))[::-1]]), _TEETH,
               inside=inside)  # fmt: skip
    low = max(0.0, teeth - 0.55) / 0.45 * min(1.0, 4.0 / max(gap, 0.1))
    if low > 0.05:
      layer.fill(np.concatenate([lower + (0, 0.5), (lower - ends * (0, 0.36 * gap * low))[::-1]]),
                 mix(_TEETH, (200, 190, 190), 0.3), inside=inside)  # fmt: skip
  if tongue > 0.72:
    tip = (tongue - 0.72) / 0.28
    layer.fill(ellipse((48, upper[20, 1] + 0.62 * gap), 4.6, (0.34 * gap + 1.0) * tip), _TONGUE)
    layer.fill(ellipse((47.4, upper[20, 1] + 0.5 * gap), 2.2, 0.16 * gap * tip),
               lighter(_TONGUE, 0.6), opacity=0.6, blur=0.3)  # fmt: skip
  if tuck > 0.15:
    # The upper teeth bite on the lower lip.
    bite = upper[7:34]
    down = min(gap + 1.6 * tuck, 4.0) * min(1.0, 1.4 * tuck)
    down = down * (1 - np.abs(np.linspace(-1, 1, len(bite)))[:, None] ** 5)
    layer.fill(np.concatenate([bite - (0, 0.2), (bite + down * (0, 1))[::-1]]), _TEETH)
