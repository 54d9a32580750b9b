"""The conformer and MVM observers at tiny size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noise import gaussian, noisy_variables

from tfg_jax.errors import DataError
from tfg_jax.networks.conformer import (
  EOS,
  SPACE,
  ConformerLipReader,
  centred,
  characters_to_tokens,
  required_frames,
)
from tfg_jax.networks.layers import BatchNorm
from tfg_jax.networks.mvm import MVM, Memory, flipped_too

READER = ConformerLipReader(
  widths=(4,), features=8, depth=1, mlp_width=12, heads=2, taps=3, decoder_depth=1
)
TOKENS = jnp.array([[3, 4, 4, -1], [5, 1, 6, 7]])
LENGTHS = jnp.array([5, 3])


@pytest.fixture(scope='module')
def clips():
  video = gaussian(1, 2, 5, 8, 8, 1)
  return jnp.where(
    jnp.arange(5)[:, None, None, None] < LENGTHS[:, None, None, None, None], video, 0
  )


@functools.partial(jax.jit, static_argnames='frames')
def read(variables, video, lengths, tokens, *, frames):
  required = required_frames(lengths, tokens)
  return READER.apply(variables, video, lengths, required, tokens, frames=frames, train=False)


def test_a_clip_in_a_padded_batch_reads_as_it_does_alone(clips):
  inputs = clips, LENGTHS, LENGTHS, TOKENS
  variables = noisy_variables(READER, *inputs, frames=7, train=False)
  logits, ctc = read(variables, clips, LENGTHS, TOKENS, frames=7)
  alone, alone_ctc = read(variables, clips[1:, :3], LENGTHS[1:], TOKENS[1:], frames=4)
  np.testing.assert_allclose(logits[1:], alone, atol=1e-5)
  np.testing.assert_allclose(ctc[1:, :4], alone_ctc, atol=1e-5)


def test_required_frames_count_repetitions():
  tokens = jnp.array([[4, 4, 4, -1, -1], [4, 5, 4, 5, 4], [4, 5, -1, -1, -1]])
  np.testing.assert_array_equal(required_frames(jnp.array([2, 2, 9]), tokens), [5, 5, 9])


def test_short_clips_lie_in_the_middle():
  features = jnp.arange(1.0, 4.0).reshape(1, 3, 1) * jnp.ones((2, 1, 1))
  moved = centred(features, jnp.array([3, 2]), jnp.array([6, 3]), 7)
  np.testing.assert_array_equal(moved[0, :, 0], [0, 1, 2, 3, 0, 0, 0])
  np.testing.assert_array_equal(moved[1, :, 0], [1, 2, 0, 0, 0, 0, 0])


def test_characters():
  np.testing.assert_array_equal(characters_to_tokens("It's 4"), [6, 3, 22, 8, SPACE, 38])
  assert EOS == 39
  with pytest.raises(DataError, match=r"the lip reader has no token for \[',', '\?'\]"):
    characters_to_tokens('what, now?')


def test_masked_statistics_are_those_of_the_rows_that_count():
  x = gaussian(0, 4, 3, 2) + 3
  mask = jnp.array([True, False, True, True])
  norm = BatchNorm()
  variables = norm.init(jax.random.key(0), x, train=False)
  out, state = norm.apply(variables, x, mask, train=True, mutable=['batch_stats'])
  kept, expected = norm.apply(variables, x[mask], train=True, mutable=['batch_stats'])
  np.testing.assert_allclose(out[mask], kept, atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state, expected)


def test_memory_recalls_the_value_whose_key_the_query_resembles():
  memory = Memory(features=4, width=4, heads=1, slots=3, radius=200.0)
  x = gaussian(2, 1, 2, 4)
  params = noisy_variables(memory, x, train=False)['params']
  out = memory.apply({'params': params}, x, train=False)
  query = x @ params['q_embd']['kernel'] + params['q_embd']['bias']
  norms = np.linalg.norm(query, axis=-1, keepdims=True) * np.linalg.norm(params['key'], axis=-1)
  value = params['value'][np.argmax(query @ params['key'].T / norms, axis=-1)]

  def layer_norm(x, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-5)
    return x * params[name]['scale'] + params[name]['bias']

  recalled = layer_norm(value @ params['linear']['kernel'] + params['linear']['bias'], 'norm2')
  np.testing.assert_allclose(out, layer_norm(x + recalled, 'norm1'), atol=1e-3)


def test_mvm_with_flipping_does_not_know_left_from_right():
  mvm = MVM(
    classes=5,
    visual_features=8,
    widths=(4,),
    temporal_features=6,
    depth=2,
    heads=2,
    slots=3,
    audio_widths=(4,),
    mel_bins=8,
  )
  video = gaussian(3, 1, 4, 8, 8, 1)
  variables = noisy_variables(mvm, video, train=False)
  logits = jax.jit(lambda x: mvm.apply(variables, x, train=False))
  both = flipped_too(logits, video)
  assert both.shape == (1, 5)
  np.testing.assert_allclose(flipped_too(logits, video[:, :, :, ::-1]), both, atol=1e-5)
  assert np.abs(logits(video) * 2 - both).max() > 1e-4
