"""Flax modules by family: no losses, no files, no downloads.

`OFFICIAL` builds each public network at its published size; `EXAMPLES` names the inputs that shape
it.
"""

import jax

from tfg_jax.networks.discriminator import QualityDiscriminator

# Name of the public network -> its full-size module.
OFFICIAL = {
  'talklip_discriminator': QualityDiscriminator,
  'wav2lip_quality_discriminator': QualityDiscriminator,
}


def _array(*shape, dtype='float32'):
  return jax.ShapeDtypeStruct(shape, dtype)


# Keyword arguments of `init` for each of them: array shapes, and whatever else the call needs.
EXAMPLES = {
  'talklip_discriminator': dict(face=_array(1, 96, 96, 3)),
  'wav2lip_quality_discriminator': dict(face=_array(1, 96, 96, 3)),
}


def official_shapes(network):
  """Returns the variables of an official network as shapes and dtypes; computes nothing."""
  module, inputs = OFFICIAL[network](), EXAMPLES[network]
  arrays = {name: x for name, x in inputs.items() if isinstance(x, jax.ShapeDtypeStruct)}
  settings = {name: x for name, x in inputs.items() if name not in arrays}
  variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), **x, **settings), arrays)
  return {name: tree for name, tree in variables.items() if name in ('params', 'batch_stats')}
