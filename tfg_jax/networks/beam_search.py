"""Beam search over any step function, as facebookresearch/fairseq `sequence_generator.py` does it.

Shapes are static, so it jits: K beams, and room for the longest hypothesis. What a step function
carries from step to step (its caches) is a tree of arrays (B, K, ...), reordered here as beams
survive.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Hypotheses(NamedTuple):
  """Finished hypotheses of every sentence, best first, padded to static shapes.

  tokens: (B, K, L) int32, each ends with `eos`; then `pad`.
  scores: (B, K) sum of log-probabilities over length ** length_penalty; -inf where there is none.
  token_scores: (B, K, L) log-probability of each token; 0 after the end.
  count: (B,) how many of the K hypotheses exist.
  """

  tokens: jax.Array
  scores: jax.Array
  token_scores: jax.Array
  count: jax.Array


class _Search(NamedTuple):
  step: jax.Array
  carry: Any  # of the step function, (B, K, ...)
  tokens: jax.Array  # (B, K, L): what the live beams hold, without the start token
  scores: jax.Array  # (B, K, L): their cumulative scores
  ignored: jax.Array  # (B, K): candidate ranks whose slot could not be filled
  done: jax.Array  # (B,)
  found: Hypotheses  # in order of completion; `token_scores` cumulative


def beam_search(
  step_fn: Callable,
  carry: Any,
  *,
  batch: int,
  vocabulary: int,
  beam: int,
  max_length: int,
  min_length: int = 1,
  length_penalty: float = 1.0,
  pad: int = 1,
  eos: int = 2,
) -> Hypotheses:
  """Finds the `beam` best token sequences of every sentence.

  A step extends each of K live beams by every token and keeps the best 2K results. Those among the
  first K that end in `eos` are finished hypotheses; the best K others live on. A sentence is done
  with K finished hypotheses, or at `max_length` tokens before `eos`. There is no early stop on
  scores. `beam=1` is greedy.

  Args:
    step_fn: (tokens (B, K) int32, step, carry) -> (logits (B, K, V), carry). At step 0 the tokens
      are `eos`, which is also the start token.
    carry: tree of arrays (B, K, ...) for the first step.
    batch, vocabulary: B and V.
    beam: K, lowered to V - 1 if larger.
    max_length: most tokens before the final `eos`; fairseq: min(int(max_len_a * frames +
      max_len_b), 2047) with the padded number of frames of the batch.
    min_length: fewest tokens before `eos`.
    length_penalty: hypotheses are ranked by score / length ** length_penalty; `eos` counts.
    pad, eos: token ids; `pad` is never chosen.
  """
  beam = min(beam, vocabulary - 1)
  length = max_length + 1
  candidates = min(2 * beam, beam * vocabulary - 1)
  rank = jnp.arange(candidates)

  def running(search):
    return (search.step <= max_length) & ~search.done.all()

  def advance(search):
    step = search.step
    previous = jnp.where(step > 0, search.tokens[:, :, step - 1], eos)
    logits, carry = step_fn(previous, step, search.carry)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    log_probs = _restrict(log_probs, step, max_length, min_length, pad, eos)
    past = jnp.where(step > 0, search.scores[:, :, step - 1], 0.0)
    totals = past[:, :, None] + log_probs  # (B, K, V)
    # All beams are equal at first: only one of them may speak.
    totals = jnp.where((step == 0) & (jnp.arange(beam) > 0)[:, None], -jnp.inf, totals)
    scores, flat = lax.top_k(totals.reshape(batch, -1), candidates)
    parent, token = flat // vocabulary, flat % vocabulary

    ends = (token == eos) & (scores > -jnp.inf)  # (B, 2K)
    leading = rank < beam
    ignored = jnp.pad(search.ignored, ((0, 0), (0, candidates - beam)))
    finished = ends & leading & ~ignored & ~search.done[:, None]
    found = _collect(search, finished, parent, scores, length_penalty, eos)
    done = search.done | (found.count >= beam) | (step >= max_length)

    # The best K candidates that go on, in order; if they are too few, slots are filled with
    # finished ones, whose rank the next step ignores. fairseq has fewer than 2K candidates at step
    # 0 when the vocabulary is small: the surplus ones here come after everything else.
    absent = (step == 0) & (rank >= min(2 * beam, vocabulary - 1))
    order = jnp.where(ends | (ignored & leading) | absent, candidates, 0) + rank
    order, chosen = lax.top_k(-order, beam)
    chosen_parent = jnp.take_along_axis(parent, chosen, axis=1)
    tokens = _of_beams(search.tokens, chosen_parent)
    tokens = tokens.at[:, :, step].set(jnp.take_along_axis(token, chosen, axis=1))
    totals = _of_beams(search.scores, chosen_parent)
    totals = totals.at[:, :, step].set(jnp.take_along_axis(scores, chosen, axis=1))
    carry = jax.tree.map(lambda x: _of_beams(x, chosen_parent), carry)
    return _Search(step + 1, carry, tokens, totals, -order >= candidates, done, found)

  nothing = Hypotheses(
    tokens=jnp.full((batch, beam, length), pad, jnp.int32),
    scores=jnp.full((batch, beam), -jnp.inf),
    token_scores=jnp.zeros((batch, beam, length)),
    count=jnp.zeros(batch, jnp.int32),
  )
  start = _Search(
    step=jnp.zeros((), jnp.int32),
    carry=carry,
    tokens=nothing.tokens,
    scores=nothing.token_scores,
    ignored=jnp.zeros((batch, beam), bool),
    done=jnp.zeros(batch, bool),
    found=nothing,
  )
  found = lax.while_loop(running, advance, start).found
  best = jnp.argsort(-found.scores, axis=1, stable=True)
  return Hypotheses(*(_of_beams(x, best) for x in found[:3]), found.count)


def _of_beams(x, beams):
  """Picks beams (B, N) of x (B, K, ...)."""
  return jnp.take_along_axis(x, beams.reshape(beams.shape + (1,) * (x.ndim - 2)), axis=1)


def _restrict(log_probs, step, max_length, min_length, pad, eos):
  """Applies the rules on single tokens to log-probabilities (B, K, V)."""
  is_eos = jnp.arange(log_probs.shape[-1]) == eos
  forbidden = jnp.arange(log_probs.shape[-1]) == pad
  forbidden |= (step >= max_length) & ~is_eos
  forbidden |= (step < min_length) & is_eos
  return jnp.where(forbidden | jnp.isnan(log_probs), -jnp.inf, log_probs)


def _collect(search, finished, parent, scores, length_penalty, eos):
  """Files the candidates that `finished` (B, 2K) marks behind the hypotheses found so far."""
  found, step = search.found, search.step
  slots = jnp.arange(found.scores.shape[1])
  # Candidate c goes to slot `place`; hypotheses beyond the K-th find no slot.
  place = found.count[:, None] + jnp.cumsum(finished, axis=1) - 1
  filed = finished[:, :, None] & (place[:, :, None] == slots)  # (B, 2K, K)
  fills = filed.any(1)
  source = jnp.argmax(filed, axis=1)  # (B, K)
  parent = jnp.take_along_axis(parent, source, axis=1)
  score = jnp.take_along_axis(scores, source, axis=1)
  tokens = _of_beams(search.tokens, parent).at[:, :, step].set(eos)
  totals = _of_beams(search.scores, parent).at[:, :, step].set(score)
  written = jnp.arange(totals.shape[2]) <= step
  token_scores = jnp.where(written, jnp.diff(totals, axis=2, prepend=0.0), 0.0)
  normalised = score / (step + 1.0) ** length_penalty
  return Hypotheses(
    tokens=jnp.where(fills[:, :, None], tokens, found.tokens),
    scores=jnp.where(fills, normalised, found.scores),
    token_scores=jnp.where(fills[:, :, None], token_scores, found.token_scores),
    count=jnp.minimum(found.count + finished.sum(1), found.scores.shape[1]),
  )
