"""Reads a pickle as data: a small stack machine that calls nothing the file names.

`pickletools.genops` splits the stream into opcodes; this module keeps the stack. A global of the
file is looked up in a table of the caller and is either one of its own constructors or an inert
`Record`; anything else is refused by name. The C unpickler is not used, since a hostile stream can
make it allocate or recurse without bound (memo indices, nested tuples as dictionary keys).
"""

import dataclasses
import pickletools
from collections.abc import Callable
from typing import Any

from tfg_jax.errors import ConversionError
from tfg_jax.pytorch.stored import Damaged, brief

MAX_BYTES = 16 << 20  # torch.save's pickles are below 1 MB: names, shapes, dictionaries
MAX_OPCODES = 1_000_000  # AV-HuBERT large with its optimizer state needs about 100 000
MAX_INT_BITS = 128  # the magic number of torch.save has 80
MAX_KEY_LENGTH = 32  # items of a tuple that is used as a dictionary key


@dataclasses.dataclass(frozen=True)
class Global:
  """A name of the file that the caller allows.

  `build(charge, *args)` is what calling the name builds; it pays for copies with `charge(items)`.
  None: the name is a value only, e.g. a dtype.
  """

  name: str
  build: Callable[..., Any] | None = None


@dataclasses.dataclass(eq=False)
class Record:
  """What the file says of an object whose class is not loaded: nothing of it has run."""

  name: str
  args: tuple = ()
  state: Any = None
  items: list = dataclasses.field(default_factory=list)


def build_record(name):
  """Returns the `build` of a class whose objects are kept as inert records."""
  return lambda charge, *args: Record(name, args)


def build_dict(charge, *args):
  """Builds the dict of `OrderedDict()`, `Counter({...})`, Python 2's `OrderedDict([[k, v]])`."""
  result = {}
  for source in args:
    pairs = list(source.items()) if isinstance(source, dict) else source
    charge(len(pairs))
    for key, value in pairs:
      result[_key(key)] = value
  return result


def build_set(charge, values=()):
  """Builds the set of `set([...])`."""
  charge(len(values))
  return {_key(value) for value in values}


def build_bytes(charge, text='', encoding='latin1'):
  """Builds the bytes of `_codecs.encode(text, 'latin1')`, which is how protocol 2 writes them."""
  if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
    raise Damaged(f'bytes from a {type(text).__name__} in {brief(encoding)}')
  charge(len(text))
  return text.encode('latin1')


