"""Word and character error rates of lip readers.

Two official definitions: `word_error_rate` counts errors over a corpus of free transcripts
(AV-HuBERT); `teacher_forced_errors` counts them per clip, given the true text so far (TalkLip's
conformer observer). `word_edits` counts those of free transcripts on the device, from token ids.
"""

import functools
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tfg_jax.data import vocabulary
from tfg_jax.errors import DataError


class Errors(NamedTuple):
  """Edits and reference lengths of one clip, to be summed or averaged."""

  character_edits: int
  characters: int
  word_edits: int
  words: int

  @property
  def character_error_rate(self) -> float:
    """Edits per character of the references."""
    return self.character_edits / self.characters

  @property
  def word_error_rate(self) -> float:
    """Edits per word of the references."""
    return self.word_edits / self.words


def edit_distance(hypothesis: Sequence[Hashable], reference: Sequence[Hashable]) -> int:
  """Returns the least number of substitutions, insertions and deletions between two sequences."""
  costs = list(range(len(reference) + 1))
  for i, said in enumerate(hypothesis, start=1):
    diagonal, costs[0] = costs[0], i
    for j, meant in enumerate(reference, start=1):
      substituted = diagonal + (said != meant)
      diagonal = costs[j]
      costs[j] = min(substituted, diagonal + 1, costs[j - 1] + 1)
  return costs[-1]


def word_error_rate(hypotheses: Sequence[str], references: Sequence[str]) -> float:
  """Returns all word edits of a corpus over all its reference words; may exceed 1.

  Args:
    hypotheses, references: texts of equal count; words are what spaces separate.

  Raises:
    DataError: if the counts differ or the references hold no word.
  """
  if len(hypotheses) != len(references):
    raise DataError(f'{len(hypotheses)} transcripts do not fit {len(references)} references')
  words = sum(len(text.split()) for text in references)
  if not words:
    raise DataError(
      'the references hold no word, so there is no error rate',
      hint='check that the records of this split have a text',
    )
  pairs = zip(hypotheses, references, strict=True)
  return sum(edit_distance(said.split(), meant.split()) for said, meant in pairs) / words


def teacher_forced_errors(prediction, reference, *, space: int, eos: int) -> Errors:
  """Compares the likeliest character at each position with a sentence (TalkLip `utils/metrics.py`).

  Positions beyond the reference do not count, so there are no insertions at the end. A final `eos`
  is dropped. Of the prediction, empty words count only at the start; of the reference, all count.

  Args:
    prediction: (P,) int token ids.
    reference: (L,) int token ids, without padding.
    space, eos: token ids.

  Raises:
    DataError: if the reference is empty.
  """
  reference = [int(token) for token in reference]
  if not reference:
    raise DataError('the reference text is empty, so there is no error rate')
  prediction = [int(token) for token in np.asarray(prediction)[: len(reference)]]
  if prediction and prediction[-1] == eos:
    prediction.pop()
  first, *later = _words(prediction, space)
  said = [first, *(word for word in later if word)]
  meant = _words(reference, space)
  return Errors(
    edit_distance(prediction, reference),
    len(reference),
    edit_distance(said, meant),
    len(meant),
  )


def _words(tokens: Sequence[int], space: int) -> list[tuple[int, ...]]:
  """Splits at every `space`; two of them in a row leave an empty word."""
  words: list[list[int]] = [[]]
  for token in tokens:
    if token == space:
      words.append([])
    else:
      words[-1].append(token)
  return [tuple(word) for word in words]


# --------------------------------------------------------------------------------------------------
# On the device
# --------------------------------------------------------------------------------------------------

_BASE = 0x01000193  # odd, so that powers of it never vanish modulo 2**32


def word_edits(hypotheses, references, symbols: tuple[str, ...]):
  """Word edits between sentences of token ids; pure and of static shape.

  Words are compared by a 32-bit fingerprint of their characters, so it does not matter into which
  pieces they are cut.

  Args:
    hypotheses: (B, L) int, each up to its first `EOS`.
    references: (B, M) int, likewise.
    symbols: of the vocabulary, see `tfg_jax.data.vocabulary`.

  Returns:
    (B,) int32 edits, and (B,) int32 words of the references.
  """
  fingerprints = functools.partial(_words_of_tokens, symbols=symbols)
  said, said_count = jax.vmap(fingerprints)(hypotheses)
  meant, meant_count = jax.vmap(fingerprints)(references)
  return jax.vmap(_edits)(said, said_count, meant, meant_count), meant_count


@functools.cache
def _spelling(symbols):
  """Of every symbol: whether it begins a word, its length, its hash, and base ** length."""
  begins, lengths, hashes, powers = [], [], [], []
  for i, symbol in enumerate(symbols):
    spelled = '' if i in (vocabulary.BOS, vocabulary.PAD, vocabulary.EOS) else symbol
    begins.append(spelled.startswith(vocabulary.WORD_START))
    spelled = spelled.removeprefix(vocabulary.WORD_START)
    value = 0
    for character in spelled:
      value = (value * _BASE + ord(character)) % 2**32
    lengths.append(len(spelled))
    hashes.append(value)
    powers.append(pow(_BASE, len(spelled), 2**32))
  return np.array(begins), np.array(lengths), *(np.array(x, np.uint32) for x in (hashes, powers))


def _words_of_tokens(tokens, *, symbols):
  """Fingerprints (L,) uint32 of the words that tokens (L,) spell, and their number."""
  begins, lengths, hashes, powers = (jnp.asarray(x) for x in _spelling(symbols))
  size = len(tokens)
  ended = jnp.cumsum(tokens == vocabulary.EOS) > 0
  tokens = jnp.where(ended, vocabulary.PAD, tokens)

  def read(word, token):
    number, value, length = word
    new = begins[token] & (length > 0)
    number = number + new
    value = jnp.where(new, 0, value) * powers[token] + hashes[token]
    word = number, value, jnp.where(new, 0, length) + lengths[token]
    return word, word

  start = (jnp.int32(0), jnp.uint32(0), jnp.int32(0))
  _, (number, value, length) = lax.scan(read, start, tokens)
  last = jnp.append(number[1:] != number[:-1], True) & (length > 0)
  words = jnp.zeros(size, jnp.uint32).at[jnp.where(last, number, size)].set(value, mode='drop')
  return words, last.sum(dtype=jnp.int32)


def _edits(said, said_count, meant, meant_count):
  """`edit_distance` of the first `said_count` and `meant_count` elements of two arrays."""
  places = jnp.arange(len(meant) + 1)

  def row(costs, inputs):
    i, word = inputs
    swapped = costs[:-1] + (meant != word)
    best = jnp.append(i + 1, jnp.minimum(swapped, costs[1:] + 1))
    best = lax.cummin(best - places) + places  # insertions, from the left
    return jnp.where(i < said_count, best, costs), None

  costs, _ = lax.scan(row, places, (jnp.arange(len(said)), said))
  return costs[meant_count].astype(jnp.int32)
