"""The Fourier transform that all audio features begin with, each device doing its own clips.

XLA does not split an FFT: left alone, it gathers the pieces of all clips, some MB for each, on
every device. Here the partitioner is told that what lies before the last axis can be split.
"""

import functools

import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec


def rfft(pieces, length: int | None = None):
  """(..., n) real to (..., length // 2 + 1) complex64; zeros behind n up to `length`, or n."""
  return _rfft(length or pieces.shape[-1])(pieces)


@functools.cache
def _rfft(length: int):
  @custom_partitioning
  def transform(pieces):
    return jnp.fft.rfft(pieces, length)

  def infer(mesh, arguments, result):
    del mesh, result
    return _last_axis_whole(arguments[0])

  def split(mesh, arguments, result):
    del result
    sharding = _last_axis_whole(arguments[0])
    return mesh, lambda x: jnp.fft.rfft(x, length), sharding, (sharding,)

  transform.def_partition(
    partition=split,
    infer_sharding_from_operands=infer,
    sharding_rule='... n -> ... f',
    need_replication_factors=('n', 'f'),
  )

  @custom_vmap
  def batched(pieces):
    return transform(pieces)

  @batched.def_vmap
  def _(size, in_batched, pieces):
    del size, in_batched  # one argument, which is batched: its new axis is the first
    return batched(pieces), True

  return batched


def _last_axis_whole(shaped) -> NamedSharding:
  spec = (*shaped.sharding.spec, *[None] * len(shaped.shape))[: len(shaped.shape) - 1]
  return NamedSharding(shaped.sharding.mesh, PartitionSpec(*spec, None))
