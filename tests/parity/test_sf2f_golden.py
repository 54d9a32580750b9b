"""SF2F and voice2face: networks, features, losses and metrics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights
from reference import (
  SEED,
  assert_close,
  assert_running_statistics,
  golden,
  network,
  reference_variables,
  to_nchw,
  to_nhwc,
)

from configs import sf2f as configs
from tfg_jax import configuration, losses, pytorch
from tfg_jax.features import audio, portrait, voice
from tfg_jax.metrics import likeness
from tfg_jax.networks import sf2f
from tfg_jax.systems.sf2f import SF2F

pytestmark = pytest.mark.parity

# Weights give images that depend little on the voice, so they are compared absolutely.
IMAGE, EMBEDDING, DECODED, TRAINED = 2e-6, 2e-6, 1e-4, 1e-4


def assert_near(actual, expected, tolerance):
  np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance)


@functools.partial(jax.jit, static_argnames=('module', 'method', 'train'))
def run(module, variables, *inputs, method=None, train=False, **settings):
  """Returns the result, every module's output by path, and the new variables."""
  collections = ['intermediates', 'batch_stats'] if train else ['intermediates']
  result, state = module.apply(
    variables,
    *inputs,
    method=method,
    train=train,
    mutable=collections,
    capture_intermediates=True,
    **settings,
  )
  seen = {
    '/'.join(key.key for key in path if hasattr(key, 'key')).removesuffix('/__call__'): value
    for path, value in jax.tree_util.tree_leaves_with_path(state.pop('intermediates'))
  }
  return result, seen, {**variables, **state}


def mel_of(arrays, name):
  """(..., 40, F) to (..., F, 40)."""
  return np.swapaxes(arrays[name], -1, -2)


# --------------------------------------------------------------------------------------------------
# Generators
# --------------------------------------------------------------------------------------------------


def test_generator_64():
  name = 'sf2f_generator_64'
  arrays, variables, module = golden(name), reference_variables(name), network(name)
  ((image,), embedding), seen, _ = run(module, variables, mel_of(arrays, 'in_mel'))
  assert_near(to_nchw(image), arrays['out_img'], IMAGE)
  assert_near(embedding, arrays['out_emb'], EMBEDDING)
  block = 'encoder/block_0'
  untrimmed = to_nchw(np.maximum(seen[f'{block}/norm_2'], 0))[:1]
  assert_close(untrimmed, arrays['mid_block0_k2_untrimmed'])
  assert_close(to_nchw(seen[block])[:1], arrays['mid_block0'])
  assert_close(to_nchw(seen['encoder/block_3']), arrays['mid_block3'])
  assert_close(to_nchw(seen['encoder/out']), arrays['mid_conv_last'])
  assert_close(seen['decoder/stem_gated'][:2], arrays['mid_fc_glu'])
  assert_close(to_nchw(seen['decoder/up_0_gated'])[:1], arrays['mid_up0'])
  assert_close(to_nchw(seen['decoder/up_3_gated'])[:1, :, ::4, ::4], arrays['mid_up3'])

  ((image,), embedding), seen, _ = run(module, variables, mel_of(arrays, 'in_mel_even'))
  assert_near(to_nchw(image), arrays['out_img_even'], IMAGE)
  assert_near(embedding, arrays['out_emb_even'], EMBEDDING)
  untrimmed = to_nchw(np.maximum(seen[f'{block}/norm_2'], 0))[:1]
  assert_close(untrimmed, arrays['mid_even_block0_k2_untrimmed'])
  assert_close(to_nchw(seen[block])[:1], arrays['mid_even_block0'])

  average = run(module, variables, mel_of(arrays, 'in_mel'), method='embed')[0].mean(0)[None]
  assert_near(average, arrays['out_emb_avgvoice'], EMBEDDING)
  (image,), _, _ = run(module, variables, average, method='draw')
  assert_near(to_nchw(image), arrays['out_img_avgvoice'], IMAGE)
  (image,), _, _ = run(module, variables, arrays['in_dec_emb'], method='draw')
  assert_near(to_nchw(image), arrays['out_dec_img'], DECODED)

  # Padded to a longer input whose true length is given: the same numbers.
  mel = np.pad(mel_of(arrays, 'in_mel_train'), ((0, 0), (0, 15), (0, 0)), constant_values=7)
  lengths = np.full(len(mel), 110)
  ((image,), embedding), _, updated = run(module, variables, mel, lengths, train=True)
  assert_near(to_nchw(image), arrays['out_train_img'], TRAINED)
  assert_near(embedding, arrays['out_train_emb'], EMBEDDING)
  state = pytorch.to_torch(name, updated)
  for key in [key for key in arrays if key.startswith('out_train_stats_')]:
    assert_close(state[key.removeprefix('out_train_stats_')][: len(arrays[key])], arrays[key])


