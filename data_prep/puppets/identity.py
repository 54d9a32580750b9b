"""Who the puppets are: a face and a voice that belong together, and the moods that change both.

What can be heard can be seen, as far as people are like that:

    vocal tract (formants)   size and length of the head
    pitch                    jaw, brows, beard; smaller eyes and fuller hair go with low and high
    age (rate, roughness)    grey hair, wrinkles, glasses
    breath in the voice      freckles

Skin, eye, hair and shirt colours are free: no voice tells them.
"""

import dataclasses
import zlib

import numpy as np

from data_prep.puppets.voice import Voice

# RGB, light to dark.
_SKINS = (
  (255, 224, 200),
  (248, 208, 176),
  (238, 190, 150),
  (222, 168, 124),
  (198, 140, 98),
  (166, 112, 76),
  (132, 86, 60),
  (102, 66, 48),
)
_HAIRS = (
  (38, 30, 32),
  (74, 46, 32),
  (120, 72, 40),
  (176, 84, 36),
  (226, 180, 98),
  (150, 48, 60),
  (70, 84, 150),
  (40, 130, 130),
)
_GREYS = ((196, 196, 200), (232, 230, 226))
_IRISES = ((84, 54, 36), (62, 110, 168), (70, 130, 84), (120, 132, 140), (150, 104, 40))
_SHIRTS = (
  (214, 74, 66),
  (52, 112, 180),
  (64, 148, 104),
  (244, 186, 66),
  (128, 86, 164),
  (240, 132, 80),
  (60, 66, 84),
  (236, 232, 224),
)
_BEHIND = (
  ((186, 214, 232), (226, 238, 242)),
  ((244, 222, 190), (252, 240, 222)),
  ((190, 216, 188), (228, 240, 222)),
  ((222, 200, 226), (242, 232, 244)),
  ((96, 112, 140), (156, 172, 192)),
  ((236, 196, 186), (250, 228, 220)),
  ((92, 138, 138), (160, 196, 190)),
)
_LOW_STYLES = ('short', 'buzz', 'quiff', 'bald', 'curly', 'parted')
_HIGH_STYLES = ('bob', 'long', 'bun', 'curly', 'parted', 'bunches')

_GOLDEN = (np.sqrt(5) - 1) / 2
_PLASTIC = 1.324717957244746  # spreads points evenly in the plane, as the golden ratio on a line


def generator(*key):
  """A numpy random generator for a key of integers and names."""
  entropy = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
  return np.random.default_rng(entropy)


@dataclasses.dataclass(frozen=True)
class Look:
  """A face. Sizes are relative to an average face, 1 unless said; colours are RGB in 0 to 255."""

  size: float
  length: float
  jaw: float  # width of the lower face
  eyes: float
  eye_gap: float
  brow: float  # thickness
  nose: float
  lips: float  # fullness
  mouth: float  # width
  ears: float
  hair: str  # style
  beard: str  # '', 'moustache', 'goatee' or 'full'
  glasses: str  # '', 'round' or 'square'
  wrinkles: float  # 0 to 1
  freckles: float  # 0 to 1
  lashes: bool
  skin: tuple[int, int, int]
  hair_colour: tuple[int, int, int]
  iris: tuple[int, int, int]
  shirt: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Identity:
  """One puppet. `traits` are what face and voice share, each in [0, 1]."""

  number: int
  name: str
  look: Look
  voice: Voice
  traits: dict[str, float]

  def attributes(self):
    """What a viewer could say of the face in words: name -> word."""
    age = self.traits['age']
    return {
      'hair': self.look.hair,
      'beard': self.look.beard or 'none',
      'glasses': self.look.glasses or 'none',
      'age': 'old' if age > 0.72 else 'young' if age < 0.3 else 'adult',
    }


