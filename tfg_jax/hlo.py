"""What the text of a compiled program tells: what its devices exchange, what moves to memory."""

import dataclasses
import functools
import math
import re

_KINDS = (
  *('all-reduce', 'all-gather', 'all-to-all', 'ragged-all-to-all', 'reduce-scatter'),
  *('collective-broadcast', 'collective-permute'),
)
_COLLECTIVE = re.compile(rf' = (\S.*?) ({"|".join(_KINDS)})(-start)?\((.*)')
# bf16[8,128]{1,0:T(8,128)(2,1)S(1)}: type, lengths, and where the compiler has decided it the axes
# from minor to major, the tiles, and the memory (the main one where none is named).
_ARRAY = re.compile(r'\b(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\](?:\{([\d,]*)(:\S*?)?\})?')
_COMBINED = re.compile(r'(.*?/)\((.*)\)')  # 'jit(step)/(this:that)'
_MADE = re.compile(r'^\s*(?:ROOT )?%(\S+) = .+? ([a-z][\w-]*)\(%([\w.-]+)(?:.*op_name="([^"]*)")?')
_COMPUTATION = re.compile(r'^(?:ENTRY )?%(\S+) \(.*\{$')
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%(\S+) = (.+?) ([a-z][\w-]*)\((.*)')
_CALLED = re.compile(r'\b(?:calls|to_apply|body|condition)=%([\w.-]+)')
_BRANCHES = re.compile(r'\bbranch_computations=\{(.*?)\}')
_TRIPS = re.compile(r'known_trip_count\D*(\d+)')
# These name what is there, or begin what another one ends.
_STILL = re.compile(r'parameter|constant|tuple|get-tuple-element|bitcast|after-all|.*-start')
_MOVES = ('bitcast', 'reshape', 'copy', 'copy-start', 'copy-done', 'slice-start', 'slice-done')
_PARTS = ('get-tuple-element', 'custom-call')  # moves where they have no name of their own
_CUTS = ('dynamic-slice', 'slice', 'gather', 'dynamic-update-slice')  # they take or change a part


# --------------------------------------------------------------------------------------------------
# Collectives
# --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Collective:
  """An array that chips exchange in a compiled program."""

  kind: str  # 'all-reduce', ...
  count: int  # numbers
  size: int  # bytes
  source: str  # the operation of the step that it comes from; '' where that is not known


def collectives(text: str) -> tuple[Collective, ...]:
  """The arrays that come out of the collectives of a compiled program's text."""
  found = {}
  lines = text.splitlines()
  made = {x[1]: x for x in map(_MADE.match, lines) if x}
  for number, line in enumerate(lines):
    match = _COLLECTIVE.search(line)
    if not match:
      continue
    shape, kind, starts, rest = match.groups()
    arrays = [
      (math.prod(map(int, filter(None, lengths.split(',')))), int(bits or 8))
      for bits, lengths, *_ in _ARRAY.findall(shape)
    ]
    if starts and kind != 'all-reduce':  # what goes in stands before what comes out
      arrays = arrays[len(arrays) // 2 :]
    name = re.search(r'op_name="([^"]*)"', rest)
    operands = [_origin(x, made) for x in re.findall(r'%([\w.-]+)', rest.split(')')[0])]
    sources = _sources(name[1] if name else '', operands, len(arrays))
    channel = re.search(r'channel_id=(\d+)', rest)  # some stand in several fusions
    found[channel[1] if channel else f'line {number}'] = [
      Collective(kind, count, count * bits // 8, source)
      for (count, bits), source in zip(arrays, sources, strict=True)
    ]
  return tuple(x for exchanged in found.values() for x in exchanged)


def _origin(name: str, made: dict[str, re.Match]) -> str:
  """The operation that an array comes from, where it was moved or read in another shape since."""
  source = ''
  while name in made:
    _, kind, operand, own = made[name].groups()
    source = own or source
    if kind not in _MOVES and (own or kind not in _PARTS):
      break
    name = operand
  return source


def _sources(name: str, operands: list[str], count: int) -> list[str]:
  """The operations whose arrays are exchanged together, by the names of all and of each operand."""
  combined = _COMBINED.fullmatch(name)
  names = [combined[1] + part for part in combined[2].split(':')] if combined else []
  if len(names) == count:
    return names
  if 1 < len(operands) == count:  # the compiler cuts long names off
    return [x or name for x in operands]
  return [name] * count


# --------------------------------------------------------------------------------------------------
# Memory
# --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Instruction:
  """One line of a computation."""

  name: str
  shape: str
  kind: str
  operands: tuple[str, ...]
  called: tuple[str, ...]  # computations
  times: int  # that they run

  @classmethod
  def read(cls, line: str) -> '_Instruction | None':
    match = _INSTRUCTION.match(line)
    if not match:
      return None
    name, shape, kind, rest = match.groups()
    branches = _BRANCHES.search(rest)
    called = re.findall(r'%([\w.-]+)', branches[1]) if branches else _CALLED.findall(rest)
    trips = _TRIPS.search(rest)
    operands = re.findall(r'%([\w.-]+)', rest.split(')')[0])
    return cls(name, shape, kind, tuple(operands), tuple(called), int(trips[1]) if trips else 1)


def traffic(text: str) -> int:
  """Bytes that a compiled program's operations read from a chip's main memory and write to it.

  Arrays that a TPU's compiler keeps in memory on the chip cost what it takes to bring them there;
  the `bytes accessed` of its own analysis count their every use. Arrays count with the ends of the
  tiles that they fill in part. Where an operation takes a part of an array, or changes one, the
  part counts. Loops count as often as they run, where that is known.
  """
  computations, current = {}, None
  for line in text.splitlines():
    if header := _COMPUTATION.match(line):
      current = computations.setdefault(header[1], {})
      if line.startswith('ENTRY'):
        entry = header[1]
    elif current is not None and (instruction := _Instruction.read(line)):
      current[instruction.name] = instruction

  @functools.cache
  def cost(name):
    body = computations[name]
    return sum(_moved(x, body, computations, cost) for x in body.values())

  return cost(entry)


def _moved(x: _Instruction, body, computations, cost) -> int:
  """Bytes that one instruction of `body` moves; `cost` is that of a computation by name."""
  if x.kind in ('while', 'call', 'conditional'):
    runs = [cost(name) for name in x.called]
    return max(runs, default=0) if x.kind == 'conditional' else x.times * sum(runs)
  if _STILL.fullmatch(x.kind):
    return 0
  if x.kind in ('copy-done', 'slice-done'):  # from one memory to another, or within one
    source = body[body[x.operands[0]].operands[0]].shape
    return sum(_size(x.shape) for shape in (source, x.shape) if not _is_on_chip(shape))
  if x.kind == 'fusion':
    inside = computations[x.called[0]]
    arguments = [y for y in inside.values() if y.kind == 'parameter']
    placed = [y for y in inside.values() if y.kind == 'dynamic-update-slice']
  else:  # as a fusion of itself alone
    arguments = [body[name] for name in dict.fromkeys(x.operands) if name in body]
    inside = {y.name: y for y in (*arguments, x)}
    placed = [x] if x.kind == 'dynamic-update-slice' else []
  written = _in_memory(x.shape)
  if written:
    written -= sum(_size(y.shape) - _size(inside[y.operands[1]].shape) for y in placed)
  return written + sum(_read(argument, inside.values()) for argument in arguments)


def _read(argument: _Instruction, inside) -> int:
  """Bytes of an argument that the instructions `inside` read."""
  users = [x for x in inside if argument.name in x.operands]
  if users and all(x.kind in _CUTS and x.operands[0] == argument.name for x in users):
    cut = sum(0 if x.kind == 'dynamic-update-slice' else _size(x.shape) for x in users)
    return 0 if _is_on_chip(argument.shape) else min(cut, _size(argument.shape))
  return _in_memory(argument.shape)


def _is_on_chip(shape: str) -> bool:
  return bool(re.search(r'S\([1-9]\)', shape))


def _in_memory(shape: str) -> int:
  """Bytes of the arrays of a shape that lie in the main memory."""
  return sum(_size(array[0]) for array in _ARRAY.finditer(shape) if not _is_on_chip(array[0]))


def _size(shape: str) -> int:
  """Bytes of the arrays of a shape, wherever they lie, with their tiles filled up."""
  total = 0
  for bits, lengths, order, layout in _ARRAY.findall(shape):
    lengths = [int(n) for n in lengths.split(',') if n]
    tile = re.match(r':T\(([\d,]+)\)', layout)
    if tile and lengths:
      minor = [int(axis) for axis in order.split(',')]
      for axis, side in zip(minor, reversed([int(n) for n in tile[1].split(',')]), strict=False):
        lengths[axis] = -(-lengths[axis] // side) * side
    total += math.prod(lengths) * int(bits or 8) // 8
  return total
