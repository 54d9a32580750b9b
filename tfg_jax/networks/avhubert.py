"""AV-HuBERT (Shi et al., ICLR 2022): speech, lips, or both, to one vector per video frame.

Ported from facebookresearch/av_hubert `avhubert/hubert.py`, `avhubert/resnet.py` and the
transformer of fairseq's wav2vec 2.0. Field defaults are the base model with the values of its
pre-training config; `LARGE` holds the fields in which the large model differs.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from tfg_jax.networks.attention import MultiHeadAttention, padding_bias
from tfg_jax.networks.layers import BatchNorm, Conv, Dense, LayerNorm, PReLU
from tfg_jax.networks.lip_frontend import GrayVideoConv, halving_max_pool

LARGE = dict(width=1024, depth=24, mlp_width=4096, heads=16)

_INIT = nn.initializers.normal(0.02)  # of all dense kernels inside the transformer


def scale_gradient(x, factor: float):
  """Returns x (...) itself, and multiplies the gradient that comes back through it by `factor`."""
  held = lax.stop_gradient(x)
  return held if factor == 0 else held + factor * (x - held)


class ResidualBlock(nn.Module):
  """conv3x3, BN, PReLU, conv3x3, BN, shortcut, PReLU: ResNet's basic block with learned slopes."""

  features: int
  strides: int = 1
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):  # (B, H, W, C) -> (B, H / strides, W / strides, features)
    def conv(size, strides, name):
      return Conv(
        self.features,
        (size, size),
        strides,
        size // 2,
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
        dtype=self.dtype,
        name=name,
      )

    def norm(name):
      return BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=name)

    y = norm('bn1')(conv(3, self.strides, 'conv1')(x), train=train)
    y = PReLU(dtype=self.dtype, name='relu1')(y)
    y = norm('bn2')(conv(3, 1, 'conv2')(y), train=train)
    if self.strides != 1 or x.shape[-1] != self.features:
      x = norm('shortcut_bn')(conv(1, self.strides, 'shortcut')(x), train=train)
    return PReLU(dtype=self.dtype, name='relu2')(x + y)


class LipEncoder(nn.Module):
  """Per-frame lip features: one spatio-temporal convolution, then a ResNet on every frame.

  `widths` gives the channels of the ResNet's stages, of `blocks` residual blocks each; every stage
  but the first halves the image. Batch statistics include padded frames, as in the official code.
  """

  features: int = 768
  widths: Sequence[int] = (64, 128, 256, 512)
  blocks: int = 2
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, video, *, train: bool):  # (B, T, H, W, 1) -> (B, T, features)
    batch, frames = video.shape[:2]
    x = GrayVideoConv(self.widths[0], dtype=self.dtype, name='conv')(video)
    x = x.reshape(batch * frames, *x.shape[2:])
    x = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name='norm')(x, train=train)
    x = halving_max_pool(PReLU(dtype=self.dtype, name='relu')(x))
    self.sow('intermediates', 'stem', x)
    for stage, width in enumerate(self.widths, start=1):
      for block in range(self.blocks):
        strides = 2 if stage > 1 and block == 0 else 1
        x = ResidualBlock(
          width, strides, self.axis_name, dtype=self.dtype, name=f'stage_{stage}_{block}'
        )(x, train=train)
      self.sow('intermediates', f'stage_{stage}', x)
    x = x.mean((1, 2)).reshape(batch, frames, -1)
    self.sow('intermediates', 'pooled', x)
    return Dense(self.features, dtype=self.dtype, name='proj')(x)


