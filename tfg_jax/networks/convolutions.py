"""Convolutions in the form that the device at hand is quickest at; the numbers are the same.

Pictures are (B, *size, in), kernels (*window, in, out), for 1, 2 or 3 axes. What was measured by:
the compiler of a TPU, and `tests/benchmarks/against_pytorch.py` on two cores of an x86 CPU.
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
_CACHE = 2 * 2**20  # bytes of a CPU's cache that a block of patches may take


def conv(
  x,
  kernel,
  strides: Sequence[int],
  paddings: Sequence[tuple[int, int]],
  dilations: Sequence[int] | None = None,
  groups: int = 1,
):
  """`lax.conv_general_dilated` of channels-last arrays.

  Args:
    x: (B, *size, in).
    kernel: (*window, in / groups, out).
    strides: per axis.
    paddings: zeros before and behind, per axis.
    dilations: of the window, per axis; None for 1.
    groups: of channels that do not see each other.
  """
  rank = len(strides)
  strides, paddings = tuple(strides), tuple(map(tuple, paddings))
  if rank == 2 and groups == 1 and set(dilations or (1,)) == {1}:
    if _is_thin(x, kernel) and set(strides) == {1}:
      return _conv_of_blocks(x, kernel, paddings)
    return _conv(x, kernel, strides, paddings)
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


def _is_thin(x, kernel) -> bool:
  """Whether a picture is better convolved in blocks: few channels under a large, odd window."""
  *window, inputs, _ = kernel.shape
  large = all(k > 5 and k % 2 for k in window)
  return large and inputs < 8 and not any(n % 2 for n in x.shape[1:-1])


def _conv_of_blocks(x, kernel, paddings):
  """The convolution of 2x2 blocks of pixels that equals the one of a thin picture's pixels.

  A few channels fill a few of a vector unit's lanes (128 on a TPU); those of four pixels fill four
  times as many, for a third more multiplications at 7x7. Same shapes as `lax.conv`'s.
  """
  x = _pad(x, paddings)
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
  y = _conv(
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


def _pad(x, paddings):
  """Zeros around a picture; a negative number of them takes pixels away."""
  return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*p, 0) for p in paddings), (0, 0, 0)])


# --------------------------------------------------------------------------------------------------
# Gradients
# --------------------------------------------------------------------------------------------------


def _plain(x, kernel, strides, paddings):
  return lax.conv_general_dilated(x, kernel, strides, paddings, dimension_numbers=_LAYOUTS[2])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, kernel, strides, paddings):
  """A plain convolution of pictures with gradients that suit CPUs too.

  XLA's own gradients, which every other device gets, are convolutions of a large window for the
  kernel and, where there is a stride, of a picture with holes.
  """
  return _plain(x, kernel, strides, paddings)


def _conv_forward(x, kernel, strides, paddings):
  return _plain(x, kernel, strides, paddings), (x, kernel)


def _conv_backward(strides, paddings, saved, g):
  def as_xla(x, kernel, g):
    return jax.vjp(lambda x, kernel: _plain(x, kernel, strides, paddings), x, kernel)[1](g)

  def on_cpu(x, kernel, g):
    dx, dkernel = as_xla(x, kernel, g)  # what is not used of them is not computed
    if set(strides) != {1}:
      dx = _input_gradient(x, kernel, g, strides, paddings)
    if math.prod(g.shape[1:3]) >= 500 and min(kernel.shape[2:]) >= 16:
      dkernel = _kernel_gradient(x, kernel, g, strides, paddings)
    return dx, dkernel

  return lax.platform_dependent(*saved, g, cpu=on_cpu, default=as_xla)


_conv.defvjp(_conv_forward, _conv_backward)


def _input_gradient(x, kernel, g, strides, paddings):
  """That of a convolution with a stride: a transposed one, phase by phase."""
  turned = kernel[::-1, ::-1].swapaxes(2, 3)
  return _phase_by_phase(g, turned, strides, [before for before, _ in paddings], x.shape[1:3])


def _kernel_gradient(x, kernel, g, strides, paddings):
  """Matrix products of the output's gradient with patches of the input, a few rows at a time.

  As many as stay in a core's cache: no patch goes to memory and comes back.
  """
  window, (inputs, features) = kernel.shape[:2], kernel.shape[2:]
  count, height, width, _ = g.shape
  patch = math.prod(window) * inputs * x.dtype.itemsize
  fitting = max(_CACHE // (width * patch), 1)
  rows = max(n for n in range(1, height + 1) if not height % n and n <= fitting)
  span = (rows - 1) * strides[0] + window[0]

  def add_image(image, total):
    picture = _pad(lax.dynamic_slice_in_dim(x, image, 1), paddings)[0]
    gradient = lax.dynamic_index_in_dim(g, image, keepdims=False)

    def add_rows(block, total):
      seen = lax.dynamic_slice_in_dim(picture, block * rows * strides[0], span)
      patches = [
        seen[i :: strides[0], j :: strides[1]][:rows, :width]
        for i, j in itertools.product(*map(range, window))
      ]
      patches = jnp.concatenate(patches, axis=-1).reshape(rows * width, -1)
      sent = lax.dynamic_slice_in_dim(gradient, block * rows, rows)
      return total + sent.reshape(rows * width, features).T @ patches

    return lax.fori_loop(0, height // rows, add_rows, total)

  total = jnp.zeros((features, math.prod(window) * inputs), g.dtype)
  total = lax.fori_loop(0, count, add_image, total)
  return jnp.moveaxis(total.reshape(features, *window, inputs), 0, -1)


# --------------------------------------------------------------------------------------------------
# Transposed convolution
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
  # A matrix unit prefers one large product, and memory that x is read once; a CPU prefers not to
  # multiply by the zeros that this takes (7 of 16 products for a window of 3 and a stride of 2).
  return lax.platform_dependent(
    x,
    kernel,
    cpu=lambda x, kernel: _phase_by_phase(x, kernel, strides, paddings, sizes),
    default=lambda x, kernel: _phases_at_once(x, kernel, strides, paddings, sizes),
  )


def _phase_by_phase(x, kernel, strides, paddings, sizes):
  """A convolution for each phase, with the taps that it has."""
  coarse = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
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
  return _interleave(jnp.stack(pictures, axis=-2), strides, sizes)


def _phases_at_once(x, kernel, strides, paddings, sizes):
  """One convolution for all phases: of the window that all of them fit in, zeros in its corners."""
  rank, ranges = len(strides), []
  for axis, (stride, padding, size) in enumerate(zip(strides, paddings, sizes, strict=True)):
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
    ranges.append((-first, -(-size // stride) - x.shape[1 + axis] + last))
  phases, taps = range(0, 2 * rank, 2), range(1, 2 * rank, 2)
  kernel = kernel.transpose(*taps, 2 * rank, *phases, 2 * rank + 1)
  y = conv(x, kernel.reshape(*kernel.shape[: rank + 1], -1), (1,) * rank, ranges)
  return _interleave(y.reshape(*y.shape[:-1], math.prod(strides), -1), strides, sizes)


def _interleave(y, strides, sizes):
  """(B, *coarse, phases, out) to (B, *sizes, out)."""
  rank = len(strides)
  batch, *coarse, _, features = y.shape
  y = y.reshape(batch, *coarse, *strides, features)
  axes = [i for axis in range(rank) for i in (1 + axis, 1 + rank + axis)]
  y = y.transpose(0, *axes, 1 + 2 * rank)
  y = y.reshape(batch, *(n * s for n, s in zip(coarse, strides, strict=True)), features)
  return y[(slice(None), *map(slice, sizes))]
