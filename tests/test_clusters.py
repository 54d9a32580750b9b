"""Targets of masked prediction: cepstra with their differences, centroids, the nearest of them."""

import numpy as np
import pytest
from noise import gaussian

from tfg_jax.features import audio, clusters


def test_differences_are_slopes_over_two_frames_on_either_side():
  rows, samples = 6, np.array([6 * 640, 4 * 640])
  wav = (gaussian(1, 2, 6 * 640) * 3000).astype(np.int16)
  features = np.asarray(clusters.mfcc_with_deltas(wav, samples, rows))
  assert features.shape == (2, rows, clusters.MFCC_FEATURES)
  cepstra = np.asarray(audio.mfcc(wav, samples, 4 * rows))
  for clip in range(2):
    valid = cepstra[clip, : audio.num_frames(int(samples[clip]))]

    def slopes(x):
      padded = np.pad(x, ((2, 2), (0, 0)), 'edge')
      return (padded[3:-1] - padded[1:-3] + 2 * (padded[4:] - padded[:-4])) / 10

    expected = np.concatenate([valid, slopes(valid), slopes(slopes(valid))], axis=1)[::4]
    np.testing.assert_allclose(features[clip, : len(expected)], expected, atol=1e-3)


def test_nearest_is_the_least_distance():
  x, centroids = gaussian(2, 3, 5, 7), gaussian(3, 4, 7)
  distances = np.linalg.norm(x[..., None, :] - centroids, axis=-1)
  np.testing.assert_array_equal(clusters.nearest(x, centroids), distances.argmin(-1))


def test_clusters_that_lie_apart_are_found():
  centres = 10 * gaussian(4, 5, 3)
  x = np.repeat(centres, 40, axis=0) + 0.01 * gaussian(5, 200, 3)
  found = clusters.fit(x, 5)
  assert found.dtype == np.float32
  np.testing.assert_array_equal(np.unique(clusters.nearest(centres, found)), np.arange(5))
  np.testing.assert_allclose(found[clusters.nearest(centres, found)], centres, atol=0.01)
  np.testing.assert_array_equal(found, clusters.fit(x, 5))


def test_fewer_frames_than_clusters():
  with pytest.raises(ValueError, match='3 frames cannot have 4 clusters'):
    clusters.fit(np.zeros((3, 2)), 4)