def test_fuser():
  name = 'sf2f_generator_64_fuser'
  arrays, variables, module = golden(name), reference_variables(name), network(name)
  fuser = {'params': variables['params']['fuser']}

  @jax.jit
  def fuse(x, mask=None):
    fused, state = sf2f.AttentionFuser().apply(
      fuser, x, mask, mutable=['intermediates'], capture_intermediates=True
    )
    seen = state['intermediates']
    return fused, seen['attention'][0], seen['out']['__call__'][0]

  fused, attention, projected = fuse(arrays['in_fuser_emb'])
  assert_close(attention, arrays['mid_fuser_attn'])
  assert_close(projected, arrays['mid_fuser_linear_out'])
  assert_close(fused, arrays['out_fuser'])
  # A masked window is as if it were not there.
  more = np.concatenate([arrays['in_fuser_emb'], np.full((2, 1, 512), 9, np.float32)], 1)
  assert_close(fuse(more, np.arange(6) < np.full((2, 1), 5))[0], arrays['out_fuser'])

  ((image,), embedding), seen, _ = run(module, variables, mel_of(arrays, 'in_mel'))
  assert_near(seen['encoder'].reshape(2, 4, -1), arrays['mid_local_emb'], EMBEDDING)
  assert_close(seen['fuser/attention'], arrays['mid_attn'])
  assert_close(seen['fuser'], arrays['mid_fused_raw'])
  assert_near(embedding, arrays['out_emb'], EMBEDDING)
  assert_close(seen['decoder/stem_gated'], arrays['mid_fc_glu'])
  assert_near(to_nchw(image), arrays['out_img'], IMAGE)
  ((image,), _), _, _ = run(module, variables, mel_of(arrays, 'in_seg'))
  assert_near(to_nchw(image), arrays['out_img_seg'], IMAGE)
  (image,), _, _ = run(module, variables, arrays['in_dec_emb'], method='draw')
  assert_near(to_nchw(image), arrays['out_dec_img'], DECODED)

  ((image,), embedding), _, updated = run(
    module, variables, mel_of(arrays, 'in_mel_train'), train=True
  )
  assert_near(to_nchw(image), arrays['out_train_img'], TRAINED)
  assert_near(embedding, arrays['out_train_emb'], EMBEDDING)
  assert_running_statistics(updated, arrays, name)


def test_generator_of_two_resolutions():
  name = 'sf2f_generator_128_multires'
  arrays, variables, module = golden(name), reference_variables(name), network(name)
  ((low, middle), embedding), seen, _ = run(module, variables, mel_of(arrays, 'in_mel'))
  assert_close(seen['fuser'], arrays['mid_fused_raw'])
  assert_near(embedding, arrays['out_emb'], EMBEDDING)
  assert_close(to_nchw(seen['decoder/up_3_gated'])[:1, :, ::4, ::4], arrays['mid_up_low'])
  assert_close(to_nchw(seen['decoder/up_4_gated'])[:1, :, ::8, ::8], arrays['mid_up_mid'])
  assert_near(to_nchw(low), arrays['out_low'], IMAGE)
  assert_near(to_nchw(middle), arrays['out_mid'], IMAGE)
  ((low, _), _), _, _ = run(module, variables, mel_of(arrays, 'in_seg'))
  assert_near(to_nchw(low), arrays['out_low_seg'], IMAGE)
  (low, middle), _, _ = run(module, variables, arrays['in_dec_emb'], method='draw')
  assert_near(to_nchw(low), arrays['out_dec_low'], DECODED)
  assert_near(to_nchw(middle)[:, :, ::2, ::2], arrays['out_dec_mid'], DECODED)

  ((low, middle), embedding), _, updated = run(
    module, variables, mel_of(arrays, 'in_mel_train'), train=True
  )
  assert_near(to_nchw(low)[:2], arrays['out_train_low'], TRAINED)
  assert_near(to_nchw(middle)[:, :, ::2, ::2], arrays['out_train_mid'], TRAINED)
  assert_near(embedding, arrays['out_train_emb'], EMBEDDING)
  assert_running_statistics(updated, arrays, name)


