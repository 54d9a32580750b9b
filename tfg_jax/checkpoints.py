"""Orbax checkpoints of a run: the state, the position in the data, and what the loop still owes.

  workdir/checkpoints/000000001200/state   step, PRNG key, networks, optimisers, schedule
  workdir/checkpoints/000000001200/run     stage, sources, data position, unwritten metrics (JSON)
  workdir/frozen/NAME                      variables that no optimiser touches, saved once
  workdir/set_aside/000000001200           a checkpoint that a run could not use, for people

Saving is asynchronous. The latest N are kept, and the best by the system's score. `run` holds a
checksum of every array and of itself: what is restored has the bits that were saved.
"""

import contextlib
import dataclasses
import json
import pathlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from tfg_jax import configuration, errors, reporting, storage
from tfg_jax.systems import base

_SCORE = 'score'
_REFUSALS = (OSError, ValueError, RuntimeError)  # Orbax and TensorStore, when a disk refuses


@dataclasses.dataclass(frozen=True)
class Progress:
  """What a checkpoint knows besides the state."""

  sources: dict[str, str]  # `System.sources` when the run began
  data_position: Any = None  # JSON; None before the first batch
  pending_metrics: tuple = ()  # (step, {name: number}) that no file holds yet
  roll_backs: int = 0  # how often the run has gone back to an earlier checkpoint


