"""Speech2Video: student heads, the frame decoder with its inflated identity maps, three judges.

Source: Speech2Video (Interspeech 2021), 2.1 and 2.2. The paper gives the wiring and no sizes; the
defaults below are ours, chosen so that a 4096-d identity and the maps that VGG-Face has of a 128 px
face fit each other: 4096 = 256 * 4 * 4, and three doublings from 4 pixels meet relu5_3 (8 px),
relu4_3 (16 px) and relu3_3 (32 px). For a face of S pixels everything starts at S / 32.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from tfg_jax.networks import layers

_DOUBLINGS = 5  # from S / 32 to S


class Student(nn.Module):
  """Reads one attribute of the speaker from the last context of the speech."""

  features: int
  hidden: int = 1024
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, context):  # (B, D) -> (B, features), float32
    x = layers.Dense(self.hidden, dtype=self.dtype, name='hidden')(context)
    x = layers.Dense(self.features, dtype=self.dtype, name='out')(nn.leaky_relu(x, 0.2))
    return x.astype(jnp.float32)


class FrameDecoder(nn.Module):
  """F: identity once per clip to feature maps, then context and emotion of a frame to its picture.

  Attributes:
    image_size: S, a multiple of 32.
    map_widths: channels of the teacher's maps, from S/16 up to S/4: relu5_3, relu4_3, relu3_3.
    identity_widths: of the identity branch at the same sizes.
    widths: of the frame branch from S/32 up to S/2, then the last one at S.
    axis_name: mapped axis over which batch statistics are averaged, if any.
    dtype: of the computation.
  """

  image_size: int = 128
  map_widths: Sequence[int] = (512, 512, 256)
  identity_widths: Sequence[int] = (512, 512, 256)
  widths: Sequence[int] = (512, 512, 512, 256, 128, 64)
  axis_name: str | None = None
  dtype: Any = jnp.float32

  def setup(self):
    shared = dict(axis_name=self.axis_name, dtype=self.dtype)

    def doubling(features):
      return layers.ConvTransposeBlock(features, (4, 4), 2, 1, 0, **shared)

    self.identity = [doubling(features) for features in self.identity_widths]
    self.align = [layers.Conv(features, (1, 1), dtype=self.dtype) for features in self.map_widths]
    self.stem = layers.ConvTransposeBlock(
      self.widths[0], (self._start, self._start), 1, 0, 0, **shared
    )
    self.up = [doubling(features) for features in self.widths[1:]]
    self.mix = [
      [layers.ConvBlock(features, (1, 1), 1, 0, **shared) for _ in range(2)]
      for features in self.widths[1:]
    ]
    self.out = layers.Conv(3, (3, 3), padding=1, dtype=self.dtype)

  @property
  def _start(self):
    return self.image_size // 2**_DOUBLINGS

  def inflate(self, identity, *, train: bool):
    """Returns the maps (B, S/16, S/16, C), (B, S/8, ...), (B, S/4, ...) of (B, D) identities.

    They stand for the teacher's maps, which come from a ReLU too, over a fixed scale.
    """
    start = self._start
    # As PyTorch would view the vector: (B, C, h, w).
    x = jnp.moveaxis(identity.reshape(len(identity), -1, start, start), 1, -1)
    maps = []
    for doubling, align in zip(self.identity, self.align, strict=True):
      x = doubling(x, train=train)
      maps.append(nn.relu(align(x)).astype(jnp.float32))
    return tuple(maps)

  def draw(self, context, emotion, maps, *, train: bool):
    """Draws frames.

    Args:
      context: (N, D), the speech up to each frame.
      emotion: (N, E).
      maps: from `inflate`, a row for each frame.
      train: whether batch statistics are the batch's own.

    Returns:
      (N, S, S, 3) RGB, -1 black and 1 white, float32. Nothing keeps them in between: under a tanh
      pixels went black for good here and there, as no loss reaches a saturated one.
    """
    x = jnp.concatenate([context, emotion], axis=-1)[:, None, None]
    x = self.stem(x, train=train)
    for level, (up, mix) in enumerate(zip(self.up, self.mix, strict=True)):
      if 0 < level <= len(maps):
        x = jnp.concatenate([x, maps[level - 1].astype(x.dtype)], axis=-1)
      x = up(x, train=train)
      for conv in mix:
        x = conv(x, train=train)
    return self.out(x).astype(jnp.float32)

  def __call__(self, context, emotion, identity, *, train: bool):
    """Inflates and draws, one frame (B, S, S, 3) per identity."""
    return self.draw(context, emotion, self.inflate(identity, train=train), train=train)


def _leaky_conv(features, kernel, strides, padding, dtype):
  conv = layers.Conv(features, (kernel, kernel), strides, padding, dtype=dtype)
  return nn.Sequential([conv, lambda x: nn.leaky_relu(x, 0.2)])


class IdentityDiscriminator(nn.Module):
  """D_ID: whether maps of a face are the teacher's; no norms, which would mix real and drawn."""

  widths: Sequence[int] = (256, 512, 512)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, maps):
    """Takes maps at S/16, S/8 and S/4; returns (B, S/16, S/16, 1) scores, float32."""
    small, middle, large = (x.astype(self.dtype) for x in maps)
    first, second, third = self.widths
    x = _leaky_conv(first, 4, 2, 1, self.dtype)(large)
    x = _leaky_conv(second, 4, 2, 1, self.dtype)(jnp.concatenate([x, middle], axis=-1))
    x = _leaky_conv(third, 3, 1, 1, self.dtype)(jnp.concatenate([x, small], axis=-1))
    return layers.Conv(1, (3, 3), padding=1, dtype=self.dtype)(x).astype(jnp.float32)


