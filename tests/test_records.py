import concurrent.futures
import dataclasses
import json
import os
import pathlib
import pickle
import re
import struct

import google_crc32c
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tfg_jax.data import records
from tfg_jax.errors import DataError

INFO = records.DatasetInfo(
  corpus='puppet',
  fps=25.0,
  height=8,
  width=12,
  sample_rate=16_000,
  licence='CC0',
  preparation={'seed': 7, 'note': 'héllo'},
)


def path_of(directory, shard=0, shards=2, split='train'):
  return records.shard_path(str(directory), 'puppet', split, shard, shards)


def payload(number):
  return f'record {number} '.encode() * (number + 1)


@pytest.fixture
def corpus(tmp_path):
  """Two shards: records 0, 1, 2 and 3, 4."""
  records.write_shard(path_of(tmp_path, 0), map(payload, range(3)))
  records.write_shard(path_of(tmp_path, 1), map(payload, range(3, 5)))
  records.finish_dataset(tmp_path, INFO)
  return tmp_path


def change(path, offset, data):
  with open(path, 'r+b') as file:
    file.seek(offset)
    file.write(data)


def flip(path, offset):
  with open(path, 'rb') as file:
    file.seek(offset)
    byte = file.read(1)[0]
  change(path, offset, bytes([byte ^ 0x10]))


def masked_crc(data):
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


# Writing


def test_shard_names_sort_and_say_how_many():
  assert records.shard_path('d', 'lrs2', 'train', 3, 64) == 'd/lrs2-train-00003-of-00064.tfrecord'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('a/b', 'train', 0, 1), "'a/b' cannot be part of a file name"),
    (('lrs2', 'pre-train', 0, 1), "'pre-train' cannot be part of a file name"),
    (('lrs2', 'train', 2, 2), 'there is no shard 2 of 2'),
    (('lrs2', 'train', 0, 100_000), 'there is no shard 0 of 100000'),
  ],
)
def test_impossible_shard_names_are_refused(arguments, message):
  with pytest.raises(DataError, match=message):
    records.shard_path('d', *arguments)


def test_the_index_has_its_documented_format(corpus):
  shard = pathlib.Path(path_of(corpus)).read_bytes()
  index = pathlib.Path(path_of(corpus) + '.index').read_bytes()
  magic, count, size, crc = struct.unpack_from('<8sQQQ', index)
  assert (magic, count, size) == (b'TFGIDX01', 3, len(shard))
  assert crc == masked_crc(index[32:])
  for number, (offset, length) in enumerate(struct.iter_unpack('<qq', index[32:])):
    assert shard[offset + 12 : offset + 12 + length] == payload(number)


def test_a_failure_leaves_neither_shard_nor_index(tmp_path):
  def broken():
    yield b'one'
    raise RuntimeError('camera on fire')

  with pytest.raises(RuntimeError, match='camera on fire'):
    records.write_shard(path_of(tmp_path), broken())
  assert os.listdir(tmp_path) == []


def test_a_failed_rewrite_leaves_the_old_shard_readable(corpus):
  def broken():
    yield b'one'
    raise RuntimeError

  with pytest.raises(RuntimeError):
    records.write_shard(path_of(corpus), broken())
  source = records.RecordSource(corpus, 'train')
  assert [source[i] for i in range(5)] == [payload(i) for i in range(5)]


def test_a_shard_can_be_written_again(corpus):
  assert records.write_shard(path_of(corpus), [b'x', b'y', b'z']) == 3
  assert records.RecordSource(corpus, 'train')[2] == b'z'
  assert not [name for name in os.listdir(corpus) if 'partial' in name]


def test_records_beyond_the_limit_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(records, 'MAX_RECORD_BYTES', 10)
  with pytest.raises(DataError, match='record 1 has 11 bytes; the largest allowed is 10'):
    records.write_shard(path_of(tmp_path), [b'x' * 10, b'x' * 11])
  assert os.listdir(tmp_path) == []


