"""The two formats of `torch.save`: a zip file since PyTorch 1.6, a stream of pickles before.

Source: `torch/serialization.py` of PyTorch 2 (`_save`, `_load`, `_legacy_save`, `_legacy_load`) and
`torch/_utils.py` for what the pickles call.
"""

import dataclasses
import io
import os
import struct
import zipfile
from typing import Any

import numpy as np

from tfg_jax.errors import ConversionError
from tfg_jax.pytorch import pickles
from tfg_jax.pytorch.pickles import Global
from tfg_jax.pytorch.stored import (
  DTYPES,
  Damaged,
  Storage,
  StoredTensor,
  brief,
  c_strides,
  count,
  raw_bytes,
  truncated,
)

# --- What the pickles of both formats may name --------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _StorageView:
  """What a persistent id stands for: `items` of `dtype` (None: bytes) from item `first` on."""

  storage: Storage
  dtype: np.dtype | None
  first: int
  items: int


def _rebuild_tensor(charge, view, start, shape, strides, *bookkeeping):
  """`_rebuild_tensor` (before PyTorch 0.4) and `_rebuild_tensor_v2` (with gradients and hooks)."""
  if not isinstance(view, _StorageView) or view.dtype is None:
    raise Damaged('a tensor without a typed storage')
  return StoredTensor.checked(
    view.storage, view.dtype, shape, strides, start, items=view.items, first=view.first
  )


def _rebuild_tensor_v3(charge, view, start, shape, strides, requires_grad, hooks, dtype, *metadata):
  """A tensor whose dtype has no storage class of its own."""
  if not isinstance(view, _StorageView) or view.dtype is not None:
    raise Damaged('a tensor without an untyped storage')
  if not isinstance(dtype, Global) or dtype.name not in _DTYPES:
    raise Damaged(f'a tensor of dtype {getattr(dtype, "name", brief(dtype))}')
  numpy_dtype = _DTYPES[dtype.name]
  items = view.items // numpy_dtype.itemsize
  return StoredTensor.checked(view.storage, numpy_dtype, shape, strides, start, items=items)


def _rebuild_parameter(charge, tensor, *bookkeeping):
  if not isinstance(tensor, StoredTensor):
    raise Damaged('a parameter without a tensor')
  return tensor


def _build_size(charge, values=()):
  charge(len(values))
  return tuple(values)


_BUILTINS = ('builtins', '__builtin__')  # Python 3 and 2
_DTYPES = {f'torch.{dtype.torch}': dtype.numpy for dtype in DTYPES}
_STORAGES = {
  f'{module}.{dtype.storage}': dtype.numpy
  for module in ('torch', 'torch.cuda')
  for dtype in DTYPES
  if dtype.storage
} | {'torch.storage.UntypedStorage': None}
_BUILDERS = {
  '_codecs.encode': pickles.build_bytes,
  'collections.OrderedDict': pickles.build_dict,
  'collections.Counter': pickles.build_dict,
  'collections.defaultdict': lambda charge, *factory: {},  # the factory is never called
  'torch.Size': _build_size,
  'torch._utils._rebuild_tensor': _rebuild_tensor,
  'torch._utils._rebuild_tensor_v2': _rebuild_tensor,
  'torch._utils._rebuild_tensor_v3': _rebuild_tensor_v3,
  'torch._utils._rebuild_parameter': _rebuild_parameter,
} | {f'{module}.set': pickles.build_set for module in _BUILTINS}
# Names that stand for themselves, e.g. in the metadata of a config.
_VALUES = {*_DTYPES, *_STORAGES} | {
  f'{module}.{name}'
  for module in _BUILTINS
  for name in ('bool', 'bytes', 'dict', 'float', 'int', 'list', 'object', 'str', 'tuple')
}
# Classes of the programs that wrote official checkpoints, e.g. fairseq's configs, dictionaries and
# meters: their objects become inert records.
_RECORDED_PACKAGES = frozenset(
  {'argparse', 'avhubert', 'fairseq', 'omegaconf', 'sentencepiece', 'typing'}
)
_RECORDED = frozenset(
  {'_operator.getitem', 'numpy.dtype', 'numpy.ndarray', 'torch.device'}  # getitem: `Optional[int]`
  | {
    f'numpy.{core}.multiarray.{name}'
    for core in ('core', '_core')
    for name in ('scalar', '_reconstruct')
  }
)


