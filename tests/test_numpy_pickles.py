"""Pickled dicts of numpy arrays: what comes back, and what is refused."""

import collections
import os
import pickle
import pickletools
import random
import struct
import warnings

import numpy as np
import pytest
from hostile import Evil

from tfg_jax import convert
from tfg_jax.errors import ConversionError
from tfg_jax.pytorch import converted, files, numpy_pickle

PROTOCOLS = pytest.mark.parametrize('protocol', [2, 3, 4, 5])


def sample():
  """Every order in memory, both byte orders, whole numbers, scalars, nothing."""
  numbers = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
  return {
    'c': numbers,
    'fortran': np.asfortranarray(numbers),
    'permuted': numbers.transpose(1, 2, 0),
    'strided': numbers[:, ::2],
    'big_endian': numbers.astype('>f4'),
    'double': np.array([0.1, -1e300]),
    'half': np.array([1.5], np.float16),
    'int64': np.array(7),
    'int32': np.array([[-1, 2]], np.int32),
    'uint8': np.array([200, 255], np.uint8),
    'empty': np.zeros((0, 3), np.float32),
  }


def written(path, value, protocol=2):
  path.write_bytes(pickle.dumps(value, protocol))
  return path


def assert_same(tensor, array):
  back = np.asarray(tensor)
  assert tensor.shape == back.shape == array.shape
  assert tensor.dtype == back.dtype == array.dtype.newbyteorder('=')
  np.testing.assert_array_equal(back, array)


def refused(path, *words):
  with pytest.raises(ConversionError) as caught:
    files.read(path)
  for word in (*words, str(path)):
    assert word in str(caught.value), caught.value


# --- Pickles as Python 2 wrote them, with any header ----------------------------------------------


def text(value):
  return b'U' + bytes([len(value)]) + value.encode('latin1')


def integer(value):
  data = pickle.encode_long(value)
  return b'\x8a' + bytes([len(data)]) + data


def integers(values):
  return b'(' + b''.join(map(integer, values)) + b't'


def dtype_pickle(code='f4', order=b'U\x01<', parts=b'NNN'):
  state = b'(K\x03' + order + parts + b'J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t'
  return b'cnumpy\ndtype\n' + text(code) + b'K\x00K\x01\x87R' + state + b'b'


NUMBERS = np.array([1.5, -2, 3e-9, 250], '<f4')
RAW = NUMBERS.tobytes()


def raw(data=RAW):
  return b'T' + struct.pack('<I', len(data)) + data + b'q\x05'


MAKE = b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR'


def array_pickle(shape=(4,), dtype=None, data=None, *, fortran=b'\x89', make=MAKE):
  """`shape` and the others may be ready-made pickles."""
  shape = shape if isinstance(shape, bytes) else integers(shape)
  dtype = dtype_pickle() if dtype is None else dtype
  return make + b'(K\x01' + shape + dtype + fortran + (raw() if data is None else data) + b'tb'


def buffer_pickle(order, *axes):
  axes = b''.join(integers(x) for x in axes)
  arguments = raw() + dtype_pickle() + integers((2, 2)) + text(order) + axes
  return b'cnumpy.core.numeric\n_frombuffer\n(' + arguments + b'tR'


def one(array):
  """The pickle of {'a': array}."""
  return b'\x80\x02}q\x01U\x01a' + array + b's.'


def test_python_2(tmp_path):
  path = tmp_path / 'x.pkl'
  for shape, fortran in (((4,), b'\x89'), ((2, 2), b'\x89'), ((2, 2), b'\x88'), ((4, 1), b'K\x01')):
    path.write_bytes(one(array_pickle(shape, fortran=fortran)))
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # of numpy, for its old name
      expected = pickle.loads(path.read_bytes(), encoding='latin1')
    assert_same(files.read(path)['a'], expected['a'])
  np.testing.assert_array_equal(expected['a'].ravel(), NUMBERS)


# --- What comes back ------------------------------------------------------------------------------


@PROTOCOLS
@pytest.mark.parametrize('numpy_version', [1, 2])
def test_every_dtype_and_order(tmp_path, protocol, numpy_version):
  data = pickle.dumps(sample(), protocol)
  if numpy_version == 1:  # which has another module, and so another length of its name
    for name in (b'numpy._core.multiarray', b'numpy._core.numeric'):
      old = name.replace(b'_core', b'core')
      data = data.replace(b'c' + name + b'\n', b'c' + old + b'\n')
      data = data.replace(bytes([len(name)]) + name, bytes([len(old)]) + old)
    assert b'numpy.core' in data and b'_core' not in data
    data = pickletools.optimize(data)
  (tmp_path / 'x.pkl').write_bytes(data)
  tree = files.read(tmp_path / 'x.pkl')
  assert list(tree) == list(sample())
  for key, array in sample().items():
    assert_same(tree[key], array)


