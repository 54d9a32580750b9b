"""Where arrays live and how the one pure step runs on them.

Two ways, chosen by `config.partition`, with the same arguments and results:

jit    the program of the whole batch; the compiler splits it over the mesh's 'data' axis. Batch
       norm and losses see the global batch, so 1, 2 and 8 devices give the same numbers. The
       default.
pmap   the program of one device with a named axis; systems average gradients, metrics and batch
       statistics over it themselves (`axis_name`). One process alone.

The state is replicated in both, without a leading device axis, so checkpoints do not depend on it.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from tfg_jax import errors

AXIS = 'data'


@dataclasses.dataclass(frozen=True)
class Partition:
  """A set of devices and a way ('jit' or 'pmap') to run pure functions on them."""

  kind: str
  mesh: jax.sharding.Mesh

  @property
  def axis_name(self) -> str | None:
    """The named axis that systems average over; None where numbers are global already."""
    return AXIS if self.kind == 'pmap' else None

  @property
  def whole(self) -> jax.sharding.NamedSharding:
    """Every device holds all of the array."""
    return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())

  @property
  def split(self) -> jax.sharding.NamedSharding:
    """The first axis is cut over the devices."""
    return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec(AXIS))

  def put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Places this process's rows of a batch; the result is the global batch."""
    return {
      name: jax.make_array_from_process_local_data(self.split, rows) for name, rows in batch.items()
    }

  def replicate(self, tree):
    """Places a tree, the same in every process, whole on every device."""

    def put(x):
      # Of an array on a device of this process jax.device_put makes one that cannot be saved.
      if jax.process_count() > 1 and isinstance(x, jax.Array) and x.is_fully_addressable:
        x = np.asarray(x)
      return jax.device_put(x, self.whole)

    return jax.tree.map(put, tree)

  def fetch(self, results):
    """All rows of split arrays, e.g. of what `evaluate` returns, as numpy in every process."""
    if jax.process_count() > 1:
      return multihost_utils.process_allgather(results, tiled=True)
    return jax.device_get(results)

  def here(self, state):
    """A replicated state on one device of this process, for what no other process computes."""
    return jax.tree.map(lambda x: x.addressable_data(0), state)

  def init(self, function: Callable, *args):
    """Runs an initialiser so that its result is born replicated, on any number of hosts."""
    return jax.jit(function, out_shardings=self.whole)(*args)

  def train(self, step: Callable) -> Callable:
    """Compiles `step(state, batch) -> (state, metrics)`; the state's memory is reused."""
    if self.kind == 'jit':
      return jax.jit(
        step,
        in_shardings=(self.whole, self.split),
        out_shardings=(self.whole, self.whole),
        donate_argnums=0,
        compiler_options=compiler_options(self.mesh.devices.flat[0].platform),
      )
    compiled = self._pmap(step)
    return lambda state, batch: compiled(state, self._stack(batch))

  def _pmap(self, step):
    return jax.pmap(
      step,
      axis_name=AXIS,
      in_axes=(None, 0),
      out_axes=(None, None),
      devices=list(self.mesh.devices.flat),
    )

  def lower(self, step: Callable, state, batch) -> jax.stages.Lowered:
    """What `train` gives to the compiler, for a state and a batch that may be shapes alone.

    The devices may be of another platform than those here.
    """
    with jax.default_device(self.mesh.devices.flat[0]):
      if self.kind == 'jit':
        return self.train(step).lower(state, batch)
      shapes = jax.eval_shape(self._stack, batch)
      return self._pmap(step).lower(state, shapes)

  def evaluate(self, step: Callable) -> Callable:
    """Compiles `step(state, batch) -> {name: (B, ...)}` over the devices, without collectives."""
    if self.kind == 'jit':
      return jax.jit(
        step,
        in_shardings=(self.whole, self.split),
        out_shardings=self.split,
        compiler_options=compiler_options(self.mesh.devices.flat[0].platform),
      )
    compiled = jax.pmap(
      step,
      axis_name=AXIS,
      in_axes=(None, 0),
      out_axes=0,
      devices=list(self.mesh.devices.flat),
    )

    def run(state, batch):
      results = compiled(state, self._stack(batch))
      return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)

    return run

  def _stack(self, batch):
    """(B, ...) to (devices, B / devices, ...)."""
    count = self.mesh.size
    return jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)


@functools.cache
def compiler_options(platform: str) -> dict[str, str]:
  """What the compiler of a platform is told beyond its own choice, where it knows that word.

  On CPUs, to leave convolutions to Eigen: YNNPACK, which JAX 0.10 prefers, shares two cores badly
  and is slow at gradients of kernels (measured by `tests/benchmarks/against_pytorch.py`). Sums stay
  with YNNPACK, which adds up pairwise. XLA's own loops add one number after the other, and batch
  statistics over 25,600 values were 1e-5 off: enough to turn a ReLU on here and off on two devices.
  Barriers (`networks/convolutions.py` has them) are kept until operations have been fused; XLA
  drops them before, where they hold nothing back.
  """
  if platform != 'cpu':
    return {}
  options = {
    'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE',
    'xla_disable_hlo_passes': 'cse_barrier_expander',
  }
  try:
    jax.jit(lambda: 0, compiler_options=options).lower().compile()
  except jax.errors.JaxRuntimeError:
    return {}
  return options


def build(kind: str, *, batch_size: int, devices=None) -> Partition:
  """A partition over all devices (or the given ones).

  Raises:
    ConfigError: if `kind` is unknown, or not for several processes, or the global batch does not
      divide by the device count.
  """
  if kind not in ('jit', 'pmap'):
    raise errors.ConfigError(
      f'partition is {kind!r}.', where='config.partition', hint="use 'jit' or 'pmap'."
    )
  if kind == 'pmap' and jax.process_count() > 1:
    raise errors.ConfigError(
      f"partition is 'pmap'; it is for the devices of one process, and here are "
      f'{jax.process_count()}.',
      where='config.partition',
      hint="use 'jit', which gives the same numbers.",
    )
  devices = jax.devices() if devices is None else devices
  if batch_size % len(devices):
    raise errors.ConfigError(
      f'a batch of {batch_size} does not divide over {len(devices)} devices.',
      where='config.data.batch_size',
      hint=f'use a multiple of {len(devices)}.',
    )
  # jax 0.9 made Explicit the default; Flax linen needs Auto.
  mesh = jax.make_mesh(
    (len(devices),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=devices
  )
  return Partition(kind, mesh)
