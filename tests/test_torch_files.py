"""PyTorch and safetensors files: what comes back, and what is refused."""

import collections
import io
import json
import os
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest
from hostile import Evil

from tfg_jax.errors import ConversionError
from tfg_jax.pytorch import files, pickles
from tfg_jax.pytorch.stored import MAX_EXPANDED_BYTES, StoredTensor

torch = pytest.importorskip('torch', reason='needs the extra [torch]')
safetensors = pytest.importorskip('safetensors.torch')

ZIP_AND_STREAM = pytest.mark.parametrize('as_zip', [True, False], ids=['zip', 'stream'])


def save(path, value, *, as_zip=True, **kwargs):
  torch.save(value, path, _use_new_zipfile_serialization=as_zip, **kwargs)
  return path


def tensors(tree):
  """All tensors of a file by path."""
  return {
    f'{path}.{key}' if path else key: tensor
    for path, state in files.state_dicts(tree).items()
    for key, tensor in state.items()
  }


def sample():
  """Every dtype, views of a shared storage, empty, scalar and expanded tensors."""
  base = torch.arange(60.0).reshape(3, 4, 5)
  return collections.OrderedDict(
    base=base,
    view=base[1:, ::2].transpose(0, 2),
    scalar=torch.tensor(3),
    empty=torch.zeros(0, 3),
    expanded=torch.ones(1).expand(4, 3),
    parameter=torch.nn.Parameter(torch.ones(2)),
    half=torch.tensor([1.5, -2.0]).half(),
    brain=torch.tensor([[1.0, 3.14159]]).bfloat16(),
    double=torch.tensor([0.1]).double(),
    int32=torch.arange(3, dtype=torch.int32),
    int16=torch.arange(3, dtype=torch.int16),
    int8=torch.arange(-3, 3, dtype=torch.int8),
    uint8=torch.arange(3, dtype=torch.uint8),
    uint16=torch.tensor([65535, 1], dtype=torch.uint16),
    bool=torch.tensor([True, False]),
    complex=torch.tensor([1 + 2j]),
  )


def bits(tensor):
  """The numbers of a tensor, bfloat16 as integers since numpy's own dtypes lack it."""
  tensor = tensor.detach()
  return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def assert_same(stored, tensor):
  got, want = np.asarray(stored), bits(tensor)
  assert stored.shape == got.shape == want.shape
  assert str(got.dtype) == str(tensor.dtype).removeprefix('torch.')
  np.testing.assert_array_equal(got.view(np.int16) if tensor.dtype == torch.bfloat16 else got, want)


def pth_with(path, data, storages=(), folder='archive'):
  """Writes a zip file with a hand-made data.pkl."""
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr(f'{folder}/data.pkl', data)
    for number, content in enumerate(storages):
      archive.writestr(f'{folder}/data/{number}', content)
  return path


def tensor_pickle(size, stride, *, offset=0, items=4, storage=b'FloatStorage', key=b'0'):
  """The pickle of {'a': tensor} with any header."""

  def integer(value):
    data = pickle.encode_long(value)
    return b'\x8a' + bytes([len(data)]) + data

  def integers(values):
    return b'(' + b''.join(integer(value) for value in values) + b't'

  return b''.join(
    (
      b'\x80\x02}U\x01actorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\n' + storage + b'\n',
      b'U' + bytes([len(key)]) + key + b'U\x03cpu' + integer(items) + b'tQ' + integer(offset),
      integers(size) + integers(stride) + b'\x89}tRs.',
    )
  )


def refused(path, *words):
  """Reads a file and its tensors; both together must fail with one message."""
  with pytest.raises(ConversionError) as caught:
    for tensor in tensors(files.read(path)).values():
      np.asarray(tensor)
  for word in words:
    assert word in str(caught.value), caught.value
  assert str(path) in str(caught.value)


# --- What comes back ----------------------------------------------------------------------------