class PositionalConv(nn.Module):
  """Relative positions from a grouped convolution over time, weight-normalised per tap, then GELU.

  The kernel is gain * v / |v|, where the norm is taken over both channel axes of each of the
  `taps` taps (PyTorch's `weight_norm(dim=2)`).
  """

  features: int
  taps: int = 128
  groups: int = 16
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):  # (B, T, D) -> (B, T, D)
    init = nn.initializers.normal(math.sqrt(4 / (self.taps * self.features)))
    direction = self.param('v', init, (self.taps, self.features // self.groups, self.features))
    norm = jnp.sqrt(jnp.square(direction).sum((1, 2), keepdims=True))
    gain = self.param('gain', lambda key: norm)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    # Official: `taps // 2` zeros on both sides, and the surplus output of an even kernel is
    # dropped.
    y = lax.conv_general_dilated(
      x.astype(self.dtype),
      (gain * direction / norm).astype(self.dtype),
      window_strides=(1,),
      padding=[(self.taps // 2, (self.taps - 1) // 2)],
      dimension_numbers=('NWC', 'WIO', 'NWC'),
      feature_group_count=self.groups,
    )
    return nn.gelu(y + bias.astype(self.dtype), approximate=False)


class EncoderLayer(nn.Module):
  """Pre-norm transformer layer: x + attention(LN(x)), then x + mlp(LN(x))."""

  features: int
  mlp_width: int
  heads: int
  dropout: float = 0.1
  attention_dropout: float = 0.1
  activation_dropout: float = 0.0
  dtype: Any = jnp.float32

  # `train` is positional here because `nn.remat` can only keep positional arguments static.
  @nn.compact
  def __call__(self, x, bias, train: bool):  # (B, T, D), (B, 1, 1, T) -> (B, T, D)
    def drop(rate, y):
      return nn.Dropout(rate)(y, deterministic=not train)

    def dense(features, name):
      zeros = nn.initializers.zeros
      return Dense(features, kernel_init=_INIT, bias_init=zeros, dtype=self.dtype, name=name)

    y = LayerNorm(dtype=self.dtype, name='self_attn_layer_norm')(x)
    attention = MultiHeadAttention(
      self.features,
      self.heads,
      self.attention_dropout,
      kernel_init=_INIT,
      out_init=_INIT,
      bias_init=nn.initializers.zeros,
      dtype=self.dtype,
      name='self_attn',
    )
    x = x + drop(self.dropout, attention(y, y, bias, train=train))
    y = LayerNorm(dtype=self.dtype, name='final_layer_norm')(x)
    y = nn.gelu(dense(self.mlp_width, 'fc1')(y), approximate=False)
    y = dense(self.features, 'fc2')(drop(self.activation_dropout, y))
    return x + drop(self.dropout, y)


class TransformerEncoder(nn.Module):
  """Positional convolution, then layers named `layers_0`, `layers_1`, ..., then a norm.

  Takes (B, T, features) and a mask (B, T), True where a clip has ended.
  """

  features: int
  depth: int
  mlp_width: int
  heads: int
  dropout: float = 0.1
  attention_dropout: float = 0.1
  activation_dropout: float = 0.0
  layer_dropout: float = 0.05
  position_taps: int = 128
  position_groups: int = 16
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, padding_mask, *, train: bool, layer: int | None = None):
    bias = None
    if padding_mask is not None:
      bias = padding_bias(padding_mask)
      x = jnp.where(padding_mask[..., None], 0, x)
    position = PositionalConv(
      self.features, self.position_taps, self.position_groups, dtype=self.dtype, name='pos_conv'
    )(x)
    self.sow('intermediates', 'position', position)
    x = nn.Dropout(self.dropout)(x + position, deterministic=not train)

    layer_type = nn.remat(EncoderLayer, static_argnums=(3,)) if self.remat else EncoderLayer
    for i in range(self.depth):
      y = layer_type(
        self.features,
        self.mlp_width,
        self.heads,
        self.dropout,
        self.attention_dropout,
        self.activation_dropout,
        dtype=self.dtype,
        name=f'layers_{i}',
      )(x, bias, train)
      if train and self.layer_dropout > 0:
        # One draw for the whole batch, as in fairseq. The layer is computed all the same: shapes
        # are static.
        keep = jax.random.bernoulli(self.make_rng('dropout'), 1 - self.layer_dropout)
        y = jnp.where(keep, y, x)
      x = y
      self.sow('intermediates', f'layer_{i}', x)
      if layer == i + 1 and not self.is_initializing():
        return x
    return LayerNorm(dtype=self.dtype, name='layer_norm')(x)


class AVHubertEncoder(nn.Module):
  """AV-HuBERT: front ends, fusion, transformer, and the head of its masked-prediction pre-training.

  Calling it gives the features that every fine-tuned model uses (`extract_finetune`):

      encoder = AVHubertEncoder()
      variables = encoder.init(key, audio, video, train=False)
      y = encoder.apply(variables, audio, None, padding_mask, train=False)     # (B, T, width)

  `init` creates the parameters of both front ends, whichever modalities its example has; `apply`
  runs only the front ends of the modalities it is given. The transformer's layers are the subtrees
  `transformer/layers_{i}`, so a part of them can be trained.

  Attributes:
    width, depth, mlp_width, heads: sizes of the transformer (base by default, large: `**LARGE`).
    audio_features: D of the audio input, 4 frames of 26 filter banks.
    resnet_widths, resnet_blocks: stages of the video front end.
    position_taps, position_groups: kernel length and groups of the positional convolution.
    dropout, attention_dropout, activation_dropout, input_dropout, layer_dropout: training only.
      Defaults are the pre-training config; fine-tuning uses 0, 0, 0.1, 0 and 0.1.
    feature_grad_mult: multiplies the gradient from the transformer into the front ends, and so
      into the pixels. 0.1 in pre-training and in models rebuilt from its config, 1 in fine-tuning,
      0 cuts it off.
    classes: number of cluster labels, 4 special symbols included.
    label_width: width in which `logits` compares features with labels.
    prediction_head: whether `final_proj` exists, which fine-tuned models lack.
    mask_input: True if masks replace audio inputs (iteration 5), False if they replace fused
      features (iterations 1 to 4); it decides the width of `mask_emb`.
    modality_dropout, audio_dropout: probability that `pretrain` drops a modality, and that it is
      the audio.
    remat: recompute each layer in the backward pass, to save memory.
    axis_name: mapped axis over which batch statistics are shared, for `pmap`.
    dtype: of the computation; parameters and statistics stay float32.
  """

  width: int = 768
  depth: int = 12
  mlp_width: int = 3072
  heads: int = 12
  audio_features: int = 104
  resnet_widths: Sequence[int] = (64, 128, 256, 512)
  resnet_blocks: int = 2
  position_taps: int = 128
  position_groups: int = 16
  dropout: float = 0.1
  attention_dropout: float = 0.1
  activation_dropout: float = 0.0
  input_dropout: float = 0.1
  layer_dropout: float = 0.05
  feature_grad_mult: float = 0.1
  classes: int = 2004
  label_width: int = 256
  prediction_head: bool = False
  mask_input: bool = True
  modality_dropout: float = 0.5
  audio_dropout: float = 0.5
  remat: bool = False
  axis_name: str | None = None
  dtype: Any = jnp.float32

  def setup(self):
    self.audio_encoder = Dense(self.width, dtype=self.dtype)
    self.video_encoder = LipEncoder(
      self.width, self.resnet_widths, self.resnet_blocks, self.axis_name, dtype=self.dtype
    )
    self.layer_norm = LayerNorm(dtype=self.dtype)
    self.post_extract_proj = Dense(self.width, dtype=self.dtype)
    self.input_drop = nn.Dropout(self.input_dropout)
    self.transformer = TransformerEncoder(
      self.width,
      self.depth,
      self.mlp_width,
      self.heads,
      self.dropout,
      self.attention_dropout,
      self.activation_dropout,
      self.layer_dropout,
      self.position_taps,
      self.position_groups,
      self.remat,
      dtype=self.dtype,
    )
    if self.prediction_head:
      self.final_proj = Dense(self.label_width, dtype=self.dtype)
    uniform = nn.initializers.uniform(1.0)
    masked_width = self.audio_features if self.mask_input else self.width
    self.mask_emb = self.param('mask_emb', uniform, (masked_width,))
    self.label_embs = self.param('label_embs', uniform, (self.classes, self.label_width))

  def features(self, audio, video, *, train: bool):
    """Returns the features of audio and video, each (B, T, width); zeros where it is None."""
    if audio is None and video is None:
      raise ValueError('AVHubertEncoder needs audio, video or both; both are None')
    if self.is_initializing():
      # Parameters do not depend on what the example lacks, nor on the size of the image.
      if audio is None:
        self.audio_encoder(jnp.zeros((1, 1, self.audio_features)))
      if video is None:
        self.video_encoder(jnp.zeros((1, 1, 32, 32, 1)), train=False)
    heard = seen = None
    if audio is not None:
      heard = scale_gradient(self.audio_encoder(audio), self.feature_grad_mult)
    if video is not None:
      seen = scale_gradient(self.video_encoder(video, train=train), self.feature_grad_mult)
    heard = jnp.zeros_like(seen) if heard is None else heard
    seen = jnp.zeros_like(heard) if seen is None else seen
    self.sow('intermediates', 'audio', heard)
    self.sow('intermediates', 'video', seen)
    return heard, seen

  def fuse(self, heard, seen, *, train: bool):
    """Returns what the transformer reads (B, T, width) from the features of both modalities."""
    fused = self.layer_norm(jnp.concatenate([heard, seen], axis=-1))
    self.sow('intermediates', 'fused', fused)
    fused = self.post_extract_proj(fused)
    self.sow('intermediates', 'projected', fused)
    return self.input_drop(fused, deterministic=not train)

  def __call__(
    self, audio=None, video=None, padding_mask=None, *, train: bool, layer: int | None = None
  ):
    """Encodes speech, lips or both at 25 frames per second.

    Args:
      audio: (B, T, 104) stacked log filter banks, each row normalised, or None.
      video: (B, T, 88, 88, 1) gray frames, (value / 255 - 0.421) / 0.165, or None. A missing
        modality counts as zero features, which is not the same as black frames or silence.
      padding_mask: (B, T) bool, True where a row is padding, or None. Inputs are zero there.
      train: dropout (rng `dropout`) and batch statistics (collection `batch_stats`).
      layer: 1 to `depth` for the raw output of that layer; None for the last, normed one.

    Returns:
      (B, T, width). Values at padded positions mean nothing, but are not zero.

    Raises:
      ValueError: if both modalities are None, or there is no such layer.
    """
    if layer is not None and not 1 <= layer <= self.depth:
      raise ValueError(f'layer must be 1 to {self.depth} or None, not {layer}')
    x = self.fuse(*self.features(audio, video, train=train), train=train)
    x = self.transformer(x, padding_mask, train=train, layer=layer)
    if self.is_initializing() and self.prediction_head:
      self.final_proj(x)
    return x

  def logits(self, x):
    """Cosine similarity of encoder outputs (B, T, width) and labels, over 0.1: (B, T, classes)."""
    x = self.final_proj(x).astype(jnp.float32)
    self.sow('intermediates', 'label_space', x)
    norms = jnp.linalg.norm(x, axis=-1, keepdims=True) * jnp.linalg.norm(self.label_embs, axis=-1)
    return x @ self.label_embs.T / jnp.maximum(norms, 1e-6) / 0.1

  def pretrain(self, audio, video, padding_mask=None, *, mask, train: bool):
    """Predicts the cluster of every frame from a partly masked clip.

    Args:
      audio: (B, T, 104); unmasked, `mask` is applied here because its replacement is learned. None
        for lips alone, as in `__call__`.
      video: (B, T, 88, 88, 1); already masked if `mask_input` (`features.masking.replace_frames`).
        None for speech alone.
      padding_mask: (B, T) bool or None.
      mask: (B, T) bool, True where audio rows (`mask_input`) or fused features become `mask_emb`.
      train: also drops a modality of the whole batch with probability `modality_dropout`.

    Returns:
      A dict: `logits` (B, T, classes), `features` (B, T, width) and the scalar `penalty`, the mean
      square of the features before fusion.
    """
    if self.mask_input and audio is not None:
      audio = jnp.where(mask[..., None], self.mask_emb, audio)
    heard, seen = self.features(audio, video, train=train)
    if train and self.modality_dropout > 0:
      drop, which = jax.random.uniform(self.make_rng('dropout'), (2,))
      drop, is_audio = drop < self.modality_dropout, which < self.audio_dropout
      heard = jnp.where(drop & is_audio, 0, heard)
      seen = jnp.where(drop & ~is_audio, 0, seen)
    penalty = (
      jnp.square(heard).mean(dtype=jnp.float32) + jnp.square(seen).mean(dtype=jnp.float32)
    ) / 2
    x = self.fuse(heard, seen, train=train)
    if not self.mask_input:
      x = jnp.where(mask[..., None], self.mask_emb.astype(x.dtype), x)
    x = self.transformer(x, padding_mask, train=train)
    return {'logits': self.logits(x), 'features': x, 'penalty': penalty}
