"""The light generator: as random as initial weights and dropout need, the same everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfg_jax import light_random


def keys(*seeds):
  return [light_random.from_key(jax.random.key(seed)) for seed in seeds]


def test_numbers_are_uniform_and_normal_and_uncorrelated():
  (key,) = keys(0)
  x = np.asarray(jax.random.uniform(key, (1000, 1000)))
  assert abs(x.mean() - 0.5) < 2e-3
  np.testing.assert_allclose(np.histogram(x, 16, (0, 1))[0] / x.size, 1 / 16, rtol=0.02)
  flat = x.ravel() - 0.5
  for lag in (1, 2, 1000):
    assert abs((flat[lag:] * flat[:-lag]).mean() * 12) < 5e-3
  rank = np.linalg.matrix_rank(np.asarray(jax.random.normal(key, (300, 300))))
  assert rank == 300
  normal = np.asarray(jax.random.normal(key, (10**6,)))
  assert abs(normal.std() - 1) < 3e-3
  masks = np.asarray(jax.random.bernoulli(key, 0.1, (10**6,)))
  assert abs(masks.mean() - 0.1) < 1e-3


def test_keys_children_and_bits_have_nothing_in_common():
  zero, one = keys(0, 1)
  streams = [
    zero,
    one,
    *jax.random.split(zero, 3),
    *(jax.random.fold_in(zero, i) for i in range(3)),
  ]
  drawn = np.stack([np.asarray(jax.random.uniform(key, (100_000,))) for key in streams])
  correlation = np.corrcoef(drawn) - np.eye(len(streams))
  assert np.abs(correlation).max() < 0.02
  assert len({tuple(np.asarray(jax.random.key_data(key))) for key in streams}) == len(streams)


def test_a_key_s_numbers_do_not_change():
  (key,) = keys(7)
  bits = np.asarray(jax.random.bits(key, (3,), 'uint32'))
  compiled = jax.jit(lambda key: jax.random.bits(key, (3,), 'uint32'))
  np.testing.assert_array_equal(compiled(key), bits)
  assert bits.tolist() == [2803216774, 2597508134, 291083963]


def test_it_draws_no_more_than_32_bits_at_once():
  (key,) = keys(0)
  assert jax.random.bits(key, (), 'uint8').dtype == jnp.uint8
  with pytest.raises(ValueError, match='64 random bits at once'):
    light_random._random_bits(jax.random.key_data(key), 64, ())