def _find_global(path):
  """Returns the look-up of names for the pickle of a file."""

  def find(module, attribute):
    name = f'{module}.{attribute}'
    if name in _BUILDERS:
      return Global(name, _BUILDERS[name])
    if name in _VALUES:
      return Global(name)
    if name in _RECORDED or module.split('.')[0] in _RECORDED_PACKAGES:
      return Global(name, pickles.build_record(name))
    raise ConversionError(
      f'the file names {name[:200]!r}, which is neither a tensor nor a plain container',
      where=path,
      hint='nothing was executed; if you trust the file, save its state_dict alone with PyTorch',
    )

  return find


def _storage_id(persistent_id):
  """Returns (key, dtype, items, view) of a storage's persistent id; only the stream has views."""
  if not isinstance(persistent_id, tuple) or len(persistent_id) not in (5, 6):
    raise Damaged('a persistent id that is not of a storage')
  kind, storage_class, key, _, items, *view = persistent_id
  if kind != 'storage' or not isinstance(storage_class, Global) or not isinstance(key, str):
    raise Damaged('a persistent id that is not of a storage')
  if storage_class.name not in _STORAGES:
    raise Damaged(f'a storage of class {storage_class.name}')
  view = view[0] if view else None
  return key, _STORAGES[storage_class.name], count(items, 'a storage size of'), view


# --- Reading the zip format ---------------------------------------------------------------------

MAX_DIRECTORY_BYTES = 8 << 20  # of a zip file: a hundred thousand tensors


class _BoundedFile(io.FileIO):
  """Refuses the one unbounded read of `zipfile`, that of the directory."""

  def read(self, size=-1):
    if size > MAX_DIRECTORY_BYTES:
      raise zipfile.BadZipFile(f'a directory of {size} bytes')
    return super().read(size)


def read_zip(path) -> Any:
  """Reads `<folder>/data.pkl` and finds the storages `<folder>/data/<key>` of a zip file.

  Raises:
    ConversionError: if the file is not one that torch.save writes, is damaged, or names code.
  """
  entries = _directory(path)
  folders = {name.split('/')[0] for name in entries}
  if len(folders) != 1:
    raise ConversionError(
      f'a PyTorch file has one folder; this zip file has {len(folders)}',
      where=path,
      hint='if it is an archive of PyTorch files, unpack it first',
    )
  (folder,) = folders
  if f'{folder}/constants.pkl' in entries:
    raise ConversionError(
      'this is a TorchScript program', where=path, hint='save the state_dict() of the module'
    )
  if f'{folder}/data.pkl' not in entries:
    raise ConversionError(
      f'this zip file is not a PyTorch file: it has no {folder}/data.pkl',
      where=path,
      hint='if it is an archive of PyTorch files, unpack it first',
    )
  pickle = _small_entry(path, entries[f'{folder}/data.pkl'])
  order = entries.get(f'{folder}/byteorder')
  big_endian = order is not None and _small_entry(path, order) == b'big'
  storages = {}

  def find_storage(persistent_id):
    key, dtype, items, _ = _storage_id(persistent_id)
    if key not in storages:
      entry = entries.get(f'{folder}/data/{key}')
      if entry is None:
        raise Damaged(f'the storage {key[:40]!r} is not in the archive')
      storages[key] = _locate(path, entry, big_endian=big_endian)
    size = items * (dtype.itemsize if dtype else 1)
    if storages[key].size != size:
      raise Damaged(f'storage {key[:40]!r} has {storages[key].size} bytes, its header says {size}')
    return _StorageView(storages[key], dtype, 0, items)

  return pickles.load(io.BytesIO(pickle), _find_global(path), find_storage, where=path)


