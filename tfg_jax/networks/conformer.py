"""The conformer lip reader of TalkLip's evaluation (observer 2): lips to characters.

Ported from Sxjdwang/TalkLip `models/conformer_lip_reading.py` and `models/visual_frontend.py`, with
the conformer encoder (Gulati et al., Interspeech 2020) and transformer decoder of espnet 0.10.6.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tfg_jax.errors import DataError
from tfg_jax.networks.attention import (
  MultiHeadAttention,
  attention_weights,
  causal_bias,
  padding_bias,
)
from tfg_jax.networks.layers import BatchNorm, Conv, Dense, LayerNorm
from tfg_jax.networks.lip_frontend import GrayVideoConv, halving_max_pool

# By token id. <blank> is CTC's; <eos> starts a sentence as well.
CHARACTERS = ('<blank>', ' ', *"ETOAINSHRLDUYWGCMFBP'VKJXQZ0192856734", '<eos>')
SPACE, EOS, PADDING = 1, 39, -1

_NORM_EPSILON = 1e-12  # espnet's; only the norm behind the input projection has 1e-5


def characters_to_tokens(text: str) -> np.ndarray:
  """Returns the token ids (L,) int32 of a sentence; lower case counts as upper case.

  Raises:
    DataError: if the reader does not know a character.
  """
  unknown = sorted(set(text.upper()) - set(CHARACTERS[1:-1]))
  if unknown:
    raise DataError(
      f'the lip reader has no token for {unknown}',
      where=text,
      hint="spell the text with letters, digits, spaces and ' only",
    )
  return np.array([CHARACTERS.index(character) for character in text.upper()], np.int32)


def required_frames(lengths, tokens):
  """Returns the frames (B,) to encode: one per token and repetition for CTC, or all of the clip's.

  Takes lengths (B,) in frames and tokens (B, L) padded with -1.
  """
  repeats = (tokens[:, 1:] == tokens[:, :-1]) & (tokens[:, 1:] != PADDING)
  needed = (tokens != PADDING).sum(1) + repeats.sum(1)
  return jnp.maximum(lengths, needed)


def centred(features, lengths, required, frames: int):
  """Moves clips (B, T, D) of given lengths to the middle of their required frames, zeros around.

  Returns:
    (B, frames, D): (required - length) // 2 zeros, the clip, zeros.
  """
  index = jnp.arange(frames) - ((required - lengths) // 2)[:, None]
  inside = (index >= 0) & (index < lengths[:, None])
  index = jnp.clip(index, 0, features.shape[1] - 1)
  moved = jnp.take_along_axis(features, index[..., None], axis=1)
  return jnp.where(inside[..., None], moved, 0)


def sinusoids(positions, width: int):
  """Returns position vectors (..., width): sines in even columns, cosines in odd ones."""
  frequencies = jnp.exp(jnp.arange(0, width, 2) * -(math.log(10_000) / width))
  angles = jnp.asarray(positions, jnp.float32)[..., None] * frequencies
  return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*angles.shape[:-1], width)


class ResidualStage(nn.Module):
  """Two residual units that add what comes BEFORE a norm, not after it (visual_frontend.py)."""

  features: int
  strides: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, mask, *, train: bool):  # (N, H, W, C), (N,) True where a frame is real
    def conv(x, strides, name, size=3):
      return Conv(
        self.features,
        (size, size),
        strides,
        size // 2,
        use_bias=False,
        dtype=self.dtype,
        name=name,
      )(x)

    def norm_relu(x, name):
      norm = BatchNorm(epsilon=1e-3, momentum=0.01, dtype=self.dtype, name=name)
      return nn.relu(norm(x, mask, train=train))

    y = conv(norm_relu(conv(x, self.strides, 'conv1a'), 'bn1a'), 1, 'conv2a')
    # The official layer without stride owns a projection, too, and does not use it.
    if self.strides != 1 or self.is_initializing():
      shortcut = conv(x, self.strides, 'downsample', size=1)
    added = y + (x if self.strides == 1 else shortcut)
    y = conv(norm_relu(added, 'outbna'), 1, 'conv1b')
    y = conv(norm_relu(y, 'bn1b'), 1, 'conv2b')
    return norm_relu(y + added, 'outbnb')


class VisualFrontEnd(nn.Module):
  """Spatio-temporal convolution and ResNet; statistics see real frames only."""

  widths: Sequence[int] = (64, 128, 256, 512)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, video, mask, *, train: bool):  # (B, T, H, W, 1), (B, T) -> (B, T, widths[-1])
    batch, frames = mask.shape
    x = GrayVideoConv(self.widths[0], dtype=self.dtype, name='conv')(video)
    self.sow('intermediates', 'stem', x)
    x, mask = x.reshape(batch * frames, *x.shape[2:]), mask.reshape(-1)
    norm = BatchNorm(epsilon=1e-3, momentum=0.01, dtype=self.dtype, name='norm')
    x = halving_max_pool(nn.relu(norm(x, mask, train=train)))
    for stage, width in enumerate(self.widths, start=1):
      strides = 1 if stage == 1 else 2
      x = ResidualStage(width, strides, dtype=self.dtype, name=f'layer{stage}')(
        x, mask, train=train
      )
      self.sow('intermediates', f'stage_{stage}', x)
    return x.mean((1, 2)).reshape(batch, frames, -1)


class FeedForward(nn.Module):
  """Dense, activation, dense."""

  features: int
  mlp_width: int
  activation: Any
  dropout: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):  # (B, T, features)
    x = self.activation(Dense(self.mlp_width, dtype=self.dtype, name='w_1')(x))
    x = nn.Dropout(self.dropout)(x, deterministic=not train)
    return Dense(self.features, dtype=self.dtype, name='w_2')(x)


class RelativeAttention(nn.Module):
  """Self-attention with relative positions (Dai et al., 2019; the corrected espnet version)."""

  features: int
  heads: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, positions, bias):  # (B, T, D), (2T - 1, D), (B, 1, 1, T) -> (B, T, D)
    frames, size = x.shape[1], self.features // self.heads

    def heads(x, name, use_bias=True):
      x = Dense(self.features, use_bias, dtype=self.dtype, name=name)(x)
      return x.reshape(*x.shape[:-1], self.heads, size)

    query, key, value = (heads(x, f'linear_{name}') for name in 'qkv')
    position = heads(positions, 'linear_pos', use_bias=False)
    init = nn.initializers.xavier_uniform()
    of_content = self.param('pos_bias_u', init, (self.heads, size)).astype(self.dtype)
    of_position = self.param('pos_bias_v', init, (self.heads, size)).astype(self.dtype)

    content = jnp.einsum('bihd,bjhd->bhij', query + of_content, key)
    relative = jnp.einsum('bihd,rhd->bhir', query + of_position, position)
    # Row r of `positions` is T - 1 - r frames into the past. Entry (i, j) needs i - j, which is row
    # T - 1 - i + j: one column of padding and a reshape shift every line of queries by one more.
    relative = jnp.pad(relative, ((0, 0), (0, 0), (0, 0), (1, 0)))
    relative = relative.reshape(*relative.shape[:2], 2 * frames, frames)[:, :, 1:]
    relative = relative.reshape(*relative.shape[:2], frames, 2 * frames - 1)[..., :frames]
    weights = attention_weights((content + relative) / math.sqrt(size), bias).astype(self.dtype)
    y = jnp.einsum('bhij,bjhd->bihd', weights, value)
    return Dense(self.features, dtype=self.dtype, name='linear_out')(
      y.reshape(*y.shape[:2], self.features)
    )


class ConvolutionModule(nn.Module):
  """Gated pointwise convolution, depthwise convolution over time, norm, swish, pointwise."""

  features: int
  taps: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, mask, *, train: bool):  # (B, T, D); mask (B, T) or None
    def pointwise(features, name):
      return Conv(features, (1,), dtype=self.dtype, name=name)

    x = nn.glu(pointwise(2 * self.features, 'pointwise_conv1')(x))
    if mask is not None:
      x = jnp.where(mask[..., None], x, 0)
    x = Conv(
      self.features,
      (self.taps,),
      padding=self.taps // 2,
      groups=self.features,
      dtype=self.dtype,
      name='depthwise_conv',
    )(x)
    x = nn.swish(BatchNorm(dtype=self.dtype, name='norm')(x, mask, train=train))
    return pointwise(self.features, 'pointwise_conv2')(x)


class ConformerLayer(nn.Module):
  """Half a feed-forward step, attention, convolution, half a feed-forward step, norm."""

  features: int
  mlp_width: int
  heads: int
  taps: int
  dropout: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, positions, bias, mask, *, train: bool):  # (B, T, D) -> (B, T, D)
    def norm(x, name):
      return LayerNorm(epsilon=_NORM_EPSILON, dtype=self.dtype, name=name)(x)

    def drop(x):
      return nn.Dropout(self.dropout)(x, deterministic=not train)

    def feed_forward(x, name):
      module = FeedForward(
        self.features, self.mlp_width, nn.swish, self.dropout, dtype=self.dtype, name=name
      )
      return module(x, train=train)

    y = feed_forward(norm(x, 'norm_ff_macaron'), 'feed_forward_macaron')
    self.sow('intermediates', 'macaron', y)
    x = x + 0.5 * drop(y)
    attention = RelativeAttention(self.features, self.heads, dtype=self.dtype, name='self_attn')
    y = attention(norm(x, 'norm_mha'), positions, bias)
    self.sow('intermediates', 'attended', y)
    x = x + drop(y)
    convolution = ConvolutionModule(self.features, self.taps, dtype=self.dtype, name='conv_module')
    y = convolution(norm(x, 'norm_conv'), mask, train=train)
    self.sow('intermediates', 'convolved', y)
    x = x + drop(y)
    x = x + 0.5 * drop(feed_forward(norm(x, 'norm_ff'), 'feed_forward'))
    return norm(x, 'norm_final')


class ConformerEncoder(nn.Module):
  """Input projection, relative positions, conformer layers named `layers_0`, ..., norm."""

  features: int
  depth: int
  mlp_width: int
  heads: int
  taps: int
  dropout: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, mask, *, leak: bool, train: bool):  # (B, T, D'), (B, T) -> (B, T, D)
    def drop(x):
      return nn.Dropout(self.dropout)(x, deterministic=not train)

    frames = x.shape[1]
    x = Dense(self.features, dtype=self.dtype, name='embed')(x)
    x = drop(LayerNorm(dtype=self.dtype, name='embed_norm')(x)) * math.sqrt(self.features)
    self.sow('intermediates', 'embedded', x)
    positions = drop(sinusoids(jnp.arange(frames - 1, -frames, -1), self.features))
    bias = padding_bias(~mask)
    for i in range(self.depth):
      x = ConformerLayer(
        self.features,
        self.mlp_width,
        self.heads,
        self.taps,
        self.dropout,
        dtype=self.dtype,
        name=f'layers_{i}',
      )(x, positions, bias, None if leak else mask, train=train)
      self.sow('intermediates', f'layer_{i}', x)
    return LayerNorm(epsilon=_NORM_EPSILON, dtype=self.dtype, name='after_norm')(x)


class CharacterDecoder(nn.Module):
  """Pre-norm transformer decoder over characters."""

  features: int
  depth: int
  mlp_width: int
  heads: int
  vocabulary: int
  dropout: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens, memory, mask, *, train: bool):  # (B, L), (B, T, D), (B, T)
    def norm(x, name):
      return LayerNorm(epsilon=_NORM_EPSILON, dtype=self.dtype, name=name)(x)

    def drop(x):
      return nn.Dropout(self.dropout)(x, deterministic=not train)

    def attention(name):
      return MultiHeadAttention(self.features, self.heads, dtype=self.dtype, name=name)

    init = nn.initializers.normal(1.0)
    embed = nn.Embed(
      self.vocabulary, self.features, embedding_init=init, dtype=self.dtype, name='embed'
    )
    length = tokens.shape[1]
    x = embed(tokens) * math.sqrt(self.features) + sinusoids(jnp.arange(length), self.features)
    x = drop(x.astype(self.dtype))
    self.sow('intermediates', 'embedded', x)
    for i in range(self.depth):
      y = norm(x, f'layers_{i}_norm1')
      x = x + drop(attention(f'layers_{i}_self_attn')(y, y, causal_bias(length), train=train))
      y = norm(x, f'layers_{i}_norm2')
      attended = attention(f'layers_{i}_src_attn')(y, memory, padding_bias(~mask), train=train)
      x = x + drop(attended)
      module = FeedForward(
        self.features,
        self.mlp_width,
        nn.relu,
        self.dropout,
        dtype=self.dtype,
        name=f'layers_{i}_feed_forward',
      )
      x = x + drop(module(norm(x, f'layers_{i}_norm3'), train=train))
      self.sow('intermediates', f'layer_{i}', x)
    return Dense(self.vocabulary, dtype=self.dtype, name='output')(norm(x, 'after_norm'))


class ConformerLipReader(nn.Module):
  """Reads the characters of a sentence from lips, with a CTC branch.

  The official code lets frames that pad a batch leak into their neighbours, through the encoder's
  convolutions and statistics; its evaluation has one clip per batch, where there are none. By
  default every clip of a batch gives what it would give alone; `leak` gives the official batches.

  Attributes:
    widths: channels of the front end's stages.
    features, depth, mlp_width, heads, taps: of the encoder; `taps` of its convolutions over time.
    decoder_depth, vocabulary: of the decoder, which has the encoder's other sizes.
    dropout: training only.
    leak: see above.
    dtype: of the computation.
  """

  widths: Sequence[int] = (64, 128, 256, 512)
  features: int = 256
  depth: int = 12
  mlp_width: int = 2048
  heads: int = 4
  taps: int = 31
  decoder_depth: int = 6
  vocabulary: int = len(CHARACTERS)
  dropout: float = 0.1
  leak: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, video, lengths, required, tokens, *, frames: int, train: bool):
    """Reads clips under teacher forcing.

    Args:
      video: (B, T, 112, 112, 1) gray frames, (value / 255 - 0.4161) / 0.1688, zeros behind the end.
      lengths: (B,) int, real frames of each clip.
      required: (B,) int, frames to encode, see `required_frames`: clips are padded with zeros to
        them, and these count as real.
      tokens: (B, L) int, characters to spell, padded with -1.
      frames: static, at least the largest of `required`; more change nothing but with `leak`.
      train: dropout and batch statistics.

    Returns:
      logits: (B, L + 1, vocabulary) of each character and the final EOS.
      ctc_logits: (B, frames, vocabulary).
    """
    real = jnp.arange(video.shape[1]) < lengths[:, None]
    x = VisualFrontEnd(self.widths, dtype=self.dtype, name='front_end')(video, real, train=train)
    x = centred(x, lengths, required, frames)
    self.sow('intermediates', 'lips', x)
    mask = jnp.arange(frames) < required[:, None]
    memory = ConformerEncoder(
      self.features,
      self.depth,
      self.mlp_width,
      self.heads,
      self.taps,
      self.dropout,
      dtype=self.dtype,
      name='encoder',
    )(x, mask, leak=self.leak, train=train)
    self.sow('intermediates', 'memory', memory)
    dropped = nn.Dropout(self.dropout)(memory, deterministic=not train)
    ctc_logits = Dense(self.vocabulary, dtype=self.dtype, name='ctc')(dropped)

    spoken = jnp.where(tokens == PADDING, EOS, tokens)
    given = jnp.pad(spoken, ((0, 0), (1, 0)), constant_values=EOS)
    logits = CharacterDecoder(
      self.features,
      self.decoder_depth,
      self.mlp_width,
      self.heads,
      self.vocabulary,
      self.dropout,
      dtype=self.dtype,
      name='decoder',
    )(given, memory, mask, train=train)
    return logits.astype(jnp.float32), ctc_logits.astype(jnp.float32)