class Checkpoints:
  """The checkpoints of one workdir, as a context manager; leaving it waits for the last save.

  Unless it is `read_only`, no other process may write to the workdir meanwhile.

  Raises:
    StorageError: from everything that writes, if the disk or another process is in the way.
  """

  def __init__(
    self,
    workdir: str | pathlib.Path,
    settings: configuration.Checkpoint,
    *,
    read_only: bool = False,
  ):
    workdir = pathlib.Path(workdir).absolute()
    self.workdir = workdir
    self._frozen = workdir / 'frozen'
    self._frozen_checksums = None
    self._set_aside_folder = workdir / 'set_aside'
    keep = [checkpoint_managers.LatestN(settings.keep)]
    if settings.keep_best:
      keep.append(
        checkpoint_managers.BestN(
          get_metric_fn=_score,
          reverse=True,  # the lowest score is the best
          n=settings.keep_best,
          keep_checkpoints_without_metrics=False,
        )
      )
    options = ocp.CheckpointManagerOptions(
      best_fn=_score if settings.keep_best else None,
      best_mode='min',
      preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
      step_format_fixed_length=12,
      cleanup_tmp_directories=not read_only,  # left by a run that was killed while saving
      read_only=read_only,
      create=not read_only,
    )
    with contextlib.ExitStack() as stack:
      if not read_only and jax.process_index() == 0:
        stack.enter_context(storage.only_writer(workdir))
      with storage.reported(workdir):
        self._manager = ocp.CheckpointManager(
          workdir / 'checkpoints',
          options=options,
          item_handlers={
            'state': ocp.StandardCheckpointHandler(),
            'run': ocp.JsonCheckpointHandler(),
          },
        )
      self._claim = stack.pop_all()

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind, error, trace):
    with self._claim:
      try:
        self._manager.close()
      except _REFUSALS as refusal:
        if error is None:  # else it is what a save has said already
          raise storage.failure(refusal, self.workdir) from refusal

  @property
  def latest_step(self) -> int | None:
    """The newest saved step; None if there is none."""
    return self._manager.latest_step()

  @property
  def best_step(self) -> int | None:
    """The saved step with the lowest score; the latest where none has one or none is kept."""
    best = self._manager.best_step()
    return self.latest_step if best is None else best

  def save(self, state: base.State, progress: Progress, *, score: float | None = None):
    """Copies the state off the devices and saves it in the background."""
    # What a run left that was killed before its first checkpoint was whole may be another's.
    is_first = self.latest_step is None
    run = {'stage': state.stage, **dataclasses.asdict(progress)}
    try:
      for name, variables in state.frozen.items():
        if is_first or not (self._frozen / name).exists():
          with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(self._frozen / name, variables, force=True)
      self._manager.save(
        int(state.step),
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(_saved_part(state)),
          run=ocp.args.JsonSave(_sealed({**run, 'checksums': self._checksums(state)})),
        ),
        metrics=None if score is None else {_SCORE: float(score)},
        force=True,
      )
    except _REFUSALS as error:  # of this save, or of the one before
      raise storage.failure(error, self.workdir) from error

  def _checksums(self, state):
    if self._frozen_checksums is None:  # they never change
      self._frozen_checksums = storage.checksums({'frozen': state.frozen})
    return storage.checksums(_saved_part(state)) | self._frozen_checksums

  def restore_newest(
    self, abstract: base.State, *, is_good: Callable[[base.State], bool] = lambda state: True
  ) -> tuple[base.State, Progress]:
    """Reads the newest checkpoint that is whole and that `is_good`, with all that is frozen.

    Later ones are set aside, so that the run can save these steps again; none is deleted.

    Raises:
      CheckpointError: see `restore`; and if none is whole and good.
    """
    passed = []
    try:
      self._manager.wait_until_finished()
    except _REFUSALS as error:
      raise storage.failure(error, self.workdir) from error
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        state, progress = self.restore(step, abstract, all_frozen=True)
      except errors.DamagedCheckpointError as error:
        passed.append((step, error))
        continue
      if is_good(state):
        for later, error in passed:
          self._set_aside(later, error)
        return state, progress
      passed.append((step, None))
    damage = next((error for _, error in passed if error), None)
    raise errors.CheckpointError(
      f'none of the {len(passed)} checkpoints can be gone on from: '
      + (damage.what if damage else 'their last steps were not applied.'),
      where=self._manager.directory,
      hint='nothing was changed; restore the files from a copy, or use another --workdir.',
    ) from damage

  def _set_aside(self, step, error):
    why = error.what if error else f'step {step} belongs to what is done again.'
    reporting.say(f'{why}\nIt is set aside in {self._set_aside_folder}.')
    if jax.process_index() == 0:
      with storage.reported(self._set_aside_folder):
        self._set_aside_folder.mkdir(exist_ok=True)
        number, target = 0, self._set_aside_folder / f'{step:012d}'
        while target.exists():
          number += 1
          target = self._set_aside_folder / f'{step:012d}.{number}'
        (self._manager.directory / f'{step:012d}').rename(target)
    multihost_utils.sync_global_devices('set aside')
    self._manager.reload()

  def restore(
    self, step: int, abstract: base.State, *, all_frozen: bool = False
  ) -> tuple[base.State, Progress]:
    """Reads one checkpoint.

    Args:
      step: one of the saved steps.
      abstract: the state's shapes, dtypes and shardings (any devices; not those of the saving run).
      all_frozen: restores frozen variables that `abstract` does not have, too: those that
        `System.start` added and only training needs.

    Raises:
      CheckpointError: if its arrays do not fit the config's, or what is frozen is damaged.
      DamagedCheckpointError: if its files are not what was saved.
    """
    where = self._manager.directory / f'{step:012d}'
    # Before any array is read: a restore that fails half-way leaves its other reads running.
    with damage_of(where):
      saved = self._manager.item_metadata(step)['state'].tree
    misfit = _misfit(saved, _saved_part(abstract))
    if misfit:
      raise errors.CheckpointError(
        f'step {step} cannot be restored: {misfit}',
        where=where,
        hint='use the config that the run was started with, or another --workdir.',
      )
    with damage_of(where):
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(_saved_part(abstract)), run=ocp.args.JsonRestore()
        ),
      )
      run = _unsealed(restored.run)
      _check(restored.state, run)
      pending = tuple((step, row) for step, row in run['pending_metrics'])
      progress = Progress(run['sources'], run['data_position'], pending, run.get('roll_backs', 0))
    try:
      frozen = self._restore_frozen(abstract, all_frozen=all_frozen)
      _check({'frozen': frozen}, run)
    except Exception as error:  # see `damage_of`
      raise errors.CheckpointError(
        f'what the run keeps frozen cannot be restored: {_first_line(error)}',
        where=self._frozen,
        hint='use the config that the run was started with, or restore the folder from a copy.',
      ) from error
    return abstract.replace(**restored.state, frozen=frozen, stage=run['stage']), progress

  def _restore_frozen(self, abstract, *, all_frozen):
    wanted = dict(abstract.frozen)
    with ocp.StandardCheckpointer() as checkpointer:
      if all_frozen and self._frozen.exists():
        for folder in self._frozen.iterdir():
          if folder.name not in wanted and ocp.utils.is_checkpoint_finalized(folder):
            saved = checkpointer.metadata(folder).item_metadata.tree
            wanted[folder.name] = jax.tree.map(
              lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=abstract.step.sharding),
              saved,
            )
      return {name: checkpointer.restore(self._frozen / name, x) for name, x in wanted.items()}


