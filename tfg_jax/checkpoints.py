"""Orbax checkpoints of a run: the state, the position in the data, and what the loop still owes.

  workdir/checkpoints/000000001200/state   step, PRNG key, networks, optimisers, schedule
  workdir/checkpoints/000000001200/run     stage, sources, data position, unwritten metrics (JSON)
  workdir/frozen/NAME                      variables that no optimiser touches, saved once

Saving is asynchronous. The latest N are kept, and the best by the system's score.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from tfg_jax import configuration, errors
from tfg_jax.systems import base

_SCORE = 'score'


@dataclasses.dataclass(frozen=True)
class Progress:
  """What a checkpoint knows besides the state."""

  sources: dict[str, str]  # `System.sources` when the run began
  data_position: Any = None  # JSON; None before the first batch
  pending_metrics: tuple = ()  # (step, {name: number}) that no file holds yet


class Checkpoints:
  """The checkpoints of one workdir, as a context manager; leaving it waits for the last save."""

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
    self._manager = ocp.CheckpointManager(
      workdir / 'checkpoints',
      options=ocp.CheckpointManagerOptions(
        best_fn=_score if settings.keep_best else None,
        best_mode='min',
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
        step_format_fixed_length=12,
        cleanup_tmp_directories=not read_only,  # left by a run that was killed while saving
        read_only=read_only,
        create=not read_only,
      ),
      item_handlers={'state': ocp.StandardCheckpointHandler(), 'run': ocp.JsonCheckpointHandler()},
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind, error, trace):
    self._manager.close()

  @property
  def latest_step(self) -> int | None:
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
    for name, variables in state.frozen.items():
      if is_first or not (self._frozen / name).exists():
        with ocp.StandardCheckpointer() as checkpointer:
          checkpointer.save(self._frozen / name, variables, force=True)
    self._manager.save(
      int(state.step),
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(_saved_part(state)),
        run=ocp.args.JsonSave({'stage': state.stage, **dataclasses.asdict(progress)}),
      ),
      metrics=None if score is None else {_SCORE: float(score)},
      force=True,
    )

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
      CheckpointError: if it is damaged or its arrays do not fit the config's.
    """
    where = self._manager.directory / f'{step:012d}'
    try:
      # Before any array is read: a restore that fails half-way leaves its other reads running.
      misfit = _misfit(self._manager.item_metadata(step)['state'].tree, _saved_part(abstract))
      if misfit:
        raise ValueError(misfit)
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(_saved_part(abstract)), run=ocp.args.JsonRestore()
        ),
      )
      frozen = self._restore_frozen(abstract, all_frozen=all_frozen)
    except (ValueError, KeyError, OSError, TypeError) as error:
      raise errors.CheckpointError(
        f'step {step} cannot be restored: {_first_line(error)}',
        where=where,
        hint='use the config that the run was started with, or another --workdir.',
      ) from error
    run = restored.run
    state = abstract.replace(**restored.state, frozen=frozen, stage=run['stage'])
    pending = tuple((step, row) for step, row in run['pending_metrics'])
    return state, Progress(run['sources'], run['data_position'], pending)

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
  return lines[0] if lines else type(error).__name__
