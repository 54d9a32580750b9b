"""The decoder's cache, its masks, and what beam search makes of it, at tiny size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noise import gaussian, noisy_variables

from tfg_jax.networks.avhubert import AVHubertEncoder
from tfg_jax.networks.avhubert_seq2seq import (
  EOS,
  PAD,
  AVHubertSeq2Seq,
  Decoder,
  sinusoids,
  token_positions,
)

B, T, L, V = 2, 5, 4, 9

DECODER = Decoder(width=16, depth=2, mlp_width=24, heads=2, vocabulary=V)


@pytest.fixture(scope='module')
def memory():
  return gaussian(1, B, T, 16)


@pytest.fixture(scope='module')
def variables(memory):
  tokens = jnp.zeros((B, L), jnp.int32)
  variables = noisy_variables(DECODER, tokens, memory, train=False)
  # Larger embeddings make the tiny decoder's distributions less flat.
  variables['params']['embed_tokens']['embedding'] *= 4
  return variables


@jax.jit
def force(variables, tokens, memory, mask):
  return DECODER.apply(variables, tokens, memory, mask, train=False)


@functools.partial(jax.jit, static_argnames='beam')
def step_by_step(variables, tokens, memory, mask, beam=2):
  """Logits (B, K, L, V) of the same tokens, from the cache, in every beam."""
  cache, projected = DECODER.apply(variables, memory, mask, beam=beam, length=L, method='start')

  def body(cache, inputs):
    step, token = inputs
    token = jnp.broadcast_to(token[:, None], (B, beam))
    logits, cache = DECODER.apply(variables, token, step, cache, projected, method='step')
    return cache, logits

  _, logits = jax.lax.scan(body, cache, (jnp.arange(L), tokens.T))
  return jnp.moveaxis(logits, 0, 2)


TOKENS = jnp.array([[EOS, 5, 3, 8], [EOS, 4, 4, 7]])
MASK = jnp.arange(T) >= jnp.array([[T], [3]])


def test_the_cache_gives_what_teacher_forcing_gives(variables, memory):
  forced = force(variables, TOKENS, memory, MASK)
  cached = step_by_step(variables, TOKENS, memory, MASK)
  for beam in range(2):
    np.testing.assert_allclose(cached[:, beam], forced, atol=1e-5)


def test_later_tokens_and_padded_memory_have_no_say(variables, memory):
  logits = force(variables, TOKENS, memory, MASK)
  other = force(variables, TOKENS.at[:, 2:].set(6), memory, MASK)
  np.testing.assert_allclose(other[:, :2], logits[:, :2], atol=1e-6)
  assert np.abs(other[:, 2:] - logits[:, 2:]).max() > 1e-3
  noise = jnp.where(MASK[..., None], 50.0, memory)
  np.testing.assert_allclose(force(variables, TOKENS, noise, MASK), logits, atol=1e-6)


def test_positions_count_real_tokens_from_two():
  tokens = jnp.array([[EOS, 5, 6, PAD, PAD]])
  np.testing.assert_array_equal(token_positions(tokens), [[2, 3, 4, 1, 1]])
  table = sinusoids(token_positions(tokens), 6)
  assert (table[0, 3:] == 0).all()
  np.testing.assert_allclose(table[0, 0, [0, 3]], [np.sin(2), np.cos(2)], rtol=1e-6)
  np.testing.assert_allclose(table[0, 1, 2], np.sin(3 * 1e-4), rtol=1e-5)


@pytest.fixture(scope='module')
def reader(memory):
  """A whole reader that hears, its variables, and speech."""
  encoder = AVHubertEncoder(
    width=16,
    depth=1,
    mlp_width=24,
    heads=2,
    audio_features=12,
    resnet_widths=(4,),
    resnet_blocks=1,
    position_taps=4,
    position_groups=4,
    classes=6,
    label_width=8,
  )
  module = AVHubertSeq2Seq(encoder, DECODER.copy(depth=1))
  speech = gaussian(5, B, T, 12)
  variables = noisy_variables(module, TOKENS, speech, train=False)
  variables['params']['decoder']['embed_tokens']['embedding'] *= 4

  @functools.partial(jax.jit, static_argnames='beam')
  def transcribe(beam):
    return module.apply(variables, speech, None, MASK, beam=beam, method='transcribe')

  @jax.jit
  def forced(tokens):
    return jax.nn.log_softmax(module.apply(variables, tokens, speech, None, MASK, train=False)[0])

  return transcribe, forced


def test_scores_are_what_teacher_forcing_says(reader):
  transcribe, forced = reader
  found = transcribe(beam=3)
  for k in range(3):
    tokens = found.tokens[:, k]  # (B, T + 1)
    log_probs = forced(jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=EOS))[:, :-1]
    each = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
    each = jnp.where(tokens == PAD, 0, each)
    np.testing.assert_allclose(found.token_scores[:, k], each, atol=1e-5)
    length = (tokens != PAD).sum(1)
    np.testing.assert_allclose(found.scores[:, k], each.sum(1) / length, atol=1e-5)
  assert (np.diff(found.scores, axis=1) <= 0).all()
