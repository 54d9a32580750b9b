"""Writing so that nothing is lost: files whole or absent, one writer for a folder, checksums."""

import contextlib
import fcntl
import os
import re
import zlib
from collections.abc import Iterable, Iterator

from absl import logging

from tfg_jax.errors import StorageError


def write_whole(path, chunks: Iterable[bytes]) -> int:
  """Writes a file that is whole or absent, or as it was, after any interruption; returns its size.

  Raises OSError where the disk refuses, and whatever `chunks` raises.
  """
  directory, name = os.path.split(os.path.abspath(path))
  temporary = os.path.join(directory, f'.{name}.{os.getpid()}.partial')
  try:
    with open(temporary, 'wb') as file:
      for chunk in chunks:
        file.write(chunk)
      file.flush()
      os.fsync(file.fileno())
      size = file.tell()
    os.replace(temporary, path)
  except BaseException:
    if os.path.exists(temporary):
      os.remove(temporary)
    raise
  handle = os.open(directory, os.O_RDONLY)  # the new name is on the disk only after this
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
  return size


@contextlib.contextmanager
def only_writer(folder) -> Iterator[None]:
  """Holds a folder, made if missing, for this process; the claim ends with the process at latest.

  It keeps off other processes of this machine; of other machines where the file system passes
  locks on, as NFS does.

  Raises:
    StorageError: if another process holds it, or it cannot be made.
  """
  with reported(folder):
    os.makedirs(folder, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
  try:
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise StorageError(
        'another process writes to this folder.',
        where=folder,
        hint='wait for its end, or give this one a folder of its own.',
      ) from error
    except OSError as error:
      logging.warning('%s cannot be locked (%s): start no second run there', folder, error.strerror)
    yield
  finally:
    os.close(handle)


@contextlib.contextmanager
def reported(where) -> Iterator[None]:
  """Makes a StorageError of what a disk refuses to write under `where`."""
  try:
    yield
  except OSError as error:
    raise failure(error, where) from error


def failure(error: Exception, where) -> StorageError:
  """What is said of a refusal: of the system (OSError), or as TensorStore words it."""
  reason = getattr(error, 'strerror', None)
  if reason is None:
    # TensorStore's versions put the number before the words or after them.
    numbers = re.findall(r"(?:os_error_code=|OS error )'?(\d+)", str(error))
    reason = os.strerror(int(numbers[-1])) if numbers else str(error).strip().split('\n')[0][:500]
  return StorageError(
    f'what was to be written could not be: {reason}.',
    where=getattr(error, 'filename', None) or where,
    hint='make room or allow writing there; what was saved before is whole, and the same command '
    'goes on from it.',
  )


def checksums(tree) -> dict[str, int]:
  """CRC-32 of the bytes of every array of a tree by its path."""
  import jax
  import numpy as np

  def checksum(x):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8))

  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): checksum(x)
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }
