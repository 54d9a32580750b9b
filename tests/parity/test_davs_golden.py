"""DAVS: every public network against its recorded outputs."""

import collections

import jax
import numpy as np
import pytest
from reference import (
  assert_close,
  assert_running_statistics,
  forward,
  forward_training,
  golden,
  network,
  reference_tensors,
  reference_variables,
  thinned,
  to_nchw,
  to_nhwc,
)

from tfg_jax import alignment, convert, losses
from tfg_jax.features import audio
from tfg_jax.metrics import retrieval
from tfg_jax.networks.layers import unit
from tfg_jax.pytorch import converted
from tfg_jax.systems import davs_losses, davs_players

pytestmark = pytest.mark.parity

# Batch statistics of two to four faces amplify rounding.
TRAIN = 2e-4


def assert_statistics(updated, arrays, name):
  """The files write dots in keys as '__'."""
  arrays = {key.replace('__', '.'): x for key, x in arrays.items()}
  assert_running_statistics(updated, arrays, name)


def test_identity_encoder():
  name = 'davs_identity_encoder'
  arrays, variables = golden(name), reference_variables(name)
  face = to_nhwc(arrays['in_image'])
  identity, mids = forward(network(name), variables, face)
  assert_close(identity.vector, arrays['out_id'])
  assert_close(thinned(identity.net4), arrays['out_net4'])
  assert_close(thinned(identity.net3, 8), arrays['out_net3_c8'])
  assert_close(thinned(identity.net2, 8), arrays['out_net2_c8'])
  assert_close(thinned(identity.net1, 8, 2), arrays['out_net1_c8s2'])
  assert_close(thinned(mids['block_1'][0], 8, 4), arrays['mid_block1_c8s4'])

  identity, _, updated = forward_training(network(name), variables, face)
  assert_close(identity.vector, arrays['out_train_id'], TRAIN)
  assert_close(thinned(identity.net4, 4), arrays['out_train_net4_c4'], TRAIN)
  assert_close(thinned(identity.net3, 8), arrays['out_train_net3_c8'], TRAIN)
  assert_close(thinned(identity.net2, 8), arrays['out_train_net2_c8'], TRAIN)
  assert_close(thinned(identity.net1, 8, 2), arrays['out_train_net1_c8s2'], TRAIN)
  assert_statistics(updated, arrays, name)


def test_lip_encoder():
  name = 'davs_lip_encoder'
  arrays, variables = golden(name), reference_variables(name)
  faces = video(arrays['in_video'])
  words, mids = forward(network(name), variables, faces)
  assert_close(words, arrays['out_feature'])
  assert_close(thinned(mids['before_hourglass'][0], 16, 2), arrays['mid_conv4_c16s2'])
  assert_close(thinned(mids['out_hourglass'][0], 16, 2), arrays['mid_hg_c16s2'])
  assert_close(thinned(mids['out_heat_maps'][0], 4, 2), arrays['mid_fan_c4s2'])
  assert_close(thinned(mids['folded'][0]), arrays['mid_conv6'])

  later_pytorch = network(name).clone(align_corners=False)
  words, _ = forward(later_pytorch, variables, faces)
  assert_close(words, arrays['out_feature_align_false'])

  # The recorded training pass dropped nothing.
  words, _, updated = forward_training(network(name).clone(dropout=0.0), variables, faces)
  assert_close(words, arrays['out_train_feature'], TRAIN)
  assert_statistics(updated, arrays, name)


def test_mfcc_encoder():
  name = 'davs_mfcc_encoder'
  arrays, variables = golden(name), reference_variables(name)
  mfcc = arrays['in_mfcc'][:, :, 0]
  words, mids = forward(network(name), variables, mfcc)
  assert_close(words, arrays['out_feature'])
  assert_close(thinned(mids['square_2']['convolved'][0]), arrays['mid_m1_conv2'])
  assert_close(thinned(mids['tall_2']['convolved'][0]), arrays['mid_m2_conv2'])
  both = mids['both'][0][..., None, None]
  assert_close(both[:, :512], arrays['mid_model1'])
  assert_close(both[:, 512:], arrays['mid_model2'])

  words, _, updated = forward_training(network(name), variables, mfcc)
  assert_close(words, arrays['out_train_feature'], TRAIN)
  assert_statistics(updated, arrays, name)


