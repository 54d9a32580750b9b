"""The command line: help without JAX, and one message with exit code 2 for what cannot work."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def run(*flags):
  return subprocess.run(
    [sys.executable, '-m', 'tfg_jax.main', *flags],
    cwd=ROOT,
    env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1'},
    capture_output=True,
    text=True,
  )


def test_help_is_the_docstring_and_the_flags_in_the_order_of_their_sense():
  script = 'import runpy, sys; sys.argv = ["main", "--help"]\n'
  script += 'try: runpy.run_module("tfg_jax.main", run_name="__main__", alter_sys=True)\n'
  script += 'finally: assert "jax" not in sys.modules'
  done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  about, listed = done.stdout.split('\nFlags:\n')
  assert about.startswith('Trains or evaluates a system, or plans its training.')
  assert '--mode=plan --topology=v5e:2x4' in about
  names = [line.strip() for line in listed.splitlines() if line.startswith('  --')]
  assert names[:3] == ['--config', '--workdir', '--mode=train|evaluate|plan']
  assert names[3:] == ['--results', '--topology', '--stage', '--compiles', '--[no]multihost']
  assert 'says what a step costs on --topology. Default: train.' in ' '.join(listed.split())
  assert 'None' not in listed and str(ROOT) not in listed
  assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ((), '--workdir is missing'),
    (('--workdir={tmp}/w',), '--config is missing'),
    (('--workdir={tmp}/w', 'extra'), "unexpected arguments ['extra']"),
    (('--workdir={tmp}/w', '--mode=dance'), 'mode=dance'),
    (('--config.seed=1',), 'changes to a config need --config=FILE before them'),
    (('--workdir={tmp}/w', '--config=configs/none.py'), 'configs/none.py'),
    (('--workdir={tmp}/w', '--config=configs/talklip.py:x'), "unknown variant 'x' of talklip"),
    (
      ('--workdir={tmp}/w', '--config=configs/demo.py', '--config.sede=1'),
      "the config has no key 'sede'",
    ),
    (
      ('--workdir={tmp}/w', '--config=configs/talklip.py:no_lip'),
      'ConfigError: data.root is empty',
    ),
    (
      ('--workdir={tmp}/w', '--config=configs/demo.py', '--config.data.root={tmp}/none'),
      'DataError',
    ),
    (('--workdir={tmp}/w', '--mode=evaluate'), 'is not the workdir of a run'),
    (('--mode=plan', '--config=configs/demo.py'), '--topology is missing'),
    (('--mode=plan', '--topology=v5e:2x2'), '--config is missing'),
    (
      ('--mode=plan', '--topology=v5e:3x3', '--config=configs/demo.py'),
      "v5e has no slices of shape '3x3'",
    ),
    (
      ('--workdir={tmp}/w', '--config=configs/demo.py', '--multihost'),
      'no cluster was found, or not all of its processes: coordinator_address',
    ),
    (('--workdir={tmp}/w', '--mode=evaluate', '--multihost'), '--mode=evaluate is for one process'),
  ],
)
def test_what_cannot_work_is_one_message_and_exit_code_2(flags, message, tmp_path):
  done = run(*(flag.format(tmp=tmp_path) for flag in flags))
  assert done.returncode == 2, done.stderr
  assert message in done.stderr
  assert 'Traceback' not in done.stderr