def _directory(path) -> dict[str, zipfile.ZipInfo]:
  """Returns the entries of a zip file by name after checking names, flags and sizes."""
  try:
    with _BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
      infos = archive.infolist()
  # `zipfile` lets all of these through for damaged directories.
  except (
    zipfile.BadZipFile,
    NotImplementedError,
    ValueError,
    EOFError,
    OSError,
    struct.error,
  ) as e:
    raise ConversionError(
      f'the zip directory is damaged or cut off: {e}',
      where=path,
      hint='download or copy the file again',
    ) from e
  entries = {}
  for info in infos:
    name = info.orig_filename
    if name in entries:
      raise ConversionError(f'the archive has two entries named {name[:80]!r}', where=path)
    if name.startswith('/') or '..' in name.split('/') or '\\' in name or '\0' in name:
      raise ConversionError(f'the archive has an entry with the path {name[:80]!r}', where=path)
    stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    if info.header_offset < 0:
      raise truncated(path)
    if not stored or info.flag_bits & 1:
      raise ConversionError(
        f'the entry {name[:80]!r} is compressed or encrypted, which torch.save never does',
        where=path,
        hint='if it is an archive of PyTorch files, unpack it first',
      )
    entries[name] = info
  return entries


def _locate(path, info, *, big_endian=False) -> Storage:
  """Returns where the bytes of an entry are, from its local header."""
  with open(path, 'rb') as file:
    file.seek(info.header_offset)
    header = file.read(30)
    end = file.seek(0, os.SEEK_END)
  if len(header) < 30 or not header.startswith(b'PK\x03\x04'):
    raise truncated(path)
  offset = info.header_offset + 30 + sum(struct.unpack('<HH', header[26:]))
  if offset + info.file_size > end:
    raise truncated(path)
  return Storage(path, offset, info.file_size, big_endian, info.CRC)


def _small_entry(path, info) -> bytes:
  if info.file_size > pickles.MAX_BYTES:
    raise ConversionError(
      f'{info.filename[:80]} has {info.file_size} bytes, more than {pickles.MAX_BYTES}', where=path
    )
  storage = _locate(path, info)
  storage.check()
  with open(path, 'rb') as file:
    file.seek(storage.offset)
    return file.read(storage.size)


# --- Reading the stream format ------------------------------------------------------------------

_STREAM_MAGIC = 0x1950A86A20F9469CFC6C
STREAM_MAGIC_BYTES = _STREAM_MAGIC.to_bytes(10, 'little')  # as every protocol from 2 on has it
_STREAM_VERSION = 1001