def test_decoder():
  name = 'davs_decoder'
  arrays, variables = golden(name), reference_variables(name)
  inputs = arrays['in_id'], to_nhwc(arrays['in_id_net2']), arrays['in_wid'][:, None]

  def assert_images(image, mids, prefix, tolerance=1e-4):
    image = to_nchw(image[:, 0])
    assert_close(image[:, :, ::4, ::4], arrays[f'{prefix}_image_s4'], tolerance)
    assert_close(image[:, :, 96:160, 96:160], arrays[f'{prefix}_image_crop'], tolerance)
    assert_close(image[:, :, :8], arrays[f'{prefix}_image_border'], tolerance)
    assert_close(thinned(mids['before_tanh'][0], 1, 4), arrays[f'{prefix}_pretanh_s4'], tolerance)

  image, mids = forward(network(name), variables, *inputs)
  assert_images(image, mids, 'out')
  assert_close(thinned(mids['out_root'][0]), arrays['mid_deconv1'])
  for stage, step in enumerate((1, 1, 1, 2, 4, 8), start=1):
    assert_close(thinned(mids[f'stage_{stage}'][0], 16, step), arrays[f'mid_block{stage}_c16'])

  later_pytorch = network(name).clone(align_corners=False)
  image, _ = forward(later_pytorch, variables, *inputs)
  assert_close(thinned(image[:, 0], 1, 4), arrays['out_align_false_s4'])

  image, mids, updated = forward_training(network(name), variables, *inputs)
  assert_images(image, mids, 'out_train', TRAIN)
  assert_statistics(updated, arrays, name)


@pytest.mark.parametrize('name', ['davs_image_discriminator', 'davs_sequence_discriminator'])
def test_discriminator(name):
  arrays, variables = golden(name), reference_variables(name)
  images = arrays['in_image']  # channel 3 t + c
  frames = np.moveaxis(images.reshape(4, -1, 3, 256, 256), 2, -1)

  def assert_judgement(patches, pair, prefix, tolerance=1e-4):
    patches, pair = patches[:, None], pair[:, None]
    assert_close(patches, arrays[f'{prefix}_patch_logit'], tolerance)
    assert_close(pair, arrays[f'{prefix}_combine_logit'], tolerance)
    assert_close(jax.nn.sigmoid(patches), arrays[f'{prefix}_patch'], tolerance)
    assert_close(jax.nn.sigmoid(pair), arrays[f'{prefix}_combine'], tolerance)

  (patches, pair), mids = forward(network(name), variables, frames, arrays['in_mfcc'])
  assert_judgement(patches, pair, 'out')
  assert_close(thinned(mids['conv_4']['convolved'][0], 32), arrays['mid_conv3_c32'])
  assert_close(thinned(mids['mouth']['convolved'][0], 32), arrays['mid_crop_conv6_c32'])
  assert_close(mids['heard'][0][..., None, None], arrays['mid_mfcc'])

  (patches, pair), _, updated = forward_training(
    network(name), variables, frames, arrays['in_mfcc']
  )
  assert_judgement(patches, pair, 'out_train', TRAIN)
  assert_statistics(updated, arrays, name)


def test_classifiers():
  name = 'davs_classifiers'
  arrays, variables = golden(name), reference_variables(name)
  net1 = np.repeat(np.repeat(to_nhwc(arrays['in_map8']), 8, axis=1), 8, axis=2)[None]
  logits, mids = forward(
    network(name), variables, arrays['in_wid'], net1, arrays['in_pid'], arrays['in_pid1']
  )
  assert_close(logits['words'], arrays['out_fusion'])
  assert_close(mids['words']['hidden'][0], arrays['mid_fusion_hidden'])
  domain = logits['domain'].reshape(-1, 1)
  assert_close(domain, arrays['out_domain_logit'])
  assert_close(jax.nn.sigmoid(domain), arrays['out_domain'])
  assert_close(logits['identity_words'], arrays['out_idlip'])
  assert_close(thinned(mids['identity_words']['convolved'][0]), arrays['mid_idlip_conv6'])
  assert_close(mids['identity_words']['per_frame'][0], arrays['mid_idlip_fc'])
  assert_close(logits['probe'], arrays['out_id_fc'])
  assert_close(logits['persons'][:, ::8], arrays['out_face_id_s8'])


