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
  difference = absolute(image.astype(jnp.float32) - target.astype(jnp.float32))
  return masked_mean(difference, mask, axis_name=axis_name)


def absolute(x):
  """|x| of (...) numbers with gradient 0 at 0, as in PyTorch; that of `jnp.abs` is 1 there."""
  return x * lax.stop_gradient(jnp.sign(x))


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


# --------------------------------------------------------------------------------------------------
# Speech2Video: distillation (Eq. 2 and 3), least-squares adversaries (Eq. 4 to 7), pixels (8 and 9)
# --------------------------------------------------------------------------------------------------


def unit_distance(student, teacher):
  """Squared distance of two (B, D) features after L2 normalisation, batch mean; 0 to 4 (Eq. 2)."""
  return jnp.square(unit(student) - unit(teacher)).sum(-1).mean()


def distillation(student, teacher, *, temperature: float = 1.0, literal: bool = False):
  """Softmax cross-entropy of two (B, D) features, batch mean (Eq. 3).

  The teacher gives the target distribution, as in the two papers that Eq. 3 comes from
  (Speech2Face, 2019; Albanie et al., 2018). As printed (`literal`) the student weights the
  teacher's log-probabilities: least for a student that is sure of the teacher's first choice.
  """
  student, teacher = (x.astype(jnp.float32) / temperature for x in (student, teacher))
  target, logits = (student, teacher) if literal else (teacher, student)
  return -(jax.nn.softmax(target) * jax.nn.log_softmax(logits)).sum(-1).mean()


def least_squares(scores, label: float):
  """Half the mean square of scores minus the label: one half of an LSGAN loss (Mao et al., 2017).

  Speech2Video prints the labels real 0, generated 1; D -> 1 - D turns them into the usual real 1,
  generated 0, which its system uses, with the same values.
  """
  return 0.5 * jnp.square(scores.astype(jnp.float32) - label).mean()


def adversary(on_real, on_fake):
  """What an LSGAN discriminator minimises of (...) scores: real 1, generated 0 (Eq. 4, 5)."""
  return least_squares(on_real, 1.0) + least_squares(on_fake, 0.0)


def sync_adversary(on_real, on_shifted, on_fake):
  """The same of (speech, frame) pairs, with real pairs out of sync as a second fake (Eq. 6)."""
  negatives = least_squares(on_shifted, 0.0) + least_squares(on_fake, 0.0)
  return 2 * least_squares(on_real, 1.0) + negatives


# Which rows of a picture count, as shares of its height.
HALVES = {'upper': (0.0, 0.5), 'lower': (0.5, 1.0), 'full': (0.0, 1.0)}


def half_face_l1(image, target, half: str = 'upper'):
  """Mean absolute difference of (..., H, W, C) images over the rows of one of `HALVES` (Eq. 8)."""
  start, stop = (int(share * image.shape[-3]) for share in HALVES[half])
  difference = image.astype(jnp.float32) - target.astype(jnp.float32)
  return jnp.abs(difference[..., start:stop, :, :]).mean()


def gradient_loss(image, target, *, smoothed: bool = True):
  """Mean absolute difference of the horizontal and vertical gradients of smoothed images (Eq. 9).

  Smoothing is [1, 2, 1] / 4 along both axes of (..., H, W, C) with repeated edges, which does not
  see what changes from pixel to pixel; gradients are forward differences. (The paper names no
  filters.) The two means are added. Without it, of the images as they are.
  """
  difference = image.astype(jnp.float32) - target.astype(jnp.float32)
  if smoothed:
    difference = smooth(difference)
  return sum(jnp.abs(jnp.diff(difference, axis=axis)).mean() for axis in (-3, -2))


def smooth(image):
  """(..., H, W, C) after [1, 2, 1] / 4 along rows and columns; edges repeat."""
  for axis in (-3, -2):
    size = image.shape[axis]
    padding = [(0, 0)] * image.ndim
    padding[axis] = (1, 1)
    padded = jnp.pad(image, padding, 'edge')
    before, after = (lax.slice_in_dim(padded, i, i + size, axis=axis) for i in (0, 2))
    image = (before + 2 * image + after) / 4
  return image


