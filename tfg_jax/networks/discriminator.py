"""The visual-quality discriminator of Wav2Lip and TalkLip.

Sources: `Wav2Lip_disc_qual` (Rudrabha/Wav2Lip) and `TalkLip_disc_qual` (Sxjdwang/TalkLip): one
network, no normalisation layers. It judges the lower half of the face, the only part that the
generator invents.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from tfg_jax.networks import layers

# Kernel sizes of the official six levels, from high to low resolution; later ones repeat the last.
_KERNELS = (7, 5, 5, 5, 3, 3)


class QualityDiscriminator(nn.Module):
  """Real or generated, from the lower half of a face.

  Every level but the first halves the picture, so `widths` has one entry per size from S down to
  3: six for the official 96 px, n + 1 for 3 * 2^n px.
  """

  widths: Sequence[int] = (32, 64, 128, 256, 512, 512)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, face):
    """Takes (N, S, S, C) faces in [0, 1]; returns (N,) logits, positive for real, float32."""
    size = 3 * 2 ** (len(self.widths) - 1)
    if face.shape[1:3] != (size, size):
      raise ValueError(f'{len(self.widths)} widths judge {size} px faces, got {face.shape[1:3]}')

    def layer(name, x, features, kernel, strides=1, padding=None):
      padding = kernel // 2 if padding is None else padding
      x = layers.Conv(
        features, (kernel, kernel), strides, padding, dtype=self.dtype, name=f'block_{name}'
      )(x)
      return nn.leaky_relu(x, 0.01)

    x = face[:, size // 2 :]  # (N, S/2, S, C)
    for level, width in enumerate(self.widths):
      kernel = _KERNELS[min(level, len(_KERNELS) - 1)]
      # The second level halves the columns only: from there on the map is square.
      strides = {0: 1, 1: (1, 2)}.get(level, 2)
      x = layer(f'{level}_0', x, width, kernel, strides)
      if level > 0:
        x = layer(f'{level}_1', x, width, kernel)
      self.sow('intermediates', f'block_{level}', x)

    last = len(self.widths)
    x = layer(f'{last}_0', x, self.widths[-1], 3, padding=0)  # (N, 1, 1, C)
    x = layer(f'{last}_1', x, self.widths[-1], 1)
    self.sow('intermediates', f'block_{last}', x)
    logit = layers.Conv(1, (1, 1), dtype=self.dtype, name='binary_pred')(x)
    return logit[:, 0, 0, 0].astype(jnp.float32)
