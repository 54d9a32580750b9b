"""TPU slices: what their chips can do, and how the compiler sees them where there are none."""

import dataclasses
import os
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from tfg_jax import errors

_FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_DEEP = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8', '8x8x16')
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """What one chip can do at best, per second."""

  flops: float  # bfloat16; float32 products too, whose factors JAX rounds to it by default
  memory: float  # bytes
  bandwidth: float  # of the memory, bytes
  link: float  # to one neighbour, one way, bytes
  ring: int  # axes of a slice that are multiples of it are closed to rings
  shapes: tuple[str, ...]  # of its slices, in chips
  name: str  # what libtpu calls it


# Source: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, read on 2026-11-22; GB of memory there
# are GiB to the compiler. A link is half of a chip's bidirectional bandwidth over its ports; for v4
# a pod's all-reduce bandwidth is given instead, 1.1 PB/s of 4096 chips with 6 ports.
CHIPS = {
  'v4': Chip(275e12, 32 * _GIB, 1200e9, 45e9, 4, _DEEP, 'v4'),
  'v5e': Chip(197e12, 16 * _GIB, 819e9, 50e9, 16, _FLAT, 'v5e'),
  'v5p': Chip(459e12, 95 * _GIB, 2765e9, 100e9, 4, _DEEP, 'v5'),
  'v6e': Chip(918e12, 32 * _GIB, 1638e9, 100e9, 16, _FLAT, 'v6e'),
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """Devices that a step is compiled for; what is not known of them is None."""

  devices: Sequence[jax.Device]
  chip: Chip | None = None
  shape: tuple[int, ...] = ()  # chips along each axis

  @property
  def outlet(self) -> float | None:
    """Bytes per second that the chip with the fewest neighbours can send."""
    if self.chip is None:
      return None
    closed = [not length % self.chip.ring for length in self.shape]
    # The cubes of three axes are closed only where all of them are whole.
    rings = closed if len(self.shape) == 2 else [all(closed)] * len(self.shape)
    links = (
      (2 if ring else 1) for length, ring in zip(self.shape, rings, strict=True) if length > 1
    )
    return self.chip.link * sum(links)


def parse(topology: str) -> tuple[Chip, tuple[int, ...]]:
  """The chip and the shape that e.g. 'v5e:4x4' names.

  Raises:
    ConfigError: if there is no such slice.
  """
  kind, _, shape = topology.partition(':')
  if kind not in CHIPS:
    raise errors.ConfigError(
      f'there is no topology {topology!r}.',
      where='--topology',
      hint=f"e.g. v5e:4x4; chips are {', '.join(CHIPS)}, and 'local' means the devices here.",
    )
  chip = CHIPS[kind]
  if shape not in chip.shapes:
    raise errors.ConfigError(
      f'{kind} has no slices of shape {shape!r}.',
      where='--topology',
      hint=f'they are {", ".join(chip.shapes)}.',
    )
  return chip, tuple(map(int, shape.split('x')))


def find(topology: str) -> Slice:
  """The slice of that name as libtpu describes it, or with 'local' the devices of this machine.

  Raises:
    ConfigError: if there is no such slice.
    MissingDependencyError: without libtpu.
  """
  if topology == 'local':
    return Slice(jax.devices())
  chip, shape = parse(topology)
  # Otherwise libtpu looks for chips, asks the network about them, and wants to be alone.
  for name, value in (
    ('TPU_SKIP_MDS_QUERY', '1'),
    ('TPU_ACCELERATOR_TYPE', 'v5litepod-4'),
    ('TPU_WORKER_HOSTNAMES', 'localhost'),
    ('ALLOW_MULTIPLE_LIBTPU_LOAD', '1'),
  ):
    os.environ.setdefault(name, value)
  try:
    description = topologies.get_topology_desc(
      f'{chip.name}:{"x".join(map(str, shape))}',
      'tpu',
      chip_config_name='megacore' if chip.name in ('v4', 'v5') else 'default',
      chips_per_host_bounds=(*(min(length, 2) for length in shape[:2]), 1),
    )
  except RuntimeError as error:
    raise errors.MissingDependencyError(
      f'the TPU compiler does not work: {str(error).splitlines()[0]}',
      hint="pip install 'tfg_jax[tpu]' brings libtpu, for Linux on x86-64; no TPU is needed.",
    ) from error
  return Slice(description.devices, chip, shape)
