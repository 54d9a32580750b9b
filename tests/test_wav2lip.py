"""Wav2Lip: what the sync expert says of drawn lips, when it is listened to, who learns."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import build, first_batch, noisy_state, untrained

from configs import sync_expert as expert_configs
from configs import talklip as talklip_configs
from configs import wav2lip as configs
from tfg_jax import (
  errors,
  evaluate,
  pretrained,
  train,
  trained,
)
from tfg_jax.data import pipeline, records
from tfg_jax.systems import mouths
from tfg_jax.systems.sources import Source


@pytest.fixture(scope='module')
def expert(toy_records, tmp_path_factory):
  """The workdir of a tiny colour expert with random weights."""
  config = expert_configs.get_test_config('color')
  return untrained(config, toy_records, tmp_path_factory.mktemp('sync_expert'))


@pytest.fixture(scope='module')
def twin(toy_records, expert):
  """`twin(variant, **changes)`: a small config on the toy records."""

  def config(variant='wav2lip', **changes):
    c = configs.get_test_config(variant)
    c.data.root = str(toy_records)
    c.model.expert = str(expert)
    c.update_from_flattened_dict(changes)
    return c

  return config


def started(system):
  state = jax.jit(system.init)(jax.random.key(0))
  sources = {name: pretrained.load(folder) for name, folder in system.sources.items()}
  return jax.device_put(system.start(state, sources, ()))


@pytest.fixture(scope='module')
def with_discriminator(twin):
  """(system, batch, state before, state after one step of stage 1, its metrics) of `gan`."""
  run, system = build(twin('gan', **{'model.windows': 2}))
  batch = first_batch(run, system.sample, seed=0)
  state = started(system).replace(stage=1)
  return system, batch, state, *jax.device_get(jax.jit(system.train_step)(state, batch))


def test_the_sync_loss_is_on_in_stage_1_alone(with_discriminator):
  system, batch, state, _, metrics = with_discriminator
  _, quiet = jax.eval_shape(system.train_step, state.replace(stage=0), batch)
  assert set(metrics) - set(quiet) == {'g/sync'}
  expected = 0.9 * metrics['g/l1'] + 0.07 * metrics['g/adversarial'] + 0.03 * metrics['g/sync']
  np.testing.assert_allclose(metrics['g/total'], expected, rtol=1e-5)


def test_the_sync_loss_is_the_experts_on_lower_halves_in_order(with_discriminator):
  """Worked out from faces, without the system's own helpers."""
  system, batch, state, _, _ = with_discriminator
  rng = np.random.default_rng(0)
  faces = rng.random((2 * 2 * 5, 24, 24, 3), np.float32)
  got, pull_back = jax.vjp(lambda x: system._sync(state, x, batch), jnp.asarray(faces))
  halves = faces.reshape(4, 5, 24, 24, 3)[:, :, 12:]
  stacked = np.concatenate([halves[:, i] for i in range(5)], axis=-1)
  mel = system._expert.mel(batch, batch['window_starts'] / 25)
  lips, heard = system._expert.module.apply(state.frozen['expert'], stacked, mel, train=False)
  cosine = np.clip((np.asarray(lips) * np.asarray(heard)).sum(-1), 1e-44, 1)
  np.testing.assert_allclose(got, -np.log(cosine), rtol=1e-4, atol=1e-6)
  (gradient,) = pull_back(jnp.ones(4))
  assert not np.any(gradient[:, :12])  # the upper halves are not seen
  assert np.abs(gradient[:, 12:]).max((1, 2, 3)).min() > 0  # every face is


def test_the_expert_never_changes_and_both_players_learn(with_discriminator):
  _, _, before, after, _ = with_discriminator
  jax.tree.map(np.testing.assert_array_equal, before.frozen, after.frozen)
  for name in ('generator', 'discriminator'):
    moved = jax.tree.map(
      lambda a, b: float(np.abs(a - b).max()), before.nets[name].params, after.nets[name].params
    )
    assert max(jax.tree.leaves(moved)) > 1e-4, name
    assert int(after.nets[name].opt_state[0].count) == 1


def test_without_an_adversarial_loss_there_is_no_discriminator(twin):
  _, system = build(twin())
  assert set(jax.eval_shape(system.init, jax.random.key(0)).nets) == {'generator'}
  _, system = build(twin('gan'))
  assert set(jax.eval_shape(system.init, jax.random.key(0)).nets) == {'generator', 'discriminator'}