@ZIP_AND_STREAM
def test_every_dtype_and_view_reads_as_in_pytorch(tmp_path, as_zip):
  state = sample()
  path = save(tmp_path / 'x.pth', {'state_dict': state, 'epoch': 3}, as_zip=as_zip)
  tree = files.read(path)
  assert tree['epoch'] == 3 and list(tree['state_dict']) == list(state)
  for key, tensor in state.items():
    assert_same(tree['state_dict'][key], tensor)


def test_files_of_the_library_read_the_same_from_safetensors(tmp_path):
  state = {key: tensor.detach().contiguous().clone() for key, tensor in sample().items()}
  safetensors.save_file(state, tmp_path / 'x.safetensors', {'format': 'pt'})
  tree = files.read(tmp_path / 'x.safetensors')
  assert set(tree) == set(state)
  for key, tensor in state.items():
    assert_same(tree[key], tensor)


@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.safetensors'])
def test_pytorch_reads_what_we_write(tmp_path, suffix):
  state = sample()
  del state['uint16'], state['complex']
  path = save(tmp_path / 'x.pth', state)
  arrays = {key: np.asarray(tensor) for key, tensor in tensors(files.read(path)).items()}
  output = tmp_path / f'y{suffix}'
  files.write(output, arrays)
  if suffix == '.safetensors':
    back = safetensors.load_file(output)
  else:
    back = torch.load(output, weights_only=True)
    assert list(back) == list(state)
    mapped = torch.load(output, weights_only=True, mmap=True)
    assert torch.equal(mapped['base'], state['base'])
  assert set(back) == set(state)
  for key, tensor in state.items():
    assert back[key].dtype == tensor.dtype and torch.equal(back[key], tensor), key
  for key, stored in tensors(files.read(output)).items():
    assert_same(stored, state[key])
  assert set(os.listdir(tmp_path)) == {'x.pth', output.name}


def test_writing_twice_gives_the_same_bytes_aligned_to_64(tmp_path):
  arrays = {'a': np.arange(5, dtype=np.float32), 'b': np.asfortranarray(np.eye(3))}
  files.write(tmp_path / 'x.pth', arrays)
  files.write(tmp_path / 'y.pth', arrays)
  assert (tmp_path / 'x.pth').read_bytes() == (tmp_path / 'y.pth').read_bytes()
  for tensor in files.read(tmp_path / 'x.pth').values():
    assert tensor.storage.offset % 64 == 0


def test_astype_reads_another_dtype(tmp_path):
  path = save(tmp_path / 'x.pth', {'a': torch.tensor([1.5]).half()})
  tensor = files.read(path)['a'].astype(np.float32)
  assert tensor.dtype == np.float32
  array = np.asarray(tensor)
  assert array.dtype == np.float32 and array == 1.5


def test_big_endian_files_are_turned_round(tmp_path):
  numbers = np.arange(4, dtype='>f4')
  path = tmp_path / 'x.pth'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', tensor_pickle([4], [1]))
    archive.writestr('archive/byteorder', b'big')
    archive.writestr('archive/data/0', numbers.tobytes())
  np.testing.assert_array_equal(np.asarray(files.read(path)['a']), numbers)


def test_python_2_and_old_storage_views(tmp_path):
  """PyTorch 0.2, Python 2: byte strings, OrderedDict of pairs, CUDA storages and views of them."""
  storage = b'(U\x07storagectorch.cuda\nFloatStorage\nU\x017U\x06cuda:0K\x06(U\x018K\x02K\x03ttQ'
  tensor = b'ctorch._utils\n_rebuild_tensor\n(' + storage + b'K\x01(K\x02t(K\x01ttR'
  tree = b'ccollections\nOrderedDict\n(]](U\x08module.a' + tensor + b'eatR'
  numbers = np.arange(6, dtype=np.float32)
  machine = pickle.dumps({'little_endian': True, 'protocol_version': 1001}, 2)
  parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), machine]
  parts += [
    b'\x80\x02' + tree + b'.',
    b'\x80\x02]U\x017a.',
    struct.pack('<q', 6),
    numbers.tobytes(),
  ]
  path = tmp_path / 'x.pth.tar'
  path.write_bytes(b''.join(parts))
  found = tensors(files.read(path))
  assert list(found) == ['a']
  np.testing.assert_array_equal(np.asarray(found['a']), [3, 4])


