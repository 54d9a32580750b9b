"""The conversion mechanism: layouts that invert, keys that fit, messages that say what does not."""

import jax
import numpy as np
import pytest
from noise import noisy_variables

from tfg_jax import pytorch
from tfg_jax.errors import ConversionError
from tfg_jax.networks.discriminator import QualityDiscriminator
from tfg_jax.pytorch import rules

LAYOUTS = [
  (rules.KERNEL, (4, 3, 5, 2), (5, 2, 3, 4)),
  (rules.KERNEL, (4, 3), (3, 4)),
  (rules.TRANSPOSED_KERNEL, (4, 3, 5, 2), (5, 2, 4, 3)),
  (rules.stacked_kernel(5), (4, 3, 5, 7, 6), (7, 6, 15, 4)),
]


@pytest.mark.parametrize('layout, torch_shape, flax_shape', LAYOUTS)
def test_layouts_invert(layout, torch_shape, flax_shape):
  tensor = np.random.default_rng(0).random(torch_shape)
  array = layout.to_flax(tensor)
  assert array.shape == flax_shape
  np.testing.assert_array_equal(layout.to_torch(array), tensor)


def test_stacked_kernel_puts_frames_before_channels():
  tensor = np.arange(2 * 3 * 5).reshape(2, 3, 5, 1, 1)
  stacked = rules.stacked_kernel(5).to_flax(tensor)[0, 0]
  assert stacked[1 * 3 + 2, 1] == tensor[1, 2, 1, 0, 0]


def test_rows_share_integers_and_the_first_that_fits_wins():
  rows = (
    ('first_0', 'a.0', rules.DENSE),
    ('first_{i}', 'b.{i}.layer', rules.DENSE),
    *rules.under('deep', 'c', (('x_{i}_{j}', '{j}.{i}', rules.PRELU),)),
  )
  dense = {'kernel': np.zeros((2, 3)), 'bias': np.zeros(3)}
  variables = {
    'params': {
      'first_0': dense,
      'first_12': dense,
      'deep': {'x_1_22': {'alpha': np.zeros(2)}},
    }
  }
  tensors = rules.to_torch(rows, variables)
  expected = {'a.0.weight', 'a.0.bias', 'b.12.layer.weight', 'b.12.layer.bias', 'c.22.1.weight'}
  assert set(tensors) == expected
  back = rules.from_torch(rows, tensors, variables)
  jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_batch_counts_may_be_missing_as_in_old_files():
  rows = (('', 'bn', rules.BATCH_NORM),)
  numbers = np.ones(2, np.float32)
  like = {
    'params': {'scale': numbers, 'bias': numbers},
    'batch_stats': {'mean': numbers, 'var': numbers, 'count': np.int32(7)},
  }
  tensors = rules.to_torch(rows, like)
  assert tensors['bn.num_batches_tracked'].dtype == np.int64
  del tensors['bn.num_batches_tracked']
  assert rules.from_torch(rows, tensors, like)['batch_stats']['count'] == 0

  uncounted = (('', 'bn', rules.BATCH_NORM_UNCOUNTED),)
  tensors = rules.to_torch(uncounted, like)
  assert 'bn.num_batches_tracked' not in tensors
  assert rules.from_torch(uncounted, tensors, like)['batch_stats']['count'] == 0


@pytest.fixture(scope='module')
def judge():
  return noisy_variables(QualityDiscriminator(widths=(2, 2)), np.zeros((1, 6, 6, 3)))


NAME = 'talklip_discriminator'


def test_missing_and_unknown_keys_are_listed(judge):
  tensors = pytorch.to_torch(NAME, judge)
  tensors['surprise'] = tensors.pop('binary_pred.0.bias')
  with pytest.raises(ConversionError, match='1 missing: binary_pred.0.bias; 1 unknown: surprise'):
    pytorch.from_torch(NAME, tensors, like=judge)
  with pytest.raises(ConversionError, match=r'12 missing: .*, \.\.\.'):
    pytorch.from_torch(NAME, {}, like=judge)


def test_wrong_shape_is_named(judge):
  tensors = pytorch.to_torch(NAME, judge)
  tensors['binary_pred.0.weight'] = np.zeros((1, 3, 1, 1))
  message = r'binary_pred.0.weight has shape \(1, 3, 1, 1\); the network needs \(1, 2, 1, 1\)'
  with pytest.raises(ConversionError, match=message):
    pytorch.from_torch(NAME, tensors, like=judge)


def test_variables_without_a_row_are_named(judge):
  with pytest.raises(ConversionError, match='no row of the table covers the variable params/odd/w'):
    pytorch.to_torch(NAME, {'params': judge['params'] | {'odd': {'w': np.zeros(1)}}})


def test_unknown_network_lists_the_known_ones():
  with pytest.raises(ConversionError, match="no table for the network 'nonsense'(?s:.)*wav2lip"):
    pytorch.to_torch('nonsense', {})
