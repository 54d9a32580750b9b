"""One clip of the corpus, from its number."""

import dataclasses
import functools

import numpy as np

from data_prep.puppets import identity, scene, script, visemes, voice
from tfg_jax.data import clip_codec
from tfg_jax.errors import DataError

FPS = 25
SAMPLES_PER_FRAME = voice.SAMPLE_RATE // FPS
MODES = ('grammar', 'words', 'sentences')

_SILENCE = 0.16  # seconds at least before and after the speech: the mouth closes in them
_HASTE = 1.35  # times the voice's own rate; more only where nothing else fits
_TRIES = 6
_JITTER = 0.035  # seconds
_WOBBLE = 0.15
_AMPLITUDE = (0.35, 1.15)
_SECONDS_PER_WORD = 0.42  # of a random sentence, with its share of slow voices


@dataclasses.dataclass(frozen=True)
class Settings:
  """Everything that the content of a clip depends on besides its number.

  Attributes:
    seed: of the corpus.
    size: width and height of the frames, pixels.
    identities: number of puppets, the unseen ones included.
    unseen_identities: how many of them appear in the split test_unseen only.
    mode: one of MODES.
    words: word list of the modes words and sentences; () is the built-in one.
    frames: of a clip, at 25 fps.
    variability: 1 is a corpus of people who mumble, exaggerate and drift; at 0 the same phonemes of
      the same identity and mood always give the same mouth.
    sway: how far heads move, turn and nod while they speak: 1 as people's do, 0 not at all.
    eval_fraction: share of the clips in each of the splits valid, test and test_unseen.
  """

  seed: int = 0
  size: int = 96
  identities: int = 24
  unseen_identities: int = 0
  mode: str = 'grammar'
  words: tuple[str, ...] = ()
  frames: int = 75
  variability: float = 1.0
  sway: float = 1.0
  eval_fraction: float = 0.05

  @property
  def splits(self):
    """Those that the corpus will have; strangers have one of their own."""
    return ('train', 'valid', 'test') + (('test_unseen',) if self.unseen_identities else ())


def split_of(settings, number):
  """Split of a clip. Steps of the golden ratio fill the splits evenly from the first clip on."""
  place = (number + 1) * 0.6180339887498949 % 1
  order = ('valid', 'test', 'test_unseen')[: len(settings.splits) - 1]
  index = int(place / settings.eval_fraction) if settings.eval_fraction else len(order)
  return order[index] if index < len(order) else 'train'


@functools.lru_cache(maxsize=1024)
def puppet(seed, number):
  """The identity of a number, made once; see `identity.make_identity`."""
  return identity.make_identity(seed, number)


@functools.lru_cache(maxsize=64)
def _portrait(seed, number, size):
  return clip_codec.encode_jpegs([render_still(puppet(seed, number), size)])[0]


