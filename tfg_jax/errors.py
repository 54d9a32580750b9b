"""The one family of errors that users see: what was wrong, with its value, where, and what next."""

import sys


class TfgError(Exception):
  """An expected failure: printed as one message, without a traceback, with exit code 2.

  Args:
    what: one sentence that names the value that was wrong.
    where: the place, e.g. a file, a record or a config key; who catches an error that was raised
      where nobody knew adds it.
    hint: the next step, e.g. a command or another value; without one the message has that of the
      class.
  """

  next_step = ''

  def __init__(self, what: str, *, where: object = '', hint: str = ''):
    self.what, self.where, self.hint = what, str(where), hint
    lines = [f'{type(self).__name__}: {what}']
    if where:
      lines.append(f'  where: {where}')
    lines.append(f'  next:  {hint or self.next_step}')
    super().__init__('\n'.join(lines))

  def __reduce__(self):
    return _rebuild, (type(self), self.what, self.where, self.hint)


def _rebuild(cls, what, where, hint):
  """Keeps an error whole on its way out of a worker process."""
  return cls(what, where=where, hint=hint)


class ConfigError(TfgError):
  """A config key that does not exist or a value that cannot work."""

  next_step = 'correct the value; --help and the config file say what each is.'


class DataError(TfgError):
  """A record set that is missing, damaged or does not fit the config."""

  next_step = 'look at what is there; a damaged record set is mended by preparing it again.'


class MediaError(TfgError):
  """A video, audio or image file that cannot be used."""

  next_step = 'play the file to see what it holds, or name another.'


class CheckpointError(TfgError):
  """A checkpoint that is missing, damaged or belongs to another config."""

  next_step = 'restore the files from a copy, or use another --workdir.'


class DamagedCheckpointError(CheckpointError):
  """A checkpoint whose files are not what was saved; an older one may be whole."""


class StorageError(TfgError):
  """A disk that is full or read-only, or a folder that another process writes to."""

  next_step = 'make room or allow writing there; the same command goes on.'


class ConversionError(TfgError):
  """A PyTorch file that cannot be read safely or does not fit the network."""

  next_step = 'look at what wrote the file; download it again if it is damaged.'


class TrainingError(TfgError):
  """A run that cannot go on, e.g. after too many non-finite steps."""

  next_step = 'look at the log of the run.'


class MissingDependencyError(TfgError):
  """An optional package that this command needs; the hint says which extra installs it."""

  next_step = "pip install 'tfg_jax[demo]' installs what most commands need."


EXIT_EXPECTED_FAILURE = 2
EXIT_INTERRUPTED = 130


def exit_on_expected_failure(main):
  """Wraps a command's `main(argv)`: a `TfgError` becomes its message on stderr and exit code 2."""

  def wrapped(argv):
    try:
      return main(argv)
    except TfgError as error:
      print(error, file=sys.stderr)
      sys.exit(EXIT_EXPECTED_FAILURE)

  return wrapped


def parse_flags(argv):
  """The `flags_parser` of every `app.run`: a flag that cannot be is an expected failure too, and
  what libraries say is kept down from here on."""
  from absl import flags

  from tfg_jax import command_line

  if command_line.asks_for_help(argv):
    print(command_line.help_text())
    sys.exit()
  try:
    arguments = flags.FLAGS(argv)
  except flags.Error as error:
    reason = str(error).strip().splitlines()[-1]  # the cause is behind what it led to
    lone = "'config." in reason and not any(x.startswith('--config=') for x in argv)
    hint = 'changes to a config need --config=FILE before them' if lone else 'see --help'
    print(ConfigError(reason, where='the command line', hint=hint), file=sys.stderr)
    sys.exit(EXIT_EXPECTED_FAILURE)
  command_line.quieten_libraries()
  return arguments


def check_arguments(argv, values, *required: str):
  """Raises ConfigError for arguments without a flag, or a required flag that is not set."""
  if len(argv) > 1:
    raise ConfigError(f'unexpected arguments {argv[1:]}', hint='see --help')
  for name in required:
    if not values[name].value:
      raise ConfigError(f'--{name} is missing', hint='see --help')
