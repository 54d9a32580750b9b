"""The still parts of a puppet: body, head, hair. Painted once for each identity.

A head faces the viewer with its middle at x = 48; the pupils lie at y = 45, the mouth at 66, the
chin at 82 (points, see paint.py).
"""

import dataclasses
import functools
import math

import cv2
import numpy as np

from data_prep.puppets.paint import Layer, Sprite, ellipse, mix, smooth, soften

# Where the parts can be, points; sway brings some of what lies outside the frame into view.
_BODY = (-14, 60, 110, 118)
_HEAD = (10, 6, 86, 92)
_HAIR = (-2, -12, 98, 114)
CENTRE = np.array([48.0, 50.0])  # about which heads turn
EYE_Y, EYE_X = 45.0, 11.6  # EYE_X: of a pupil from the middle
MOUTH_Y = 66.5
CHIN_Y = 82.0
BROW_Y = 35.5
SKULL_Y = 13.0
HALF_WIDTH = 27.5

JAW_LEVELS = 16
JAW_DROP = 6.0  # points that the chin falls at the widest opening

_HINGE_Y = 56.0  # below here the face moves with the jaw


@dataclasses.dataclass(frozen=True)
class Still:
  """The still sprites of one look: hair is behind the head (`back`) and before it (`front`)."""

  body: Sprite
  back: Sprite
  heads: tuple[Sprite, ...]  # one for each of JAW_LEVELS, from closed to wide open
  front: Sprite


@functools.lru_cache(maxsize=64)
def still(look, scale):
  """`Still` of a look at `scale` pixels per point, kept for the next clip of the same identity."""
  head = _paint_head(look, scale)
  drops = np.linspace(0, JAW_DROP, JAW_LEVELS)
  return Still(
    body=_paint_body(look, scale),
    back=_paint_back_hair(look, scale),
    heads=tuple(_drop_jaw(head, drop, scale) for drop in drops),
    front=_paint_front_hair(look, scale),
  )


def outline(look, *, grow=0.0):
  """(N, 2) points around the head, without ears; `grow` moves them outwards by points."""
  t = np.radians(np.linspace(0, 360, 97)[:-1])
  x, y = np.sin(t), -np.cos(t)
  # Below the cheeks: a squarer curve, narrowed by the jaw.
  power = np.where(y > 0, 0.86, 1.0)
  x = np.sign(x) * np.abs(x) ** power
  down = np.clip(y, 0, 1)
  width = (HALF_WIDTH + grow) * (1 - (0.2 - 0.55 * (look.jaw - 0.97)) * down**1.6)
  top, bottom = 46 - SKULL_Y + grow, CHIN_Y - 46 + grow
  return np.stack([48 + x * width, 46 + np.where(y < 0, y * top, y * bottom)], axis=1)


@functools.lru_cache(maxsize=64)
def face_extent(look):
  """x1, y1, x2, y2 in points of the face with the jaw closed: cheek to cheek, hairline to chin."""
  x = outline(look)[:, 0]
  return float(x.min()), SKULL_Y + 9, float(x.max()), CHIN_Y


def darker(colour, share):
  """Shadow on a surface: towards a warm dark tone, not grey."""
  return mix(colour, (56, 18, 30), share)


def lighter(colour, share):
  """An RGB colour, mixed with a share in [0, 1] of warm white."""
  return mix(colour, (255, 248, 236), share)


def _drop_jaw(head, drop, scale):
  """Stretches the face below the hinge so that the chin falls by `drop` points."""
  height, width = head.pixels.shape[:2]
  y = (np.arange(height + math.ceil(drop * scale)) + head.y + 0.5) / scale
  span = CHIN_Y - _HINGE_Y
  stretched = _HINGE_Y + (y - _HINGE_Y) * span / (span + drop)
  source = np.select([y < _HINGE_Y, y > CHIN_Y + drop], [y, y - drop], stretched)
  rows = (source * scale - head.y - 0.5).astype(np.float32)
  map_y = np.repeat(rows[:, None], width, axis=1)
  map_x = np.tile(np.arange(width, dtype=np.float32), (len(rows), 1))
  return Sprite(cv2.remap(head.pixels, map_x, map_y, cv2.INTER_LINEAR), head.x, head.y)


