"""How much portraits resemble: distances of embeddings, recall, and scores of whole sets.

All take numpy arrays and run on the host.

Source: BAI-Yeqi/SF2F_PyTorch@e346b68 `utils/s2f_evaluator.py`, `utils/metric_utils.py`,
`scripts/compute_*_score.py`, `scripts/compute_fid.py`.
"""

from typing import NamedTuple

import numpy as np

RECALLS = (1, 2, 5, 10)  # of the paper's tables
GALLERY = 100  # people that a portrait is searched among
_GALLERIES = 3  # officially the rest of the test set is not searched
_PENALTY = 1e-6  # added to every difference, as `torch.nn.functional.pairwise_distance` does


def cosine(a, b):
  """Cosine of the angle between rows of (N, D) and (N, D); (N,), 1 for the same direction."""
  norms = np.linalg.norm(a, axis=-1).clip(1e-8) * np.linalg.norm(b, axis=-1).clip(1e-8)
  return (a * b).sum(-1) / norms


def l1(a, b):
  """Sum of the absolute differences of rows; (N,)."""
  return np.abs(a - b + _PENALTY).sum(-1)


def l2(a, b):
  """Euclidean distance of rows; (N,)."""
  return np.sqrt(np.square(a - b + _PENALTY).sum(-1))


def ranks(queries, gallery, *, distance=lambda a, b: -cosine(a, b)):
  """How many of (N, D) `gallery` are nearer to query i than row i is; (N,) int, 0 is a hit."""
  everything = distance(queries[:, None], gallery[None])
  own = np.diagonal(everything)
  return (everything < own[:, None]).sum(1)


def places(queries, gallery, *, size=GALLERY, distance=None):
  """The rank of each query's own row in its gallery; see `ranks`.

  Args:
    queries, gallery: (N, D), row i of both is the same person.
    size: of a gallery: the first three blocks of so many rows are galleries of their own; further
      rows are in none. With fewer rows there is one gallery, of all.
    distance: None searches by cosine; or `l1`.

  Returns:
    (N,) float, NaN for rows that are in no gallery.
  """
  settings = {} if distance is None else {'distance': distance}
  if len(queries) < size:
    return ranks(queries, gallery, **settings).astype(float)
  found = np.full(len(queries), np.nan)
  for i in range(min(len(queries) // size, _GALLERIES)):
    block = slice(i * size, (i + 1) * size)
    found[block] = ranks(queries[block], gallery[block], **settings)
  return found


def recall(queries, gallery, counts=RECALLS, *, size=GALLERY, distance=None):
  """Share of (N, D) queries whose own row is among the K nearest, {K: share}; see `places`."""
  found = places(queries, gallery, size=size, distance=distance)
  found = found[~np.isnan(found)]
  return {k: float((found < k).mean()) for k in counts}


def inter_person_similarity(a, b):
  """Mean cosine of rows i of (N, D) and j of (N, D) over all i != j."""
  a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True).clip(1e-8) for x in (a, b))
  number = len(a)
  return float(((a @ b.T).sum() - (a * b).sum()) / (number * (number - 1)))


class Score(NamedTuple):
  """Mean and deviation over parts of a set."""

  mean: float
  deviation: float


def class_score(probabilities, parts: int, *, equal_parts: bool = False) -> Score:
  """Exponential of the mean divergence of each picture's classes from those of its part.

  The Inception score, and the VGGFace score where the classes are people.

  Args:
    probabilities: (N, C), rows sum to 1; shuffle them first.
    parts: number of parts.
    equal_parts: leaves the last rows out where N does not divide.
  """
  number = len(probabilities)
  if equal_parts:
    number = number // parts * parts
  scores = []
  for i in range(parts):
    p = np.asarray(probabilities[i * number // parts : (i + 1) * number // parts], np.float64)
    with np.errstate(divide='ignore', invalid='ignore'):
      terms = p * (np.log(p) - np.log(p.mean(0)))
    scores.append(np.exp(np.where(p > 0, terms, 0).sum(1).mean()))
  return Score(float(np.mean(scores)), float(np.std(scores)))


def frechet_distance(a, b) -> float:
  """Frechet distance of the Gaussians that fit (N, D) and (M, D) features."""
  mean = np.square(a.mean(0) - b.mean(0)).sum()
  first, second = (np.cov(x, rowvar=False) for x in (a, b))
  # The trace of the root of first @ second, by way of a symmetric matrix.
  values, vectors = np.linalg.eigh(first)
  root = vectors * np.sqrt(values.clip(0)) @ vectors.T
  shared = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
  return float(mean + np.trace(first) + np.trace(second) - 2 * shared)
