"""Word and character error rates of lip readers.

Two official definitions: `word_error_rate` counts errors over a corpus of free transcripts
(AV-HuBERT); `teacher_forced_errors` counts them per clip, given the true text so far (TalkLip's
conformer observer).
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from tfg_jax.errors import DataError


class Errors(NamedTuple):
  """Edits and reference lengths of one clip, to be summed or averaged."""

  character_edits: int
  characters: int
  word_edits: int
  words: int

  @property
  def character_error_rate(self) -> float:
    return self.character_edits / self.characters

  @property
  def word_error_rate(self) -> float:
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
