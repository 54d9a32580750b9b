"""A generator of random bits that compiles in no time, for initial weights and dropout masks.

JAX's own generators are written out once per draw, hundreds of operations each; a network of a
hundred parameters then compiles for half a minute on a CPU before its first step. This one mixes a
counter with the key in a dozen operations. Its bits are the same on every backend and for any
number of devices. It is no generator for statistics or secrets.
"""

import math

import jax
import jax.extend.random  # not loaded by `import jax`
import jax.numpy as jnp

# One per use, so that a key's bits, its children and what is folded into it have nothing in common.
_BITS, _SPLIT, _FOLD = 0x9E3779B9, 0x85EBCA6B, 0xC2B2AE35


def _scramble(x):
  """A bijection of uint32 in which every bit moves every other (`lowbias32`, C. Wellons 2018)."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)


def _mix(key, use, counter):
  """uint32 of the shape of `counter`, from a key (2,)."""
  counter = _scramble(counter.astype(jnp.uint32) ^ key[0])
  return _scramble((counter + jnp.uint32(use)) ^ key[1])


def _random_bits(key, bit_width, shape):
  if bit_width > 32:
    raise ValueError(f'{bit_width} random bits at once; this generator draws up to 32')
  bits = _mix(key, _BITS, jnp.arange(math.prod(shape), dtype=jnp.uint32)).reshape(shape)
  return bits.astype(f'uint{bit_width}')


def _split(key, shape):
  return _mix(key, _SPLIT, jnp.arange(2 * math.prod(shape))).reshape(*shape, 2)


def _fold_in(key, data):
  return _mix(key, _FOLD, jnp.stack([data, ~data]))


def _seed(seed):
  return _mix(jnp.zeros(2, jnp.uint32), _FOLD, jnp.stack([seed, ~seed]))


IMPL = jax.extend.random.define_prng_impl(
  key_shape=(2,),
  seed=_seed,
  split=_split,
  random_bits=_random_bits,
  fold_in=_fold_in,
  name='light',
  tag='light',
)


def from_key(key: jax.Array) -> jax.Array:
  """A key () of this generator, from a key () of any other."""
  data = jax.random.key_data(key).ravel()
  return jax.random.wrap_key_data(jnp.stack([data[0], data[-1]]), impl=IMPL)
