"""Networks that a fresh run takes over from elsewhere; `tfg_jax.pretrained` reads them."""

import dataclasses
import pathlib
from typing import Any

import jax

from tfg_jax import errors


@dataclasses.dataclass(frozen=True)
class Source:
  """Networks as another run or a public checkpoint left them.

  Attributes:
    where: the folder.
    nets: variables {'params', 'batch_stats'} of each network, numpy, e.g. 'encoder' and 'decoder'.
    public: the name of a public network that was converted; '' for a run. Such a one does not know
      what a system calls it.
  """

  where: pathlib.Path
  nets: dict[str, dict[str, Any]]
  public: str = ''

  def called(self, name: str) -> 'Source':
    """The same; a public network that is alone answers to `name`."""
    if not self.public or len(self.nets) > 1:
      return self
    return dataclasses.replace(self, nets=dict(zip([name], self.nets.values(), strict=True)))

  def replace(self, fresh: dict[str, Any], net: str, *, free: tuple[str, ...] = ()):
    """The variables `fresh` with the numbers of the network `net`, which may hold more.

    Args:
      fresh: variables of a network that was just initialised.
      net: a key of `nets`; a public network that is alone answers to any.
      free: names of leaves that may be missing or of another shape; they stay fresh.

    Raises:
      CheckpointError: if there is no such network, or naming the first leaf that is missing or of
        another shape.
    """
    nets = self.called(net).nets
    if net not in nets:
      raise errors.CheckpointError(
        f'it holds {", ".join(self.nets)} and no {net}.',
        where=self.where,
        hint='name a workdir or a converted network that has one.',
      )
    leaves = jax.tree_util.tree_leaves_with_path(nets[net])
    known = {_name(path): leaf for path, leaf in leaves}

    def take(path, leaf):
      found = known.get(_name(path))
      if found is not None and found.shape == leaf.shape:
        return found
      if path[-1].key in free:
        return leaf
      has = 'is not there' if found is None else f'is {found.shape} there'
      raise errors.CheckpointError(
        f'the {net} does not fit: {_name(path)} {has}, and {leaf.shape} by the config.',
        where=self.where,
        hint='give the network the sizes that it was trained with.',
      )

    return jax.tree_util.tree_map_with_path(take, fresh)


def _name(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')
