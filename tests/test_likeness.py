"""Distances of embeddings, recall in galleries, scores of sets; portraits in and out."""

import numpy as np
import pytest

from tfg_jax.features import portrait
from tfg_jax.metrics import likeness


def rows(number, dimensions=8, seed=0):
  return np.random.default_rng(seed).normal(size=(number, dimensions))


def test_distances_by_hand():
  a, b = np.array([[3.0, 4.0]]), np.array([[4.0, 3.0]])
  assert likeness.cosine(a, b)[0] == pytest.approx(24 / 25)
  assert likeness.l1(a, b)[0] == pytest.approx(2, abs=1e-5)
  assert likeness.l2(a, b)[0] == pytest.approx(np.sqrt(2), abs=1e-5)
  assert likeness.cosine(0 * a, b)[0] == 0
  assert likeness.inter_person_similarity(np.eye(3), np.eye(3)) == 0


def test_recall_counts_those_who_are_nearer():
  gallery = np.eye(4)
  queries = np.array([[1, 0, 0, 0], [2, 1, 0, 0], [3, 2, 1, 0], [4, 3, 2, 1]], float)
  assert likeness.ranks(queries, gallery).tolist() == [0, 1, 2, 3]
  assert likeness.recall(queries, gallery, (1, 2, 4)) == {1: 0.25, 2: 0.5, 4: 1.0}


def test_recall_is_the_mean_of_three_galleries_of_a_hundred():
  gallery = rows(450)
  queries = gallery.copy()
  queries[300:] = 0  # officially nobody looks at these
  queries[:50] = gallery[np.arange(50) + 1]  # the first gallery is half wrong
  found = likeness.recall(queries, gallery, (1,))
  assert np.isnan(likeness.places(queries, gallery)).sum() == 150
  assert found[1] == pytest.approx((0.5 + 1 + 1) / 3)


def test_the_score_of_a_set():
  sure = np.eye(4)[np.arange(20) % 4]
  assert likeness.class_score(sure, 1).mean == pytest.approx(4)
  assert likeness.class_score(np.full((20, 4), 0.25), 2) == pytest.approx((1, 0))
  uneven = np.concatenate([sure, np.eye(4)[[0, 0, 0]]])
  assert likeness.class_score(uneven, 5, equal_parts=True).mean == pytest.approx(4)


def test_frechet_distance_of_shifted_and_scaled_sets():
  a = rows(500, 3)
  assert likeness.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
  assert likeness.frechet_distance(a, a + [1, 2, 2]) == pytest.approx(9, rel=1e-6)
  expected = np.trace(np.cov(a, rowvar=False))  # (2 - 1)^2 times the variances, and the mean
  shift = np.square(a.mean(0)).sum()
  assert likeness.frechet_distance(a, 2 * a) == pytest.approx(expected + shift, rel=1e-6)


def test_pixels_through_the_network_space():
  pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
  image = portrait.from_uint8(pixels)
  back = np.asarray(portrait.to_uint8(image + 1e-4))  # half a level or less
  np.testing.assert_array_equal(back, pixels)
  bright = portrait.facenet_input(image + 100, crop=False)
  np.testing.assert_allclose(bright, 127.5 / 128)


def test_corners_stay_where_they_are():
  image = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1)
  grown = np.asarray(portrait.resize_corners(image, (5, 7)))[0, ..., 0]
  np.testing.assert_allclose(grown[::2, ::2], image[0, ..., 0], atol=1e-5)
  np.testing.assert_allclose(grown[0], np.linspace(0, 3, 7), atol=1e-5)
