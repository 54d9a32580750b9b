r"""Trains, evaluates or plans a system.

  python -m tfg_jax.main --config=configs/demo.py --workdir=/tmp/tfg
  python -m tfg_jax.main --config=configs/talklip.py:g+c --workdir=DIR --config.data.root=DIR
  python -m tfg_jax.main --config=configs/demo.py --workdir=/tmp/tfg --mode=evaluate
"""

import pathlib
import sys

from absl import app
from absl import flags
from ml_collections import config_flags

from tfg_jax import errors

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'The config file, with its variant after a colon. Override keys with --config.KEY=VALUE.',
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run: checkpoints, metrics, samples.')
_MODE = flags.DEFINE_enum(
  'mode', 'train', ['train', 'evaluate'], 'What to do. A started run is continued by train.'
)
_MULTIHOST = flags.DEFINE_bool(
  'multihost', False, 'Join the other processes of a TPU slice or a cluster before starting.'
)


@errors.exit_on_expected_failure
def main(argv):
  if len(argv) > 1:
    raise errors.ConfigError(f'unexpected arguments {argv[1:]}.', hint='see --help.')
  if not _WORKDIR.value:
    raise errors.ConfigError('--workdir is missing.', hint='give a folder: --workdir=/tmp/tfg')
  # Imported here so that --help answers at once, without JAX.
  import jax

  if _MULTIHOST.value:
    jax.distributed.initialize()  # before any device is touched
  from tfg_jax import evaluate
  from tfg_jax import train

  workdir = pathlib.Path(_WORKDIR.value).absolute()
  if _MODE.value == 'evaluate':
    evaluate.evaluate_workdir(workdir, _config_of(workdir))
    return 0
  if _CONFIG.value is None:
    raise errors.ConfigError('--config is missing.', hint='e.g. --config=configs/demo.py')
  config = _CONFIG.value
  _make_puppets_if_needed(config, workdir)
  finished = train.train_and_evaluate(config, workdir)
  return 0 if finished else errors.EXIT_INTERRUPTED


def _config_of(workdir):
  """The config on the command line, else the one that the run was started with."""
  if _CONFIG.value is not None:
    return _CONFIG.value
  from tfg_jax import trained

  return trained.read_config(workdir)


def _make_puppets_if_needed(config, workdir):
  """Without `data.root`, the puppets that `data.puppets` describes are made in the workdir."""
  if config.data.root:
    return
  from data_prep import puppet

  root = workdir / 'puppets'
  puppet.make_corpus(root, **config.data.puppets)
  config.data.root = str(root)


def _parse_flags(argv):
  """Turns a flag or config key that cannot be into the project's own error."""
  try:
    return app.parse_flags_with_usage(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    print(errors.ConfigError(str(error), where='the command line', hint='see --help.'), file=sys.stderr)
    sys.exit(errors.EXIT_EXPECTED_FAILURE)


if __name__ == '__main__':
  app.run(main, flags_parser=_parse_flags)
