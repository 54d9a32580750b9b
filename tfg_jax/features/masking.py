"""Which frames AV-HuBERT's pre-training hides: av_hubert `utils.py`, `compute_mask_indices`.

Masks are drawn on the host with numpy, draw for draw as the official code does, so that a seed
gives its masks. Replacing frames happens on the device.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np


def span_mask(
  rng: np.random.RandomState,
  shape: tuple[int, int],
  lengths: Sequence[int] | None = None,
  *,
  probability: float,
  span: int,
  kind: str = 'static',
  spread: float = 0.0,
  min_spans: int = 0,
  overlap: bool = True,
  min_space: int = 0,
):
  """Draws spans of frames to mask; afterwards every row has the same number of masked frames.

  Rows with more masked frames than the poorest one keep a random part, so their spans get holes.

  Args:
    rng: numpy's legacy generator.
    shape: (B, T).
    lengths: (B,) frames of each row that are not padding, which is never masked; None for T.
    probability: `probability * T / span` spans are drawn; spans overlap, so fewer frames are
      masked.
    span: (mean) length of a span in frames. The official settings are 0.8 and 10 for audio, 0.3 and
      5 for video, and 0.8 and 10 for fused features, all with `min_spans=2`.
    kind: 'static' for equal spans, 'uniform' for lengths in [spread, 2 * span], 'normal' for a
      standard deviation of `spread`, 'poisson'.
    spread: see `kind`.
    min_spans: least number of spans in a row.
    overlap: False keeps spans apart, by at least `min_space` frames.
    min_space: see `overlap`.

  Returns:
    mask: (B, T) bool, True where masked.
    runs: (N, 3) int64 rows of (row, start, end), the runs of masked frames, end-exclusive.

  Raises:
    ValueError: if `kind` is none of these.
  """
  batch, frames = shape
  # Official: this draw is made even if every row then makes its own.
  shared = _rounded(rng, probability * frames / span, min_spans)
  rows = []
  for row in range(batch):
    size, number = frames, shared
    if lengths is not None:
      size = int(lengths[row])
      number = _rounded(rng, probability * size / span, min_spans)
    spans = _span_lengths(rng, number, span, kind, spread)
    if number and not sum(spans):
      spans[0] = min(span, size - 1)
    place = _overlapping if overlap else _separate
    masked = place(rng, size, spans, min_space)
    rows.append(np.unique(masked[masked < size]))

  fewest = min(len(masked) for masked in rows)
  mask = np.zeros(shape, bool)
  for row, masked in enumerate(rows):
    if len(masked) > fewest:
      masked = rng.choice(masked, fewest, replace=False)
    mask[row, masked] = True
  return mask, mask_runs(mask)


def mask_runs(mask):
  """Returns the runs of True in mask (B, T) as int64 rows (row, start, end), end-exclusive."""
  edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8))
  row, start = np.nonzero(edges == 1)
  _, end = np.nonzero(edges == -1)
  return np.stack([row, start, end], axis=1)


def _rounded(rng, expected, least):
  """Rounds up or down at random, with `expected` as the mean."""
  return max(least, int(expected + rng.rand()))


def _span_lengths(rng, number, span, kind, spread):
  if kind == 'static':
    return [span] * number
  if kind == 'uniform':
    return list(rng.randint(int(spread), 2 * span + 1, size=number))
  if kind == 'normal':
    return [max(1, round(x)) for x in rng.normal(span, spread, size=number)]
  if kind == 'poisson':
    return list(rng.poisson(span, size=number))
  raise ValueError(f"kind must be 'static', 'uniform', 'normal' or 'poisson', not {kind!r}")


def _overlapping(rng, size, spans, min_space):
  """Starts spans at distinct frames; `min_space` has no meaning here."""
  del min_space
  if not spans:
    return np.zeros(0, np.int64)
  margin = min(spans)
  if size - margin <= len(spans):  # too short a row for so many spans: let them reach over its end
    margin = size - len(spans) - 1
  starts = rng.choice(size - margin, len(spans), replace=False)
  return np.concatenate(
    [np.arange(start, start + length) for start, length in zip(starts, spans, strict=True)]
  )


def _separate(rng, size, spans, min_space):
  """Places spans, longest first, in gaps chosen in proportion to their size, while they fit."""
  gaps = [(0, size)]
  placed = [np.zeros(0, np.int64)]
  shortest = min(spans, default=0)
  for length in sorted(spans, reverse=True):
    room = np.array([end - start for start, end in gaps])
    room[room < length + min_space] = 0
    if not room.sum():
      break
    start, end = gaps.pop(rng.choice(len(gaps), p=room / room.sum()))
    # Official: fails where a gap is just as long as the span, possible if `min_space` is 0.
    first = rng.randint(start, max(end - length, start + 1))
    placed.append(np.arange(first, first + length))
    if first - start - min_space >= shortest:
      gaps.append((start, first - min_space + 1))
    if end - first - shortest - min_space > shortest:
      gaps.append((first + length + min_space, end))
  return np.concatenate(placed)


def substitute_frames(rng: np.random.RandomState, mask):
  """Draws the frames that stand in for masked ones: runs of equal length from the same clip.

  Args:
    rng: numpy's legacy generator.
    mask: (B, T) bool.

  Returns:
    (B, T) int32 source frames, each frame's own number where it is not masked. A run starts
    anywhere but where it would overlap the run that it replaces; it repeats the last frame if it
    reaches over the end.
  """
  frames = mask.shape[1]
  source = np.tile(np.arange(frames, dtype=np.int32), (len(mask), 1))
  for row, start, end in mask_runs(mask):
    length = end - start
    free = np.setdiff1d(np.arange(frames), np.arange(max(0, start - length), end))
    first = rng.choice(free) if len(free) else 0
    source[row, start:end] = np.minimum(np.arange(first, first + length), frames - 1)
  return source


def replace_frames(video, source):
  """Returns video (B, T, H, W, C) with frame t replaced by frame source[:, t]; source is (B, T)."""
  return jnp.take_along_axis(video, source[:, :, None, None, None], axis=1)
