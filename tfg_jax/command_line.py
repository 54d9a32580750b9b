"""What commands have in common: what `--help` says, and what is left unsaid.

Help is the docstring of a command, and its own flags in the order of their sense. absl's sorts them
by name, shows the file that they are defined in, and exits as if it had failed.
"""

import sys
import textwrap

from absl import flags, logging

_HELP = {'--help', '-help', '-h', '-?', '--helpshort'}


def asks_for_help(argv) -> bool:
  """Whether a flag is one that asks for it; what stands behind a lone -- is none."""
  own = argv[1 : argv.index('--')] if '--' in argv else argv[1:]
  return bool(_HELP.intersection(own))


def help_text(values: flags.FlagValues = flags.FLAGS) -> str:
  """The docstring of the program that runs, and the flags that it has defined."""
  lines = [(sys.modules['__main__'].__doc__ or '').strip(), '', 'Flags:']
  for flag in values.get_flags_for_module('__main__'):
    name = f'--[no]{flag.name}' if flag.boolean else f'--{flag.name}'
    said = flag.help
    if choices := '|'.join(getattr(flag.parser, 'enum_values', ())):
      name += f'={choices}'
      said = said.removeprefix(f'<{choices}>: ')  # where absl says them
    if flag.default not in (None, '', []) and not flag.boolean and 'efault' not in said:
      default = flag.default_as_str.strip("'")
      said += f' Default: {default}.'
    lines += [
      f'  {name}',
      *textwrap.wrap(said, 94, initial_indent='      ', subsequent_indent='      '),
    ]
  return '\n'.join(lines)


def quieten_libraries():
  """Leaves warnings to be shown, and of Orbax, which reports each of its steps, errors; unless
  --verbosity asks for more."""
  if flags.FLAGS['verbosity'].using_default_value:
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_logger().addFilter(_matters)


def _matters(record) -> bool:
  return record.levelno >= logging.converter.STANDARD_ERROR or 'orbax' not in record.pathname
