"""Speech2Video's encoder, its two teachers and its losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import (
  assert_close,
  assert_running_statistics,
  golden,
  network,
  reference_variables,
  to_nchw,
  to_nhwc,
)

from tfg_jax import losses
from tfg_jax.features.portrait import VGGFACE_MEAN
from tfg_jax.networks import vgg
from tfg_jax.networks.resnet import SENET50, ResNet

pytestmark = pytest.mark.parity


def test_cpc():
  arrays = golden('cpc_audio')
  variables = reference_variables('cpc_audio')

  @jax.jit
  def listen(variables, wave):
    return network('cpc_audio').apply(variables, wave[:, 0], mutable=['intermediates'])

  (z, c), state = listen(variables, arrays['in_wave'])
  assert_close(z, arrays['out_z'])
  assert_close(c, arrays['out_c'])
  assert_close(c[:, -1], arrays['out_omega'])
  seen = state['intermediates']['encoder']
  for ours, theirs in (('convolved_0', 'conv0'), ('normed_0', 'norm0')):
    steps = np.swapaxes(seen[ours][0], 1, 2)[:, ::16, :200]
    assert_close(steps, arrays[f'mid_{theirs}_c16'])
  (_, c), _ = listen(variables, arrays['in_wave_odd'])
  assert_close(c, arrays['out_c_odd'])


def test_vgg_face():
  arrays = golden('vggface_vgg16')
  variables = reference_variables('vggface_vgg16')
  module = network('vggface_vgg16')

  @jax.jit
  def look(variables, image):
    return module.apply(variables, image, train=False, mutable=['intermediates'])

  assert_close(vgg.MEAN, arrays['in_mean'])
  logits, state = look(variables, to_nhwc(arrays['in_image']))
  seen = {name: x[0] for name, x in state['intermediates'].items()}
  assert_close(logits, arrays['out_fc8'])
  assert_close(seen['fc6_out'], arrays['out_fc6'])
  assert_close(seen['fc7_out'], arrays['out_fc7'])
  assert_close(jax.nn.relu(seen['fc7_out']), arrays['out_fc7_relu'])
  assert_close(to_nchw(seen['relu1_2'])[:, ::8, ::8, ::8], arrays['mid_relu1_2_c8s8'])
  assert_close(to_nchw(seen['relu3_3'])[:, ::8, ::2, ::2], arrays['mid_relu3_3_c8s2'])
  assert_close(to_nchw(seen['relu4_3'])[:, ::8], arrays['mid_relu4_3_c8'])
  assert_close(to_nchw(seen['relu5_3'])[:, ::8], arrays['mid_relu5_3_c8'])
  assert_close(to_nchw(seen['pool5'])[:, ::4], arrays['mid_pool5_c4'])

  maps = jax.jit(functools.partial(module.apply, method='maps'))(
    variables, to_nhwc(arrays['in_image128'])
  )
  for ours, name in zip(maps, ('relu3_3', 'relu4_3', 'relu5_3'), strict=True):
    assert_close(to_nchw(ours)[:, ::8], arrays[f'out128_{name}_c8'])


def test_senet():
  arrays = golden('senet50_ferplus')
  variables = reference_variables('senet50_ferplus')
  mean = np.array(VGGFACE_MEAN, np.float32)
  assert_close(mean, arrays['in_mean'])

  @functools.partial(jax.jit, static_argnames='train')
  def look(variables, image, *, train=False):
    logits, state = ResNet(**SENET50 | {'dropout': 0.0}).apply(
      variables, image, train=train, mutable=['intermediates', 'batch_stats']
    )
    seen = jax.tree.map(
      lambda x: x[0], state.pop('intermediates'), is_leaf=lambda x: type(x) is tuple
    )
    return logits, seen, state

  image = to_nhwc(arrays['in_image'])
  logits, seen, _ = look(variables, image)
  assert_close(logits, arrays['out_logits'])
  assert_close(seen['pooled'][:, 0, 0], arrays['out_pool5'])
  assert_close(to_nchw(seen['pool1'])[:, ::8, ::2, ::2], arrays['mid_pool1_c8s2'])
  assert_close(seen['block_2_1']['gate'][:, 0, 0], arrays['mid_se2_1'])
  for stage, block, step in ((2, 3, 2), (3, 4, 2), (4, 6, 1), (5, 3, 1)):
    images = to_nchw(seen[f'stage_{stage}'])[:, ::16, ::step, ::step]
    assert_close(images, arrays[f'mid_conv{stage}_{block}_c16'])

  logits, seen, _ = look(variables, (image - mean) / 128 + mean)
  assert_close(logits, arrays['out_small_logits'])
  assert_close(seen['pooled'][:, 0, 0], arrays['out_small_pool5'])
  assert_close(seen['block_2_1']['gate'][:, 0, 0], arrays['mid_small_se2_1'])
  assert_close(to_nchw(seen['stage_4'])[:, ::16], arrays['mid_small_conv4_6_c16'])

  logits, seen, updated = look(variables, to_nhwc(arrays['in_image_train']), train=True)
  assert_close(logits, arrays['out_train_logits'])
  assert_close(seen['pooled'][:, 0, 0], arrays['out_train_pool5'])
  prefix = 'out_train_stats_'
  arrays = {
    key.replace('__', '.') if key.startswith(prefix) else key: x for key, x in arrays.items()
  }
  assert_running_statistics({**variables, **updated}, arrays, 'senet50_ferplus')


def test_distillation_losses():
  arrays = golden('speech2video_losses')
  mu = jnp.asarray(arrays['in_mu_student'])
  mu_teacher = arrays['in_teacher_emo_per_frame'].mean(1)
  assert_close(mu_teacher, arrays['out_eq1_mu_teacher'])
  nu, nu_teacher = arrays['in_nu_student'], arrays['in_nu_teacher']
  totals = {'literal': 0.0, 'teacher_target': 0.0}
  for name, student, teacher in (('mu', mu, mu_teacher), ('nu', nu, nu_teacher)):
    distance = losses.unit_distance(student, teacher)
    assert_close(distance, arrays[f'out_norm_term_{name}'])
    for kind in totals:
      value = losses.distillation(student, teacher, literal=kind == 'literal')
      assert_close(value, arrays[f'out_eq3_{kind}_{name}'])
      totals[kind] += 0.025 * distance + value
    value = losses.distillation(student, teacher, temperature=2.0)
    assert_close(value, arrays[f'out_eq3_teacher_target_{name}_T2'])
  for kind, total in totals.items():
    assert_close(total, arrays[f'out_eq2_{kind}'])
  gradient = jax.grad(losses.distillation)(mu, mu_teacher)
  assert_close(gradient, arrays['mid_grad_mu_teacher_target'])


def test_adversarial_losses():
  arrays = golden('speech2video_losses')
  # The golden file has the printed labels, real 0 and generated 1.
  scores = {key: 1 - x for key, x in arrays.items() if key.startswith('in_D')}
  identity = losses.adversary(scores['in_Did_real'], scores['in_Did_fake'])
  assert_close(identity, arrays['out_eq4_D_id'])
  frame = losses.adversary(scores['in_Dfr_real'], scores['in_Dfr_fake'])
  frames = scores['in_Dfr_fake'].shape[1]
  assert_close(frame, arrays['out_eq5_D_fr_mean_t'])
  assert_close(frames * frame, arrays['out_eq5_D_fr_sum_t'])
  sync = losses.sync_adversary(
    *(scores[f'in_Dsync_{kind}'] for kind in ('real', 'mismatch', 'fake'))
  )
  assert_close(sync, arrays['out_eq6_D_sync'])
  assert_close(identity + frame + sync, arrays['out_eq7_D_total_mean_t'])
  assert_close(identity + frames * frame + sync, arrays['out_eq7_D_total_sum_t'])

  fooled = [
    losses.least_squares(scores[f'in_{name}_fake'], 1.0) for name in ('Did', 'Dfr', 'Dsync')
  ]
  assert_close(fooled[0], arrays['out_G_id'])
  assert_close(fooled[1], arrays['out_G_fr_mean_t'])
  assert_close(frames * fooled[1], arrays['out_G_fr_sum_t'])
  assert_close(fooled[2], arrays['out_G_sync'])
  assert_close(sum(fooled), arrays['out_G_adv_mean_t'])


def test_pixel_losses():
  arrays = golden('speech2video_losses')
  fake, real = arrays['in_frames_fake'], arrays['in_frames_real']
  numbers = np.prod(fake.shape[2:])
  for half, share in (('upper', 0.5), ('lower', 0.5), ('full', 1)):
    value = losses.half_face_l1(fake, real, half)
    assert_close(value, arrays[f'out_eq8_{half}_mean'])
    assert_close(value * numbers * share, arrays[f'out_eq8_{half}_sum_per_frame'])
  assert_close(losses.smooth(fake)[0, 0], arrays['mid_smoothed_fake_b0t0'])
  gradient = losses.gradient_loss(fake, real)
  assert_close(gradient, arrays['out_eq9_grad_mean'])
  parts = [
    np.abs(np.diff(losses.smooth(fake - real), axis=axis)).sum() / np.prod(fake.shape[:2])
    for axis in (-3, -2)
  ]
  assert_close(sum(parts), arrays['out_eq9_grad_sum_per_frame'])
  pixels = losses.half_face_l1(fake, real) + gradient
  adversarial = arrays['out_G_adv_mean_t']
  assert_close(adversarial + pixels, arrays['out_eq10_G_total_mean_unit_weights_upper'])
  assert_close(adversarial + 100 * pixels, arrays['out_eq10_G_total_mean_w100_upper'])