# --------------------------------------------------------------------------------------------------
# Two spaces and two senses (DAVS)
# --------------------------------------------------------------------------------------------------


def soft_cross_entropy(logits, label, *, axis_name: str | None = None):
  """Binary cross-entropy of (...) logits against a label in [0, 1], e.g. 0.93 for 'real'."""
  values = jax.nn.softplus(logits) - label * logits
  return masked_mean(values, axis_name=axis_name)


def square_distance(logits, label, *, axis_name: str | None = None):
  """LSGAN in place of cross-entropy: mean (p - label)^2 of the probabilities p of (...) logits."""
  return masked_mean(jnp.square(jax.nn.sigmoid(logits) - label), axis_name=axis_name)


def distances(video, audio):
  """d_mn, (B, B) float32: Euclidean distances of (B, D) video rows m and audio rows n as unit
  vectors. The gradient is finite where a distance is 0."""
  difference = unit(video)[:, None] - unit(audio)[None]
  squares = jnp.square(difference).sum(-1)
  some = squares > 0
  return jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1)), 0)


def l2_contrastive(video, audio, *, margin: float = 1.0, hardest: bool = False):
  """Pulls the two senses of a clip together and pushes those of other clips apart, (B, D) each.

  Half the mean over the clips of d_mm^2 + sum over n != m of max(margin - d_mn, 0)^2; with
  `hardest` only the largest term of that sum counts. This is what the released DAVS code has for
  the paper's Eq. 1, `contrastive_eq1`. The other clips are those of the same device.
  """
  d = distances(video, audio)
  apart = jnp.square(jnp.maximum(margin - d, 0)) * (1 - jnp.eye(len(d)))
  apart = apart.max(axis=1) if hardest else apart.sum(axis=1)
  return (jnp.square(jnp.diagonal(d)) + apart).mean() / 2


def contrastive_eq1(video, audio):
  """L_C of the DAVS paper: sum over m, n of l_mn d_mn + (1 - l_mn) max(1 - d_mn, 0); not a mean."""
  d = distances(video, audio)
  same = jnp.eye(len(d))
  return jnp.sum(same * d + (1 - same) * jnp.maximum(1 - d, 0))


def ranking(video, audio, *, margin: float = 0.5):
  """Sum over m != n of max(margin + cos_mn - cos_mm, 0): the other clip's audio is less like the
  video than its own, by a margin; an alternative in the released DAVS code."""
  cosine = jnp.einsum('md,nd->mn', unit(video), unit(audio), precision=lax.Precision.HIGHEST)
  cost = jnp.maximum(margin + cosine - jnp.diagonal(cosine)[:, None], 0)
  return jnp.sum(cost * (1 - jnp.eye(len(cost))))


def cross_entropy(logits, labels, mask=None, *, axis_name: str | None = None):
  """Mean cross-entropy of logits (B, ..., N) against labels (B,) int, the same for all vectors of
  an example."""
  log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
  labels = labels.reshape(-1, *[1] * (logits.ndim - 1))
  picked = jnp.take_along_axis(log_probabilities, labels, axis=-1)
  return masked_mean(-picked, mask, axis_name=axis_name)


def confusion(logits, mask=None, *, axis_name: str | None = None):
  """Eq. 3 and 5 of the DAVS paper: the sum over the classes of (softmax - 1/N)^2.

  Takes (..., N) logits; 0 if the classifier knows nothing at all. The released code has the mean
  over the classes.
  """
  probabilities = jax.nn.softmax(logits.astype(jnp.float32))
  squares = jnp.sum(jnp.square(probabilities - 1 / logits.shape[-1]), axis=-1)
  return masked_mean(squares, mask, axis_name=axis_name)