def test_parallel_workers_write_one_shard_each(tmp_path):
  def work(shard):
    return records.write_shard(path_of(tmp_path, shard, 8), [payload(shard)] * shard)

  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert list(pool.map(work, range(8))) == list(range(8))
  info = records.finish_dataset(tmp_path, INFO)
  assert info.clips == {'train': tuple(range(8))}
  source = records.RecordSource(tmp_path, 'train')
  assert [source[i] for i in range(28)] == [payload(i) for i in range(8) for _ in range(i)]


def test_the_info_file_says_what_was_prepared(corpus):
  records.write_shard(path_of(corpus, 0, 1, 'test'), [b'x'])
  written = records.finish_dataset(corpus, INFO)
  assert records.read_info(corpus) == written
  assert written == dataclasses.replace(INFO, clips={'train': (3, 2), 'test': (1,)})
  content = json.loads((corpus / 'dataset_info.json').read_text(encoding='utf-8'))
  assert content['version'] == 1
  assert content['tool'].startswith('tfg_jax ')
  assert content['preparation'] == {'seed': 7, 'note': 'héllo'}
  assert content['splits']['train'] == {'clips': 5, 'clips_per_shard': [3, 2]}


def test_finishing_needs_shards(tmp_path):
  (tmp_path / 'notes.txt').write_text('')
  with pytest.raises(DataError, match="there are no shards of corpus 'puppet'"):
    records.finish_dataset(tmp_path, INFO)


def test_finishing_needs_every_shard(tmp_path):
  for shard in (0, 1, 2, 4, 5, 7):
    records.write_shard(path_of(tmp_path, shard, 8), [b'x'])
  with pytest.raises(DataError, match='shard 3 of 8 is missing, and 1 more') as error:
    records.finish_dataset(tmp_path, INFO)
  assert error.value.where == path_of(tmp_path, 3, 8)


def test_finishing_refuses_a_mixture_of_preparations(corpus):
  records.write_shard(path_of(corpus, 0, 1), [b'x'])
  message = 'split \'train\' has shards of 2 preparations: "of 1" and "of 2"'
  with pytest.raises(DataError, match=message):
    records.finish_dataset(corpus, INFO)


# Reading


def test_records_are_read_by_number(corpus):
  source = records.RecordSource(corpus, 'train')
  assert len(source) == 5
  assert [source[i] for i in (4, 0, 2, 3, 1)] == [payload(i) for i in (4, 0, 2, 3, 1)]
  assert list(source) == [payload(i) for i in range(5)]
  for outside in (5, -1):
    with pytest.raises(IndexError, match=f'record {outside} of 5'):
      source[outside]


@hypothesis.given(shards=st.lists(st.lists(st.binary(max_size=40), max_size=5), max_size=5))
@hypothesis.settings(max_examples=25)
def test_any_records_in_any_shards_come_back(tmp_path_factory, shards):
  hypothesis.assume(any(shards))
  directory = tmp_path_factory.mktemp('corpus')
  for number, content in enumerate(shards):
    records.write_shard(path_of(directory, number, len(shards)), content)
  records.finish_dataset(directory, INFO)
  source = records.RecordSource(directory, 'train')
  assert list(source) == [data for content in shards for data in content]


def test_its_name_does_not_depend_on_the_place(corpus):
  assert (
    repr(records.RecordSource(corpus, 'train')) == 'RecordSource(puppet, train, 5 clips, 2 shards)'
  )


def test_locations_name_shard_record_and_byte(corpus):
  where = records.RecordSource(corpus, 'train').locate(4)
  assert where == f'{path_of(corpus, 1)}, record 1, byte {16 + len(payload(3))}'


def test_a_pickled_source_opens_its_own_files(corpus):
  source = records.RecordSource(corpus, 'train')
  assert source[0] == payload(0)
  copy = pickle.loads(pickle.dumps(source))
  assert list(copy) == list(source)
  assert repr(copy) == repr(source)


