"""The lip-reading expert (base) and observer (large): teacher forcing, gradients, free decoding."""

import functools

import jax
import numpy as np
import pytest
from reference import assert_close, golden, network, plain_convolutions, reference_variables
from test_avhubert_golden import first, inputs, time_first

from tfg_jax.losses import label_smoothed_cross_entropy
from tfg_jax.networks.avhubert_seq2seq import PAD, sinusoids, token_positions

pytestmark = pytest.mark.parity


@functools.partial(jax.jit, static_argnames='name')
def read(name, variables, tokens, audio, video, padding_mask):
  """Returns logits, encoder output, and the decoder's intermediates."""
  (logits, memory), state = network(name).apply(
    variables, tokens, audio, video, padding_mask, train=False, mutable=['intermediates']
  )
  return logits, memory, state['intermediates']['decoder']


@functools.partial(jax.jit, static_argnames=('beam', 'max_length'))
def spell(variables, memory, padding_mask, *, beam, max_length):
  return network('avhubert_base_seq2seq').apply(
    variables, memory, padding_mask, beam=beam, max_length=max_length, method='spell'
  )


@jax.jit
def loss_and_gradient(variables, tokens, target, video, padding_mask):
  """Returns (loss, nll) and the loss's gradient with respect to the pixels."""

  def loss(video):
    logits, _ = network('avhubert_base_seq2seq').apply(
      variables, tokens, None, video, padding_mask, train=False
    )
    nll = label_smoothed_cross_entropy(logits, target, smoothing=0, pad=PAD)
    return label_smoothed_cross_entropy(logits, target, pad=PAD), nll

  return jax.value_and_grad(loss, has_aux=True)(video)


@pytest.fixture(scope='module')
def base():
  name = 'avhubert_base_seq2seq'
  return golden(name), reference_variables(name)


def test_base_with_teacher_forcing(base):
  arrays, variables = base
  audio, video, mask = inputs(arrays)
  tokens, target = arrays['in_prev_output_tokens'], arrays['in_target']

  logits, memory, decoder = read('avhubert_base_seq2seq', variables, tokens, None, video, mask)
  assert_close(sinusoids(token_positions(tokens), 768), arrays['mid_positions'])
  assert_close(time_first(decoder['embedded'][0]), arrays['mid_decoder_embed_tbc'])
  assert_close(time_first(memory), arrays['out_encoder_tbc'])
  for layer in (0, 5):
    expected = arrays[f'mid_decoder_layer_{layer}_tbc']
    assert_close(time_first(decoder[f'layer_{layer}'][0]), expected)
  weights = decoder['layers_5']['encoder_attn']['weights'][0]
  assert_close(weights.mean(1), arrays['mid_cross_attention_last_layer'])
  assert_close(logits, arrays['out_logits_video'])
  right = (logits.argmax(-1) == target) & (target != PAD)
  assert right.sum() == arrays['out_n_correct']
  assert (target != PAD).sum() == arrays['out_total']

  logits, _, _ = read('avhubert_base_seq2seq', variables, tokens, audio, None, mask)
  assert_close(logits, arrays['out_logits_audio'])
  logits, _, _ = read('avhubert_base_seq2seq', variables, tokens, audio, video, mask)
  assert_close(logits, arrays['out_logits_av'])


def test_base_gradient_into_the_pixels(base):
  arrays, variables = base
  _, video, mask = inputs(arrays)
  tokens, target = arrays['in_prev_output_tokens'], arrays['in_target']
  with plain_convolutions():
    (loss, nll), gradient = loss_and_gradient(variables, tokens, target, video, mask)
  assert_close(loss, arrays['out_loss'])
  assert_close(nll, arrays['out_nll_loss'])
  gradient = np.moveaxis(gradient, -1, 1)  # (B, 1, T, H, W)
  assert_close(gradient[..., ::8, ::8], arrays['out_grad_video_sub'])
  norms = np.sqrt(np.square(gradient).sum((1, 3, 4)))
  assert_close(norms, arrays['out_grad_video_norm_per_frame'])


@pytest.mark.parametrize('beam', [1, 5])
@pytest.mark.parametrize(('max_length', 'name'), [(None, ''), (4, '_maxlen4')])
def test_base_free_decoding(base, beam, max_length, name):
  arrays, variables = base
  memory, mask = time_first(arrays['out_encoder_tbc']), arrays['in_padding_mask']
  found = spell(variables, memory, mask, beam=beam, max_length=max_length)
  np.testing.assert_array_equal(found.tokens, arrays[f'out_beam{beam}{name}_tokens'])
  assert_close(found.scores, arrays[f'out_beam{beam}{name}_scores'])
  assert_close(found.token_scores, arrays[f'out_beam{beam}{name}_positional_scores'])
  assert (found.count == beam).all()


def test_large_with_teacher_forcing():
  name = 'avhubert_large_seq2seq'
  arrays = golden(name)
  _, video, mask = inputs(arrays)
  tokens = arrays['in_prev_output_tokens']
  logits, memory, decoder = read(name, reference_variables(name), tokens, None, video, mask)
  assert_close(time_first(memory), arrays['out_encoder_tbc'])
  decoder = first(decoder)
  for layer in (0, 8):
    expected = arrays[f'mid_decoder_layer_{layer}_tbc']
    assert_close(time_first(decoder[f'layer_{layer}']), expected)
  assert_close(logits, arrays['out_logits_video'])
