"""What commands set of their process: compiled programs and memory are kept."""

import ctypes
import os
import subprocess
import sys
import types

import jax
import pytest

from tfg_jax import host


def test_programs_lie_in_the_cache_folder_of_the_user(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert host.cache_folder() == tmp_path / 'tfg_jax' / 'compiled'
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', str(tmp_path))
  assert host.cache_folder() == tmp_path / '.cache' / 'tfg_jax' / 'compiled'


_COMPILES = """
import jax
from tfg_jax import host
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
host.prepare_jax()
jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((8, 8))).block_until_ready()
"""


@pytest.mark.parametrize('named', [True, False])
def test_a_prepared_process_leaves_its_programs_there(tmp_path, named):
  environment = {**os.environ, 'XDG_CACHE_HOME': str(tmp_path / 'user'), 'JAX_PLATFORMS': 'cpu'}
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)
  if named:
    environment['JAX_COMPILATION_CACHE_DIR'] = str(tmp_path / 'named')
  subprocess.run([sys.executable, '-c', _COMPILES], env=environment, check=True)
  filled = tmp_path / 'named' if named else tmp_path / 'user' / 'tfg_jax' / 'compiled'
  assert any(filled.iterdir())
  assert [path.name for path in tmp_path.iterdir()] == [filled.relative_to(tmp_path).parts[0]]


_STEPS = """
import resource
from concurrent import futures
from tfg_jax import host
if {keeps}:
  assert host.keep_memory()
import numpy as np
with futures.ThreadPoolExecutor(2) as pool:
  for step in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    list(pool.map(np.ones, [2**23] * 2))  # both at once, at every step
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='needs glibc')
def test_memory_that_is_kept_needs_no_new_pages():
  faults = {}
  for keeps in (True, False):
    # Without huge pages, which would make the one and the other few.
    environment = {**os.environ, 'GLIBC_TUNABLES': '', 'NUMPY_MADVISE_HUGEPAGE': '0'}
    done = subprocess.run(
      [sys.executable, '-c', _STEPS.format(keeps=keeps)],
      env=environment,
      check=True,
      capture_output=True,
      text=True,
    )
    faults[keeps] = int(done.stdout)
  assert faults[True] < 100 < 10_000 < faults[False]


_HOLES = """
import ctypes, gc
from tfg_jax import host
assert host.keep_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
gc.disable()

def resident():
  with open('/proc/self/statm') as file:
    return int(file.read().split()[1]) * 4096

count, size = 2000, 100_000
blocks = [libc.malloc(size) for _ in range(count)]
large = libc.malloc(2**27)
fence = libc.malloc(size)
for block in [*blocks, large]:
  ctypes.memset(block, 1, size)
holes = set(blocks[::2])
for block in [*holes, large]:
  libc.free(block)
before = resident()
filled = host.fill_holes()
print(filled / (count / 2 * size), (before - resident()) / (count / 2 * size))
print(libc.malloc(2**27) == large, len(holes & {libc.malloc(size) for _ in range(count)}))
print(host.fill_holes() / (count / 2 * size))
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='needs glibc')
def test_small_holes_in_memory_are_filled_and_large_ones_left():
  done = subprocess.run([sys.executable, '-c', _HOLES], check=True, capture_output=True, text=True)
  filled, given_back, large_is_free, used_again, filled_later = done.stdout.split()
  assert 0.9 < float(filled) < 1.2
  assert 0.7 < float(given_back) < 1.2
  assert (large_is_free, int(used_again)) == ('True', 0)
  assert float(filled_later) < 0.05


_COMPILES_TWICE = """
import jax
from tfg_jax import host
filled = []
host.fill_holes = lambda: filled.append(1)
for host._LONG_COMPILATION in (0, 1000):
  host.prepare_jax()
  jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((8, 8))).block_until_ready()
  print(len(filled))
"""


def test_holes_are_filled_after_long_compilations(tmp_path):
  environment = {**os.environ, 'XDG_CACHE_HOME': str(tmp_path), 'JAX_PLATFORMS': 'cpu'}
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)
  done = subprocess.run(
    [sys.executable, '-c', _COMPILES_TWICE],
    env=environment,
    check=True,
    capture_output=True,
    text=True,
  )
  first, later = map(int, done.stdout.split())
  assert first == later > 0


def test_elsewhere_memory_is_left_alone(monkeypatch):
  monkeypatch.setattr(host.ctypes, 'CDLL', lambda name: object())
  assert not host.keep_memory()
  assert host.fill_holes() == 0


@pytest.mark.skipif(sys.platform != 'linux', reason='needs glibc')
def test_another_allocator_is_left_alone(monkeypatch):
  assert host._glibc() is not None
  load = ctypes.CDLL
  preloaded = types.SimpleNamespace(malloc=load(None).calloc)
  monkeypatch.setattr(host.ctypes, 'CDLL', lambda name: load(name) if name else preloaded)
  assert host._glibc() is None and host.fill_holes() == 0


def test_a_folder_that_is_set_stays():
  before = jax.config.jax_compilation_cache_dir
  host.prepare_jax()
  assert before and jax.config.jax_compilation_cache_dir == before