def make_clip(settings, number):
  """Clip `number`: depends on the settings and the number, not on other clips.

  Returns:
    clip_codec.Clip with these extras (P phonemes, W words, T frames):
      identity: number of the puppet. emotion_strength: 0 to 1. amplitude: of the articulation.
      phonemes: P espeak-ng symbols. phoneme_times: 2P floats, start and end of each in seconds.
      visemes: P names, those of a diphthong joined by '+'. viseme_times: 2P floats, when the lips
        make them; differs from phoneme_times by the jitter.
      word_times: 2W floats. word_frames: first frame of the target and the one after its last;
        word_label: its number in the word list; both in word mode only.
      mouth: 8T floats, visemes.ARTICULATORS in each frame.
      pose: 5T floats, scene.Pose's fields. lids: T floats, openness of the eyes.
      mouth_centre: 2T floats, x and y in pixels.
      traits: 4 floats in [0, 1], what the voice tells of the face: identity.Identity.traits.
      attributes: names and values of what can be seen, such as b'hair=bob'.
      portrait: one JPEG, see `render_still`.

  Raises:
    DataError: if no text of this mode fits the frames.
    MissingDependencyError: without espeakng-loader.
  """
  rng = identity.generator(settings.seed, 'clip', number)
  split = split_of(settings, number)
  seen = settings.identities - settings.unseen_identities
  first, last = (seen, settings.identities) if split == 'test_unseen' else (0, seen)
  person = puppet(settings.seed, int(rng.integers(first, last)))
  mood_name = str(rng.choice(list(identity.EMOTIONS)))
  mood = identity.EMOTIONS[mood_name]
  strength = float(rng.uniform(0.6, 1.0))

  line, speech = _say(settings, person, mood, strength, rng)
  seconds = settings.frames / FPS
  spare = seconds - speech.seconds - 2 * _SILENCE
  start = _SILENCE + float(rng.uniform(0.1, 0.7)) * spare
  if line.word:  # in the middle of the clip, as in LRW, or as near to it as the silence lets it be
    middle = (seconds - sum(speech.words[line.position])) / 2
    start = float(np.clip(middle, _SILENCE, max(_SILENCE, _SILENCE + spare)))
  phonemes = [(symbol, a + start, b + start) for symbol, a, b in speech.phonemes]
  words = [(a + start, b + start) for a, b in speech.words]

  vary = settings.variability
  spoken = visemes.jitter_times(phonemes, rng, amount=_JITTER * vary)
  low, high = _AMPLITUDE
  amplitude = 1 + vary * (float(rng.uniform(low, high)) - 1)
  wobble = _slow_curve(rng, settings.frames, period=0.9) * _WOBBLE * vary
  times = (np.arange(settings.frames) + 0.5) / FPS
  mouth = _mouth(spoken, times, amplitude * (1 + wobble), mood, strength)
  poses = _poses(settings, rng, mood, strength, spoken, times)
  lids = _lids(rng, settings.frames, mood, strength)
  frames, boxes = _film(settings, rng, person, mood, strength, mouth, poses, lids, spoken, times)

  extras = {
    'identity': np.array([person.number]),
    'emotion_strength': np.array([strength]),
    'amplitude': np.array([amplitude]),
    'phonemes': [symbol.encode() for symbol, _, _ in phonemes],
    'phoneme_times': np.array([time for _, *span in phonemes for time in span]),
    'visemes': ['+'.join(visemes.viseme_names(symbol)).encode() for symbol, _, _ in phonemes],
    'viseme_times': np.array([time for _, *span in spoken for time in span]),
    'word_times': np.array(words).ravel(),
    'mouth': mouth.ravel(),
    'pose': np.array([dataclasses.astuple(pose) for pose in poses]).ravel(),
    'lids': lids,
    'mouth_centre': np.array(
      [scene.mouth_centre(person.look, settings.size, pose) for pose in poses]
    ).ravel(),
    'traits': np.array(list(person.traits.values())),
    'attributes': [f'{name}={value}'.encode() for name, value in person.attributes().items()],
    'portrait': [_portrait(settings.seed, person.number, settings.size)],
  }
  if line.word:
    a, b = words[line.position]
    extras['word_frames'] = np.array([int(a * FPS), min(int(np.ceil(b * FPS)), settings.frames)])
    extras['word_label'] = np.array([(settings.words or script.WORDS).index(line.word)])
  return clip_codec.Clip(
    clip_id=f'{person.name}/{number:06d}',
    frames=clip_codec.encode_jpegs(frames),
    height=settings.size,
    width=settings.size,
    fps=float(FPS),
    boxes=boxes,
    wav=_record(rng, speech, start, settings.frames, mood, strength),
    sample_rate=voice.SAMPLE_RATE,
    speaker=person.name,
    text=line.text,
    word=line.word,
    emotion=mood_name,
    split=split,
    extras=extras,
  )


def render_still(person, size):
  """A portrait for speech-to-face: frontal, neutral, mouth closed, plain wall, even light.

  Args:
    person: identity.Identity.
    size: pixels.

  Returns:
    (size, size, 3) uint8 RGB.
  """
  wall = np.full((2 * size, 2 * size, 3), (186, 206, 222), np.uint8)
  return scene.paint_frame(
    person.look, size, scene.Pose(), wall, lids=1.0, gaze=(0, 0), brows=(0, 0), mouth=np.zeros(8)
  )


def _say(settings, person, mood, strength, rng):
  """Draws a text and says it within the frames.

  The roomiest line that fits without haste is said, else the shortest as fast as it must be.
  """
  available = settings.frames / FPS - 2 * _SILENCE
  sound = identity.voice_in_mood(person.voice, mood, strength)
  words = settings.words or script.WORDS
  if settings.mode == 'grammar':
    lines = [script.grammar_line(rng)]
  elif settings.mode == 'words':
    lines = script.word_lines(rng, words)
  else:
    lines = script.sentence_lines(rng, words, max(1, round(available / _SECONDS_PER_WORD)))
  for line in lines:
    limit = voice.FASTEST if line is lines[-1] else _HASTE * sound.rate
    rate = sound.rate
    for _ in range(_TRIES):
      speech = voice.speak(line.spoken, sound, rate=rate)
      if speech.seconds <= available:
        return line, speech
      if rate >= limit:
        break
      # Pauses do not shrink with the rate, so one step may not be enough.
      rate = min(limit, rate * 1.04 * speech.seconds / max(available, 0.01))
  raise DataError(
    f'{line.text!r} takes {speech.seconds:.2f} s at {rate:.0f} words per minute; '
    f'{settings.frames} frames leave {max(available, 0):.2f} s',
    hint='Raise --frames, or use a word list of shorter words.',
  )


