"""SF2F (Bai et al., 2020): a portrait from a voice. Generator and discriminators.

Source: BAI-Yeqi/SF2F_PyTorch@e346b68 `models/`, which differs from the paper in depth, up-sampling
and activations; the code is followed. Voices are (B, F, 40) normalised log-mel, 100 frames per
second (`features/voice.py`); pictures are RGB, normalised with ImageNet's mean and deviation
(`features/portrait.py`), and come out without a final activation.

    64 px          VoiceToFace(VoiceEncoder(), FaceDecoder())
    with fuser     VoiceToFace(VoiceEncoder(), FaceDecoder(), AttentionFuser())
    64 and 128 px  VoiceToFace(VoiceEncoder(), FaceDecoder(sizes=(64, 128)), AttentionFuser())
    voice2face     VoiceToFace(PlainVoiceEncoder(), DeconvolutionDecoder(), noise=0.05)

The last one is the baseline of `networks/voice2face.py`.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tfg_jax.networks import layers

_BRANCHES = (2, 3, 5, 7)  # kernel sizes of an inception block
_SMALLEST = 4  # side of the map that a decoder starts from, pixels


def valid_frames(lengths, frames: int):
  """(B, F) bool, True before each example's end; None where all frames count."""
  return None if lengths is None else jnp.arange(frames) < lengths[:, None]


def average_frames(x, lengths):
  """Mean of (B, F, D) over the frames that count."""
  if lengths is None:
    return x.mean(1)
  valid = valid_frames(lengths, x.shape[1])
  return jnp.where(valid[..., None], x, 0).sum(1) / lengths[:, None]