def test_nested_dicts_become_paths_without_the_parallel_prefix():
  tensor = StoredTensor(None, np.dtype(int), np.dtype(int), (), (), 0)
  tree = {
    'step': 1,
    'Decoder': {'module.a.b': tensor, 'module.c': tensor},
    'x': {'module.a': tensor},
  }
  tree['x']['y'] = {'module.z': tensor, 'q': tensor}
  tree['x']['again'] = tree
  tree['list'] = [tensor]
  assert list(tensors(tree)) == ['Decoder.a.b', 'Decoder.c', 'x.a', 'x.y.module.z', 'x.y.q']


def test_foreign_objects_are_kept_as_inert_records(tmp_path, monkeypatch):
  """A fairseq file without fairseq: classes that do not exist here, as their module names say."""
  path = tmp_path / 'x.pt'
  modules = {}
  for name in ('fairseq', 'fairseq.data', 'fairseq.data.dictionary', 'sentencepiece'):
    modules[name] = type(os)(name)
  dictionary = type('Dictionary', (), {'__module__': 'fairseq.data.dictionary'})
  modules['fairseq.data.dictionary'].Dictionary = dictionary
  for name, module in modules.items():
    monkeypatch.setitem(__import__('sys').modules, name, module)
  symbols = dictionary()
  symbols.symbols = ['<s>', '▁the']
  symbols.model = b'\x00\xff proto'
  counts = collections.defaultdict(list, {'a': [1]})
  save(
    path,
    {
      'model': {'w': torch.ones(2)},
      'task_state': {'dictionary': symbols},
      'args': __import__('argparse').Namespace(lr=0.1),
      'value': np.float64(2.5),
      'counts': counts,
      'set': {1, 2},
      'size': torch.Size([2]),
      'dtype': torch.float16,
      'device': torch.device('cpu'),
    },
  )
  monkeypatch.undo()
  tree = files.read(path)
  record = tree['task_state']['dictionary']
  assert isinstance(record, pickles.Record) and record.name == 'fairseq.data.dictionary.Dictionary'
  assert record.state == {'symbols': ['<s>', '▁the'], 'model': b'\x00\xff proto'}
  assert tree['args'].state == {'lr': 0.1}
  assert tree['value'].name.endswith('multiarray.scalar')
  assert tree['counts'] == {'a': [1]} and tree['set'] == {1, 2} and tree['size'] == (2,)
  assert tree['dtype'].name == 'torch.float16' and tree['device'].args == ('cpu',)
  assert_same(tree['model']['w'], torch.ones(2))


def test_files_saved_without_checksums_read(tmp_path):
  torch.serialization.set_crc32_options(False)
  try:
    path = save(tmp_path / 'x.pth', {'a': torch.ones(3)})
  finally:
    torch.serialization.set_crc32_options(True)
  assert_same(files.read(path)['a'], torch.ones(3))


# --- Code ---------------------------------------------------------------------------------------


@ZIP_AND_STREAM
@pytest.mark.parametrize('protocol', [2, 4])
def test_code_is_refused_by_name_and_not_run(tmp_path, as_zip, protocol):
  trace = tmp_path / 'trace'
  for function, args in (
    (os.system, (f'touch {trace}',)),
    (exec, (f'open({str(trace)!r}, "w")',)),
    (open, (str(trace), 'w')),
    (getattr, (os, 'system')),
    (torch.load, (str(trace),)),
  ):
    value = {'state_dict': {'a': torch.ones(1)}, 'x': Evil(function, *args)}
    if function is getattr:
      value['x'].args = ('a', 'upper')
    path = save(tmp_path / 'x.pth', value, as_zip=as_zip, pickle_protocol=protocol)
    refused(path, f'.{function.__name__}', 'nothing was executed')
  assert not trace.exists()