def test_voice2face_generator():
  name = 'voice2face_generator'
  arrays, variables, module = golden(name), reference_variables(name), network(name)
  ((image,), embedding), seen, _ = run(module, variables, mel_of(arrays, 'in_mel'))
  assert_near(to_nchw(image), arrays['out_img'], IMAGE)
  assert_near(embedding, arrays['out_emb'], EMBEDDING)
  assert_close(to_nchw(np.maximum(seen['encoder/norm_0'], 0))[:1], arrays['mid_enc_block0'])
  assert_close(to_nchw(np.maximum(seen['encoder/norm_3'], 0)), arrays['mid_enc_block3'])
  assert_close(to_nchw(seen['encoder/out']), arrays['mid_enc_last'])
  deconvolved = {i: to_nchw(np.maximum(seen[f'decoder/deconv_{i}'], 0)) for i in (0, 1, 4)}
  assert_close(deconvolved[0][:2], arrays['mid_deconv0'])
  assert_close(deconvolved[1][:1], arrays['mid_deconv1'])
  assert_close(deconvolved[4][:1, :, ::4, ::4], arrays['mid_deconv4'])

  noise = arrays['in_noise'][..., 0, 0]
  ((image,), embedding), _, _ = run(module, variables, mel_of(arrays, 'in_mel'), noise=noise)
  assert_near(to_nchw(image), arrays['out_img_noise'], IMAGE)
  assert_near(embedding, arrays['out_emb_noise'], EMBEDDING)
  (image,), _, _ = run(module, variables, arrays['in_dec_emb'], method='draw')
  assert_near(to_nchw(image), arrays['out_dec_img'], DECODED)

  mel = np.pad(mel_of(arrays, 'in_mel_train'), ((0, 0), (0, 15), (0, 0)), constant_values=7)
  lengths = np.full(len(mel), 110)
  ((image,), embedding), _, updated = run(module, variables, mel, lengths, train=True)
  assert_near(to_nchw(image), arrays['out_train_img'], TRAINED)
  assert_near(embedding, arrays['out_train_emb'], EMBEDDING)
  assert_running_statistics(updated, arrays, name)


# --------------------------------------------------------------------------------------------------
# Discriminators and FaceNet
# --------------------------------------------------------------------------------------------------


def test_image_discriminator():
  name = 'sf2f_image_discriminator'
  arrays, variables, module = golden(name), reference_variables(name), network(name)
  image = to_nhwc(arrays['in_img'])
  logits, seen, _ = run(module, variables, image)
  assert_near(logits[:, None], arrays['out_score'], 1e-5)
  for i, (rows, channels) in enumerate([(1, 4), (1, 1), (4, 1)]):
    mid = to_nchw(seen[f'stack/conv_{i}'])[:rows, ::channels]
    assert_close(mid, arrays[f'mid_conv{i}'])
  logits, _, updated = run(module, variables, image, train=True)
  assert_near(logits[:, None], arrays['out_train_score'], 1e-5)
  assert_running_statistics(updated, arrays, name)


@pytest.mark.parametrize('name', ['sf2f_identity_discriminator', 'voice2face_discriminator'])
def test_identity_discriminator(name):
  arrays, variables, module = golden(name), reference_variables(name), network(name)
  image, label = to_nhwc(arrays['in_img']), arrays['in_label']
  (real, who), seen, _ = run(module, variables, image)
  assert_near(real[:, None], arrays['out_real'], 1e-5)
  assert_near(who, arrays['out_id_scores'], 1e-5)
  assert_close(losses.cross_entropy(who, label), arrays['out_ac_loss'], 1e-5)
  assert_close(seen['hidden'], arrays['out_vec'])
  assert_close(seen['pooled'], arrays['mid_pool'])
  for key in [key for key in arrays if key.startswith('mid_conv')]:
    conv = seen[f'stack/conv_{key.removeprefix("mid_conv")}']
    assert_close(to_nchw(conv)[:1], arrays[key])
  if name == 'voice2face_discriminator':
    return  # it has no norm: nothing differs in training
  (real, who), _, updated = run(module, variables, image, train=True)
  assert_near(real[:, None], arrays['out_train_real'], 1e-5)
  assert_near(who, arrays['out_train_id_scores'], 1e-5)
  assert_close(losses.cross_entropy(who, label), arrays['out_train_ac_loss'], 1e-5)
  assert_running_statistics(updated, arrays, name)


