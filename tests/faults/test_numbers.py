"""Numbers that go wrong in training: skipped, counted, gone back from, or the end of the run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfg_jax import configuration, errors, systems, train, trained
from tfg_jax.data import pipeline
from tfg_jax.systems import base

pytestmark = pytest.mark.faults

STEPS = 24


class Walk:
  """A system of one number, which every batch pushes on; its metric is how far it has come."""

  draws, score, last_stage, sources = '', 'generated/l1', 0, {}

  def init(self, key):
    return base.State.create(key, {'d': base.Net({'w': jnp.zeros(2)}, {}, jnp.zeros(()))})

  def start(self, state, sources, batches):
    return state

  def sample(self, clip, rng):
    return {'noise': np.float32(rng.random())}

  sample_evaluation = sample

  def train_step(self, state, batch):
    noise = jax.random.uniform(state.step_key()) + batch['noise'].mean()
    w = state.nets['d'].params['w'] + batch['push'].mean()
    net = state.nets['d'].replace(params={'w': w}, opt_state=noise)
    return state.replace(nets={'d': net}), {'d/fake': jnp.abs(w[0]), 'g/noise': noise}

  def eval_step(self, state, batch):
    return {'generated/l1': batch['noise']}

  samples = eval_step  # is asked for none

  def summary(self, results):
    return 'a sentence'

  def on_evaluation(self, state, results):
    return state

  def finished(self, state):
    return False


class Pushed:
  """Batches with a `push`, which follows from their number; `crash_at` one of them all ends."""

  def __init__(self, batches, push, crash_at):
    self._batches, self._push, self._crash_at = batches, push, crash_at

  def __next__(self):
    number = self._batches.get_state()['batches']
    if number == self._crash_at:
      raise RuntimeError('the power is gone')
    batch = next(self._batches)
    return batch | {'push': np.full(len(batch['noise']), self._push(number), np.float32)}

  def __getattr__(self, name):
    return getattr(self._batches, name)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._batches.close()


@pytest.fixture
def walk(twin, monkeypatch):
  """`walk(workdir, push, **config)` trains on pushes that `push(number of the batch)` gives."""
  monkeypatch.setattr(systems, 'build', lambda run, axis_name: Walk())
  original = pipeline.train_batches

  def run(workdir, push, crash_at=None, **changes):
    def batches(*args, **settings):
      return Pushed(original(*args, **settings), push, crash_at)

    monkeypatch.setattr(pipeline, 'train_batches', batches)
    settings = {
      'num_steps': STEPS,
      'log_every': 4,
      'checkpoint.every': 2,
      'evaluation.every': STEPS,
      'evaluation.samples': 0,
      **changes,
    }
    config = twin()
    config.max_skipped_in_row = 3
    config.metric_limits = changes.pop('metric_limits', {})
    config.max_roll_backs = settings.pop('max_roll_backs', 0)
    settings.pop('metric_limits', None)
    config.update_from_flattened_dict(settings)
    train.train_and_evaluate(config, workdir, devices=jax.devices()[:1])
    return trained.load(workdir, step=STEPS).state

  return run


def steps_of(workdir):
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return [row['step'] for row in rows if 'd/fake' in row]


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_a_batch_that_is_not_finite_is_skipped_counted_and_said(walk, tmp_path, capsys, bad):
  state = walk(tmp_path, lambda number: bad if number == 5 else 1)
  assert state.nets['d'].params['w'].tolist() == [STEPS - 1] * 2
  assert (int(state.step), int(state.skipped), int(state.skipped_in_row)) == (STEPS, 1, 0)
  assert '1 steps up to step 8 were not applied' in capsys.readouterr().out
  assert steps_of(tmp_path) == list(range(1, STEPS + 1))


def test_a_metric_above_its_limit_is_the_same(walk, tmp_path):
  push = {6: 100, 7: -90}
  state = walk(tmp_path, lambda number: push.get(number, 1), metric_limits={'d/fake': 60.0})
  assert state.nets['d'].params['w'].tolist() == [STEPS - 2] * 2
  assert int(state.skipped) == 2


def test_too_many_in_a_row_stop_the_run_and_name_the_steps(walk, tmp_path):
  with pytest.raises(errors.TrainingError, match=r'the last 3 steps \(10 to 12\)') as error:
    walk(tmp_path, lambda number: np.nan if number >= 9 else 1)
  assert str(tmp_path) in error.value.where and 'max_roll_backs' in error.value.hint
  state = trained.load(tmp_path, step=8).state
  assert state.nets['d'].params['w'].tolist() == [8, 8] and not int(state.skipped)


def diverging(number):
  """Thirteen batches drive a discriminator to its limit, where it stays; later ones back."""
  return 10 if number < 13 else -1


CLAMPED = {'d/fake': 75.0}


def test_a_discriminator_at_its_limit_takes_the_run_back_and_on(walk, tmp_path, capsys):
  state = walk(tmp_path, diverging, metric_limits=CLAMPED, max_roll_backs=1)
  printed = capsys.readouterr().out
  assert 'the last 5 steps (8 to 12) had a loss' in printed
  assert 'Back to step 6, and on with other clips (1 of 1, config.max_roll_backs)' in printed
  # Twelve batches are gone; the thirteenth still pushes away, and the rest come back.
  assert state.nets['d'].params['w'].tolist() == [60 + 10 - (STEPS - 7)] * 2
  assert steps_of(tmp_path) == list(range(1, STEPS + 1))


def test_a_run_that_was_killed_goes_back_as_one_that_was_not(walk, tmp_path):
  def go(workdir, crash_at=None):
    return walk(workdir, diverging, crash_at, metric_limits=CLAMPED, max_roll_backs=1)

  whole = go(tmp_path / 'whole')
  for crash_at in (11, 17, 25):
    with pytest.raises(RuntimeError, match='the power is gone'):
      go(tmp_path / 'broken', crash_at)
  state = go(tmp_path / 'broken')
  assert int(state.step) == STEPS
  for actual, expected in zip(jax.tree.leaves(state), jax.tree.leaves(whole), strict=True):
    if not jnp.issubdtype(actual.dtype, jax.dtypes.prng_key):
      np.testing.assert_array_equal(actual, expected)
  lines = [(tmp_path / name / 'metrics.jsonl').read_text() for name in ('whole', 'broken')]
  assert lines[0] == lines[1]


def test_a_run_goes_back_as_often_as_it_may(walk, tmp_path):
  with pytest.raises(errors.TrainingError, match='were not applied, after 2 times going back'):
    walk(tmp_path, lambda number: 10, metric_limits=CLAMPED, max_roll_backs=2)


def test_there_must_be_something_to_go_back_to(walk, tmp_path):
  with pytest.raises(errors.TrainingError, match=r'the last 4 steps \(1 to 4\)'):
    walk(tmp_path, lambda number: np.nan, max_roll_backs=5)


def test_a_limit_of_no_metric_is_refused(walk, tmp_path):
  with pytest.raises(errors.ConfigError, match='metric_limits.d/fke is of a metric') as error:
    walk(tmp_path, lambda number: 1, metric_limits={'d/fke': 1.0})
  assert error.value.hint == 'it has d/fake, g/noise.'


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'metric_limits': {'d/fake': float('nan')}}, 'metric_limits.d/fake is nan'),
    ({'metric_limits': {'d/fake': 'high'}}, "metric_limits.d/fake is 'high'"),
    ({'max_roll_backs': -1}, 'max_roll_backs is -1'),
  ],
)
def test_settings_that_cannot_be(twin, changes, message):
  config = twin()
  config.update(changes)
  with pytest.raises(errors.ConfigError, match=message):
    configuration.resolve(config)