def test_a_whole_module_is_refused(tmp_path):
  refused(save(tmp_path / 'x.pth', torch.nn.Linear(2, 2)), 'torch.nn.modules.linear.Linear')


def test_calling_a_name_that_is_only_a_value_is_refused(tmp_path):
  for name in (b'torch\nFloatStorage', b'builtins\nlist', b'torch\nfloat32'):
    refused(pth_with(tmp_path / 'x.pth', b'\x80\x02c' + name + b'\nK\x05\x85R.'), 'a call of')


# A tuple of tuples with 2^100 paths and 100 objects; printing it would never end.
BUSHY = b'N' + b'q\x00h\x00\x86' * 100

# --- Pickles that cost too much -----------------------------------------------------------------


@pytest.mark.parametrize(
  ('body', 'message'),
  [
    (b'r\xff\xff\xff\xff.', 'damaged'),  # a memo index of four billion, on an empty stack
    (b'Nr\xff\xff\xff\xff0h\x05.', 'damaged'),  # and a memo entry that is missing
    (b'B\xff\xff\xff\xff', 'damaged'),  # bytes that claim four gigabytes
    (b'\x8e' + b'\xff' * 7 + b'\x7fx', 'damaged'),
    (b'\x8b\xff\xff\xff\x7fx', 'damaged'),  # an integer that claims two gigabytes
    (b'\x8a\x20' + b'\x7f' * 32 + b'.', 'an integer of 255 bits'),
    (b'c__builtin__\nset\n(]K\x01at' + b'R.', None),
    (b'}N' + b'\x85' * 100_000 + b'Ns.', 'a key of type tuple'),
    (b'}(' + b'N' * 50 + b'tNs.', 'a key of 50 items'),
    (b'}]Ns.', 'a key of type list'),
    (b'}(Nu.', 'a key without a value'),
    (b'N' * 1_000_001, 'more than 1000000 opcodes'),
    (b'I1\n.', 'opcode INT'),
    (b'P1\n.', 'opcode PERSID'),
    (b'cos\nsystem', 'damaged'),
    (b'(.', 'a mark where a value should be'),
    (b'Nb.', 'damaged'),
    (b'NNb.', 'a state for a NoneType'),
    (b'NNNs.', 'items for a NoneType'),
    (b'NQ.', 'not of a storage'),
    (BUSHY + b'U\x01a\x93.', 'a name made of tuple and a'),
    (b'c_codecs\nencode\nU\x01a' + BUSHY + b'\x86R.', 'bytes from a str in tuple'),
    (b'c' + b'a' * 10_000 + b'\nb\n.', 'a' * 200 + "'"),
    (b'\xff', 'damaged'),
    (b'', 'damaged'),
  ],
)
def test_pickles_that_are_damaged_or_bombs(tmp_path, body, message):
  path = pth_with(tmp_path / 'x.pth', b'\x80\x02' + body)
  if message is None:
    assert files.read(path) == {1}
  else:
    refused(path, message)


def test_copies_may_not_grow_beyond_the_pickle(tmp_path):
  """One text of 1 MB, encoded again and again from the memo."""
  text = b'X' + struct.pack('<I', 1 << 20) + b'a' * (1 << 20) + b'q\x00'
  again = b'c_codecs\nencode\nh\x00U\x06latin1\x86R'
  assert len(files.read(pth_with(tmp_path / 'x.pth', b'\x80\x02' + text + again + b'.'))) == 1 << 20
  refused(
    pth_with(tmp_path / 'x.pth', b'\x80\x02' + text + again * 1000 + b'.'),
    'more than it spells out',
  )


