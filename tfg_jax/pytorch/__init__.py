"""Weights between PyTorch's state_dicts and our variable trees, both ways, bit for bit."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfg_jax import networks
from tfg_jax.errors import ConversionError
from tfg_jax.pytorch import rules
from tfg_jax.pytorch.tables import TABLES


def _table(network: str):
  if network not in TABLES:
    raise ConversionError(
      f'no table for the network {network!r}', hint=f'choose one of {", ".join(sorted(TABLES))}'
    )
  return TABLES[network]


def from_torch(
  network: str, tensors: Mapping[str, np.ndarray], like: Mapping | None = None
) -> dict[str, Any]:
  """Returns {'params': ..., 'batch_stats': ...} of a public network from its PyTorch tensors.

  Args:
    network: its name in `TABLES`.
    tensors: numpy arrays by state_dict key, without prefixes such as 'module.'.
    like: variables (or their shapes) of a network of another size; the official one by default.

  Raises:
    ConversionError: if the name is unknown, or keys or shapes do not fit; names the first few.
  """
  rows = _table(network)
  return rules.from_torch(
    rows, tensors, networks.official_shapes(network) if like is None else like
  )


def to_torch(network: str, variables: Mapping) -> dict[str, np.ndarray]:
  """Returns {state_dict key: array}: the inverse of `from_torch`.

  Raises:
    ConversionError: if the name is unknown, or a variable is not in its table.
  """
  return rules.to_torch(_table(network), variables)
