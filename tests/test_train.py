"""The loop: what it computes on any devices, how it resumes, and when it stops."""

import json
import pathlib
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfg_jax import checkpoints, configuration, errors, media, partition, systems, train, trained
from tfg_jax.data import pipeline, records
from tfg_jax.systems import base


def batches_of(run, system, count):
  source = records.RecordSource(run.data.root, 'train')
  with pipeline.train_batches(
    source, sample=system.sample, seed=0, **run.data.per_process
  ) as batches:
    return [next(batches) for _ in range(count)]


def steps_on(config, devices, count=3):
  """Metrics of each step and the evaluation numbers after them.

  With key 0 two values before a ReLU are as near to 0 as a sum's rounding on JAX 0.7.2.
  """
  run = configuration.resolve(config)
  place = partition.build(run.partition, batch_size=run.data.batch_size, devices=devices)
  system = systems.build(run, axis_name=place.axis_name)
  state = place.init(system.init, jax.random.key(1))
  step = place.train(train.skip_bad_steps(system.train_step))
  rows = []
  batches = batches_of(run, system, count)
  for batch in batches:
    state, metrics = step(state, place.put(batch))
    rows.append(jax.device_get(metrics))
    state = place.replicate(system.on_evaluation(state, {system.score: 1.0}))
  numbers = jax.device_get(place.evaluate(system.eval_step)(state, place.put(batches[0])))
  return step, state, rows, numbers


@pytest.fixture(scope='module')
def on_one_device(twin):
  return steps_on(twin(), jax.devices()[:1])


def assert_same_training(actual, expected):
  """Losses and gradients of the first step agree to rounding; later ones nearly.

  Biases in front of a batch norm have no gradient but rounding, which differs with the order of
  sums, and Adam makes full steps of it.
  """
  for step, (metrics, other) in enumerate(zip(actual[2], expected[2], strict=True)):
    assert metrics.keys() == other.keys()
    for name, value in metrics.items():
      losses, gradients = (2e-4, 2e-3) if step == 0 else (1e-2, 5e-2)
      rtol = gradients if name.endswith('grad_norm') else losses
      np.testing.assert_allclose(value, other[name], rtol=rtol, atol=1e-6, err_msg=name)
  for name, value in actual[3].items():
    np.testing.assert_allclose(value, expected[3][name], rtol=2e-2, atol=1e-4, err_msg=name)


def test_two_devices_train_as_one_does(twin, on_one_device):
  assert_same_training(steps_on(twin(), jax.devices()[:2]), on_one_device)


@pytest.mark.end_to_end
def test_pmap_trains_as_jit_does(twin, on_one_device):
  assert_same_training(steps_on(twin(partition='pmap'), jax.devices()[:2]), on_one_device)


def test_the_step_compiles_once_with_evaluations_between(on_one_device):
  assert on_one_device[0]._cache_size() == 1


def test_both_players_learn_and_keep_their_own_optimizer(on_one_device):
  nets = on_one_device[1].nets
  assert set(nets) == {'generator', 'discriminator'}
  for net in nets.values():
    assert int(net.opt_state[0].count) == 3
    assert jax.tree.structure(net.opt_state[0].mu) == jax.tree.structure(net.params)


def test_l1_falls_on_a_repeated_batch(twin, on_one_device):
  run = configuration.resolve(twin())
  place = partition.build('jit', batch_size=2, devices=jax.devices()[:1])
  system = systems.build(run, axis_name=None)
  step, state = on_one_device[:2]
  state = jax.tree.map(jnp.copy, state)  # the step reuses the memory of what it is given
  (batch,) = batches_of(run, system, 1)
  l1 = []
  for _ in range(80):
    state, metrics = step(state, place.put(batch))
    l1.append(float(metrics['g/l1']))
  assert l1[-1] < 0.75 * l1[0]


# --------------------------------------------------------------------------------------------------
# Resuming
# --------------------------------------------------------------------------------------------------


def final_state(config, workdir):
  run = configuration.resolve(config)
  system = systems.build(run, axis_name=None)
  place = partition.build('jit', batch_size=2, devices=jax.devices()[:1])
  with checkpoints.Checkpoints(workdir, run.checkpoint, read_only=True) as saved:
    abstract = checkpoints.abstract_state(system.init, jax.random.key(0), place.whole)
    return saved.restore(saved.latest_step, abstract)


def assert_same_bits(tree, other):
  def numbers(x):
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)

  jax.tree.map(lambda a, b: np.testing.assert_array_equal(numbers(a), numbers(b)), tree, other)


@pytest.mark.end_to_end
def test_a_resumed_run_ends_with_the_bits_of_an_unbroken_one(twin, trained_workdir, tmp_path):
  def part(steps):  # the first part is saved by its last step, like any other
    return train.train_and_evaluate(twin(num_steps=steps), tmp_path, devices=jax.devices()[:1])

  assert part(2)
  assert part(4)
  state, progress = final_state(twin(), tmp_path)
  whole, expected = final_state(twin(), trained_workdir)
  assert int(state.step) == 4
  assert_same_bits(state, whole)
  assert progress == expected
  lines = [(d / 'metrics.jsonl').read_text() for d in (tmp_path, trained_workdir)]
  assert lines[0] == lines[1]


