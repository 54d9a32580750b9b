"""The corpora that `data_prep.prepare` knows: a small module each, see `data_prep.listing`."""

import importlib
import inspect
import pkgutil

from tfg_jax.errors import ConfigError


def names() -> list[str]:
  """Names of the corpora, for `--corpus`."""
  return sorted(module.name for module in pkgutil.iter_modules(__path__))


def adapter(name: str):
  """The module of a corpus.

  Raises:
    ConfigError: if there is none of this name.
  """
  if name not in names():
    raise ConfigError(f'--corpus={name} is not known', hint=f'one of {", ".join(names())}')
  return importlib.import_module(f'{__name__}.{name}')


def settings(module) -> dict[str, object]:
  """The settings that an adapter's `list_clips` takes, with their defaults."""
  parameters = inspect.signature(module.list_clips).parameters.values()
  return {
    parameter.name: parameter.default
    for parameter in parameters
    if parameter.kind is parameter.KEYWORD_ONLY
  }
