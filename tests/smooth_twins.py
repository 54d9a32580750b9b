"""Twins whose activations have no corner: --config=tests/smooth_twins.py:NAME:VARIANT.

What comes out of a sum depends in its last digit on who adds up in which order, so on devices,
processes and cores. Where a value of a tiny network is that near to the corner of a ReLU, some
percent of the gradient depend on it too; here they do not.
"""

import jax
from flax import linen as nn

from tests import twins

# What a process replaces in `flax.linen`.
ACTIVATIONS = {
  'relu': jax.nn.softplus,
  'leaky_relu': lambda x, slope=0.01: slope * x + (1 - slope) * jax.nn.softplus(x),
}


def get_config(named):
  """The twin of NAME:VARIANT; from now on this process has the activations too."""
  for name, activation in ACTIVATIONS.items():
    setattr(nn, name, activation)
  return twins.get_config(named)
