"""Several processes train as one: the same numbers, one stop for all; and others may go on."""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from tests import smooth_twins
from tfg_jax import errors, train

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.end_to_end


class Slurm:
  """Two processes of one job, as `srun --ntasks=2 COMMAND` starts them on this machine."""

  def __init__(self, log, *arguments):
    job = random.randrange(1 << 30)  # JAX takes the port from it
    shared = {
      'SLURM_JOB_ID': str(job),
      'SLURM_STEP_NODELIST': 'localhost',
      'SLURM_NTASKS': '2',
      'SLURM_STEP_NUM_NODES': '1',
      'JAX_PLATFORMS': 'cpu',
    }
    self.logs = [log.with_suffix(f'.{i}') for i in range(2)]
    self.processes = []
    for i, path in enumerate(self.logs):
      with path.open('w') as file:
        self.processes.append(
          subprocess.Popen(
            [sys.executable, '-m', 'tfg_jax.main', '--multihost', *arguments],
            cwd=ROOT,
            env={**os.environ, **shared, 'SLURM_PROCID': str(i), 'SLURM_LOCALID': str(i)},
            stdout=file,
            stderr=subprocess.STDOUT,
          )
        )

  def says(self, line):
    """Waits until the first process has printed a line that begins so, or is over."""
    while not re.search(f'^{line}', self.logs[0].read_text(), re.M):
      assert self.processes[0].poll() is None, self.logs[0].read_text()
      time.sleep(0.05)

  def wait(self):
    """The exit statuses."""
    try:
      return [process.wait(timeout=300) for process in self.processes]
    finally:
      for process in self.processes:
        process.kill()


def config_flags(toy_records, workdir, **changes):
  flags = {'data.root': toy_records} | changes
  return (
    '--config=tests/smooth_twins.py:talklip:no_lip',
    f'--workdir={workdir}',
    *(f'--config.{name}={value}' for name, value in flags.items()),
  )


def assert_same_metrics(left, right, rows):
  left, right = (
    [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    for workdir in (left, right)
  )
  assert len(left) == len(right) >= rows
  for a, b in zip(left[-rows:], right[-rows:], strict=True):
    assert a.keys() == b.keys() and len(a) > 1
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-3, atol=1e-6)


@pytest.fixture
def smooth(monkeypatch):
  """The activations of `config_flags` in this process too."""
  for name, activation in smooth_twins.ACTIVATIONS.items():
    monkeypatch.setattr(nn, name, activation)


def test_puppets_are_made_before(tmp_path):
  job = Slurm(tmp_path / 'log', '--config=configs/demo.py', f'--workdir={tmp_path}')
  assert job.wait() == [2, 2]
  assert 'make puppets before: python -m data_prep.puppet' in job.logs[0].read_text()


def test_two_processes_train_as_one_does_on_two_devices(smooth, twin, toy_records, tmp_path):
  one, two = tmp_path / 'one', tmp_path / 'two'
  job = Slurm(tmp_path / 'log', *config_flags(toy_records, two))
  assert job.wait() == [0, 0], job.logs[0].read_text()
  assert train.train_and_evaluate(twin(), one, devices=jax.devices()[:2])
  (state, progress), (other, position) = (runs.newest(twin(), workdir) for workdir in (one, two))
  assert int(state.step) == 4 and progress == position
  # Not where the steps led: Adam makes a full one of a gradient that is mere rounding, as of a bias
  # before a norm, and Gloo adds up in another order than XLA does within a process.
  for name, net in state.nets.items():
    lessons, others = (ravel_pytree(x.opt_state[0].mu)[0] for x in (net, other.nets[name]))
    assert jnp.linalg.norm(lessons - others) < 1e-4 * jnp.linalg.norm(others), name
    # Such biases shift running means, and nothing else of what was seen.
    for (path, seen), (_, same) in zip(
      *(jax.tree_util.tree_leaves_with_path(x.stats) for x in (net, other.nets[name])), strict=True
    ):
      if path[-1].key != 'mean':
        np.testing.assert_allclose(seen, same, rtol=1e-4, err_msg=str(path))
  assert_same_metrics(one, two, rows=6)  # 4 steps, 2 evaluations
  clips = [(workdir / 'clips.csv').read_text().splitlines() for workdir in (one, two)]
  names = [[line.split(',')[0] for line in lines] for lines in clips]
  assert names[0] == names[1] and len(names[0]) == 4
  shown = [sorted(path.name for path in (workdir / 'samples').iterdir()) for workdir in (one, two)]
  assert shown[0] == shown[1] and shown[0]


def test_a_signal_to_one_stops_all_and_any_number_goes_on(smooth, twin, toy_records, tmp_path):
  changes = {'num_steps': 2000, 'evaluation.every': 2000, 'checkpoint.every': 1000}
  stopped = tmp_path / 'stopped'
  job = Slurm(tmp_path / 'log', *config_flags(toy_records, stopped, **changes))
  job.says('First step after')
  job.processes[1].send_signal(signal.SIGTERM)
  assert job.wait() == [errors.EXIT_INTERRUPTED] * 2
  stop = int(re.search(r'Stopped after step (\d+)', job.logs[0].read_text())[1])
  before, progress = runs.newest(twin(), stopped)
  assert int(before.step) == stop < 1000 and progress.data_position['batches'] == stop
  changes |= {'num_steps': stop + 2, 'evaluation.every': stop + 2}
  again, alone = (shutil.copytree(stopped, tmp_path / name) for name in ('again', 'alone'))
  job = Slurm(tmp_path / 'log', *config_flags(toy_records, again, **changes))
  assert train.train_and_evaluate(twin(**changes), alone, devices=jax.devices()[:1])
  assert job.wait() == [0, 0], job.logs[0].read_text()
  assert_same_metrics(again, alone, rows=3)