def saved_and_restored(expert, workdir):
  """A state with a frozen expert, after two saves."""
  state = state_of_one_number().replace(frozen={'expert': {'w': expert}})
  with checkpoints.Checkpoints(workdir, configuration.Checkpoint()) as saved:
    for step in (1, 2):
      saved.save(state.replace(step=jnp.int32(step)), checkpoints.Progress({}))
  abstract = checkpoints.abstract_state(lambda key: state, state.key, expert.sharding)
  with checkpoints.Checkpoints(workdir, configuration.Checkpoint(), read_only=True) as saved:
    return saved.restore(2, abstract)[0]


def test_what_a_killed_run_left_frozen_is_overwritten(tmp_path):
  saved_and_restored(jnp.ones(2), tmp_path)
  shutil.rmtree(tmp_path / 'checkpoints')  # as if killed before the first one was whole
  state = saved_and_restored(jnp.zeros(2), tmp_path)
  np.testing.assert_array_equal(state.frozen['expert']['w'], [0, 0])


def test_an_expert_cannot_join_later(twin, trained_workdir, expert_workdir, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(trained_workdir, workdir)
  config = twin('l', num_steps=6, **{'model.expert': str(expert_workdir)})
  with pytest.raises(errors.CheckpointError, match='the run was begun without the expert of'):
    train.train_and_evaluate(config, workdir, devices=jax.devices()[:1])


def test_a_finished_run_has_nothing_left_to_do(twin, trained_workdir, capsys):
  before = sorted(p.name for p in (trained_workdir / 'checkpoints').iterdir())
  assert train.train_and_evaluate(twin(), trained_workdir, devices=jax.devices()[:1])
  assert 'Nothing left to do: step 4 of 4' in capsys.readouterr().out
  assert sorted(p.name for p in (trained_workdir / 'checkpoints').iterdir()) == before


def test_what_a_run_leaves_behind(trained_workdir):
  rows = [json.loads(line) for line in (trained_workdir / 'metrics.jsonl').read_text().splitlines()]
  steps = [row['step'] for row in rows if 'g/l1' in row]
  assert steps == [1, 2, 3, 4]
  assert [row['step'] for row in rows if 'generated/l1' in row] == [2, 4]
  names = {path.name for path in (trained_workdir / 'samples').iterdir()}
  samples = {'step_000000004.png', 'step_000000004_clip_0.mp4'}
  assert samples <= names
  for name in samples:
    tags = media.read_tags(trained_workdir / 'samples' / name)
    assert tags['comment'].startswith('Synthetic media: samples were drawn by tfg_jax')
    assert json.loads(tags['description'])['kind'] == 'sample of a training run'
  assert list((trained_workdir / 'tensorboard').glob('events*'))


def test_another_config_is_refused_by_name(twin, trained_workdir):
  config = twin(**{'model.face.head': 6})
  problem = r'step 4 cannot be restored: nets/generator/.*/output/kernel is \(1, 1, 4, 3\) in it'
  with pytest.raises(errors.CheckpointError, match=problem):
    train.train_and_evaluate(config, trained_workdir, devices=jax.devices()[:1])
  (trained_workdir / trained.CONFIG_FILE).write_text(json.dumps(twin().to_dict()))


# --------------------------------------------------------------------------------------------------
# Numbers that are not finite
# --------------------------------------------------------------------------------------------------


def state_of_one_number():
  net = base.Net(params={'w': jnp.ones(2)}, stats={}, opt_state={})
  return base.State.create(jax.random.key(0), {'g': net})


def test_a_non_finite_step_is_counted_and_not_applied():
  def train_step(state, batch):
    net = state.nets['g'].replace(params={'w': state.nets['g'].params['w'] + batch})
    return state.replace(nets={'g': net}), {'g/loss': batch}

  step = jax.jit(train.skip_bad_steps(train_step))
  state = state_of_one_number()
  for number in (1.0, np.nan, np.inf):
    state, _ = step(state, jnp.float32(number))
  np.testing.assert_array_equal(state.nets['g'].params['w'], [2, 2])
  assert (int(state.step), int(state.skipped), int(state.skipped_in_row)) == (3, 2, 2)
  state, _ = step(state, jnp.float32(3))
  np.testing.assert_array_equal(state.nets['g'].params['w'], [5, 5])
  assert (int(state.skipped), int(state.skipped_in_row)) == (2, 0)


@pytest.mark.parametrize(
  ('draws', 'flags'),
  [('', None), ('head', '--audio=F --output=OUT.mp4'), ('portrait', '--audio=F --output=face.png')],
)
def test_the_end_says_how_to_draw_with_the_run(capsys, draws, flags):
  system = types.SimpleNamespace(draws=draws, summary=lambda means: 'a sentence')
  results = types.SimpleNamespace(step=4, means={}, table=lambda: 'a table')
  train._say_done(types.SimpleNamespace(system='any'), system, results, pathlib.Path('w'), 60)
  said = capsys.readouterr().out
  assert 'any is trained: 4 steps, 1.0 minutes' in said
  command = f'python -m tfg_jax.generate --workdir=w {flags}'
  assert (command in said) == bool(draws) and ('tfg_jax.generate' in said) == bool(draws)