class FrameDiscriminator(nn.Module):
  """D_fr: whether a frame is real."""

  widths: Sequence[int] = (64, 128, 256, 512)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image):
    """Takes (N, S, S, 3) in [-1, 1]; returns (N, S/16, S/16, 1) scores, float32."""
    x = image.astype(self.dtype)
    for width in self.widths:
      x = _leaky_conv(width, 4, 2, 1, self.dtype)(x)
    return layers.Conv(1, (3, 3), padding=1, dtype=self.dtype)(x).astype(jnp.float32)


class SyncDiscriminator(nn.Module):
  """D_sync: whether a frame belongs to the speech up to it."""

  widths: Sequence[int] = (64, 128, 256, 512, 512)
  hidden: int = 256
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, context, image):
    """Takes (N, D) and (N, S, S, 3) in [-1, 1]; returns (N, 1) scores, float32."""
    x = image.astype(self.dtype)
    for width in self.widths:
      x = _leaky_conv(width, 4, 2, 1, self.dtype)(x)
    face = layers.Dense(self.hidden, dtype=self.dtype)(x.reshape(len(x), -1))
    speech = layers.Dense(self.hidden, dtype=self.dtype)(context)
    speech = layers.Dense(self.hidden, dtype=self.dtype)(nn.leaky_relu(speech, 0.2))
    both = layers.Dense(self.hidden, dtype=self.dtype)(jnp.concatenate([face, speech], axis=-1))
    return layers.Dense(1, dtype=self.dtype)(nn.leaky_relu(both, 0.2)).astype(jnp.float32)


class Observer(nn.Module):
  """Says who a face is, how it feels, and which of some traits it has: for evaluation only."""

  identities: int
  emotions: int
  traits: int = 0
  widths: Sequence[int] = (32, 64, 128, 128)
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """Takes (N, S, S, 3) in [-1, 1]; returns float32 logits by what they are about: 'identity' and
    'emotion', of classes, and where there are any 'traits', of a yes each."""
    x = image.astype(self.dtype)
    for i, width in enumerate(self.widths):
      x = layers.ConvBlock(
        width,
        strides=2,
        axis_name=self.axis_name,
        dtype=self.dtype,
        name=f'conv_{i}',
      )(x, train=train)
    x = x.reshape(len(x), -1)  # where a feature is tells brows from mouths
    heads = {'identity': self.identities, 'emotion': self.emotions, 'traits': self.traits}
    return {
      name: layers.Dense(number, dtype=self.dtype, name=name)(x).astype(jnp.float32)
      for name, number in heads.items()
      if number
    }
