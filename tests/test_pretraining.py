"""AV-HuBERT's pre-training: targets, what is hidden, who learns, what is measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import build, first_batch

from configs import lip_expert as configs
from tfg_jax import errors, pretrained
from tfg_jax.data import clip_codec, pipeline, records
from tfg_jax.features import clusters
from tfg_jax.systems.sources import Source

pytestmark = pytest.mark.end_to_end  # compiles whole systems

SPECIALS = 4


def batches_of(run, sample, batches=pipeline.train_batches, **settings):
  source = records.RecordSource(run.data.root, 'train')
  return batches(source, sample=sample, **settings, **run.data.per_process)


@pytest.fixture(scope='module')
def config(toy_records):
  def changed(variant='puppets_pretrain', **changes):
    c = configs.get_test_config(variant)
    c.data.root = str(toy_records)
    c.update_from_flattened_dict(changes)
    return c

  return changed


@pytest.fixture(scope='module')
def begun(config):
  """Run, system, state with its clusters, and a batch."""
  run, system = build(config())
  state = jax.jit(system.init)(jax.random.key(0))
  with batches_of(run, system.sample, seed=0) as batches:
    state = system.start(state, {}, batches)
    return run, system, state, next(batches)


def test_targets_are_the_nearest_clusters_of_the_sound(begun):
  _, system, state, batch = begun
  centroids = state.frozen['clusters']['centroids']
  assert centroids.shape == (6, clusters.MFCC_FEATURES)
  features = clusters.mfcc_with_deltas(batch['wav'], batch['num_samples'], 16)
  distances = np.linalg.norm(np.asarray(features)[:, :, None] - centroids, axis=-1)
  targets = system._targets(state.frozen, batch)
  np.testing.assert_array_equal(targets, distances.argmin(-1) + SPECIALS)
  assert len(np.unique(targets)) > 2  # loud and quiet are told apart


def test_a_later_iteration_asks_its_teacher(config, begun):
  _, pupil, state, _ = begun
  changes = {'model.targets.teacher': 'earlier', 'model.targets.layer': 1}
  run, system = build(config(**changes))
  assert system.sources == {'teacher': 'earlier'}
  net = state.nets['encoder']
  earlier = Source('earlier', {'encoder': {'params': net.params, 'batch_stats': net.stats}})
  with batches_of(run, system.sample, seed=0) as batches:
    taught = system.start(jax.jit(system.init)(jax.random.key(1)), {'teacher': earlier}, batches)
    batch = next(batches)
  teacher = taught.frozen['teacher']
  own = {name: x for name, x in net.params.items() if name != 'final_proj'}
  jax.tree.map(np.testing.assert_array_equal, teacher['params'], own)
  audio, video, padding = pupil._inputs(batch, augment=False)
  features = pupil.encoder.apply(teacher, audio, video, padding, train=False, layer=1)
  expected = clusters.nearest(features, taught.frozen['clusters']['centroids']) + SPECIALS
  np.testing.assert_array_equal(system._targets(taught.frozen, batch), expected)


# --------------------------------------------------------------------------------------------------
# Masks
# --------------------------------------------------------------------------------------------------


def sampled(system, frames, seed=0):
  clip = clip_codec.Clip(
    clip_id='',
    frames=[b''] * frames,
    height=48,
    width=48,
    fps=25.0,
    boxes=np.zeros((frames, 4), np.int64),
    wav=np.zeros(0, np.int16),
    sample_rate=16_000,
  )
  return system.sample(clip, np.random.default_rng(seed))


@pytest.mark.parametrize('frames', [1, 3, 7, 16])
def test_only_frames_of_the_clip_are_hidden(begun, frames):
  _, system, _, _ = begun
  drawn = sampled(system, frames)
  for name in ('audio_mask', 'video_mask', 'video_source'):
    assert drawn[name].shape == (16,)
  assert not drawn['audio_mask'][frames:].any() and not drawn['video_mask'][frames:].any()
  moved = drawn['video_source'] != np.arange(16)
  assert not (moved & ~drawn['video_mask']).any()
  assert (drawn['video_source'][:frames] < frames).all()


def test_about_half_of_the_sound_and_a_quarter_of_the_video_are_hidden(config):
  _, system = build(config(**{'data.max_frames': 100}))
  drawn = [sampled(system, 100, seed) for seed in range(60)]
  # Means over 400 seeds of the official code, at T = 100; rows are not cut to the poorest here.
  assert np.mean([x['audio_mask'] for x in drawn]) == pytest.approx(0.53, abs=0.04)
  assert np.mean([x['video_mask'] for x in drawn]) == pytest.approx(0.26, abs=0.04)


def test_masks_of_evaluation_depend_on_the_clip_alone(begun):
  run, system, _, _ = begun
  first, again = (
    first_batch(run, system.sample_evaluation, pipeline.eval_batches) for _ in range(2)
  )
  np.testing.assert_array_equal(first['audio_mask'], again['audio_mask'])
  assert not np.array_equal(first['audio_mask'][0], first['audio_mask'][1])


def test_features_are_hidden_instead_in_early_iterations(config):
  _, system = build(config(**{'model.encoder.mask_input': False}))
  drawn = sampled(system, 16)
  assert drawn['audio_mask'].any() and not drawn['video_mask'].any()
  np.testing.assert_array_equal(drawn['video_source'], np.arange(16))


# --------------------------------------------------------------------------------------------------
# Learning and measuring
# --------------------------------------------------------------------------------------------------


def test_a_step_moves_the_encoder_and_nothing_frozen(begun):
  _, system, state, batch = begun
  state = state.replace(step=jnp.int32(1))
  net = state.nets['encoder']
  rate = jax.tree.map(lambda x: x + 1 if x.dtype == jnp.int32 else x, net.opt_state)
  state = state.replace(nets={'encoder': net.replace(opt_state=rate)})  # the first rate is 0
  new, metrics = jax.jit(system.train_step)(state, batch)
  assert set(metrics) == {
    f'encoder/{name}' for name in ('total', 'prediction', 'penalty', 'masked_accuracy', 'grad_norm')
  }
  total = metrics['encoder/prediction'] + 10 * metrics['encoder/penalty']
  np.testing.assert_allclose(metrics['encoder/total'], total, rtol=1e-5)
  moved = {
    path[0].key: not np.array_equal(x, y)
    for (path, x), y in zip(
      jax.tree_util.tree_leaves_with_path(net.params),
      jax.tree.leaves(new.nets['encoder'].params),
      strict=True,
    )
  }
  for part in ('label_embs', 'mask_emb', 'final_proj', 'transformer', 'layer_norm'):
    assert moved[part], part
  assert int(new.nets['encoder'].stats['video_encoder']['norm']['count']) == 1
  jax.tree.map(np.testing.assert_array_equal, state.frozen, new.frozen)


def test_evaluation_counts_hidden_frames_alone(begun):
  run, system, state, _ = begun
  batch = first_batch(run, system.sample_evaluation, pipeline.eval_batches)
  numbers = jax.jit(system.eval_step)(state, batch)
  assert {name.split('/')[0] for name in numbers} == {
    'audio_video',
    'audio',
    'video',
    'commonest_cluster',
  }
  targets = np.asarray(system._targets(state.frozen, batch))
  hidden = batch['audio_mask'] | batch['video_mask']
  for i in range(len(targets)):
    seen = targets[i][hidden[i]]
    commonest = np.bincount(seen).max() / len(seen)
    assert numbers['commonest_cluster/masked_accuracy'][i] == pytest.approx(commonest)
  net = state.nets['encoder']
  audio, video, padding = system._inputs(batch, augment=False)
  video = np.take_along_axis(np.asarray(video), batch['video_source'][..., None, None, None], 1)
  out = system.encoder.apply(
    {'params': net.params, 'batch_stats': net.stats},
    audio,
    video,
    padding,
    mask=batch['audio_mask'],
    train=False,
    method='pretrain',
  )
  hits = np.asarray(out['logits'].argmax(-1) == targets)
  expected = [row[seen].mean() for row, seen in zip(hits, hidden, strict=True)]
  np.testing.assert_allclose(numbers['audio_video/masked_accuracy'], expected, rtol=1e-5)
  np.testing.assert_allclose(
    numbers['video/masked_error'], 1 - numbers['video/masked_accuracy'], atol=1e-6
  )
  means = {name: 0.25 for name in numbers}
  assert 'names the cluster of 25% from lips alone' in system.summary(means)


def test_its_encoder_is_exported(begun):
  _, system, state, _ = begun
  exported = system.export(state, 'avhubert_base_encoder')
  assert exported['params'] is state.nets['encoder'].params
  with pytest.raises(errors.ConversionError, match="an AV-HuBERT run holds no 'mvm_lrw'"):
    system.export(state, 'mvm_lrw')


@pytest.mark.parametrize('variant', [v for v in configs.VARIANTS if 'pretrain' in v])
def test_published_configs_build_at_full_size(variant):
  c = configs.get_config(variant)
  c.data.root = 'records'
  if '_1' not in variant and 'puppets' not in variant:
    c.model.targets.teacher = 'earlier'
  _, system = build(c)
  state = jax.eval_shape(system.init, jax.random.key(0))
  size = sum(x.size for x in jax.tree.leaves(state.nets['encoder'].params))
  if 'puppets' not in variant:
    # The fact sheet's sizes, of 2000 clusters: 103.3 M and 325.4 M.
    expected = {'base': 103.3e6, 'large': 325.4e6}[variant.split('_')[1]]
    assert size == pytest.approx(expected, rel=0.006)


# --------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model.encoder.classes': 8}, 'model.encoder.classes is 8 for 6 clusters'),
    (
      {'model.targets.teacher': 'earlier', 'model.targets.layer': 3},
      'model.targets.layer is 3',
    ),
    ({'model.targets.layer': 1}, 'model.targets asks for layer 1 of no teacher'),
    ({'data.fps': 30.0}, 'data has 30 frames and 16000 samples per second'),
    ({'model.warmup': 4}, 'model.warmup is 4 of 4 steps'),
    ({'model.view.size': 46}, 'model.view of 46 px, 8 px below the centre and moved by up to 2'),
    ({'model.view.below': 13}, 'does not lie in frames of 48x48'),
  ],
)
def test_settings_that_cannot_be(config, changes, message):
  with pytest.raises(errors.ConfigError, match=message):
    build(config(**changes))


def test_an_unknown_variant_is_named():
  with pytest.raises(ValueError, match="unknown variant 'g' of lip_expert; known: pretrain_base_1"):
    configs.get_config('g')


def test_more_clusters_than_frames(config):
  run, system = build(config(**{'model.targets.clusters': 900, 'model.encoder.classes': 904}))
  state = jax.eval_shape(system.init, jax.random.key(0))
  with (
    batches_of(run, system.sample, seed=0) as batches,
    pytest.raises(errors.DataError, match='64 frames cannot have 900 clusters'),
  ):
    system.start(state, {}, batches)


def test_it_draws_no_faces(begun):
  _, system, state, batch = begun
  with pytest.raises(errors.ConfigError, match='a run of AV-HuBERT draws no faces'):
    system.generate(state, batch)
  with pytest.raises(errors.ConfigError, match='draws no faces'):
    _ = system.face_size


def test_a_teacher_that_does_not_fit(begun):
  _, system, state, _ = begun
  net = state.nets['encoder']
  fresh = {'params': net.params, 'batch_stats': net.stats}
  other = jax.tree.map(lambda x: x, fresh)
  other['params']['layer_norm'] = {'scale': jnp.ones(7), 'bias': jnp.ones(7)}
  problem = r'the encoder does not fit: params/layer_norm/bias is \(7,\) there, and \(32,\)'
  with pytest.raises(errors.CheckpointError, match=problem):
    Source('there', {'encoder': other}).replace(fresh, 'encoder')
  del other['params']['layer_norm']
  with pytest.raises(errors.CheckpointError, match='params/layer_norm/bias is not there, and'):
    Source('there', {'encoder': other}).replace(fresh, 'encoder')
  with pytest.raises(errors.CheckpointError, match='it holds generator and no encoder'):
    Source('there', {'generator': fresh}).replace(fresh, 'encoder')


def test_a_workdir_without_a_checkpoint(tmp_path, config):
  from tfg_jax import trained

  trained.save_config(tmp_path, config())
  with pytest.raises(errors.CheckpointError, match='the run has no checkpoint yet'):
    pretrained.load(tmp_path)
