"""Convolutions with a fourth of the multiplications: minimal filtering after Winograd.

A row of a convolution's outputs is a part of the product of two polynomials, and that product is
known from its values at as many points as it has coefficients. So a tile of TILE x TILE outputs
takes (TILE + k - 1)^2 products of values in place of (TILE * k)^2 of pixels and taps. Values are
sums of a few pixels or taps, and are worked out once for all channels that meet.

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016. Which points round
least: Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution for Deep
Neural Networks, TOMS 2020.

Pictures are (B, H, W, C), kernels (k, k, in, out), values (points, points, B, rows, columns, C) of
the tiles.
"""

import functools
import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

TILE = 4  # outputs per axis
# Where polynomials are evaluated, besides infinity, by the window. Of pairs of eighths those that
# round least: results are off by 1e-6 and 2e-6 (RMS), where plain float32 sums are by 3e-7.
_POINTS = {
  3: ('0', '5/8', '-5/8', '3/2', '-3/2'),
  5: ('0', '1/2', '-1/2', '1', '-1', '2', '-2'),
}
# From where on it pays, as measured on CPUs with 2 cores.
_CHANNELS, _TILES = 64, 100
_LARGEST_WASTE = 1.3  # outputs of all tiles, by those that are wanted


def pays(x, kernel, strides, paddings) -> bool:
  """Whether `conv` can do this convolution, and does it sooner than XLA on a CPU.

  Args:
    x: (B, *window, in), or its shape and dtype.
    kernel: (*window, in, out), likewise.
    strides: per axis.
    paddings: zeros before and behind, per axis.
  """
  k = kernel.shape[0]
  if x.ndim != 4 or x.dtype != jnp.float32 or set(strides) != {1}:
    return False
  if k not in _POINTS or kernel.shape[1] != k or max(itertools.chain(*paddings)) >= k:
    return False
  sizes = _output_sizes(x, kernel, paddings)
  tiles = [-(-size // TILE) for size in sizes]
  wasted = math.prod(tiles) * TILE**2 > _LARGEST_WASTE * math.prod(sizes)
  many = min(kernel.shape[2:]) >= _CHANNELS and x.shape[0] * math.prod(tiles) >= _TILES
  return many and not wasted


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x, kernel, paddings):
  """Returns the convolution of x (B, H, W, in) with stride 1: (B, *(outputs per axis), out).

  Args:
    x: what is convolved, float32.
    kernel: (k, k, in, out); k is 3 or 5.
    paddings: zeros before and behind, per axis; from 0 to k - 1.
  """
  height, width = _output_sizes(x, kernel, paddings)
  _, of_taps, to_outputs = _transforms(len(kernel))
  pixels = _pixel_values(x, paddings, (height, width), len(kernel))
  taps = _values(kernel.reshape(1, *kernel.shape[:2], -1), of_taps, len(kernel))
  products = _flat(pixels) @ taps.reshape(-1, *kernel.shape[2:])
  products = products.reshape(*pixels.shape[:-1], -1)
  return _coefficients(products, to_outputs)[:, :height, :width]


def _forward(x, kernel, paddings):
  x = lax.optimization_barrier(x)
  return conv(x, kernel, paddings), (x, kernel)


def _backward(paddings, kept, gradient):
  x, kernel = kept
  gradient = lax.optimization_barrier(gradient)
  return _input_gradient(gradient, kernel, paddings), _kernel_gradient(
    gradient, x, kernel, paddings
  )


conv.defvjp(_forward, _backward)


def _input_gradient(gradient, kernel, paddings):
  turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  rest = len(kernel) - 1
  return conv(gradient, turned, tuple((rest - low, rest - high) for low, high in paddings))


def _kernel_gradient(gradient, x, kernel, paddings):
  """The transposes of what `conv` does, from the outputs to the taps."""
  k, sizes = len(kernel), gradient.shape[1:3]
  _, of_taps, to_outputs = _transforms(k)
  pixels = _pixel_values(x, paddings, sizes, k)
  behind = [(0, -size % TILE) for size in sizes]
  outputs = _values(jnp.pad(gradient, [(0, 0), *behind, (0, 0)]), to_outputs.T, TILE)
  products = jnp.einsum('pti,pto->pio', _flat(pixels), _flat(outputs))
  products = products.reshape(len(of_taps), len(of_taps), 1, 1, 1, -1)
  return _coefficients(products, of_taps.T).reshape(kernel.shape)


def _output_sizes(x, kernel, paddings) -> list[int]:
  return [
    size + low + high - len(kernel) + 1
    for size, (low, high) in zip(x.shape[1:3], paddings, strict=True)
  ]


def _pixel_values(x, paddings, sizes, k: int):
  """Values of pictures with zeros around them, as many as whole tiles of outputs need."""
  around = [
    (low, -(-size // TILE) * TILE + k - 1 - low - pixels)
    for pixels, size, (low, _) in zip(x.shape[1:3], sizes, paddings, strict=True)
  ]
  of_pixels, _, _ = _transforms(k)
  return _values(jnp.pad(x, [(0, 0), *around, (0, 0)]), of_pixels, TILE)


def _flat(values):
  """(points, points, B, rows, columns, C) to (points^2, tiles, C)."""
  return values.reshape(math.prod(values.shape[:2]), -1, values.shape[-1])


def _values(x, matrix, step: int):
  """Values of the polynomials that begin every `step` pixels of x (B, H, W, C), by row and column.

  Args:
    x: pictures.
    matrix: (points, pixels), from the coefficients of one polynomial to its values.
    step: how far the next one's are.
  """

  def pieces(x, axis):
    stop = x.shape[axis] - matrix.shape[1] + 1
    return [lax.slice_in_dim(x, j, j + stop, step, axis) for j in range(matrix.shape[1])]

  # (B, rows, points, W, C). Kept, as it would be worked out anew for each point of a column.
  x = lax.optimization_barrier(
    sum(
      factors[:, None, None] * piece[:, :, None]
      for factors, piece in zip(matrix.T, pieces(x, 1), strict=True)
    )
  )
  return sum(
    factors[:, None, None, None, None] * jnp.moveaxis(piece, 2, 0)[:, None]
    for factors, piece in zip(matrix.T, pieces(x, 3), strict=True)
  )


def _coefficients(values, matrix):
  """What lies at the tiles of values, side by side: (B, n * rows, n * columns, C).

  Args:
    values: of polynomials.
    matrix: (n, points), from the values of one polynomial to its coefficients that are wanted.
  """
  for axis in (3, 1):  # columns of (points, B, rows, columns, C), rows of (B, rows, W, C)
    values = lax.optimization_barrier(values)
    if axis == 3:
      values = jnp.moveaxis(values, 1, 0)
    pixels = sum(
      factors.reshape(-1, *[1] * (value.ndim - axis - 1)) * jnp.expand_dims(value, axis + 1)
      for factors, value in zip(matrix.T, values, strict=True)
    )
    shape = pixels.shape
    values = pixels.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
  return values


@functools.cache
def _transforms(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """From pixels to values, taps to values, products of values to outputs: of Cook and Toom.

  (points, TILE + k - 1), (points, k) and (TILE, points): B^T, G and A^T of the papers.
  """
  points = [Fraction(x) for x in _POINTS[k]]
  others = [[q for q in points if q != p] for p in points]

  def powers(base, number):
    return [base**i for i in range(number)]

  def infinity(number):
    return [0] * (number - 1) + [1]

  def polynomial(roots):  # its coefficients, the constant first
    coefficients = [Fraction(1)]
    for root in roots:
      higher, lower = [0, *coefficients], [*coefficients, 0]
      coefficients = [a - root * b for a, b in zip(higher, lower, strict=True)]
    return coefficients + [0] * (len(points) + 1 - len(coefficients))

  of_pixels = [*map(polynomial, others), polynomial(points)]
  of_taps = [
    [power / math.prod(p - q for q in rest) for power in powers(p, k)]
    for p, rest in zip(points, others, strict=True)
  ]
  of_outputs = [powers(p, TILE) for p in points]
  of_pixels, of_taps, of_outputs = (
    np.array(rows, np.float64).astype(np.float32)
    for rows in (of_pixels, [*of_taps, infinity(k)], [*of_outputs, infinity(TILE)])
  )
  return of_pixels, of_taps, of_outputs.T
