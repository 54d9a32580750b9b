"""From phonemes to the movement of a mouth.

A viseme is a target for the articulators. Targets become curves by a weighted moving average, so a
sound that needs its shape (lips closed for m, lip on teeth for f) prevails over one that does not
(h, schwa), and each leans towards its neighbours (coarticulation; after the dominance functions of
Cohen and Massaro, 1993).
"""

import numpy as np

from data_prep.puppets.voice import PAUSE

# Order of the columns of every mouth array.
ARTICULATORS = (
  'open',  # 0 lips meet, 1 as far as for "aa"; exaggeration goes beyond
  'width',  # -1 narrow as for "oo", 1 spread as for "ee"
  'round',  # 0 flat, 1 pushed forward
  'teeth',  # 0 hidden, 1 both rows show
  'tongue',  # 0 low, 1 tip between the teeth
  'tuck',  # 1: lower lip under the upper teeth
  'press',  # 1: lips pressed together
  'smile',  # -1 corners down, 1 corners up; from the emotion, not from the phoneme
)

# Targets of the first seven, and the weight with which a viseme prevails.
VISEMES = {
  'rest': ((0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), 1.0),
  'closed': ((0.0, 0.05, 0.0, 0.0, 0.0, 0.0, 1.0), 5.0),  # m b p
  'lip': ((0.14, 0.1, 0.0, 0.7, 0.0, 1.0, 0.0), 4.0),  # f v
  'tongue': ((0.34, 0.1, 0.0, 0.6, 1.0, 0.0, 0.0), 2.5),  # th
  'ell': ((0.42, 0.15, 0.0, 0.5, 0.65, 0.0, 0.0), 1.2),  # l
  'teeth': ((0.24, 0.5, 0.0, 1.0, 0.0, 0.0, 0.0), 1.4),  # s z
  'tip': ((0.24, 0.2, 0.0, 0.7, 0.4, 0.0, 0.0), 0.8),  # t d n
  'shush': ((0.3, -0.5, 0.65, 0.9, 0.0, 0.0, 0.0), 1.8),  # sh ch zh j
  'are': ((0.26, -0.35, 0.4, 0.3, 0.2, 0.0, 0.0), 0.9),  # r er oo(k)
  'back': ((0.28, 0.05, 0.0, 0.3, 0.0, 0.0, 0.0), 0.3),  # k g ng h
  'neutral': ((0.4, 0.0, 0.0, 0.3, 0.1, 0.0, 0.0), 0.5),  # schwa
  'wide': ((0.3, 1.0, 0.0, 0.9, 0.2, 0.0, 0.0), 1.6),  # ee y
  'smallwide': ((0.36, 0.6, 0.0, 0.7, 0.15, 0.0, 0.0), 1.0),  # ih
  'mid': ((0.62, 0.5, 0.0, 0.7, 0.2, 0.0, 0.0), 1.2),  # eh
  'open': ((1.0, 0.2, 0.0, 0.5, 0.15, 0.0, 0.0), 1.6),  # ah a
  'oh': ((0.72, -0.5, 0.6, 0.15, 0.0, 0.0, 0.0), 1.6),  # aw o
  'round': ((0.22, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0), 2.0),  # oo w
}

# espeak-ng's mnemonics for American English. Two visemes: a diphthong, half of its time each.
_PHONEMES = {
  ('closed',): 'm b p',
  ('lip',): 'f v',
  ('tongue',): 'T D',
  ('ell',): 'l @L',
  ('teeth',): 's z',
  ('tip',): 't d n t# t2 n-',
  ('shush',): 'S Z tS dZ',
  ('are',): 'r r- 3 3: U',
  ('back',): 'k g N h ? x',
  ('neutral',): '@ @2 @- a# V ;',
  ('wide',): 'i: i j',
  ('smallwide',): 'I I2 I#',
  ('mid',): 'E',
  ('open',): 'a aa A: 0',
  ('oh',): 'O: O2 O',
  ('round',): 'u: u w',
  ('mid', 'wide'): 'eI',
  ('open', 'wide'): 'aI',
  ('open', 'are'): 'A@ aI3 aI@',
  ('open', 'round'): 'aU',
  ('oh', 'round'): 'oU',
  ('oh', 'wide'): 'OI',
  ('oh', 'are'): 'o@ O@',
  ('mid', 'are'): 'e@',
  ('wide', 'are'): 'i@ i@3',
  ('round', 'are'): 'U@',
  ('rest',): PAUSE,
}
VISEMES_OF = {symbol: names for names, symbols in _PHONEMES.items() for symbol in symbols.split()}

_STEP = 0.005  # seconds between points of a curve
_REACH = 0.06  # seconds over which neighbours mix, as measured for speech: about one short vowel
_CLOSURE = 0.06  # seconds that a closure of the lips lasts at least
_CLOSING = ('closed', 'lip')


def viseme_names(symbol):
  """Visemes of a phoneme, one or two; those not in the table look neutral."""
  return VISEMES_OF.get(symbol, ('neutral',))


def jitter_times(phonemes, rng, *, amount):
  """Moves the borders between phonemes by about `amount` seconds (standard deviation, at most 2).

  Lips are early for one sound and late for the next. The order stays; the outer borders too, so
  that speech starts and ends in silence.
  """
  borders = np.array([start for _, start, _ in phonemes] + [phonemes[-1][2]])
  shift = amount * np.clip(rng.standard_normal(len(borders)), -2, 2)
  shift[[0, -1]] = 0
  moved = np.clip(np.maximum.accumulate(borders + shift), borders[0], borders[-1])
  return [
    (symbol, float(start), float(end))
    for (symbol, _, _), start, end in zip(phonemes, moved, moved[1:], strict=False)
  ]


def mouth_curve(phonemes, frame_times, *, amplitude=1.0):
  """Movement of the mouth while the phonemes are said.

  Args:
    phonemes: (symbol, start, end) in seconds; the mouth rests before, after and between them.
    frame_times: (T,) seconds at which the mouth is wanted.
    amplitude: scalar or (T,), how far the mouth goes: below 1 a mumble. The closures of m, b, p, f
      and v stay complete, as they do in life.

  Returns:
    (T, 7) float64, the ARTICULATORS without the smile.
  """
  last = max([end for _, _, end in phonemes] + [float(np.max(frame_times))])
  times = np.arange(-4 * _REACH, last + 4 * _REACH, _STEP)
  rest, rest_weight = VISEMES['rest']
  target = np.tile(np.array(rest), (len(times), 1))
  weight = np.full(len(times), rest_weight)
  pieces = []
  for symbol, start, end in phonemes:
    names = viseme_names(symbol)
    edges = np.linspace(start, end, len(names) + 1)
    pieces += list(zip(names, edges, edges[1:], strict=False))
  # Closures come last: where they are longer than their phoneme they win over their neighbours.
  for name, start, end in sorted(pieces, key=lambda piece: piece[0] in _CLOSING):
    if name in _CLOSING:
      middle, half = (start + end) / 2, max(end - start, _CLOSURE) / 2
      start, end = middle - half, middle + half
    inside = (times >= start) & (times < end)
    target[inside], weight[inside] = VISEMES[name]
  kernel = np.hanning(2 * round(_REACH / _STEP) + 1)[1:-1]
  total = np.convolve(weight, kernel, 'same')
  curve = np.stack(
    [np.convolve(weight * column, kernel, 'same') / total for column in target.T], axis=1
  )
  curve = np.stack([np.interp(frame_times, times, column) for column in curve.T], axis=1)
  curve[:, :5] *= np.broadcast_to(amplitude, (len(curve),))[:, None]
  return curve
