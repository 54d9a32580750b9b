r"""Prepares a corpus: from its raw download to records, with one command.

python -m data_prep.prepare --corpus=lrs2 --input=mvlrs_v1 --output=DIR
python -m data_prep.prepare --corpus=folder --input=VIDEOS --output=DIR --licence='my own' \
  --crop=track --size=160

--corpus is crema_d, folder, grid, hq_voxceleb, lrs2, lrs3, lrw, named_faces or voxceleb2;
--describe=NAME says what INPUT must look like. The same command goes on where an interrupted one
was. Every clip becomes a record or a line of OUTPUT/drops.csv with the reason.

On one machine Apache Beam runs in --workers processes. What stands behind a lone -- are Beam's own
flags, for runners on many machines, which all have to see INPUT and OUTPUT under the same paths:

python -m data_prep.prepare --corpus=... -- --runner=FlinkRunner --flink_master=HOST:8081
"""

import dataclasses
import functools
import os
import sys

from absl import app, flags

from tfg_jax import errors
from tfg_jax.errors import ConfigError

_FRAMING = ('crop', 'size', 'fps', 'room', 'min_seconds', 'max_seconds')
_SETTINGS = ('split_by', 'seed', 'valid_share', 'test_share', 'speech', 'boxes')


def make_job(name: str, directory: str, *, licence: str = '', framing=None, settings=None):
  """Lists the clips of a corpus.

  Args:
    name: see `data_prep.corpora.names`.
    directory: the raw corpus.
    licence: of the data, for corpora that have none of their own.
    framing: field of `Framing` -> value other than the corpus' own.
    settings: of the adapter's `list_clips`.

  Returns:
    pipeline.Job.

  Raises:
    ConfigError: for an unknown corpus, or settings that it does not take or that cannot be.
    DataError: if the directory is not this corpus.
  """
  from data_prep import corpora, pipeline

  module = corpora.adapter(name)
  framing, settings = dict(framing or {}), dict(settings or {})
  if not os.path.isdir(directory):
    raise ConfigError(f'--input={directory} is not a folder', hint=f'see --describe={name}')
  if not licence and not module.LICENCE:
    raise ConfigError('--licence is missing', hint='say what the data may be used for')
  if licence and module.LICENCE:
    raise ConfigError(f'--licence={licence}: {name} has its own, {module.LICENCE!r}')
  known = corpora.settings(module)
  for setting in settings:
    if setting not in known:
      raise ConfigError(
        f'--{setting} is not for {name}', hint=f'it takes {", ".join(sorted(known)) or "none"}'
      )
  framing = dataclasses.replace(module.FRAMING, **framing)
  if 'max_seconds' in known:
    settings['max_seconds'] = framing.max_seconds
  listing = module.list_clips(directory, **settings)
  return pipeline.Job(
    corpus=name,
    licence=licence or module.LICENCE,
    listing=listing,
    framing=framing,
    settings={**known, **settings},
  )


def define_flags(values=flags.FLAGS):
  """Defines the flags; other commands have an --output too, so importing this does not."""
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  real = functools.partial(flags.DEFINE_float, flag_values=values)
  whole = functools.partial(flags.DEFINE_integer, flag_values=values)
  text('corpus', None, 'Name of the corpus.')
  text('input', None, 'Folder of the raw corpus.')
  text('output', None, 'Folder to write the records to.')
  text('describe', None, 'Only say what --input of this corpus must look like.')
  text('licence', None, 'What the data may be used for; of folder and named_faces.')
  text('speech', None, 'Folder of VoxCeleb 1 and 2, for hq_voxceleb.')
  text('boxes', None, 'Folder of face boxes, for lrs2; without it faces are sought.')
  text('crop', None, 'track, square, none, face or aligned; default: as the corpus needs it.')
  text('split_by', None, 'clip, or speaker to have nobody in two splits.')
  whole('seed', None, 'Of the division of crema_d.')
  real('valid_share', None, 'Share held out as split valid, where there is no official one.')
  real('test_share', None, 'Share held out as split test, likewise.')
  whole('size', None, 'Width and height of the frames, pixels.')
  real('fps', None, 'Frames per second.')
  real('room', None, 'Side of the square that is cut out over that of the face.')
  real('min_seconds', None, 'Shorter clips are dropped.')
  real('max_seconds', None, 'Longer clips are cut.')
  whole('workers', os.cpu_count(), 'Processes on this machine.')


def main(argv, values=flags.FLAGS):
  if values.describe:
    from data_prep import corpora

    print(corpora.adapter(values.describe).__doc__.strip())
    return
  beam_flags = argv[1:]
  errors.check_arguments(
    [flag for flag in argv if not flag.startswith('--')], values, 'corpus', 'input', 'output'
  )
  given = {name: values[name].value for name in (*_FRAMING, *_SETTINGS)}
  given = {name: value for name, value in given.items() if value is not None}
  from data_prep import pipeline

  job = make_job(
    values.corpus,
    values.input,
    licence=values.licence or '',
    framing={name: given[name] for name in _FRAMING if name in given},
    settings={name: given[name] for name in _SETTINGS if name in given},
  )
  try:
    report = pipeline.prepare(job, values.output, workers=values.workers, beam_flags=beam_flags)
  except KeyboardInterrupt:
    print('Interrupted. The same command goes on from the last whole shard.', file=sys.stderr)
    sys.exit(errors.EXIT_INTERRUPTED)
  print(f'{report}\n  in {values.output}')


if __name__ == '__main__':
  define_flags()
  app.run(errors.exit_on_expected_failure(main), flags_parser=errors.parse_flags)
