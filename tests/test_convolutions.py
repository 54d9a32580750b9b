"""Convolutions in a CPU's form have the results and gradients of XLA's own form.

With 8 channels or more, where the CPU's loads are of whole registers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tfg_jax import partition
from tfg_jax.networks import convolutions


def random(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def for_a(platform, convolve, x, kernel):
  """The result of a convolution, and the gradients of x and kernel, for a random gradient of it."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(convolutions, '_platform', lambda: platform)
    y, pull_back = jax.vjp(convolve, x, kernel)
    return y, *pull_back(random(*y.shape, seed=2))


def assert_equal_on_all_devices(convolve, x, kernel, *, plainly=None):
  found, expected = for_a('cpu', convolve, x, kernel), for_a('tpu', plainly or convolve, x, kernel)
  assert found[0].size and [r.shape for r in found[1:]] == [x.shape, kernel.shape]
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def assert_a_cpu_convolves(x, kernel, strides, paddings):
  """Against what is padded apart: XLA's own gradients of wide paddings are wrong on a CPU."""
  assert_equal_on_all_devices(
    lambda x, kernel: convolutions.conv(x, kernel, strides, paddings),
    x,
    kernel,
    plainly=lambda x, kernel: convolutions.conv(
      jnp.pad(x, [(0, 0), *paddings, (0, 0)]), kernel, strides, [(0, 0)] * len(strides)
    ),
  )


@pytest.mark.parametrize(
  'sizes, window, strides, paddings',
  [
    ((9,), (4,), (3,), [(0, 2)]),
    ((8, 7), (3, 3), (1, 1), [(1, 1), (1, 1)]),
    ((8, 9), (3, 5), (2, 2), [(1, 1), (2, 2)]),
    ((9, 8), (1, 1), (2, 1), [(0, 0), (0, 0)]),  # half of the rows reach nothing
    ((6, 7), (5, 2), (1, 3), [(0, 4), (1, 0)]),
    ((4, 5, 6), (3, 2, 4), (1, 2, 2), [(1, 1), (0, 1), (2, 1)]),
    ((9, 6), (3, 3), (3, 2), [(1, 1), (1, 1)]),  # rows that reach no tap at the edge
    ((3, 2), (2, 6), (1, 6), [(3, 3), (4, 2)]),
  ],
)
def test_a_cpu_convolves_with_the_numbers_and_gradients_of_other_devices(
  sizes, window, strides, paddings
):
  assert_a_cpu_convolves(random(2, *sizes, 8), random(*window, 8, 16, seed=1), strides, paddings)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_window_has_its_gradients(data):
  def number(low, high):
    return data.draw(st.integers(low, high))

  size, window, stride = number(1, 9), number(1, 5), number(1, 4)
  low, high = number(0, 3), number(0, 3)
  assume(size + low + high >= window)
  assert_a_cpu_convolves(random(2, size, 8), random(window, 8, 8, seed=1), (stride,), [(low, high)])


@pytest.mark.parametrize('dilations, groups', [((2, 1), 1), (None, 2), ((1, 2), 2)])
def test_dilated_kernels_and_groups_of_channels(dilations, groups):
  assert_equal_on_all_devices(
    lambda x, kernel: convolutions.conv(
      x, kernel, (1, 2), [(1, 1), (0, 2)], dilations=dilations, groups=groups
    ),
    random(2, 7, 8, 4),
    random(3, 3, 4 // groups, 6, seed=1),
  )


@pytest.mark.parametrize(
  'window, strides, paddings, extras',
  [
    ((3,), (2,), (1,), (1,)),
    ((4, 3), (3, 1), (1, 0), (2, 0)),
    ((3, 1, 4), (1, 2, 2), (1, 0, 1), (0, 0, 0)),
  ],
)
def test_a_cpu_transposes_convolutions_with_the_numbers_and_gradients_of_other_devices(
  window, strides, paddings, extras
):
  assert_equal_on_all_devices(
    lambda x, kernel: convolutions.transposed(x, kernel, strides, paddings, extras),
    random(2, *range(4, 4 + len(window)), 8),
    random(*window, 8, 16, seed=1),
  )


def test_a_cpu_computes_what_is_convolved_once():
  if not partition.compiler_options('cpu'):
    pytest.skip('The compiler of this JAX cannot be told to keep barriers.')

  def loss(x, one, other):
    hidden = jnp.exp(convolutions.conv(x, one, (1, 1), [(1, 1)] * 2))
    return jnp.sin(convolutions.conv(hidden, other, (1, 1), [(1, 1)] * 2)).sum()

  # The second convolution, its kernel's gradient and exp's own derivative read the exponentials,
  # and two gradients the cosine; each would compute them anew in the order that it wants.
  gradients = jax.jit(jax.grad(loss, (0, 1, 2)), compiler_options=partition.compiler_options('cpu'))
  with jax.default_device('cpu'):
    lowered = gradients.lower(random(2, 16, 16, 8), random(3, 3, 8, 16), random(3, 3, 16, 24))
  text = lowered.compile().as_text()
  assert (text.count(' exponential('), text.count(' cosine(')) == (1, 1)


def test_a_program_is_traced_for_the_device_that_it_will_run_on(monkeypatch):
  assert convolutions._platform() == jax.devices()[0].platform
  with jax.default_device('cpu'):
    assert convolutions._platform() == 'cpu'
  with jax.default_device(jax.devices('cpu')[0]):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
    assert convolutions._platform() == 'cpu'
  assert convolutions._platform() == 'tpu'
