"""A run that is killed and started again ends with the same bits as one that is not."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tfg_jax import checkpoints, configuration, partition, systems

pytestmark = pytest.mark.faults

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 40
SCRIPT = """
import json, sys
import ml_collections
from tfg_jax import train
config = ml_collections.ConfigDict(json.load(open(sys.argv[1])))
print(train.train_and_evaluate(config, sys.argv[2]), flush=True)
"""


@pytest.fixture(scope='module')
def config_file(twin, tmp_path_factory):
  path = tmp_path_factory.mktemp('config') / 'config.json'
  config = twin(
    **{
      'num_steps': STEPS,
      'log_every': 5,
      'checkpoint.every': 3,
      'evaluation.every': STEPS,
      'evaluation.samples': 0,
    }
  )
  path.write_text(json.dumps(config.to_dict()))
  return path


def start(config_file, workdir):
  return subprocess.Popen(
    [sys.executable, '-c', SCRIPT, str(config_file), str(workdir)],
    cwd=ROOT,
    env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1'},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def newest(workdir):
  steps = [int(p.name) for p in (workdir / 'checkpoints').glob('[0-9]*') if p.name.isdigit()]
  return max(steps, default=0)


def wait_until(workdir, step, process):
  """Until a checkpoint of `step` or later is there; fails if the run ends before."""
  while newest(workdir) < step:
    assert process.poll() is None, process.stdout.read()
    time.sleep(0.01)


@pytest.fixture(scope='module')
def unbroken(config_file, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('unbroken')
  process = start(config_file, workdir)
  output, _ = process.communicate()
  assert output.strip().endswith('True'), output
  return workdir


def final(config_file, workdir):
  import ml_collections

  run = configuration.resolve(ml_collections.ConfigDict(json.loads(config_file.read_text())))
  system = systems.build(run, axis_name=None)
  place = partition.build('jit', batch_size=2, devices=jax.devices()[:1])
  with checkpoints.Checkpoints(workdir, run.checkpoint, read_only=True) as saved:
    abstract = checkpoints.abstract_state(system.init, jax.random.key(0), place.whole)
    return saved.restore(saved.latest_step, abstract)


@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed_ends_with_the_same_bits(how, config_file, unbroken, tmp_path):
  draw = random.Random(int(how))
  for step in (3, 15, 27):
    process = start(config_file, tmp_path)
    wait_until(tmp_path, step, process)
    time.sleep(draw.random() * 0.3)  # anywhere in a step or a save
    process.send_signal(how)
    output, _ = process.communicate()
    if how == signal.SIGTERM and newest(tmp_path) < STEPS:
      assert 'saving after this step' in output
  output, _ = start(config_file, tmp_path).communicate()
  assert output.strip().endswith('True'), output

  state, progress = final(config_file, tmp_path)
  expected, whole = final(config_file, unbroken)
  assert int(state.step) == STEPS
  assert progress == whole
  for actual, wanted in zip(
    jax.tree.leaves(state.nets), jax.tree.leaves(expected.nets), strict=True
  ):
    np.testing.assert_array_equal(actual, wanted)
  lines = [(d / 'metrics.jsonl').read_text() for d in (tmp_path, unbroken)]
  assert lines[0] == lines[1]