def load(stream, find_global, find_persistent, *, where):
  """Reads one pickle and returns what it builds.

  Args:
    stream: io.BytesIO at the start of the pickle; left behind its end.
    find_global: (module, name) -> Global; raises ConversionError for a name that is not allowed.
    find_persistent: persistent id -> object (torch: a storage).
    where: the file, for error messages.

  Returns:
    Nested dict, list, tuple, set, str, bytes, numbers, None, `Global`, `Record` and whatever
    the caller's constructors return. Containers may contain themselves.

  Raises:
    ConversionError: for a name that is not allowed; for a damaged, over-long or hostile stream.
  """
  try:
    return _Machine(find_global, find_persistent, stream).run()
  # genops and the stack report a broken stream with all of these.
  except (Damaged, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
    raise damaged(error, where) from error


def damaged(error, where) -> ConversionError:
  """What is said of a pickle that breaks the rules."""
  return ConversionError(
    f'the pickle in the file is damaged: {str(error)[:200]}',
    where=where,
    hint='download the file again; nothing in it was executed',
  )


_MARK = object()
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
_LITERALS = frozenset(
  [
    'BININT',
    'BININT1',
    'BININT2',
    'LONG1',
    'LONG4',
    'BINFLOAT',
    'BINSTRING',
    'SHORT_BINSTRING',
    'BINUNICODE',
    'SHORT_BINUNICODE',
    'BINUNICODE8',
    'BINBYTES',
    'SHORT_BINBYTES',
    'BINBYTES8',
    'BYTEARRAY8',
  ]
)
_EMPTY = {'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple, 'EMPTY_DICT': dict, 'EMPTY_SET': set}
_SHORT_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}


class _Machine:
  """The stack, the memo and the budget of one pickle."""

  def __init__(self, find_global, find_persistent, stream):
    self._find_global, self._find_persistent, self._stream = find_global, find_persistent, stream
    self._stack, self._memo = [], {}
    # An honest pickle spells out what it builds, so all copies together are no longer than it is.
    self._budget = len(stream.getbuffer()) - stream.tell()

  def run(self):
    for count, (opcode, arg, _) in enumerate(pickletools.genops(self._stream)):
      if count >= MAX_OPCODES:
        raise Damaged(f'more than {MAX_OPCODES} opcodes')
      if opcode.name == 'STOP':
        return self._pop()
      self._step(opcode.name, arg)
    raise Damaged('no STOP')

  def _charge(self, amount):
    """Pays for a copy of `amount` items or bytes."""
    self._budget -= amount
    if self._budget < 0:
      raise Damaged('it builds more than it spells out')

  def _push(self, value):
    self._stack.append(value)

  def _pop(self):
    value = self._stack.pop()
    if value is _MARK:
      raise Damaged('a mark where a value should be')
    return value

  def _pop_to_mark(self):
    """Returns the values above the last mark and drops both."""
    values = []
    while (value := self._stack.pop()) is not _MARK:
      values.append(value)
    return values[::-1]

  def _step(self, name, arg):
    if name in _LITERALS:
      if isinstance(arg, int) and arg.bit_length() > MAX_INT_BITS:
        raise Damaged(f'an integer of {arg.bit_length()} bits')
      self._push(arg)
    elif name in _CONSTANTS:
      self._push(_CONSTANTS[name])
    elif name in _EMPTY:
      self._push(_EMPTY[name]())
    elif name == 'MARK':
      self._push(_MARK)
    elif name in ('BINPUT', 'LONG_BINPUT'):
      self._memo[arg] = self._top()
    elif name == 'MEMOIZE':
      self._memo[len(self._memo)] = self._top()
    elif name in ('BINGET', 'LONG_BINGET'):
      self._push(self._memo[arg])
    elif name in _SHORT_TUPLES:
      self._push(tuple([self._pop() for _ in range(_SHORT_TUPLES[name])][::-1]))
    elif name == 'TUPLE':
      self._push(tuple(self._pop_to_mark()))
    elif name == 'LIST':
      self._push(self._pop_to_mark())
    elif name == 'FROZENSET':
      self._push(frozenset(_key(value) for value in self._pop_to_mark()))
    elif name == 'DICT':
      values = self._pop_to_mark()
      self._push({})
      self._set_items(values)
    elif name == 'SETITEMS':
      self._set_items(self._pop_to_mark())
    elif name == 'SETITEM':
      value, key = self._pop(), self._pop()
      self._set_items([key, value])
    elif name == 'APPENDS':
      self._extend(self._pop_to_mark())
    elif name == 'APPEND':
      self._extend([self._pop()])
    elif name == 'ADDITEMS':
      values = self._pop_to_mark()
      self._expect(set).update(_key(value) for value in values)
    elif name == 'POP':
      self._stack.pop()
    elif name == 'POP_MARK':
      self._pop_to_mark()
    elif name == 'DUP':
      self._push(self._top())
    elif name == 'GLOBAL':
      self._push(self._find_global(*arg.split(' ', 1)))
    elif name == 'STACK_GLOBAL':
      attribute, module = self._pop(), self._pop()
      if not isinstance(module, str) or not isinstance(attribute, str):
        raise Damaged(f'a name made of {brief(module)} and {brief(attribute)}')
      self._push(self._find_global(module, attribute))
    elif name in ('REDUCE', 'NEWOBJ'):
      args = self._pop()
      self._push(self._call(self._pop(), args))
    elif name == 'BINPERSID':
      self._push(self._find_persistent(self._pop()))
    elif name == 'BUILD':
      self._build(self._pop())
    elif name not in ('PROTO', 'FRAME'):
      raise Damaged(f'opcode {name}, which neither torch.save nor numpy writes')

  def _top(self):
    value = self._pop()
    self._push(value)
    return value

  def _expect(self, kind):
    value = self._top()
    if not isinstance(value, kind):
      raise Damaged(f'items for a {type(value).__name__}')
    return value

  def _set_items(self, values):
    target = self._expect((dict, Record))
    if len(values) % 2:
      raise Damaged('a key without a value')
    pairs = zip(values[::2], values[1::2], strict=True)
    if isinstance(target, Record):
      target.items.extend(pairs)
    else:
      target.update((_key(key), value) for key, value in pairs)

  def _extend(self, values):
    target = self._expect((list, Record))
    (target.items if isinstance(target, Record) else target).extend(values)

  def _call(self, function, args):
    if not isinstance(function, Global) or function.build is None or not isinstance(args, tuple):
      raise Damaged(f'a call of {getattr(function, "name", type(function).__name__)}')
    return function.build(self._charge, *args)

  def _build(self, state):
    # The state of a plain container is bookkeeping of its class, e.g. `_metadata` of a state_dict.
    target = self._top()
    if isinstance(target, Record):
      target.state = state
    elif not isinstance(target, dict):
      raise Damaged(f'a state for a {type(target).__name__}')


def _key(value):
  """Returns `value` if hashing it is cheap: nested or long tuples recurse in C or repeat work."""
  parts = value if isinstance(value, tuple) else (value,)
  if len(parts) > MAX_KEY_LENGTH:
    raise Damaged(f'a key of {len(parts)} items')
  for part in parts:
    if not isinstance(part, str | int | float | bytes | Record | Global | None):
      raise Damaged(f'a key of type {type(part).__name__}')
  return value
