"""Parity is checked at full matrix precision, whatever the backend's default is."""

import jax
import pytest


@pytest.fixture(autouse=True)
def full_matmul_precision():
  with jax.default_matmul_precision('highest'):
    yield