def _paint_body(look, scale):
  layer = Layer(_BODY, scale)
  skin, shirt = look.skin, look.shirt
  neck = 10 + 6 * (look.jaw - 0.8) / 0.3
  shoulders = smooth(
    [(48 - 52, 122), (48 - 44, 100), (48 - 30, 93), (48 - neck - 1, 88), (48 + neck + 1, 88),
     (48 + 30, 93), (48 + 44, 100), (48 + 52, 122)]
  )  # fmt: skip
  layer.fill(shoulders, shirt)
  inside = layer.alpha()
  layer.fill(ellipse((48, 122), 60, 16), darker(shirt, 0.5), opacity=0.6, blur=6, inside=inside)
  layer.fill(ellipse((30, 96), 16, 5), lighter(shirt, 0.5), opacity=0.35, blur=3, inside=inside)
  column = [(48 - neck, 66), (48 - neck, 89), (48, 96), (48 + neck, 89), (48 + neck, 66)]
  layer.fill(smooth(column, closed=True), darker(skin, 0.12))
  # What the chin keeps the light from.
  throat = layer.mask(smooth(column, closed=True))
  layer.fill(
    ellipse((48, 80), neck + 8, 8), darker(skin, 0.65), opacity=0.65, blur=2, inside=throat
  )
  collar = smooth([(48 - neck - 1.5, 88), (48 - neck * 0.6, 93), (48, 96.5), (48 + neck * 0.6, 93),
                   (48 + neck + 1.5, 88)])  # fmt: skip
  layer.stroke(collar, darker(shirt, 0.25), 2.2)
  layer.stroke(collar - (0, 0.5), lighter(shirt, 0.2), 0.9)
  return layer.finish()


def _paint_head(look, scale):
  layer = Layer(_HEAD, scale)
  skin = look.skin
  for side in (-1, 1):
    x = 48 + side * (HALF_WIDTH - 0.4)
    size = look.ears
    layer.fill(ellipse((x, 49), 4.6 * size, 7 * size, angle=-8 * side), darker(skin, 0.06))
    layer.fill(
      ellipse((x + side * 0.6, 49.2), 2.4 * size, 4.4 * size, angle=-8 * side),
      darker(skin, 0.4), opacity=0.6, blur=0.6,
    )  # fmt: skip
  edge = outline(look)
  inside = layer.mask(edge)
  layer.fill(edge, skin)
  # Round: darker towards the rim, most below and on the right.
  for grow, shift, opacity in ((-1.0, (-1.4, -1.6), 0.30), (-4.0, (-1.6, -2.4), 0.22)):
    rim = inside.copy()
    hole = layer.mask(outline(look, grow=grow) + shift)
    soft = soften(cv2.bitwise_not(hole), (1.2 - 0.6 * grow) * layer.scale)
    rim = cv2.multiply(rim, soft, scale=1 / 255)
    layer.cover(darker(skin, 0.5), opacity=opacity, inside=rim)
  layer.fill(ellipse((42, 28), 13, 8), lighter(skin, 0.7), opacity=0.34, blur=5, inside=inside)
  # Eye sockets, cheeks, chin.
  blush = 0.18 + 0.28 * np.mean(skin) / 255
  for side in (-1, 1):
    x = 48 + side * EYE_X * look.eye_gap
    layer.fill(
      ellipse((x, EYE_Y - 1), 7.6, 6), darker(skin, 0.35), opacity=0.3, blur=2, inside=inside
    )
    layer.fill(
      ellipse((48 + side * 16.5, 57.5), 5.6, 4), mix(skin, (226, 58, 66), 0.55), opacity=blush,
      blur=2.4, inside=inside,
    )  # fmt: skip
  layer.fill(
    ellipse((48, CHIN_Y - 3.5), 6, 3), lighter(skin, 0.5), opacity=0.26, blur=1.8, inside=inside
  )
  _paint_age(layer, look, inside)
  _paint_beard(layer, look, inside)
  return layer.finish()


