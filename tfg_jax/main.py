r"""Trains or evaluates a system, or plans its training.

python -m tfg_jax.main --config=configs/demo.py --workdir=/tmp/tfg
python -m tfg_jax.main --config=configs/talklip.py:g+c --workdir=DIR --config.data.root=DIR
python -m tfg_jax.main --mode=evaluate --workdir=/tmp/tfg
python -m tfg_jax.main --mode=plan --topology=v5e:2x4 --config=configs/talklip.py:no_lip
"""

import os
import pathlib
import sys

from absl import app, flags
from ml_collections import config_flags

from tfg_jax import errors, host


def define_flags(values=flags.FLAGS):
  """Defines the flags; other commands have a --workdir too, so importing this does not."""
  config_flags.DEFINE_config_file(
    'config',
    None,
    'The config file, with its variant after a colon. --config.KEY=VALUE overrides a key.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'workdir', None, 'Folder of the run: checkpoints, metrics, samples.', flag_values=values
  )
  flags.DEFINE_enum(
    'mode',
    'train',
    ['train', 'evaluate', 'plan'],
    'train goes on where the workdir stands; evaluate prints the table of its best checkpoint; '
    'plan needs no workdir and says what a step costs on --topology.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'results',
    None,
    'Of --mode=evaluate: folder for results.json and clips.csv; default the workdir.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'topology',
    None,
    "Of --mode=plan: a TPU slice, e.g. v5e:4x4, which need not exist; or 'local', these devices.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    'stage', None, 'Of --mode=plan: a stage of the system; default the last.', flag_values=values
  )
  flags.DEFINE_integer(
    'compiles',
    4,
    'Of --mode=plan: compilations that the search for the largest batch may take.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'multihost',
    False,
    'Join the other processes of a TPU slice or a cluster first; run the same command on each.',
    flag_values=values,
  )


def main(argv, values=flags.FLAGS):
  plans = values.mode == 'plan'
  errors.check_arguments(argv, values, 'topology' if plans else 'workdir')
  if values.config is None and values.mode != 'evaluate':
    raise errors.ConfigError('--config is missing', hint='e.g. --config=configs/demo.py')
  host.keep_memory()
  # Imported here so that --help answers at once.
  import jax

  if values.multihost:
    _join(values)
  if plans:
    if values.topology != 'local':
      jax.config.update('jax_platforms', 'cpu')  # the slice's chips are not asked for
    from tfg_jax import plan

    plan.plan(values.config, values.topology, stage=values.stage, compiles=values.compiles)
    return
  from tfg_jax import evaluate, run_report, train, trained

  host.prepare_jax()
  workdir = pathlib.Path(values.workdir).absolute()
  if values.mode == 'evaluate':
    was = trained.read_config(workdir)
    config = was if values.config is None else values.config
    with config.unlocked():
      config.data.root = config.data.root or was.data.root  # it may have made its own puppets
    output = pathlib.Path(values.results).absolute() if values.results else workdir
    evaluate.evaluate_workdir(workdir, config, output)
    if output == workdir:
      run_report.refresh(workdir)
    return
  config = values.config
  with config.unlocked():
    config.data.root = config.data.root or str(_puppets(workdir, config, values.multihost))
  if not train.train_and_evaluate(config, workdir):
    sys.exit(errors.EXIT_INTERRUPTED)


def _join(values):
  """Finds the other processes, before any device is touched."""
  import jax

  if values.mode != 'train':
    raise errors.ConfigError(
      f'--mode={values.mode} is for one process.', where='--multihost', hint='leave it away.'
    )
  try:
    jax.distributed.initialize()
  except (RuntimeError, ValueError) as error:
    raise errors.ConfigError(
      f'no cluster was found, or not all of its processes: {str(error).splitlines()[0]}',
      where='--multihost',
      hint='it is for TPU slices, Kubernetes, Slurm and Open MPI, where every process is started '
      'with the same command; leave it away on a single machine.',
    ) from error


def _puppets(workdir, config, multihost):
  """Makes the puppets that `data.puppets` describes, where the config names no records."""
  from data_prep import puppet
  from data_prep.puppets.clip import Settings
  from tfg_jax import configuration, reporting

  settings = dict(config.data.get('puppets', {}))
  if not settings:
    raise errors.ConfigError(
      'data.root is empty', where='config', hint='name a record set: --config.data.root=DIR'
    )
  if multihost:
    raise errors.ConfigError(
      'data.root is empty',
      where='config',
      hint='make puppets before: python -m data_prep.puppet --output=DIR; then name them: '
      '--config.data.root=DIR',
    )
  clips = settings.pop('clips')
  settings = configuration.read_section(Settings, settings, 'data.puppets')
  root = workdir / 'puppets'
  reporting.say(f'No record set is named: {clips} clips of talking puppets in {root}.')
  puppet.make_corpus(root, settings, clips, workers=os.cpu_count())
  return root


def parse_flags(argv, values=flags.FLAGS):
  """Also turns a config that cannot be loaded, or has no such key, into the project's own error."""
  try:
    rest = errors.parse_flags(argv)
    getattr(values.config, 'system', None)  # a file that failed to load says so only when used
    return rest
  except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
    reason = str(error).strip().splitlines()[-1].strip()  # the cause is behind what it led to
    hint = 'see --help'
    if error.args and isinstance(error.args[0], KeyError):  # how ml_collections says it
      key, *guess = error.args[0].args[0].splitlines()
      reason = ' '.join([f'the config has no key {key}.', *guess])
      hint = 'correct the flag, or add the key to the config file: flags change only what is there.'
    print(errors.ConfigError(reason, where='--config', hint=hint), file=sys.stderr)
    sys.exit(errors.EXIT_EXPECTED_FAILURE)


if __name__ == '__main__':
  define_flags()
  app.run(errors.exit_on_expected_failure(main), flags_parser=parse_flags)
