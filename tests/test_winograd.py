"""Winograd's convolutions have the results and gradients of plain ones, from fewer products."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfg_jax.networks import convolutions, winograd


def random(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def exactly(x, kernel, paddings):
  """The convolution in float64, tap by tap."""
  x = np.pad(x.astype(np.float64), [(0, 0), *paddings, (0, 0)])
  k = len(kernel)
  height, width = (size - k + 1 for size in x.shape[1:3])
  return sum(
    x[:, i : i + height, j : j + width] @ kernel[i, j].astype(np.float64)
    for i, j in itertools.product(range(k), repeat=2)
  )


def exact_gradients(gradient, x, kernel, paddings):
  """Of x and kernel, in float64."""
  k = len(kernel)
  turned = kernel[::-1, ::-1].swapaxes(2, 3)
  of_x = exactly(gradient, turned, [(k - 1 - low, k - 1 - high) for low, high in paddings])
  padded = np.pad(x.astype(np.float64), [(0, 0), *paddings, (0, 0)])
  height, width = gradient.shape[1:3]
  of_kernel = np.empty(kernel.shape)
  for i, j in itertools.product(range(k), repeat=2):
    pixels = padded[:, i : i + height, j : j + width]
    of_kernel[i, j] = np.einsum('bhwi,bhwo->io', pixels, gradient.astype(np.float64))
  return of_x, of_kernel


def rounding(found, exact) -> float:
  """How far results are off, of how far they are spread (RMS both)."""
  return float(np.sqrt(np.mean((found - exact) ** 2)) / np.std(exact))


def found_and_exact(x, kernel, paddings):
  """The result, and the gradients of x and kernel for a random gradient, here and in float64."""
  conv = functools.partial(winograd.conv, paddings=paddings)
  gradient = random(*jax.eval_shape(conv, x, kernel).shape, seed=2)

  @jax.jit
  def both(x, kernel, gradient):
    y, pull_back = jax.vjp(conv, x, kernel)
    return y, *pull_back(gradient)

  exact = exactly(x, kernel, paddings), *exact_gradients(gradient, x, kernel, paddings)
  return zip(both(x, kernel, gradient), exact, strict=True)


@pytest.mark.parametrize('k, most', [(3, 2e-6), (5, 4e-6)])
def test_results_and_gradients_are_those_of_the_plain_convolution(k, most):
  x, kernel = random(3, 12, 16, 64), random(k, k, 64, 80, seed=1)
  for found, exact in found_and_exact(x, kernel, paddings=((k // 2,) * 2,) * 2):
    assert found.shape == exact.shape and found.dtype == jnp.float32
    assert rounding(found, exact) < most


@settings(max_examples=15)
@given(st.data())
def test_any_size_and_padding_will_do(data):
  k = data.draw(st.sampled_from([3, 5]))
  padding = st.integers(0, k - 1)
  paddings = data.draw(st.tuples(*[st.tuples(padding, padding)] * 2))
  height, width = (data.draw(st.integers(max(1, k - sum(around)), 9)) for around in paddings)
  x, kernel = random(2, height, width, 3), random(k, k, 3, 2, seed=1)
  for found, exact in found_and_exact(x, kernel, paddings):
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=2e-4)


def multiplications(function, *args) -> float:
  """Of the matrix products and convolutions in a compiled program, as XLA counts FLOPs."""
  return jax.jit(function).lower(*args).compile().cost_analysis()['flops'] / 2


@pytest.mark.parametrize('k, fewer', [(3, 3), (5, 4)])
def test_it_multiplies_less(k, fewer):
  # A fourth and two thirteenths of the products alone; the sums are in the count as well.
  x, kernel, paddings = random(1, 32, 32, 256), random(k, k, 256, 256), ((k // 2,) * 2,) * 2
  ours = multiplications(functools.partial(winograd.conv, paddings=paddings), x, kernel)
  plain = multiplications(
    lambda x, kernel: convolutions._plain(x, kernel, (1, 1), paddings), x, kernel
  )
  assert ours * fewer < plain


def test_the_transforms_multiply_polynomials():
  for k in winograd._POINTS:
    of_pixels, of_taps, to_outputs = (x.astype(np.float64) for x in winograd._transforms(k))
    pixels, taps = random(winograd.TILE + k - 1), random(k, seed=1)
    np.testing.assert_allclose(
      to_outputs @ ((of_pixels @ pixels) * (of_taps @ taps)),
      np.correlate(pixels, taps),
      rtol=1e-5,
      atol=1e-5,
    )


SAME = ((1, 1), (1, 1))
WIDE = dict(x=(20, 24, 24, 64), kernel=(3, 3, 64, 64), strides=(1, 1), paddings=SAME)


@pytest.mark.parametrize(
  'changes, expected',
  [
    ({}, True),
    (dict(kernel=(5, 5, 64, 96), paddings=((2, 2), (2, 2))), True),
    (dict(kernel=(4, 4, 64, 64)), False),
    (dict(kernel=(3, 5, 64, 64)), False),
    (dict(kernel=(3, 3, 64, 63)), False),
    (dict(strides=(2, 1)), False),
    (dict(paddings=((1, 1), (1, 3))), False),
    (dict(x=(20, 6, 6, 64)), False),  # 4 tiles are for 64 pixels, of which 36 are wanted
    (dict(x=(1, 24, 24, 64)), False),  # few tiles: the kernel's own values would take longer
    (dict(x=(20, 8, 24, 24, 64), kernel=(3, 3, 3, 64, 64)), False),
    (dict(x=(20, 24, 64), kernel=(3, 64, 64)), False),
  ],
)
def test_what_it_is_for(changes, expected):
  shapes = {**WIDE, **changes}
  x, kernel = (jax.ShapeDtypeStruct(shapes[name], jnp.float32) for name in ('x', 'kernel'))
  assert winograd.pays(x, kernel, shapes['strides'], shapes['paddings']) is expected
  halves = jax.ShapeDtypeStruct(x.shape, jnp.bfloat16)
  assert not winograd.pays(halves, kernel, shapes['strides'], shapes['paddings'])


def products(platform, monkeypatch) -> list[bool]:
  """Whether matrix products, and convolutions, are in the program of a wide layer."""
  x, kernel = (jax.ShapeDtypeStruct(WIDE[name], jnp.float32) for name in ('x', 'kernel'))
  monkeypatch.setattr(convolutions, '_platform', lambda: platform)
  traced = jax.make_jaxpr(lambda x, kernel: convolutions.conv(x, kernel, (1, 1), SAME))(x, kernel)
  return [name in str(traced) for name in ('dot_general', 'conv_general_dilated')]


def test_it_is_for_cpus_alone(monkeypatch):
  assert products('cpu', monkeypatch) == [True, False]
  assert products('tpu', monkeypatch) == [False, True]
