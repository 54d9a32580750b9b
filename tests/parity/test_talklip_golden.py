"""The TalkLip generator, and one whole evaluation of its second-stage losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from reference import (
  assert_close,
  assert_running_statistics,
  golden,
  network,
  reference_variables,
  to_nchw,
  to_nhwc,
)

from tfg_jax import losses, pytorch
from tfg_jax.features import video
from tfg_jax.networks.talklip import pick_rows

pytestmark = pytest.mark.parity


def test_generator():
  name = 'talklip_generator'
  arrays, variables, module = golden(name), reference_variables(name), network(name)
  audio, face = np.swapaxes(arrays['in_audio'], 1, 2), to_nhwc(arrays['in_face'])
  mask, rows = arrays['in_padding_mask'], arrays['in_id_audio']

  @jax.jit
  def run(variables):
    (image, embedding), state = module.apply(
      variables, face, audio, mask, rows, train=False, mutable=['intermediates']
    )
    return image, embedding, state['intermediates']

  image, embedding, mids = run(variables)
  assert_close(to_nchw(image), arrays['out_image'])
  assert_close(np.swapaxes(embedding, 0, 1), arrays['out_audio_embedding_tbc'])
  assert_close(mids['mapped_audio'][0], arrays['mid_audio_map'])
  mids = mids['image']
  assert_close(to_nchw(mids['pre_sigmoid'][0])[:, :, ::4, ::4], arrays['mid_pre_sigmoid'])
  encoder = [(4, 8), (4, 8), (8, 4), (8, 4), (4, 1), (4, 1), (4, 1)]
  decoder = [(4, 1), (4, 1), (4, 1), (8, 4), (8, 4), (8, 8), (8, 8)]
  for part, steps in (('encoder', encoder), ('decoder', decoder)):
    for i, (channels, pixels) in enumerate(steps):
      mid = to_nchw(mids[f'{part}_{i}'][0])[:2, ::channels, ::pixels, ::pixels]
      assert_close(mid, arrays[f'mid_face_{part}_{i}'])

  @jax.jit
  def train(variables):
    chosen = pick_rows(embedding, rows)
    return module.apply(
      variables, face, chosen, train=True, method='render', mutable=['batch_stats']
    )

  image, updated = train(variables)
  # Batch statistics over 4 faces amplify rounding, see the manifest of wav2lip_generator.
  assert_close(to_nchw(image)[:, :, ::2, ::2], arrays['out_train_image_sub'], 2e-4)
  stats = variables['batch_stats'] | updated['batch_stats']
  updated = {'params': variables['params'], 'batch_stats': stats}
  assert_running_statistics(updated, arrays, name)


# The generator's parameters whose gradients the golden file has.
LEAVES = (
  'image/output/kernel',
  'image/output/bias',
  'image/encoder_0_0/norm/scale',
  'image/encoder_3_0/norm/bias',
  'image/decoder_3_up/conv/kernel',
  'audio_map/kernel',
  'contrastive/audio_projection/bias',
  'audio_encoder/transformer/layers_9/fc1/bias',
  'audio_encoder/transformer/layers_11/self_attn/q_proj/bias',
)
TERMS = ('l1', 'perceptual', 'lip', 'sync')
WEIGHTS = np.array([1 - 1e-5 - 0.07, 0.07, 1e-5, 1e-3], np.float32)


# Rounding moves activations across the kinks of (leaky) ReLUs and the ties of max pools, and some
# pixels' gradients jump: noise of 1e-5 on the image moves ours as far from themselves.
KINKS = 0.04


def assert_close_but_for_kinks(actual, expected):
  assert_close(actual, expected, KINKS)
  scale = np.max(np.abs(expected))
  assert np.mean(np.abs(actual - expected) > 1e-3 * scale) < 0.04


def uint8_faces(array):
  return to_nhwc(array) / np.float32(255)


def draw(chosen, variables, arrays):
  """Returns faces in train mode, the picked audio embeddings and their contrastive rows."""
  params = traverse_util.flatten_dict(variables['params'], sep='/') | chosen
  params = traverse_util.unflatten_dict(params, sep='/')
  variables = {'params': params, 'batch_stats': variables['batch_stats']}
  generator = network('talklip_generator')
  audio, mask = np.swapaxes(arrays['in_audio'], 1, 2), arrays['in_padding_mask']
  heard = generator.apply(variables, audio, mask, train=False, method='encode_audio')
  heard = pick_rows(heard, arrays['in_id_audio'])
  pose, identity = (uint8_faces(arrays[f'in_{x}_face_uint8']) for x in ('pose', 'identity'))
  image, _ = generator.apply(
    variables,
    np.concatenate([pose, identity], -1),
    heard,
    train=True,
    method='render',
    mutable=['batch_stats'],
  )
  return image, heard, generator.apply(variables, heard, method='contrast')


def pixel_losses(image, judge, arrays):
  """Returns the L1 and the adversarial loss."""
  judged = network('talklip_discriminator').apply(judge, image)
  target = uint8_faces(arrays['in_target_face_uint8'])
  return jnp.stack([losses.masked_l1(image, target), losses.generator_loss(judged)])


def expert_losses(image, projected, expert, arrays):
  """Returns the lip and the contrastive loss, and what the expert saw and read."""
  frames = np.zeros((2, 8, 160, 160, 3), np.float32)
  frames[0], frames[1, :6] = arrays['in_frames_a'], arrays['in_frames_b']
  picked = np.stack([arrays['in_picked_a'], arrays['in_picked_b']])
  boxes = np.stack([arrays[f'in_boxes_{x}'][arrays[f'in_picked_{x}']] for x in 'ab'])
  faces = 255 * image.reshape(2, 5, 96, 96, 3)
  hybrid = video.paste_faces(frames[..., ::-1], faces[..., ::-1], boxes, picked)
  roi = video.lip_roi(hybrid, np.array([8, 6]))
  tokens, mask = arrays['in_prev_output_tokens'], arrays['in_padding_mask']
  logits, seen = network('avhubert_base_seq2seq').apply(
    expert, tokens, None, roi, mask, train=False
  )
  seen = pick_rows(seen, arrays['in_id_audio'])
  lip = losses.label_smoothed_cross_entropy(logits, arrays['in_target'])
  sync = losses.contrastive_loss(projected, seen, arrays['in_negative_idx'])
  return jnp.stack([lip, sync]), {'roi': roi, 'seen': seen, 'logits': logits}


def test_second_stage_losses_and_their_gradients():
  arrays = golden('talklip_losses')
  names = ('talklip_generator', 'talklip_discriminator', 'avhubert_base_seq2seq')
  variables, judge, expert = (reference_variables(name) for name in names)
  flat = traverse_util.flatten_dict(variables['params'], sep='/')
  chosen = {leaf: flat[leaf] for leaf in LEAVES}

  # The chain rule in pieces: each part is compiled once and the expert walked back only twice.
  @jax.jit
  def forward(chosen, variables, judge, expert):
    drawn, pull_drawn = jax.vjp(lambda x: draw(x, variables, arrays), chosen)
    image, _, projected = drawn
    pixel, pull_pixel = jax.vjp(lambda x: pixel_losses(x, judge, arrays), image)
    read, pull_read, mids = jax.vjp(
      lambda *x: expert_losses(*x, expert, arrays), image, projected, has_aux=True
    )
    return drawn, jnp.concatenate([pixel, read]), mids, (pull_drawn, pull_pixel, pull_read)

  backward = jax.jit(lambda pull, cotangent: pull(cotangent))
  (image, heard, _), values, mids, pulls = forward(chosen, variables, judge, expert)
  pull_drawn, pull_pixel, pull_read = pulls
  unit_vectors = np.eye(2, dtype=np.float32)
  images = [backward(pull_pixel, x)[0] for x in unit_vectors]
  images_read, rows = zip(*(backward(pull_read, x) for x in unit_vectors), strict=True)
  images += images_read

  assert_close(to_nchw(image)[:, :, ::8, ::8], arrays['mid_image_sub'], 2e-4)
  roi = np.moveaxis(np.asarray(mids['roi']), -1, 1)
  assert_close(roi[..., ::8, ::8], arrays['mid_video_sub'], 2e-4)
  assert_close(heard, arrays['mid_audio_picked'])
  assert_close(mids['seen'], arrays['mid_expert_encoder_picked'])

  outputs = {'l1': 'l1', 'perceptual': 'perceptual', 'lip': 'lip_loss', 'sync': 'sync'}
  for value, gradient, term in zip(values, images, TERMS, strict=True):
    assert_close(value, arrays[f'out_{outputs[term]}'])
    gradient = to_nchw(gradient)
    norm = np.sqrt(np.square(gradient).sum((1, 2, 3)))
    assert_close(norm, arrays[f'out_grad_image_{term}_norm'], 1e-3)
    assert_close_but_for_kinks(gradient[:2, :, ::8, ::8], arrays[f'out_grad_image_{term}_sub'])
  assert_close(WEIGHTS @ values, arrays['out_total'])

  target, logits = arrays['in_target'], mids['logits']
  real = target != 1
  picked = np.take_along_axis(jax.nn.log_softmax(logits), target[..., None], -1)[..., 0]
  assert_close(-np.sum(picked, where=real), arrays['out_lip_nll'])
  assert np.sum((np.argmax(logits, -1) == target) & real) == arrays['out_n_correct']
  assert real.sum() == arrays['out_total_tokens']

  total_at_image = sum(w * x for w, x in zip(WEIGHTS, images, strict=True))
  total_at_rows = sum(w * x for w, x in zip(WEIGHTS[2:], rows, strict=True))
  cotangent = (total_at_image, jnp.zeros_like(heard), total_at_rows)
  tree = {'params': traverse_util.unflatten_dict(backward(pull_drawn, cotangent)[0], sep='/')}
  for key, gradient in pytorch.to_torch('talklip_generator', tree).items():
    if f'out_grad_param_{key}' in arrays:
      assert_close(gradient, arrays[f'out_grad_param_{key}'], KINKS)
    else:
      assert_close(np.linalg.norm(gradient), arrays[f'out_grad_param_norm_{key}'], 1e-3)

  compare_discriminator(judge, image, arrays)


def compare_discriminator(judge, fake, arrays):
  """Its two losses, its gradient, and what the official code leaves over from the generator's."""

  # Everything big is an argument: XLA would fold the network over constants, one sum at a time.
  @jax.jit
  @functools.partial(jax.jacrev, has_aux=True)
  def terms(bias, judge, target, fake):
    params = judge['params'] | {'binary_pred': judge['params']['binary_pred'] | {'bias': bias}}
    on_real, on_fake = (
      network('talklip_discriminator').apply({'params': params}, x) for x in (target, fake)
    )
    values = (
      losses.real_loss(on_real),
      losses.fake_loss(on_fake),
      0.07 * losses.generator_loss(on_fake),
    )
    return jnp.stack(values), values

  bias = judge['params']['binary_pred']['bias']
  target = uint8_faces(arrays['in_target_face_uint8'])
  (real, false, left_over), values = terms(bias, judge, target, fake)
  assert_close(values[0], arrays['out_disc_real'])
  assert_close(values[1], arrays['out_disc_fake'])
  assert_close(real + false, arrays['out_grad_disc_bias_clean'], 1e-3)
  assert_close(left_over, arrays['out_grad_disc_bias_from_generator_step'], 1e-3)
