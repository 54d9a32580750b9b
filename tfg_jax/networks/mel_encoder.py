"""The convolutional audio encoder of Wav2Lip and TalkLip (l): 0.2 s of log-mel to one embedding.

Sources: `audio_encoder` in Rudrabha/Wav2Lip `models/wav2lip.py` and `models/syncnet.py`; TalkLip
supplement, Table 3.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from tfg_jax.networks import layers

# (mel, time) strides of the four sizes: 80x16 -> 27x16 -> 9x6 -> 3x3.
_STRIDES = (1, (3, 1), 3, (3, 2))


class MelEncoder(nn.Module):
  """Embeds mel windows.

  Attributes:
    widths: of the sizes 80x16, 27x16, 9x6, 3x3 and 1x1; the last is the embedding's.
    residuals: residual layers at the first four sizes; SyncNet's copy has two at the fourth.
    axis_name: mapped axis over which batch statistics are averaged, if any.
    dtype: of the computation; parameters and statistics stay float32.
  """

  widths: Sequence[int] = (32, 64, 128, 256, 512)
  residuals: Sequence[int] = (2, 2, 2, 1)
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, mel, *, train: bool):
    """Returns (N, D) embeddings, not negative, of (N, 80, 16, 1) log-mel windows in [-4, 4]."""
    if mel.shape[1:] != (80, 16, 1):
      raise ValueError(f'MelEncoder reads windows of 80 bins x 16 steps, got {mel.shape}')
    position = 0

    def layer(x, features, **settings):
      nonlocal position
      block = layers.ConvBlock(
        features,
        **settings,
        axis_name=self.axis_name,
        dtype=self.dtype,
        name=f'layer_{position}',
      )
      x = block(x, train=train)
      self.sow('intermediates', f'out_{position}', x)
      position += 1
      return x

    x = mel.astype(self.dtype)
    for width, strides, number in zip(self.widths[:4], _STRIDES, self.residuals, strict=True):
      x = layer(x, width, strides=strides)
      for _ in range(number):
        x = layer(x, width, residual=True)
    x = layer(x, self.widths[4], padding=0)  # 3x3 -> 1x1
    x = layer(x, self.widths[4], kernel_size=(1, 1), padding=0)
    return x[:, 0, 0]
