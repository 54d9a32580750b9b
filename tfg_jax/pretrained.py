"""Reads networks that a run takes over: from another run's workdir, or a converted public network.

Arrays come as numpy and without the optimiser's, so that reading them costs no device memory.
"""

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from tfg_jax import checkpoints, configuration, errors, networks, systems, trained
from tfg_jax.pytorch import converted
from tfg_jax.systems.sources import Source


def load(folder: str | pathlib.Path) -> Source:
  """Reads the best checkpoint of a workdir, or a converted network.

  Raises:
    CheckpointError, ConversionError: if the folder is neither, or is damaged.
  """
  folder = pathlib.Path(folder).absolute()
  if converted.is_converted(folder):
    variables, conversion = converted.load(folder)
    return _public(folder, conversion.network, variables)
  run = configuration.resolve(trained.read_config(folder))
  with checkpoints.Checkpoints(folder, run.checkpoint, read_only=True) as saved:
    step = saved.best_step
  if step is None:
    raise errors.CheckpointError(
      'the run has no checkpoint yet.',
      where=folder,
      hint='let it train until its first save (config.checkpoint.every).',
    )
  return Source(folder, _read_nets(folder / 'checkpoints' / f'{step:012d}'))


def shapes(folder: str | pathlib.Path) -> Source:
  """What `load` reads, with shapes and dtypes in place of arrays; there need be no weights.

  Raises:
    CheckpointError, ConversionError: if the folder is neither.
  """
  folder = pathlib.Path(folder).absolute()
  if converted.is_converted(folder):
    network = converted.read_record(folder).network
    return _public(folder, network, networks.official_shapes(network))
  run = configuration.resolve(trained.read_config(folder))
  system = systems.build(run, axis_name=None)
  state = jax.eval_shape(system.init, jax.random.key(0))
  nets = {
    name: {'params': net.params, 'batch_stats': net.stats} for name, net in state.nets.items()
  }
  return Source(folder, nets)


def _public(folder, network, variables) -> Source:
  nets = {network: variables}
  if network.endswith('_seq2seq'):
    nets = {
      name: {kind: tree[name] for kind, tree in variables.items() if name in tree}
      for name in ('encoder', 'decoder')
    }
  return Source(folder, nets, network)


def _read_nets(folder) -> dict[str, dict[str, Any]]:
  """The variables of every network of a checkpoint."""
  path = folder / 'state'
  handler = ocp.PyTreeCheckpointHandler()
  with checkpoints.damage_of(folder), ocp.Checkpointer(handler) as checkpointer:
    saved = checkpointer.metadata(path).item_metadata.tree['nets']
    wanted = {
      'nets': {
        name: {part: net[part] for part in ('params', 'stats') if net.get(part)}
        for name, net in saved.items()
      }
    }
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    args = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
    nets = checkpointer.restore(path, args=args)['nets']
  checkpoints.verify(folder, {'nets': nets})
  return {
    name: {'params': net['params'], 'batch_stats': net.get('stats', {})}
    for name, net in nets.items()
  }
