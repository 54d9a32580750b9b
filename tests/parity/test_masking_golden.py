"""Span masks, draw for draw, and their mean density."""

import json

import numpy as np
import pytest
from reference import golden

from tfg_jax.features.masking import span_mask

pytestmark = pytest.mark.parity


def masks(setting, seed):
  return span_mask(
    np.random.RandomState(seed),
    tuple(setting['shape']),
    setting['pad'],
    probability=setting['mask_prob'],
    span=setting['mask_length'],
    kind=setting.get('mask_type', 'static'),
    spread=setting.get('mask_other', 0),
    min_spans=setting['min_masks'],
    overlap=not setting.get('no_overlap', False),
    min_space=setting['min_space'],
  )


def test_span_masks():
  arrays = golden('mask_indices')
  for setting in json.loads(str(arrays['in_settings_json'])):
    name = setting['name']
    for seed in arrays['in_seeds']:
      mask, runs = masks(setting, seed)
      np.testing.assert_array_equal(mask, arrays[f'out_{name}_{seed}_mask'], err_msg=name)
      np.testing.assert_array_equal(runs, arrays[f'out_{name}_{seed}_runs'], err_msg=name)
    # Both means come from 400 draws: four standard errors of their difference.
    shares = np.array([masks(setting, seed)[0].mean() for seed in range(400)])
    error = shares.mean() - arrays[f'out_{name}_mean_masked_fraction_400']
    assert abs(error) <= 4 * shares.std() * np.sqrt(2 / 400) + 1e-6, name
