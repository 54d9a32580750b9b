"""What a command sets of its own process before it computes."""

import ctypes
import os
import pathlib

# Of malloc.h: no large block is a mapping of its own, none is given back, threads share one pool.
_KEEP_MEMORY = {'M_MMAP_MAX': (-4, 0), 'M_TRIM_THRESHOLD': (-1, -1), 'M_ARENA_MAX': (-8, 1)}


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


def keep_programs():
  """Has JAX keep compiled programs from run to run, in `cache_folder`.

  Unless JAX_COMPILATION_CACHE_DIR names another one or JAX_ENABLE_COMPILATION_CACHE is false.
  """
  import jax

  if jax.config.jax_compilation_cache_dir is None:
    jax.config.update('jax_compilation_cache_dir', str(cache_folder()))


def cache_folder() -> pathlib.Path:
  """Of compiled programs; whatever is in it may be deleted."""
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(base) / 'tfg_jax' / 'compiled'
