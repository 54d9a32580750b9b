"""Runs commands that need each other's results, some at a time; what is finished stays finished.

workdir/jobs.json      the command and the seconds of each finished job
workdir/NAME.log       what it said
"""

import dataclasses
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from tfg_jax import errors, storage

_FILE = 'jobs.json'
_GLANCE = 0.5  # seconds between looks at the processes
_LAST_LINES = 15  # of a failed job's log, shown


@dataclasses.dataclass(frozen=True)
class Job:
  """One command. Its process can go on where an earlier one was stopped."""

  name: str
  arguments: tuple[str, ...]  # of `python -m`: the module first
  needs: tuple[str, ...] = ()  # names of jobs that have to be finished before
  # Nothing runs beside it, and it has all cores: it makes good use of them, or all wait for it.
  alone: bool = False


@dataclasses.dataclass
class _Running:
  job: Job
  process: subprocess.Popen
  began: float
  place: tuple[int, ...]


class Finished:
  """What `jobs.json` of a workdir says."""

  def __init__(self, workdir: pathlib.Path):
    self._path = workdir / _FILE
    self._known = json.loads(self._path.read_text()) if self._path.exists() else {}

  def __contains__(self, job: Job) -> bool:
    """Raises ConfigError if it was finished with another command."""
    if job.name not in self._known:
      return False
    before = self._known[job.name]['arguments']
    if before != list(job.arguments):
      changed = sorted(set(job.arguments) ^ set(before))
      raise errors.ConfigError(
        f'{job.name} has been done with other settings: {", ".join(changed)}.',
        where=self._path,
        hint='use the same settings again, or another --workdir.',
      )
    return True

  @property
  def seconds(self) -> dict[str, float]:
    """How long each job took, those that were stopped in between without their earlier goes."""
    return {name: entry['seconds'] for name, entry in self._known.items()}

  def add(self, job: Job, seconds: float):
    """Notes a job that has ended well, at once on the disk."""
    self._known[job.name] = {'arguments': list(job.arguments), 'seconds': round(seconds, 1)}
    storage.write_whole(self._path, [json.dumps(self._known, indent=2).encode(), b'\n'])


def run(
  jobs: Sequence[Job],
  workdir: pathlib.Path,
  *,
  at_once: int,
  folder: pathlib.Path,
  environment: Mapping[str, str] | None = None,
):
  """Runs all jobs that are not finished, each as soon as what it needs is there.

  Args:
    jobs: in the order in which they are preferred.
    workdir: see the module.
    at_once: processes.
    folder: that the commands run in.
    environment: variables of the processes; those that are set already stay.

  Returns:
    `Finished`, with all of them.

  Raises:
    ConfigError: if one has been finished with another command.
    TrainingError: with the end of its log, if one fails; the others are stopped.
    KeyboardInterrupt: as it comes; the processes have saved.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  finished = Finished(workdir)
  places = _places(at_once)
  environment = {**(environment or {}), **os.environ}
  done = {job.name for job in jobs if job in finished}
  waiting = [job for job in jobs if job.name not in done]
  running: list[_Running] = []
  try:
    while waiting or running:
      for job in [x for x in waiting if done.issuperset(x.needs)]:
        others = [one.job for one in running]
        if len(others) == at_once or others and any(x.alone for x in (job, *others)):
          continue
        waiting.remove(job)
        place = min(places, key=[one.place for one in running].count)
        running.append(_start(job, workdir, folder, place, environment))
        _say(f'{job.name}: started; {workdir / job.name}.log says how it goes.')
      for one in [x for x in running if x.process.poll() is not None]:
        running.remove(one)
        if one.process.returncode:
          raise _failure(one, workdir)
        seconds = time.monotonic() - one.began
        finished.add(one.job, seconds)
        done.add(one.job.name)
        _say(f'{one.job.name}: done in {seconds / 60:.1f} minutes, {len(done)} of {len(jobs)}.')
      time.sleep(_GLANCE if running else 0)
  finally:
    _stop(running)
  return finished


def _places(at_once: int) -> list[tuple[int, ...]]:
  """Cores for each process: threads of two that share theirs wait for each other."""
  if not hasattr(os, 'sched_setaffinity'):  # not Linux
    return [(place,) for place in range(at_once)]
  cores = sorted(os.sched_getaffinity(0))
  return [tuple(cores[place % len(cores) :: at_once]) for place in range(at_once)]


def _start(job: Job, workdir: pathlib.Path, folder: pathlib.Path, place, environment) -> _Running:
  command = [sys.executable, '-m', *job.arguments]
  with (workdir / f'{job.name}.log').open('a') as log:
    print(f'$ {shlex.join(command)}', file=log, flush=True)
    process = subprocess.Popen(
      command,
      cwd=folder,
      env=environment,
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.STDOUT,
      start_new_session=True,  # Ctrl-C is for this process alone, which passes it on once
    )
  if hasattr(os, 'sched_setaffinity') and not job.alone:
    os.sched_setaffinity(process.pid, place)  # before it has threads, which inherit it
  return _Running(job, process, time.monotonic(), place)


def _stop(running: Sequence[_Running]):
  """Asks for an end, which training answers with a checkpoint, and waits for it."""
  for one in running:
    one.process.send_signal(signal.SIGTERM)
  for one in running:
    one.process.wait()


def _failure(one: _Running, workdir: pathlib.Path) -> errors.TrainingError:
  log = workdir / f'{one.job.name}.log'
  ending = '\n'.join(log.read_text(errors='replace').splitlines()[-_LAST_LINES:])
  return errors.TrainingError(
    f'{one.job.name} ended with code {one.process.returncode}:\n{ending}',
    where=log,
    hint='mend the cause and run the same command: what is finished is not done again.',
  )


def _say(line: str):
  print(f'{time.strftime("%H:%M:%S")} {line}', flush=True)
