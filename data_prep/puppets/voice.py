"""Speech with phoneme times, from the espeak-ng synthesiser.

espeak-ng is GPL-3. It is loaded from the package `espeakng-loader`, which only making the corpus
needs (extra `puppet`); neither its code nor its voices are part of tfg_jax, and the speech that it
makes is not covered by its licence.
"""

import _ctypes
import contextlib
import ctypes
import dataclasses
import os
import tempfile

import numpy as np
import soxr

from tfg_jax.errors import DataError, MissingDependencyError

SAMPLE_RATE = 16_000
SLOWEST, FASTEST = 80, 450  # words per minute, espeak-ng's range without its sonic speed-up
PAUSE = '_'

# speak_lib.h
_SYNCHRONOUS, _PHONEME_EVENTS, _DONT_EXIT = 2, 0x1, 0x8000
_UTF8, _RATE = 1, 1
_END_OF_LIST, _WORD, _PHONEME = 0, 1, 7

# espeak-ng marks these at the burst; measured on its output, the sound stops this much earlier.
_VOICELESS_STOPS = frozenset(('p', 't', 'k', 't2', 'tS'))
_CLOSURE = 0.04  # seconds

_EDGE = 0.02  # seconds kept around the speech, faded so that the cuts do not click


class _Id(ctypes.Union):
  _fields_ = [('number', ctypes.c_int), ('name', ctypes.c_char_p), ('string', ctypes.c_char * 8)]


class _Event(ctypes.Structure):
  _fields_ = [
    ('type', ctypes.c_int),
    ('unique_identifier', ctypes.c_uint),
    ('text_position', ctypes.c_int),  # of the word, from 1
    ('length', ctypes.c_int),
    ('audio_position', ctypes.c_int),  # milliseconds
    ('sample', ctypes.c_int),
    ('user_data', ctypes.c_void_p),
    ('id', _Id),
  ]