def _paint_age(layer, look, inside):
  """Freckles and wrinkles."""
  skin = look.skin
  if look.freckles > 0.1:
    spots = np.random.default_rng(7).uniform((-1, -1), (1, 1), (9, 2)) * (6.0, 3.0)
    for side in (-1, 1):
      for x, y in spots:
        layer.fill(
          ellipse((48 + side * (15 + x), 55.5 + y), 0.62, 0.62), darker(skin, 0.5),
          opacity=0.75 * look.freckles, inside=inside,
        )  # fmt: skip
  if look.wrinkles > 0.1:
    line = darker(skin, 0.5)
    strength = 0.25 + 0.45 * look.wrinkles
    for y in (25.0, 28.6):
      curve = smooth([(37, y), (43, y - 0.9), (48, y + 0.2), (53, y - 0.9), (59, y)])
      layer.stroke(curve, line, 0.9, opacity=strength, blur=0.2, inside=inside, taper=True)
    for side in (-1, 1):
      fold = smooth([(48 + side * x, y) for x, y in ((7.0, 57.0), (11.5, 60.5), (14.5, 66))])
      layer.stroke(fold, line, 1.1, opacity=strength, blur=0.3, inside=inside, taper=True)
      bag = ellipse((48 + side * EYE_X, EYE_Y + 4.6), 5.4, 2.4, start=25, end=155)
      layer.stroke(bag, line, 0.9, opacity=strength, blur=0.3, inside=inside, taper=True)


def _paint_beard(layer, look, inside):
  hair = look.hair_colour
  if look.beard == 'full':
    edge = outline(look, grow=1.2)
    jaw = edge[edge[:, 1] > 51]
    jaw = jaw[np.argsort(np.arctan2(jaw[:, 0] - 48, jaw[:, 1] - 51))]
    cheeks = smooth([(72, 52), (67, 62), (60, 61.2), (53, 60.6), (48, 61.4), (43, 60.6), (36, 61.2),
                     (29, 62), (24, 52)])  # fmt: skip
    shape = np.concatenate([jaw, cheeks])
    layer.fill(shape, hair, opacity=0.95, blur=0.35)
    layer.fill(ellipse((48, 85), 18, 6), darker(hair, 0.5), opacity=0.35, blur=3, inside=inside)
  elif look.beard == 'goatee':
    shape = smooth([(42, 75.5), (48, 74.6), (54, 75.5), (54.5, 80), (51, 84.5), (45, 84.5),
                    (41.5, 80)], closed=True)  # fmt: skip
    layer.fill(shape, hair, opacity=0.95, blur=0.3)


def _strands(layer, curves, colour, width, *, opacity, inside):
  for curve in curves:
    layer.stroke(smooth(curve), colour, width, opacity=opacity, inside=inside, taper=True)


