"""PyTorch's convolutions and transposed ones, in the form that suits the device; same numbers.

Arrays are (B, *size, in), kernels (*window, in, out), for 1, 2 or 3 axes.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

_LAYOUTS = {
  1: ('NWC', 'WIO', 'NWC'),
  2: ('NHWC', 'HWIO', 'NHWC'),
  3: ('NDHWC', 'DHWIO', 'NDHWC'),
}


def conv(
  x,
  kernel,
  strides: Sequence[int],
  paddings: Sequence[tuple[int, int]],
  dilations: Sequence[int] | None = None,
  groups: int = 1,
):
  """`lax.conv_general_dilated` of arrays whose channels are last.

  Args:
    x: (B, *size, in).
    kernel: (*window, in / groups, out).
    strides: per axis.
    paddings: zeros before and behind, per axis.
    dilations: of the window, per axis; None for 1.
    groups: of channels that do not see each other.

  Returns:
    (B, *size, out).
  """
  rank = len(strides)
  if is_thin(x, kernel) and {*strides, *(dilations or ())} == {1}:
    return _conv_of_blocks(x, kernel, paddings)
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=strides,
    padding=paddings,
    rhs_dilation=dilations,
    dimension_numbers=_LAYOUTS[rank],
    feature_group_count=groups,
  )


# --------------------------------------------------------------------------------------------------
# Thin pictures
# --------------------------------------------------------------------------------------------------


def is_thin(x, kernel) -> bool:
  """Whether a picture is better convolved in blocks: few channels under a large, odd window.

  Takes (B, *size, in) pictures and a (*window, in, out) kernel.
  """
  *window, inputs, _ = kernel.shape
  large = len(window) == 2 and all(k > 5 and k % 2 for k in window)
  return large and inputs < 8 and not any(n % 2 for n in x.shape[1:-1])


def _conv_of_blocks(x, kernel, paddings):
  """The convolution of 2x2 blocks of pixels that equals the one of a thin picture's pixels.

  A few channels fill a few of a vector unit's lanes (128 on a TPU); those of four pixels fill four
  times as many, for a third more multiplications at 7x7. Same shapes as `lax.conv`'s.
  """
  x = jnp.pad(x, ((0, 0), *paddings, (0, 0)))
  batch, height, width, channels = x.shape
  for axis in (0, 3):
    # Pixel a of block i + e meets pixel b of output block i under tap 2 e + a - b.
    blocks = range(kernel.shape[axis] // 2 + 1)
    kernel = jnp.stack(
      [
        jnp.stack([jnp.stack([_tap(kernel, axis, 2 * e + a - b) for b in (0, 1)]) for a in (0, 1)])
        for e in blocks
      ]
    )
    # (e, a, b, *done, window, in, out) -> (*done, e, a, b, window, in, out)
    kernel = jnp.moveaxis(kernel, (0, 1, 2), (axis, axis + 1, axis + 2))
  kernel = kernel.transpose(0, 3, 1, 4, 6, 2, 5, 7)  # (e, e, a, a, in, b, b, out)
  features = kernel.shape[-1]
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
  y = conv(
    x.reshape(batch, height // 2, width // 2, 4 * channels),
    kernel.reshape(*kernel.shape[:2], 4 * channels, 4 * features),
    (1, 1),
    ((0, 0), (0, 0)),
  )
  rows, columns = y.shape[1:3]
  y = y.reshape(batch, rows, columns, 2, 2, features).transpose(0, 1, 3, 2, 4, 5)
  return y.reshape(batch, 2 * rows, 2 * columns, features)


def _tap(kernel, axis, position):
  """One slice of a kernel; zeros beyond its ends."""
  if 0 <= position < kernel.shape[axis]:
    return lax.index_in_dim(kernel, position, axis, keepdims=False)
  return jnp.zeros_like(lax.index_in_dim(kernel, 0, axis, keepdims=False))


# --------------------------------------------------------------------------------------------------
# Transposed convolutions
# --------------------------------------------------------------------------------------------------


def transposed(x, kernel, strides: Sequence[int], paddings: Sequence[int], extras: Sequence[int]):
  """PyTorch's transposed convolution, with the kernel turned against PyTorch's.

  Output pixels at the same distance from an input pixel (there are `stride` such phases per axis)
  are one ordinary convolution of the input. Writing out the holes between input pixels instead
  (`lhs_dilation`) multiplies zeros.

  Args:
    x: (B, *size, in).
    kernel: (*window, in, out).
    strides, paddings, extras: per axis; `extras` is PyTorch's output_padding.

  Returns:
    (B, *((size - 1) * stride - 2 * padding + window + extra), out).
  """
  sizes = tuple(
    (size - 1) * stride - 2 * padding + k + extra
    for size, stride, padding, k, extra in zip(
      x.shape[1:-1], strides, paddings, kernel.shape, extras, strict=False
    )
  )
  return _transposed(x, kernel, tuple(strides), tuple(paddings), sizes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _transposed(x, kernel, strides, paddings, sizes):
  # A matrix unit prefers one large product of pictures that it reads once; a CPU prefers not to
  # multiply by the zeros that this takes (7 of 16 products for a window of 3 and a stride of 2).
  settings = dict(strides=strides, paddings=paddings, sizes=sizes)
  return lax.platform_dependent(
    x,
    kernel,
    cpu=functools.partial(_phase_by_phase, **settings),
    default=functools.partial(_phases_at_once, **settings),
  )


def _forward(x, kernel, strides, paddings, sizes):
  return _transposed(x, kernel, strides, paddings, sizes), (x, kernel)


def _backward(strides, paddings, sizes, saved, g):
  def of_phases(x, kernel, g):
    draw = functools.partial(_phases_at_once, strides=strides, paddings=paddings, sizes=sizes)
    return jax.vjp(draw, x, kernel)[1](g)

  def of_strides(x, kernel, g):
    """By the convolution that this one transposes."""
    around = [
      (before, (n - 1) * stride + k - before - size)
      for n, stride, before, k, size in zip(
        x.shape[1:-1], strides, paddings, kernel.shape, sizes, strict=False
      )
    ]
    dx, pullback = jax.vjp(lambda turned: conv(g, turned, strides, around), _turned(kernel))
    (dkernel,) = pullback(x)
    return dx, _turned(dkernel)

  return lax.platform_dependent(*saved, g, cpu=of_strides, default=of_phases)


_transposed.defvjp(_forward, _backward)


def _turned(kernel):
  """The kernel from behind, from its outputs to its inputs."""
  return jnp.flip(kernel, range(kernel.ndim - 2)).swapaxes(-1, -2)


def _phase_by_phase(x, kernel, *, strides, paddings, sizes):
  """A convolution for each phase, with the taps that it has."""
  coarse = _coarse(sizes, strides)
  pictures = []
  for phase in itertools.product(*map(range, strides)):
    taps, around = kernel, []
    for axis, at in enumerate(phase):
      k, stride, padding = kernel.shape[axis], strides[axis], paddings[axis]
      # Output stride * q + at meets input q + e at tap k - 1 - padding - at + stride * e.
      first, last = -((k - 1 - padding - at) // stride), (padding + at) // stride
      start = k - 1 - padding - at + stride * first
      taps = lax.slice_in_dim(taps, min(start, k), k, stride, axis)
      around.append((-first, coarse[axis] - x.shape[1 + axis] + last))
    if taps.size:
      pictures.append(conv(x, taps, (1,) * len(strides), around))
    else:  # a stride that is longer than the window leaves pixels out
      pictures.append(jnp.zeros((len(x), *coarse, kernel.shape[-1]), x.dtype))
  return _interleaved(jnp.stack(pictures, axis=-2), strides, sizes)


def _phases_at_once(x, kernel, *, strides, paddings, sizes):
  """One convolution for all phases: of the window that all of them fit in, zeros in its corners."""
  rank, coarse, around = len(strides), _coarse(sizes, strides), []
  for axis, (stride, padding) in enumerate(zip(strides, paddings, strict=True)):
    k = kernel.shape[2 * axis]
    # As above; all phases take the neighbours e that one of them needs.
    first, last = -((k - 1 - padding) // stride), (stride - 1 + padding) // stride
    kernel = jnp.stack(
      [
        jnp.stack([_tap(kernel, 2 * axis, at + stride * e) for e in range(first, last + 1)])
        for at in range(k - 1 - padding, k - 1 - padding - stride, -1)
      ]
    )
    # (phase, e, *done, *windows, in, out) -> (*done, phase, e, *windows, in, out)
    kernel = jnp.moveaxis(kernel, (0, 1), (2 * axis, 2 * axis + 1))
    around.append((-first, coarse[axis] - x.shape[1 + axis] + last))
  phases, taps = range(0, 2 * rank, 2), range(1, 2 * rank, 2)
  kernel = kernel.transpose(*taps, 2 * rank, *phases, 2 * rank + 1)
  y = conv(x, kernel.reshape(*kernel.shape[: rank + 1], -1), (1,) * rank, around)
  return _interleaved(y.reshape(*y.shape[:-1], math.prod(strides), -1), strides, sizes)


def _coarse(sizes, strides):
  """Pixels of each phase, per axis."""
  return [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]


def _interleaved(y, strides, sizes):
  """(B, *coarse, phases, out) to (B, *sizes, out)."""
  rank = len(strides)
  batch, *coarse, _, features = y.shape
  y = y.reshape(batch, *coarse, *strides, features)
  axes = [i for axis in range(rank) for i in (1 + axis, 1 + rank + axis)]
  y = y.transpose(0, *axes, 1 + 2 * rank)
  y = y.reshape(batch, *(n * s for n, s in zip(coarse, strides, strict=True)), features)
  return y[(slice(None), *map(slice, sizes))]
