"""Clips on disk: TFRecord shards of tf.train.Example with an index each, one info file per corpus.

A corpus is a directory:

    dataset_info.json                            what it is, how it was made, clips per shard
    puppet-train-00003-of-00064.tfrecord         one record per clip, for any TFRecord reader
    puppet-train-00003-of-00064.tfrecord.index   where each record starts

The index makes global shuffling and exact resuming possible, which plain TFRecord readers cannot
do. Its format, little-endian: 8 bytes `TFGIDX01`, uint64 number of records, uint64 size of the
shard in bytes, uint64 masked CRC-32C of the rest; then per record int64 offset of its frame in the
shard and int64 length of its data.

Parallel workers write one shard each with `write_shard`; one final `finish_dataset` counts them and
writes the info file. A file is either whole or absent: it gets its name only after its last byte is
on the disk, and the index comes after its shard. Every read checks the record's two checksums.
"""

import array
import collections
import dataclasses
import functools
import json
import math
import os
import re
import struct
import weakref
from typing import Any

import google_crc32c
import numpy as np
from absl import logging

import tfg_jax
from tfg_jax import storage
from tfg_jax.errors import DataError

INFO_NAME = 'dataset_info.json'
INFO_VERSION = 1
MAX_RECORD_BYTES = 1 << 30  # bounds what a damaged length can make a reader allocate

_INDEX_MAGIC = b'TFGIDX01'
_INDEX_HEADER = struct.Struct('<8sQQQ')
_FRAME_HEADER = struct.Struct('<QI')  # length of the data, masked CRC of these 8 bytes
_FRAME_BYTES = 16  # header, and 4 bytes of masked CRC behind the data
_OPEN_SHARDS = 256  # file handles kept per process, well under the usual limit of 1024
_PREPARE_AGAIN = 'Prepare this shard again, or copy it again and compare checksums.'

# --------------------------------------------------------------------------------------------------
# Writing
# --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetInfo:
  """What `dataset_info.json` says about a corpus.

  Attributes:
    corpus: the name that its shards start with.
    fps, height, width, sample_rate: as in every one of its clips.
    licence: what its data may be used for, with the name or address of the licence.
    preparation: the settings it was made with, as JSON values.
    tool: the program and version that wrote it.
    clips: split -> number of clips in each of its shards; `finish_dataset` counts them.
  """

  corpus: str
  fps: float
  height: int
  width: int
  sample_rate: int
  licence: str
  preparation: dict[str, Any]
  tool: str = f'tfg_jax {tfg_jax.__version__}'
  clips: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


_NAME = re.compile(r'[A-Za-z0-9_]+')
_SHARD = re.compile(
  r'(?P<corpus>[A-Za-z0-9_]+)-(?P<split>[A-Za-z0-9_]+)-(?P<shard>\d{5})-of-(?P<shards>\d{5})\.tfrecord'
)


def shard_path(directory, corpus, split, shard, shards):
  """Path of one shard, e.g. `DIR/puppet-train-00003-of-00064.tfrecord`; `shard` counts from 0.

  Raises:
    DataError: for names and numbers that cannot be part of it.
  """
  for name in (corpus, split):
    if not _NAME.fullmatch(name):
      raise DataError(
        f'{name!r} cannot be part of a file name', hint='Use letters, digits and underscores.'
      )
  if not 0 <= shard < shards <= 99_999:
    raise DataError(f'there is no shard {shard} of {shards}; expected 0 <= shard < shards <= 99999')
  return os.path.join(directory, f'{corpus}-{split}-{shard:05d}-of-{shards:05d}.tfrecord')


def write_shard(path, records):
  """Writes one shard and its index; a failure leaves neither.

  Args:
    path: see `shard_path`; an existing shard is replaced.
    records: iterable of bytes, e.g. of `clip_codec.encode`; consumed as it is written.

  Returns:
    Number of records written. None at all is allowed: small corpora leave shards empty.

  Raises:
    DataError: if a record is larger than 1 GiB.
  """
  table = array.array('q')

  def frames():
    offset = 0
    for number, data in enumerate(records):
      if len(data) > MAX_RECORD_BYTES:
        raise DataError(
          f'record {number} has {len(data)} bytes; the largest allowed is {MAX_RECORD_BYTES}',
          where=path,
          hint='Cut the clip into shorter ones.',
        )
      length = struct.pack('<Q', len(data))
      yield length + struct.pack('<I', _masked_crc(length))
      yield data
      yield struct.pack('<I', _masked_crc(data))
      table.extend((offset, len(data)))
      offset += _FRAME_BYTES + len(data)

  # The old index goes first: a stop in between must not leave it beside the new shard.
  if os.path.exists(_index_path(path)):
    os.remove(_index_path(path))
  size = storage.write_whole(path, frames())
  storage.write_whole(_index_path(path), _index_content(np.array(table, '<i8'), size))
  return len(table) // 2


