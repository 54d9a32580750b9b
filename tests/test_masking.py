"""Properties of span masks and of the frames that replace masked ones."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tfg_jax.features.masking import mask_runs, replace_frames, span_mask, substitute_frames


@hypothesis.settings(max_examples=60)
@hypothesis.given(
  seed=st.integers(0, 1000),
  lengths=st.lists(st.integers(4, 40), min_size=1, max_size=3),
  kind=st.sampled_from(['static', 'uniform', 'normal', 'poisson']),
  overlap=st.booleans(),
)
def test_masks_leave_padding_alone_and_rows_equal(seed, lengths, kind, overlap):
  mask, runs = span_mask(
    np.random.RandomState(seed),
    (len(lengths), 40),
    lengths,
    probability=0.5,
    span=3,
    kind=kind,
    spread=1,
    min_spans=1,
    overlap=overlap,
  )
  assert not (mask & (np.arange(40) >= np.array(lengths)[:, None])).any()
  assert len(set(mask.sum(1))) == 1
  again = np.zeros_like(mask)
  for row, start, end in runs:
    assert start < end
    again[row, start:end] = True
  np.testing.assert_array_equal(again, mask)


def test_spans_that_may_not_overlap_keep_their_distance():
  for seed in range(50):
    _, runs = span_mask(
      np.random.RandomState(seed),
      (1, 60),
      probability=0.5,
      span=5,
      overlap=False,
      min_space=2,
    )
    np.testing.assert_array_equal(runs[:, 2] - runs[:, 1], 5)
    assert (runs[1:, 1] - runs[:-1, 2] >= 1).all()


def test_no_span_is_no_mask():
  for overlap in (True, False):
    mask, runs = span_mask(
      np.random.RandomState(0), (2, 9), probability=0.0, span=3, overlap=overlap
    )
    assert not mask.any() and runs.shape == (0, 3)


def test_a_kind_that_does_not_exist():
  with pytest.raises(ValueError, match="'normal' or 'poisson', not 'gamma'"):
    span_mask(np.random.RandomState(0), (1, 9), probability=0.5, span=3, kind='gamma')


def test_runs_touching_both_ends():
  mask = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1]], bool)
  np.testing.assert_array_equal(mask_runs(mask), [[0, 0, 2], [0, 3, 4], [2, 1, 4]])


@hypothesis.settings(max_examples=60)
@hypothesis.given(seed=st.integers(0, 1000), start=st.integers(0, 10), length=st.integers(1, 10))
def test_substitutes_come_from_elsewhere(seed, start, length):
  mask = np.zeros((1, 20), bool)
  mask[0, start : start + length] = True
  source = substitute_frames(np.random.RandomState(seed), mask)[0]
  np.testing.assert_array_equal(source[~mask[0]], np.flatnonzero(~mask[0]))
  run = source[mask[0]]
  assert not mask[0, run].any()
  np.testing.assert_array_equal(run, np.minimum(np.arange(run[0], run[0] + length), 19))


def test_a_clip_masked_from_end_to_end_gets_its_beginning():
  source = substitute_frames(np.random.RandomState(0), np.ones((1, 4), bool))
  np.testing.assert_array_equal(source, [[0, 1, 2, 3]])


def test_replaced_frames():
  video = np.arange(6.0).reshape(1, 6, 1, 1, 1)
  source = np.array([[0, 5, 5, 3, 1, 5]])
  np.testing.assert_array_equal(replace_frames(video, source)[0, :, 0, 0, 0], source[0])