def _paint_back_hair(look, scale):
  layer = Layer(_HAIR, scale)
  hair, dark = look.hair_colour, darker(look.hair_colour, 0.35)
  style = look.hair
  if style == 'bob':
    shape = [(48, 6), (66, 9), (78, 24), (81, 46), (80, 64), (76, 74), (66, 77), (48, 74),
             (30, 77), (20, 74), (16, 64), (15, 46), (18, 24), (30, 9)]  # fmt: skip
    layer.fill(smooth(shape, closed=True), dark)
    layer.fill(smooth(np.array(shape) * (0.96, 1) + (48 * 0.04, -2), closed=True), hair,
               opacity=0.8, blur=1.5, inside=layer.alpha())  # fmt: skip
  elif style == 'long':
    shape = [(48, 6), (66, 9), (78, 24), (81, 50), (83, 76), (86, 100), (80, 112), (48, 112),
             (16, 112), (10, 100), (13, 76), (15, 50), (18, 24), (30, 9)]  # fmt: skip
    layer.fill(smooth(shape, closed=True), dark)
    inside = layer.alpha()
    curves = [
      [(48 + s * x, 22), (48 + s * (x + 5), 52), (48 + s * (x + 4), 80), (48 + s * (x + 8), 108)]
      for s in (-1, 1)
      for x in (22, 25, 28)
    ]
    _strands(layer, curves, lighter(hair, 0.1), 2.6, opacity=0.6, inside=inside)
  elif style == 'bun':
    layer.fill(ellipse((48, 4.5), 11, 9.5), hair)
    layer.fill(ellipse((48, 9), 9, 5), dark, opacity=0.7, blur=1.5, inside=layer.alpha())
    layer.fill(ellipse((44, 1), 4, 3), lighter(hair, 0.5), opacity=0.4, blur=1.2,
               inside=layer.alpha())  # fmt: skip
    layer.fill(ellipse((48, 34), 30.5, 28), dark)
  elif style == 'bunches':
    for side in (-1, 1):
      x = 48 + side * 36
      shape = [(x - side * 7, 28), (x + side * 2, 24), (x + side * 9, 36), (x + side * 9, 54),
               (x + side * 2, 68), (x - side * 4, 54)]  # fmt: skip
      layer.fill(smooth(shape, closed=True), hair)
      layer.fill(ellipse((x + side * 5, 54), 4, 14), dark, opacity=0.5, blur=2,
                 inside=layer.alpha())  # fmt: skip
      layer.fill(ellipse((x - side * 5.5, 30), 3.2, 3.2), (236, 74, 96))
    layer.fill(ellipse((48, 34), 30.5, 28), dark)
  elif style == 'curly':
    for x, y, r in _curls(36, 31.5, 205, -25):
      layer.fill(ellipse((x, y), r, r), dark)
  elif style in ('short', 'parted', 'quiff'):
    layer.fill(ellipse((48, 34), 29.6, 26), dark)
  return layer.finish()


def _curls(radius_x, radius_y, start, end):
  """Centres and radii of the curls around a head."""
  angles = np.radians(np.linspace(start, end, 15))
  for number, angle in enumerate(angles):
    r = 8.2 + 1.5 * np.sin(2.7 * number)
    yield 48 + (radius_x - 6) * np.cos(angle), 38 - (radius_y - 3) * np.sin(angle), r


