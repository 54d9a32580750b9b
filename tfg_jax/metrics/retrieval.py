"""How well one sense finds the other: ranks among a gallery, in blocks, on the device.

Source: the evaluation of Hangz-nju-cuhk/Talking-Face-Generation-DAVS, `embedding_utils/metrics.py`;
25,000 test clips of LRW make a gallery.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tfg_jax.networks.layers import unit

RECALLS = (1, 5, 10, 50)


@functools.partial(jax.jit, static_argnames='block')
def ranks(queries, gallery, *, block: int = 512):
  """Where in the gallery, sorted by distance, the counterpart of each query stands.

  Args:
    queries: (N, D); query i belongs to gallery row i. Only directions count: for unit vectors the
      order by distance is that by cosine.
    gallery: (N, D).
    block: queries that are compared at once; memory holds block * N distances.

  Returns:
    (ranks, nearest): (N,) int32, 0 where the counterpart is the nearest of all, and (N,) int32,
    which row that is.
  """
  queries, gallery = unit(queries), unit(gallery)
  number = len(queries)
  blocks = -(-number // block)
  padded = jnp.pad(queries, ((0, blocks * block - number), (0, 0)))

  def compare(piece):
    rows, own = piece
    cosine = jnp.einsum('qd,nd->qn', rows, gallery, precision=lax.Precision.HIGHEST)
    counterpart = jnp.take_along_axis(cosine, own[:, None], axis=1)
    return (cosine > counterpart).sum(-1, dtype=jnp.int32), cosine.argmax(-1).astype(jnp.int32)

  own = jnp.minimum(jnp.arange(blocks * block), number - 1).reshape(blocks, block)
  found, nearest = lax.map(compare, (padded.reshape(blocks, block, -1), own))
  return found.reshape(-1)[:number], nearest.reshape(-1)[:number]


def recalls(found) -> dict[str, float]:
  """Of (N,) ranks from 0 on: R@1, R@5, R@10, R@50 in percent, median and mean rank from 1 on."""
  found = np.asarray(found)
  numbers = {f'r@{k}': 100 * float(np.mean(found < k)) for k in RECALLS}
  numbers['median_rank'] = float(np.floor(np.median(found)) + 1)
  numbers['mean_rank'] = float(np.mean(found) + 1)
  return numbers


def correct(logits, labels):
  """(N,) float32, 1 where the largest of (N, classes) logits is that of the label."""
  return (logits.argmax(-1) == labels).astype(jnp.float32)
