"""Variables of small networks for tests, without compiling an `init`."""

import jax
import numpy as np


def gaussian(seed, *shape):
  """Returns float32 normal noise of a shape, without compiling a generator for it."""
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


def noisy_variables(module, *inputs, seed=0, **settings):
  """Returns the module's variables filled with noise that keeps activations at a moderate size.

  Takes what `module.init` takes behind the key. Kernels get a standard deviation of 1/sqrt(fan-in),
  variances and norm scales lie around 1, counters are 0.
  """
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(lambda *x: module.init(jax.random.key(0), *x, **settings), *inputs)

  def fill(path, leaf):
    if not np.issubdtype(leaf.dtype, np.floating):
      return np.zeros(leaf.shape, leaf.dtype)
    noise = rng.standard_normal(leaf.shape)
    name = path[-1].key
    if name in ('scale', 'var'):
      noise = 1 + 0.1 * np.abs(noise)
    elif len(leaf.shape) > 1:
      noise /= np.sqrt(np.prod(leaf.shape[:-1]))
    else:
      noise *= 0.1
    return noise.astype(leaf.dtype)

  tree = jax.tree_util.tree_map_with_path(fill, shapes)
  return {name: tree[name] for name in tree if name in ('params', 'batch_stats')}