@pytest.mark.end_to_end
def test_l1_falls_on_a_repeated_batch(twin):
  run, system = build(twin())
  batch = first_batch(run, system.sample, seed=0)
  state, step = started(system), jax.jit(train.skip_bad_steps(system.train_step))
  l1 = []
  for _ in range(60):
    state, metrics = step(state, batch)
    l1.append(float(metrics['g/l1']))
  assert l1[-1] < 0.75 * l1[0]
  assert int(state.skipped) == 0


def test_the_sync_loss_is_turned_on_once_and_for_all(with_discriminator):
  system, _, state, _, _ = with_discriminator
  state = state.replace(stage=0)
  assert system.on_evaluation(state, {'generated/sync': 0.76}).stage == 0
  state = system.on_evaluation(state, {'generated/sync': 0.74})
  assert state.stage == 1
  assert system.on_evaluation(state, {'generated/sync': 5.0}).stage == 1
  assert not system.finished(state)


def test_the_sync_loss_may_be_turned_on_at_a_given_step(twin):
  _, system = build(twin(**{'model.stage_starts': (30,)}))
  state = jax.eval_shape(system.init, jax.random.key(0))
  assert state.stage == 0
  at = [state.replace(step=jnp.int32(step)) for step in (29, 30)]
  assert [system.on_evaluation(x, {}).stage for x in at] == [0, 1]
  _, system = build(twin(**{'model.stage_starts': (0,)}))
  assert jax.eval_shape(system.init, jax.random.key(0)).stage == 1


def test_evaluation_shows_the_experts_loss_of_every_row(with_discriminator, toy_records):
  system, _, state, _, _ = with_discriminator
  source = records.RecordSource(toy_records, 'train')
  settings = dict(batch_size=2, max_frames=20, height=48, width=48, fps=25.0, sample_rate=16_000)
  with pipeline.eval_batches(source, sample=system.sample_evaluation, **settings) as stream:
    batch = next(stream)
  numbers = jax.device_get(jax.jit(system.eval_step)(state, batch))
  who = ('ground_truth', 'identity_mouth', 'generated')
  assert set(numbers) == {f'{x}/{m}' for x in who for m in ('l1', 'mouth_l1', 'sync')}
  target, _, _, mask = mouths.window_inputs(batch, 5, 24)
  real = np.asarray(system._sync(state, target, batch)).reshape(2, -1)
  counted = batch['window_mask']
  np.testing.assert_allclose(
    numbers['ground_truth/sync'], (real * counted).sum(1) / counted.sum(1), rtol=1e-4
  )
  assert np.abs(numbers['generated/sync'] - numbers['ground_truth/sync']).max() > 1e-4
  said = system.summary({name: float(values.mean()) for name, values in numbers.items()})
  assert f'real ones at {numbers["ground_truth/sync"].mean():.2f}' in said


@pytest.mark.end_to_end
def test_a_run_learns_from_a_run_of_the_expert_and_draws(toy_records, tmp_path, capsys):
  """Expert, generator with the sync loss from its first evaluation on, broken off and resumed."""
  config = expert_configs.get_test_config('color')
  config.data.root = str(toy_records)
  one = jax.devices()[:1]
  assert train.train_and_evaluate(config, tmp_path / 'expert', devices=one)
  config = configs.get_test_config('gan')
  config.data.root = str(toy_records)
  config.model.expert = str(tmp_path / 'expert')
  config.model.switch_below = 1e3
  config.num_steps = 2
  assert train.train_and_evaluate(config, tmp_path / 'run', devices=one)
  config.num_steps = 4
  assert train.train_and_evaluate(config, tmp_path / 'run', devices=one)
  assert 'Going on after step 2 of 4' in capsys.readouterr().out
  state = trained.load(tmp_path / 'run').state
  assert state.stage == 1
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_text()
  assert 'g/sync' in lines and 'generated/sync' in lines
  before = json.loads((tmp_path / 'run' / 'results.json').read_text())['means']
  again = evaluate.evaluate_workdir(tmp_path / 'run', config).means
  # Real clips before the expert; what is drawn depends on the checkpoint.
  assert again['ground_truth/sync'] == pytest.approx(before['ground_truth/sync'], rel=1e-4)
  run, system = build(config)
  faces = np.full((3, 24, 24, 3), 100, np.uint8)
  inputs = {
    'faces': faces,
    'identity': faces,
    'wav': np.zeros(16_000, np.int16),
    'num_samples': np.int32(16_000),
    'times': np.arange(3, dtype=np.float32) / 25,
  }
  drawn = jax.jit(system.generate)(state, inputs)
  assert drawn.shape == (3, 24, 24, 3) and drawn.dtype == jnp.uint8


