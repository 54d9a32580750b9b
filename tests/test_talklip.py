"""TalkLip: who learns in which stage, when stages end, what its numbers mean, what it draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import talklip as configs
from tfg_jax import configuration, errors, systems, trained
from tfg_jax.data import pipeline, records
from tfg_jax.systems import base

NO_LIP = {'model.loss.lip': 0.0, 'model.loss.contrastive': 0.0}


def build(config):
  run = configuration.resolve(config)
  return run, systems.build(run, axis_name=None)


def one_batch(run, sample, batches=pipeline.train_batches, **settings):
  source = records.RecordSource(run.data.root, 'train')
  with batches(source, sample=sample, **settings, **run.data.per_process) as stream:
    return next(stream)


@pytest.fixture(scope='module')
def heard_globally(twin):
  """System, state and batch of the variant whose audio encoder hears the whole utterance."""
  run, system = build(twin('g', **NO_LIP))
  state = jax.jit(system.init)(jax.random.key(0))
  return system, state, one_batch(run, system.sample, seed=0)


def changed(before, after):
  """Names of the top-level parts of a tree that differ."""
  parts = {}
  for path, x in jax.tree_util.tree_leaves_with_path(before):
    y = dict(jax.tree_util.tree_leaves_with_path(after))[path]
    name = '/'.join(key.key for key in path[:2])
    parts[name] = parts.get(name, False) or not np.array_equal(x, y)
  return {name for name, differs in parts.items() if differs}


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


def test_the_exported_generator_is_whole(heard_globally):
  system, state, _ = heard_globally
  variables = system.export(state, 'talklip_generator')
  encoder = variables['params']['audio_encoder']['transformer']
  assert {f'layers_{i}' for i in range(4)} <= set(encoder)
  with pytest.raises(errors.ConversionError, match="a TalkLip run holds no 'wav2lip_generator'"):
    system.export(state, 'wav2lip_generator')


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
  _, system = build(twin('g', **NO_LIP, **{'model.patience': 2}))
  seen, state = stages(system, [0.5, 0.4, 0.4, 0.4, 0.4, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3])
  assert seen == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3]
  assert float(state.schedule['best']) == pytest.approx(0.3)  # never reset
  assert system.finished(state)


def test_the_local_variant_has_no_stage_1(twin):
  _, system = build(twin('no_lip', **{'model.patience': 1}))
  assert stages(system, [0.5] * 5)[0] == [0, 0, 2, 2, 3]


# --------------------------------------------------------------------------------------------------
# Numbers and pictures
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def trained_run(trained_workdir):
  return trained.load(trained_workdir)


def test_evaluation_numbers(trained_run, twin):
  run, system = build(twin())
  batch = one_batch(run, system.sample_evaluation, pipeline.eval_batches)
  numbers = jax.jit(system.eval_step)(trained_run.state, batch)
  assert {name.split('/')[0] for name in numbers} == {
    'ground_truth',
    'identity_mouth',
    'generated',
  }
  np.testing.assert_array_equal(numbers['ground_truth/mouth_l1'], 0)
  np.testing.assert_array_equal(numbers['ground_truth/psnr'], 100)
  # By hand: the identity's lower half is that of frame 0, the windows start at 0 and 5.
  target, face, _, _ = system._window_inputs(batch)
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
  batch = one_batch(run, system.sample_evaluation, pipeline.eval_batches)
  target, face, index, _ = system._window_inputs(batch)
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
    ('g+c', {}, 'there is no lip expert to learn from yet'),
    ('no_lip', {'system': 'wave2lip'}, "system is 'wave2lip'"),
  ],
)
def test_settings_that_cannot_be(twin, variant, changes, message):
  with pytest.raises(errors.ConfigError, match=message):
    build(twin(variant, **changes))


def test_an_unknown_variant_is_named():
  with pytest.raises(ValueError, match="unknown variant 'h' of talklip; known: l, l"):
    configs.get_config('h')
