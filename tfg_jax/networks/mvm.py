"""MVM, the word classifier of TalkLip's LRW accuracy: lips to one of 500 words.

Multi-head visual-audio memory (Kim et al., AAAI 2022), ported from
ms-dot-k/Multi-head-Visual-Audio-Memory. Its memories recall, from lips alone, what speech would
have added; this port reads them (the official test path). What only its training needs, the audio
front end among it, is kept as parameters.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tfg_jax.networks.layers import BatchNorm, Conv, Dense, LayerNorm, PReLU, unit
from tfg_jax.networks.lip_frontend import GrayVideoConv, halving_max_pool

FRAMES = 29  # of an LRW clip


class PreNormBlock(nn.Module):
  """BN, conv3x3, BN, PReLU, strided conv3x3, BN, plus the shortcut; nothing after the sum."""

  features: int
  strides: int = 1
  project: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):  # (B, H, W, C)
    def conv(x, strides, name, size=3):
      return Conv(
        self.features,
        (size, size),
        strides,
        size // 2,
        use_bias=False,
        kernel_init=nn.initializers.xavier_uniform(),
        dtype=self.dtype,
        name=name,
      )(x)

    def norm(x, name):
      return BatchNorm(dtype=self.dtype, name=name)(x, train=train)

    y = norm(conv(norm(x, 'norm_0'), 1, 'conv_1'), 'norm_2')
    y = conv(PReLU(dtype=self.dtype, name='relu_3')(y), self.strides, 'conv_4')
    y = norm(y, 'norm_5')
    if self.project:
      x = norm(conv(x, self.strides, 'shortcut', size=1), 'shortcut_norm')
    return x + y


class VisualFrontEnd(nn.Module):
  """Spatio-temporal convolution, ResNet, and a dense layer over the whole last map."""

  features: int = 512
  widths: Sequence[int] = (64, 128, 256, 512)
  dropout: float = 0.4
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, video, *, train: bool):  # (B, T, H, W, 1) -> (B, T, features)
    batch, frames = video.shape[:2]
    x = GrayVideoConv(self.widths[0], dtype=self.dtype, name='conv')(video)
    x = x.reshape(batch * frames, *x.shape[2:])
    x = BatchNorm(dtype=self.dtype, name='norm')(x, train=train)
    x = halving_max_pool(PReLU(dtype=self.dtype, name='relu')(x))
    self.sow('intermediates', 'stem', x)
    for stage, width in enumerate(self.widths, start=1):
      for block, strides in enumerate((1 if stage == 1 else 2, 1)):
        name = f'stage_{stage}_{block}'
        module = PreNormBlock(width, strides, project=block == 0, dtype=self.dtype, name=name)
        x = module(x, train=train)
      self.sow('intermediates', f'stage_{stage}', x)
    x = BatchNorm(dtype=self.dtype, name='out_norm')(x, train=train)
    x = nn.Dropout(self.dropout)(x, deterministic=not train)
    x = jnp.moveaxis(x, -1, 1).reshape(batch, frames, -1)  # official order: C, H, W
    x = Dense(
      self.features,
      kernel_init=nn.initializers.xavier_uniform(),
      bias_init=nn.initializers.zeros,
      dtype=self.dtype,
      name='out',
    )(x)
    return LayerNorm(dtype=self.dtype, name='out_layer_norm')(x)


class AudioFrontEnd(nn.Module):
  """Four frames of a log-mel spectrogram to one audio feature; in use while training only."""

  features: int = 512
  widths: Sequence[int] = (128, 256)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, mel, *, train: bool):  # (B, M, 4 T, 1) -> (B, T, features)
    x = mel
    for i, width in enumerate(self.widths):
      x = Conv(width, (3, 3), 2, 1, dtype=self.dtype, name=f'conv_{i}')(x)
      x = BatchNorm(dtype=self.dtype, name=f'norm_{i}')(x, train=train)
      x = PReLU(dtype=self.dtype, name=f'relu_{i}')(x)
    x = PreNormBlock(self.widths[-1], dtype=self.dtype, name='block')(x, train=train)
    x = BatchNorm(dtype=self.dtype, name='block_norm')(x, train=train)
    x = nn.Dropout(0.4)(x, deterministic=not train)
    x = jnp.transpose(x, (0, 2, 3, 1)).reshape(x.shape[0], x.shape[2], -1)  # official order: C, M
    x = Dense(self.features, dtype=self.dtype, name='out')(x)
    return LayerNorm(dtype=self.dtype, name='out_layer_norm')(x)


class Memory(nn.Module):
  """Adds to each query what `heads` heads recall of a value memory, addressed by key memories.

  Every head compares a part of the query with `slots` keys by cosine and reads the values of the
  slots that
  fit, sharply: softmax of `radius` times the cosine.
  """

  features: int
  width: int = 512
  heads: int = 8
  slots: int = 112
  radius: float = 16.0
  dropout: float = 0.5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):  # (B, T, features) -> (B, T, features)
    init = nn.initializers.normal(0.5)
    size = self.width // self.heads
    keys = self.param('key', init, (self.heads * self.slots, size))
    values = self.param('value', init, (self.slots, self.width))
    query = Dense(self.width, dtype=self.dtype, name='q_embd')(x)
    query = unit(query.reshape(*x.shape[:-1], self.heads, size))
    keys = unit(keys.reshape(self.heads, self.slots, size))
    address = jax.nn.softmax(self.radius * jnp.einsum('bthd,hsd->bths', query, keys))
    recalled = jnp.einsum('bths,sd->bthd', address, values).reshape(*x.shape[:-1], -1)
    recalled = Dense(self.features, dtype=self.dtype, name='linear')(recalled)
    recalled = LayerNorm(dtype=self.dtype, name='norm2')(recalled)
    if self.is_initializing():
      # The training path recalls audio through these.
      audio = Dense(self.width, name='v_embd')(values)
      if self.features != self.width:
        audio = Dense(self.features, name='v_up')(audio)
      LayerNorm(name='norm3')(audio)
    x = LayerNorm(dtype=self.dtype, name='norm1')(x + recalled)
    return nn.Dropout(self.dropout)(x, deterministic=not train)


class TemporalBlock(nn.Module):
  """Two sets of dilated convolutions over time, one branch per kernel size, and a residual."""

  features: int
  dilation: int
  kernels: Sequence[int] = (3, 5, 7)
  dropout: float = 0.2
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):  # (B, T, D) -> (B, T, features)
    def branch(x, index, taps, name):
      reach = (taps - 1) * self.dilation
      y = Conv(
        self.features // len(self.kernels),
        (taps,),
        padding=reach,
        dilation=self.dilation,
        dtype=self.dtype,
        name=f'{name}_conv',
      )(x)
      # Statistics include the surplus at both ends, which is cut off afterwards.
      y = BatchNorm(dtype=self.dtype, name=f'{name}_norm')(y, train=train)
      y = y[:, reach // 2 : -(reach // 2)]
      return PReLU(dtype=self.dtype, name=f'{name}_relu')(y)

    y = x
    for part in range(2):
      branches = [branch(y, i, k, f'branch_{part}_{i}') for i, k in enumerate(self.kernels)]
      y = nn.Dropout(self.dropout)(jnp.concatenate(branches, axis=-1), deterministic=not train)
    y += Conv(self.features, (1,), dtype=self.dtype, name='downsample')(x)
    return PReLU(dtype=self.dtype, name='relu')(y)


class MVM(nn.Module):
  """Classifies the word spoken in a clip.

  Attributes:
    classes: number of words; label = rank of the word in alphabetical order.
    visual_features, widths: of the visual front end.
    temporal_features, depth: of the temporal convolutions, dilated 1, 2, 4, ...; a memory after
      each but the last.
    heads, slots, radius: of the memories.
    audio_widths, mel_bins: of the unused audio front end.
    visual_dropout, memory_dropout, temporal_dropout: training only.
    dtype: of the computation.
  """

  classes: int = 500
  visual_features: int = 512
  widths: Sequence[int] = (64, 128, 256, 512)
  temporal_features: int = 768
  depth: int = 4
  heads: int = 8
  slots: int = 112
  radius: float = 16.0
  audio_widths: Sequence[int] = (128, 256)
  mel_bins: int = 80
  visual_dropout: float = 0.4
  memory_dropout: float = 0.5
  temporal_dropout: float = 0.2
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, video, *, train: bool):
    """Returns logits (B, classes) of clips.

    Args:
      video: (B, T, 112, 112, 1) gray frames, (value / 255 - 0.4136) / 0.17. Official: T = 29.
      train: dropout and batch statistics.
    """

    def memory(x, features, name):
      module = Memory(
        features,
        self.visual_features,
        self.heads,
        self.slots,
        self.radius,
        self.memory_dropout,
        dtype=self.dtype,
        name=name,
      )
      x = module(x, train=train)
      self.sow('intermediates', f'{name}_out', x)
      return x

    if self.is_initializing():
      silence = jnp.zeros((1, self.mel_bins, 4, 1))
      front_end = AudioFrontEnd(self.visual_features, self.audio_widths, name='audio')
      front_end(silence, train=False)
    front_end = VisualFrontEnd(
      self.visual_features, self.widths, self.visual_dropout, dtype=self.dtype, name='visual'
    )
    x = front_end(video, train=train)
    self.sow('intermediates', 'lips', x)
    x = memory(x, self.visual_features, 'memory')
    for i in range(1, self.depth + 1):
      block = TemporalBlock(
        self.temporal_features,
        2 ** (i - 1),
        dropout=self.temporal_dropout,
        dtype=self.dtype,
        name=f'temporal_{i}',
      )
      x = block(x, train=train)
      self.sow('intermediates', f'temporal_{i}_out', x)
      if i < self.depth:
        x = memory(x, self.temporal_features, f'memory_{i}')
    return Dense(self.classes, dtype=jnp.float32, name='out')(x.mean(1).astype(jnp.float32))


def flipped_too(logits, video):
  """The official test: logits(video) + logits(video flipped left-right), (B, classes)."""
  return logits(video) + logits(jnp.flip(video, axis=3))
