"""Beam search on tables of logits small enough to enumerate."""

import functools
import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfg_jax.networks.beam_search import beam_search

PAD, EOS, V = 1, 2, 6


@functools.partial(jax.jit, static_argnames=('beam', 'max_length', 'min_length'))
def search(table, length_penalty=1.0, *, beam, max_length, min_length=1):
  """Searches with logits (B, V, V) that depend on the previous token."""

  def step_fn(tokens, step, carry):
    del step
    return jnp.take_along_axis(table, tokens[..., None], axis=1), carry

  return beam_search(
    step_fn,
    (),
    batch=len(table),
    vocabulary=V,
    beam=beam,
    max_length=max_length,
    min_length=min_length,
    length_penalty=length_penalty,
  )


def log_prob(row, sequence):
  """Log-probability of a sentence, ended by `EOS`, in a table (V, V)."""
  rows = row - np.logaddexp.reduce(row, axis=-1, keepdims=True)
  return sum(rows[a, b] for a, b in itertools.pairwise((EOS, *sequence, EOS)))


@hypothesis.settings(max_examples=25)
@hypothesis.given(st.integers(0, 10_000))
def test_with_room_for_all_sentences_they_come_in_order(seed):
  table = np.random.default_rng(seed).normal(0, 2, (3, V, V)).astype(np.float32)
  found = jax.device_get(search(table, beam=5, max_length=1))
  assert (found.count == 4).all()
  for row, tokens, scores in zip(table, found.tokens, found.scores, strict=True):
    expected = {word: log_prob(row, (word,)) / 2 for word in (0, 3, 4, 5)}
    ranked = sorted(expected, key=expected.get, reverse=True)
    np.testing.assert_array_equal(tokens[:4], [(word, EOS) for word in ranked])
    np.testing.assert_allclose(scores[:4], [expected[word] for word in ranked], rtol=1e-4)
    assert scores[4] == -np.inf


narrow = functools.partial(search, beam=3, max_length=4, min_length=2)


@hypothesis.settings(max_examples=25)
@hypothesis.given(st.integers(0, 10_000), st.sampled_from([0.0, 1.0, 2.0]))
def test_hypotheses_are_sentences(seed, length_penalty):
  table = np.random.default_rng(seed).normal(0, 3, (3, V, V)).astype(np.float32)
  found = jax.device_get(narrow(table, jnp.float32(length_penalty)))
  for row, tokens, scores, count in zip(table, *found[:2], found.count, strict=True):
    assert 1 <= count <= 3
    assert len({tuple(map(int, row)) for row in tokens[:count]}) == count
    for hypothesis_tokens, score in zip(tokens[:count], scores, strict=False):
      end = int(np.argmax(hypothesis_tokens == EOS))
      words = hypothesis_tokens[:end]
      assert 2 <= end <= 4 and PAD not in words and (hypothesis_tokens[end + 1 :] == PAD).all()
      expected = log_prob(row, words) / (end + 1) ** length_penalty
      np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-5)
    assert (scores[count:] == -np.inf).all()
    assert (np.diff(scores[:count]) <= 0).all()


def test_logits_that_are_not_a_number_never_win():
  table = np.zeros((3, V, V), np.float32)
  table[:, 3] = np.nan  # whatever follows token 3
  found = jax.device_get(narrow(table, jnp.float32(1)))
  assert (found.count > 0).all()
  assert not np.isnan(found.scores).any()
  assert not (found.tokens[:, :, :-1] == 3).any()


def test_one_beam_is_greedy():
  table = np.random.default_rng(5).normal(0, 2, (3, V, V)).astype(np.float32)
  found = search(table, beam=1, max_length=4)
  for row, tokens in zip(table, np.asarray(found.tokens[:, 0]), strict=True):
    previous, said = EOS, []
    for step in range(5):
      forbidden = [PAD, EOS] if step == 0 else [PAD]
      choice = row[previous].copy()
      choice[forbidden] = -np.inf
      previous = EOS if step == 4 else int(choice.argmax())
      said.append(previous)
      if previous == EOS:
        break
    np.testing.assert_array_equal(tokens, said + [PAD] * (5 - len(said)))


def test_what_a_step_carries_follows_its_beam():
  # The carry adds up the tokens that its own beam has seen; the logits depend on it.
  def step_fn(tokens, step, total):
    total = total + jnp.where(step > 0, tokens, 0)
    logits = jnp.cos(total[..., None] * (1.0 + jnp.arange(V))) * 3
    return logits, total

  @jax.jit
  def run():
    return beam_search(
      step_fn, jnp.zeros((1, 4), jnp.int32), batch=1, vocabulary=V, beam=4, max_length=4
    )

  found = jax.device_get(run())
  for tokens, each in zip(found.tokens[0], found.token_scores[0], strict=True):
    total = 0
    for token, score in zip(tokens, each, strict=True):
      if token == PAD:
        break
      logits = np.cos(total * (1.0 + np.arange(V))) * 3
      np.testing.assert_allclose(score, logits[token] - np.logaddexp.reduce(logits), atol=1e-4)
      total += token
