"""Tensors that are still in their file: names, shapes and bounds first, numbers when asked for."""

import dataclasses
import math
import pathlib
import zlib
from typing import NamedTuple

import ml_dtypes
import numpy as np

from tfg_jax.errors import ConversionError

MAX_DIMENSIONS = 64  # numpy's limit
# A tensor that repeats the numbers of its storage (`expand`) may have this size in any file.
MAX_EXPANDED_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20


class DType(NamedTuple):
  """One dtype: in numpy, in `torch`, as a storage class of torch.save, in safetensors."""

  numpy: np.dtype
  torch: str
  storage: str | None  # None: written as an untyped storage
  safetensors: str | None


DTYPES = (
  DType(np.dtype(np.float32), 'float32', 'FloatStorage', 'F32'),
  DType(np.dtype(np.float64), 'float64', 'DoubleStorage', 'F64'),
  DType(np.dtype(np.float16), 'float16', 'HalfStorage', 'F16'),
  DType(np.dtype(ml_dtypes.bfloat16), 'bfloat16', 'BFloat16Storage', 'BF16'),
  DType(np.dtype(np.int64), 'int64', 'LongStorage', 'I64'),
  DType(np.dtype(np.int32), 'int32', 'IntStorage', 'I32'),
  DType(np.dtype(np.int16), 'int16', 'ShortStorage', 'I16'),
  DType(np.dtype(np.int8), 'int8', 'CharStorage', 'I8'),
  DType(np.dtype(np.uint8), 'uint8', 'ByteStorage', 'U8'),
  DType(np.dtype(np.bool_), 'bool', 'BoolStorage', 'BOOL'),
  DType(np.dtype(np.complex64), 'complex64', 'ComplexFloatStorage', 'C64'),
  DType(np.dtype(np.complex128), 'complex128', 'ComplexDoubleStorage', None),
  DType(np.dtype(np.uint16), 'uint16', None, 'U16'),
  DType(np.dtype(np.uint32), 'uint32', None, 'U32'),
  DType(np.dtype(np.uint64), 'uint64', None, 'U64'),
)


class Damaged(Exception):
  """The file breaks a rule of its format or builds something that no honest writer would."""


def brief(value) -> str:
  """A value of a file for a message; containers by type, since printing one may never end."""
  if value is None or isinstance(value, str | bytes | int | float):
    return str(value)[:40]
  return type(value).__name__


def count(value, what):
  """Returns `value` if it is an integer that a size, stride or offset can have."""
  if type(value) is not int or not 0 <= value < 1 << 62:
    raise Damaged(f'{what} {brief(value)}')
  return value


def truncated(path):
  """The ConversionError of a file that has lost its end."""
  return ConversionError(
    'the file ends before its tensors do', where=path, hint='download or copy it again'
  )


def c_strides(shape) -> tuple[int, ...]:
  """Returns the steps, in items, of a contiguous tensor."""
  return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def raw_bytes(array) -> memoryview:
  """Returns the numbers of an array in C order, copied only if they are not so already."""
  return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


@dataclasses.dataclass(eq=False)
class Storage:
  """A run of bytes of the file that tensors share."""

  path: pathlib.Path
  offset: int
  size: int
  big_endian: bool = False
  crc: int = 0  # 0: not recorded, or checked

  def check(self):
    """Compares the bytes with their CRC, once, without holding them.

    Raises:
      ConversionError: if they differ.
    """
    if not self.crc:
      return
    crc, left = 0, self.size
    with open(self.path, 'rb') as file:
      file.seek(self.offset)
      while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
        crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    if left or crc != self.crc:
      raise ConversionError(
        f'the {self.size} bytes from {self.offset} on do not have the checksum in the file',
        where=self.path,
        hint='the file is damaged; download or copy it again',
      )
    self.crc = 0

  def read(self, dtype: np.dtype, start: int, items: int) -> np.ndarray:
    """Returns `items` numbers from item `start` on; fewer if the file has become shorter.

    Raises:
      ConversionError: if the bytes do not have their checksum.
    """
    self.check()
    order = dtype.newbyteorder('>' if self.big_endian else '<')
    return np.fromfile(self.path, order, items, offset=self.offset + start * dtype.itemsize)