@PROTOCOLS
def test_dicts_within_dicts_and_arrays_with_several_keys(tmp_path, protocol):
  weight = np.eye(3, dtype=np.float32)
  inner = collections.OrderedDict(a=weight, note='text', rate=0.5, list=[weight])
  tree = {'state_dict': inner, 'again': weight, 3: None}
  tree['self'] = tree
  found = files.state_dicts(files.read(written(tmp_path / 'x.pkl', tree, protocol)))
  assert {path: list(dict_) for path, dict_ in found.items()} == {
    '': ['again'],
    'state_dict': ['a'],
  }
  assert found['']['again'] is found['state_dict']['a']
  assert_same(found['']['again'], weight)


def test_import_of_a_pickle(tmp_path):
  rng = np.random.default_rng(0)
  arrays = {
    'Linearaudio.weight': rng.standard_normal((768, 768)),
    'Linearaudio.bias': rng.standard_normal(768).astype(np.float32),
  }
  path = written(tmp_path / 'x.pkl', arrays)
  conversion = convert.import_network('talklip_sync', path, tmp_path / 'net')
  assert conversion.notes == ['1 tensors were converted from float64 to float32.']
  variables, _ = converted.load(tmp_path / 'net')
  ours = variables['params']['audio_projection']
  np.testing.assert_array_equal(ours['kernel'], arrays['Linearaudio.weight'].astype(np.float32).T)
  np.testing.assert_array_equal(ours['bias'], arrays['Linearaudio.bias'])


# --- Code -----------------------------------------------------------------------------------------


@PROTOCOLS
def test_code_is_refused_by_name_and_not_run(tmp_path, protocol):
  trace = tmp_path / 'trace'
  for function, args in (
    (os.system, (f'touch {trace}',)),
    (exec, (f'open({str(trace)!r}, "w")',)),
    (np.save, (str(trace), 1)),
    (np.matrix, ('1 2',)),
  ):
    path = written(tmp_path / 'x.pkl', {'a': sample()['c'], 'b': Evil(function, *args)}, protocol)
    refused(path, f'.{function.__name__}', 'nothing was executed')
  assert not trace.exists()
  # Not needed for arrays, so not known.
  refused(written(path, {'a': np.float32(1), 'b': np.eye(2)}, protocol), 'multiarray.scalar')


def test_an_array_class_is_a_name_and_not_called(tmp_path):
  path = tmp_path / 'x.pkl'
  path.write_bytes(one(b'cnumpy\nndarray\n' + integers((2, 2)) + b'\x85R'))
  refused(path, 'a call of numpy.ndarray')
  path.write_bytes(one(b'NQ'))
  refused(path, 'a storage where none can be')


# --- Headers that lie -----------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('array', 'message'),
  [
    (dict(shape=(5,)), 'shape (5,) and dtype float32 has 16 bytes'),
    (dict(shape=(3,)), 'shape (3,) and dtype float32 has 16 bytes'),
    (dict(shape=(-2, -2)), 'a size of -2'),
    (dict(shape=(1 << 70, 0)), 'a size of'),
    (dict(shape=(1 << 61, 1 << 61, 0), data=raw(b'')), 'more than 2^58'),
    (dict(shape=(1,) * 65), 'an array without a shape'),
    (dict(shape=b'K\x04'), 'an array without a shape'),
    (dict(shape=b'(U\x014t'), 'a size of 4'),
    (dict(dtype=dtype_pickle('f8')), 'dtype float64 has 16 bytes'),
    (dict(dtype=dtype_pickle('i2')), 'dtype int16 has 16 bytes'),
    (dict(dtype=dtype_pickle('O8')), 'an array of dtype O8'),
    (dict(dtype=dtype_pickle('V4')), 'an array of dtype V4'),
    (dict(dtype=dtype_pickle('S4')), 'an array of dtype S4'),
    (dict(dtype=b'U\x02f4'), 'an array of dtype f4'),
    (dict(dtype=b'cnumpy\ndtype\n)R'), 'an array of dtype Record'),
    (dict(dtype=b'cnumpy\ndtype\n]\x85R'), 'an array of dtype list'),
    (dict(dtype=b'cnumpy\ndtype\nU\x02f4\x85R'), 'dtype f4 has parts'),
    (dict(dtype=dtype_pickle(parts=b'N(U\x01at}')), 'dtype f4 has parts'),
    (dict(dtype=dtype_pickle(order=b'U\x01=')), 'byte order ='),
    (dict(dtype=dtype_pickle(order=b'}')), 'byte order dict'),
    (dict(data=b']'), 'whose numbers are a list'),
    (dict(data=b'N'), 'whose numbers are a NoneType'),
    (dict(data=b'X\x05\x00\x00\x00aa\xe2\x82\xac'), 'latin-1'),
    (dict(make=b'cnumpy.core.multiarray\n_reconstruct\n)R'), 'an array of another class'),
    (dict(make=MAKE.replace(b'cnumpy\nndarray\n', b'U\x01x')), 'an array of another class'),
  ],
)
def test_array_headers_that_lie(tmp_path, array, message):
  path = tmp_path / 'x.pkl'
  path.write_bytes(one(array_pickle(**array)))
  refused(path, message)


