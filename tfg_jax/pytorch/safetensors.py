"""The safetensors format: eight bytes of length, a JSON header, the numbers.

Source: "Format" in the README of huggingface/safetensors. Written here so that reading is as lazy
and bounded as for PyTorch files, with the same `StoredTensor`.
"""

import json
import math

from tfg_jax.errors import ConversionError
from tfg_jax.pytorch.stored import (
  DTYPES,
  MAX_DIMENSIONS,
  Damaged,
  Storage,
  StoredTensor,
  brief,
  c_strides,
  count,
  raw_bytes,
)

MAX_HEADER_BYTES = 16 << 20  # AV-HuBERT large needs about 0.1 MB
_DTYPE_OF = {dtype.safetensors: dtype.numpy for dtype in DTYPES if dtype.safetensors}
_NAME_OF = {dtype: name for name, dtype in _DTYPE_OF.items()}


def read(path) -> dict[str, StoredTensor]:
  """Returns the tensors of a file by key.

  Raises:
    ConversionError: if the header is over-long, damaged, or does not fit the file.
  """
  end = path.stat().st_size
  with open(path, 'rb') as file:
    length = int.from_bytes(file.read(8), 'little')
    if length > min(MAX_HEADER_BYTES, end - 8):
      raise ConversionError(
        f'the safetensors header claims {length} bytes, in a file of {end}',
        where=path,
        hint=f'download or copy the file again; at most {MAX_HEADER_BYTES} are read',
      )
    header = file.read(length)
  try:
    entries = json.loads(header, object_pairs_hook=_unique)
    return _tensors(path, entries, 8 + length, end)
  # json reports nonsense as ValueError or, deeply nested, as RecursionError.
  except (Damaged, ValueError, RecursionError) as error:
    raise ConversionError(
      f'the safetensors header is damaged: {str(error)[:200]}',
      where=path,
      hint='download or copy the file again',
    ) from error


def _unique(pairs):
  result = dict(pairs)
  if len(result) != len(pairs):
    raise Damaged('a key appears twice')
  return result


def _tensors(path, entries, begin, end):
  """Returns the tensors of a header whose numbers fill bytes `begin` to `end` without a gap."""
  if not isinstance(entries, dict):
    raise Damaged('it is not an object')
  tensors, runs = {}, []
  for key, entry in entries.items():
    if key == '__metadata__':
      continue
    dtype, shape, (first, last) = _entry(entry)
    size = math.prod(shape)
    if last - first != size * dtype.itemsize:
      raise Damaged(f'{key[:80]!r} of shape {shape} cannot have {last - first} bytes')
    storage = Storage(path, begin + first, last - first)
    tensors[key] = StoredTensor.checked(storage, dtype, shape, c_strides(shape), items=size)
    runs.append((first, last))
  reached = 0
  for first, last in sorted(runs):
    if first != reached:
      raise Damaged(f'the tensors overlap or leave a gap at byte {first}')
    reached = last
  if begin + reached != end:
    raise Damaged(f'the tensors end at byte {begin + reached}, the file at {end}')
  return tensors


def _entry(entry):
  """Returns (dtype, shape, offsets) of one tensor after checking the types of the JSON values."""
  if not isinstance(entry, dict) or set(entry) != {'dtype', 'shape', 'data_offsets'}:
    raise Damaged('a tensor needs dtype, shape and data_offsets')
  dtype, shape, offsets = entry['dtype'], entry['shape'], entry['data_offsets']
  if not isinstance(dtype, str) or dtype not in _DTYPE_OF:
    raise Damaged(f'a tensor of dtype {brief(dtype)}')
  if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
    raise Damaged('a tensor without a shape')
  if not isinstance(offsets, list) or len(offsets) != 2:
    raise Damaged('a tensor without two data_offsets')
  shape = tuple(count(size, 'a size of') for size in shape)
  return _DTYPE_OF[dtype], shape, tuple(count(offset, 'an offset of') for offset in offsets)


def write(file, arrays, *, where):
  """Writes arrays by key to an open binary file.

  Raises:
    ConversionError: for a dtype that the format does not have.
  """
  header, offset = {'__metadata__': {'format': 'pt'}}, 0
  # Wide items first, so that every tensor is aligned to its item size.
  ordered = sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)
  for key, array in ordered:
    if array.dtype not in _NAME_OF:
      raise ConversionError(f'safetensors cannot hold {key} of dtype {array.dtype}', where=where)
    header[key] = {
      'dtype': _NAME_OF[array.dtype],
      'shape': list(array.shape),
      'data_offsets': [offset, offset + array.nbytes],
    }
    offset += array.nbytes
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  file.write(len(text).to_bytes(8, 'little') + text)
  for _, array in ordered:
    file.write(raw_bytes(array))