def _index_content(table, shard_bytes):
  content = table.tobytes()
  yield _INDEX_HEADER.pack(_INDEX_MAGIC, len(table) // 2, shard_bytes, _masked_crc(content))
  yield content


def _index_path(path):
  return f'{path}.index'


def _masked_crc(data):
  """CRC-32C, rotated and offset as TFRecord wants it (tensorflow/core/lib/hash/crc32c.h)."""
  crc = google_crc32c.value(data)
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def finish_dataset(directory, info):
  """Counts the clips of all shards and writes `dataset_info.json`: the last step of a preparation.

  Args:
    directory: holds the shards that `write_shard` wrote, with names of `shard_path`.
    info: DatasetInfo; its `clips` are replaced by what the indexes say.

  Returns:
    The DatasetInfo with its `clips`.

  Raises:
    DataError: if there are no shards, some are missing or do not fit their index, or an earlier
      preparation with another number of shards left some behind.
  """
  found = collections.defaultdict(dict)  # split -> shards -> set of shard numbers
  for name in sorted(os.listdir(directory)):
    match = _SHARD.fullmatch(name)
    if match and match['corpus'] == info.corpus:
      found[match['split']].setdefault(int(match['shards']), set()).add(int(match['shard']))
  if not found:
    raise DataError(f'there are no shards of corpus {info.corpus!r}', where=directory)
  clips = {}
  for split, by_total in found.items():
    if len(by_total) > 1:
      raise DataError(
        f'split {split!r} has shards of {len(by_total)} preparations: '
        + ' and '.join(f'"of {total}"' for total in sorted(by_total)),
        where=directory,
        hint='Delete the older ones.',
      )
    ((total, _),) = by_total.items()
    paths = [shard_path(directory, info.corpus, split, i, total) for i in range(total)]
    clips[split] = tuple(len(table) for table in _load_tables(paths))
  info = dataclasses.replace(info, clips=clips)
  content = json.dumps(_info_to_json(info), indent=2, ensure_ascii=False)
  storage.write_whole(os.path.join(directory, INFO_NAME), [content.encode(), b'\n'])
  return info


def _info_to_json(info):
  splits = {
    split: {'clips': sum(counts), 'clips_per_shard': list(counts)}
    for split, counts in info.clips.items()
  }
  fields = {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}
  del fields['clips']
  return {'version': INFO_VERSION, **fields, 'splits': splits}


# --------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------


def read_info(directory):
  """Reads and checks `dataset_info.json`.

  Raises:
    DataError: if it is missing (the preparation did not finish), not JSON, of another version, or
      lacks a field.
  """
  path = os.path.join(directory, INFO_NAME)
  try:
    with open(path, encoding='utf-8') as file:
      content = json.load(file)
  except FileNotFoundError as error:
    raise DataError(
      f'there is no {INFO_NAME}',
      where=directory,
      hint='Check the directory; if its preparation was interrupted, run it again.',
    ) from error
  except OSError as error:
    raise DataError(f'cannot read {INFO_NAME}: {error.strerror}', where=path) from error
  except ValueError as error:
    raise DataError(f'{INFO_NAME} is not JSON: {error}', where=path) from error
  if not isinstance(content, dict) or 'version' not in content:
    raise DataError(f'{INFO_NAME} has no version', where=path)
  if content['version'] != INFO_VERSION:
    raise DataError(
      f'{INFO_NAME} has version {content["version"]!r}; this release reads version {INFO_VERSION}',
      where=path,
      hint='Install the tfg_jax that wrote it, or prepare the corpus again.',
    )

  def take(holder, name, kinds, accept=lambda value: True):
    value = holder.get(name) if isinstance(holder, dict) else None
    if not isinstance(value, kinds) or isinstance(value, bool) or not accept(value):
      raise DataError(f'{INFO_NAME} has {value!r} for {name!r}', where=path)
    return value

  def positive(value):
    return 0 < value < math.inf

  clips = {}
  for split, holder in take(content, 'splits', dict).items():
    counts = take(holder, 'clips_per_shard', list, bool)
    for count in counts:
      take({'clips_per_shard': count}, 'clips_per_shard', int, lambda value: value >= 0)
    if take(holder, 'clips', int) != sum(counts):
      raise DataError(
        f'split {split!r} has {holder["clips"]} clips, but its shards add up to {sum(counts)}',
        where=path,
      )
    clips[split] = tuple(counts)
  return DatasetInfo(
    corpus=take(content, 'corpus', str, _NAME.fullmatch),
    fps=float(take(content, 'fps', (int, float), positive)),
    height=take(content, 'height', int, positive),
    width=take(content, 'width', int, positive),
    sample_rate=take(content, 'sample_rate', int, positive),
    licence=take(content, 'licence', str),
    preparation=take(content, 'preparation', dict),
    tool=take(content, 'tool', str),
    clips=clips,
  )


class RecordSource:
  """The records of one split, by number: a random-access source for Grain.

  Threads may share one, and it can be pickled into worker processes.

  Opening reads the info file and the indexes only. A shard without index is scanned once, which
  gives the same table but reads every record's header; an index that does not fit its shard is an
  error, as one of them is not what was prepared. Shards are plain files: mount a bucket (Cloud
  Storage FUSE) to read from one.

  Args:
    directory: where `finish_dataset` has been.
    split: e.g. 'train'.

  Raises:
    DataError: if the corpus or one of its shards is missing, incomplete or damaged. Reading a
      record (`source[i]`) raises it too, with the shard, the record and its byte offset.
  """

  def __init__(self, directory, split):
    self.directory = os.fspath(directory)
    self.split = split
    self.info = read_info(self.directory)
    if split not in self.info.clips:
      raise DataError(
        f'corpus {self.info.corpus!r} has no split {split!r}',
        where=self.directory,
        hint=f'It has {", ".join(sorted(self.info.clips))}.',
      )
    counts = self.info.clips[split]
    self._paths = [
      shard_path(self.directory, self.info.corpus, split, i, len(counts))
      for i in range(len(counts))
    ]
    tables = _load_tables(self._paths)
    for path, table, count in zip(self._paths, tables, counts, strict=True):
      if len(table) != count:
        raise DataError(
          f'shard holds {len(table)} clips; {INFO_NAME} says {count}',
          where=path,
          hint='Shard and info file are from different preparations; prepare the split again.',
        )
    if not sum(counts):
      raise DataError(f'split {split!r} has no clips', where=self.directory)
    self._table = np.concatenate(tables)  # (N, 2): offset, length
    self._first = np.concatenate([[0], np.cumsum(counts)])  # number of each shard's first record
    self._open = _handle_cache()

  def __len__(self):
    return len(self._table)

  def __getitem__(self, number):
    """Returns the bytes of a record, for `clip_codec.decode`, after checking its checksums."""
    shard, record = self._position(number)
    offset, length = self._table[number].tolist()
    path = self._paths[shard]
    try:
      frame = self._open(path).read(_FRAME_BYTES + length, offset)
    except OSError as error:
      raise DataError(
        f'cannot read the shard: {error.strerror}', where=_place(path, record, offset)
      ) from error
    return _checked_data(frame, length, path, record, offset)

  def locate(self, number):
    """Where a record is, for error messages: file, number within the file, byte offset."""
    shard, record = self._position(number)
    return _place(self._paths[shard], record, self._table[number, 0])

  def __repr__(self):
    # The same on every machine and in every run: no paths.
    shards = len(self._paths)
    return f'RecordSource({self.info.corpus}, {self.split}, {len(self)} clips, {shards} shards)'

  def __getstate__(self):
    return {name: value for name, value in vars(self).items() if name != '_open'}

  def __setstate__(self, state):
    vars(self).update(state)
    self._open = _handle_cache()  # every process opens its own

  def _position(self, number):
    if not 0 <= number < len(self):
      raise IndexError(f'record {number} of {len(self)}')
    shard = int(np.searchsorted(self._first, number, side='right')) - 1
    return shard, number - int(self._first[shard])


class _Handle:
  """An open file that threads share, closed when the last of them is done with it."""

  def __init__(self, path):
    self._number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    weakref.finalize(self, os.close, self._number)

  def read(self, size, offset):
    return os.pread(self._number, size, offset)  # moves no shared position


def _handle_cache():
  return functools.lru_cache(maxsize=_OPEN_SHARDS)(_Handle)


def _place(path, record, offset):
  return f'{path}, record {record}, byte {offset}'


def _checked_data(frame, length, path, record, offset):
  """Returns the data of a TFRecord frame that should hold `length` bytes of it."""
  problem = None
  if len(frame) < _FRAME_BYTES + length:
    problem = f'record is cut off: {len(frame)} of {_FRAME_BYTES + length} bytes are there'
  elif _FRAME_HEADER.unpack_from(frame)[1] != _masked_crc(frame[:8]):
    problem = 'record is damaged: the checksum of its length is wrong'
  elif _FRAME_HEADER.unpack_from(frame)[0] != length:
    stated = _FRAME_HEADER.unpack_from(frame)[0]
    problem = f'record has {stated} bytes; the index says {length}'
  else:
    data = frame[_FRAME_HEADER.size : -4]
    if struct.unpack_from('<I', frame, len(frame) - 4)[0] == _masked_crc(data):
      return data
    problem = f'record is damaged: the checksum of its {length} bytes is wrong'
  raise DataError(problem, where=_place(path, record, offset), hint=_PREPARE_AGAIN)


def _load_tables(paths):
  """Returns the (N, 2) int64 table of offsets and lengths of each shard."""
  missing = [path for path in paths if not os.path.isfile(path)]
  if missing:
    more = f', and {len(missing) - 1} more' if len(missing) > 1 else ''
    raise DataError(
      f'shard {paths.index(missing[0])} of {len(paths)} is missing{more}',
      where=missing[0],
      hint='Copy it here, or prepare it again.',
    )
  return [_load_index(path) for path in paths]


def _load_index(path):
  shard_bytes = os.path.getsize(path)
  try:
    with open(_index_path(path), 'rb') as file:
      header = file.read(_INDEX_HEADER.size)
      if len(header) < _INDEX_HEADER.size or not header.startswith(_INDEX_MAGIC):
        raise _bad_index(path, 'is not an index of this release')
      _, count, expected_bytes, crc = _INDEX_HEADER.unpack(header)
      if os.path.getsize(file.name) != _INDEX_HEADER.size + 16 * count:
        raise _bad_index(path, f'has the wrong size for its {count} records')
      table = np.fromfile(file, '<i8')
  except FileNotFoundError:
    logging.warning('%s is missing; scanning the shard instead', _index_path(path))
    return _scan(path, shard_bytes)
  if _masked_crc(table.tobytes()) != crc:
    raise _bad_index(path, 'is damaged: its checksum is wrong')
  if expected_bytes != shard_bytes:
    raise _bad_index(
      path, f'belongs to a shard of {expected_bytes} bytes; this one has {shard_bytes}'
    )
  table = table.reshape(-1, 2).astype(np.int64, copy=False)
  offsets, lengths = table.T
  ends = offsets + _FRAME_BYTES + lengths
  contiguous = np.array_equal(offsets, np.concatenate([[0], ends])[: len(ends)])
  fits = ends[-1] == shard_bytes if count else shard_bytes == 0
  if not contiguous or not fits or np.any((lengths < 0) | (lengths > MAX_RECORD_BYTES)):
    raise _bad_index(path, 'holds impossible offsets')
  return table


def _bad_index(path, problem):
  return DataError(
    f'index {problem}',
    where=_index_path(path),
    hint='Delete the index to have the shard scanned; if that fails, prepare the shard again.',
  )


def _scan(path, shard_bytes):
  """Finds the records of a shard from their headers alone."""
  table = array.array('q')
  offset = 0
  handle = _Handle(path)
  while offset < shard_bytes:
    record = len(table) // 2
    header = handle.read(_FRAME_HEADER.size, offset)
    if len(header) < _FRAME_HEADER.size:
      problem = f'record is cut off: {len(header)} of {_FRAME_HEADER.size} header bytes are there'
      raise DataError(problem, where=_place(path, record, offset), hint=_PREPARE_AGAIN)
    length, crc = _FRAME_HEADER.unpack(header)
    if crc != _masked_crc(header[:8]):
      problem = 'record is damaged: the checksum of its length is wrong'
    elif length > MAX_RECORD_BYTES:
      problem = f'record says that it has {length} bytes; the largest allowed is {MAX_RECORD_BYTES}'
    elif offset + _FRAME_BYTES + length > shard_bytes:
      left = shard_bytes - offset
      problem = f'record is cut off: {left} of {_FRAME_BYTES + length} bytes are there'
    else:
      table.extend((offset, length))
      offset += _FRAME_BYTES + length
      continue
    raise DataError(problem, where=_place(path, record, offset), hint=_PREPARE_AGAIN)
  return np.array(table, np.int64).reshape(-1, 2)