def test_facenet():
  name = 'sf2f_facenet'
  arrays, variables, module = golden(name), reference_variables(name), network(name)
  features, seen, _ = run(module, variables, to_nhwc(arrays['in_x']))
  assert_close(to_nchw(seen['resized'])[:, :, ::7, ::7], arrays['mid_resized'], 1e-5)
  assert_close(to_nchw(seen['conv2d_1a'])[:1, ::4, ::4, ::4], arrays['mid_conv2d_1a'], 1e-5)
  assert_close(to_nchw(seen['conv2d_4b'])[:, ::8], arrays['mid_conv2d_4b'], 1e-5)
  assert_close(to_nchw(seen['mixed_6a'])[:1, ::8], arrays['mid_mixed_6a'], 1e-5)
  assert_close(to_nchw(seen['mixed_7a'])[:1, ::4], arrays['mid_mixed_7a'], 1e-5)
  assert_close(seen['block8'][:, 1, 1], arrays['mid_block8'], 1e-5)
  assert_close(seen['last_bn'], arrays['mid_last_bn'], 1e-5)
  pooled = seen['pooled'] / np.linalg.norm(seen['pooled'], axis=-1, keepdims=True)
  assert_near(pooled, arrays['out_pooling'], 1e-6)
  for i, feature_map in enumerate(features.maps):
    assert_close(to_nchw(feature_map), arrays[f'out_hidden_{i}'], 1e-5)
  assert_near(features.embedding, arrays['out_emb'], 1e-6)


# --------------------------------------------------------------------------------------------------
# Voices and portraits
# --------------------------------------------------------------------------------------------------


def mel(wav, frames, start=0):
  window, number = voice.cut(wav, start, frames)
  return voice.log_mel(window[None], np.array([number]))[0]


def test_log_mel():
  arrays = golden('sf2f_mel')
  wave = arrays['in_wave']
  number = np.array([len(wave)])
  emphasised = audio._emphasise(wave[None], number)[0]
  assert_close(emphasised[1600:2400], arrays['mid_preemph'])
  frames = int(arrays['mid_frame_count'])
  assert int(audio.num_frames(len(wave))) == frames == 99
  _, power = audio._short_time_power(wave[None], number, frames)
  assert_close(power[0, [0, 20, 98]], arrays['mid_pspec'])
  assert_close(audio._filterbank(40), arrays['mid_filterbank'])
  raw = audio.log_energies(wave[None], number, frames, 40)[0]
  assert_near(raw.T, arrays['out_mel_novad'], 1e-4)
  silence = audio.log_energies(np.zeros((1, 800), np.int16), np.array([800]), 4, 40)[0]
  assert_near(silence.T, arrays['out_mel_silence'], 1e-4)
  assert_near(mel(wave, 110).T, arrays['out_padded_110'], 1e-4)
  # A window from the middle has the same numbers as there.
  assert_near(mel(wave, 40, start=37).T, arrays['out_padded_110'][:, 37:77], 1e-4)


def test_voice_activity():
  arrays = golden('sf2f_mel')
  segments = voice.speech_segments(arrays['in_vad_flags'])
  np.testing.assert_array_equal(np.concatenate(segments), arrays['out_vad_kept'])
  assert [len(x) for x in segments] == arrays['out_vad_segment_lengths'].tolist()

  # From the stored flags of WebRTC's detector to the official input of the network.
  frames = voice._vad_frames(arrays['in_wave'])
  kept = frames[np.concatenate(voice.speech_segments(arrays['mid_vad_flags']))].ravel()
  np.testing.assert_array_equal(kept, arrays['mid_vad_wave'])
  raw = audio.log_energies(kept[None], np.array([len(kept)]), 95, 40)[0]
  assert_near(raw.T, arrays['out_mel'], 1e-4)
  assert_near(mel(kept, 95).T, arrays['out_mel_norm'], 1e-4)


