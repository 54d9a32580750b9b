"""FaceNet: Inception-ResNet v1 as trained on VGGFace2, SF2F's judge of likeness.

Source: timesler/facenet-pytorch `InceptionResnetV1` as in BAI-Yeqi/SF2F_PyTorch@e346b68
`models/inception_resnet_v1.py`.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from tfg_jax.features.portrait import resize_corners
from tfg_jax.networks import layers

_EPSILON = 1e-3  # of every batch norm here


class FaceFeatures(NamedTuple):
  """What FaceNet makes of faces, float32.

  maps: behind the three groups of residual blocks, (B, h, w, C) each, not negative.
  embedding: (B, features) of unit length.
  logits: (B, classes), of the people it was trained on.
  """

  maps: tuple[jax.Array, jax.Array, jax.Array]
  embedding: jax.Array
  logits: jax.Array


class _Block(nn.Module):
  """A branch of convolutions: (features, kernel, stride, padding) each, with norm and ReLU."""

  convolutions: Sequence[tuple]
  axis_name: str | None
  dtype: Any

  @nn.compact
  def __call__(self, x, *, train: bool):
    for i, (features, kernel, stride, padding) in enumerate(self.convolutions):
      x = layers.Conv(
        features, kernel, stride, padding, use_bias=False, dtype=self.dtype, name=f'conv_{i}'
      )(x)
      x = layers.BatchNorm(_EPSILON, axis_name=self.axis_name, dtype=self.dtype, name=f'norm_{i}')(
        x, train=train
      )
      x = nn.relu(x)
    return x


class _Residual(nn.Module):
  """x + scale * (a 1x1 convolution of the branches side by side), then ReLU."""

  branches: Sequence[Sequence[tuple]]
  scale: float
  axis_name: str | None
  dtype: Any
  activate: bool = True

  @nn.compact
  def __call__(self, x, *, train: bool):
    joined = [
      _Block(branch, self.axis_name, self.dtype, name=f'branch_{i}')(x, train=train)
      for i, branch in enumerate(self.branches)
    ]
    y = layers.Conv(x.shape[-1], (1, 1), dtype=self.dtype, name='out')(jnp.concatenate(joined, -1))
    x = x + self.scale * y
    return nn.relu(x) if self.activate else x


class FaceNet(nn.Module):
  """Embeds faces.

  Attributes:
    size: what faces are scaled to, pixels, without regard to their proportions.
    shrink: divides all widths but the embedding's; 1 as published.
    repeats: residual blocks in each of the three groups.
    features: D, of the embedding.
    classes: people of the training set.
    dropout: rate before the embedding, in training.
  """

  size: int = 140
  shrink: int = 1
  repeats: Sequence[int] = (5, 10, 5)
  features: int = 512
  classes: int = 8631
  dropout: float = 0.6
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, faces, *, train: bool) -> FaceFeatures:
    """Takes (B, h, w, 3) RGB faces, (pixel - 127.5) / 128, of any proportions."""

    def conv(features, kernel, stride=1, padding=0):
      kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
      return features // self.shrink, kernel, stride, padding

    def block(name, x, *convolutions):
      return _Block(convolutions, self.axis_name, self.dtype, name=name)(x, train=train)

    def residuals(name, x, count, scale, *branches):
      for i in range(count):
        x = _Residual(branches, scale, self.axis_name, self.dtype, name=f'{name}_{i}')(
          x, train=train
        )
      return x

    pool = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))
    x = resize_corners(faces.astype(jnp.float32), (self.size, self.size))
    self.sow('intermediates', 'resized', x)
    x = block('conv2d_1a', x, conv(32, 3, 2))
    x = block('conv2d_2a', x, conv(32, 3))
    x = block('conv2d_2b', x, conv(64, 3, 1, 1))
    x = block('conv2d_3b', pool(x), conv(80, 1))
    x = block('conv2d_4a', x, conv(192, 3))
    x = block('conv2d_4b', x, conv(256, 3, 2))

    first = residuals(
      'repeat_1',
      x,
      self.repeats[0],
      0.17,
      (conv(32, 1),),
      (conv(32, 1), conv(32, 3, 1, 1)),
      (conv(32, 1), conv(32, 3, 1, 1), conv(32, 3, 1, 1)),
    )
    x = jnp.concatenate(
      [
        block('mixed_6a_0', first, conv(384, 3, 2)),
        block('mixed_6a_1', first, conv(192, 1), conv(192, 3, 1, 1), conv(256, 3, 2)),
        pool(first),
      ],
      axis=-1,
    )
    self.sow('intermediates', 'mixed_6a', x)
    second = residuals(
      'repeat_2',
      x,
      self.repeats[1],
      0.10,
      (conv(128, 1),),
      (conv(128, 1), conv(128, (1, 7), 1, (0, 3)), conv(128, (7, 1), 1, (3, 0))),
    )
    x = jnp.concatenate(
      [
        block('mixed_7a_0', second, conv(256, 1), conv(384, 3, 2)),
        block('mixed_7a_1', second, conv(256, 1), conv(256, 3, 2)),
        block('mixed_7a_2', second, conv(256, 1), conv(256, 3, 1, 1), conv(256, 3, 2)),
        pool(second),
      ],
      axis=-1,
    )
    self.sow('intermediates', 'mixed_7a', x)
    last = (
      (conv(192, 1),),
      (conv(192, 1), conv(192, (1, 3), 1, (0, 1)), conv(192, (3, 1), 1, (1, 0))),
    )
    third = residuals('repeat_3', x, self.repeats[2], 0.20, *last)
    x = _Residual(last, 1.0, self.axis_name, self.dtype, activate=False, name='block8')(
      third, train=train
    )

    pooled = x.astype(jnp.float32).mean((1, 2))
    self.sow('intermediates', 'pooled', pooled)
    pooled = nn.Dropout(self.dropout, deterministic=not train)(pooled)
    y = layers.Dense(self.features, use_bias=False, dtype=self.dtype, name='last_linear')(pooled)
    y = layers.BatchNorm(_EPSILON, axis_name=self.axis_name, name='last_bn')(y, train=train)
    logits = layers.Dense(self.classes, dtype=self.dtype, name='logits')(y)
    maps = tuple(x.astype(jnp.float32) for x in (first, second, third))
    return FaceFeatures(maps, layers.unit(y), logits.astype(jnp.float32))
