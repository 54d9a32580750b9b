"""Targets of AV-HuBERT's masked prediction: which cluster each frame of speech belongs to.

A cluster is a centroid, so a target is a pure function of the batch: it is worked out in the
training step and no label files exist. Centroids are found once, on the host, before the first
step.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from tfg_jax.features import audio

MFCC_FEATURES = 3 * audio.MFCC_COEFFICIENTS


def mfcc_with_deltas(wav, num_samples, rows: int):
  """What the targets of the first iteration are clusters of, every 40 ms.

  HuBERT takes Kaldi's MFCC at 100 Hz and uses every fourth label; these are the MFCC of
  python_speech_features at the same frames. Differences are those of torchaudio's `compute_deltas`.

  Args:
    wav: (B, S) int16 at 16 kHz.
    num_samples: (B,) int, valid samples of each clip.
    rows: T, length of the result.

  Returns:
    (B, T, 39) float32: 13 cepstra, their differences, and the differences of those. Rows behind
    the audio mean nothing.
  """
  cepstra = audio.mfcc(wav, num_samples, rows * audio.STACK)
  last = jnp.minimum(audio.num_frames(jnp.asarray(num_samples)), cepstra.shape[1]) - 1
  first = _differences(cepstra, last)
  features = jnp.concatenate([cepstra, first, _differences(first, last)], axis=-1)
  return features[:, :: audio.STACK]


def _differences(x, last):
  """The slope (B, F, D) of x over two frames on either side; the ends repeat."""

  def shifted(by):
    place = jnp.clip(jnp.arange(x.shape[1]) + by, 0, last[:, None])
    return jnp.take_along_axis(x, place[..., None], axis=1)

  return sum(n * (shifted(n) - shifted(-n)) for n in (1, 2)) / 10


def nearest(features, centroids):
  """(..., D) features and (K, D) centroids to the number (...) int32 of the nearest centroid."""
  products = jnp.einsum('...d,kd->...k', features, centroids, precision=lax.Precision.HIGHEST)
  return jnp.argmin(jnp.square(centroids).sum(-1) - 2 * products, axis=-1).astype(jnp.int32)


def fit(features: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
  """Finds the centroids (count, D) of features (N, D), with av_hubert's settings of k-means.

  Raises:
    ValueError: if there are fewer features than centroids.
  """
  from sklearn.cluster import MiniBatchKMeans  # takes a second to import

  if len(features) < count:
    raise ValueError(f'{len(features)} frames cannot have {count} clusters')
  kmeans = MiniBatchKMeans(
    count,
    init='k-means++',
    max_iter=100,
    batch_size=20_000,
    tol=0.0,
    max_no_improvement=100,
    n_init=20,
    reassignment_ratio=0.0,
    random_state=seed,
  )
  return kmeans.fit(features).cluster_centers_.astype(np.float32)