def test_the_detector_itself():
  pytest.importorskip('webrtcvad')
  arrays = golden('sf2f_mel')
  np.testing.assert_array_equal(voice.webrtc_flags(arrays['in_wave']), arrays['mid_vad_flags'])
  np.testing.assert_array_equal(voice.voiced(arrays['in_wave'], 'webrtc'), arrays['mid_vad_wave'])


def test_windows():
  arrays = golden('sf2f_mel')
  spectrogram = arrays['in_windows_mel']
  for stride in (63, 125):
    starts = voice.window_starts(spectrogram.shape[1], 125, stride)
    cut = np.stack([spectrogram[:, start : start + 125] for start in starts])
    np.testing.assert_array_equal(cut, arrays[f'out_windows_125_{stride}'])


def test_portraits():
  arrays = golden('sf2f_metrics')
  resized = portrait.resize(arrays['in_face_u8'], 64)
  np.testing.assert_array_equal(resized, arrays['mid_face_resized_u8'])
  assert_near(to_nchw(portrait.from_uint8(resized)[None])[0], arrays['out_face_tensor'], 1e-6)
  drawn = to_nhwc(arrays['in_net_out'])
  pixels = to_nchw(portrait.to_uint8(drawn)).astype(int)
  difference = np.abs(pixels - arrays['out_net_out_u8'])
  assert difference.max() <= 1 and (difference > 0).mean() < 1e-3
  whole = to_nchw(portrait.facenet_input(drawn, crop=False))
  assert_near(whole[..., ::4, ::4], arrays['mid_facenet_uncropped'], 1e-6)
  assert_near(to_nchw(portrait.facenet_input(drawn)), arrays['out_facenet_in'], 1e-6)
  top, bottom, left, right = portrait.face_crop(128)
  assert [top, bottom - 1, left, right - 1] == arrays['out_crop128_rows_cols'].tolist()
  seen = to_nchw(portrait.vggface_input(arrays['in_vfs_image_u8'][None]))
  assert_close(seen[..., ::8, ::8], arrays['out_vfs_network_input'])


# --------------------------------------------------------------------------------------------------
# Metrics
# --------------------------------------------------------------------------------------------------


def test_likeness():
  arrays = golden('sf2f_metrics')
  real, drawn = arrays['in_gt_emb'], arrays['in_pred_emb']
  assert_close(likeness.cosine(real, drawn).mean(), arrays['out_cos'], 1e-5)
  assert_close(likeness.l1(real, drawn).mean(), arrays['out_L1'], 1e-5)
  assert_close(likeness.l2(real, drawn).mean(), arrays['out_L2'], 1e-5)
  assert_close(likeness.inter_person_similarity(drawn, real), arrays['out_ih_sim'], 1e-5)
  for case, rows, size in (('slices50', 165, 50), ('first60', 60, 100), ('all', 165, 200)):
    for kind, counts, distance in (
      ('cos', (1, 2, 5, 10, 20, 50), None),
      ('L1', (1, 5, 10, 50), likeness.l1),
    ):
      found = likeness.recall(drawn[:rows], real[:rows], counts, size=size, distance=distance)
      assert_near(list(found.values()), arrays[f'out_recall_{kind}_{case}'], 1e-6)


def test_scores_of_sets():
  arrays = golden('sf2f_metrics')
  p = np.asarray(jax.nn.softmax(arrays['in_logits']))
  assert_close(p, arrays['mid_probs'], 1e-6)
  for case, score in (
    ('vfs', likeness.class_score(p[arrays['in_vfs_order']], 5)),
    ('is3', likeness.class_score(p, 3)),
    ('is5_val', likeness.class_score(p, 5, equal_parts=True)),
  ):
    assert_close(score.mean, arrays[f'out_{case}_mean'], 1e-5)
    assert_close(score.deviation, arrays[f'out_{case}_std'], 1e-4)
  distance = likeness.frechet_distance(arrays['in_act_real'], arrays['in_act_fake'])
  assert_close(distance, arrays['out_fid'], 1e-5)


# --------------------------------------------------------------------------------------------------
# Losses: whole iterations, discriminators in training
# --------------------------------------------------------------------------------------------------