def make_identity(seed, number):
  """Puppet `number` of the cast with this seed; the same whatever the size of the cast.

  Pitch and age are spread evenly over the first puppets, so that small casts differ too.
  """
  start = generator(seed, 'cast').random(2)
  rng = generator(seed, 'identity', number)
  depth, age = (start + (number + 1) * np.array([1 / _PLASTIC, 1 / _PLASTIC**2])) % 1
  depth, age = float(depth), float(age)  # 0 high voice, 1 low voice; 0 young, 1 old
  tract = float(np.clip(0.8 * depth + 0.2 * rng.random(), 0, 1))
  breath = float(rng.random())

  voice = Voice(
    pitch=float(270 * (88 / 270) ** depth),
    formants=1.2 - 0.33 * tract,
    rate=184 - 44 * age + 8 * rng.standard_normal(),
    brightness=float(rng.uniform(-0.5, 0.5)),
    roughness=round(5 * max(0.0, age - 0.4) / 0.6),
    breath=round(5 * breath),
    flutter=round(2 + 8 * max(0.0, age - 0.5)),
  )
  low = depth + 0.1 * rng.standard_normal() > 0.5
  styles = _LOW_STYLES if low else _HIGH_STYLES
  # Neighbours in the cast get different styles and skins; golden steps visit all of them.
  style = styles[int((start[0] + number * _GOLDEN) % 1 * len(styles))]
  if style == 'bunches' and age > 0.5:
    style = 'bob'
  skin = _SKINS[int((start[1] + number * _GOLDEN**2 * 1.7) % 1 * len(_SKINS))]
  colours = _HAIRS if sum(skin) > 450 else _HAIRS[:3] + _HAIRS[5:]
  hair_colour = colours[rng.integers(len(colours) - 3 * (age > 0.45))]
  if age > 0.72:
    hair_colour = _GREYS[rng.integers(len(_GREYS))]
  shirts = [shirt for shirt in _SHIRTS if _distance(shirt, skin) > 90]
  beards = ('', 'moustache', 'goatee', 'full')
  look = Look(
    size=0.9 + 0.14 * tract,
    length=0.94 + 0.12 * tract + 0.03 * rng.standard_normal(),
    jaw=0.84 + 0.26 * depth + 0.03 * rng.standard_normal(),
    eyes=1.18 - 0.3 * depth - 0.1 * age + 0.04 * rng.standard_normal(),
    eye_gap=1 + 0.05 * rng.standard_normal(),
    brow=0.7 + 0.7 * depth,
    nose=0.8 + 0.3 * depth + 0.25 * age + 0.06 * rng.standard_normal(),
    lips=1.18 - 0.3 * depth + 0.08 * rng.standard_normal(),
    mouth=1 + 0.06 * rng.standard_normal(),
    ears=1 + 0.3 * age + 0.1 * rng.standard_normal(),
    hair=style,
    beard=beards[rng.integers(4)] if depth > 0.6 and age > 0.15 else '',
    glasses=('round', 'square')[rng.integers(2)] if rng.random() < 0.05 + 0.45 * age else '',
    wrinkles=max(0.0, (age - 0.55) / 0.45),
    freckles=max(0.0, (breath - 0.55) / 0.45),
    lashes=not low,
    skin=skin,
    hair_colour=hair_colour,
    iris=_IRISES[rng.integers(len(_IRISES))],
    shirt=shirts[int((start[0] + number * _GOLDEN * 0.7) % 1 * len(shirts))],
  )
  traits = {'depth': depth, 'age': age, 'tract': tract, 'breath': breath}
  return Identity(number, f'puppet{number:03d}', look, voice, traits)


def background_colours(rng):
  """Two RGB colours, top and bottom of a wall."""
  return _BEHIND[rng.integers(len(_BEHIND))]


def _distance(a, b):
  return float(np.linalg.norm(np.subtract(a, b)))


@dataclasses.dataclass(frozen=True)
class Emotion:
  """A mood at full strength.

  Attributes:
    smile, brow_inner, brow_outer: -1 to 1, up is positive.
    eyes: openness of the lids relative to neutral.
    jaw: added to the opening of the mouth while speaking.
    pitch, swing, rate: factors on the voice; `swing` on the width of its pitch range.
    level: loudness in dB.
    brightness, flutter: added to the voice's.
    sway: factor on the movement of the head.
    tilt: degrees that the head hangs forward (positive) or is thrown back.
  """

  smile: float = 0.0
  brow_inner: float = 0.0
  brow_outer: float = 0.0
  eyes: float = 1.0
  jaw: float = 0.0
  pitch: float = 1.0
  swing: float = 1.0
  rate: float = 1.0
  level: float = 0.0
  brightness: float = 0.0
  flutter: int = 0
  sway: float = 1.0
  tilt: float = 0.0


EMOTIONS = {
  'neutral': Emotion(),
  'happy': Emotion(
    smile=1.0, brow_inner=0.3, brow_outer=0.35, eyes=0.88, pitch=1.14, swing=1.5, rate=1.06,
    level=1.0, brightness=0.3, sway=1.3,
  ),
  'sad': Emotion(
    smile=-0.9, brow_inner=0.75, brow_outer=-0.55, eyes=0.72, pitch=0.9, swing=0.55, rate=0.82,
    level=-4.0, brightness=-0.5, flutter=3, sway=0.6, tilt=4.0,
  ),
  'angry': Emotion(
    smile=-0.6, brow_inner=-1.0, brow_outer=0.45, eyes=0.82, jaw=0.05, pitch=1.06, swing=1.3,
    rate=1.12, level=3.0, brightness=0.6, sway=1.5, tilt=2.0,
  ),
  'surprised': Emotion(
    smile=0.1, brow_inner=1.0, brow_outer=1.0, eyes=1.3, jaw=0.12, pitch=1.25, swing=1.8,
    rate=0.98, level=1.5, brightness=0.2, sway=1.2, tilt=-3.0,
  ),
  'afraid': Emotion(
    smile=-0.4, brow_inner=0.95, brow_outer=0.1, eyes=1.2, pitch=1.2, swing=0.8, rate=1.15,
    level=-2.0, flutter=8, sway=0.8, tilt=-1.0,
  ),
}  # fmt: skip


def voice_in_mood(voice, emotion, strength):
  """The voice of somebody in a mood; `strength` in [0, 1]."""
  swing = 1 + (voice.swing - 1) * emotion.swing**strength
  return dataclasses.replace(
    voice,
    pitch=voice.pitch * emotion.pitch**strength,
    swing=swing,
    rate=voice.rate * emotion.rate**strength,
    brightness=float(np.clip(voice.brightness + strength * emotion.brightness, -1, 1)),
    flutter=round(voice.flutter + strength * emotion.flutter),
  )
