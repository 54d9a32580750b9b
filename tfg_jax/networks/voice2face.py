"""The parts of voice2face (Wen et al., 2019), the baseline of SF2F; see `networks/sf2f.py`.

Source: BAI-Yeqi/SF2F_PyTorch@e346b68, options/vox/baseline/v2f.yaml. Its discriminator is

    IdentityDiscriminator(identities, JUDGE_PLAIN, normalise=False, slope=0.2)
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from tfg_jax.networks import layers
from tfg_jax.networks.sf2f import average_frames, valid_frames

# Kernel, channels, stride, padding of each convolution of the discriminator.
JUDGE_PLAIN = ((1, 32, 1, 0), (4, 64, 2, 1), (4, 128, 2, 1), (4, 256, 2, 1), (4, 512, 1, 0))


class PlainVoiceEncoder(nn.Module):
  """Five 1-D convolutions of stride 2; takes and returns what `sf2f.VoiceEncoder` does."""

  widths: Sequence[int] = (256, 384, 576, 864)
  features: int = 512
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, mel, lengths=None, *, train: bool):  # (B, F, 40), (B,)
    def hide_padding(x):
      if lengths is None:
        return x
      return jnp.where(valid_frames(lengths, x.shape[1])[..., None], x, 0)

    x = hide_padding(mel)
    for i, width in enumerate(self.widths):
      x = layers.Conv(width, (3,), 2, 1, use_bias=False, dtype=self.dtype, name=f'conv_{i}')(x)
      lengths = None if lengths is None else -(-lengths // 2)
      x = layers.BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=f'norm_{i}')(
        x, valid_frames(lengths, x.shape[1]), train=train
      )
      x = hide_padding(nn.relu(x))
    x = layers.Conv(self.features, (3,), 2, 1, dtype=self.dtype, name='out')(x)
    lengths = None if lengths is None else -(-lengths // 2)
    return layers.unit(average_frames(x.astype(jnp.float32), lengths))


class DeconvolutionDecoder(nn.Module):
  """Draws a portrait with transposed convolutions: 4 px, then twice the size with every width."""

  widths: Sequence[int] = (1024, 512, 256, 128, 64)
  dtype: Any = jnp.float32

  @property
  def sizes(self) -> tuple[int]:
    """Sides of the portraits in pixels."""
    return (4 << (len(self.widths) - 1),)

  @nn.compact
  def __call__(self, embedding, *, train: bool):
    """(B, D) to a tuple with one (B, S, S, 3) float32; `train` changes nothing."""
    del train  # no norm
    x = embedding[:, None, None]
    for i, width in enumerate(self.widths):
      strides, padding = (2, 1) if i else (1, 0)
      x = layers.ConvTranspose(
        width, (4, 4), strides, padding, dtype=self.dtype, name=f'deconv_{i}'
      )(x)
      x = nn.relu(x)
    x = layers.ConvTranspose(3, (1, 1), dtype=self.dtype, name='out')(x)
    return (x.astype(jnp.float32),)
