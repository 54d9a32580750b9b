"""Edit distance and the two official error rates."""

import functools

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from tfg_jax.data import vocabulary
from tfg_jax.errors import DataError
from tfg_jax.metrics.text import (
  edit_distance,
  teacher_forced_errors,
  word_edits,
  word_error_rate,
)

short_text = st.text('ab', max_size=5)


@hypothesis.given(short_text, short_text)
def test_edit_distance_is_the_recursive_one(a, b):
  @functools.cache
  def distance(i, j):
    if not i or not j:
      return i + j
    return min(
      distance(i - 1, j) + 1,
      distance(i, j - 1) + 1,
      distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]),
    )

  assert edit_distance(a, b) == distance(len(a), len(b))


def test_word_error_rate_weighs_long_sentences_more():
  rate = word_error_rate(['a x c d', 'no'], ['a b c d', 'yes'])
  assert rate == 2 / 5


def test_word_error_rate_may_exceed_one():
  assert word_error_rate(['one two three'], ['four']) == 3


def test_word_error_rate_counts_missing_transcripts_in_full():
  assert word_error_rate([''], ['a b']) == 1


def test_transcripts_that_do_not_fit():
  with pytest.raises(DataError, match='2 transcripts do not fit 1 references'):
    word_error_rate(['a', 'b'], ['a'])


def test_references_without_words():
  with pytest.raises(DataError, match='the references hold no word'):
    word_error_rate(['a'], [' '])


forced = functools.partial(teacher_forced_errors, space=1, eos=39)


def test_what_comes_behind_the_reference_does_not_count():
  errors = forced([5, 6, 7, 8, 9], [5, 6])
  assert errors.character_error_rate == 0 and errors.word_error_rate == 0


def test_an_early_end_is_a_deletion():
  errors = forced([5, 6, 39], [5, 6, 7])
  assert errors == (1, 3, 1, 1)


def test_empty_words_count_in_the_reference_and_at_the_start():
  assert forced([1, 5, 1, 1, 6], [1, 5, 1, 1, 6])[2:] == (1, 4)
  assert forced([1, 5, 6, 7], [5, 5, 6, 7])[2:] == (2, 1)


def test_an_empty_reference():
  with pytest.raises(DataError, match='the reference text is empty'):
    forced([5], [])


PIECES = vocabulary.from_pieces(['\u2581', '\u2581a', 'a', 'b', '\u2581ab'], [-1.0] * 5)
count_edits = jax.jit(word_edits, static_argnames='symbols')
tokens = st.lists(st.integers(0, len(PIECES) - 1), max_size=6)


@hypothesis.given(tokens, tokens)
def test_word_edits_on_the_device_are_those_of_the_texts(said, meant):
  hypotheses, references = (
    np.array([(ids + [vocabulary.EOS] + [vocabulary.PAD] * 6)[:7]], np.int32)
    for ids in (said, meant)
  )
  edits, words = count_edits(hypotheses, references, symbols=PIECES.symbols)
  said, meant = (PIECES.decode(ids).split() for ids in (said, meant))
  assert (int(edits[0]), int(words[0])) == (edit_distance(said, meant), len(meant))
