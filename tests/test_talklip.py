"""TalkLip: who learns in which stage, when stages end, what its numbers mean, what it draws."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import build, first_batch, noisy_state

from configs import talklip as configs
from tfg_jax import errors, losses, pretrained, train, trained
from tfg_jax.data import pipeline
from tfg_jax.systems import base, lip_expert, mouths
from tfg_jax.systems.sources import Source


def started(run, system):
  state = jax.jit(system.init)(jax.random.key(0))
  sources = {name: pretrained.load(folder) for name, folder in system.sources.items()}
  return jax.device_put(system.start(state, sources, ()))


@pytest.fixture(scope='module')
def heard_globally(twin, expert_workdir):
  """System, state and batch of g+c, whose audio encoder hears the whole utterance."""
  run, system = build(twin('g+c', **{'model.expert': str(expert_workdir)}))
  return system, started(run, system), first_batch(run, system.sample, seed=0)


@pytest.mark.end_to_end
def test_the_audio_encoder_starts_as_that_of_the_expert(heard_globally, expert_workdir):
  system, state, _ = heard_globally
  expected = pretrained.load(expert_workdir).nets['encoder']['params']
  encoder = system.export(state, 'talklip_generator')['params']['audio_encoder']
  for path, x in jax.tree_util.tree_leaves_with_path(encoder):
    if path[-1].key not in ('mask_emb', 'label_embs'):  # of masked prediction
      expected_leaf = functools.reduce(lambda tree, key: tree[key.key], path, expected)
      np.testing.assert_array_equal(x, expected_leaf)


def changed(before, after):
  """Names of the top-level parts of a tree that differ."""
  parts = {}
  for path, x in jax.tree_util.tree_leaves_with_path(before):
    y = dict(jax.tree_util.tree_leaves_with_path(after))[path]
    name = '/'.join(key.key for key in path[:2])
    parts[name] = parts.get(name, False) or not np.array_equal(x, y)
  return {name for name, differs in parts.items() if differs}


@pytest.mark.end_to_end
def test_the_audio_encoder_rests_in_stage_0(heard_globally):
  system, state, batch = heard_globally
  assert set(state.nets) == {'generator', 'discriminator', 'audio'}
  new, metrics = jax.jit(system.train_step)(state, batch)
  assert not changed(state.nets['audio'].params, new.nets['audio'].params)
  assert int(new.nets['audio'].opt_state[0].count) == 0
  assert changed(state.nets['generator'].params, new.nets['generator'].params) >= {
    'audio_map/kernel'
  }
  assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.end_to_end
def test_its_last_three_layers_learn_from_stage_1_on(heard_globally):
  system, state, batch = heard_globally
  new, _ = jax.jit(system.train_step)(state.replace(stage=1), batch)
  layers = {f'transformer/layers_{i}' for i in (1, 2, 3)}  # of four
  assert (
    set(
      '/'.join(k.key for k in path[:2])
      for path, _ in jax.tree_util.tree_leaves_with_path(state.nets['audio'].params)
    )
    == layers
  )
  assert changed(state.nets['audio'].params, new.nets['audio'].params) == layers
  assert 'transformer' in state.frozen['audio']['params']
  assert int(new.nets['audio'].opt_state[0].count) == 1


@pytest.mark.end_to_end
def test_the_exported_generator_is_whole(heard_globally):
  system, state, _ = heard_globally
  variables = system.export(state, 'talklip_generator')
  encoder = variables['params']['audio_encoder']['transformer']
  assert {f'layers_{i}' for i in range(4)} <= set(encoder)
  with pytest.raises(errors.ConversionError, match="a TalkLip run holds no 'wav2lip_generator'"):
    system.export(state, 'wav2lip_generator')


# --------------------------------------------------------------------------------------------------
# The expert
# --------------------------------------------------------------------------------------------------


@pytest.mark.end_to_end
def test_the_expert_teaches_in_stage_2_only(heard_globally):
  system, state, batch = heard_globally
  step = jax.jit(system.train_step)
  before, metrics_before = step(state.replace(stage=1), batch)
  after, metrics = step(state.replace(stage=2), batch)
  assert metrics.keys() - metrics_before.keys() == {'g/lip', 'g/contrastive'}
  weights = system.settings.loss
  expected = (
    weights.l1 * metrics['g/l1']
    + weights.adversarial * metrics['g/adversarial']
    + weights.lip * metrics['g/lip']
    + weights.contrastive * metrics['g/contrastive']
  )
  np.testing.assert_allclose(metrics['g/total'], expected, rtol=1e-5)
  # The same random choices, so the first losses are the same; the gradients are not.
  np.testing.assert_allclose(metrics['g/l1'], metrics_before['g/l1'], rtol=1e-5)
  head = 'contrastive/audio_projection'
  fresh = state.nets['generator'].params
  assert head not in changed(fresh, before.nets['generator'].params)
  assert head in changed(fresh, after.nets['generator'].params)
  assert not changed(state.frozen['expert'], after.frozen['expert'])


@pytest.mark.end_to_end
def test_the_expert_reads_the_real_clip_where_nothing_is_pasted(heard_globally, expert_workdir):
  system, state, batch = heard_globally
  target, _, index, mask = mouths.window_inputs(batch, 5, system.face_size)
  embedding = np.random.default_rng(0).standard_normal((len(mask), 16)).astype(np.float32)
  reader = lip_expert.read(expert_workdir)
  logits, seen = jax.jit(functools.partial(reader.module.apply, train=False))(
    state.frozen['expert'],
    lip_expert.previous(batch['tokens']),
    None,
    reader.view(batch['frames'], batch['num_frames']),
    np.arange(25) >= batch['num_frames'][:, None],
  )
  expected = losses.label_smoothed_cross_entropy(logits, batch['tokens'])
  read = jax.jit(
    lambda fake, mask: system._read(
      state, system._variables(state), fake, embedding, batch, index, mask
    )
  )
  unpasted = read(target, np.zeros_like(mask))
  np.testing.assert_allclose(unpasted['lip'], expected, rtol=1e-5)
  assert unpasted['contrastive'] == 0  # a mean over no face
  pasted = read(np.zeros_like(target), mask)
  assert abs(float(pasted['lip'] - expected)) > 1e-4
  assert float(pasted['contrastive']) > 0


@pytest.mark.end_to_end
def test_a_run_goes_through_its_stages_and_goes_on_in_them(twin, expert_workdir, tmp_path, capsys):
  def part(steps):  # every evaluation ends a stage
    config = twin('l+c', **{'model.expert': str(expert_workdir), 'model.patience': -1})
    config.num_steps, config.log_every, config.evaluation.every = steps, 1, 1
    assert train.train_and_evaluate(config, tmp_path, devices=jax.devices()[:1])

  part(1)
  part(4)
  said = capsys.readouterr().out
  assert 'Going on after step 1' in said
  assert 'The schedule has ended after step 2' in said
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [row['step'] for row in rows if 'g/l1' in row] == [1, 2]
  assert [row['step'] for row in rows if 'g/lip' in row] == [2]
  # Whoever only draws needs no expert.
  assert not trained.load(tmp_path).state.frozen


@pytest.mark.parametrize(
  'variant, changes, problem',
  [
    ('l', {}, r'model\.loss\.lip=1e-05 needs a lip expert, and model\.expert is empty'),
    ('g', {'model.loss.lip': 0.0}, r"model\.audio='global' needs a lip expert"),
  ],
)
def test_a_config_that_needs_an_expert_and_has_none_is_refused(twin, variant, changes, problem):
  with pytest.raises(errors.ConfigError, match=problem):
    build(twin(variant, **changes))


@pytest.mark.end_to_end
def test_an_expert_of_another_width_is_refused(twin, expert_workdir):
  changes = {'model.expert': str(expert_workdir), 'model.contrastive_features': 8}
  run, system = build(twin('l+c', **changes))
  with pytest.raises(errors.ConfigError, match='contrastive_features is 8 and the expert has 16'):
    started(run, system)


# --------------------------------------------------------------------------------------------------
# Stages
# --------------------------------------------------------------------------------------------------


def stages(system, scores):
  schedule = {'best': jnp.float32(100), 'waited': jnp.int32(0)}
  state = base.State.create(jax.random.key(0), {}, schedule=schedule)
  seen = []
  for score in scores:
    state = system.on_evaluation(state, {'generated/l1': score})
    seen.append(state.stage)
  return seen, state


def test_a_stage_ends_after_more_than_patience_evaluations_without_a_better_score(twin):
  _, system = build(twin('g', **{'model.expert': 'not read', 'model.patience': 2}))
  seen, state = stages(system, [0.5, 0.4, 0.4, 0.4, 0.4, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3])
  assert seen == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3]
  assert float(state.schedule['best']) == pytest.approx(0.3)  # never reset
  assert system.finished(state)


def test_the_local_variant_has_no_stage_1(twin):
  _, system = build(twin('no_lip', **{'model.patience': 1}))
  assert stages(system, [0.5] * 5)[0] == [0, 0, 2, 2, 3]


def test_stages_may_begin_at_given_steps(twin):
  _, system = build(twin('no_lip', **{'model.stage_starts': (0, 200)}))
  state = jax.eval_shape(system.init, jax.random.key(0))
  assert state.stage == 1
  at = [state.replace(step=jnp.int32(step)) for step in (199, 200, 900)]
  assert [system.on_evaluation(x, {}).stage for x in at] == [1, 2, 2]
  assert not system.finished(system.on_evaluation(at[-1], {}))


@pytest.mark.parametrize('variant', [x for x in configs.VARIANTS if x.startswith('puppets')])
def test_variants_on_puppets_differ_in_losses_and_audio_alone(variant):
  config, published = configs.get_config(variant), configs.get_config(variant[8:])
  config.model.expert = 'not read'
  run, system = build(config)
  shapes = jax.eval_shape(system.init, jax.random.key(0))
  assert ('audio' in shapes.nets) == (config.model.audio == 'global')
  assert {name: value > 0 for name, value in config.model.loss.items()} == {
    name: value > 0 for name, value in published.model.loss.items()
  }
  begins = 'base' in variant
  assert system.settings.window_frames == (1 if begins else 5)
  assert shapes.stage == (0 if begins else 2)


# --------------------------------------------------------------------------------------------------
# Beginning with what another run has learnt
# --------------------------------------------------------------------------------------------------


def as_source(nets, where, **fields):
  nets = {name: {'params': net.params, 'batch_stats': net.stats} for name, net in nets.items()}
  return Source(where, nets, **fields)


def assert_same(taken, expected):
  jax.tree.map(np.testing.assert_array_equal, taken, expected)


def test_a_run_begins_with_the_networks_of_another(twin, tmp_path):
  _, system = build(twin(**{'model.start': str(tmp_path)}))
  assert system.sources == {'start': str(tmp_path)}
  fresh, other = noisy_state(system, seed=0), noisy_state(system, seed=1)
  begun = system.start(fresh, {'start': as_source(other.nets, tmp_path)}, ())
  for name, net in begun.nets.items():
    assert_same((net.params, net.stats), (other.nets[name].params, other.nets[name].stats))
    assert_same(net.opt_state, fresh.nets[name].opt_state)
  assert int(begun.step) == 0


def test_what_the_other_run_lacks_stays_fresh_but_for_the_generator(twin, tmp_path):
  _, system = build(twin(**{'model.start': str(tmp_path)}))
  fresh, other = noisy_state(system, seed=0), noisy_state(system, seed=1)
  alone = as_source({'generator': other.nets['generator']}, tmp_path)
  begun = system.start(fresh, {'start': alone}, ())
  assert_same(begun.nets['generator'].params, other.nets['generator'].params)
  assert_same(begun.nets['discriminator'], fresh.nets['discriminator'])
  judge = as_source({'discriminator': other.nets['discriminator']}, tmp_path)
  with pytest.raises(errors.CheckpointError, match='it holds discriminator and no generator'):
    system.start(fresh, {'start': judge}, ())


@pytest.fixture(scope='module')
def with_global_audio(twin, tmp_path_factory):
  """System, two states and an expert with the encoder of a third, of `base_g`."""
  folder = str(tmp_path_factory.mktemp('other'))
  _, system = build(twin('base_g', **{'model.start': folder, 'model.expert': folder}))
  states = [noisy_state(system, seed) for seed in range(3)]
  variables = system.export(states[2], 'talklip_generator')
  encoder = {name: tree['audio_encoder'] for name, tree in variables.items()}
  return system, *states[:2], Source(folder, {'encoder': encoder})


def test_what_a_global_encoder_has_learnt_is_taken_over_and_the_rest_is_the_experts(
  with_global_audio,
):
  system, fresh, other, expert = with_global_audio
  begun = system.start(fresh, {'expert': expert, 'start': as_source(other.nets, 'there')}, ())
  assert_same(begun.nets['audio'].params, other.nets['audio'].params)
  frozen = begun.frozen['audio']['params']
  assert frozen and jax.tree.leaves(begun.nets['audio'].params)
  for path, x in jax.tree_util.tree_leaves_with_path(frozen):
    expected = functools.reduce(lambda t, key: t[key.key], path, expert.nets['encoder']['params'])
    np.testing.assert_array_equal(x, expected)


def test_the_public_generator_brings_all_of_its_audio_encoder(with_global_audio):
  system, fresh, other, expert = with_global_audio
  name = 'talklip_generator'
  public = Source('there', {name: system.export(other, name)}, public=name)
  begun = system.start(fresh, {'expert': expert, 'start': public}, ())
  assert_same(system.export(begun, name), public.nets[name])
  assert_same(begun.nets['discriminator'], fresh.nets['discriminator'])


def test_the_loop_takes_another_run_over(twin, trained_workdir):
  config = twin(**{'model.start': str(trained_workdir)})
  begun, before = started(*build(config)), trained.load(trained_workdir).state
  assert_same(begun.nets['generator'].params, before.nets['generator'].params)
  assert_same(begun.nets['discriminator'].params, before.nets['discriminator'].params)


# --------------------------------------------------------------------------------------------------
# Numbers and pictures
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def trained_run(trained_workdir):
  return trained.load(trained_workdir)


def test_evaluation_numbers(trained_run, twin):
  run, system = build(twin())
  batch = first_batch(run, system.sample_evaluation, pipeline.eval_batches)
  numbers = jax.jit(system.eval_step)(trained_run.state, batch)
  assert {name.split('/')[0] for name in numbers} == {
    'ground_truth',
    'identity_mouth',
    'generated',
  }
  np.testing.assert_array_equal(numbers['ground_truth/mouth_l1'], 0)
  # By hand: the identity's lower half is that of frame 0, the windows start at 0 and 5.
  target, face, _, _ = mouths.window_inputs(batch, 5, system.face_size)
  error = np.abs(np.asarray(face[..., 3:]) - np.asarray(target))[:, 6:, 3:9]
  expected = error.mean((1, 2, 3)).reshape(2, -1).mean(1)
  np.testing.assert_allclose(numbers['identity_mouth/mouth_l1'], expected, rtol=1e-5)
  assert 'nearer' in system.summary({'generated/mouth_l1': 0.1, 'identity_mouth/mouth_l1': 0.2})
  assert '100% further' in system.summary(
    {'generated/mouth_l1': 0.4, 'identity_mouth/mouth_l1': 0.2}
  )


def test_generate_draws_what_evaluation_sees(trained_run, twin):
  run, system = build(twin())
  state = trained_run.state
  batch = first_batch(run, system.sample_evaluation, pipeline.eval_batches)
  target, face, index, _ = mouths.window_inputs(batch, 5, system.face_size)
  per_clip = index.shape[1]
  expected = system._draw(state, face, batch, index / 25)[:per_clip, ..., ::-1] * 255
  drawn = jax.jit(system.generate)(
    state,
    {
      'faces': (target[:per_clip, ..., ::-1] * 255).round().astype(jnp.uint8),
      'identity': (face[:per_clip, ..., :2:-1] * 255).round().astype(jnp.uint8),
      'wav': batch['wav'][0],
      'num_samples': batch['num_samples'][0],
      'times': (index[0] / 25).astype(jnp.float32),
    },
  )
  assert drawn.dtype == jnp.uint8
  assert np.abs(np.asarray(drawn, float) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize('variant', ['no_lip', 'no_lip_no_gan'])
def test_published_configs_build_at_full_size(variant):
  config = configs.get_config(variant)
  config.data.root = 'records'
  _, system = build(config)
  assert system.face_size == 96
  state = jax.eval_shape(system.init, jax.random.key(0))
  sizes = {
    name: sum(x.size for x in jax.tree.leaves(net.params)) for name, net in state.nets.items()
  }
  # U-Net 31.7 M, local audio encoder 2.8 M, contrastive head; discriminator as in the fact sheet.
  assert sizes['discriminator'] == pytest.approx(14.11e6, rel=1e-3)
  assert sizes['generator'] == pytest.approx(36.3e6, rel=0.05)


# --------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('variant', 'changes', 'message'),
  [
    ('no_lip', {'model.audio': 'loud'}, "model.audio is 'loud'"),
    ('no_lip', {'model.discriminator.widths': (4, 8)}, 'widths has 2 sizes'),
    ('no_lip', {'model.optimizer': 'sgd'}, "(?s)optimizer is 'sgd'.*one of 'adam', 'muon'"),
    ('no_lip', {'system': 'wave2lip'}, "system is 'wave2lip'"),
  ],
)
def test_settings_that_cannot_be(twin, variant, changes, message):
  with pytest.raises(errors.ConfigError, match=message):
    build(twin(variant, **changes))


def test_an_unknown_variant_is_named():
  with pytest.raises(ValueError, match="unknown variant 'h' of talklip; known: l, l"):
    configs.get_config('h')


def test_the_discriminator_has_a_rate_of_its_own(twin):
  changes = {'model.learning_rate': 1e-3, 'model.discriminator_learning_rate': 1e-2}
  _, system = build(twin(**changes))
  for player, rate in (('generator', 1e-3), ('discriminator', 1e-2)):
    optimizer, params = system._optimizer(player), jnp.zeros(1)
    step, _ = optimizer.update(jnp.ones(1), optimizer.init(params), params)
    np.testing.assert_allclose(step, -rate, rtol=1e-3)


def test_muon_steps_as_far_as_adam_in_all_directions_of_a_kernel(twin):
  changes = {'model.optimizer': 'muon', 'model.learning_rate': 1e-2, 'model.b1': 0.5}
  _, system = build(twin(**changes))
  optimizer = system._optimizer('generator')
  # Gradients that know one direction well and the others hardly.
  rng = np.random.default_rng(0)
  kernel = rng.standard_normal((3, 3, 4, 8)) * [100, *[1] * 7]
  params = {'kernel': jnp.zeros((3, 3, 4, 8)), 'bias': jnp.zeros(8)}
  grads = {'kernel': jnp.asarray(kernel, jnp.float32), 'bias': jnp.full(8, 1e-3)}
  steps, _ = optimizer.update(grads, optimizer.init(params), params)
  # Nesterov's first step is one and a third of Adam's at b1 = 0.5.
  np.testing.assert_allclose(steps['bias'], -1e-2 * 4 / 3, rtol=1e-3)
  singular = np.linalg.svd(np.asarray(steps['kernel']).reshape(36, 8), compute_uv=False)
  assert singular.max() / singular.min() < 2  # of the gradient: over 100
  rms = float(jnp.sqrt(jnp.mean(steps['kernel'] ** 2)))
  assert 0.7e-2 < rms < 1.3e-2
  assert (np.sign(steps['kernel']) == -np.sign(kernel)).mean() > 0.7