def test_many_threads_read_at_once_with_few_open_files(corpus, monkeypatch):
  monkeypatch.setattr(records, '_OPEN_SHARDS', 1)  # threads evict each other's handles
  source = records.RecordSource(corpus, 'train')
  handles = len(os.listdir('/proc/self/fd'))
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(source.__getitem__, [0, 4, 1, 3, 2] * 400))
  assert found == [payload(i) for i in (0, 4, 1, 3, 2)] * 400
  assert len(os.listdir('/proc/self/fd')) <= handles + 1
  del source
  assert len(os.listdir('/proc/self/fd')) <= handles


def test_shards_without_index_are_scanned(corpus, caplog):
  os.remove(path_of(corpus, 1) + '.index')
  with caplog.at_level('WARNING', logger='absl'):
    source = records.RecordSource(corpus, 'train')
  assert list(source) == [payload(i) for i in range(5)]
  assert f'{path_of(corpus, 1)}.index is missing; scanning the shard instead' in caplog.text
  assert not os.path.exists(path_of(corpus, 1) + '.index')


def test_a_million_records_are_opened_by_their_index_alone(tmp_path):
  path = path_of(tmp_path, 0, 1)
  lengths = np.random.default_rng(0).integers(1000, 2000, 1_000_000)
  offsets = np.concatenate([[0], np.cumsum(lengths + 16)])
  content = np.stack([offsets[:-1], lengths], axis=1).astype('<i8').tobytes()
  header = struct.pack('<8sQQQ', b'TFGIDX01', len(lengths), offsets[-1], masked_crc(content))
  with open(path + '.index', 'wb') as file:
    file.write(header + content)
  with open(path, 'wb') as file:
    file.truncate(offsets[-1])  # holes, in which no record would be found
  records.finish_dataset(tmp_path, INFO)
  assert len(records.RecordSource(tmp_path, 'train')) == 1_000_000


# Damage


def read_all(directory):
  return list(records.RecordSource(directory, 'train'))


def test_a_flipped_bit_anywhere_in_a_shard_is_found(corpus):
  path = path_of(corpus, 1)
  second = 16 + len(payload(3))
  assert os.path.getsize(path) == second + 16 + len(payload(4))
  for offset in range(os.path.getsize(path)):
    flip(path, offset)
    record = int(offset >= second)
    place = f'{path}, record {record}, byte {record * second}'
    part = 'its length' if offset - record * second < 12 else r'its \d+ bytes'
    with pytest.raises(DataError, match=f'damaged: the checksum of {part} is wrong') as error:
      read_all(corpus)
    assert error.value.where == place
    flip(path, offset)
  assert len(read_all(corpus)) == 5


def test_a_flipped_bit_anywhere_in_an_index_is_found(corpus):
  path = path_of(corpus, 1) + '.index'
  for offset in range(os.path.getsize(path)):
    flip(path, offset)
    with pytest.raises(DataError, match='index (is|has|belongs|holds)') as error:
      read_all(corpus)
    assert error.value.where == path
    assert 'Delete the index' in error.value.hint
    flip(path, offset)


@pytest.mark.parametrize('indexed', [True, False])
def test_a_shard_cut_off_anywhere_is_found(corpus, indexed):
  path = path_of(corpus, 1)
  size = os.path.getsize(path)
  if not indexed:
    os.remove(path + '.index')
  for left in range(size - 1, -1, -1):
    os.truncate(path, left)
    with pytest.raises(DataError) as error:
      read_all(corpus)
    if indexed:
      assert error.value.what == f'index belongs to a shard of {size} bytes; this one has {left}'
    elif left in (0, 16 + len(payload(3))):  # whole records are missing
      assert re.fullmatch(r'shard holds [01] clips; dataset_info.json says 2', error.value.what)
    else:
      assert 'record is cut off' in error.value.what
      assert ', record ' in error.value.where


