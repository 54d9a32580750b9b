"""Processes that have imported everything when they begin: forks of a server, ready in 10 ms."""

import contextlib
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys

_context = multiprocessing.get_context('forkserver')
_context.set_forkserver_preload(['tfg_jax.train', 'clu.metric_writers', 'tensorflow'])


class Forked:
  """A process that calls `function(*args)`; what it prints goes to the file `log`.

  Its exit code is 0, 1 after an exception, or the negative number of the signal that ended it.
  """

  def __init__(self, log: pathlib.Path, function, *args):
    self._log = log
    self._process = _context.Process(target=_call, args=(str(log), function, args), daemon=True)
    self._process.start()

  def send(self, signal: int):
    if self.is_alive():
      os.kill(self._process.pid, signal)

  def is_alive(self) -> bool:
    return self._process.is_alive()

  def wait(self, timeout: float = 300) -> tuple[int, str]:
    """(exit code, what it has printed)"""
    self._process.join(timeout)
    assert not self.is_alive(), f'still running after {timeout} s: {self.printed}'
    return self._process.exitcode, self.printed

  @property
  def printed(self) -> str:
    return self._log.read_text() if self._log.exists() else ''  # it is made by the process


def _call(log, function, args):
  file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  for stream in (1, 2):
    os.dup2(file, stream)
  sys.stdout, sys.stderr = os.fdopen(1, 'w'), os.fdopen(2, 'w', buffering=1)
  function(*args)


def train(config_json: str, workdir: str):
  """Trains as `python -m tfg_jax.main` does, on one device."""
  import jax
  import ml_collections

  from tfg_jax import train

  config = ml_collections.ConfigDict(json.loads(config_json))
  print(train.train_and_evaluate(config, workdir, devices=jax.devices()[:1]), flush=True)


def train_on_a_small_disk(config_json: str, workdir: str, file_bytes: int):
  """The same where no file can have more than `file_bytes`; prints the error of the project."""
  import resource

  from tfg_jax import errors

  with _through_a_pipe():
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    try:
      train(config_json, workdir)
    except errors.TfgError as error:
      print(error, flush=True)


@contextlib.contextmanager
def _through_a_pipe():
  """What is printed meanwhile is written by another process, which has limits of its own."""
  with subprocess.Popen(['cat'], stdin=subprocess.PIPE) as writer:
    before = [os.dup(stream) for stream in (1, 2)]
    for stream in (1, 2):
      os.dup2(writer.stdin.fileno(), stream)
    try:
      yield
    finally:
      sys.stdout.flush()
      for stream, old in zip((1, 2), before, strict=True):
        os.dup2(old, stream)
        os.close(old)


def hold(workdir: str):
  """Opens a workdir for writing and sleeps."""
  import threading

  from tfg_jax import checkpoints, configuration

  with checkpoints.Checkpoints(workdir, configuration.Checkpoint()):
    print('held', flush=True)
    threading.Event().wait()
