"""A run that is killed and started again ends with the same bits as one that is not."""

import json
import random
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from forked import Forked, train

pytestmark = pytest.mark.faults

STEPS, EVERY, KILLS = 180, 3, 21


@pytest.fixture(scope='module')
def config(twin):
  return twin(
    **{
      'num_steps': STEPS,
      'log_every': 5,
      'checkpoint.every': EVERY,
      'evaluation.every': 40,
      'evaluation.samples': 0,
    }
  )


@pytest.fixture(scope='module')
def unbroken(config, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('unbroken')
  code, printed = Forked(workdir / 'log', train, json.dumps(config.to_dict()), str(workdir)).wait()
  assert code == 0 and printed.strip().endswith('True'), printed
  return workdir


def is_saving(workdir):
  return any(path.name.endswith('-tmp') for path in (workdir / 'checkpoints').glob('*'))


def newest(workdir):
  names = (path.name for path in (workdir / 'checkpoints').glob('[0-9]*'))
  return max((int(name) for name in names if name.isdigit()), default=0)


def wait_for(condition, process):
  while not condition() and process.is_alive():
    time.sleep(0.002)


def test_a_run_killed_at_random_moments_ends_with_the_same_bits(config, unbroken, tmp_path):
  draw = random.Random(0)
  killed = {'at any time': 0, 'while saving': 0, 'after a save': 0}
  half_saved = 0
  for number in range(KILLS):
    process = Forked(tmp_path / 'log', train, json.dumps(config.to_dict()), str(tmp_path))
    before, moment = newest(tmp_path), list(killed)[number % 3]
    if moment == 'at any time':
      time.sleep(draw.uniform(0, 4))
    elif moment == 'while saving':
      wait_for(lambda before=before: newest(tmp_path) > before and is_saving(tmp_path), process)
      time.sleep(draw.uniform(0, 0.03))
    else:
      wait_for(lambda before=before: newest(tmp_path) > before, process)
      time.sleep(draw.uniform(0, 0.2))
    how = draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
    process.send(how)
    code, printed = process.wait()
    assert code in (0, -how), printed
    assert 'True' not in printed, 'the run was over before it could be killed'
    killed[moment] += 1
    half_saved += is_saving(tmp_path)
  assert sum(killed.values()) == KILLS >= 20
  assert half_saved >= 3
  code, printed = Forked(
    tmp_path / 'log', train, json.dumps(config.to_dict()), str(tmp_path)
  ).wait()
  assert code == 0 and printed.strip().endswith('True'), printed

  state, progress = runs.newest(config, tmp_path)
  expected, whole = runs.newest(config, unbroken)
  assert int(state.step) == STEPS
  assert progress == whole
  for actual, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
    if jnp.issubdtype(actual.dtype, jax.dtypes.prng_key):
      actual, wanted = jax.random.key_data(actual), jax.random.key_data(wanted)
    np.testing.assert_array_equal(actual, wanted)
  assert (tmp_path / 'metrics.jsonl').read_text() == (unbroken / 'metrics.jsonl').read_text()
  assert not is_saving(tmp_path) and not (tmp_path / 'set_aside').exists()
