"""Convolutions, plain and transposed, in the form that suits the device a program is for.

Pictures are (B, *window, C) over 1, 2 or 3 axes, kernels (*window, in, out); what is transposed is
measured as PyTorch does. Accelerators get XLA's own forms. On a CPU, XLA multiplies by the holes
that strides make, turns kernels around in slow loops, and draws every picture anew, normalised and
all, wherever one is read in another order; the forms here leave that out, and wide layers multiply
less (`winograd`). Results and gradients are the same.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from tfg_jax.networks import winograd

_WINDOWS = {1: 'W', 2: 'HW', 3: 'DHW'}


def conv(
  x,
  kernel,
  strides: Sequence[int],
  paddings: Sequence[tuple[int, int]],
  dilations: Sequence[int] | None = None,
  groups: int = 1,
):
  """Returns the convolution of x (B, *window, in): (B, *(outputs per axis), out).

  Args:
    x: what is convolved.
    kernel: (*window, in / groups, out).
    strides: per axis.
    paddings: zeros before and behind, per axis.
    dilations: of the kernel, per axis; 1 by default.
    groups: of channels that are convolved apart from each other.
  """
  plain = groups == 1 and set(dilations or [1]) == {1}
  if plain and _platform() == 'cpu':
    if winograd.pays(x, kernel, strides, paddings):
      return winograd.conv(x, kernel, tuple(paddings))
    return _conv_for_cpu(x, kernel, tuple(strides), tuple(paddings))
  return lax.conv_general_dilated(
    x,
    kernel,
    strides,
    paddings,
    rhs_dilation=dilations,
    dimension_numbers=_layout(len(strides)),
    feature_group_count=groups,
  )


def transposed(x, kernel, strides: Sequence[int], paddings: Sequence[int], extras: Sequence[int]):
  """Returns PyTorch's transposed convolution, of x with holes between its pixels.

  Args:
    x: (B, *window, in).
    kernel: (*window, in, out) as that convolution applies it: turned around against PyTorch's.
    strides: distance of pixels, per axis.
    paddings: how many pixels are cut off at either end, per axis.
    extras: how many more there are at the far end, per axis.

  Returns:
    (B, *((size - 1) * stride - 2 * padding + k + extra), out).
  """
  rank, window = len(strides), kernel.shape
  if _platform() != 'cpu':
    around = [
      (k - 1 - p, k - 1 - p + extra) for k, p, extra in zip(window, paddings, extras, strict=False)
    ]
    return lax.conv_general_dilated(
      x, kernel, (1,) * rank, around, lhs_dilation=strides, dimension_numbers=_layout(rank)
    )
  sizes = [
    (size - 1) * stride - 2 * padding + k + extra
    for size, stride, padding, k, extra in zip(
      x.shape[1:-1], strides, paddings, window, extras, strict=False
    )
  ]
  return _phase_by_phase(conv, x, kernel, strides, paddings, sizes)


def _layout(rank: int, kernel: str = 'IO') -> tuple[str, str, str]:
  picture = f'N{_WINDOWS[rank]}C'
  return picture, _WINDOWS[rank] + kernel, picture


def _platform() -> str:
  """What the program that is being traced is for: 'cpu', 'gpu' or 'tpu'."""
  device = jax.config.jax_default_device
  return jax.default_backend() if device is None else getattr(device, 'platform', device)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv_for_cpu(x, kernel, strides, paddings):
  return _plain(x, kernel, strides, paddings)


def _plain(x, kernel, strides, paddings):
  return lax.conv_general_dilated(
    x, kernel, strides, paddings, dimension_numbers=_layout(len(strides))
  )


def _forward(x, kernel, strides, paddings):
  # What is behind a barrier is kept, not computed anew by whoever reads it in another order.
  x = lax.optimization_barrier(x)
  return _plain(x, kernel, strides, paddings), (x, kernel)


def _backward(strides, paddings, kept, gradient):
  x, kernel = kept
  gradient = lax.optimization_barrier(gradient)
  return (
    _input_gradient(gradient, kernel, strides, paddings, x.shape[1:-1]),
    _kernel_gradient(gradient, x, kernel, strides, paddings),
  )


_conv_for_cpu.defvjp(_forward, _backward)


def _input_gradient(gradient, kernel, strides, paddings, sizes):
  """The transposed convolution of the gradient (B, *window, out): (B, *sizes, in)."""
  rank = len(strides)
  # In one go with the exchange of in and out, turning takes the compiler five times as long.
  turned = lax.optimization_barrier(jnp.flip(kernel, range(rank)))

  def convolve(gradient, taps, strides, paddings):
    layout = _layout(rank, kernel='OI')
    return lax.conv_general_dilated(gradient, taps, strides, paddings, dimension_numbers=layout)

  before = [low for low, _ in paddings]
  return _phase_by_phase(convolve, gradient, turned, strides, before, sizes, features=-2)


def _kernel_gradient(gradient, x, kernel, strides, paddings):
  _, pull_back = jax.vjp(lambda kernel: _plain(x, kernel, strides, paddings), kernel)
  return pull_back(gradient)[0]


def _phase_by_phase(convolve, x, kernel, strides, paddings, sizes, features: int = -1):
  """A transposed convolution without its multiplications by holes: (B, *sizes, out).

  Output pixels at the same distance from an input pixel (there are `stride` such phases per axis)
  are one ordinary convolution of the input, with those taps of the kernel that meet pixels. A TPU
  would read the input once per phase and write the output twice: on a v5e, by plan, two and a half
  times the bytes in TalkLip's layers.

  Args:
    convolve: takes x, taps of the kernel, strides and paddings, as `conv` does.
    x: (B, *window, in).
    kernel: (*window, in, out), or with in and out exchanged.
    strides: per axis.
    paddings: how many pixels are cut off in front, per axis.
    sizes: of the output, per axis.
    features: the kernel's axis of `out`.
  """
  rank, count = len(strides), kernel.shape[features]
  batch, *inner, _ = x.shape
  coarse = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
  pictures = []
  for phases in itertools.product(*map(range, strides)):
    taps, pixels, around = kernel, x, []
    for axis, phase in enumerate(phases):
      k, stride, padding = kernel.shape[axis], strides[axis], paddings[axis]
      # Output stride * q + phase meets input q + e at tap k - 1 - padding - phase + stride * e.
      first, last = -((k - 1 - padding - phase) // stride), (padding + phase) // stride
      start = k - 1 - padding - phase + stride * first
      taps = lax.slice_in_dim(taps, min(start, k), k, stride, axis)
      # With padding like (-1, 1) XLA's CPU convolution reads beyond its input (JAX 0.10.2).
      before, stop = max(-first, 0), coarse[axis] + last
      pixels = pixels[(slice(None),) * (1 + axis) + (slice(first + before, stop),)]
      around.append((before, stop - first - before - pixels.shape[1 + axis]))
    if taps.size and pixels.size:
      pictures.append(convolve(pixels, taps, (1,) * rank, around))
    else:  # taps that meet no pixels, e.g. where a stride is longer than the window
      pictures.append(jnp.zeros((batch, *coarse, count), x.dtype))
  if len(pictures) == 1:
    return pictures[0]
  # (B, *coarse, phases, out) to (B, *sizes, out)
  y = jnp.stack(pictures, axis=-2).reshape(batch, *coarse, *strides, count)
  y = y.transpose(0, *(i for axis in range(rank) for i in (1 + axis, 1 + rank + axis)), -1)
  y = y.reshape(batch, *(n * s for n, s in zip(coarse, strides, strict=True)), count)
  return y[(slice(None), *map(slice, sizes))]