class InceptionBlock(nn.Module):
  """Four 1-D convolutions of stride 2 side by side, a quarter of the channels each."""

  features: int
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, lengths=None, *, train: bool):
    """(B, F, C) to (B, ceil(F / 2), features); zero behind the new `lengths` ceil(n / 2)."""
    frames = -(-x.shape[1] // 2)
    branches = []
    for kernel in _BRANCHES:
      y = layers.Conv(
        self.features // len(_BRANCHES),
        (kernel,),
        2,
        kernel // 2,
        use_bias=False,
        dtype=self.dtype,
        name=f'conv_{kernel}',
      )(x)
      # Of an even number of frames the even kernel makes one more than the others; it is dropped,
      # but counts in the batch statistics.
      made = None if lengths is None else (lengths + kernel % 2) // 2 + (kernel % 2 == 0)
      y = layers.BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=f'norm_{kernel}')(
        y, valid_frames(made, y.shape[1]), train=train
      )
      branches.append(nn.relu(y[:, :frames]))
    joined = jnp.concatenate(branches, axis=-1)
    # What lies behind the end must look like the padding of a shorter input.
    if lengths is None:
      return joined
    return jnp.where(valid_frames(-(-lengths // 2), frames)[..., None], joined, 0)


class VoiceEncoder(nn.Module):
  """Inception blocks and a convolution over log-mel: the 1-D CNN of SF2F."""

  widths: Sequence[int] = (256, 384, 576, 864)
  features: int = 512
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, mel, lengths=None, *, train: bool):
    """Embeds voices.

    Args:
      mel: (B, F, 40).
      lengths: (B,) int, valid frames; the result is as if the rest were not there. None: all.
      train: normalise with batch statistics.

    Returns:
      (B, features) float32 of unit length.
    """
    x = mel
    if lengths is not None:
      x = jnp.where(valid_frames(lengths, x.shape[1])[..., None], x, 0)
    for i, width in enumerate(self.widths):
      x = InceptionBlock(width, self.axis_name, self.dtype, name=f'block_{i}')(
        x, lengths, train=train
      )
      lengths = None if lengths is None else -(-lengths // 2)
    x = layers.Conv(self.features, (3,), 2, 1, dtype=self.dtype, name='out')(x)
    lengths = None if lengths is None else -(-lengths // 2)
    return layers.unit(average_frames(x.astype(jnp.float32), lengths))


class AttentionFuser(nn.Module):
  """One embedding from those of several windows of the same voice (3.3).

  Every embedding asks all of them; the answer and the question are projected together and averaged.
  """

  features: int = 512
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, embeddings, mask=None):
    """Fuses.

    Args:
      embeddings: (B, N, D).
      mask: (B, N) bool, False for windows that do not exist; None if all do.

    Returns:
      (B, features) float32, not normalised.
    """

    def dense(features, name):
      return layers.Dense(features, use_bias=False, dtype=self.dtype, name=name)

    x = embeddings.astype(self.dtype)
    query = dense(x.shape[-1], 'query')(x)
    scores = jnp.einsum('bnd,bmd->bnm', query, x).astype(jnp.float32)
    if mask is not None:
      scores = jnp.where(mask[:, None], scores, -jnp.inf)
    attention = jax.nn.softmax(scores)
    self.sow('intermediates', 'attention', attention)
    mixed = jnp.einsum('bnm,bmd->bnd', attention.astype(self.dtype), x)
    fused = dense(self.features, 'out')(jnp.concatenate([mixed, query], -1)).astype(jnp.float32)
    if mask is None:
      return fused.mean(1)
    return jnp.where(mask[..., None], fused, 0).sum(1) / mask.sum(1, keepdims=True)


def _gated(x):
  """The first half of the channels, as far as the second half lets it pass."""
  value, gate = jnp.split(x, 2, axis=-1)
  return value * jax.nn.sigmoid(gate)


class FaceDecoder(nn.Module):
  """Draws portraits from an embedding: up-sampling blocks with gated linear units.

  Attributes:
    width: channels of the 4 px map; every block halves them.
    sizes: sides of the portraits to draw, pixels, ascending, each 4 * 2^n.
  """

  width: int = 512
  sizes: Sequence[int] = (64,)
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, embedding, *, train: bool):
    """(B, D) to a tuple of (B, S, S, 3) float32, one for each of `sizes`."""

    def norm(x, name):
      return layers.BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=name)(x, train=train)

    x = layers.Dense(2 * self.width * _SMALLEST**2, use_bias=False, dtype=self.dtype, name='stem')(
      embedding
    )
    x = _gated(norm(x, 'stem_norm'))
    self.sow('intermediates', 'stem_gated', x)
    # Channels first, as the official dense layer has them.
    x = x.reshape(-1, self.width, _SMALLEST, _SMALLEST).transpose(0, 2, 3, 1)
    portraits = []
    for i in range(int(math.log2(self.sizes[-1] // _SMALLEST))):
      width = self.width >> (i + 1)
      x = x.repeat(2, axis=1).repeat(2, axis=2)
      x = layers.Conv(
        2 * width, (3, 3), padding=1, use_bias=False, dtype=self.dtype, name=f'up_{i}'
      )(x)
      x = _gated(norm(x, f'up_{i}_norm'))
      self.sow('intermediates', f'up_{i}_gated', x)
      if x.shape[1] in self.sizes:
        head = f'head_{len(portraits)}'
        y = layers.Conv(width, (3, 3), padding=1, dtype=self.dtype, name=f'{head}_hidden')(x)
        y = layers.Conv(3, (1, 1), dtype=self.dtype, name=head)(nn.leaky_relu(y, 0.01))
        portraits.append(y.astype(jnp.float32))
    return tuple(portraits)


class VoiceToFace(nn.Module):
  """Voice encoder, fuser where there is one, decoder.

  Attributes:
    encoder: `VoiceEncoder` or `PlainVoiceEncoder`.
    decoder: `FaceDecoder` or `DeconvolutionDecoder`.
    fuser: makes one embedding of several windows.
    noise: deviation of the noise on embeddings; the baseline has 0.05, in evaluation too.
  """

  encoder: nn.Module
  decoder: nn.Module
  fuser: AttentionFuser | None = None
  noise: float = 0.0

  def __call__(self, mel, lengths=None, *, mask=None, noise=None, train: bool):
    """Returns portraits (B, S, S, 3) and the embedding that they were drawn from; see `embed`."""
    embedding = self.embed(mel, lengths, mask=mask, noise=noise, train=train)
    return self.decoder(embedding, train=train), embedding

  def embed(self, mel, lengths=None, *, mask=None, noise=None, train: bool):
    """Embeds voices.

    Args:
      mel: (B, F, 40), or (B, N, F, 40) windows for the fuser.
      lengths: (B,) int, valid frames of each voice; windows are whole. None: all.
      mask: (B, N) bool, False for windows that do not exist.
      noise: (B, D) standard normal values for a generator with `noise`; None adds none.
      train: normalise with batch statistics.

    Returns:
      (B, D) float32 of unit length.

    Raises:
      ValueError: for windows without a fuser, or with `lengths`.
    """
    if mel.ndim == 3:
      embedding = self.encoder(mel, lengths, train=train)
    elif self.fuser is None or lengths is not None:
      raise ValueError(f'mel of shape {mel.shape} holds windows: they need a fuser and no lengths')
    else:
      local = self.encoder(mel.reshape(-1, *mel.shape[2:]), train=train)
      embedding = self.fuse(local.reshape(*mel.shape[:2], -1), mask)
    if noise is not None:
      embedding = layers.unit(embedding + self.noise * noise)
    return embedding

  def fuse(self, embeddings, mask=None):
    """(B, N, D) embeddings of windows to (B, D) of unit length."""
    return layers.unit(self.fuser(embeddings, mask))

  def draw(self, embedding, *, train: bool):
    """Portraits from (B, D) embeddings."""
    return self.decoder(embedding, train=train)


# --------------------------------------------------------------------------------------------------
# Discriminators
# --------------------------------------------------------------------------------------------------

# Kernel, channels, stride, padding of each convolution. For 128 px there is one more.
JUDGE_64 = ((4, 64, 2, 0), (4, 128, 2, 0), (4, 256, 2, 0))
JUDGE_128 = (*JUDGE_64, (4, 512, 2, 0))


class _Convolutions(nn.Module):
  """Convolutions with norm and leaky ReLU between, not behind, them."""

  convolutions: Sequence[Sequence[int]]
  normalise: bool
  slope: float
  axis_name: str | None
  dtype: Any

  @nn.compact
  def __call__(self, x, *, train: bool):
    for i, (kernel, width, stride, padding) in enumerate(self.convolutions):
      if i:
        if self.normalise:
          norm = layers.BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=f'norm_{i - 1}')
          x = norm(x, train=train)
        x = nn.leaky_relu(x, self.slope)
      x = layers.Conv(width, (kernel, kernel), stride, padding, dtype=self.dtype, name=f'conv_{i}')(
        x
      )
    return x


class ImageDiscriminator(nn.Module):
  """Real or drawn, patch by patch (`PatchDiscriminator`)."""

  convolutions: Sequence[Sequence[int]] = JUDGE_64
  slope: float = 0.1
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """(B, S, S, 3) normalised pictures to (B, h, w) float32 logits, positive for real."""
    x = _Convolutions(
      self.convolutions, True, self.slope, self.axis_name, self.dtype, name='stack'
    )(image, train=train)
    return layers.Conv(1, (1, 1), dtype=self.dtype, name='classifier')(x)[..., 0].astype(
      jnp.float32
    )


class IdentityDiscriminator(nn.Module):
  """Who it is, and whether it is real (`AcDiscriminator`).

  `identities` is the number of people in training; the official files of the baseline
  (`normalise` off) and of SF2F differ in it.
  """

  identities: int
  convolutions: Sequence[Sequence[int]] = JUDGE_64
  normalise: bool = True
  slope: float = 0.1
  features: int = 1024
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """(B, S, S, 3) to (B,) logits, positive for real, and (B, identities) logits, float32."""
    x = _Convolutions(
      self.convolutions, self.normalise, self.slope, self.axis_name, self.dtype, name='stack'
    )(image, train=train)
    pooled = x.mean((1, 2))
    self.sow('intermediates', 'pooled', pooled)
    hidden = layers.Dense(self.features, dtype=self.dtype, name='hidden')(pooled)
    real = layers.Dense(1, dtype=self.dtype, name='real')(hidden)[..., 0]
    who = layers.Dense(self.identities, dtype=self.dtype, name='identity')(hidden)
    return real.astype(jnp.float32), who.astype(jnp.float32)
