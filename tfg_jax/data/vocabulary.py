"""Sentences as token ids and back: characters, or the pieces of a sentencepiece unigram model.

Ids 0 to 3 are fairseq's specials. A word begins with U+2581, as in sentencepiece, so a vocabulary
of characters is the unigram model whose pieces are one character long: one code reads both.
"""

import dataclasses
import functools
import math
import pathlib
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from tfg_jax.errors import DataError

SPECIALS = ('<s>', '<pad>', '</s>', '<unk>')
BOS, PAD, EOS, UNK = range(len(SPECIALS))
WORD_START = '\u2581'

_UNKNOWN_PENALTY = 10.0  # sentencepiece: how far an unknown character lies below the worst piece


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """Pieces with log-probabilities; a text becomes the likeliest sequence of pieces that spells it.

  Attributes:
    symbols: piece of every id, `SPECIALS` first.
    scores: log-probability of every piece; those of the specials do not matter.
  """

  symbols: tuple[str, ...]
  scores: tuple[float, ...]

  def __post_init__(self):
    if self.symbols[: len(SPECIALS)] != SPECIALS:
      raise DataError(
        f'the vocabulary starts with {" ".join(self.symbols[: len(SPECIALS)])}',
        hint=f'ids 0 to 3 have to be {" ".join(SPECIALS)}',
      )
    if len(set(self.symbols)) != len(self.symbols):
      repeated = next(x for i, x in enumerate(self.symbols) if x in self.symbols[:i])
      raise DataError(f'the vocabulary holds {repeated!r} twice')

  def __len__(self):
    return len(self.symbols)

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return {symbol: i for i, symbol in enumerate(self.symbols) if i >= len(SPECIALS)}

  @functools.cached_property
  def _longest(self) -> int:
    return max(map(len, self._ids), default=1)

  @functools.cached_property
  def _unknown_score(self) -> float:
    return min(self.scores[len(SPECIALS) :], default=0.0) - _UNKNOWN_PENALTY

  def ids(self, text: str) -> list[int]:
    """Token ids of a text, without padding and without the final `EOS`.

    Case, Unicode compatibility forms and the number of spaces do not matter. A run of characters
    that no piece spells becomes one `UNK`.
    """
    words = unicodedata.normalize('NFKC', text).lower().split()
    spelled = ''.join(WORD_START + word for word in words)
    # Viterbi: the best way to spell the first `end` characters, and the piece that it ends with.
    best = [0.0] + [-math.inf] * len(spelled)
    last = [(0, UNK)] * (len(spelled) + 1)
    for end in range(1, len(spelled) + 1):
      for start in range(max(0, end - self._longest), end):
        token = self._ids.get(spelled[start:end])
        if token is not None and best[start] + self.scores[token] > best[end]:
          best[end], last[end] = best[start] + self.scores[token], (start, token)
      if best[end - 1] + self._unknown_score > best[end]:
        best[end], last[end] = best[end - 1] + self._unknown_score, (end - 1, UNK)
    ids = []
    end = len(spelled)
    while end:
      end, token = last[end]
      if not (token == UNK and ids and ids[-1] == UNK):
        ids.append(token)
    return ids[::-1]

  def encode(self, text: str, max_tokens: int) -> np.ndarray:
    """(max_tokens,) int32 token ids of a text: the pieces, `EOS`, then `PAD`.

    Raises:
      DataError: if there is no word in the text, or more tokens than fit.
    """
    ids = [*self.ids(text), EOS]
    if len(ids) == 1:
      raise DataError(
        f'the text of the clip is {text!r}',
        hint='a lip reader learns from clips with a text: prepare the corpus with its transcripts.',
      )
    if len(ids) > max_tokens:
      raise DataError(
        f'the text {text[:40]!r}... has {len(ids)} tokens, with the end; {max_tokens} fit',
        hint='raise model.max_tokens or leave such clips out.',
      )
    return np.array(ids + [PAD] * (max_tokens - len(ids)), np.int32)

  def decode(self, ids: Iterable[int]) -> str:
    """The text that token ids spell, up to the first `EOS`; `UNK` stays visible as `<unk>`."""
    pieces = []
    for token in ids:
      if token == EOS:
        break
      if token not in (BOS, PAD):
        pieces.append(self.symbols[token])
    return ' '.join(''.join(pieces).replace(WORD_START, ' ').split())


def characters(alphabet: str) -> Vocabulary:
  """The vocabulary of the characters of `alphabet`; spaces need not be in it.

  Raises:
    DataError: if a character is there twice.
  """
  pieces = (WORD_START, *alphabet.replace(' ', ''))
  return from_pieces(pieces, [0.0] * len(pieces))


def from_pieces(pieces: Sequence[str], scores: Sequence[float]) -> Vocabulary:
  """The vocabulary whose ids from 4 on are `pieces` with log-probabilities `scores`."""
  return Vocabulary((*SPECIALS, *pieces), (*[0.0] * len(SPECIALS), *map(float, scores)))


def sentencepiece(model: bytes, *, where: object = '') -> Vocabulary:
  """The vocabulary of a serialised sentencepiece unigram model, which is read as data.

  Of the file's text normalisation, NFKC, lower case and the collapsing of spaces are done; rules of
  its own are not.

  Args:
    model: what `sentencepiece.SentencePieceTrainer` writes, trained with
      `bos_id=0, pad_id=1, eos_id=2, unk_id=3`.
    where: the place, for messages.

  Raises:
    DataError: if it is damaged, no unigram model, or has other special ids.
  """
  pieces, scores, kind = [], [], 1
  try:
    # sentencepiece_model.proto: 1 = pieces (1 = text, 2 = score), 2 = trainer (3 = model type).
    for number, value in _fields(model):
      if number == 1:
        piece = dict(_fields(value))
        pieces.append(piece[1].decode())
        scores.append(float(np.frombuffer(piece.get(2, b'\0\0\0\0'), '<f4')[0]))
      elif number == 2:
        kind = dict(_fields(value)).get(3, 1)
  except (KeyError, IndexError, UnicodeDecodeError, ValueError, TypeError, AttributeError) as error:
    raise DataError('this is not a whole sentencepiece model', where=where) from error
  if kind != 1 or not pieces:
    raise DataError(
      f'the sentencepiece model is of type {kind} with {len(pieces)} pieces',
      where=where,
      hint='train it with model_type=unigram.',
    )
  try:
    return Vocabulary(tuple(pieces), tuple(scores))
  except DataError as error:
    raise DataError(
      error.what, where=where, hint='train it with bos_id=0, pad_id=1, eos_id=2, unk_id=3.'
    ) from error


def read_sentencepiece(path) -> Vocabulary:
  """`sentencepiece` of a file.

  Raises:
    DataError: if the file cannot be read, or as `sentencepiece` raises it.
  """
  try:
    model = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise DataError(
      f'the sentencepiece model cannot be read: {error.strerror}',
      where=path,
      hint='give its file as model.tokenizer.',
    ) from error
  return sentencepiece(model, where=path)


def _fields(message: bytes):
  """The fields of a serialised protobuf message, as (number, int or bytes)."""
  place = 0

  def varint():
    nonlocal place
    value = shift = 0
    while True:
      byte = message[place]
      place += 1
      value |= (byte & 127) << shift
      shift += 7
      if byte < 128:
        return value

  while place < len(message):
    number, kind = divmod(varint(), 8)
    if kind == 0:
      yield number, varint()
      continue
    size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
    if place + size > len(message):
      raise ValueError('the message ends early')
    yield number, message[place : place + size]
    place += size