# Ours -> the official name of a generator's term.
TERMS = {
  'pixel': 'L1_pixel_loss',
  'adversarial': 'g_gan_img_loss',
  'identity': 'ac_loss',
  'identity_adversarial': 'g_gan_ac_loss',
  'perceptual': 'img_perceptual_loss',
}
RAW = {
  'adversarial': ('g_gan_img', 'adversarial'),
  'identity': ('ac', 'identity'),
  'identity_adversarial': ('g_gan_ac', 'identity'),
  'perceptual': ('perceptual', 'perceptual'),
}


def system_of(variant):
  config = configs.get_config(variant)
  config.data.root, config.model.facenet_weights, config.model.identities = 'here', 'there', 10
  return SF2F.from_config(configuration.resolve(config))


def judges_of(system, family):
  """Reference weights of every discriminator, by their keys: (parameters, statistics) by size."""
  judges = {}
  for player, modules in system.judges.items():
    name = f'{family}_discriminator' if family == 'voice2face' else f'{family}_{player}'
    params, stats = {}, {}
    for size, module in modules.items():
      example = jnp.zeros((1, size, size, 3))
      like = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), example)
      zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
      tensors = {
        key: weights.reference_tensor(key, x.shape, str(x.dtype), SEED)
        for key, x in pytorch.to_torch(name, zeros).items()
      }
      variables = pytorch.from_torch(name, tensors, like)
      params[str(size)] = variables['params']
      stats[str(size)] = variables.get('batch_stats', {})
    judges[player] = (params, stats)
  return judges


def assert_iteration(system, family, case, drawn, real, arrays):
  """Terms and gradients of the generator, then terms and statistics of the discriminators."""
  judges, labels = judges_of(system, family), arrays['in_ids']
  uses_facenet = system.settings.loss.perceptual
  facenet = reference_variables('sf2f_facenet') if uses_facenet else {}

  @jax.jit
  def step(drawn, judges, facenet):
    def total(drawn):
      terms, judged = system.generator_terms(drawn, real, labels, judges, facenet)
      return sum(terms.values()), (terms, judged)

    (value, (terms, judged)), gradients = jax.value_and_grad(total, has_aux=True)(drawn)
    paid = {
      player: system.judge_loss(player, judges[player][0], judged[player], drawn, real, labels)
      for player in judges
    }
    own = {player: terms for player, (_, (terms, _, _)) in paid.items()}
    stats = {player: stats for player, (_, (_, stats, _)) in paid.items()}
    return value, terms, gradients, own, stats

  value, terms, gradients, own, stats = step(drawn, judges, facenet)
  assert_close(value, arrays[f'out_{case}_total_loss'], 1e-5)
  sizes = system.generator.decoder.sizes
  compared = 1
  for name, term in terms.items():
    kind, _, size = name.rpartition('_') if name[-1].isdigit() else (name, '', '')
    number = f'_{sizes.index(int(size))}' if size else '_0'
    official = TERMS[kind] + ('' if kind in ('pixel', 'perceptual') and not size else number)
    assert_close(term, arrays[f'out_{case}_{official}'], 1e-5)
    compared += 1
    if kind in RAW:
      raw, weight = RAW[kind]
      raw += '' if kind == 'perceptual' and not size else number
      unweighted = term / getattr(system.settings.loss, weight)
      assert_close(unweighted, arrays[f'mid_{case}_raw_{raw}'], 1e-5)
      compared += 1
  for i, size in enumerate(sizes):
    behind = f'_{size}' if len(sizes) > 1 else ''
    for player, official in (('image_discriminator', 'img'), ('identity_discriminator', 'ac')):
      if player not in own:
        continue
      paid = own[player][f'real{behind}'] + own[player][f'drawn{behind}']
      assert_close(paid, arrays[f'out_{case}_d_{official}_gan_loss_{i}'], 1e-5)
      compared += 1
    known = own['identity_discriminator'][f'identity{behind}']
    assert_close(known, arrays[f'out_{case}_d_ac_loss_real_{i}'], 1e-5)
    compared += 1
  losses_of_case = [
    key
    for key in arrays
    if (key.startswith(f'out_{case}_') and ('loss' in key) and not key.endswith('unused'))
    or key.startswith(f'mid_{case}_raw_')
  ]
  assert compared == len(losses_of_case)
  return [to_nchw(x) for x in gradients], stats


GRADIENT = 5e-5  # absolute: kinks of ReLU, L1 and pools can flip in float32


