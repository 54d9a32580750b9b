"""Building blocks that compute and train exactly as their PyTorch namesakes.

Images are (B, H, W, C), videos (B, T, H, W, C), sequences (B, T, D); kernels are (*window, in,
out). Parameters and running statistics are float32 whatever the compute `dtype` is. Fresh
parameters follow PyTorch's defaults: uniform within 1/sqrt(fan_in) for kernels and biases alike.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.nn.initializers import Initializer

from tfg_jax.networks import convolutions

# Flax takes the variance as E[x^2] - E[x]^2 by default, which loses digits; PyTorch does not.
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)


def uniform_init(fan_in: int):
  """PyTorch's default for a kernel or bias of a layer with `fan_in` inputs per output."""
  bound = 1 / math.sqrt(fan_in)
  return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def unit(x, epsilon: float = 1e-12):
  """Returns x (..., D) / max(|x|, epsilon), float32; the gradient at zero is finite."""
  x = x.astype(jnp.float32)
  squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * lax.rsqrt(jnp.maximum(squares, epsilon**2))


def _per_axis(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
  return (value,) * rank if isinstance(value, int) else tuple(value)


class Dense(nn.Module):
  """Affine map of the last axis; `kernel_init` and `bias_init` replace PyTorch's defaults."""

  features: int
  use_bias: bool = True
  kernel_init: Initializer | None = None
  bias_init: Initializer | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):  # (..., in) -> (..., features)
    init = uniform_init(x.shape[-1])
    kernel = self.param('kernel', self.kernel_init or init, (x.shape[-1], self.features))
    y = x.astype(self.dtype) @ kernel.astype(self.dtype)
    if self.use_bias:
      y += self.param('bias', self.bias_init or init, (self.features,)).astype(self.dtype)
    return y


class Conv(nn.Module):
  """Convolution over 1, 2 or 3 axes (as many as `kernel_size` has), with symmetric padding.

  'SAME' would pad differently from PyTorch wherever the stride is not 1. `kernel_init` and
  `bias_init` replace PyTorch's defaults.
  """

  features: int
  kernel_size: Sequence[int]
  strides: int | Sequence[int] = 1
  padding: int | Sequence[int] = 0
  dilation: int | Sequence[int] = 1
  groups: int = 1
  use_bias: bool = True
  kernel_init: Initializer | None = None
  bias_init: Initializer | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):  # (B, *window, in) -> (B, *window, features)
    window = tuple(self.kernel_size)
    inputs = x.shape[-1] // self.groups
    init = uniform_init(math.prod(window) * inputs)
    kernel = self.param('kernel', self.kernel_init or init, (*window, inputs, self.features))
    strides, paddings, dilations = (
      _per_axis(n, len(window)) for n in (self.strides, self.padding, self.dilation)
    )
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    if _is_thin(x, kernel) and {*strides, *dilations} == {1}:
      y = _conv_of_blocks(x, kernel, paddings)
    else:
      around = [(p, p) for p in paddings]
      y = convolutions.conv(x, kernel, strides, around, dilations, self.groups)
    if self.use_bias:
      y += self.param('bias', self.bias_init or init, (self.features,)).astype(self.dtype)
    return y


def _is_thin(x, kernel) -> bool:
  """Whether a picture is better convolved in blocks: few channels under a large, odd window."""
  *window, inputs, _ = kernel.shape
  large = len(window) == 2 and all(k > 5 and k % 2 for k in window)
  return large and inputs < 8 and not any(n % 2 for n in x.shape[1:-1])


def _conv_of_blocks(x, kernel, paddings):
  """The convolution of 2x2 blocks of pixels that equals the one of a thin picture's pixels.

  A few channels fill a few of a vector unit's lanes (128 on a TPU); those of four pixels fill four
  times as many, for a third more multiplications at 7x7. Same shapes as `lax.conv`'s.
  """
  x = jnp.pad(x, ((0, 0), *((p, p) for p in paddings), (0, 0)))
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
  y = convolutions.conv(
    x.reshape(batch, height // 2, width // 2, 4 * channels),
    kernel.reshape(*kernel.shape[:2], 4 * channels, 4 * features),
    strides=(1, 1),
    paddings=((0, 0), (0, 0)),
  )
  rows, columns = y.shape[1:3]
  y = y.reshape(batch, rows, columns, 2, 2, features).transpose(0, 1, 3, 2, 4, 5)
  return y.reshape(batch, 2 * rows, 2 * columns, features)


def _tap(kernel, axis, position):
  """One slice of a kernel; zeros beyond its ends."""
  if 0 <= position < kernel.shape[axis]:
    return lax.index_in_dim(kernel, position, axis, keepdims=False)
  return jnp.zeros_like(lax.index_in_dim(kernel, 0, axis, keepdims=False))


class ConvTranspose(nn.Module):
  """PyTorch's transposed convolution: a convolution of the input with holes between its pixels.

  The kernel is stored as that convolution applies it: (*window, in, out), flipped against
  PyTorch's.
  """

  features: int
  kernel_size: Sequence[int]
  strides: int | Sequence[int] = 1
  padding: int | Sequence[int] = 0
  output_padding: int | Sequence[int] = 0
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):  # (B, *window, in) -> (B, *window, features)
    window = tuple(self.kernel_size)
    rank = len(window)
    # PyTorch reads the fan-in of a transposed kernel from its output channels.
    init = uniform_init(math.prod(window) * self.features)
    kernel = self.param('kernel', init, (*window, x.shape[-1], self.features))
    strides, paddings, extras = (
      _per_axis(x, rank) for x in (self.strides, self.padding, self.output_padding)
    )
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    y = convolutions.transposed(x, kernel, strides, paddings, extras)
    if self.use_bias:
      y += self.param('bias', init, (self.features,)).astype(self.dtype)
    return y


