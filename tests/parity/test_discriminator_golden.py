"""The quality discriminator against both of its official copies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import (
  assert_close,
  golden,
  network,
  plain_convolutions,
  reference_variables,
  to_nchw,
  to_nhwc,
)

pytestmark = pytest.mark.parity


def with_blocks(name):
  """Returns a jitted function of faces: logits and the output of every block."""
  variables = reference_variables(name)

  @jax.jit
  def run(face, variables):
    logit, state = network(name).apply(variables, face, mutable=['intermediates'])
    return logit, {key: value[0] for key, value in state['intermediates'].items()}

  return lambda face: run(face, variables)


def bce(logit, label):
  return np.mean(-np.log(jax.nn.sigmoid(logit if label else -logit)))


def test_talklip_discriminator():
  arrays = golden('talklip_discriminator')
  run = with_blocks('talklip_discriminator')
  face = to_nhwc(arrays['in_face'])

  logit, blocks = run(face)
  assert_close(logit[:, None], arrays['mid_logit'])
  assert_close(jax.nn.sigmoid(logit)[:, None], arrays['out_pred'])
  assert_close(bce(logit, 1), arrays['out_bce_real'])
  assert_close(bce(logit, 0), arrays['out_bce_fake'])
  assert_close(bce(logit, 1), arrays['out_perceptual_loss'])
  steps = [(4, 8), (4, 8), (8, 4), (8, 4), (4, 1), (4, 1), (4, 1)]
  for i, (channels, pixels) in enumerate(steps):
    block = to_nchw(blocks[f'block_{i}'])[:2, ::channels, ::pixels, ::pixels]
    assert_close(block, arrays[f'mid_block_{i}'])

  logit, _ = run(50 * face)
  assert_close(logit[:, None], arrays['mid_logit_gain50'])
  assert_close(jax.nn.sigmoid(logit)[:, None], arrays['out_pred_gain50'])

  with plain_convolutions():
    run = with_blocks('talklip_discriminator')
    gradient = jax.grad(lambda x: jnp.mean(jax.nn.softplus(-run(x)[0])))(face)
  assert_close(to_nchw(gradient)[:, :, ::4, ::4], arrays['out_perceptual_grad_sub'])


def test_wav2lip_quality_discriminator():
  arrays = golden('wav2lip_quality_discriminator')
  run = with_blocks('wav2lip_quality_discriminator')

  def time_major(faces):  # (B, C, T, H, W) -> (T * B, H, W, C)
    faces = np.transpose(faces, (2, 0, 3, 4, 1)).astype(np.float32)
    return faces.reshape(-1, *faces.shape[2:])

  logit, blocks = run(time_major(arrays['in_face_u8']) / 255)
  assert_close(logit[:, None], arrays['out_logit'])
  assert_close(jax.nn.sigmoid(logit)[:, None], arrays['out_prob'])
  assert_close(bce(logit, 1), arrays['out_loss_real'])
  assert_close(bce(logit, 0), arrays['out_loss_fake'])
  assert_close(bce(logit, 1), arrays['out_loss_perceptual'])
  for i, pixels in enumerate([8, 8, 4, 4, 1, 1, 1]):
    channels = 1 if i == 6 else 8
    block = to_nchw(blocks[f'block_{i}'])[:, ::channels, ::pixels, ::pixels]
    assert_close(block, arrays[f'mid_block{i}'])

  logit, _ = run(time_major(arrays['in_wide_i8']) * 0.5)
  assert_close(logit[:, None], arrays['out_wide_logit'])
  assert_close(jax.nn.sigmoid(logit)[:, None], arrays['out_wide_prob'])