def verify(folder: pathlib.Path, state: Mapping[str, Any]):
  """Compares arrays of a checkpoint, all or some, with the checksums it was saved with.

  Args:
    folder: of the checkpoint, e.g. workdir/checkpoints/000000001200.
    state: what was read of its `state`, as nested dicts.

  Raises:
    DamagedCheckpointError: if one of them is not what was saved.
  """
  with damage_of(folder), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
    _check(state, _unsealed(checkpointer.restore(folder / 'run')))


@contextlib.contextmanager
def damage_of(folder: pathlib.Path):
  """Makes DamagedCheckpointError of what reading a checkpoint's folder fails with.

  Orbax meets damage with whatever error its readers happen to trip into.
  """
  try:
    yield
  except Exception as error:
    raise errors.DamagedCheckpointError(
      f'step {int(folder.name)} is damaged: {_first_line(error)}',
      where=folder,
      hint='restore its files from a copy; a training run goes on from the step saved before.',
    ) from error


def _check(tree, run):
  """Raises ValueError if an array is not what was saved; old checkpoints have no checksums."""
  known = run.get('checksums')
  if known is not None:
    for name, checksum in storage.checksums(tree).items():
      if known.get(name) != checksum:
        raise ValueError(f'{name} has other numbers than were saved.')


def _sealed(run):
  return {**run, 'checksum': zlib.crc32(json.dumps(run, sort_keys=True).encode())}


def _unsealed(run):
  """Undoes `_sealed`; raises ValueError if anything has changed."""
  content = {name: value for name, value in run.items() if name != 'checksum'}
  if run.get('checksum', _sealed(content)['checksum']) != _sealed(content)['checksum']:
    raise ValueError('the file run/metadata has changed since it was saved.')
  return content


def abstract_state(init, key, sharding) -> base.State:
  """The shapes of `init(key)`, placed on `sharding`, without computing anything."""
  shapes = jax.eval_shape(init, key)
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def _saved_part(state: base.State) -> dict[str, Any]:
  """The arrays of a state that change; `frozen` has its own folder, `stage` is JSON."""
  names = {field.name for field in dataclasses.fields(state)} - {'frozen', 'stage'}
  return {name: getattr(state, name) for name in sorted(names)}


def _misfit(saved, expected) -> str:
  """The first array whose presence or shape differs, in words; '' if all fit."""

  def shapes(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='/'): x.shape for path, x in leaves}

  keys_as_saved = jax.tree.map(
    lambda x: (
      jax.eval_shape(jax.random.key_data, x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    ),
    expected,
  )
  saved, expected = shapes(saved), shapes(keys_as_saved)
  for name in sorted(saved.keys() | expected.keys()):
    if name not in expected:
      return f'it holds {name}, which the config does not have.'
    if name not in saved:
      return f'it lacks {name}, which the config has.'
    if saved[name] != expected[name]:
      return f'{name} is {saved[name]} in it and {expected[name]} by the config.'
  return ''


def _score(metrics) -> float:
  return metrics[_SCORE]


def _first_line(error: Exception) -> str:
  lines = str(error).strip().splitlines()
  return lines[0][:200] if lines else type(error).__name__
