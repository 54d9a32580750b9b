"""Two judges of lip sync: Wav2Lip's expert on face halves, and SyncNet, which LSE-C and LSE-D use.

Sources: `SyncNet_color` in Rudrabha/Wav2Lip `models/syncnet.py`; `S` in joonson/syncnet_python
`SyncNetModel.py` (Chung and Zisserman, ACCV workshop 2016).
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from tfg_jax.networks import layers
from tfg_jax.networks.mel_encoder import MelEncoder


class FaceHalfEncoder(nn.Module):
  """The face stream of Wav2Lip's expert.

  Attributes:
    widths: from (S/2, S) pixels down; six for the official 96 px, n + 1 for S = 3 * 2^n.
    residuals: residual layers of each size but the first.
    axis_name: mapped axis over which batch statistics are averaged, if any.
    dtype: of the computation; parameters and statistics stay float32.
  """

  widths: Sequence[int] = (32, 64, 128, 256, 512, 512)
  residuals: Sequence[int] = (2, 3, 2, 2, 0)
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, face, *, train: bool):
    """Returns (N, D) from (N, S/2, S, 15): five BGR lower halves in [0, 1], frame by frame."""
    position = 0

    def layer(x, features, kernel=3, **settings):
      nonlocal position
      block = layers.ConvBlock(
        features,
        (kernel, kernel),
        **settings,
        axis_name=self.axis_name,
        dtype=self.dtype,
        name=f'layer_{position}',
      )
      x = block(x, train=train)
      self.sow('intermediates', f'out_{position}', x)
      position += 1
      return x

    x = layer(face.astype(self.dtype), self.widths[0], kernel=7, padding=3)
    for i, (width, number) in enumerate(zip(self.widths[1:], self.residuals, strict=True)):
      # Padding 1 around the first 5x5 kernel: the official 48x96 map becomes 46x47.
      x = layer(x, width, **(dict(kernel=5, strides=(1, 2)) if i == 0 else dict(strides=2)))
      for _ in range(number):
        x = layer(x, width, residual=True)
    x = layer(x, self.widths[-1], padding=0)  # 3x3 -> 1x1
    x = layer(x, self.widths[-1], kernel=1, padding=0)
    return x[:, 0, 0]


class ColorSyncNet(nn.Module):
  """Embeds five lower face halves and 0.2 s of mel so that pairs in sync point the same way.

  Embeddings are not negative, so their cosine lies in [0, 1] and can be taken for a probability.
  """

  face: FaceHalfEncoder = FaceHalfEncoder()
  audio: MelEncoder = MelEncoder(residuals=(2, 2, 2, 2))

  def embed_face(self, face, *, train: bool):
    """Returns (N, D) unit rows from (N, S/2, S, 15): five BGR lower halves in [0, 1], in order."""
    return layers.unit(self.face(face, train=train))

  def embed_audio(self, mel, *, train: bool):
    """Returns (N, D) unit rows from (N, 80, 16, 1) log-mel windows in [-4, 4]."""
    return layers.unit(self.audio(mel, train=train))

  def __call__(self, face, mel, *, train: bool):
    """Returns the embeddings of faces and of mel, both (N, D) with unit rows."""
    return self.embed_face(face, train=train), self.embed_audio(mel, train=train)


class SyncStream(nn.Module):
  """One stream of SyncNet: convolutions and pools down to 1x1, then two dense layers.

  Attributes:
    convolutions: (width, kernel, strides, padding) of each.
    pools: (window, strides, padding) of the max pool after each, None where there is none.
    hidden, features: widths of the dense layers.
    axis_name: mapped axis over which batch statistics are averaged, if any.
    dtype: of the computation; parameters and statistics stay float32.
  """

  convolutions: Sequence[tuple]
  pools: Sequence[tuple | None]
  hidden: int = 512
  features: int = 1024
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):
    """Returns (N, features) float32 from (N, H, W, C)."""

    def normed(name, x):
      norm = layers.BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=name)
      return nn.relu(norm(x, train=train))

    x = x.astype(self.dtype)
    for i, (convolution, pool) in enumerate(zip(self.convolutions, self.pools, strict=True)):
      width, kernel, strides, padding = convolution
      x = layers.Conv(width, kernel, strides, padding, dtype=self.dtype, name=f'conv_{i}')(x)
      self.sow('intermediates', f'convolved_{i}', x)
      x = normed(f'norm_{i}', x)
      self.sow('intermediates', f'relu_{i}', x)
      if pool is not None:
        window, strides, padding = pool
        x = nn.max_pool(x, (window, window), strides, [(padding, padding)] * 2)
        self.sow('intermediates', f'pool_{i}', x)
    x = x[:, 0, 0]
    self.sow('intermediates', 'flat', x)
    x = layers.Dense(self.hidden, dtype=self.dtype, name='hidden')(x)
    x = normed('hidden_norm', x)
    return layers.Dense(self.features, dtype=self.dtype, name='out')(x).astype(jnp.float32)


def lip_stream(widths=(96, 256, 256, 256, 256, 512), size: int = 224, **fields):
  """The stream that reads (N, size, size, 15): five frames stacked along the channels.

  Raises:
    ValueError: if nothing is left of such a picture before the last convolution.
  """
  left = size
  for kernel, padding in ((7, 0), (3, 0), (5, 1), (3, 1), (3, 0)):  # those with strides of 2
    left = (left + 2 * padding - kernel) // 2 + 1
  if left < 1:
    raise ValueError(f'pictures of {size} px are too small for SyncNet')
  kernels = [(7, 2, 0), (5, 2, 1), (3, 1, 1), (3, 1, 1), (3, 1, 1), (left, 1, 0)]
  convolutions = tuple(
    (width, (kernel, kernel), strides, padding)
    for width, (kernel, strides, padding) in zip(widths, kernels, strict=True)
  )
  pools = ((3, (2, 2), 0), (3, (2, 2), 1), None, None, (3, (2, 2), 0), None)
  return SyncStream(convolutions, pools, **fields)


def speech_stream(widths=(64, 192, 384, 256, 256, 512), **fields):
  """The stream that reads (N, 13, 20, 1) MFCC windows."""
  convolutions = tuple((width, (3, 3), 1, 1) for width in widths[:-1])
  convolutions += ((widths[-1], (5, 4), 1, 0),)
  pools = (None, (3, (1, 2), 0), None, None, (3, (2, 2), 0), None)
  return SyncStream(convolutions, pools, **fields)


class SyncNetV2(nn.Module):
  """SyncNet: 0.2 s of video and of speech to embeddings that are near each other when in sync.

  Embeddings are not normalised.
  """

  lips: SyncStream = lip_stream()
  speech: SyncStream = speech_stream()

  def embed_lips(self, frames, *, train: bool):
    """Returns (N, D) from (N, 5, 224, 224, 3) BGR frames, values 0 to 255."""
    number, time, height, width, channels = frames.shape
    # The first kernel spans all five frames, which makes them channels of a 2-D convolution.
    stacked = jnp.moveaxis(frames, 1, 3).reshape(number, height, width, time * channels)
    return self.lips(stacked, train=train)

  def embed_speech(self, mfcc, *, train: bool):
    """Returns (N, D) from (N, 13, 20, 1) windows of MFCCs, 20 columns at 100 Hz."""
    return self.speech(mfcc, train=train)

  def __call__(self, frames, mfcc, *, train: bool):
    """Returns the embeddings of frames and of speech, both (N, D)."""
    return self.embed_lips(frames, train=train), self.embed_speech(mfcc, train=train)
