"""Sync losses against Wav2Lip's and TalkLip's."""

import jax
import numpy as np
import pytest
from reference import assert_close, golden, network, reference_variables

from tfg_jax import losses
from tfg_jax.networks.layers import unit

pytestmark = pytest.mark.parity


def test_cosine_bce():
  arrays = golden('cosine_bce')
  audio, face = unit(arrays['in_audio_raw']), unit(arrays['in_face_raw'])
  assert_close(audio, arrays['mid_audio_unit'])
  assert_close(face, arrays['mid_face_unit'])
  assert_close(np.sum(audio * face, -1), arrays['out_cosine'])
  label = arrays['in_label'][:, 0]
  loss, gradients = jax.jit(jax.value_and_grad(losses.cosine_bce, (0, 1)))(audio, face, label)
  assert_close(loss, arrays['out_loss'])
  assert_close(gradients[0], arrays['out_grad_audio_unit'])
  assert_close(gradients[1], arrays['out_grad_face_unit'])
  each = [
    losses.cosine_bce(*rows)
    for rows in zip(audio[:, None], face[:, None], label[:, None], strict=True)
  ]
  assert_close(np.array(each)[:, None], arrays['out_loss_per_item'])
  assert_close(losses.cosine_bce(audio, face, np.ones(6)), arrays['out_loss_all_positive'])


def test_cosine_bce_is_finite_at_the_edges():
  arrays = golden('cosine_bce')
  pairs = [
    (a[None], f[None]) for a, f in zip(arrays['in_edge_audio'], arrays['in_edge_face'], strict=True)
  ]
  cosine = [float(np.sum(unit(a) * unit(f))) for a, f in pairs]
  np.testing.assert_allclose(cosine, arrays['out_edge_cosine'], atol=1e-6)
  for label in (0, 1):
    loss = [losses.cosine_bce(*pair, np.array([label])) for pair in pairs]
    np.testing.assert_allclose(loss, arrays[f'out_edge_loss_label{label}'], atol=1e-4)
    gradients = [jax.grad(losses.cosine_bce)(*pair, np.array([label])) for pair in pairs]
    assert np.all(np.isfinite(gradients))


def test_contrastive_loss():
  arrays = golden('talklip_sync')
  head, variables = network('talklip_sync'), reference_variables('talklip_sync')
  video, negatives = arrays['in_video'], arrays['in_negative_idx']

  audio, state = head.apply(variables, arrays['in_audio'], mutable=['intermediates'])
  assert_close(state['intermediates']['projected'][0], arrays['mid_linear_audio'])
  assert_close(audio, arrays['mid_audio_norm'])
  assert_close(unit(video), arrays['mid_video_norm'])
  positive = np.sum(audio * unit(video), -1, keepdims=True)
  against = np.take_along_axis(np.asarray(audio @ audio.T), negatives, 1)
  assert_close(np.concatenate([positive, against], 1) / 0.07, arrays['mid_logits'])

  def loss(variables, audio, video):
    return losses.contrastive_loss(head.apply(variables, audio), video, negatives)

  value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(
    variables, arrays['in_audio'], video
  )
  assert_close(value, arrays['out_loss'])
  bias = gradients[0]['params']['audio_projection']['bias']
  assert_close(bias, arrays['out_grad_linear_bias'])
  assert_close(gradients[1], arrays['out_grad_audio'])
  assert_close(gradients[2], arrays['out_grad_video'])