@dataclasses.dataclass(eq=False)
class HeldBytes:
  """What a `Storage` is, for numbers that stood in the pickle itself and had to be read with it."""

  path: pathlib.Path
  data: bytes
  big_endian: bool = False

  def read(self, dtype: np.dtype, start: int, items: int) -> np.ndarray:
    """Returns (items,) of a dtype, from the item `start` on; nothing is copied."""
    order = dtype.newbyteorder('>' if self.big_endian else '<')
    return np.frombuffer(self.data, order, items, start * dtype.itemsize)


@dataclasses.dataclass(frozen=True, eq=False)
class StoredTensor:
  """A tensor of a file; `numpy.asarray` reads it.

  Attributes:
    storage: the bytes that it shares with other tensors.
    stored: the dtype of the file.
    dtype: the dtype that reading gives; `astype` changes it.
    shape: its shape.
    strides: steps of each axis, in items.
    start: its first item, in items from the start of the storage.
  """

  storage: Storage | HeldBytes
  stored: np.dtype
  dtype: np.dtype
  shape: tuple[int, ...]
  strides: tuple[int, ...]
  start: int

  @classmethod
  def checked(cls, storage, dtype, shape, strides, start=0, *, items, first=0):
    """Builds a tensor of a part of a storage that has `items` items from item `first` on.

    Raises:
      Damaged: unless sizes and strides are possible and the tensor stays within its part.
    """
    if not isinstance(shape, tuple) or not isinstance(strides, tuple):
      raise Damaged('a tensor without a shape or strides')
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
      raise Damaged(f'a tensor with {len(shape)} sizes and {len(strides)} strides')
    start = count(start, 'a storage offset of')
    shape = tuple(count(size, 'a size of') for size in shape)
    strides = tuple(count(stride, 'a stride of') for stride in strides)
    if math.prod(max(size, 1) for size in shape) >= 1 << 58:
      raise Damaged('a tensor of more than 2^58 numbers')
    reach = start + _span(shape, strides)
    if reach > items:
      raise Damaged(f'a tensor of shape {shape} needs {reach} items; its storage has {items}')
    return cls(storage, dtype, dtype, shape, strides, first + start)

  @property
  def size(self) -> int:
    """The number of its items."""
    return math.prod(self.shape)

  def astype(self, dtype) -> 'StoredTensor':
    """Returns the tensor that reads as `dtype`."""
    return dataclasses.replace(self, dtype=np.dtype(dtype))

  def __array__(self, dtype=None, copy=None):
    return self._read().astype(self.dtype if dtype is None else dtype, copy=False)

  def _read(self):
    """Returns a C-contiguous array in the dtype of the file and the byte order of the machine.

    Raises:
      ConversionError: if the bytes are damaged, or few numbers are expanded to very many.
    """
    span = _span(self.shape, self.strides)
    if self.size > span and self.size * self.stored.itemsize > MAX_EXPANDED_BYTES:
      raise ConversionError(
        f'a tensor of shape {self.shape} repeats {span} numbers',
        where=self.storage.path,
        hint='save it with .contiguous() in PyTorch',
      )
    if not span:
      return np.empty(self.shape, self.stored)
    flat = self.storage.read(self.stored, self.start, span)
    if flat.size != span:
      raise truncated(self.storage.path)
    steps = [stride * self.stored.itemsize for stride in self.strides]
    view = np.lib.stride_tricks.as_strided(flat, self.shape, steps)
    return np.asarray(view, self.stored, order='C')


def _span(shape, strides):
  """Returns how many items of its storage a tensor reaches over."""
  if 0 in shape:
    return 0
  return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