def test_arrays_without_their_parts(tmp_path):
  path = tmp_path / 'x.pkl'
  for array, message in (
    (MAKE, 'without its five parts'),
    (MAKE + b'(K\x01)tb', 'without its five parts'),
    (b'cnumpy.core.numeric\n_frombuffer\n)R', 'a buffer of 0 parts'),
    (buffer_pickle('A'), 'in the order A'),
    (buffer_pickle('K'), 'in the order K'),
    (buffer_pickle('K', (0, 0)), 'in the order K'),
    (buffer_pickle('K', (0, 1, 2)), 'in the order K'),
    (buffer_pickle('K', (1 << 62, 0)), 'in the order K'),
  ):
    path.write_bytes(one(array))
    refused(path, message)
  path.write_bytes(one(buffer_pickle('K', (1, 0))))
  assert_same(files.read(path)['a'], NUMBERS.reshape(2, 2).T)


def test_numbers_that_many_arrays_share_are_refused(tmp_path):
  """Reading them would take more memory than any file of this size may need."""
  first = text('a') + array_pickle((1000,), data=raw(bytes(4000)))
  second = text('b') + array_pickle((1000,), data=b'h\x05')
  path = tmp_path / 'x.pkl'
  path.write_bytes(b'\x80\x02}(' + first + second + b'u.')
  refused(path, 'more numbers than the file')


def test_a_large_file_is_not_read(tmp_path, monkeypatch):
  path = written(tmp_path / 'x.pkl', sample())
  monkeypatch.setattr(numpy_pickle, 'MAX_BYTES', path.stat().st_size)
  assert len(files.read(path)) == len(sample())
  monkeypatch.setattr(numpy_pickle, 'MAX_BYTES', path.stat().st_size - 1)
  refused(path, 'bytes, more than', 'safetensors')


@pytest.mark.parametrize('value', [{'a': 1}, [np.eye(2)], np.eye(2), 3, {'a': [np.eye(2)]}])
def test_pickles_of_something_else(tmp_path, value):
  refused(written(tmp_path / 'x.pkl', value), 'neither one of torch.save nor a dict of numpy')


@PROTOCOLS
def test_every_truncation_is_refused(tmp_path, protocol):
  path = written(tmp_path / 'x.pkl', sample(), protocol)
  data = path.read_bytes()
  for length in {*range(0, len(data), 7), len(data) - 1}:
    path.write_bytes(data[:length])
    refused(path)


@pytest.mark.parametrize('protocol', [2, 5])
def test_mutated_files_are_read_or_refused(tmp_path, protocol):
  """Only a result or a ConversionError: no other exception, no warning."""
  path = written(tmp_path / 'x.pkl', sample(), protocol)
  data = path.read_bytes()
  rng, results = random.Random(protocol), collections.Counter()
  for _ in range(400):
    mutant = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
      where = rng.randrange(len(mutant))
      mutant[where : where + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    path.write_bytes(mutant)
    try:
      for tensors in files.state_dicts(files.read(path)).values():
        assert sum(np.asarray(x).nbytes for x in tensors.values()) <= 2 * len(data)
      results['read'] += 1
    except ConversionError:
      results['refused'] += 1
  assert min(results['read'], results['refused']) > 20, results
