"""CPC audio encoder: a causal context of speech, 100 times per second, from the raw waveform.

Sources: `CPCModel` of facebookresearch/CPC_audio `cpc/model.py` at its default sizes, and the
prediction network of `cpc/criterion/criterion.py`; van den Oord et al., 2018; Riviere et al., 2020.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from tfg_jax.networks import layers

SAMPLES_PER_STEP = 160  # of 16 kHz: the product of the strides


class ChannelNorm(nn.Module):
  """Normalises each time step over its channels, by the UNBIASED variance, unlike LayerNorm."""

  epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):  # (..., C)
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    var = jnp.square(centred).sum(-1, keepdims=True) / (x.shape[-1] - 1)
    return (centred * lax.rsqrt(var + self.epsilon) * scale + bias).astype(self.dtype)


class LSTM(nn.Module):
  """One layer of PyTorch's LSTM: gates in the order input, forget, cell, output; two biases.

  The recurrence is float32 whatever `dtype` is: its rounding would add up over the steps.
  """

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):  # (B, T, in) -> (B, T, features), from a zero state
    init = layers.uniform_init(self.features)
    gates = 4 * self.features
    from_input = self.param('input_kernel', init, (x.shape[-1], gates))
    from_hidden = self.param('hidden_kernel', init, (self.features, gates))
    bias = self.param('input_bias', init, (gates,)) + self.param('hidden_bias', init, (gates,))
    driven = (x.astype(self.dtype) @ from_input.astype(self.dtype)).astype(jnp.float32) + bias

    def step(carry, driven):
      hidden, cell = carry
      i, f, g, o = jnp.split(driven + hidden @ from_hidden, 4, axis=-1)
      cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
      hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
      return (hidden, cell), hidden

    zeros = jnp.zeros((len(x), self.features))
    _, hidden = lax.scan(step, (zeros, zeros), driven.swapaxes(0, 1))
    return hidden.swapaxes(0, 1).astype(self.dtype)


class WaveEncoder(nn.Module):
  """Five strided convolutions: 16 kHz to 100 Hz.

  Fresh biases are 0: PyTorch's are ten times as large as what speech makes of the first kernels;
  behind the norms little of it is left, which a short training does not get over.
  """

  features: int = 256
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, wave):  # (B, L) in [-1, 1] -> (B, L // 160, features)
    x = wave[..., None].astype(self.dtype)
    for i, (kernel, stride, padding) in enumerate(
      ((10, 5, 3), (8, 4, 2), (4, 2, 1), (4, 2, 1), (4, 2, 1))
    ):
      x = layers.Conv(
        self.features,
        (kernel,),
        stride,
        padding,
        bias_init=nn.initializers.zeros,
        dtype=self.dtype,
        name=f'conv_{i}',
      )(x)
      self.sow('intermediates', f'convolved_{i}', x)
      x = ChannelNorm(dtype=self.dtype, name=f'norm_{i}')(x)
      self.sow('intermediates', f'normed_{i}', x)
      x = nn.relu(x)
    return x


class CPC(nn.Module):
  """The encoder and its causal context network."""

  features: int = 256
  context: int = 256
  dtype: Any = jnp.float32

  def setup(self):
    self.encoder = WaveEncoder(self.features, dtype=self.dtype)
    self.recurrent = LSTM(self.context, dtype=self.dtype)

  def __call__(self, wave):
    """Returns z (B, N, features) and c (B, N, context), N = L // 160, of (B, L) in [-1, 1]."""
    z = self.encoder(wave)
    return z, self.recurrent(z)


class Predictor(nn.Module):
  """Guesses the encodings of the next steps from the context, for training CPC.

  One bias-free linear map per step ahead: the choice of the CPC paper. The public code's default is
  a transformer layer per step, which costs more than the encoder itself.
  """

  steps: int = 12
  features: int = 256
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, context):  # (B, N, context) -> (B, N, steps, features)
    maps = [
      layers.Dense(self.features, use_bias=False, dtype=self.dtype, name=f'step_{k}')(context)
      for k in range(self.steps)
    ]
    return jnp.stack(maps, axis=2)
