"""DAVS (Zhou et al., AAAI 2019): who speaks and what is said, in two spaces of 256 numbers each.

Images are RGB in [0, 1]; a video is (B, T, H, W, 3). Speech is windows of 20 x 12 cepstra
(`features.audio.mfcc_windows`). Discriminators and classifiers return logits. The layers follow
the released code, Hangz-nju-cuhk/Talking-Face-Generation-DAVS `network/`, whose module names the
parts keep where they have any.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.nn.initializers import Initializer, normal, ones, variance_scaling, zeros

from tfg_jax.networks.layers import BatchNorm, Conv, ConvTranspose, Dense

_SLOPE = 0.2  # of every leaky ReLU
# Kernel, strides and padding of the convolutions over a window of 20 x 12 cepstra.
_MFCC_TRUNK = (((3, 3), (3, 2), (1, 2)), ((3, 3), 2, 1), ((3, 3), 1, 0), ((2, 2), 1, 0))
_NO_VARIATION = 1e-12  # under the root of a mean square
_ALMOST_ZERO = 1e-4  # the first words of a fresh word classifier are all alike
# What fresh lips say. All of it goes through one map behind a ReLU, and while it is noise, losses
# are best served by closing that map, for good: 500 steps of puppets taught nothing. So the map
# begins open, and with next to nothing after it that losses could mind.
_BARELY = 1e-3


def leaky_relu(x):
  """Slope 0.2 below 0; (...) of any shape."""
  return nn.leaky_relu(x, _SLOPE)


def upsample(x, size: tuple[int, int], *, align_corners: bool = True):
  """Bilinear (B, h, w, C) to (B, *size, C).

  With `align_corners` the outermost pixels stay where they are: row i of n is read at
  i (m - 1) / (n - 1) of m, the only way that PyTorch 0.2 knew. Without, as in later ones, pixels
  are areas. As two matrix products, which also have a quick gradient.
  """

  def weights(before, after):
    place = np.arange(after)
    if align_corners:
      place = place * ((before - 1) / max(after - 1, 1))
    else:
      place = np.clip((place + 0.5) * (before / after) - 0.5, 0, before - 1)
    hats = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(before)))
    return jnp.asarray(hats, x.dtype)

  rows, columns = (weights(*pair) for pair in zip(x.shape[1:3], size, strict=True))
  return jnp.einsum('yh,bhwc,xw->byxc', rows, x, columns, precision=lax.Precision.HIGHEST)


def max_pool(x):
  """Maximum of 2 x 2 pixels of (B, H, W, C); an odd last row or column is left out."""
  return nn.max_pool(x, (2, 2), (2, 2))


class ConvNorm(nn.Module):
  """Conv, BatchNorm."""

  features: int
  kernel_size: Sequence[int] = (3, 3)
  strides: int | Sequence[int] = 1
  padding: int | Sequence[int] = 1
  use_bias: bool = True
  kernel_init: Initializer | None = None
  passes: int = 1  # of the norm
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):  # (B, H, W, C)
    x = Conv(
      self.features,
      self.kernel_size,
      self.strides,
      self.padding,
      use_bias=self.use_bias,
      kernel_init=self.kernel_init,
      dtype=self.dtype,
      name='conv',
    )(x)
    self.sow('intermediates', 'convolved', x)
    shared = dict(passes=self.passes, axis_name=self.axis_name, dtype=self.dtype)
    return BatchNorm(name='norm', **shared)(x, train=train)


# --------------------------------------------------------------------------------------------------
# Who: the identity encoder E_p
# --------------------------------------------------------------------------------------------------


class Identity(NamedTuple):
  """What one face says of its person, from the whole to the detailed (for a 256 px face)."""

  vector: jax.Array  # (N, 256), f_p
  net4: jax.Array  # (N, 8, 8, 256)
  net3: jax.Array  # (N, 16, 16, 320)
  net2: jax.Array  # (N, 32, 32, 160), which the decoder draws on
  net1: jax.Array  # (N, 64, 64, 64), which must not tell the word


class IdentityEncoder(nn.Module):
  """A face to its `Identity`: VGG-M with the larger of two convolutions in place of each ReLU.

  `blocks` counts the blocks between two poolings, `widths` and `deviations` (of fresh kernels) are
  per block. Small faces work too: maps are 1/4 to 1/32 of the image.
  """

  blocks: Sequence[int] = (1, 4, 6, 4, 2)
  widths: Sequence[int] = (
    *(32, 32, 32, 64, 64),
    *(96, 96, 128, 128, 160, 160),
    *(320, 320, 320, 320, 256, 256),
  )
  kernels: Sequence[int] = (7, 3, 3, 3, 5)  # side, per group of blocks
  deviations: Sequence[float] = (
    *(0.02525, 0.05893, 0.05893, 0.04167, 0.04167),
    *(0.03402, 0.03402, 0.02946, 0.02946, 0.02635, 0.02635),
    *([0.01863] * 4),
    *(0.02083, 0.02083),
  )
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, face, *, train: bool) -> Identity:  # (N, H, W, 3)
    x = face.astype(self.dtype)
    maps = []
    blocks = iter(zip(self.widths, self.deviations, strict=True))
    for group, (count, side) in enumerate(zip(self.blocks, self.kernels, strict=True)):
      for position in range(count):
        width, deviation = next(blocks)
        # The official numbers: 1, then 11, 12, ..., 21, ...
        number = 10 * group + position + 1
        branches = [
          ConvNorm(
            width,
            (side, side),
            strides=1 if group else 2,
            padding=side // 2,
            kernel_init=normal(deviation),
            axis_name=self.axis_name,
            dtype=self.dtype,
            name=f'block_{number}_{branch}',
          )(x, train=train)
          for branch in 'ab'
        ]
        x = jnp.maximum(*branches)
        self.sow('intermediates', f'block_{number}', x)
      maps.append(x)
      if group < len(self.blocks) - 1:
        x = max_pool(x)
    return Identity(x.mean((1, 2)), *maps[:0:-1])


# --------------------------------------------------------------------------------------------------
# What: the word encoders E_w of video and of audio
# --------------------------------------------------------------------------------------------------


class PreActivationBlock(nn.Module):
  """Three convolutions of `features` channels together (1/2, 1/4, 1/4), norm and ReLU before each;
  the input, mapped where it is of another width, is added."""

  features: int
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):  # (N, H, W, C)
    def norm(x, name):
      norm = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=name)
      return nn.relu(norm(x, train=train))

    parts, y = [], x
    for i, share in enumerate((2, 4, 4), start=1):
      y = Conv(
        self.features // share,
        (3, 3),
        padding=1,
        use_bias=False,
        dtype=self.dtype,
        name=f'conv{i}',
      )(norm(y, f'bn{i}'))
      parts.append(y)
    if x.shape[-1] != self.features:
      x = norm(x, 'shortcut_norm')
      x = Conv(self.features, (1, 1), use_bias=False, dtype=self.dtype, name='shortcut')(x)
    return jnp.concatenate(parts, axis=-1) + x


class Hourglass(nn.Module):
  """`depth` times down and up again, with a branch across at every size (Newell et al., 2016)."""

  depth: int
  features: int
  dropout: float = 0.5
  align_corners: bool = True
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):  # (N, H, W, features)
    def block(x, name):
      block = PreActivationBlock(
        self.features, axis_name=self.axis_name, dtype=self.dtype, name=name
      )
      return block(x, train=train)

    across = {}
    for level in range(self.depth, 0, -1):
      across[level] = nn.Dropout(self.dropout)(block(x, f'b1_{level}'), deterministic=not train)
      x = block(max_pool(x), f'b2_{level}')
    x = block(x, 'b2_plus_1')
    for level in range(1, self.depth + 1):
      x = block(x, f'b3_{level}')
      x = across[level] + upsample(x, across[level].shape[1:3], align_corners=self.align_corners)
    return x


class LipEncoder(nn.Module):
  """E_w of video: faces to what their lips say, through heat maps of a landmark network (FAN).

  In training the hourglass drops half of what goes across; it needs the PRNG 'dropout'.
  """

  stem: int = 64
  widths: Sequence[int] = (128, 128, 256)  # the last one is that of the hourglass
  depth: int = 4
  maps: int = 68
  embedding: int = 256
  dropout: float = 0.5
  align_corners: bool = True
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, video, *, train: bool):  # (B, T, H, W, 3) -> (B, T, embedding)
    shared = dict(axis_name=self.axis_name, dtype=self.dtype)
    x = video.reshape(-1, *video.shape[2:]).astype(self.dtype)
    x = nn.relu(ConvNorm(self.stem, (7, 7), 2, 3, name='stem', **shared)(x, train=train))
    for i, width in enumerate(self.widths, start=2):
      x = PreActivationBlock(width, name=f'conv{i}', **shared)(x, train=train)
      if i == 2:
        x = max_pool(x)
    self.sow('intermediates', 'before_hourglass', x)
    width = self.widths[-1]
    hourglass = Hourglass(
      self.depth,
      width,
      dropout=self.dropout,
      align_corners=self.align_corners,
      name='hourglass',
      **shared,
    )
    x = hourglass(x, train=train)
    self.sow('intermediates', 'out_hourglass', x)
    x = PreActivationBlock(width, name='top', **shared)(x, train=train)
    x = nn.relu(ConvNorm(width, (1, 1), 1, 0, name='last', **shared)(x, train=train))
    x = Conv(self.maps, (1, 1), dtype=self.dtype, name='heat_maps')(x)
    self.sow('intermediates', 'out_heat_maps', x)
    x = nn.relu(BatchNorm(name='map_norm', **shared)(x, train=train))
    folded = Conv(1, (3, 3), 2, 1, bias_init=ones, dtype=self.dtype, name='fold')(x)
    self.sow('intermediates', 'folded', folded)
    flat = folded.reshape(len(x), -1)
    # Of the landmark network's own end only the weights are left; nothing uses their output.
    Conv(width, (5, 5), dtype=self.dtype, name='unused_conv5')(jnp.zeros((1, 5, 5, width)))
    Conv(1, (3, 3), dtype=self.dtype, name='unused_conv6')(jnp.zeros((1, 3, 3, self.maps)))
    Dense(self.embedding, dtype=self.dtype, name='unused_fc')(jnp.zeros_like(flat[:1]))
    init = normal(_BARELY)
    words = Dense(self.embedding, kernel_init=init, dtype=self.dtype, name='fc')(nn.relu(flat))
    return words.astype(jnp.float32).reshape(*video.shape[:2], -1)


class MfccEncoder(nn.Module):
  """E_w of audio: windows of speech to what they say, by two branches.

  'square' looks at neighbouring coefficients, 'tall' at all twelve at once.
  """

  square: Sequence[int] = (64, 128, 256, 512)
  tall: Sequence[int] = (64, 256, 512)
  embedding: int = 256
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, mfcc, *, train: bool):  # (B, T, 20, 12) -> (B, T, embedding)
    shared = dict(use_bias=False, dtype=self.dtype)
    window = mfcc.reshape(-1, *mfcc.shape[2:], 1).astype(self.dtype)

    x = window
    for i, (width, geometry) in enumerate(zip(self.square[:-1], _MFCC_TRUNK, strict=False)):
      name = f'square_{i + 1}'
      x = ConvNorm(width, *geometry, axis_name=self.axis_name, name=name, **shared)(x, train=train)
      x = leaky_relu(x)
    square = Conv(self.square[-1], *_MFCC_TRUNK[-1], name='square_4', **shared)(x)
    # Declared by the official network and never called.
    BatchNorm(name='unused_norm')(jnp.zeros((1, self.square[-1])), train=False)

    x = window
    geometries = (((3, mfcc.shape[-1]), 1, 0), ((3, 1), 1, (1, 0)))
    for i, (width, geometry) in enumerate(zip(self.tall[:-1], geometries, strict=True)):
      name = f'tall_{i + 1}'
      x = ConvNorm(width, *geometry, axis_name=self.axis_name, name=name, **shared)(x, train=train)
      x = leaky_relu(x)[:, :: 3 - i]  # every third moment, then every second of those
    tall = Conv(self.tall[-1], (3, 1), name='tall_3', **shared)(x)

    both = jnp.concatenate([square, tall], axis=-1)[:, 0, 0]
    self.sow('intermediates', 'both', both)
    words = Dense(self.embedding, dtype=self.dtype, name='fc')(both)
    return words.astype(jnp.float32).reshape(*mfcc.shape[:2], -1)


# --------------------------------------------------------------------------------------------------
# The decoder G
# --------------------------------------------------------------------------------------------------


class Decoder(nn.Module):
  """G: a person and a moment of speech to a face, from 4 px on doubled by every stage.

  `widths` and `convs` are per stage: channels and number of convolutions. The person's map `net2`
  joins where the picture has its size. In training every moment is a pass with statistics of its
  own, as in the released code.
  """

  root: int = 512
  widths: Sequence[int] = (512, 512, 256, 256, 128, 64)
  convs: Sequence[int] = (2, 3, 4, 4, 3, 2)
  head: int = 32
  align_corners: bool = True
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @property
  def image_size(self) -> int:
    """Side of the face, pixels."""
    return 4 * 2 ** len(self.widths)

  @nn.compact
  def __call__(self, identity, net2, words, *, train: bool):
    """(N, 256), (N, h, w, C) and (N, M, 256) to faces (N, M, S, S, 3) in [0, 1], float32."""
    moments = words.shape[1]
    shared = dict(passes=moments, axis_name=self.axis_name, dtype=self.dtype)

    def at_each_moment(x):  # (N, ...) -> (N * M, ...)
      x = jnp.broadcast_to(x[:, None], (len(x), moments, *x.shape[1:]))
      return x.reshape(-1, *x.shape[2:]).astype(self.dtype)

    identity, net2 = at_each_moment(identity), at_each_moment(net2)
    words = words.reshape(-1, words.shape[-1]).astype(self.dtype)
    x = jnp.concatenate([identity, words], axis=-1)[:, None, None]
    x = ConvTranspose(self.root, (4, 4), dtype=self.dtype, name='root')(x)
    self.sow('intermediates', 'out_root', x)
    x = nn.relu(BatchNorm(name='root_norm', **shared)(x, train=train))
    for stage, (width, convs) in enumerate(zip(self.widths, self.convs, strict=True), start=1):
      if x.shape[1:3] == net2.shape[1:3]:
        x = jnp.concatenate([net2, x], axis=-1)
      for i in range(convs):
        init = variance_scaling(2.0, 'fan_out', 'normal')
        conv = ConvNorm(width, kernel_init=init, name=f'stage_{stage}_{i}', **shared)
        x = nn.relu(conv(x, train=train))
      self.sow('intermediates', f'stage_{stage}', x)
      height, breadth = x.shape[1:3]
      x = upsample(x, (2 * height, 2 * breadth), align_corners=self.align_corners)
    x = ConvTranspose(self.head, (3, 3), padding=1, dtype=self.dtype, name='head')(x)
    x = nn.relu(BatchNorm(name='head_norm', **shared)(x, train=train))
    x = ConvTranspose(3, (3, 3), padding=1, dtype=self.dtype, name='image')(x)
    self.sow('intermediates', 'before_tanh', x)
    faces = (jnp.tanh(x.astype(jnp.float32)) + 1) / 2
    return faces.reshape(-1, moments, *faces.shape[1:])


# --------------------------------------------------------------------------------------------------
# Discriminators and classifiers
# --------------------------------------------------------------------------------------------------


class Discriminator(nn.Module):
  """D: frames as channels and their speech to logits of patches and of picture and sound together.

  With one frame it is the image discriminator, with six D_seq. `mouth` is the square (top, bottom,
  left, right) of the last map (31 x 31 for 256 px) that is compared with the sound.
  """

  widths: Sequence[int] = (64, 128, 256, 512)
  speech: Sequence[int] = (64, 128, 256, 256)
  hidden: int = 512
  mouth: Sequence[int] = (19, 28, 11, 20)
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, frames, mfcc, *, train: bool):
    """(N, T, H, W, 3) in [0, 1] and (N, T, 20, 12) to logits (N, h, w) and (N,), float32."""
    init = normal(0.02)
    shared = dict(kernel_init=init, dtype=self.dtype)

    def norm_conv(features, *geometry, name):
      return ConvNorm(
        features, *geometry, use_bias=False, axis_name=self.axis_name, name=name, **shared
      )

    # Channel 3 t + c holds colour c of frame t.
    x = jnp.moveaxis(frames, 1, 3).reshape(len(frames), *frames.shape[2:4], -1).astype(self.dtype)
    first, *later = self.widths
    x = leaky_relu(Conv(first, (4, 4), 2, 1, name='conv_1', **shared)(x))
    for i, width in enumerate(later, start=2):
      strides = 1 if i == len(self.widths) else 2
      x = leaky_relu(norm_conv(width, (4, 4), strides, 1, name=f'conv_{i}')(x, train=train))
    patches = Conv(1, (4, 4), 1, 1, name='patch', **shared)(x)[..., 0]

    top, bottom, left, right = self.mouth
    mouth = norm_conv(self.hidden, (3, 3), 1, 0, name='mouth')(
      x[:, top:bottom, left:right], train=train
    )
    side = (bottom - top - 2, right - left - 2)
    mouth = Conv(self.hidden, side, name='mouth_all', **shared)(leaky_relu(mouth))
    mouth = leaky_relu(mouth)[:, 0, 0]
    heard = jnp.moveaxis(mfcc, 1, -1).astype(self.dtype)
    for i, (width, geometry) in enumerate(zip(self.speech, _MFCC_TRUNK, strict=True), start=1):
      heard = norm_conv(width, *geometry, name=f'speech_{i}')(heard, train=train)
    heard = heard[:, 0, 0]
    self.sow('intermediates', 'heard', heard)
    both = jnp.concatenate([mouth, heard], axis=-1)
    pair = Dense(self.hidden, kernel_init=init, dtype=self.dtype, name='fc')(both)
    pair = Dense(1, kernel_init=init, dtype=self.dtype, name='fc2')(pair)[..., 0]
    # Declared by the official network and never called.
    Conv(1, (1, 1), use_bias=False, name='unused_conv8')(jnp.zeros((1, 1, 1, self.hidden)))
    for number, width in ((7, self.hidden), (8, 1), (9, self.hidden)):
      BatchNorm(name=f'unused_norm{number}')(jnp.zeros((1, width)), train=False)
    return patches.astype(jnp.float32), pair.astype(jnp.float32)


class WordClassifier(nn.Module):
  """C_w, shared by lips and speech: the embeddings of a clip to logits of the word."""

  words: int = 500
  hidden: int = 512
  deviation: float = _ALMOST_ZERO  # of the first layer's weights
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, embeddings):  # (B, T, D) -> (B, words)
    flat = embeddings.reshape(len(embeddings), -1)
    shared = dict(bias_init=zeros, dtype=self.dtype)
    init = normal(self.deviation)
    hidden = Dense(self.hidden, kernel_init=init, name='fc_1', **shared)(flat)
    self.sow('intermediates', 'hidden', hidden)
    Dense(1, name='unused')(jnp.zeros((1, self.hidden)))
    logits = Dense(self.words, dtype=self.dtype, name='fc_2')(nn.relu(hidden))
    return logits.astype(jnp.float32)


class DomainClassifier(nn.Module):
  """Tells from one embedding whether it was heard (1) or seen (0)."""

  hidden: int = 256
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, embeddings):  # (..., D) -> (...)
    hidden = nn.relu(Dense(self.hidden, dtype=self.dtype, name='fc1')(embeddings))
    return Dense(1, dtype=self.dtype, name='fc2')(hidden)[..., 0].astype(jnp.float32)


class IdentityWordClassifier(nn.Module):
  """C_p^w: looks for the word in what the identity encoder keeps of consecutive frames.

  In training it drops half of its inputs; it needs the PRNG 'dropout'.
  """

  words: int = 500
  hidden: int = 128
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, maps, *, train: bool):  # (B, T, h, w, C) of net1 -> (B, words)
    x = maps.reshape(-1, *maps.shape[2:])
    x = Conv(1, (3, 3), 2, 1, dtype=self.dtype, name='conv6')(x)
    self.sow('intermediates', 'convolved', x)
    x = Dense(self.hidden, dtype=self.dtype, name='fc')(nn.relu(x).reshape(len(x), -1))
    self.sow('intermediates', 'per_frame', x)
    x = nn.Dropout(0.5)(x.reshape(len(maps), -1), deterministic=not train)
    logits = Dense(
      self.words, kernel_init=normal(_ALMOST_ZERO), bias_init=zeros, dtype=self.dtype, name='fc_2'
    )(x)
    return logits.astype(jnp.float32)


class PooledWordClassifier(nn.Module):
  """C_p^w of the paper's text: looks for the word in the vectors of consecutive frames.

  The layers are ours. A person makes nearly all of a vector, so the clip's mean is taken away; and
  each of the D numbers is divided by how much the whole batch varies in it. Else an encoder could
  hide the word from this reader, and from no other, by shrinking what varies or by leaving it to
  the smallest numbers. Wide, as it has to find a word again as soon as the encoder has hidden it.
  """

  words: int = 500
  projection: int = 32
  width: int = 128
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, vectors):  # (B, T, D) -> (B, words)
    x = vectors.astype(jnp.float32)
    x -= x.mean(axis=1, keepdims=True)
    x *= lax.rsqrt(self._variation(lax.stop_gradient(x)) + _NO_VARIATION)
    x = Dense(self.projection, dtype=self.dtype, name='projection')(x)
    for layer, stride in enumerate((1, 2)):
      x = nn.Conv(self.width, (5,), stride, dtype=self.dtype, name=f'conv{layer}')(x)
      x = nn.relu(x)
    x = x.reshape(len(x), -1)
    return Dense(self.words, dtype=self.dtype, name='fc')(x).astype(jnp.float32)

  def _variation(self, changes):
    """(D,), the mean square of each number of (B, T, D), over all devices."""
    squares = jnp.square(changes).mean(axis=(0, 1))
    if self.axis_name is None or self.is_initializing():
      return squares
    return lax.pmean(squares, self.axis_name)


class PersonClassifier(nn.Module):
  """Single vectors to logits of persons: the identity encoder's teacher, and C_w^p of Eq. 4.

  In training it drops half of its inputs; it needs the PRNG 'dropout'.
  """

  persons: int = 40_145
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, vectors, *, train: bool):  # (..., D) -> (..., persons)
    x = nn.Dropout(0.5)(vectors, deterministic=not train)
    return Dense(self.persons, dtype=self.dtype, name='fc')(x).astype(jnp.float32)


class LinearProbe(nn.Module):
  """The official linear reader of words from a clip's identity vectors, with its unused layers."""

  words: int = 500
  hidden: int = 512
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, vectors):  # (B, T, D) -> (B, words)
    Dense(self.words, name='unused_fc_2')(jnp.zeros((1, self.hidden)))
    Dense(1, name='unused')(jnp.zeros((1, self.hidden)))
    flat = vectors.reshape(len(vectors), -1)
    return Dense(self.words, dtype=self.dtype, name='fc_1')(flat).astype(jnp.float32)


class Classifiers(nn.Module):
  """The five small heads that the public manifest holds together."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, words, net1, persons, person, *, train: bool):
    """Embeddings (B, 12, 256), maps (B, 20, 64, 64, 64), identity vectors (B, 20, 256) and (B, 256)
    to the five logits, by head."""
    shared = dict(dtype=self.dtype)
    return {
      'words': WordClassifier(name='words', **shared)(words),
      'domain': DomainClassifier(name='domain', **shared)(words),
      'identity_words': IdentityWordClassifier(name='identity_words', **shared)(net1, train=train),
      'probe': LinearProbe(name='probe', **shared)(persons),
      'persons': PersonClassifier(name='persons', **shared)(person, train=train),
    }
