"""The Fourier transform: its numbers, and that devices need not send each other what they hear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfg_jax import partition
from tfg_jax.features import spectrum

PIECES = np.random.default_rng(0).standard_normal((4, 3, 400)).astype(np.float32)
ACCELERATORS, CPU = spectrum._by_product, spectrum._by_fft


@pytest.mark.parametrize('length', [400, 512])
@pytest.mark.parametrize('way', [ACCELERATORS, CPU])
def test_both_ways_are_numpys(way, length):
  expected = np.abs(np.fft.rfft(PIECES.astype(np.float64), length))
  found = jax.jit(lambda x: way(x, length=length))(PIECES)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * expected.max())


@pytest.mark.parametrize('wrap', [lambda f: f, jax.jit, jax.vmap])
def test_without_a_length_it_is_that_of_the_pieces(wrap):
  found = wrap(spectrum.magnitudes)(PIECES)
  np.testing.assert_allclose(found, np.abs(np.fft.rfft(PIECES)), rtol=1e-4, atol=1e-4)


def test_accelerators_do_not_exchange_what_they_hear():
  place = partition.build('jit', batch_size=4, devices=jax.devices())
  assert place.mesh.size == 2

  step = jax.jit(lambda x: ACCELERATORS(x, length=512), in_shardings=place.split)
  assert 'all-gather' not in step.lower(PIECES).compile().as_text()


def test_the_cpu_takes_the_fft():
  assert 'fft' in jax.jit(spectrum.magnitudes).lower(PIECES).compile().as_text()
