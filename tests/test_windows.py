import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tfg_jax.data import windows
from tfg_jax.errors import DataError

sizes = st.tuples(st.integers(1, 12), st.integers(0, 200)).map(lambda s: (s[0], s[0] + 1 + s[1]))


@hypothesis.given(sizes=sizes, count=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_training_windows_never_overlap_and_stay_inside(sizes, count, seed):
  length, frames = sizes
  found = windows.training_windows(np.random.default_rng(seed), frames, count, length)
  starts, mask = found['window_starts'], found['window_mask']
  real = int(mask.sum())
  assert 1 <= real <= count
  np.testing.assert_array_equal(mask, np.arange(count) < real)
  assert np.all(np.diff(starts[:real]) >= length)
  assert starts.min() >= 1
  assert starts.max() + length <= frames
  np.testing.assert_array_equal(starts[real:], np.resize(starts[:real], count)[real:])


@hypothesis.given(sizes=sizes, count=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_identity_windows_are_inside_and_somewhere_else(sizes, count, seed):
  length, frames = sizes
  found = windows.training_windows(np.random.default_rng(seed), frames, count, length)
  identity = found['identity_starts']
  assert identity.min() >= 0
  assert identity.max() + length <= frames
  assert np.all(identity != found['window_starts'])
  np.testing.assert_array_equal(found['identity_step'], np.ones(count))


@hypothesis.given(
  sizes=st.tuples(st.integers(1, 12), st.integers(0, 200)).map(lambda s: (s[0], s[0] + s[1])),
  count=st.integers(1, 12),
)
def test_validation_windows_never_overlap_and_stay_inside(sizes, count):
  length, frames = sizes
  found = windows.validation_windows(frames, count, length)
  starts, real = found['window_starts'], int(found['window_mask'].sum())
  assert 1 <= real <= count
  assert starts[0] == 0
  assert np.all(np.diff(starts[:real]) >= length)
  assert starts.max() + length <= frames
  assert not found['identity_starts'].any()
  assert not found['identity_step'].any()


def test_all_windows_have_the_same_shapes_and_types():
  rng = np.random.default_rng(0)
  for found in (windows.training_windows(rng, 6, 4), windows.validation_windows(150, 4)):
    assert {name: (value.shape, value.dtype.name) for name, value in found.items()} == {
      'window_starts': ((4,), 'int32'),
      'identity_starts': ((4,), 'int32'),
      'identity_step': ((4,), 'int32'),
      'window_mask': ((4,), 'bool'),
    }


class Draws:
  """A generator that draws given starts, to compare with the published example."""

  def __init__(self, starts):
    self._starts = starts

  def choice(self, options, count, replace):
    assert (options, count, replace) == (65, 5, False)  # starts 1 .. T - 5, int(0.08 T) of them
    return np.array(self._starts) - 1

  def integers(self, high, size):
    assert high == 65
    return np.array([3, 8, 64])[:size]


def test_the_overlap_filter_is_the_official_one():
  found = windows.training_windows(Draws([12, 3, 5, 20, 9]), 70, 5)
  np.testing.assert_array_equal(found['window_starts'], [3, 9, 20, 3, 9])
  np.testing.assert_array_equal(found['window_mask'], [True, True, True, False, False])
  # Identity draws skip the window's own start: 3 becomes 4, 8 stays (window 9), 64 becomes 65.
  np.testing.assert_array_equal(found['identity_starts'], [4, 8, 65, 4, 8])


def test_validation_windows_are_the_official_ones():
  # T = 75: stride int(9.0) = 9, starts below 71; T = 20: stride 2, but at least 5 apart.
  found = windows.validation_windows(75, 8)
  np.testing.assert_array_equal(found['window_starts'], np.arange(0, 71, 9))
  assert found['window_mask'].all()
  found = windows.validation_windows(20, 4)
  np.testing.assert_array_equal(found['window_starts'], [0, 6, 12, 0])
  np.testing.assert_array_equal(found['window_mask'], [True, True, True, False])


def test_too_many_validation_windows_are_thinned_evenly():
  found = windows.validation_windows(75, 3)
  np.testing.assert_array_equal(found['window_starts'], [0, 36, 63])


def test_every_window_of_a_long_clip_can_be_kept():
  kept = set()
  rng = np.random.default_rng(0)
  for _ in range(200):
    kept.update(windows.training_windows(rng, 30, 1)['window_starts'].tolist())
  assert kept == set(range(1, 26))


def test_identities_are_uniform_over_the_other_starts():
  rng = np.random.default_rng(0)
  found = [windows.training_windows(rng, 8, 1) for _ in range(6000)]
  pairs = np.zeros((4, 4))
  for one in found:
    pairs[one['window_starts'][0], one['identity_starts'][0]] += 1
  expected = 6000 / 9  # three starts, three identities for each
  np.testing.assert_allclose(pairs[1:], (1 - np.eye(4)[1:]) * expected, atol=6 * expected**0.5)


def test_the_same_generator_draws_the_same_windows():
  one, two = (windows.training_windows(np.random.default_rng(3), 75, 6) for _ in range(2))
  for name in one:
    np.testing.assert_array_equal(one[name], two[name])


def test_short_clips_are_refused():
  with pytest.raises(DataError, match='clip has 5 frames; training windows need 6') as error:
    windows.training_windows(np.random.default_rng(0), 5, 1)
  assert error.value.hint.startswith('Leave shorter clips out when the corpus is prepared')
  with pytest.raises(DataError, match='clip has 4 frames; validation windows need 5'):
    windows.validation_windows(4, 1)