def test_recursive_containers_end(tmp_path):
  loop = {'state_dict': {'a': torch.ones(1)}}
  loop['self'] = loop
  loop['state_dict']['list'] = [loop]
  path = save(tmp_path / 'x.pth', loop)
  assert list(tensors(files.read(path))) == ['state_dict.a']
  # The dictionary of dictionaries that has 2^60 paths and 60 objects.
  bomb = {'a': torch.ones(1)}
  for _ in range(60):
    bomb = {'x': bomb, 'y': bomb}
  assert tensors(files.read(save(path, bomb))) == {}


def test_an_over_long_pickle_is_not_read(tmp_path, monkeypatch):
  monkeypatch.setattr(pickles, 'MAX_BYTES', 100)
  refused(save(tmp_path / 'x.pth', {'a' * 200: torch.ones(1)}), 'more than 100')


# --- Headers that lie ---------------------------------------------------------------------------

DATA = np.arange(4, dtype=np.float32).tobytes()


@pytest.mark.parametrize(
  ('header', 'message'),
  [
    (dict(size=[5], stride=[1]), 'needs 5 items; its storage has 4'),
    (dict(size=[4], stride=[1], offset=1), 'needs 5 items'),
    (dict(size=[2, 2], stride=[3, 1]), 'needs 5 items'),
    (dict(size=[0], stride=[1], offset=5), 'needs 5 items'),
    (dict(size=[4], stride=[-1]), 'a stride of -1'),
    (dict(size=[-4], stride=[1]), 'a size of -4'),
    (dict(size=[4], stride=[1], offset=-1), 'a storage offset of -1'),
    (dict(size=[2, 2], stride=[1]), '2 sizes and 1 strides'),
    (dict(size=[1] * 65, stride=[1] * 65), '65 sizes'),
    (dict(size=[1 << 61, 1 << 61], stride=[0, 0]), 'more than 2^58'),
    (dict(size=[1 << 70], stride=[0]), 'a size of'),
    (dict(size=[0, 1 << 61], stride=[0, 0]), 'more than 2^58'),
    (dict(size=[1 << 30], stride=[0]), 'repeats 1 numbers'),
    (dict(size=[4], stride=[1], items=1 << 40), 'storage '),
    (dict(size=[4], stride=[1], items=-4), 'a storage size of -4'),
    (dict(size=[4], stride=[1], storage=b'DoubleStorage'), 'has 16 bytes, its header says 32'),
    (dict(size=[4], stride=[1], storage=b'nn'), 'torch.nn'),
    (dict(size=[4], stride=[1], storage=b'float32'), 'a storage of class torch.float32'),
    (dict(size=[4], stride=[1], key=b'../../etc/passwd'), 'is not in the archive'),
  ],
)
def test_tensor_headers_that_lie(tmp_path, header, message):
  refused(pth_with(tmp_path / 'x.pth', tensor_pickle(**header), [DATA]), message.split("'")[0])


def test_the_largest_expanded_tensor(tmp_path):
  items = MAX_EXPANDED_BYTES // 4
  path = pth_with(tmp_path / 'x.pth', tensor_pickle([items], [0]), [DATA])
  assert np.asarray(files.read(path)['a']).shape == (items,)
  refused(pth_with(path, tensor_pickle([items + 1], [0]), [DATA]), 'repeats 1 numbers')


def safetensors_with(path, header, data=DATA, length=None):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  length = len(text) if length is None else length
  path.write_bytes(struct.pack('<Q', length) + text + data)
  return path


def entry(dtype='F32', shape=(4,), first=0, last=16):
  return {'dtype': dtype, 'shape': list(shape), 'data_offsets': [first, last]}


