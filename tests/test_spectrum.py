"""The Fourier transform: its numbers, and that devices do not send each other what they hear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfg_jax import partition
from tfg_jax.features import spectrum

PIECES = np.random.default_rng(0).standard_normal((4, 3, 40)).astype(np.float32)


@pytest.mark.parametrize('length', [None, 64])
@pytest.mark.parametrize('wrap', [lambda f: f, jax.jit, jax.vmap, lambda f: jax.vmap(jax.vmap(f))])
def test_it_is_numpys(length, wrap):
  found = wrap(lambda x: spectrum.rfft(x, length))(PIECES)
  np.testing.assert_allclose(found, np.fft.rfft(PIECES, length), rtol=1e-5, atol=1e-5)
  assert found.dtype == jnp.complex64


def test_every_device_transforms_its_own_clips():
  place = partition.build('jit', batch_size=4, devices=jax.devices())
  assert place.mesh.size == 2

  def power(transform):
    step = jax.jit(lambda x: jnp.square(jnp.abs(transform(x))), in_shardings=place.split)
    return step.lower(PIECES).compile(), step(PIECES)

  ours, found = power(spectrum.rfft)
  assert 'all-gather' not in ours.as_text()
  np.testing.assert_allclose(found, np.abs(np.fft.rfft(PIECES)) ** 2, rtol=1e-4, atol=1e-4)
  assert found.sharding.is_equivalent_to(place.split, found.ndim)
  plain, _ = power(jnp.fft.rfft)
  assert 'all-gather' in plain.as_text()  # else `spectrum` is needed no more


def test_under_pmap_as_well():
  found = jax.pmap(spectrum.rfft)(PIECES.reshape(2, 2, 3, 40))
  np.testing.assert_allclose(found.reshape(4, 3, 21), np.fft.rfft(PIECES), rtol=1e-5, atol=1e-5)
