"""ResNets of Caffe's kind, with and without gates: who a face is (VGGFace2), what it feels (FER+).

The stride is on a block's first 1x1 convolution, and the pool rounds up.

Source: VGGFace2's ResNet-50 (Cao et al., 2018) as in cydonia999/VGGFace2-pytorch
`models/resnet.py`; `senet50_ferplus_dag` of Albanie et al. (2018), as in
jisung0920/EyeCon-Server `eyeconModel.py`; gates of Hu et al. (2018).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tfg_jax.features.portrait import VGGFACE_MEAN
from tfg_jax.networks import layers

# Fields of the network that tells emotions; those of VGGFace2's are the defaults.
SENET50 = dict(reduction=16, classes=8, dropout=0.5, mean=VGGFACE_MEAN)


class Bottleneck(nn.Module):
  """1x1, 3x3, 1x1 with batch norms; a gate per channel from the branch's average; shortcut.

  `reduction` is that of the gate's inner width, None leaves the gate out; `dropout` is around the
  gate's two maps.
  """

  features: int
  width: int
  strides: int = 1
  project: bool = False
  reduction: int | None = None
  dropout: float = 0.0
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):  # (B, H, W, C) -> (B, H/strides, W/strides, features)
    def conv(name, x, features, kernel=1, strides=1):
      x = layers.Conv(
        features,
        (kernel, kernel),
        strides,
        kernel // 2,
        use_bias=False,
        dtype=self.dtype,
        name=name,
      )(x)
      norm = layers.BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=f'{name}_bn')
      return norm(x, train=train)

    y = nn.relu(conv('reduce', x, self.width, strides=self.strides))
    y = nn.relu(conv('middle', y, self.width, kernel=3))
    y = conv('increase', y, self.features)
    if self.reduction is not None:
      y *= self._gate(y, train)
    if self.project:
      x = conv('proj', x, self.features, strides=self.strides)
    return nn.relu(y + x)

  def _gate(self, y, train):  # (B, H, W, features) -> (B, 1, 1, features), in [0, 1]
    def drop(x):
      return nn.Dropout(self.dropout)(x, deterministic=not train)

    gate = y.mean((1, 2), keepdims=True)
    gate = layers.Conv(self.features // self.reduction, (1, 1), dtype=self.dtype, name='down')(gate)
    gate = layers.Conv(self.features, (1, 1), dtype=self.dtype, name='up')(nn.relu(drop(gate)))
    gate = jax.nn.sigmoid(drop(gate))
    self.sow('intermediates', 'gate', gate)
    return gate


class ResNet(nn.Module):
  """Classes of (B, S, S, 3) RGB faces; the official S is 224.

  Attributes:
    stem: width of the first convolution, which with its pool divides the size by 4.
    widths: inner widths of the stages; outside they are four times as wide.
    blocks: per stage; every stage but the first halves the map.
    reduction: from a block's width to its gate's; None: no gates.
    classes: people, or emotions.
    dropout: in the gate of the very last block, as officially.
    mean: taken from the image first, RGB; of faces from 0 to 255, unless the caller has done so.
    axis_name: mapped axis over which batch statistics are averaged, if any.
    dtype: of the computation.
  """

  stem: int = 64
  widths: Sequence[int] = (64, 128, 256, 512)
  blocks: Sequence[int] = (3, 4, 6, 3)
  reduction: int | None = None
  classes: int = 8631
  dropout: float = 0.0
  mean: Sequence[float] = (0.0, 0.0, 0.0)
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @classmethod
  def plain(cls, variables: Mapping) -> 'ResNet':
    """The network without gates that has variables of these shapes."""
    params = variables['params']

    def width(layer):
      return layer['kernel'].shape[-1]

    blocks = []
    while f'block_{len(blocks) + 2}_1' in params:
      blocks.append(sum(name.startswith(f'block_{len(blocks) + 2}_') for name in params))
    return cls(
      stem=width(params['conv1']),
      widths=tuple(width(params[f'block_{i + 2}_1']['reduce']) for i in range(len(blocks))),
      blocks=tuple(blocks),
      classes=width(params['classifier']),
    )

  @nn.compact
  def __call__(self, image, *, train: bool):
    """Returns (B, classes) logits, float32."""
    shared = dict(axis_name=self.axis_name, dtype=self.dtype)
    x = image.astype(jnp.float32) - jnp.array(self.mean)
    x = layers.Conv(self.stem, (7, 7), 2, 3, use_bias=False, dtype=self.dtype, name='conv1')(x)
    x = nn.relu(layers.BatchNorm(**shared, name='conv1_bn')(x, train=train))
    # PyTorch's ceil_mode: an even map is padded below and on the right only.
    x = nn.max_pool(x, (3, 3), (2, 2), [(0, (size + 1) % 2) for size in x.shape[1:3]])
    self.sow('intermediates', 'pool1', x)
    last = (len(self.blocks), self.blocks[-1])
    for stage, (width, number) in enumerate(zip(self.widths, self.blocks, strict=True), start=1):
      for i in range(1, number + 1):
        x = Bottleneck(
          4 * width,
          width,
          strides=2 if i == 1 and stage > 1 else 1,
          project=i == 1,
          reduction=self.reduction,
          dropout=self.dropout if (stage, i) == last else 0.0,
          **shared,
          name=f'block_{stage + 1}_{i}',  # Caffe's name of the first stage is conv2
        )(x, train=train)
      self.sow('intermediates', f'stage_{stage + 1}', x)
    x = x.mean((1, 2), keepdims=True)
    self.sow('intermediates', 'pooled', x)
    logits = layers.Conv(self.classes, (1, 1), dtype=self.dtype, name='classifier')(x)
    return logits[:, 0, 0].astype(jnp.float32)