_Callback = ctypes.CFUNCTYPE(
  ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclasses.dataclass(frozen=True)
class Voice:
  """How somebody sounds.

  Attributes:
    pitch: middle of the pitch range, Hz.
    swing: top of the pitch range over its bottom, at least 1.
    formants: scale of the formant frequencies; above 1 is a shorter vocal tract than the average.
    rate: words per minute.
    brightness: tilt of the spectrum, -1 dull to 1 sharp.
    roughness: creak, 0 to 7.
    breath: noise in the voice, 0 to 10.
    flutter: wavering of the pitch, 0 to 20.
  """

  pitch: float
  swing: float = 1.35
  formants: float = 1.0
  rate: float = 160.0
  brightness: float = 0.0
  roughness: int = 1
  breath: int = 0
  flutter: int = 2

  def definition(self):
    """The voice file that espeak-ng reads: American English with this voice's sound."""
    low, high = self.pitch / np.sqrt(self.swing), self.pitch * np.sqrt(self.swing)
    sharp = round(170 + 60 * self.brightness)
    lines = [
      'name puppet',
      'language en-us',
      'phonemes en-us',
      'dictionary en',
      'dictrules 3 6',
      'stressLength 140 120 190 170 0 0 255 300',
      'stressAmp 17 16 19 19 19 19 21 19',
      'replace 03 I i',
      'replace 03 I2 i',
      f'pitch {round(low)} {round(high)}',
      f'roughness {self.roughness}',
      f'flutter {self.flutter}',
      f'tone 600 170 1200 {sharp - 35} 2000 {sharp - 60} 3000 {sharp - 60}',
    ]
    lines += [f'formant {i} {round(100 * self.formants)} 100 100' for i in range(1, 9)]
    if self.breath:
      lines.append('breath 0' + f' {self.breath}' * 7)
    return '\n'.join(lines) + '\n'


@dataclasses.dataclass(frozen=True, eq=False)
class Speech:
  """What was said, and when.

  Attributes:
    wave: (N,) float32 in [-1, 1] at 16 kHz, without silence around the speech.
    phonemes: (symbol, start, end) in seconds; symbols are espeak-ng's mnemonics without stress
      marks, `_` is a pause. They follow each other without gaps.
    words: (start, end) in seconds, one for each word of the text. Words that espeak-ng says as one
      ("of the") share their time.
  """

  wave: np.ndarray
  phonemes: list[tuple[str, float, float]]
  words: list[tuple[float, float]]

  @property
  def seconds(self):
    """How long it is."""
    return len(self.wave) / SAMPLE_RATE


def speak(text, voice, *, rate=None):
  """Says `text`, words separated by single spaces.

  The same arguments give the same samples, whatever was said before: espeak-ng keeps the phase of
  its oscillators between utterances, so each one gets a fresh copy of the library (3 ms), and the
  same random noise.

  Args:
    text: English words.
    voice: Voice.
    rate: words per minute, instead of the voice's own.

  Returns:
    Speech.

  Raises:
    MissingDependencyError: without espeakng-loader.
    DataError: if nothing of the text can be said.
  """
  samples, events = [], []

  @_Callback
  def receive(wave, count, event):
    if count > 0:
      samples.append(np.ctypeslib.as_array(wave, (count,)).copy())
    position = 0
    while event[position].type != _END_OF_LIST:
      item = event[position]
      symbol = bytes(item.id).split(b'\0')[0].decode()  # valid for phonemes only
      events.append((item.type, item.text_position, item.sample, symbol))
      position += 1
    return 0

  rate = int(np.clip(round(rate or voice.rate), SLOWEST, FASTEST))
  with _fresh_library() as (library, native_rate), _voice_file(voice) as path:
    library.espeak_SetSynthCallback(receive)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # of the noise in breath
    if library.espeak_ng_SetVoiceByFile(path.encode()) != 0:
      raise DataError(
        'espeak-ng does not accept the voice',
        where=voice,
        hint='use the values of a puppet of this project.',
      )
    library.espeak_SetParameter(_RATE, rate, 0)
    data = text.encode()
    library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
  phonemes = _phonemes(events, native_rate)
  if not phonemes:
    raise DataError(f'espeak-ng says nothing for {text!r}', hint='Use English words.')
  wave = np.concatenate(samples).astype(np.float32) / 32768
  return _trim(wave, native_rate, phonemes, _words(text, events, native_rate, phonemes[-1][2]))


@contextlib.contextmanager
def _fresh_library():
  """Loads espeak-ng with its initial state; yields it and its sample rate in Hz."""
  try:
    import espeakng_loader
  except ImportError as error:
    raise MissingDependencyError(
      'the puppets speak with espeak-ng, which is not installed',
      hint="pip install 'tfg_jax[puppet]' (espeak-ng is GPL-3; only making the corpus needs it)",
    ) from error
  library = ctypes.CDLL(espeakng_loader.get_library_path())
  data_path = espeakng_loader.get_data_path().encode()
  try:
    native_rate = library.espeak_Initialize(
      _SYNCHRONOUS, 0, data_path, _PHONEME_EVENTS | _DONT_EXIT
    )
    if native_rate <= 0:
      raise DataError(
        'espeak-ng does not start',
        where=espeakng_loader.get_data_path(),
        hint='install it again: pip install --force-reinstall espeakng-loader',
      )
    yield library, native_rate
  finally:
    library.espeak_Terminate()
    _ctypes.dlclose(library._handle)


@contextlib.contextmanager
def _voice_file(voice):
  # A name without '+': espeak-ng would take what follows for a variant. In /tmp, as it cuts paths
  # after 40 characters or so, and $TMPDIR may be longer.
  with tempfile.TemporaryDirectory(prefix='puppet', dir='/tmp') as folder:
    path = os.path.join(folder, 'voice')
    with open(path, 'w', encoding='ascii') as file:
      file.write(voice.definition())
    yield path


def _phonemes(events, native_rate):
  """Phonemes up to the final pause, each until the next one starts."""
  marks = []
  for kind, _, sample, mark in events:
    if kind == _PHONEME:
      symbol, start = mark.lstrip("',%=|"), sample / native_rate
      if symbol in _VOICELESS_STOPS and marks:
        start = max(start - _CLOSURE, (start + marks[-1][1]) / 2)
      marks.append((PAUSE if symbol.startswith(PAUSE) or not symbol else symbol, start))
  phonemes = [
    (symbol, start, end)
    for (symbol, start), (_, end) in zip(marks, marks[1:], strict=False)
    if end > start
  ]
  while phonemes and phonemes[-1][0] == PAUSE:
    phonemes.pop()
  return phonemes


def _words(text, events, native_rate, end):
  """(start, end) of each word; a word without an event of its own has that of the one before."""
  starts = {}
  for kind, text_position, sample, _ in events:
    if kind == _WORD:
      starts.setdefault(text_position - 1, sample / native_rate)
  words, position, first = [], 0, min(starts)
  for word in text.split(' '):
    own = [at for at in starts if position <= at < position + len(word)]
    first = min(own, default=first)
    words.append(first)
    position += len(word) + 1
  order = sorted(set(words))
  ends = dict(zip(order, [starts[after] for after in order[1:]] + [end], strict=True))
  return [(starts[first], ends[first]) for first in words]


def _trim(wave, native_rate, phonemes, words):
  """Cuts the silence around the speech and moves all times with it."""
  start = max(0.0, phonemes[0][1] - _EDGE)
  end = min(len(wave) / native_rate, phonemes[-1][2] + _EDGE)
  wave = soxr.resample(
    wave[round(start * native_rate) : round(end * native_rate)], native_rate, SAMPLE_RATE
  )
  fade = np.linspace(0, 1, round(_EDGE * SAMPLE_RATE / 2), dtype=np.float32)
  wave[: len(fade)] *= fade
  wave[-len(fade) :] *= fade[::-1]
  return Speech(
    wave=wave,
    phonemes=[(symbol, a - start, b - start) for symbol, a, b in phonemes],
    words=[(max(a - start, 0.0), b - start) for a, b in words],
  )
