"""What SF2F takes of a record: crops and windows of a voice, and a portrait.

A record is speech of one person. The extra `portrait` holds one or more pictures of them, JPEG or
PNG; `utterances`, where there is one, holds the first sample of each utterance and the one behind
its last. Without it the record is one utterance.

Source: BAI-Yeqi/SF2F_PyTorch@e346b68 `datasets/vox_dataset.py`.
"""

from collections.abc import Sequence

import numpy as np

from tfg_jax.data import clip_codec
from tfg_jax.errors import DataError
from tfg_jax.features import audio, portrait, voice


def utterances(clip: clip_codec.Clip) -> list[np.ndarray]:
  """The record's utterances, (N,) int16 each; those that a random cut left outside are dropped."""
  if 'utterances' not in clip.extras:
    return [clip.wav]
  spans = clip.extras['utterances'].reshape(-1, 2)
  return [clip.wav[a:b] for a, b in spans if a < len(clip.wav)]


def voiced_utterances(parts: Sequence[np.ndarray], detector: str) -> list[np.ndarray]:
  """What is spoken in each of them; silent ones are left out.

  Raises:
    DataError: if all are silent.
  """
  heard = []
  for wav in parts:
    try:
      heard.append(voice.voiced(wav, detector))
    except DataError as error:
      last = error
  if not heard:
    raise last
  return heard


def random_crop(wav: np.ndarray, frames: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
  """A stretch of `frames` frames anywhere in a voice: `voice` and `voice_samples` of `voice.cut`.

  `voice_place` in [0, 1) says where shorter crops of the stretch shall be, so that they are as
  evenly spread over the voice as the stretch is.
  """
  place = rng.random()
  spare = max(audio.num_frames(len(wav)) - frames, 0)
  window, number = voice.cut(wav, int(place * (spare + 1)), frames)
  return {
    'voice': window,
    'voice_samples': np.int32(number),
    'voice_place': np.float32(place),
  }


def windows(
  parts: Sequence[np.ndarray],
  count: int,
  stride: int,
  rng: np.random.Generator | None = None,
) -> dict[str, np.ndarray]:
  """Windows of 125 frames over several utterances, none across two.

  Args:
    parts: voiced utterances.
    count: N; where there are fewer windows, the mask says so. Voices too short for one repeat.
    stride: frames from window to window.
    rng: shuffles the utterances and starts each at a random frame, as in training; None: not.

  Returns:
    `windows` (N, S) int16 of `voice.cut`, `windows_samples` (N,) int32, `windows_mask` (N,) bool.
  """
  length = voice.WINDOW
  order = list(parts) if rng is None else [parts[i] for i in rng.permutation(len(parts))]
  places = []
  for wav in order:
    frames = audio.num_frames(len(wav))
    first = int(rng.integers(max(frames - length, 1))) if rng is not None else 0
    places += [(wav, start) for start in voice.window_starts(frames, length, stride, first)]
  if not places:
    longest = max(parts, key=len)
    places = [(np.resize(longest, voice.window_samples(length)), 0)]
  places = places[:count]
  cut = [voice.cut(wav, start, length) for wav, start in places]
  waves = np.zeros((count, voice.window_samples(length)), np.int16)
  samples = np.ones(count, np.int32)
  for i, (wave, number) in enumerate(cut):
    waves[i], samples[i] = wave, number
  mask = np.arange(count) < len(places)
  return {'windows': waves, 'windows_samples': samples, 'windows_mask': mask}


def read_portrait(
  clip: clip_codec.Clip, size: int, rng: np.random.Generator | None = None
) -> np.ndarray:
  """(size, size, 3) uint8 RGB, one of the record's portraits at random, the first without `rng`.

  Raises:
    DataError: if the record has none, or it is no picture.
  """
  files = clip.extras.get('portrait', ())
  if not len(files):
    raise DataError(
      'the record has no portrait',
      hint='SF2F learns from a picture of each speaker: prepare a corpus that has them.',
    )
  chosen = 0 if rng is None else int(rng.integers(len(files)))
  return portrait.read(files[chosen], size)


def identity(clip: clip_codec.Clip, known: int) -> int:
  """The number of the person, below `known`.

  Raises:
    DataError: if the record has none, or a larger one.
  """
  numbers = clip.extras.get('identity', ())
  if len(numbers) != 1 or not 0 <= numbers[0] < known:
    raise DataError(
      f'the extra identity is {[int(n) for n in numbers]}; training needs one number below {known}',
      hint='Set model.identities to the number of people in the training split.',
    )
  return int(numbers[0])