def _paint_front_hair(look, scale):
  layer = Layer(_HAIR, scale)
  hair = look.hair_colour
  dark, light = darker(hair, 0.4), lighter(hair, 0.35)
  style = look.hair
  edge = outline(look, grow=1.6)
  cap = edge[edge[:, 1] < 46]
  cap = cap[np.argsort(cap[:, 0])]
  left, right = cap[0, 0], cap[-1, 0]

  def crown(hairline):
    """Hair between the skull and a hairline that runs from the right temple to the left."""
    layer.fill(np.concatenate([cap, smooth(hairline)]), hair)

  if style in ('short', 'buzz', 'parted', 'quiff', 'bun', 'bunches', 'bob', 'long', 'curly'):
    lines = {
      'short': [(right, 44), (73.5, 36), (69, 27), (60, 24.5), (48, 23.5), (36, 24.5), (27, 27),
                (22.5, 36), (left, 44)],
      'buzz': [(right, 42), (73, 33), (67, 24), (58, 22.4), (48, 23.4), (38, 22.4), (29, 24),
               (23, 33), (left, 42)],
      'parted': [(right, 46), (73, 38), (69, 30), (58, 27.5), (44, 24), (34, 18), (31, 22),
                 (24.5, 32), (left, 46)],
      'quiff': [(right, 44), (73, 35), (68, 25), (58, 22.5), (48, 22), (38, 22.5), (28, 25),
                (23, 35), (left, 44)],
      'bun': [(right, 44), (73, 34), (64, 23), (54, 19.5), (48, 19), (42, 19.5), (32, 23),
              (23, 34), (left, 44)],
      'bunches': [(right, 44), (72, 33), (63, 25), (54, 22), (48, 17), (42, 22), (33, 25),
                  (24, 33), (left, 44)],
      'bob': [(right, 46), (73.5, 40), (70, 30.5), (60, 29.5), (48, 30.5), (36, 29.5), (26, 30.5),
              (22.5, 40), (left, 46)],
      'long': [(right, 48), (73, 40), (68, 28), (58, 22), (48, 17.5), (38, 22), (28, 28),
               (23, 40), (left, 48)],
      'curly': [(right, 42), (73, 34), (67, 26), (58, 24), (48, 23), (38, 24), (29, 26), (23, 34),
                (left, 42)],
    }  # fmt: skip
    crown(lines[style])
  if style == 'quiff':
    shape = [(24, 26), (22, 14), (30, 4), (46, -1), (62, 0), (74, 8), (74, 22), (66, 25), (56, 21),
             (44, 24), (34, 22)]  # fmt: skip
    layer.fill(smooth(shape, closed=True), hair)
  if style == 'short':
    for x in np.linspace(28, 66, 7):
      tuft = [(x - 4, 24), (x + 1, 29.5 + 1.2 * np.sin(x)), (x + 5, 23), (x, 18)]
      layer.fill(smooth(tuft, closed=True), hair)
  if style in ('bob', 'long'):
    low = 68 if style == 'bob' else 92
    for side in (-1, 1):
      lock = [(48 + side * 24, 24), (48 + side * 30.5, 34), (48 + side * 32.5, 50),
              (48 + side * 31, low), (48 + side * 26.5, low - 2), (48 + side * 26.5, 50),
              (48 + side * 24.5, 38)]  # fmt: skip
      layer.fill(smooth(lock, closed=True), hair)
  if style == 'curly':
    for x, y, r in _curls(32, 30, 200, -20):
      layer.fill(ellipse((x, min(y, 34)), r * 0.78, r * 0.78), hair)
    for number, x in enumerate(np.linspace(30, 66, 7)):
      layer.fill(ellipse((x, 21 + 1.5 * np.cos(number)), 5.4, 5.0), hair)
  if style == 'bald':
    for side in (-1, 1):
      tuft = [(48 + side * 27, 36), (48 + side * 30.5, 39), (48 + side * 31, 48),
              (48 + side * 27.5, 51), (48 + side * 26, 44)]  # fmt: skip
      layer.fill(smooth(tuft, closed=True), hair)
    layer.fill(ellipse((40, 21), 7, 3.6, angle=20), (255, 255, 250), opacity=0.4, blur=1.6)
    return layer.finish()
  inside = layer.alpha()
  # A band of light over the crown, strands, and the shade at the hairline's ends.
  shine = 0.16 if style == 'buzz' else 0.4
  arc = ellipse((48, 42), 21, 28, start=208, end=300)
  layer.stroke(arc, light, 3.2, opacity=shine, blur=1.3, inside=inside, taper=True)
  for side in (-1, 1):
    layer.fill(ellipse((48 + side * 30, 40), 5, 14), dark, opacity=0.5, blur=2.4, inside=inside)
  if style in ('short', 'parted', 'quiff', 'bun', 'bob', 'long', 'bunches'):
    start = {'parted': (33, 17), 'quiff': (66, 8), 'bun': (48, 10)}.get(style, (48, 12))
    ends = {
      'parted': [(66, 28), (70, 34), (56, 26), (26, 30)],
      'quiff': [(26, 20), (34, 20), (46, 20), (58, 19)],
    }.get(style, [(26, 34), (34, 24), (62, 24), (70, 34)])
    curves = [[start, ((start[0] + x) / 2, (start[1] + y) / 2 - 3.5), (x, y)] for x, y in ends]
    _strands(layer, curves, dark, 1.0, opacity=0.45, inside=inside)
  return layer.finish()