def test_a_shard_cut_off_while_it_is_read_is_found(corpus):
  source = records.RecordSource(corpus, 'train')
  os.truncate(path_of(corpus, 1), 20)
  message = f'record is cut off: 20 of {16 + len(payload(3))} bytes are there'
  with pytest.raises(DataError, match=message) as error:
    source[3]
  assert error.value.where == f'{path_of(corpus, 1)}, record 0, byte 0'


def test_a_shard_deleted_while_it_is_read_is_named(corpus):
  source = records.RecordSource(corpus, 'train')
  os.remove(path_of(corpus, 1))
  with pytest.raises(DataError, match='cannot read the shard: No such file') as error:
    source[3]
  assert error.value.where == f'{path_of(corpus, 1)}, record 0, byte 0'


def with_length(corpus, length):
  header = struct.pack('<Q', length)
  change(path_of(corpus, 1), 0, header + struct.pack('<I', masked_crc(header)))


def test_a_length_that_the_index_does_not_have_is_found(corpus):
  with_length(corpus, 5)
  with pytest.raises(DataError, match=f'record has 5 bytes; the index says {len(payload(3))}'):
    read_all(corpus)


@pytest.mark.parametrize('length', [2**60, 2**64 - 1])
def test_a_huge_length_is_refused_without_reading_it(corpus, length):
  with_length(corpus, length)
  os.remove(path_of(corpus, 1) + '.index')
  message = f'record says that it has {length} bytes; the largest allowed is {2**30}'
  with pytest.raises(DataError, match=message) as error:
    read_all(corpus)
  assert error.value.where == f'{path_of(corpus, 1)}, record 0, byte 0'


def rewrite_index(corpus, rows, *, size=None):
  path = path_of(corpus, 1)
  content = b''.join(struct.pack('<qq', *row) for row in rows)
  size = os.path.getsize(path) if size is None else size
  header = struct.pack('<8sQQQ', b'TFGIDX01', len(rows), size, masked_crc(content))
  with open(path + '.index', 'wb') as file:
    file.write(header + content)


@pytest.mark.parametrize(
  'rows',
  [
    [],
    [(0, 36)],
    [(0, 36), (36, 45)],
    [(1, 36), (53, 45)],
    [(0, 2**62), (2**62 + 16, -(2**62))],
    [(0, -16), (0, 97)],
  ],
)
def test_an_index_with_impossible_offsets_is_refused(corpus, rows):
  assert os.path.getsize(path_of(corpus, 1)) == 113
  rewrite_index(corpus, rows)
  with pytest.raises(DataError, match='index holds impossible offsets') as error:
    read_all(corpus)
  assert error.value.where == path_of(corpus, 1) + '.index'


def test_an_index_of_another_shard_of_the_same_size_is_found(corpus):
  rewrite_index(corpus, [(0, 37), (53, 44)])
  with pytest.raises(DataError, match='record has 36 bytes; the index says 37'):
    read_all(corpus)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'index is not an index of this release'),
    (b'TFGIDX02' + bytes(24), 'index is not an index of this release'),
    (struct.pack('<8sQQQ', b'TFGIDX01', 2**60, 0, 0), f'wrong size for its {2**60} records'),
    (struct.pack('<8sQQQ', b'TFGIDX01', 0, 0, 0), 'index is damaged: its checksum is wrong'),
  ],
)
def test_a_file_that_is_no_index_is_refused(corpus, content, message):
  with open(path_of(corpus, 1) + '.index', 'wb') as file:
    file.write(content)
  with pytest.raises(DataError, match=message):
    read_all(corpus)


def test_a_missing_shard_is_named(tmp_path):
  for shard in range(8):
    records.write_shard(path_of(tmp_path, shard, 8), [b'x'])
  records.finish_dataset(tmp_path, INFO)
  os.remove(path_of(tmp_path, 3, 8))
  with pytest.raises(DataError, match='shard 3 of 8 is missing') as error:
    read_all(tmp_path)
  assert error.value.where == path_of(tmp_path, 3, 8)
  assert error.value.hint == 'Copy it here, or prepare it again.'


