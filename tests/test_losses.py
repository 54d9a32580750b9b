"""Losses: masks, devices, and values that can be worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfg_jax import losses

MASK = np.array([1, 1, 0, 1], bool)


def random(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_masked_l1_ignores_what_is_masked_even_infinities():
  image, target = random(4, 2, 2, 3), random(4, 2, 2, 3, seed=1)
  expected = np.abs(image - target)[MASK].mean()
  image[2] = np.inf
  value, gradient = jax.value_and_grad(losses.masked_l1)(image, target, MASK)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  assert np.all(np.isfinite(gradient)) and not np.any(gradient[2])
  assert losses.masked_l1(image, target, np.zeros(4, bool)) == 0


@pytest.mark.parametrize(
  'loss', [losses.masked_mean, losses.real_loss, losses.fake_loss, losses.generator_loss]
)
def test_mean_over_devices_is_the_loss_of_the_whole_batch(loss):
  values = random(4)
  whole, whole_gradient = jax.value_and_grad(loss)(values, MASK)

  @functools.partial(jax.vmap, axis_name='data')
  def parts(values, mask):
    return jax.value_and_grad(functools.partial(loss, axis_name='data'))(values, mask)

  # One device holds two valid examples, the other one.
  value, gradient = parts(values.reshape(2, 2), MASK.reshape(2, 2))
  np.testing.assert_allclose(value.mean(), whole, rtol=1e-6)
  # Each example lives on one of two devices: the mean over devices halves its gradient.
  np.testing.assert_allclose(gradient.reshape(4) / 2, whole_gradient, rtol=1e-6)


def test_adversarial_losses():
  undecided = np.zeros(3, np.float32)
  for loss in (losses.real_loss, losses.fake_loss, losses.generator_loss):
    np.testing.assert_allclose(loss(undecided), np.log(2), rtol=1e-6)
  sure = np.array([100.0], np.float32)
  assert losses.real_loss(sure) < 1e-6 and losses.generator_loss(sure) < 1e-6
  np.testing.assert_allclose(losses.fake_loss(sure), 100)


def test_negatives_are_distinct_other_rows_and_uniform():
  negatives = jax.jit(losses.sample_negatives, static_argnums=(1, 2))(jax.random.key(0), 40, 20)
  assert negatives.shape == (40, 20)
  for row, drawn in enumerate(np.asarray(negatives)):
    assert len(set(drawn)) == 20 and row not in drawn and set(drawn) <= set(range(40))
  counts = np.bincount(np.ravel(negatives), minlength=40)
  assert counts.min() > 8 and counts.max() < 34  # expected: 20 each


def test_contrastive_loss_of_orthogonal_rows():
  rows, negatives = np.eye(4, dtype=np.float32), np.array([[1, 2], [2, 3], [3, 0], [0, 1]])
  # The positive has similarity 1, two negatives 0.
  expected = np.log(1 + 2 * np.exp(-1 / 0.5))
  loss = losses.contrastive_loss(rows, 3 * rows, negatives, temperature=0.5)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_masked_rows_are_no_negatives():
  audio, video = random(4, 3), random(4, 3, seed=1)
  audio /= np.linalg.norm(audio, axis=-1, keepdims=True)
  negatives = np.array([[1, 2], [2, 3], [0, 1], [2, 0]])
  value, gradient = jax.value_and_grad(losses.contrastive_loss)(audio, video, negatives, MASK)
  audio[2] = 100
  assert losses.contrastive_loss(audio, video, negatives, MASK) == value
  assert np.all(np.isfinite(gradient)) and not np.any(gradient[2])


def test_label_smoothing():
  logits, targets = random(2, 3, 5), np.array([[2, 4, 3], [0, 1, 1]])
  log = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
  share = np.full((2, 3, 5), 0.1 / 4)
  np.put_along_axis(share, targets[..., None], 0.9, axis=-1)
  # fairseq's formula gives the target 1 - 0.1 in all, its share of the smoothing included.
  expected = -(share * log).sum(-1)[targets != 1].sum()
  loss = losses.label_smoothed_cross_entropy(logits, targets)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)

  parts = jax.vmap(
    functools.partial(losses.label_smoothed_cross_entropy, axis_name='data'), axis_name='data'
  )(logits[:, None], targets[:, None])
  np.testing.assert_allclose(parts.mean(), expected, rtol=1e-5)


def test_cosine_bce_masks_and_stays_finite():
  audio = jnp.array([[1.0, 0], [1, 0], [0, 0], [1, 1]])
  video = jnp.array([[1.0, 0], [0, 1], [1, 0], [1, 1]])
  label = jnp.array([1.0, 1, 1, 0])
  each = [float(losses.cosine_bce(audio, video, label, jnp.arange(4) == i)) for i in range(4)]
  np.testing.assert_allclose(each[:3], [0, 100, 100], atol=1e-5)
  assert each[3] > 10  # a perfect match that should not be one


def test_stripes_are_seen_by_gradients_that_are_not_smoothed():
  flat = np.zeros((1, 8, 9, 3), np.float32)
  stripes = flat + np.where(np.arange(9) % 2, 1, -1)[:, None].astype(np.float32)
  assert losses.gradient_loss(stripes, flat, smoothed=False) == pytest.approx(2)
  # All of them are gone but at the two edges, which repeat: a half of the last one is left.
  assert losses.gradient_loss(stripes, flat) == pytest.approx(2 * 0.5 / 8)
