"""What a command sets of its own process before it computes."""

import ctypes
import functools
import mmap
import os
import pathlib

# Of malloc.h: no large block is a mapping of its own, none is given back, threads share one pool.
_KEEP_MEMORY = {'M_MMAP_MAX': (-4, 0), 'M_TRIM_THRESHOLD': (-1, -1), 'M_ARENA_MAX': (-8, 1)}
_HOLES = [2**power for power in range(28, 13, -1)]  # bytes, the largest first
_LARGE_HOLE = 2**22
_LONG_COMPILATION = 1.0  # seconds


def keep_memory() -> bool:
  """Has this process keep what memory it frees; False where the C library is not glibc.

  With glibc's own settings a step on a CPU asks the system for every large array anew and waits for
  its pages, a sixth to a fifth of its time at full width on two cores. Call it before JAX is
  imported: threads that run already have pools of their own.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return False
  return all([mallopt(*setting) for setting in _KEEP_MEMORY.values()])


def prepare_jax():
  """Has JAX keep compiled programs, and this process lose no speed to having compiled them.

  Programs lie in `cache_folder`, for the next run, unless JAX_COMPILATION_CACHE_DIR names another
  one or JAX_ENABLE_COMPILATION_CACHE is false. Memory is seen to after each compilation, see
  `fill_holes`.
  """
  import jax

  if jax.config.jax_compilation_cache_dir is None:
    jax.config.update('jax_compilation_cache_dir', str(cache_folder()))
  _fill_holes_after_compiling()


@functools.cache  # once in a process
def _fill_holes_after_compiling():
  import jax

  jax.monitoring.register_event_duration_secs_listener(_after_compiling)


def _after_compiling(event: str, seconds: float, **_):
  if event == '/jax/core/compile/backend_compile_duration' and seconds > _LONG_COMPILATION:
    fill_holes()


def fill_holes() -> int:
  """Takes what small free blocks lie between others in memory out of use; their bytes.

  A compiler leaves tens of thousands of them. Every step on a CPU asks for thousands of blocks as
  small, and glibc looks through all holes of about that size first: a step of TalkLip takes a third
  longer. The pages of the holes are given back to the system. 0 where glibc does not allocate.
  """
  libc = _glibc()
  if libc is None:
    return 0
  untouched = libc.sbrk(0) - libc.mallinfo2().keepcost  # what no block has reached yet
  large, filled = [], 0
  for size in _HOLES:
    while (block := libc.malloc(size)) is not None and block < untouched:
      if size >= _LARGE_HOLE:
        large.append(block)  # of use to arrays, so held only until small ones are filled
        continue
      filled += size
      first, stop = -(-block // mmap.PAGESIZE), (block + size) // mmap.PAGESIZE
      if first < stop:
        libc.madvise(first * mmap.PAGESIZE, (stop - first) * mmap.PAGESIZE, mmap.MADV_DONTNEED)
    libc.free(block)
  for block in large:
    libc.free(block)
  return filled


def _glibc() -> ctypes.CDLL | None:
  """The C library where it is glibc 2.33 or later, and no other allocator is put before it."""
  try:
    libc, malloc = ctypes.CDLL('libc.so.6'), ctypes.CDLL(None).malloc
    calls = (
      (libc.mallinfo2, [], _HeapInfo),
      (libc.malloc, [ctypes.c_size_t], ctypes.c_void_p),
      (libc.free, [ctypes.c_void_p], None),
      (libc.sbrk, [ctypes.c_ssize_t], ctypes.c_void_p),
      (libc.madvise, [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int),
    )
  except (AttributeError, OSError, TypeError):
    return None
  if len({ctypes.cast(x, ctypes.c_void_p).value for x in (malloc, libc.malloc)}) > 1:
    return None
  for call, arguments, result in calls:
    call.argtypes, call.restype = arguments, result
  return libc


class _HeapInfo(ctypes.Structure):
  """What mallinfo2 of malloc.h (glibc 2.33) answers."""

  _fields_ = [
    (name, ctypes.c_size_t)
    for name in (
      *('arena', 'ordblks', 'smblks', 'hblks', 'hblkhd'),
      *('usmblks', 'fsmblks', 'uordblks', 'fordblks', 'keepcost'),
    )
  ]


def cache_folder() -> pathlib.Path:
  """Of compiled programs; whatever is in it may be deleted."""
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(base) / 'tfg_jax' / 'compiled'
