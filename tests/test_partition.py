"""What the compiler is told of the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfg_jax import partition


def test_on_a_cpu_the_compiler_is_told_who_convolves_and_who_adds_up():
  assert partition.compiler_options('tpu') == partition.compiler_options('gpu') == {}
  if not partition.compiler_options('cpu'):
    pytest.skip('This JAX has no choice: XLA convolves and adds up by itself.')

  def statistics(state, batch):
    y = jax.lax.conv_general_dilated(
      batch['x'],
      jnp.ones((3, 3, 1, 1)),
      window_strides=(1, 1),
      padding='SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return state, {'square': jnp.mean(jnp.square(y)), 'mean': jnp.mean(batch['x'])}

  x = np.random.default_rng(0).normal(30, 1, (2, 400, 400, 1)).astype(np.float32)
  place = partition.build('jit', batch_size=2, devices=jax.devices()[:1])
  compiled = place.lower(statistics, jnp.zeros(()), {'x': x}).compile()
  text = compiled.as_text()
  assert ' convolution(' in text and '__ynn_fusion' in text
  _, metrics = compiled(place.replicate(jnp.zeros(())), place.put({'x': x}))
  np.testing.assert_allclose(metrics['mean'], x.mean(dtype=np.float64), rtol=2e-7)


def test_a_compiler_that_does_not_know_the_word_is_told_nothing(monkeypatch):
  def refuse(*args, **settings):
    raise jax.errors.JaxRuntimeError('No such compile option')

  monkeypatch.setattr(partition.jax, 'jit', refuse)
  assert partition.compiler_options.__wrapped__('cpu') == {}
