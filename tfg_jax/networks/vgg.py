"""VGG-Face: the 16-layer network of Parkhi et al. (BMVC 2015) that knows 2622 celebrities.

Source: ProgramComputer/VGGFace-pytorch `vgg_face_dag.py`, the import of the MatConvNet model.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from tfg_jax.networks import layers

MEAN = (129.186279296875, 104.76238250732422, 93.59396362304688)  # RGB
_MAPS = (3, 4, 5)  # stages whose last ReLU `maps` returns


class VGGFace(nn.Module):
  """Names a face, describes it, or gives its feature maps.

  Images are (B, S, S, 3) RGB, 0 to 255; S is a multiple of 2 to the number of stages. The official
  S is 224; `maps` takes any.

  Attributes:
    widths, depths: of the convolutions, per stage; a max pool halves the map behind each stage.
    hidden: width of fc6 and fc7.
    classes: faces that it tells apart.
    dropout: behind fc6 and fc7, in training.
    dtype: of the computation.
  """

  widths: Sequence[int] = (64, 128, 256, 512, 512)
  depths: Sequence[int] = (2, 2, 3, 3, 3)
  hidden: int = 4096
  classes: int = 2622
  dropout: float = 0.5
  dtype: Any = jnp.float32

  def setup(self):
    for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True), start=1):
      for i in range(1, depth + 1):
        # For training from scratch without norms: He's, and the input is not 1 but about 64.
        init = nn.initializers.variance_scaling(
          2 / 64**2 if stage == i == 1 else 2.0, 'fan_in', 'normal'
        )
        conv = layers.Conv(width, (3, 3), padding=1, kernel_init=init, dtype=self.dtype)
        setattr(self, f'conv{stage}_{i}', conv)
    init = nn.initializers.he_normal()
    self.fc6 = layers.Dense(self.hidden, kernel_init=init, dtype=self.dtype)
    self.fc7 = layers.Dense(self.hidden, kernel_init=init, dtype=self.dtype)
    self.fc8 = layers.Dense(self.classes, dtype=self.dtype)
    self.drop = nn.Dropout(self.dropout)

  def _convolve(self, image):
    """The map behind the last pool, and the last ReLU of every stage."""
    x = image.astype(jnp.float32) - jnp.array(MEAN)
    last = {}
    for stage, depth in enumerate(self.depths, start=1):
      for i in range(1, depth + 1):
        x = nn.relu(getattr(self, f'conv{stage}_{i}')(x))
      last[stage] = x
      self.sow('intermediates', f'relu{stage}_{depth}', x)
      x = nn.max_pool(x, (2, 2), (2, 2))
    return x, last

  def maps(self, image):
    """Returns relu3_3 (B, S/4, S/4, C), relu4_3 (S/8) and relu5_3 (S/16), float32."""
    _, last = self._convolve(image)
    return tuple(last[stage].astype(jnp.float32) for stage in _MAPS)

  def describe(self, image, *, train: bool):
    """Returns (B, hidden): fc7 behind its ReLU, the usual descriptor of a face, float32."""
    x, _ = self._convolve(image)
    self.sow('intermediates', 'pool5', x)
    x = jnp.moveaxis(x, -1, 1).reshape(len(x), -1)  # fc6 was trained on (C, H, W)
    for name, layer in (('fc6', self.fc6), ('fc7', self.fc7)):
      x = layer(x)
      self.sow('intermediates', f'{name}_out', x)
      x = self.drop(nn.relu(x), deterministic=not train)
    return x.astype(jnp.float32)

  def classify(self, description):
    """Returns (B, classes) logits from what `describe` returned, float32."""
    return self.fc8(description).astype(jnp.float32)

  def __call__(self, image, *, train: bool):
    """Returns (B, classes) logits."""
    return self.classify(self.describe(image, train=train))