def test_iteration_of_sf2f():
  arrays = golden('sf2f_losses')
  system = system_of('64')
  drawn, real = ((to_nhwc(arrays[f'in_{x}']),) for x in ('preds', 'imgs'))
  (again,) = system.real(to_nhwc(arrays['in_imgs_u8']))
  assert_near(again, real[0], 1e-6)
  (gradient,), stats = assert_iteration(system, 'sf2f', 'sf2f', drawn, real, arrays)
  assert_near(gradient, arrays['out_sf2f_grad_preds'], GRADIENT)
  for player, short in (('image_discriminator', 'd_img'), ('identity_discriminator', 'd_ac')):
    module = system.judges[player][64]
    like = jax.eval_shape(
      functools.partial(module.init, train=False), jax.random.key(0), np.zeros((1, 64, 64, 3))
    )
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like['params'])
    state = {'params': zeros, 'batch_stats': stats[player]['64']}
    prefix = f'out_sf2f_stats_{short}_0.'
    assert_running_statistics(state, arrays, f'sf2f_{player}', prefix=prefix)


def test_iteration_of_voice2face():
  arrays = golden('sf2f_losses')
  drawn, real = ((to_nhwc(arrays[f'in_{x}']),) for x in ('preds', 'imgs'))
  system = system_of('voice2face')
  (gradient,), _ = assert_iteration(system, 'voice2face', 'v2f', drawn, real, arrays)
  assert_near(gradient, arrays['out_v2f_grad_preds'], GRADIENT)


def test_iteration_of_two_resolutions():
  arrays = golden('sf2f_losses')
  system = system_of('multires')
  real = system.real(to_nhwc(arrays['in_mr_imgs_u8']))
  assert_near(to_nchw(real[0])[:, :, ::4, ::4], arrays['mid_mr_real_low'], 1e-6)
  drawn = tuple(
    portrait.from_uint8(to_nhwc(arrays[f'in_mr_{x}_u8']) * np.float32(1.4) - 50)
    for x in ('low', 'mid')
  )
  (low, middle), _ = assert_iteration(system, 'sf2f', 'mr', drawn, real, arrays)
  assert_near(low[:, :, ::2, ::2], arrays['out_mr_grad_low'], GRADIENT)
  assert_near(middle[:, :, ::4, ::4], arrays['out_mr_grad_mid'], GRADIENT)


def test_elementary_losses():
  arrays = golden('sf2f_losses')
  real, drawn = arrays['in_scores_real'], arrays['in_scores_fake']
  for kind in ('gan', 'wgan', 'lsgan'):
    generator = losses.adversarial_loss(drawn, real=True, kind=kind)
    assert_close(generator, arrays[f'out_{kind}_g'], 1e-5)
    judge = losses.adversarial_loss(real, real=True, kind=kind) + losses.adversarial_loss(
      drawn, real=False, kind=kind
    )
    assert_close(judge, arrays[f'out_{kind}_d'], 1e-5)
  who = losses.cross_entropy(arrays['in_id_scores'], arrays['in_id_labels'])
  assert_close(who, arrays['out_ac_loss'], 1e-5)


def test_perceptual_loss():
  arrays = golden('sf2f_losses')
  variables = reference_variables('sf2f_facenet')
  drawn, real = to_nhwc(arrays['in_preds']), to_nhwc(arrays['in_imgs'])
  seen = {'pred': portrait.facenet_input(drawn), 'real': portrait.facenet_input(real)}
  features = {}
  for name, faces in seen.items():
    assert_near(to_nchw(faces), arrays[f'mid_facenet_in_{name}'], 1e-6)
    features[name], _, _ = run(network('sf2f_facenet'), variables, faces)
    assert_near(features[name].embedding, arrays[f'mid_emb_{name}'], 1e-6)
  each = losses.perceptual_terms(features['pred'], features['real'])
  assert_close(each, arrays['out_perceptual_terms'], 1e-5)
  total = each @ jnp.array(losses.PERCEPTUAL_WEIGHTS)
  assert_close(total, arrays['out_perceptual'], 1e-5)
  cosine = jnp.sum(features['pred'].embedding * features['real'].embedding, -1)
  assert_close(total + (1 - cosine).mean(), arrays['out_perceptual_cos1'], 1e-5)
