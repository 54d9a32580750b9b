"""Files changed at random, and what reads them: in processes with little memory and time.

A target makes one good file (or folder) and reads it. A case is a number: it decides what is
changed, so that the same case is the same file again.
"""

import collections
import dataclasses
import json
import os
import pathlib
import random
import re
import resource
import struct
import warnings
from collections.abc import Callable

from tfg_jax.errors import TfgError

MEMORY = 3 << 30  # bytes of address space beyond what the imports have taken
SECONDS = 20  # of the processor, for one case


@dataclasses.dataclass(frozen=True)
class Target:
  """A kind of file.

  Attributes:
    make: `make(folder)` writes a good one.
    read: `read(folder)` reads all of it; raises TfgError if it is refused.
    texts: whether values of its text are changed, besides bytes.
    only: of which files, a pattern for the end of their names.
  """

  make: Callable[[pathlib.Path], None]
  read: Callable[[pathlib.Path], None]
  texts: bool = False
  only: str = ''


# --------------------------------------------------------------------------------------------------
# Changes
# --------------------------------------------------------------------------------------------------

_INTEGERS = [0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**64 - 1]
_VALUES = [
  '-1',
  '0',
  '1e308',
  'NaN',
  'Infinity',
  '9' * 40,
  'null',
  '[]',
  '{}',
  '"x"',
  'true',
  '0.5',
]


def mutate(data: bytes, draw: random.Random, *, texts: bool) -> bytes:
  """One to four changes; half of them near the beginning, where headers are."""
  data = bytearray(data)
  for _ in range(draw.choice((1, 1, 1, 2, 4))):
    if not data:
      break
    if texts and draw.random() < 0.5:
      data = _change_a_value(data, draw)
      continue
    place = draw.randrange(min(len(data), draw.choice((128, 1024, len(data), len(data)))))
    length = min(draw.choice((1, 2, 4, 8, 64, 1000)), len(data) - place)
    kind = draw.randrange(8)
    if kind == 0:
      data[place] ^= 1 << draw.randrange(8)
    elif kind == 1:
      data[place : place + length] = draw.randbytes(length)
    elif kind in (2, 3):
      size, order = draw.choice(('B', 'H', 'I', 'Q')), draw.choice('<>')
      value = draw.choice(_INTEGERS) & (1 << 8 * struct.calcsize(size)) - 1
      number = struct.pack(order + size, value)
      data[place : place + len(number)] = number
    elif kind == 4:
      del data[place : place + length]
    elif kind == 5:
      data[place:place] = data[place : place + length] * draw.choice((1, 1, 50))
    elif kind == 6:
      data[place : place + length] = bytes(length)
    else:
      del data[place:]
  return bytes(data)


def _change_a_value(data, draw):
  found = [*re.finditer(rb'-?\d+(?:\.\d+)?|"[^"]*"|\btrue\b|\bnull\b|\[|\{', data)]
  if not found:
    return data
  match = draw.choice(found)
  return data[: match.start()] + draw.choice(_VALUES).encode() + data[match.end() :]


def write_mutant(target: Target, name: str, case: int, good: dict, folder: pathlib.Path):
  """Writes the files `good` ({path in the folder: bytes}) with one of them changed."""
  draw = random.Random(f'{name} {case}')
  # By size, as Orbax draws names of its own; half of the cases are for what is large.
  paths = sorted((path for path in good if path.endswith(target.only)), key=lambda x: len(good[x]))
  sizes = [len(good[path]) for path in paths]
  (chosen,) = draw.choices(paths, [size + sum(sizes) / len(sizes) for size in sizes])
  for path, data in good.items():
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(mutate(data, draw, texts=target.texts) if path == chosen else data)


def good_files(target: Target, folder: pathlib.Path) -> dict[str, bytes]:
  target.make(folder)
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


# --------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------


def read_all(name: str, first: int, count: int, folder: str):
  """Reads `count` mutants in this process; what is neither read nor refused goes to a file.

  FOLDER/at holds the case at work, FOLDER/findings.jsonl the failures, FOLDER/counts.json the end.
  """
  import targets

  warnings.simplefilter('ignore')
  target, folder = targets.TARGETS[name], pathlib.Path(folder)
  good = good_files(target, folder / 'good')
  target.read(folder / 'good')
  _limit(resource.RLIMIT_AS, _address_space() + MEMORY)
  counts = collections.Counter()
  with open(folder / 'at', 'wb', buffering=0) as at, open(folder / 'findings.jsonl', 'w') as found:
    for case in range(first, first + count):
      os.pwrite(at.fileno(), b'%12d' % case, 0)
      used = resource.getrusage(resource.RUSAGE_SELF)
      _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + SECONDS)
      mutant = folder / 'mutant' / str(case % 2)  # two, as readers may remember the last
      write_mutant(target, name, case, good, mutant)
      try:
        target.read(mutant)
        counts['read'] += 1
      except TfgError:
        counts['refused'] += 1
      except BaseException as error:
        counts['failed'] += 1
        line = {'case': case, 'error': f'{type(error).__name__}: {error}'[:300]}
        found.write(json.dumps({**line, 'in': _innermost(error)}) + '\n')
        found.flush()
  (folder / 'counts.json').write_text(json.dumps(counts))


def _limit(what, value):
  hard = resource.getrlimit(what)[1]
  resource.setrlimit(what, (value, hard))


def _address_space():
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
  return pages * resource.getpagesize()


def _innermost(error):
  """The innermost line of the project in a traceback."""
  trace, place = error.__traceback__, ''
  while trace:
    path = trace.tb_frame.f_code.co_filename
    if '/tfg_jax/' in path or '/data_prep/' in path:
      place = f'{pathlib.Path(path).name}:{trace.tb_lineno}'
    trace = trace.tb_next
  return place