def _mouth(phonemes, times, amplitude, mood, strength):
  """(T, 8) articulators: speech, and the mood on top of it."""
  speech = visemes.mouth_curve(phonemes, times, amplitude=amplitude)
  active = _activity(phonemes, times)
  speech[:, 0] += strength * mood.jaw * active * (1 - speech[:, 6])
  # Rounded and closed lips have less of a smile.
  smile = strength * mood.smile * (1 - 0.55 * speech[:, 2].clip(0, 1) - 0.2 * speech[:, 6])
  return np.column_stack([speech, smile]).astype(np.float32)


def _activity(phonemes, times):
  """(T,) in [0, 1]: whether somebody speaks, with soft edges."""
  start, end = phonemes[0][1], phonemes[-1][2]
  return np.clip((times - start) / 0.12, 0, 1) * np.clip((end - times) / 0.12, 0, 1)


def _slow_curve(rng, frames, *, period):
  """(T,) smooth noise of variance about 1/2, repeating itself never: four sines near 1 / period."""
  time = np.arange(frames) / FPS
  speeds = rng.uniform(0.5, 1.6, 4) / period
  phases = rng.uniform(0, 2 * np.pi, 4)
  return np.sin(2 * np.pi * speeds * time[:, None] + phases).sum(axis=1) / 2


def _poses(settings, rng, mood, strength, phonemes, times):
  """Head sway, and a nod on stressed stretches of speech."""
  frames, sway = settings.frames, settings.sway * mood.sway**strength
  yaw, pitch, roll, x, y = (_slow_curve(rng, frames, period=p) for p in (2.6, 2.2, 3.0, 3.2, 2.8))
  turn, lean = rng.uniform(-0.35, 0.35), rng.normal(0, 1.2)
  beat = _slow_curve(rng, frames, period=0.55) * _activity(phonemes, times)
  return [
    scene.Pose(
      yaw=float(np.clip(turn + 0.3 * sway * yaw[t], -1, 1)),
      pitch=float(
        np.clip(0.2 * sway * pitch[t] + 0.14 * sway * beat[t] + 0.1 * strength * mood.tilt, -1, 1)
      ),
      roll=float(lean + 2.0 * sway * roll[t]),
      x=float(1.3 * sway * x[t]),
      y=float(0.8 * sway * y[t] + 0.5 * sway * beat[t] + 0.2 * strength * mood.tilt),
    )
    for t in range(frames)
  ]


def _lids(rng, frames, mood, strength):
  """(T,) openness of the eyes with a blink every few seconds, 200 ms each."""
  lids = np.full(frames, mood.eyes**strength)
  time = rng.uniform(0.2, 3.0)
  while time < frames / FPS:
    since = np.abs(np.arange(frames) / FPS - time)
    lids *= np.clip((since - 0.025) / 0.075, 0, 1)
    time += 0.5 + rng.exponential(2.5)
  return lids.astype(np.float32)


def _film(settings, rng, person, mood, strength, mouth, poses, lids, phonemes, times):
  """Pictures (T, H, W, 3) uint8 and face boxes (T, 4) int64."""
  size, look = settings.size, person.look
  wall = scene.paint_background(rng, size, identity.background_colours(rng))
  light = scene.light_map(rng, size)
  grain = scene.Grain(rng, size, np.float32(rng.uniform(0.6, 2.2)))
  gaze_x, gaze_y = (
    np.clip(0.5 * np.round(_slow_curve(rng, settings.frames, period=1.3)), -1, 1) for _ in range(2)
  )
  lift = 0.22 * _slow_curve(rng, settings.frames, period=0.7) * _activity(phonemes, times)
  pictures = np.empty((settings.frames, size, size, 3), np.uint8)
  boxes = np.empty((settings.frames, 4), np.int64)
  for t, pose in enumerate(poses):
    picture = scene.paint_frame(
      look,
      size,
      pose,
      wall,
      lids=float(lids[t]),
      gaze=(float(gaze_x[t]), float(gaze_y[t])),
      brows=(strength * mood.brow_inner + lift[t], strength * mood.brow_outer + lift[t]),
      mouth=mouth[t],
    )
    pictures[t] = scene.expose(picture, light, grain.next())
    boxes[t] = scene.face_box(look, size, pose)
  return pictures, boxes


def _record(rng, speech, start, frames, mood, strength):
  """(N,) int16 of exactly `frames` video frames: the speech at its place in a quiet room."""
  wave = rng.standard_normal(frames * SAMPLES_PER_FRAME).astype(np.float32)
  wave *= 10 ** (float(rng.uniform(-72, -60)) / 20)
  level = -23.0 + strength * mood.level + float(rng.uniform(-2, 2))  # dB of full scale, RMS
  spoken = speech.wave * (10 ** (level / 20) / np.sqrt(np.mean(speech.wave**2)))
  spoken *= min(1.0, 0.95 / np.abs(spoken).max())
  begin = round(start * voice.SAMPLE_RATE)
  wave[begin : begin + len(spoken)] += spoken
  return np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16)
