"""States for tests that need no trained networks."""

import jax
import jax.numpy as jnp
import numpy as np

from tfg_jax.systems import base


def fresh(system, stage=0):
  """A state with numbers from numpy: compiling `init` takes longer than all the rest."""
  rng = np.random.default_rng(0)

  def number(path, leaf):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    if name in ('kernel', 'bias'):
      return jnp.asarray(rng.uniform(-0.3, 0.3, leaf.shape), leaf.dtype)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.random.key(0)
    return jnp.full(leaf.shape, name in ('scale', 'var'), leaf.dtype)

  shapes = jax.eval_shape(system.init, jax.random.key(0))
  nets = {
    name: base.Net(
      *(jax.tree_util.tree_map_with_path(number, tree) for tree in (net.params, net.stats)),
      opt_state=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), net.opt_state),
    )
    for name, net in shapes.nets.items()
  }
  frozen = jax.tree_util.tree_map_with_path(number, shapes.frozen)
  return base.State.create(jax.random.key(0), nets, frozen=frozen, stage=stage)