def test_the_three_heads_of_the_released_checkpoint_are_imported(tmp_path):
  torch = pytest.importorskip('torch', reason='needs the extra [torch]')
  name, entries = 'davs_classifiers', collections.defaultdict(dict)
  for key, x in reference_tensors(name).items():
    entry, key = key.split('.', 1)
    if not entry.endswith('id_fc') and entry != 'id_fc':
      entries[entry][f'module.{key}'] = torch.from_numpy(np.asarray(x))
  assert set(entries) == {'model_fusion', 'discriminator_audio', 'ID_lip_discriminator'}
  torch.save({**entries, 'step': 1}, tmp_path / 'x.pth.tar', _use_new_zipfile_serialization=False)
  conversion = convert.import_network(name, tmp_path / 'x.pth.tar', tmp_path / 'heads')
  assert any('not in the file; zeros take the place' in note for note in conversion.notes)
  variables, _ = converted.load(tmp_path / 'heads', name)
  expected = reference_variables(name)['params']
  for head in ('words', 'domain', 'identity_words'):
    jax.tree.map(np.testing.assert_array_equal, variables['params'][head], dict(expected[head]))


def test_mfcc():
  arrays = golden('davs_mfcc')
  wav = arrays['in_wave_int16'][None]
  samples = np.array([wav.shape[1]])
  cepstra = jax.jit(audio.magnitude_mfcc, static_argnums=2)(wav, samples, 98)[0]
  assert_close(cepstra, arrays['out_mfcc'], 1e-5)
  assert_close(cepstra, arrays['mid_mfcc_float64'], 1e-5)
  times = arrays['in_video_index'][None] / 25
  windows = jax.jit(audio.mfcc_windows)(wav, samples, times)
  assert_close(windows[0][:, None], arrays['out_windows'], 1e-5)
  # A floor below what sound gives changes nothing; digital silence becomes finite.
  np.testing.assert_array_equal(
    jax.jit(audio.mfcc_windows)(wav, samples, times, floor=1.0), windows
  )

  # The steps in between, each from the recorded one before it.
  emphasised = audio._emphasise(wav, samples)[0]
  assert_close(emphasised[:800], arrays['mid_preemphasis_0_800'], 1e-6)
  hamming = np.hamming(400)
  assert_close(hamming, arrays['mid_hamming'], 1e-12)
  cut = audio._cut(emphasised[None], 400, 160, 3)[0] * hamming
  assert_close(cut, arrays['mid_frames_0_3'], 1e-6)
  magnitude = np.abs(np.fft.rfft(cut, 512))
  assert_close(magnitude, arrays['mid_magnitude_0_3'], 1e-6)
  assert_close(audio._voice_corners(), arrays['mid_filter_edges_hz'], 1e-12)
  assert_close(audio._voice_filters(), arrays['mid_filterbank'], 1e-6)
  assert_close(magnitude @ audio._voice_filters().T, arrays['mid_fbe'][:3], 1e-6)
  assert_close(audio._voice_cosines().T, arrays['mid_dct'], 1e-6)
  assert_close(audio._lifter(), arrays['mid_lifter'], 1e-6)
  log = np.log(arrays['mid_fbe'])
  assert_close((log @ audio._voice_cosines()) * audio._lifter(), arrays['out_mfcc'], 1e-6)


