"""What the compiler is told of the devices."""

import jax
import jax.numpy as jnp

from tfg_jax import partition


def test_on_a_cpu_the_compiler_is_told_who_convolves():
  options = partition.compiler_options('cpu')
  assert partition.compiler_options('tpu') == partition.compiler_options('gpu') == {}
  assert not options or list(options) == ['xla_cpu_experimental_ynn_fusion_type']

  def convolve(state, batch):
    kernel = jnp.ones((3, 3, 8, 8))
    layout = ('NHWC', 'HWIO', 'NHWC')
    y = jax.lax.conv_general_dilated(batch, kernel, (1, 1), 'SAME', dimension_numbers=layout)
    return state, {'sum': y.sum()}

  place = partition.build('jit', batch_size=2, devices=jax.devices()[:1])
  text = place.lower(convolve, jnp.zeros(()), jnp.zeros((2, 32, 32, 8))).compile().as_text()
  assert 'ynn' not in text


def test_a_compiler_that_does_not_know_the_word_is_told_nothing(monkeypatch):
  def refuse(*args, **settings):
    raise jax.errors.JaxRuntimeError('No such compile option')

  monkeypatch.setattr(partition.jax, 'jit', refuse)
  assert partition.compiler_options.__wrapped__('cpu') == {}
