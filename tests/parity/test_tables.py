"""Every table gives exactly the official keys, and the way back gives the same bits."""

import jax
import numpy as np
import pytest
from reference import manifest, reference_tensors

from tfg_jax import networks, pytorch
from tfg_jax.pytorch.tables import TABLES

pytestmark = pytest.mark.parity


def test_every_official_network_has_a_table():
  assert set(TABLES) == set(networks.OFFICIAL) == set(networks.EXAMPLES)


@pytest.mark.parametrize('network', sorted(TABLES))
def test_table_gives_the_official_keys_and_shapes(network):
  variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), networks.official_shapes(network))
  tensors = pytorch.to_torch(network, variables)
  ours = {key: [list(x.shape), str(x.dtype)] for key, x in tensors.items()}
  assert ours == manifest(network)['tensors']


@pytest.mark.parametrize('network', sorted(TABLES))
def test_import_then_export_returns_the_same_bits(network):
  tensors = reference_tensors(network)
  back = pytorch.to_torch(network, pytorch.from_torch(network, tensors))
  assert back.keys() == tensors.keys()
  for key, tensor in tensors.items():
    assert back[key].dtype == tensor.dtype
    np.testing.assert_array_equal(back[key], tensor, err_msg=key)
