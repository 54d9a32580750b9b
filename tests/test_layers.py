"""Building blocks: PyTorch's padding, transposition and statistics, checked by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noise import noisy_variables

from tfg_jax.networks import convolutions, layers


def random(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def train(norm, variables, x):
  return norm.apply(variables, x, train=True, mutable=['batch_stats'])


@pytest.mark.parametrize('strides, padding', [(1, 0), (2, 1), ((1, 2), 2), ((3, 2), 1)])
def test_conv_sums_symmetrically_padded_windows(strides, padding):
  x = random(2, 9, 8, 3)
  conv = layers.Conv(4, (3, 3), strides, padding)
  variables = noisy_variables(conv, x)
  y = conv.apply(variables, x)
  kernel, bias = variables['params']['kernel'], variables['params']['bias']
  padded = np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
  rows, columns = (strides,) * 2 if isinstance(strides, int) else strides
  expected = np.einsum('bhwcij,ijco->bhwo', windows[:, ::rows, ::columns], kernel) + bias
  np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize(
  'shape, window, padding, in_blocks',
  [
    ((2, 8, 10, 3), (7, 7), 3, True),
    ((1, 12, 8, 6), (9, 7), (4, 2), True),
    ((1, 9, 8, 3), (7, 7), 3, False),  # a picture of odd height
    ((1, 8, 8, 3), (8, 8), 3, False),  # an even window
    ((1, 8, 8, 8), (7, 7), 3, False),  # not so thin
  ],
)
def test_thin_pictures_are_convolved_in_blocks_with_the_same_result(
  shape, window, padding, in_blocks
):
  x = random(*shape)
  conv = layers.Conv(4, window, padding=padding, use_bias=False)
  variables = noisy_variables(conv, x)
  kernel = variables['params']['kernel']
  pads = layers._per_axis(padding, 2)
  expected = jax.lax.conv_general_dilated(
    x, kernel, (1, 1), [(p, p) for p in pads], dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  assert layers._is_thin(x, kernel) == in_blocks
  np.testing.assert_allclose(conv.apply(variables, x), expected, atol=1e-5)


def test_grouped_conv_keeps_groups_apart():
  x = random(1, 7, 4)
  conv = layers.Conv(6, (3,), padding=1, groups=2)
  variables = noisy_variables(conv, x)
  changed = x.copy()
  changed[..., 2:] = 0
  both = conv.apply(variables, x), conv.apply(variables, changed)
  np.testing.assert_array_equal(both[0][..., :3], both[1][..., :3])
  assert not np.allclose(both[0][..., 3:], both[1][..., 3:])


@pytest.mark.parametrize(
  'kernel, strides, padding, output_padding',
  [(3, 2, 1, 1), (3, 1, 0, 0), (4, 2, 1, 0), (5, 3, 1, 2), (2, 3, 0, 0), (7, 2, 0, 1)],
)
@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
def test_conv_transpose_is_the_transpose_of_conv(
  kernel, strides, padding, output_padding, platform, monkeypatch
):
  monkeypatch.setattr(convolutions, '_platform', lambda: platform)
  y = random(1, 3, 3, 2)
  up = layers.ConvTranspose(5, (kernel,) * 2, strides, padding, output_padding, use_bias=False)
  variables = noisy_variables(up, y)
  grown = up.apply(variables, y)
  size = (3 - 1) * strides - 2 * padding + kernel + output_padding  # PyTorch's formula
  assert grown.shape == (1, size, size, 5)

  # Its kernel, turned around and with in and out swapped, makes the convolution it transposes.
  turned = variables['params']['kernel'][::-1, ::-1].swapaxes(2, 3)
  down = layers.Conv(2, (kernel,) * 2, strides, padding, use_bias=False)
  x = random(1, size, size, 5, seed=1)
  shrunk = down.apply({'params': {'kernel': turned}}, x)
  np.testing.assert_allclose(np.vdot(shrunk, y), np.vdot(x, grown), rtol=1e-4)


def test_batch_norm_keeps_torch_statistics():
  x = 3 + 2 * random(4, 5, 2)
  norm = layers.BatchNorm()
  variables = {
    'params': {'scale': np.ones(2), 'bias': np.zeros(2)},
    'batch_stats': {'mean': np.zeros(2), 'var': np.ones(2), 'count': np.int32(0)},
  }

  y, updated = train(norm, variables, x)
  mean, var = x.mean((0, 1)), x.var((0, 1))
  np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=1e-5)
  updated = updated['batch_stats']
  np.testing.assert_allclose(updated['mean'], 0.1 * mean, rtol=1e-5)
  unbiased = x.var((0, 1), ddof=1)
  np.testing.assert_allclose(updated['var'], 0.9 + 0.1 * unbiased, rtol=1e-5)
  assert updated['count'] == 1

  y = norm.apply({'params': variables['params'], 'batch_stats': updated}, x, train=False)
  expected = (x - updated['mean']) / np.sqrt(updated['var'] + 1e-5)
  np.testing.assert_allclose(y, expected, atol=1e-5)


def test_passes_side_by_side_are_passes_in_turn():
  x = random(2, 4, 5, 5, 3)  # 2 rows of each of 4 passes
  rows = x.reshape(8, 5, 5, 3)
  norm = layers.BatchNorm(passes=4)
  variables = noisy_variables(norm, rows, train=False)
  together, updated = train(norm, variables, rows)
  for number, y in enumerate(np.moveaxis(together.reshape(x.shape), 1, 0)):
    expected, in_turn = train(layers.BatchNorm(), variables, x[:, number])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    variables = variables | in_turn
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), updated, in_turn
  )


def test_batch_norm_leaves_the_arrays_of_its_caller_alone():
  norm, x = layers.BatchNorm(), np.ones((4, 3), np.float32)
  variables = jax.tree.map(np.array, norm.init(jax.random.key(0), x, train=False))
  for _ in range(2):
    _, updated = norm.apply(variables, x, train=True, mutable=['batch_stats'])
    assert updated['batch_stats']['count'] == 1
  assert variables['batch_stats']['count'] == 0


def test_batch_norm_over_devices_equals_one_device():
  x = random(4, 3, 2)
  alone = layers.BatchNorm()
  variables = noisy_variables(alone, x, train=True)
  expected, stats = train(alone, variables, x)

  shared = layers.BatchNorm(axis_name='data')
  parts = jax.vmap(train, (None, None, 0), axis_name='data')
  y, updated = parts(shared, variables, x.reshape(2, 2, 3, 2))
  np.testing.assert_allclose(y.reshape(4, 3, 2), expected, atol=1e-6)
  for device in range(2):
    jax.tree.map(
      lambda ours, theirs, i=device: np.testing.assert_allclose(
        ours[i], theirs, rtol=1e-6, atol=1e-7
      ),
      updated,
      stats,
    )


def test_parameters_stay_float32_when_computing_in_bfloat16():
  x = random(2, 6, 6, 3)
  block = layers.ConvBlock(3, residual=True, dtype=jnp.bfloat16)
  shapes = jax.eval_shape(
    lambda x: block.init_with_output(jax.random.key(0), x, train=True), x.astype(jnp.bfloat16)
  )
  y, variables = shapes
  assert y.dtype == jnp.bfloat16
  kinds = {leaf.dtype for leaf in jax.tree.leaves(variables)}
  assert kinds == {jnp.dtype('float32'), jnp.dtype('int32')}


def test_residual_block_adds_its_input_before_the_relu():
  x = random(1, 4, 4, 2)
  block = layers.ConvBlock(2, residual=True)
  variables = noisy_variables(block, x, train=False)
  variables['params']['norm'] = {'scale': np.zeros(2), 'bias': np.zeros(2)}
  np.testing.assert_array_equal(block.apply(variables, x, train=False), np.maximum(x, 0))


def test_prelu_scales_negative_values_per_channel():
  variables = {'params': {'alpha': jnp.array([0.5, 0.1])}}
  y = layers.PReLU().apply(variables, jnp.array([[-2.0, -2.0], [3.0, 0.0]]))
  np.testing.assert_allclose(y, [[-1, -0.2], [3, 0]])


def test_unit_rows_and_their_gradient_at_zero():
  np.testing.assert_allclose(layers.unit(jnp.array([3.0, 4.0])), [0.6, 0.8], rtol=1e-6)
  gradient = jax.jit(jax.grad(lambda x: layers.unit(x).sum()))(jnp.zeros(3))
  assert np.all(np.isfinite(gradient))


def test_fresh_parameters_stay_within_one_over_root_fan_in():
  init = jax.jit(layers.Conv(64, (3, 3)).init)
  # This generator compiles in a fraction of the default one's time.
  params = init(jax.random.key(0, impl='rbg'), jnp.zeros((1, 3, 3, 8)))['params']
  bound = 1 / np.sqrt(8 * 9)
  for leaf in params.values():
    assert np.abs(leaf).max() <= bound
  np.testing.assert_allclose(params['kernel'].std(), bound / np.sqrt(3), rtol=0.03)
