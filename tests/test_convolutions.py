"""Transposed convolutions: every form of them, and its gradients, is the one that is defined."""

import functools

import jax
import numpy as np
import pytest

from tfg_jax.networks import convolutions

LAYOUTS = {1: ('NWC', 'WIO', 'NWC'), 2: ('NHWC', 'HWIO', 'NHWC'), 3: ('NDHWC', 'DHWIO', 'NDHWC')}
CASES = [  # size, window, strides, paddings, extras
  ((7,), (3,), (2,), (1,), (1,)),
  ((5, 4), (3, 3), (2, 2), (1, 1), (1, 1)),
  ((5, 4), (5, 4), (2, 2), (2, 1), (1, 0)),
  ((3, 5), (4, 3), (1, 2), (2, 0), (0, 0)),
  ((4, 3), (2, 2), (3, 3), (0, 0), (0, 1)),  # pixels that no tap reaches
  ((2, 3, 4), (1, 3, 4), (1, 2, 2), (0, 1, 1), (0, 1, 0)),
]


def with_holes(x, kernel, strides, paddings, extras):
  """The definition: a convolution of x with holes between its pixels."""
  around = [
    (k - 1 - p, k - 1 - p + extra)
    for k, p, extra in zip(kernel.shape, paddings, extras, strict=False)
  ]
  layout = LAYOUTS[len(strides)]
  return jax.lax.conv_general_dilated(
    x, kernel, (1,) * len(strides), around, strides, dimension_numbers=layout
  )


@pytest.mark.parametrize('size, window, strides, paddings, extras', CASES)
def test_transposed_convolutions_and_their_gradients(size, window, strides, paddings, extras):
  rng = np.random.default_rng(0)
  x, kernel = (rng.standard_normal(s, np.float32) for s in ((2, *size, 3), (*window, 3, 4)))
  settings = dict(strides=strides, paddings=paddings)

  @jax.jit
  def all_forms(x, kernel):
    expected = with_holes(x, kernel, **settings, extras=extras)
    g = rng.standard_normal(expected.shape, np.float32)
    sizes = expected.shape[1:-1]
    forms = {
      'definition': functools.partial(with_holes, **settings, extras=extras),
      'here': functools.partial(convolutions.transposed, **settings, extras=extras),
      'phase by phase': functools.partial(convolutions._phase_by_phase, **settings, sizes=sizes),
      'at once': functools.partial(convolutions._phases_at_once, **settings, sizes=sizes),
    }
    found = {}
    for name, form in forms.items():
      y, pullback = jax.vjp(form, x, kernel)
      found[name] = {'y': y, 'gradients': pullback(g)}
    return found

  found = all_forms(x, kernel)
  expected = found.pop('definition')
  for name, values in found.items():
    check = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-5, err_msg=name)
    jax.tree.map(check, values, expected)


def test_a_cpu_multiplies_by_no_zeros():
  x, kernel = np.ones((1, 16, 16, 8), np.float32), np.ones((3, 3, 8, 8), np.float32)

  def flops(draw):
    return jax.jit(draw).lower(x, kernel).compile().cost_analysis()['flops']

  settings = dict(strides=(2, 2), paddings=(1, 1))
  here = flops(functools.partial(convolutions.transposed, **settings, extras=(1, 1)))
  at_once = functools.partial(convolutions._phases_at_once, **settings, sizes=(32, 32))
  assert here < 0.65 * flops(at_once)  # 9 taps of 16