def test_alignment():
  arrays = golden('davs_align')
  points = arrays['in_five_points'].reshape(5, 2)
  left_eye, right_eye, _, *corners = points
  mouth = np.mean(corners, axis=0)
  assert_close(np.stack([left_eye, right_eye, mouth]), arrays['mid_three_points'], 1e-12)
  transform = alignment.face_transform(left_eye, right_eye, mouth)
  assert_close(transform, arrays['out_M3'], 1e-6)

  def assert_grey_levels(face, expected):
    assert np.abs(face.astype(int) - expected).max() <= 1

  face = alignment.align_face(arrays['in_image'], transform)
  assert_grey_levels(face[::4, ::4], arrays['out_image260_s4'])
  assert_grey_levels(face[2:258:4, 2:258:4], arrays['out_image256_center_crop_s4'])

  left_eye, right_eye, *corners = arrays['in_lrw_eye74_eye77_mouth84_mouth90']
  mouth = np.mean(corners, axis=0)
  transform = alignment.face_transform(left_eye, right_eye, mouth, eyes_twice=True)
  assert_close(transform, arrays['out_M_lrw'], 1e-6)
  face = alignment.align_face(arrays['in_image'], transform)
  assert_grey_levels(face[::4, ::4], arrays['out_lrw_image260_s4'])


def test_metrics():
  arrays = golden('davs_metrics')
  seen, heard = arrays['in_video_feat'], arrays['in_audio_feat']
  for query, pair in (('video', (seen, heard)), ('audio', (heard, seen))):
    found, nearest = retrieval.ranks(*pair, block=16)
    np.testing.assert_array_equal(found, arrays[f'out_l2_{query}_query_ranks0'])
    np.testing.assert_array_equal(nearest, arrays[f'out_l2_{query}_query_top1'])
    for order in ('l2', 'cos'):
      expected = arrays[f'out_{order}_{query}_query_R1_R5_R10_R50_MedR_MeanR']
      np.testing.assert_allclose(list(retrieval.recalls(found).values()), expected, rtol=1e-6)
  heard, seen = arrays['in_audio_logits'], arrays['in_video_logits']
  for name, logits in (('audio', heard), ('video', seen), ('combined', heard + seen)):
    accuracy = 100 * retrieval.correct(logits, arrays['in_labels']).mean()
    assert_close(accuracy, arrays[f'out_acc_{name}'], 1e-6)


def test_losses():
  arrays = golden('davs_losses')
  seen, heard = arrays['in_video_feat'], arrays['in_audio_feat']
  assert_close(unit(seen), arrays['out_video_norm'], 1e-6)
  assert_close(unit(heard), arrays['out_audio_norm'], 1e-6)
  assert_close(losses.distances(seen, heard), arrays['out_distance_matrix'], 1e-6)
  loss, gradient = jax.value_and_grad(losses.l2_contrastive, argnums=1)(seen, heard)
  assert_close(loss, arrays['out_l2_contrastive_margin1'], 1e-6)
  assert_close(loss, arrays['out_G_embedding_l2'], 1e-6)
  assert_close(gradient, arrays['out_l2_contrastive_grad_audio'], 1e-5)
  swapped = losses.l2_contrastive(heard, seen)
  assert_close(swapped, arrays['out_l2_contrastive_margin1_swapped'], 1e-6)
  hardest = losses.l2_contrastive(seen, heard, hardest=True)
  assert_close(hardest, arrays['out_l2_contrastive_maxviolation'], 1e-6)
  assert_close(losses.ranking(seen, heard), arrays['out_ranking_margin0p5'], 1e-5)
  assert_close(losses.contrastive_eq1(seen, heard), arrays['out_paper_eq1'], 1e-6)

  logits, labels = arrays['in_logits'], arrays['in_labels']
  assert_close(losses.cross_entropy(logits, labels), arrays['out_cross_entropy'], 1e-6)
  classes = logits.shape[-1]
  assert_close(losses.confusion(logits) / classes, arrays['out_l2softmax_mse'], 1e-5)
  assert_close(losses.log_confusion(logits), arrays['out_sumlogsoftmax'], 1e-6)
  eq3 = [losses.confusion(row[None]) for row in logits]
  assert_close(np.array(eq3), arrays['out_paper_eq3_per_sample'], 1e-5)
  assert_close(losses.confusion(logits), arrays['out_paper_eq3_mean'], 1e-5)

  logits, soft = logit(arrays['in_prob']), arrays['in_soft']
  for label, name in ((1, 'real'), (0, 'fake'), (1 - soft, 'real_soft'), (soft, 'fake_soft')):
    assert_close(losses.soft_cross_entropy(logits, label), arrays[f'out_bce_{name}'], 1e-6)
    if label in (0, 1):
      assert_close(losses.square_distance(logits, label), arrays[f'out_lsgan_{name}'], 1e-6)