@pytest.mark.parametrize(
  ('header', 'message'),
  [
    ({'a': entry(last=20)}, 'cannot have 20 bytes'),
    ({'a': entry(shape=[5], last=20)}, 'end at byte'),
    ({'a': entry(shape=[3], last=12)}, 'end at byte'),
    ({'a': entry(), 'b': entry()}, 'overlap or leave a gap'),
    ({'a': entry(shape=[3], first=4, last=16)}, 'overlap or leave a gap'),
    ({'a': entry(first=16, last=0)}, 'cannot have -16 bytes'),
    ({'a': entry(shape=[-4])}, 'a size of -4'),
    ({'a': entry(shape=[4.0])}, 'a size of 4.0'),
    ({'a': entry(shape=[True] * 70)}, 'without a shape'),
    ({'a': entry(shape=[1 << 62])}, 'a size of'),
    ({'a': entry(dtype='F7')}, 'dtype F7'),
    ({'a': entry(dtype=['F32'])}, 'dtype'),
    ({'a': entry(first=None)}, 'an offset of None'),
    ({'a': entry() | {'data_offsets': [0]}}, 'two data_offsets'),
    ({'a': entry() | {'more': 1}}, 'needs dtype, shape and data_offsets'),
    ({'a': 3}, 'needs dtype'),
    (b'{"a": 1, "a": 2}', 'appears twice'),
    (b'{' + b'"a":{' * 100_000, 'header is damaged'),
    (b'{"a": ' + b'9' * 5000 + b'}', 'header is damaged'),
    (b'{"\xff"}', 'header is damaged'),
    (b'{}', 'end at byte'),
  ],
)
def test_safetensors_headers_that_lie(tmp_path, header, message):
  refused(safetensors_with(tmp_path / 'x.safetensors', header), message)


def test_safetensors_header_lengths_that_lie(tmp_path):
  path = tmp_path / 'x.safetensors'
  for length in (10**6, 2**63, 1 << 25):
    refused(safetensors_with(path, {'a': entry()}, length=length), f'claims {length} bytes')


# --- Archives that lie --------------------------------------------------------------------------


def test_compressed_entries_are_refused_before_they_are_unpacked(tmp_path):
  path = tmp_path / 'x.pth'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('archive/data.pkl', tensor_pickle([1 << 24], [1], items=1 << 24))
    archive.writestr('archive/data/0', bytes(1 << 26))
  assert path.stat().st_size < 1 << 17
  refused(path, 'is compressed or encrypted')


@pytest.mark.parametrize('name', ['../evil', '/etc/passwd', 'archive/../../evil', 'archive\\evil'])
def test_entries_outside_of_the_folder_are_refused(tmp_path, name):
  path = pth_with(tmp_path / 'x.pth', tensor_pickle([4], [1]), [DATA])
  with zipfile.ZipFile(path, 'a') as archive:
    archive.writestr(name, b'evil')
  refused(path, 'an entry with the path')
  assert os.listdir(tmp_path) == ['x.pth']


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_two_entries_of_one_name_are_refused(tmp_path):
  path = pth_with(tmp_path / 'x.pth', tensor_pickle([4], [1]), [DATA])
  with zipfile.ZipFile(path, 'a') as archive:
    archive.writestr('archive/data/0', DATA)
  refused(path, 'two entries named')


def test_zip_files_that_are_something_else(tmp_path):
  path = tmp_path / 'x.pth'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a/x.pth', b'')
    archive.writestr('b/y.pth', b'')
  refused(path, 'this zip file has 2', 'unpack it first')
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a/x.txt', b'')
  refused(path, 'not a PyTorch file')
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a/constants.pkl', b'')
    archive.writestr('a/data.pkl', b'')
  refused(path, 'TorchScript')


def test_a_directory_that_claims_too_much_is_not_read(tmp_path):
  path = pth_with(tmp_path / 'x.pth', tensor_pickle([4], [1]), [DATA])
  data = bytearray(path.read_bytes())
  end = data.rindex(b'PK\x05\x06')
  size = 9 << 20
  data[end:end] = bytes(size)
  data[-10:-6] = struct.pack('<I', size)
  path.write_bytes(data)
  refused(path, 'a directory of')


def test_changed_numbers_are_noticed(tmp_path):
  path = save(tmp_path / 'x.pth', {'a': torch.arange(4.0)})
  tensor = files.read(path)['a']
  data = bytearray(path.read_bytes())
  data[tensor.storage.offset] ^= 1
  path.write_bytes(data)
  refused(path, 'checksum')