def log_confusion(logits, mask=None, *, axis_name: str | None = None):
  """Mean over the classes of -log softmax of (..., N) logits, log N if the classifier knows nothing
  at all; an alternative in the released DAVS code."""
  return masked_mean(-jax.nn.log_softmax(logits.astype(jnp.float32)), mask, axis_name=axis_name)


def mouth_weighted_l1(image, target, mouth, *, whole: float = 4.0, extra: float = 8.0):
  """L1 in grey levels: whole * mean |255 d| + extra * mean |255 m d|, both means over all pixels.

  Takes images (..., H, W, C) in [0, 1] and `mouth` m, (H, W), 1 on the mouth and 0 elsewhere.
  """
  difference = 255 * jnp.abs(image.astype(jnp.float32) - target.astype(jnp.float32))
  return jnp.mean(difference * (whole + extra * mouth[..., None]))


def unsteadiness(video, first, mouth):
  """How much moves outside the mouth: the sum over the frames of the mean |change| there.

  Takes (B, T, H, W, C) frames, `first` (B, H, W, C), which stands before them, and `mouth` as
  above. A frame is drawn to the one before it, not that one to this.
  """
  before = jnp.concatenate([first[:, None], lax.stop_gradient(video[:, :-1])], axis=1)
  change = jnp.abs(video - before) * (1 - mouth[..., None])
  return change.mean((0, 2, 3, 4)).sum()


# --------------------------------------------------------------------------------------------------
# SF2F
# --------------------------------------------------------------------------------------------------


def adversarial_loss(logits, *, real: bool, kind: str = 'gan'):
  """What a player pays where (...) logits do not say 'real' (or 'generated'); mean over all.

  `kind` is 'gan' (binary cross-entropy), 'wgan' (the logits themselves) or 'lsgan' (square of the
  distance of their logistic from the label). The generator pays for fakes with `real` True.
  """
  logits = logits.astype(jnp.float32)
  sign = -1 if real else 1
  if kind == 'lsgan':
    return jnp.square(jax.nn.sigmoid(logits) - float(real)).mean()
  return (jax.nn.softplus(sign * logits) if kind == 'gan' else sign * logits).mean()


def perceptual_terms(drawn, real):
  """Mean absolute differences of what FaceNet makes of drawn and real faces.

  Takes `facenet.FaceFeatures`; returns (4,): of the three maps and of the embedding.
  """
  pairs = zip((*drawn.maps, drawn.embedding), (*real.maps, real.embedding), strict=True)
  return jnp.stack([absolute(a - b).mean() for a, b in pairs])


# What each of the four counts for (`FaceNetLoss` of SF2F).
PERCEPTUAL_WEIGHTS = (1 / 16, 1 / 8, 1 / 4, 1)


def predictive_coding(predicted, encoded, negatives):
  """InfoNCE of CPC: the guess of a step is nearer to that step than to others.

  Args:
    predicted: (B, N, K, D), guesses made at each step of the next 1 to K steps.
    encoded: (B, N, D), what the steps are.
    negatives: (B, M) int, places among the B * N steps of the batch. Where one is the very step
      that is guessed, it does not count.

  Returns:
    Cross-entropy, mean over steps that have K more behind them, SUM over K (CPC_audio); for blind
    guesses K log(M + 1).
  """
  clips, length, ahead, features = predicted.shape
  guesses = predicted[:, : length - ahead].astype(jnp.float32)
  encoded = encoded.astype(jnp.float32)
  places = jnp.arange(length - ahead)[:, None] + jnp.arange(1, ahead + 1)  # (N - K, K)
  own = (guesses * encoded[:, places]).sum(-1, keepdims=True)
  others = encoded.reshape(-1, features)[negatives]
  against = jnp.einsum('btkd,bmd->btkm', guesses, others)
  place = places + length * jnp.arange(clips)[:, None, None]
  same = place[..., None] == negatives[:, None, None]
  scores = jnp.concatenate([own, jnp.where(same, -jnp.inf, against)], -1) / features
  return -jax.nn.log_softmax(scores)[..., 0].mean((0, 1)).sum()
