"""What the text of a compiled program tells: what its devices exchange, what moves to memory."""

import dataclasses
import functools
import math
import re

_KINDS = (
  *('all-reduce', 'all-gather', 'all-to-all', 'ragged-all-to-all', 'reduce-scatter'),
  *('collective-broadcast', 'collective-permute'),
)
# bf16[8,128]{1,0:T(8,128)(2,1)S(1)}: type, lengths, and where the compiler has decided it the axes
# from minor to major, the tiles, and the memory (the main one where none is named).
_ARRAY = re.compile(r'\b(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\](?:\{([\d,]*)(:\S*?)?\})?')
_COMBINED = re.compile(r'(.*?/)\((.*)\)')  # 'jit(step)/(this:that)'
_COMPUTATION = re.compile(r'^(?:ENTRY )?%(\S+) \(.*\{$')
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%(\S+) = (.+?) ([a-z][\w-]*)\((.*)')
_CALLED = re.compile(r'\b(?:calls|to_apply|body|condition)=%([\w.-]+)')
_BRANCHES = re.compile(r'\bbranch_computations=\{(.*?)\}')
_NAME = re.compile(r'%([\w.-]+)')
_CHANNEL = re.compile(r'\bchannel_id=(\d+)')
_SOURCE = re.compile(r'\bop_name="([^"]*)"')
_TRIPS = re.compile(r'known_trip_count\D*(\d+)')
# These name what is there, or begin what another one ends.
_STILL = re.compile(r'parameter|constant|tuple|get-tuple-element|bitcast|after-all|.*-start')
_MOVES = (
  *('bitcast', 'reshape', 'transpose', 'copy'),
  *('copy-start', 'copy-done', 'slice-start', 'slice-done'),
)
_PARTS = ('get-tuple-element', 'custom-call')  # moves where they have no name of their own
_CUTS = ('dynamic-slice', 'slice', 'gather', 'dynamic-update-slice')  # they take or change a part


@dataclasses.dataclass(frozen=True)
class _Instruction:
  """One line of a computation."""

  name: str
  shape: str
  kind: str
  operands: tuple[str, ...]
  settings: str  # what stands behind them

  @classmethod
  def read(cls, line: str) -> '_Instruction | None':
    match = _INSTRUCTION.match(line)
    if not match:
      return None
    name, shape, kind, rest = match.groups()
    operands, _, settings = rest.partition(')')
    return cls(name, shape, kind, tuple(_NAME.findall(operands)), settings)

  @property
  def called(self) -> list[str]:
    """The names of computations that it runs, or chooses from."""
    branches = _BRANCHES.search(self.settings)
    return _NAME.findall(branches[1]) if branches else _CALLED.findall(self.settings)

  @property
  def times(self) -> int:
    """How often a loop runs."""
    trips = _TRIPS.search(self.settings)
    return int(trips[1]) if trips else 1

  @property
  def source(self) -> str:
    """The operation of the program that it comes from; '' where that is not said."""
    source = _SOURCE.search(self.settings)
    return source[1] if source else ''


def _computations(text: str) -> tuple[dict[str, dict[str, _Instruction]], str]:
  """The instructions of each computation of a program by their names, and the name of the first."""
  found, current, entry = {}, None, ''
  for line in text.splitlines():
    if header := _COMPUTATION.match(line):
      current = found.setdefault(header[1], {})
      if line.startswith('ENTRY'):
        entry = header[1]
    elif current is not None and (instruction := _Instruction.read(line)):
      current[instruction.name] = instruction
  return found, entry


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
  computations, _ = _computations(text)
  found = {}
  for body in computations.values():
    for x in body.values():
      kind = x.kind.removesuffix('-start')
      if kind not in _KINDS:
        continue
      arrays = [
        (math.prod(map(int, filter(None, lengths.split(',')))), int(bits or 8))
        for bits, lengths, *_ in _ARRAY.findall(x.shape)
      ]
      if kind != x.kind and kind != 'all-reduce':  # what goes in stands before what comes out
        arrays = arrays[len(arrays) // 2 :]
      origins = [_origin(name, body, computations) for name in x.operands]
      channel = _CHANNEL.search(x.settings)  # some stand in several fusions
      found[channel[1] if channel else x.name] = [
        Collective(kind, count, count * bits // 8, source)
        for (count, bits), source in zip(
          arrays, _sources(x.source, origins, len(arrays)), strict=True
        )
      ]
  return tuple(x for exchanged in found.values() for x in exchanged)


def _origin(name: str, body: dict[str, _Instruction], computations) -> str:
  """The operation that an array comes from, where it was moved or read in another shape since."""
  source = ''
  while name in body:
    x = body[name]
    source = x.source or source
    inside = computations[x.called[0]].values() if x.kind == 'fusion' else ()
    only_moves = inside and all(y.kind in ('parameter', *_MOVES) for y in inside)
    unnamed_part = x.kind in _PARTS and not x.source
    if not (x.operands and (x.kind in _MOVES or only_moves or unnamed_part)):
      break
    name = x.operands[0]
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


def traffic(text: str) -> int:
  """Bytes that a compiled program's operations read from a chip's main memory and write to it.

  Arrays that a TPU's compiler keeps in memory on the chip cost what it takes to bring them there;
  the `bytes accessed` of its own analysis count their every use. Arrays count with the ends of the
  tiles that they fill in part. Where an operation takes a part of an array, or changes one, the
  part counts. A collective that goes on beside other operations counts where it begins and where it
  ends, not with each of them. Loops count as often as they run, where that is known.
  """
  computations, entry = _computations(text)

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
    outputs = [y for z in inside.values() if z.kind == 'tuple' for y in z.operands]
    handed_on = [inside[y] for y in outputs if inside[y].kind in ('parameter', *_KINDS)]
  else:  # as a fusion of itself alone
    arguments = [body[name] for name in dict.fromkeys(x.operands) if name in body]
    inside = {y.name: y for y in (*arguments, x)}
    placed = [x] if x.kind == 'dynamic-update-slice' else []
    handed_on = []
  written = _in_memory(x.shape)
  if written:
    written -= sum(_size(y.shape) - _size(inside[y.operands[1]].shape) for y in placed)
    written -= sum(_in_memory(y.shape) for y in handed_on)
  return written + sum(_read(argument, inside.values()) for argument in arguments)


def _read(argument: _Instruction, inside) -> int:
  """Bytes of an argument that the instructions `inside` read."""
  users = [x for x in inside if argument.name in x.operands]
  kinds = {x.kind for x in users}
  if 'tuple' in kinds and kinds <= {'tuple', *_KINDS}:  # it is handed on
    return 0
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
