"""The face encoder-decoder of Wav2Lip and TalkLip: two face crops and an audio embedding to a face.

Sources: `Wav2Lip` (Rudrabha/Wav2Lip `models/wav2lip.py`) and `TalkLip` (Sxjdwang/TalkLip
`models/talklip.py`), which have the same layers. A convolutional encoder squeezes pose and identity
to 1x1; the decoder grows the face from the audio embedding and takes in the encoder's map of the
same size after each block.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from tfg_jax.networks import layers


class FaceUNet(nn.Module):
  """Draws the face that goes with an audio embedding.

  The four sequences run from high to low resolution, one entry per size from S down to 3, so
  S = 3 * 2^(len(encoder) - 1): 96 for the official six.

  Attributes:
    encoder: widths of the encoder; the last is the bottleneck's too.
    encoder_residuals: residual layers after the first of each size.
    decoder: widths of the decoder; the last is also that of its first, 1x1 block.
    decoder_residuals: residual layers after the upsampling one of each size.
    head: width of the last hidden layer.
    axis_name: mapped axis over which batch statistics are averaged, if any.
    dtype: of the computation; parameters and statistics stay float32.
  """

  encoder: Sequence[int] = (16, 32, 64, 128, 256, 512)
  encoder_residuals: Sequence[int] = (0, 2, 3, 2, 2, 1)
  decoder: Sequence[int] = (64, 128, 256, 384, 512, 512)
  decoder_residuals: Sequence[int] = (2, 2, 2, 2, 2, 1)
  head: int = 32
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @property
  def image_size(self) -> int:
    """S, the side of the face crops in pixels."""
    return 3 * 2 ** (len(self.encoder) - 1)

  @nn.compact
  def __call__(self, face, audio, *, train: bool):
    """Returns (N, S, S, 3) float32 faces in [0, 1], channels in the order of the input.

    Args:
      face: (N, S, S, 6) in [0, 1]: the pose face, lower half zero, then the identity face.
      audio: (N, D) embeddings; D is free, the official one is 512.
      train: normalise with the batch's statistics and update the running ones.
    """
    if face.shape[1:] != (self.image_size, self.image_size, 6):
      raise ValueError(
        f'this FaceUNet draws (N, {self.image_size}, {self.image_size}, 6), got {face.shape}'
      )

    def block(name, x, features, kernel=3, strides=1, padding=1, residual=False):
      return layers.ConvBlock(
        features,
        (kernel, kernel),
        strides,
        padding,
        residual,
        axis_name=self.axis_name,
        dtype=self.dtype,
        name=name,
      )(x, train=train)

    def residuals(name, x, first, number):
      for j in range(first, first + number):
        x = block(f'{name}_{j}', x, x.shape[-1], residual=True)
      return x

    skips = []
    x = face.astype(self.dtype)
    for i, (width, number) in enumerate(zip(self.encoder, self.encoder_residuals, strict=True)):
      if i == 0:
        x = block('encoder_0_0', x, width, kernel=7, padding=3)
      else:
        x = block(f'encoder_{i}_0', x, width, strides=2)
      x = residuals(f'encoder_{i}', x, 1, number)
      self.sow('intermediates', f'encoder_{i}', x)
      skips.append(x)
    i = len(self.encoder)
    x = block(f'encoder_{i}_0', x, self.encoder[-1], padding=0)  # 3x3 -> 1x1
    x = block(f'encoder_{i}_1', x, self.encoder[-1], kernel=1, padding=0)
    self.sow('intermediates', f'encoder_{i}', x)
    skips.append(x)

    x = audio[:, None, None, :].astype(self.dtype)
    x = block('decoder_0_0', x, self.decoder[-1], kernel=1, padding=0)
    self.sow('intermediates', 'decoder_0', x)
    x = jnp.concatenate([x, skips.pop()], axis=-1)
    low_to_high = zip(reversed(self.decoder), reversed(self.decoder_residuals), strict=True)
    for i, (width, number) in enumerate(low_to_high, start=1):
      grow = dict(strides=1, padding=0, output_padding=0) if i == 1 else {}  # 1x1 -> 3x3, then x2
      x = layers.ConvTransposeBlock(
        width, **grow, axis_name=self.axis_name, dtype=self.dtype, name=f'decoder_{i}_up'
      )(x, train=train)
      x = residuals(f'decoder_{i}', x, 1, number)
      self.sow('intermediates', f'decoder_{i}', x)
      x = jnp.concatenate([x, skips.pop()], axis=-1)

    x = block('output_block', x, self.head)
    self.sow('intermediates', 'head', x)
    x = layers.Conv(3, (1, 1), dtype=self.dtype, name='output')(x).astype(jnp.float32)
    self.sow('intermediates', 'pre_sigmoid', x)
    return nn.sigmoid(x)