@pytest.mark.parametrize('kind', ['zip', 'stream', 'safetensors'])
def test_every_truncation_is_refused(tmp_path, kind):
  path = tmp_path / 'x'
  if kind == 'safetensors':
    safetensors_with(path, {'a': entry()})
  else:
    save(path, {'a': torch.ones(40)}, as_zip=kind == 'zip')
  data = path.read_bytes()
  for length in {*range(0, len(data), 23), len(data) - 1}:
    path.write_bytes(data[:length])
    refused(path)


def test_a_file_cut_off_after_its_header_was_read(tmp_path):
  path = safetensors_with(tmp_path / 'x.safetensors', {'a': entry()})
  tensor = files.read(path)['a']
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(ConversionError, match='ends before its tensors do'):
    np.asarray(tensor)


def test_a_zip_of_a_version_that_python_does_not_know(tmp_path):
  path = save(tmp_path / 'x.pth', {'a': torch.ones(4)}, as_zip=True)
  data = bytearray(path.read_bytes())
  data[data.index(b'PK\1\2') + 6] = 99  # that is needed to extract the first entry
  path.write_bytes(data)
  refused(path, 'the zip directory is damaged or cut off', 'version 9.9')


def test_streams_that_lie(tmp_path):
  path = save(tmp_path / 'x.pth', {'a': torch.ones(4)}, as_zip=False)
  data = path.read_bytes()
  body = data[:-24]  # without the size and the numbers of the storage
  assert data[-24:] == struct.pack('<q', 4) + torch.ones(4).numpy().tobytes()
  for tail, message in (
    (struct.pack('<q', 5) + bytes(20), 'two sizes'),
    (struct.pack('<q', -4) + bytes(16), 'two sizes'),
    (struct.pack('<q', 4) + bytes(15), 'ends before its tensors do'),
    (b'', 'ends before its tensors do'),
  ):
    path.write_bytes(body + tail)
    refused(path, message)
  path.write_bytes(data.replace(pickle.dumps(1001, 2), pickle.dumps(1002, 2), 1))
  refused(path, 'version 1002')
  path.write_bytes(pickle.dumps([0x1950A86A20F9469CFC6C], 2))
  refused(path, 'not one of torch.save')
  keys = data.index(b'\x80\x02]')
  path.write_bytes(data[:keys] + b'\x80\x02].' + data[-24:])
  refused(path, 'the list of storages does not match')


# --- Other messages -----------------------------------------------------------------------------


def test_files_of_other_kinds(tmp_path):
  path = tmp_path / 'x.pth'
  refused(path, 'no such file')
  path.write_bytes(b'<!DOCTYPE html><html>')
  refused(path, "starts with b'<!DOCTYP'", 'web page')
  path.write_bytes(b'')
  refused(path, 'neither a PyTorch nor a safetensors file')
  refused(tmp_path, 'no such file')
  refused(tmp_path / ('a' * 300), 'cannot be read: File name too long')


def test_a_file_without_a_dict(tmp_path):
  path = save(tmp_path / 'x.pth', torch.ones(2))
  with pytest.raises(ConversionError, match='holds a StoredTensor and not a dict'):
    files.state_dicts(files.read(path), where=path)


def test_two_tensors_with_one_path(tmp_path):
  path = save(tmp_path / 'x.pth', {'a': {'b': torch.ones(1)}, 'a.b': torch.ones(1)})
  with pytest.raises(ConversionError, match=r"two tensors of the file have the key 'a\.b'"):
    files.state_dicts(files.read(path), where=path)


