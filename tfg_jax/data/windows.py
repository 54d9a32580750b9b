"""TalkLip's choice of frames: which faces of a clip are drawn, and which show the identity.

Source: Sxjdwang/TalkLip@7ed53ee, train.py, `Talklipdata`. There the number of windows varies with
the clip; here it is fixed, as shapes must not change from step to step: where a clip gives fewer
windows, the spare slots repeat them and the mask says so; where it gives more, some are left out.
"""

import numpy as np

from tfg_jax.errors import DataError

_TRAINING_SHARE = 0.08  # starts drawn per frame of the clip
_VALIDATION_STRIDE = 0.12  # distance of candidate starts, as a share of the clip


def training_windows(rng, num_frames, count, length=5):
  """Draws windows that do not overlap, and an identity window for each.

  Args:
    rng: numpy Generator.
    num_frames: T, frames of the clip.
    count: K, number of windows to return.
    length: frames per window.

  Returns:
    dict of
      window_starts: (K,) int32, ascending up to the first spare slot, in [1, T - length].
      identity_starts: (K,) int32 in [0, T - length]; never the window's start, but may overlap it.
      identity_step: (K,) int32, all 1: identity frames are start, start + 1, ...
      window_mask: (K,) bool, False in spare slots.

  Raises:
    DataError: if the clip has fewer than length + 1 frames.
  """
  _check_length(num_frames, length + 1, 'training')
  draws = min(max(int(_TRAINING_SHARE * num_frames), 1), num_frames - length)
  drawn = 1 + rng.choice(num_frames - length, draws, replace=False)
  starts = _without_overlaps(np.sort(drawn), length)
  if len(starts) > count:
    starts = np.sort(rng.choice(starts, count, replace=False))
  identity = rng.integers(num_frames - length, size=len(starts))
  identity += identity >= starts  # skips the window's own start
  return _fixed(starts, identity, count, step=1)


def validation_windows(num_frames, count, length=5):
  """Spreads windows evenly over a clip; the identity is its first frame throughout.

  Takes and returns what `training_windows` does; `identity_starts` and `identity_step` are 0. With
  more than `count` windows, those nearest to an even spread stay. The official stride is 0 for
  clips of fewer than 9 frames, which fails there; here it is at least 1.

  Raises:
    DataError: if the clip has fewer than `length` frames.
  """
  _check_length(num_frames, length, 'validation')
  stride = max(int(_VALIDATION_STRIDE * num_frames), 1)
  starts = _without_overlaps(np.arange(0, num_frames - length + 1, stride), length)
  if len(starts) > count:
    starts = starts[np.linspace(0, len(starts) - 1, count).round().astype(int)]
  return _fixed(starts, np.zeros_like(starts), count, step=0)


def _check_length(num_frames, needed, purpose):
  if num_frames < needed:
    raise DataError(
      f'clip has {num_frames} frames; {purpose} windows need {needed}',
      hint='Leave shorter clips out when the corpus is prepared, or use shorter windows.',
    )


def _without_overlaps(starts, length):
  """Keeps an ascending start only if the last kept window has ended before it."""
  kept = [starts[0]]
  for start in starts[1:]:
    if start - kept[-1] >= length:
      kept.append(start)
  return np.array(kept)


def _fixed(starts, identity, count, step):
  return {
    'window_starts': np.resize(starts, count).astype(np.int32),  # np.resize repeats from the first
    'identity_starts': np.resize(identity, count).astype(np.int32),
    'identity_step': np.full(count, step, np.int32),
    'window_mask': np.arange(count) < len(starts),
  }