def read_stream(path) -> Any:
  """Reads five pickles: magic number, version, machine, object, storage keys; finds the storages.

  Raises:
    ConversionError: if the file is not one that torch.save wrote, is damaged, or names code.
  """
  with open(path, 'rb') as file:
    stream = io.BytesIO(file.read(pickles.MAX_BYTES))
  storages, items_of = {}, {}

  def find_storage(persistent_id):
    key, dtype, items, view = _storage_id(persistent_id)
    size = items * (dtype.itemsize if dtype else 1)
    if key not in storages:
      # The file says where it is after all tensors are named.
      storages[key], items_of[key] = Storage(path, 0, size), items
    if storages[key].size != size:
      raise Damaged(f'storage {key[:40]!r} has two sizes')
    if view is None:
      return _StorageView(storages[key], dtype, 0, items)
    # PyTorch before 0.4 saved a part of a storage as a storage.
    _, first, part = view
    if count(first, 'a view offset of') + count(part, 'a view size of') > items:
      raise Damaged(f'a view of {part} items from {first} on, in a storage of {items}')
    return _StorageView(storages[key], dtype, first, part)

  def no_storage(persistent_id):
    raise Damaged('a storage where none can be')

  def next_pickle(find_persistent=no_storage):
    return pickles.load(stream, _find_global(path), find_persistent, where=path)

  if next_pickle() != _STREAM_MAGIC:
    raise ConversionError(
      'this is a pickle, but not one of torch.save', where=path, hint='check what wrote the file'
    )
  version, machine = next_pickle(), next_pickle()
  if version != _STREAM_VERSION or not isinstance(machine, dict):
    raise ConversionError(
      f'version {brief(version)} of the torch.save stream is not known',
      where=path,
      hint=f'{_STREAM_VERSION} is; save the file again with PyTorch',
    )
  tree, keys = next_pickle(find_storage), next_pickle()
  named = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
  if not named or len(keys) != len(storages) or set(keys) != set(storages):
    raise ConversionError('the list of storages does not match the tensors', where=path)

  big_endian = machine.get('little_endian') is False
  end = path.stat().st_size
  with open(path, 'rb') as file:
    file.seek(stream.tell())
    for key in keys:
      header = file.read(8)
      if len(header) < 8:
        raise truncated(path)
      if int.from_bytes(header, 'big' if big_endian else 'little') != items_of[key]:
        raise ConversionError(f'storage {key[:40]!r} has two sizes', where=path)
      storage = storages[key]
      storage.offset, storage.big_endian = file.tell(), big_endian
      if storage.offset + storage.size > end:
        raise truncated(path)
      file.seek(storage.size, os.SEEK_CUR)
  return tree


# --- Writing the zip format ---------------------------------------------------------------------

_STORAGE_OF = {dtype.numpy: dtype.storage for dtype in DTYPES if dtype.storage}


def write(file, arrays, *, where):
  """Writes arrays by key as torch.save writes a state_dict, to an open binary file.

  Raises:
    ConversionError: for a dtype without a storage class.
  """
  with zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED) as archive:
    _add(archive, file, 'archive/data.pkl', _state_dict(arrays, where))
    _add(archive, file, 'archive/byteorder', b'little')
    for number, array in enumerate(arrays.values()):
      _add(archive, file, f'archive/data/{number}', raw_bytes(array))
    _add(archive, file, 'archive/version', b'3\n')


def _add(archive, file, name, data):
  info = zipfile.ZipInfo(name)  # dated 1980: the bytes do not depend on the clock
  info.file_size = len(data)
  # Data start at multiples of 64 bytes, as in PyTorch, so that they can be mapped into memory. The
  # extra field that holds the padding begins with four bytes of its own.
  padding = -(file.tell() + 30 + len(name) + 4) % 64
  info.extra = struct.pack('<2sH', b'FB', padding) + bytes(padding)
  with archive.open(info, 'w') as entry:
    entry.write(data)


def _state_dict(arrays, where) -> bytes:
  """Returns the pickle of an OrderedDict of tensors.

  Spelled out, since the `pickle` module writes the name of a function only after importing it.
  """

  def text(value):
    data = value.encode()
    return b'X' + struct.pack('<I', len(data)) + data

  def integers(values):
    return b'(' + b''.join(map(integer, values)) + b't'

  def integer(value):
    return b'\x8a\x08' + struct.pack('<q', value)

  ordered_dict = b'ccollections\nOrderedDict\n)R'
  parts = [b'\x80\x02', ordered_dict, b'(']
  for number, (key, array) in enumerate(arrays.items()):
    if array.dtype not in _STORAGE_OF:
      raise ConversionError(
        f'a .pth file cannot hold {key} of dtype {array.dtype}',
        where=where,
        hint='write safetensors instead',
      )
    storage = f'ctorch\n{_STORAGE_OF[array.dtype]}\n'.encode()
    parts += [text(key), b'ctorch._utils\n_rebuild_tensor_v2\n((', text('storage'), storage]
    parts += [text(str(number)), text('cpu'), integer(array.size), b'tQ', integer(0)]
    parts += [integers(array.shape), integers(c_strides(array.shape))]
    parts += [b'\x89', ordered_dict, b'tR']  # no gradient, no hooks
  return b''.join((*parts, b'u.'))