class BatchNorm(nn.Module):
  """Batch normalisation over all axes but the last, with PyTorch's statistics.

  In training the batch's mean and biased variance normalise, and the running variance takes in the
  UNBIASED one: new = (1 - momentum) * old + momentum * batch. (Flax's own layer stores the biased
  one, which differs visibly on 1x1 maps.) With `axis_name`, the batch is the one of all devices on
  that mapped axis. With a `mask` (B, ...) over leading axes, statistics see only where it is True.

  With `passes`, rows (N * passes) are N rows of as many batches, side by side: every `passes`-th
  belong together, with statistics of their own, and are taken in one batch after the other.
  """

  epsilon: float = 1e-5
  momentum: float = 0.1
  passes: int = 1
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, mask=None, *, train: bool):  # (B, ..., C)
    channels = (x.shape[-1],)
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, channels)
    running_var = self.variable('batch_stats', 'var', jnp.ones, channels)
    count = self.variable('batch_stats', 'count', lambda: jnp.zeros((), jnp.int32))
    scale = self.param('scale', nn.initializers.ones, channels)
    bias = self.param('bias', nn.initializers.zeros, channels)

    y = x.astype(jnp.float32)
    if train:
      y = _by_pass(y, self.passes)
      mask = mask if mask is None else _by_pass(mask, self.passes)
      mean, var, number = _moments(y, mask, self.axis_name)  # (passes, 1 ..., C)
      if not self.is_initializing():
        unbiased = var * (number / jnp.maximum(number - 1, 1))
        running_mean.value = self._take_in(running_mean.value, mean)
        running_var.value = self._take_in(running_var.value, unbiased)
        count.value = count.value + self.passes  # `+=` would count in a caller's numpy array
    else:
      mean, var = running_mean.value, running_var.value

    factor = scale * lax.rsqrt(var + self.epsilon)
    y = (y - mean) * factor + bias
    return y.reshape(x.shape).astype(self.dtype)

  def _take_in(self, running, batches):
    """A running statistic (C,) after those of batches (passes, 1 ..., C), the first one first."""
    keep = 1 - self.momentum
    batches = batches.reshape(self.passes, -1)
    fades = self.momentum * keep ** np.arange(self.passes - 1, -1, -1, dtype=np.float32)
    return keep**self.passes * running + (fades[:, None] * batches).sum(0)


def _by_pass(x, passes):
  """(N * passes, ...) to (N, passes, ...)."""
  return x.reshape(-1, passes, *x.shape[1:])


def _moments(x, mask, axis_name):
  """Mean, biased variance and number of values per pass and channel of (N, passes, ..., C).

  Over all devices; (passes, 1 ..., C) each, the number a constant where there is no mask.
  """
  axes = (0, *range(2, x.ndim - 1))
  if mask is not None:
    mask = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
    return _masked_moments(x, jnp.broadcast_to(mask, (*x.shape[:-1], 1)), axes, axis_name)

  def over_devices(values):
    mean = jnp.mean(values, axes, keepdims=True)[0]
    return mean if axis_name is None else lax.pmean(mean, axis_name)

  number = math.prod(x.shape[axis] for axis in axes)
  mean = over_devices(x)
  devices = 1 if axis_name is None else lax.axis_size(axis_name)
  return mean, over_devices(jnp.square(x - mean)), number * devices


def _masked_moments(x, mask, axes, axis_name):
  def total(values):
    values = jnp.where(mask, values, 0).sum(axes, keepdims=True)[0]
    return values if axis_name is None else lax.psum(values, axis_name)

  number = jnp.maximum(total(jnp.ones_like(x)), 1)
  mean = total(x) / number
  return mean, total(jnp.square(x - mean)) / number, number


class PReLU(nn.Module):
  """x where positive, else alpha * x, with one learned alpha per channel."""

  initial: float = 0.25
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):  # (..., C)
    alpha = self.param('alpha', nn.initializers.constant(self.initial), (x.shape[-1],))
    return jnp.where(x >= 0, x, alpha.astype(self.dtype) * x).astype(self.dtype)


class ConvBlock(nn.Module):
  """Conv, BatchNorm, ReLU; with `residual` the input is added before the ReLU (Wav2Lip).

  `residual` needs stride 1, a padding that keeps the size, and as many input channels as
  `features`.
  """

  features: int
  kernel_size: Sequence[int] = (3, 3)
  strides: int | Sequence[int] = 1
  padding: int | Sequence[int] = 1
  residual: bool = False
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):  # (B, H, W, C)
    y = Conv(
      self.features, self.kernel_size, self.strides, self.padding, dtype=self.dtype, name='conv'
    )(x)
    y = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name='norm')(y, train=train)
    return nn.relu(x + y if self.residual else y)


class ConvTransposeBlock(nn.Module):
  """Transposed conv, BatchNorm, ReLU (Wav2Lip `models/conv.py`)."""

  features: int
  kernel_size: Sequence[int] = (3, 3)
  strides: int | Sequence[int] = 2
  padding: int | Sequence[int] = 1
  output_padding: int | Sequence[int] = 1
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):  # (B, H, W, C)
    y = ConvTranspose(
      self.features,
      self.kernel_size,
      self.strides,
      self.padding,
      self.output_padding,
      dtype=self.dtype,
      name='conv',
    )(x)
    y = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name='norm')(y, train=train)
    return nn.relu(y)