def test_outputs_that_cannot_be_written(tmp_path):
  arrays = {'a': np.zeros(2, np.float32)}
  for path, message in (
    (tmp_path / 'x.bin', "ends in '.bin'"),
    (tmp_path / 'no' / 'x.pth', 'folder of the output does not exist'),
    (tmp_path / ('a' * 300 + '.pth'), 'cannot be written: File name too long'),
  ):
    with pytest.raises(ConversionError, match=message):
      files.write(path, arrays)
  (tmp_path / 'd.pth').mkdir()
  with pytest.raises(ConversionError, match='the output is a folder'):
    files.write(tmp_path / 'd.pth', arrays)
  for path, dtype in (('x.pth', np.uint16), ('x.safetensors', np.complex128)):
    with pytest.raises(ConversionError, match=f'cannot hold a of dtype {np.dtype(dtype)}'):
      files.write(tmp_path / path, {'a': np.zeros(1, dtype)})
  assert os.listdir(tmp_path) == ['d.pth']


# --- Fuzzing ------------------------------------------------------------------------------------


def _mutate(data, rng):
  data = bytearray(data)
  for _ in range(rng.choice((1, 1, 2, 8))):
    where = rng.randrange(len(data))
    match rng.randrange(4):
      case 0:
        data[where] = rng.randrange(256)
      case 1:
        data[where : where + 4] = rng.choice((b'\xff' * 4, b'\0' * 4, b'\x7f\xff\xff\xff'))
      case 2:
        del data[where : where + rng.randrange(1, 20)]
      case 3:
        other = rng.randrange(len(data))
        data[where:where] = data[other : other + rng.randrange(1, 40)]
    data = data or bytearray(1)
  return bytes(data)


@pytest.mark.parametrize('kind', ['zip', 'stream', 'safetensors', 'pickle'])
def test_mutated_files_are_read_or_refused(tmp_path, kind):
  """Only a result or a ConversionError: no other exception, no warning, no file."""
  state = {'state_dict': sample(), 'args': __import__('argparse').Namespace(a=[1, {'b': 2.5}])}
  path = tmp_path / 'x'
  if kind == 'safetensors':
    safetensors.save_file({'a': torch.ones(2, 3), 'b': torch.zeros(4).half()}, path)
  else:
    save(path, state, as_zip=kind != 'stream')
  data = path.read_bytes()
  if kind == 'pickle':
    with zipfile.ZipFile(path) as archive:
      data = archive.read('x/data.pkl')
      storages = [archive.read(f'x/data/{i}') for i in range(len(archive.namelist()) - 6)]
  rng = random.Random(f'{kind} 1')
  results = collections.Counter()
  for _ in range(150):
    mutant = _mutate(data, rng)
    if kind == 'pickle':
      pth_with(path, mutant, storages)
    else:
      path.write_bytes(mutant)
    try:
      for tensor in tensors(files.read(path)).values():
        assert np.asarray(tensor).nbytes <= MAX_EXPANDED_BYTES
      results['read'] += 1
    except ConversionError:
      results['refused'] += 1
  assert results['refused'] > 20, results
  assert os.listdir(tmp_path) == ['x']


def test_random_bytes_after_every_magic_number(tmp_path):
  rng = random.Random(2)
  path = tmp_path / 'x'
  heads = (
    b'PK\x03\x04',
    b'\x80\x02',
    pickle.dumps(0x1950A86A20F9469CFC6C, 2),
    b'\x10' + bytes(7) + b'{',
  )
  for _ in range(50):
    for head in heads:
      path.write_bytes(head + rng.randbytes(rng.randrange(200)))
      refused(path)


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_the_stack_machine_agrees_with_pickle(protocol):
  value = {'a': [1, 2.5, None, True, (1, (2,)), {'b': b'c'}, {3, 'x'}], 'n': -(2**70)}
  value['again'] = value['a']
  builders = {'set': pickles.build_set, 'encode': pickles.build_bytes}

  def find(module, name):
    return pickles.Global(f'{module}.{name}', builders[name])

  stream = io.BytesIO(pickle.dumps(value, protocol) + b'rest')
  result = pickles.load(stream, find, None, where='x')
  assert result == value and result['again'] is result['a']
  assert stream.read() == b'rest'
