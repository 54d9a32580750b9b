"""Opens the workdir of a trained run: its config, its system and the state of one checkpoint."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable

import jax
import ml_collections
import numpy as np

from tfg_jax import checkpoints, configuration, errors, partition, storage, systems
from tfg_jax.systems import base

CONFIG_FILE = 'config.json'


@dataclasses.dataclass(frozen=True)
class Trained:
  """What a run left behind, ready to use on this machine's devices."""

  run: configuration.Run
  system: base.System
  state: base.State
  step: int

  @functools.cached_property
  def weights(self) -> str:
    """`weights_digest` of the state."""
    return weights_digest(self.state)

  @functools.cached_property
  def jitted(self) -> dict[str, Callable]:
    """See `jitted`: whoever draws with this run again does not compile again."""
    return jitted(self.system)


def jitted(system: base.System) -> dict[str, Callable]:
  """The functions that a system draws with, by name and under jit, for one device."""
  names = [name for name in ('generate', 'adapt', 'describe') if hasattr(system, name)]
  options = partition.compiler_options(jax.default_backend())
  return {name: jax.jit(getattr(system, name), compiler_options=options) for name in names}


def weights_digest(state: base.State) -> str:
  """'sha256:...' of what a state draws with.

  Counted are name, dtype, shape and bytes of every array of `frozen` and of `params`
  and `stats` of `nets`, in the order of their names; not optimisers, keys and steps. So it is the
  same for a copy of a run, on any device, and wherever the same weights are saved again. Takes
  about a second per GB.
  """
  drawing = {
    'nets': {name: {'params': net.params, 'stats': net.stats} for name, net in state.nets.items()},
    'frozen': state.frozen,
  }
  arrays = {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(drawing)
  }
  found = hashlib.sha256()
  for name, leaf in sorted(arrays.items()):
    array = np.ascontiguousarray(leaf)
    found.update(f'{name} {array.dtype.name} {leaf.shape}\n'.encode())
    found.update(array.reshape(-1).view(np.uint8))
  return f'sha256:{found.hexdigest()}'


def save_config(workdir: pathlib.Path, config: ml_collections.ConfigDict):
  """Keeps the config with the run, as JSON."""
  with storage.reported(workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    content = json.dumps(config.to_dict(), indent=2) + '\n'
    storage.write_whole(workdir / CONFIG_FILE, [content.encode()])


def read_config(workdir: str | pathlib.Path) -> ml_collections.ConfigDict:
  """The config that a run was started with.

  Raises:
    CheckpointError: if the folder is not a workdir.
  """
  path = pathlib.Path(workdir) / CONFIG_FILE
  try:
    return ml_collections.ConfigDict(json.loads(path.read_text()))
  except FileNotFoundError as error:
    raise errors.CheckpointError(
      f'{str(workdir)!r} is not the workdir of a run: it has no {CONFIG_FILE}.',
      hint='train first: python -m tfg_jax.main --config=configs/demo.py --workdir=DIR',
    ) from error
  except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
    raise errors.CheckpointError(
      f'{CONFIG_FILE} is not a config as JSON: {error}.', where=path, hint='restore the file.'
    ) from error


def load(
  workdir: str | pathlib.Path, *, step: int | None = None, all_frozen: bool = False
) -> Trained:
  """Restores a run for use, from the best checkpoint or the given step.

  `all_frozen` restores the networks that it has learnt from, too: evaluation may ask them.

  Raises:
    CheckpointError: if the workdir has no config or no whole checkpoint.
  """
  run = configuration.resolve(read_config(workdir))
  # One device is enough for use, and any batch size fits it.
  place = partition.build('jit', batch_size=run.data.batch_size, devices=jax.devices()[:1])
  system = systems.build(run, axis_name=None)
  with checkpoints.Checkpoints(workdir, run.checkpoint, read_only=True) as saved:
    step = saved.best_step if step is None else step
    if step is None:
      raise errors.CheckpointError(
        'the run has no checkpoint yet.',
        where=workdir,
        hint='let it train until its first save (config.checkpoint.every).',
      )
    abstract = checkpoints.abstract_state(system.init, jax.random.key(0), place.whole)
    state, _ = saved.restore(step, abstract, all_frozen=all_frozen)
  return Trained(run, system, state, step)
