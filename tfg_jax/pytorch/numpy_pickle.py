"""A pickled dict of numpy arrays, as data: how VGGFace2's networks came to PyTorch.

`pickle.dump` of protocols 2 to 5, from Python 2 and 3 and numpy 1 and 2. The names of such a file
become inert records, of which this module makes tensors; numpy is never asked to build what a
file describes.

Source: `ndarray.__reduce__` and `__reduce_ex__`, `dtype.__reduce__` and `_frombuffer` of numpy.
"""

import io
import math
import pathlib
from typing import Any

from tfg_jax.errors import ConversionError
from tfg_jax.pytorch import pickles
from tfg_jax.pytorch.pickles import Global, Record
from tfg_jax.pytorch.stored import (
  DTYPES,
  MAX_DIMENSIONS,
  Damaged,
  HeldBytes,
  StoredTensor,
  brief,
  c_strides,
  count,
)

MAX_BYTES = 1 << 30  # the numbers are in the pickle; VGGFace2's ResNet-50 has 165 MB

_CORES = ('numpy.core', 'numpy._core')  # numpy 1 and 2
_RECONSTRUCT = {f'{core}.multiarray._reconstruct' for core in _CORES}
_FROM_BUFFER = {f'{core}.numeric._frombuffer' for core in _CORES}  # protocol 5
_ARRAY, _DTYPE = 'numpy.ndarray', 'numpy.dtype'
_BUILDERS = {
  '__builtin__.bytes': lambda charge: b'',  # how protocol 2 writes no bytes, and
  '_codecs.encode': pickles.build_bytes,  # how it writes some
  'collections.OrderedDict': pickles.build_dict,
  _ARRAY: None,  # stands in calls of _reconstruct, and is not called
} | {name: pickles.build_record(name) for name in (_DTYPE, *_RECONSTRUCT, *_FROM_BUFFER)}
_NUMBERS = {dtype.numpy.str[1:]: dtype.numpy for dtype in DTYPES if dtype.numpy.kind in 'fiu'}
_IS_BIG_ENDIAN = {'<': False, '|': False, '>': True}


def read(path: pathlib.Path) -> dict[Any, Any]:
  """Returns the dict of the file, with its arrays as `StoredTensor`, also in dicts within it.

  The numbers are held in memory, once.

  Raises:
    ConversionError: if the file is too large, is damaged, names code, or has no dict of arrays.
  """
  size = path.stat().st_size
  if size > MAX_BYTES:
    raise ConversionError(
      f'the pickle has {size} bytes, more than {MAX_BYTES}',
      where=path,
      hint='if these are weights, save them with safetensors',
    )
  tree = pickles.load(io.BytesIO(path.read_bytes()), _find_global(path), _no_storage, where=path)
  try:
    found = _fill(tree, path, size)
  except (Damaged, UnicodeEncodeError) as error:
    raise pickles.damaged(error, path) from error
  if not found:
    raise ConversionError(
      'this is a pickle, but neither one of torch.save nor a dict of numpy arrays',
      where=path,
      hint='check what wrote the file',
    )
  return tree


def _find_global(path):
  """Returns the look-up of names."""

  def find(module, attribute):
    name = f'{module}.{attribute}'
    if name not in _BUILDERS:
      raise ConversionError(
        f'the file names {name[:200]!r}, which is neither an array nor a plain container',
        where=path,
        hint='nothing was executed; if you trust the file, save a dict of its arrays alone',
      )
    return Global(name, _BUILDERS[name])

  return find


def _no_storage(persistent_id):
  raise Damaged('a storage where none can be')


def _fill(tree, path, size) -> int:
  """Replaces the records of arrays in a dict, and in those within, by tensors; counts them."""
  tensors, seen, queue = {}, set(), [tree] if isinstance(tree, dict) else []
  while queue:
    node = queue.pop()
    if id(node) in seen:
      continue
    seen.add(id(node))  # a dict may be shared or contain itself
    for key, value in node.items():
      if isinstance(value, dict):
        queue.append(value)
      elif isinstance(value, Record) and value.name in _RECONSTRUCT | _FROM_BUFFER:
        if value not in tensors:  # an array may have several keys
          tensors[value] = _tensor(value, path)
          size -= len(tensors[value].storage.data)
        if size < 0:
          raise Damaged('its arrays have more numbers than the file')
        node[key] = tensors[value]
  return len(tensors)


def _tensor(record, path) -> StoredTensor:
  """The array that a call describes: of `_frombuffer`, or of `_reconstruct` and a state for it."""
  if record.name in _FROM_BUFFER:
    if len(record.args) not in (4, 5):
      raise Damaged(f'a buffer of {len(record.args)} parts')
    data, dtype, shape, order, *axes = record.args
  else:
    function, state = record.args[:1], record.state
    if not function or not isinstance(function[0], Global) or function[0].name != _ARRAY:
      raise Damaged('an array of another class')
    if not isinstance(state, tuple) or len(state) != 5:
      raise Damaged('an array without its five parts')
    _, shape, dtype, is_fortran, data = state
    order, axes = 'F' if is_fortran else 'C', []
  dtype, big_endian = _dtype(dtype)
  if isinstance(data, str):  # Python 2's bytes
    data = data.encode('latin1')
  if not isinstance(data, bytes | bytearray):
    raise Damaged(f'an array whose numbers are a {type(data).__name__}')
  if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
    raise Damaged('an array without a shape')
  shape = tuple(count(side, 'a size of') for side in shape)
  if len(data) != math.prod(shape) * dtype.itemsize:
    raise Damaged(f'an array of shape {shape} and dtype {dtype} has {len(data)} bytes')
  shape, strides = _layout(shape, order, *axes)
  items = len(data) // dtype.itemsize
  return StoredTensor.checked(HeldBytes(path, data, big_endian), dtype, shape, strides, items=items)


def _dtype(record):
  """The numpy dtype of a record and whether its numbers are big-endian; plain numbers only."""
  is_dtype = isinstance(record, Record) and record.name == _DTYPE
  code = record.args[0] if is_dtype and record.args else record
  if not isinstance(code, str) or code not in _NUMBERS or not is_dtype:
    raise Damaged(f'an array of dtype {brief(code)}')
  state = record.state
  # Version, byte order, then what only arrays within arrays and structures have.
  if not isinstance(state, tuple) or len(state) < 5 or any(x is not None for x in state[2:5]):
    raise Damaged(f'an array whose dtype {code} has parts')
  if not isinstance(state[1], str) or state[1] not in _IS_BIG_ENDIAN:
    raise Damaged(f'an array of byte order {brief(state[1])}')
  return _NUMBERS[code], _IS_BIG_ENDIAN[state[1]]


def _layout(shape, order, axes=None):
  """The shape, and the steps in items, of numbers in C or Fortran order, or ('K') of permuted axes:
  axis i of the array is axis `axes[i]` of `shape`, in which numbers are in C order."""
  if order == 'C':
    return shape, c_strides(shape)
  if order == 'F':
    return shape, c_strides(shape[::-1])[::-1]
  is_permutation = isinstance(axes, tuple) and all(type(axis) is int for axis in axes)
  if order != 'K' or not is_permutation or sorted(axes) != list(range(len(shape))):
    raise Damaged(f'an array in the order {brief(order)}')
  strides = c_strides(shape)
  return tuple(shape[axis] for axis in axes), tuple(strides[axis] for axis in axes)