def test_a_shard_of_another_preparation_is_named(corpus):
  records.write_shard(path_of(corpus, 1), [b'x'])
  with pytest.raises(DataError, match='shard holds 1 clips; dataset_info.json says 2') as error:
    read_all(corpus)
  assert error.value.where == path_of(corpus, 1)


def test_an_unknown_split_is_named_with_those_that_exist(corpus):
  with pytest.raises(DataError, match="corpus 'puppet' has no split 'test'") as error:
    records.RecordSource(corpus, 'test')
  assert error.value.hint == 'It has train.'


def test_a_split_without_clips_is_refused(tmp_path):
  records.write_shard(path_of(tmp_path, 0, 1), [])
  records.finish_dataset(tmp_path, INFO)
  with pytest.raises(DataError, match="split 'train' has no clips"):
    records.RecordSource(tmp_path, 'train')


# The info file


def test_a_directory_without_info_is_refused(tmp_path):
  with pytest.raises(DataError, match='there is no dataset_info.json') as error:
    records.RecordSource(tmp_path, 'train')
  assert error.value.where == str(tmp_path)


def test_an_info_file_that_cannot_be_read_is_named(tmp_path):
  (tmp_path / 'dataset_info.json').mkdir()
  with pytest.raises(DataError, match='cannot read dataset_info.json: Is a directory'):
    records.read_info(tmp_path)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{"version": 1,', 'dataset_info.json is not JSON'),
    (b'\xff\xfe', 'dataset_info.json is not JSON'),
    ('[]', 'dataset_info.json has no version'),
    ('{}', 'dataset_info.json has no version'),
    ('{"version": 2}', 'has version 2; this release reads version 1'),
    ('{"version": 1}', "has None for 'splits'"),
  ],
)
def test_a_malformed_info_file_is_refused(corpus, text, message):
  (corpus / 'dataset_info.json').write_bytes(text if isinstance(text, bytes) else text.encode())
  with pytest.raises(DataError, match=message):
    records.read_info(corpus)


@pytest.mark.parametrize(
  ('path', 'value', 'message'),
  [
    (['corpus'], '../etc/x', "has '../etc/x' for 'corpus'"),
    (['fps'], '25', "has '25' for 'fps'"),
    (['fps'], 0, "has 0 for 'fps'"),
    (['fps'], True, "has True for 'fps'"),
    (['height'], 96.5, "has 96.5 for 'height'"),
    (['width'], -1, "has -1 for 'width'"),
    (['sample_rate'], None, "has None for 'sample_rate'"),
    (['licence'], 3, "has 3 for 'licence'"),
    (['preparation'], [], r"has \[\] for 'preparation'"),
    (['tool'], None, "has None for 'tool'"),
    (['splits'], [], r"has \[\] for 'splits'"),
    (['splits', 'train'], 5, "has None for 'clips_per_shard'"),
    (['splits', 'train', 'clips'], '5', "has '5' for 'clips'"),
    (['splits', 'train', 'clips'], 6, "'train' has 6 clips, but its shards add up to 5"),
    (['splits', 'train', 'clips_per_shard'], [], r"has \[\] for 'clips_per_shard'"),
    (['splits', 'train', 'clips_per_shard'], [6, -1], "has -1 for 'clips_per_shard'"),
  ],
)
def test_impossible_values_in_the_info_file_are_refused(corpus, path, value, message):
  file = corpus / 'dataset_info.json'
  content = json.loads(file.read_text(encoding='utf-8'))
  holder = content
  for name in path[:-1]:
    holder = holder[name]
  holder[path[-1]] = value
  file.write_text(json.dumps(content), encoding='utf-8')
  with pytest.raises(DataError, match=message) as error:
    records.read_info(corpus)
  assert error.value.where == str(file)
