"""Beam search against fairseq's generator, both reading logits from a table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_close, golden

from tfg_jax.networks.beam_search import beam_search

pytestmark = pytest.mark.parity


@pytest.mark.parametrize('case', range(6))
def test_beam_search(case):
  arrays = golden('avhubert_beam_search')
  table, bias = jnp.asarray(arrays['in_table']), jnp.asarray(arrays['in_step_bias'])
  beam, ratio, extra, min_length, length_penalty = arrays['in_settings'][case]

  def step_fn(tokens, step, carry):
    return jax.vmap(lambda rows, previous: rows[previous])(table, tokens) + bias[
      :, step, None
    ], carry

  found = jax.jit(
    lambda: beam_search(
      step_fn,
      (),
      batch=len(table),
      vocabulary=table.shape[-1],
      beam=int(beam),
      max_length=int(ratio * arrays['in_src_len'] + extra),
      min_length=int(min_length),
      length_penalty=float(length_penalty),
    )
  )()
  np.testing.assert_array_equal(found.count, arrays[f'out_{case}_count'])
  assert_close(found.scores, arrays[f'out_{case}_scores'])
  expected = arrays[f'out_{case}_tokens']
  longest = expected.shape[2]
  np.testing.assert_array_equal(found.tokens[:, :, :longest], expected)
  np.testing.assert_array_equal(found.tokens[:, :, longest:], 1)
