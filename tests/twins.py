"""Small twins for commands: --config=tests/twins.py:NAME:VARIANT for configs/NAME.py:VARIANT."""

import importlib


def get_config(named):
  """The twin of NAME:VARIANT."""
  name, variant = named.split(':')
  return importlib.import_module(f'configs.{name}').get_test_config(variant)
