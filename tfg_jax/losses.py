"""Losses: pure functions, float32 inside, one scalar out.

Where `axis_name` is given, the function runs on each device of that mapped axis with a part of the
batch; the MEAN over devices of what it returns (and of its gradients) is the value for the whole
batch, even where devices hold different numbers of valid examples.
"""

import jax
import jax.numpy as jnp
from jax import lax

from tfg_jax.networks.layers import unit


def masked_mean(values, mask=None, *, axis_name: str | None = None):
  """Mean of (N, ...) values over the examples where `mask` (N,) is True; 0 if there are none."""
  values = values.astype(jnp.float32)
  per_example = values.reshape(len(values), -1).mean(-1)
  mask = jnp.ones(len(values)) if mask is None else mask.astype(jnp.float32)
  number = mask.sum()
  if axis_name is not None:
    number = lax.pmean(number, axis_name)
  # where() rather than a product: a padded example may hold anything, infinities too.
  total = jnp.where(mask > 0, per_example, 0).sum()
  return total / jnp.maximum(number, jnp.finfo(jnp.float32).tiny)


def masked_l1(image, target, mask=None, *, axis_name: str | None = None):
  """Mean absolute difference of (N, H, W, C) images over the examples where `mask` is True."""
  difference = jnp.abs(image.astype(jnp.float32) - target.astype(jnp.float32))
  return masked_mean(difference, mask, axis_name=axis_name)


# --------------------------------------------------------------------------------------------------
# Adversarial: binary cross-entropy on the discriminator's logits
# --------------------------------------------------------------------------------------------------


def real_loss(logits, mask=None, *, axis_name: str | None = None):
  """Cross-entropy of logits (N, ...) against the label 'real'; log 2 if undecided."""
  return masked_mean(jax.nn.softplus(-logits), mask, axis_name=axis_name)


def fake_loss(logits, mask=None, *, axis_name: str | None = None):
  """Cross-entropy of logits (N, ...) against the label 'generated'; log 2 if undecided."""
  return masked_mean(jax.nn.softplus(logits), mask, axis_name=axis_name)


# The non-saturating generator loss (Goodfellow et al., 2014) asks for the label 'real' on fakes.
generator_loss = real_loss


# --------------------------------------------------------------------------------------------------
# Sync
# --------------------------------------------------------------------------------------------------


def cosine_bce(audio, video, label, mask=None, *, axis_name: str | None = None):
  """Binary cross-entropy on the cosine of embeddings that are not negative (Wav2Lip).

  Takes (N, D) audio and video, and (N,) labels: 1 in sync, 0 shifted. The cosine counts as the
  probability of sync; each log is clamped at -100. Staying near 0.69 (log 2) means that the pairs
  are not yet told apart.
  """
  audio, video = unit(audio, 1e-8), unit(video, 1e-8)
  # Rounding may push the cosine of equal embeddings beyond 1.
  cosine = jnp.clip(jnp.sum(audio * video, axis=-1), 0, 1)
  label = label.astype(jnp.float32)
  loss = -label * _clamped_log(cosine) - (1 - label) * _clamped_log(1 - cosine)
  return masked_mean(loss, mask, axis_name=axis_name)


def _clamped_log(x):
  """max(log x, -100) for x in [0, 1], with gradient 0 where the clamp acts."""
  positive = x > 0
  return jnp.where(positive, jnp.maximum(jnp.log(jnp.where(positive, x, 1)), -100.0), -100.0)


def sample_negatives(key, number: int, count: int):
  """Returns (number, count) int32: per row distinct other rows, drawn uniformly (TalkLip).

  `count` is at most `number` - 1; officially min(100, number // 2).
  """
  keys = jax.random.split(key, number)
  others = jax.vmap(lambda k: jax.random.permutation(k, number - 1)[:count])(keys)
  return others + (others >= jnp.arange(number)[:, None])


def contrastive_loss(
  audio, video, negatives, mask=None, *, temperature: float = 0.07, axis_name: str | None = None
):
  """InfoNCE of TalkLip: the audio row u_i is nearer to its video v_i than to other audio rows.

  loss_i = -log( exp(u_i.v_i / t) / (exp(u_i.v_i / t) + sum_j exp(u_i.u_j / t)) )

  Args:
    audio: (N, D) unit rows u, from `ContrastiveHead`.
    video: (N, D) features of the lip expert; normalised here.
    negatives: (N, K) int rows of `audio`, never i itself.
    mask: (N,) bool, False on padding; such rows are no negatives either.
    temperature: t.
    axis_name: see the module; negatives come from the same device.

  Returns:
    The mean over i, a scalar.
  """
  audio, video = audio.astype(jnp.float32), unit(video)
  similarity = jnp.einsum('nd,md->nm', audio, audio, precision=lax.Precision.HIGHEST)
  against = jnp.take_along_axis(similarity, negatives, axis=1)
  if mask is not None:
    against = jnp.where(mask[negatives], against, -jnp.inf)
  logits = jnp.concatenate([jnp.sum(audio * video, -1, keepdims=True), against], 1) / temperature
  return masked_mean(-jax.nn.log_softmax(logits)[:, 0], mask, axis_name=axis_name)


# --------------------------------------------------------------------------------------------------
# Text
# --------------------------------------------------------------------------------------------------


def label_smoothed_cross_entropy(
  logits, targets, *, smoothing: float = 0.1, pad: int = 1, axis_name: str | None = None
):
  """Cross-entropy against targets of which `smoothing` is spread over the vocabulary (fairseq).

  Args:
    logits: (B, L, V).
    targets: (B, L) int; positions that hold `pad` do not count.
    smoothing: share of the probability that the other V - 1 tokens get together.
    pad: token id.
    axis_name: see the module.

  Returns:
    The SUM over all positions of the batch, a scalar: TalkLip divides by nothing.
  """
  log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
  picked = jnp.take_along_axis(log_probabilities, targets[..., None], axis=-1)[..., 0]
  each = smoothing / (logits.shape[-1] - 1)
  loss = -(1 - smoothing - each) * picked - each * log_probabilities.sum(-1)
  total = jnp.where(targets == pad, 0, loss).sum()
  return total if axis_name is None else total * lax.axis_size(axis_name)


def masked_prediction_loss(
  logits,
  targets,
  mask,
  padding_mask=None,
  *,
  unmasked_weight: float = 0.0,
  axis_name: str | None = None,
):
  """Cross-entropy of the clusters of hidden frames (HuBERT, AV-HuBERT).

  Args:
    logits: (B, T, classes).
    targets: (B, T) int cluster ids; those of padded frames do not matter.
    mask: (B, T) bool, True where audio or video was hidden.
    padding_mask: (B, T) bool, True where a frame is padding, or None.
    unmasked_weight: weight of the frames in plain sight; official: 0 for base, 1 for large models.
    axis_name: see the module.

  Returns:
    A scalar: the weighted sum over the number of frames whose weight is not 0. To train, av_hubert
    adds 10 times the mean square of the features before fusion.
  """
  log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
  picked = jnp.take_along_axis(log_probabilities, targets[..., None], axis=-1)[..., 0]
  weight = jnp.where(mask, 1.0, unmasked_weight)
  if padding_mask is not None:
    weight = jnp.where(padding_mask, 0.0, weight)
  number = (weight > 0).sum().astype(jnp.float32)
  if axis_name is not None:
    number = lax.pmean(number, axis_name)
  total = jnp.where(weight > 0, -weight * picked, 0).sum()
  return total / jnp.maximum(number, jnp.finfo(jnp.float32).tiny)
