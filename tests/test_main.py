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


def test_help_does_not_import_jax():
  done = subprocess.run(
    [
      sys.executable,
      '-c',
      'import sys; from absl import flags; from tfg_jax import main; main.define_flags();'
      'print(flags.FLAGS.get_help()); assert "jax" not in sys.modules',
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  for flag in ('--config', '--workdir', '--mode', '--topology', '--[no]multihost'):
    assert flag in done.stdout


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ((), '--workdir is missing'),
    (('--workdir={tmp}/w',), '--config is missing'),
    (('--workdir={tmp}/w', 'extra'), "unexpected arguments ['extra']"),
    (('--workdir={tmp}/w', '--mode=dance'), 'mode=dance'),
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
  ],
)
def test_what_cannot_work_is_one_message_and_exit_code_2(flags, message, tmp_path):
  done = run(*(flag.format(tmp=tmp_path) for flag in flags))
  assert done.returncode == 2, done.stderr
  assert message in done.stderr
  assert 'Traceback' not in done.stderr