def test_it_needs_an_expert(twin):
  with pytest.raises(errors.ConfigError, match='needs a sync expert, and model.expert is empty'):
    build(twin(**{'model.expert': ''}))


def test_an_expert_of_another_size_is_refused(twin):
  smaller = {
    name: (4, 8, 8) if 'residuals' not in name else (0, 1, 0)
    for name in ('encoder', 'decoder', 'encoder_residuals', 'decoder_residuals')
  }
  config = twin()
  config.model.face = dict(smaller, head=4)
  config.model.discriminator.widths = (4, 8, 8)
  _, system = build(config)
  with pytest.raises(errors.ConfigError, match='draws faces of 12 px and the expert sees 24'):
    system.start(None, {}, ())


def test_a_lip_reader_is_no_sync_expert(twin, expert_workdir):
  _, system = build(twin(**{'model.expert': str(expert_workdir)}))
  with pytest.raises(errors.CheckpointError, match='a run of lip_expert, and no color judge'):
    system.start(None, {}, ())


def test_it_exports_what_it_holds(with_discriminator):
  system, _, state, _, _ = with_discriminator
  assert set(system.export(state, 'wav2lip_generator')) == {'params', 'batch_stats'}
  assert set(system.export(state, 'wav2lip_quality_discriminator')) == {'params'}
  message = 'it holds wav2lip_generator and wav2lip_quality_discriminator'
  with pytest.raises(errors.ConversionError, match=message):
    system.export(state, 'talklip_generator')
  alone = state.replace(nets={'generator': state.nets['generator']})
  with pytest.raises(errors.ConversionError, match='it holds wav2lip_generator.'):
    system.export(alone, 'wav2lip_quality_discriminator')


def test_an_unknown_variant_is_named():
  with pytest.raises(ValueError, match="unknown variant 'hd' of wav2lip; known: wav2lip, gan"):
    configs.get_config('hd')


def test_an_unknown_optimizer_is_named(twin):
  with pytest.raises(errors.ConfigError, match="model.optimizer is 'newton'"):
    build(twin(**{'model.optimizer': 'newton'}))


def test_on_puppets_it_begins_with_the_generator_that_talklip_begins_with(tmp_path):
  config = expert_configs.get_config('puppets_color')
  expert = untrained(config, tmp_path, tmp_path / 'expert')
  config = configs.get_config('puppets')
  config.model.expert, config.model.start = str(expert), 'not read'
  _, system = build(config)
  assert set(system.sources) == {'expert', 'start'}
  _, talklip = build(talklip_configs.get_config('puppets_base_l'))
  learnt = noisy_state(talklip, seed=1).nets
  nets = {name: {'params': net.params, 'batch_stats': net.stats} for name, net in learnt.items()}
  sources = {'expert': pretrained.load(expert), 'start': Source('there', nets)}
  begun = system.start(noisy_state(system), sources, ()).nets['generator']
  for part in ('image', 'audio_encoder'):
    jax.tree.map(
      np.testing.assert_array_equal, begun.params[part], learnt['generator'].params[part]
    )
    jax.tree.map(np.testing.assert_array_equal, begun.stats[part], learnt['generator'].stats[part])


def test_on_puppets_it_has_the_budget_of_talklip():
  config, other = configs.get_config('puppets'), talklip_configs.get_config('puppets_no_lip')
  assert config.num_steps == other.num_steps
  for key in ('optimizer', 'learning_rate', 'final_rate', 'b1', 'b2'):
    assert config.model[key] == other.model[key]


@pytest.mark.parametrize('variant', ['wav2lip', 'gan'])
def test_the_published_size(variant, expert):
  config = configs.get_config(variant)
  config.model.expert = str(expert)
  run, system = build(config)
  state = jax.eval_shape(system.init, jax.random.key(0))
  count = sum(np.prod(x.shape) for x in jax.tree.leaves(state.nets['generator'].params))
  assert round(count / 1e6, 2) == 36.30