def test_the_joint_objective():
  """Both sides of the official objective, from what the networks would say."""
  arrays = golden('davs_losses')
  settings = davs_players.Settings(face_size=16, mouth_box=mouth_box(arrays['in_mouth_mask'][0, 0]))
  real, drawn = video(arrays['in_real_frames']), np.arange(6)[None].repeat(2, 0)
  heard, seen = np.random.default_rng(0).standard_normal((2, 2, 12, 8), np.float32)
  inputs = davs_losses.Inputs(
    portrait=to_nhwc(arrays['in_real_A']),
    kept=None,
    seen=real,
    heard=None,
    drawn=drawn,
    word=arrays['in_stub_labels'],
    person=None,
  )
  made = davs_losses.Made(
    identity=None,
    heard=heard,
    seen=seen,
    heard_words=arrays['in_stub_cls_audio'],
    seen_words=arrays['in_stub_cls_video'],
    from_audio=video(arrays['in_fake_audio']),
    from_video=video(arrays['in_fake_video']),
  )

  def pictures(side):
    patches, pairs = (logit(arrays[f'in_stub_seq_{side}_{head}']) for head in ('patch', 'comb'))
    return patches[:, 0], pairs[:, 0]

  said = davs_losses.Verdicts(
    domain_heard=logit(arrays['in_stub_dom_audio']).reshape(2, 12),
    domain_seen=logit(arrays['in_stub_dom_video']).reshape(2, 12),
    identity_words=arrays['in_stub_idlip'],
    sequence=pictures('fake'),
  )
  real_said = davs_losses.Verdicts(sequence=pictures('real'))

  softening = [arrays['in_soft']] * 4
  terms = davs_losses.opponents(settings, said, real_said, inputs, softening)
  assert_close(terms['domain'], arrays['out_dis_R_loss'], 1e-6)
  assert_close(terms['identity_words'], arrays['out_D_ce'], 1e-6)
  for ours, theirs in (('patches', 'seq'), ('pairs', 'seq_comb')):
    halves = arrays[f'out_D_{theirs}_fake'] + arrays[f'out_D_{theirs}_real']
    assert_close(terms[f'sequence_{ours}'], halves / 2, 1e-6)
  assert_close(sum(terms.values()) - terms['domain'], arrays['out_D_total'], 1e-6)

  terms = davs_losses.generators(settings, made, said, inputs)
  for ours, theirs in (
    ('l1_audio', 'L1_audio'),
    ('l1_video', 'L1_image'),
    ('steadiness', 'x_loss'),
    ('sequence_patches', 'gan_seq'),
    ('sequence_pairs', 'gan_seq_comb'),
    ('words_audio', 'ce_audio'),
    ('words_video', 'ce_video'),
    ('domain_audio', 'dom_audio_inv'),
    ('domain_video', 'dom_video_inv'),
  ):
    assert_close(terms[ours], arrays[f'out_G_{theirs}'], 1e-6)
  assert_close(2000 * terms['identity_words'], arrays['out_G_softmax_uniform_x1e6'], 1e-5)
  terms['contrastive'] = arrays['out_G_embedding_l2']  # of other features
  total = davs_losses.total(settings, terms, domain=settings.weights.domain)
  assert_close(total, arrays['out_G_total'], 1e-6)


def video(frames):
  """(B, T, C, H, W) to (B, T, H, W, C)."""
  return np.moveaxis(frames, 2, -1)


def mouth_box(mask):
  """Top, bottom, left, right of the ones."""
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def logit(probability):
  """In float64: near 1, float32 loses what cross-entropy asks for."""
  probability = probability.astype(np.float64)
  return np.log(probability / (1 - probability)).astype(np.float32)
