r"""Tries a paper's claims on talking puppets, and says which of them hold.

python -m tfg_jax.claims --paper=talklip --workdir=DIR

Trains experts, observers and every variant of the paper's table in processes of their own, shows
what they draw of held-out clips or people to the observers, and writes

  claims.md     the table beside the paper's, and what became of each claim
  claims.json   the same for programs
  strip.png     the same words or people as filmed and as drawn

Stopped or failed, it goes on with the same command.
"""

import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import signal
import sys
import time

from absl import app, flags

from tfg_jax import errors, marks

_PAPERS = ('talklip', 'davs', 'sf2f', 'speech2video')  # a module beside this one each
# Of the quick form, on a CPU. With huge pages a lip reader's step takes two thirds of the time on
# Linux; with less effort of LLVM a generator compiles in three quarters of it and runs as fast.
_QUICK_ENVIRONMENT = {
  'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1',
  'XLA_FLAGS': '--xla_backend_optimization_level=1',
}


def define_flags(values=flags.FLAGS):
  flags.DEFINE_enum('paper', None, _PAPERS, 'Whose claims.', flag_values=values)
  flags.DEFINE_string('workdir', None, 'Folder of all runs and results.', flag_values=values)
  flags.DEFINE_enum(
    'form',
    'quick',
    ['quick', 'full'],
    'quick: narrow networks, an hour on two CPU cores. full: the published ones, on an '
    'accelerator.',
    flag_values=values,
  )
  flags.DEFINE_integer('seed', 0, 'Of puppets and networks.', lower_bound=0, flag_values=values)
  flags.DEFINE_float(
    'variability',
    0.0,
    'How loosely the lips of the puppets follow the sound: 0 exactly, 1 as those of people.',
    lower_bound=0.0,
    upper_bound=1.5,
    flag_values=values,
  )
  flags.DEFINE_integer(
    'at_once',
    None,
    'Jobs that run at the same time; by default 2 in the quick form, 1 in the full one.',
    lower_bound=1,
    flag_values=values,
  )


def main(argv, values=flags.FLAGS):
  errors.check_arguments(argv, values, 'paper', 'workdir')
  from tfg_jax.claims import jobs

  study = importlib.import_module(f'tfg_jax.claims.{values.paper}')
  folder = pathlib.Path(__file__).parents[2]
  if not (folder / 'configs').is_dir():
    raise errors.ConfigError(
      'the configs are not beside the package.',
      where=folder,
      hint='run from a clone of the repository, installed with pip install -e.',
    )
  workdir = pathlib.Path(values.workdir).absolute()
  todo = study.jobs(workdir, values.form, seed=values.seed, variability=values.variability)
  at_once = values.at_once or (2 if values.form == 'quick' else 1)
  # A shell starts what is in its background deaf to SIGINT.
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.default_int_handler)
  try:
    finished = jobs.run(
      todo,
      workdir,
      at_once=at_once,
      folder=folder,
      environment=_QUICK_ENVIRONMENT if values.form == 'quick' else {},
    )
  except KeyboardInterrupt:
    print('Stopped; the same command goes on.', file=sys.stderr)
    sys.exit(errors.EXIT_INTERRUPTED)
  numbers = study.read(workdir)
  verdicts = [claim.judge(numbers) for claim in study.CLAIMS]
  report = _report(values, numbers, verdicts, finished, study)
  (workdir / 'claims.md').write_text(report)
  (workdir / 'claims.json').write_text(json.dumps(_as_json(numbers, verdicts), indent=2) + '\n')
  said = marks.of_samples(marks.Maker(values.paper, step=None, weights=None))
  study.strip(workdir).save(workdir / 'strip.png', pnginfo=said.png)
  print(f'\n{report}\nIn {workdir}: claims.md, claims.json, strip.png')


def _report(values, numbers, verdicts, finished, study):
  from tfg_jax.claims import comparison

  subjects = max(len(values) for row in numbers.values() for values in row.values())
  minutes = sum(finished.seconds.values()) / 60
  versions = ', '.join(f'{x} {importlib.metadata.version(x)}' for x in ('jax', 'flax', 'optax'))
  answers = comparison.markdown(
    ['the paper says', 'here, with 95 % bounds of the difference', ''],
    [verdict.cells() for verdict in verdicts],
  )
  machine = f'{platform.processor() or platform.machine()} with {os.cpu_count()} cores'
  return f"""{values.paper}, form {values.form}: puppets of variability {values.variability:g}, \
{subjects} {study.SUBJECTS}, seed {values.seed}; {time.strftime('%Y-%m-%d')}, {machine}, \
{versions}; {minutes:.0f} minutes of jobs. In brackets the paper's numbers, {study.PAPER_NUMBERS}.

{study.table(numbers)}

{answers}
"""


def _as_json(numbers, verdicts):
  means = {
    row: {metric: float(values.mean()) for metric, values in metrics.items()}
    for row, metrics in numbers.items()
  }
  claims = [
    {
      'claim': verdict.claim.sentence,
      'metric': verdict.claim.metric,
      verdict.claim.first: verdict.first,
      verdict.claim.second: verdict.second,
      'difference': [verdict.difference.low, verdict.difference.value, verdict.difference.high],
      'answer': verdict.answer,
    }
    for verdict in verdicts
  ]
  return {'means': means, 'claims': claims}


if __name__ == '__main__':
  define_flags()
  app.run(errors.exit_on_expected_failure(main), flags_parser=errors.parse_flags)
