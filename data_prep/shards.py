"""Writes the clips of a corpus as shards, in several processes; goes on after interruptions."""

import concurrent.futures
import json
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfg_jax.errors import ConfigError, DataError, MediaError

CLIPS_PER_SHARD = 64
SKIPPED_FILE = 'skipped.jsonl'  # clips that could not be used, with the reason
_STARTED = '.preparation.json'  # the settings of a run that has not finished


def write_corpus(
  directory,
  info,
  splits: Mapping[str, Sequence[Any]],
  make_clip: Callable[[Any], Any],
  *,
  workers: int = 1,
  progress: bool = True,
):
  """Writes a corpus; shards that an interrupted run finished are kept.

  Args:
    directory: made if missing.
    info: `records.DatasetInfo` without counts; its `preparation` decides whether what is there
      belongs to this run.
    splits: split -> its sources, in order.
    make_clip: source -> `records.Clip`; DataError and MediaError leave the clip out and are listed
      in `skipped.jsonl`. Both must be picklable where there are several workers.
    workers: processes; 1 works in this one.
    progress: whether to show a bar on stderr.

  Returns:
    (DatasetInfo with counts, number of clips left out).

  Raises:
    ConfigError: if there is nothing to prepare.
    DataError: if the directory holds something else, or no clip of a split could be used.
  """
  from tqdm import tqdm

  from tfg_jax.data import records

  empty = [split for split, sources in splits.items() if not sources]
  if empty:
    raise ConfigError(f'split {empty[0]!r} would have no clips', hint='check --input and the split')
  _claim(directory, info)
  todo = []
  for split, sources in splits.items():
    count = -(-len(sources) // CLIPS_PER_SHARD)
    for i in range(count):
      path = records.shard_path(directory, info.corpus, split, i, count)
      if not (os.path.exists(path) and os.path.exists(f'{path}.index')):
        own = sources[len(sources) * i // count : len(sources) * (i + 1) // count]
        todo.append((path, own, make_clip))
  skipped = os.path.join(directory, SKIPPED_FILE)
  total = sum(len(own) for _, own, _ in todo)
  with tqdm(total=total, unit='clip', desc=info.corpus, disable=not progress) as bar:
    for count, problems in _run(todo, workers):
      bar.update(count)
      with open(skipped, 'a', encoding='utf-8') as file:
        file.writelines(json.dumps(problem) + '\n' for problem in problems)
  info = records.finish_dataset(directory, info)
  os.remove(os.path.join(directory, _STARTED))
  left_out = 0
  if os.path.exists(skipped):
    with open(skipped, encoding='utf-8') as file:
      left_out = len({json.loads(line)['clip'] for line in file})
  for split, counts in info.clips.items():
    if not sum(counts):
      raise DataError(f'no clip of split {split!r} could be used', where=skipped)
  return info, left_out


def summary(directory, info, left_out: int, *, unit: str = 'clips') -> str:
  """What `write_corpus` made, in a line for people."""
  counts = ', '.join(f'{split} {sum(number)}' for split, number in sorted(info.clips.items()))
  return f'{directory}: {counts} {unit}; {left_out} left out ({SKIPPED_FILE} says why)'


def _run(todo, workers):
  if workers <= 1:
    yield from map(_make_shard, todo)
    return
  # Spawned, not forked: the caller may hold the threads of JAX or TensorFlow.
  context = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
    yield from pool.map(_make_shard, todo)


def _make_shard(task):
  """Writes one shard; returns the number of its sources and what was wrong with some."""
  from tfg_jax.data import records

  path, sources, make_clip = task
  problems = []

  def encoded():
    for source in sources:
      try:
        yield records.encode_clip(make_clip(source))
      except (DataError, MediaError) as error:
        problems.append({'clip': str(source), 'problem': str(error)})

  records.write_shard(path, encoded())
  return len(sources), problems


def _claim(directory, info):
  """Makes the directory this run's own, or finds that it already is."""
  from tfg_jax.data import records

  wanted = json.loads(json.dumps({'corpus': info.corpus, **info.preparation}))
  started = os.path.join(directory, _STARTED)
  try:
    os.makedirs(directory, exist_ok=True)
    if os.path.exists(started):
      with open(started, encoding='utf-8') as file:
        earlier = json.load(file)
    elif os.path.exists(os.path.join(directory, records.INFO_NAME)):
      old = records.read_info(directory)
      earlier = {'corpus': old.corpus, **old.preparation}
    elif any(name.endswith('.tfrecord') for name in os.listdir(directory)):
      earlier = {'corpus': 'unknown'}
    else:
      earlier = wanted
    if earlier == wanted:
      with open(started, 'w', encoding='utf-8') as file:
        json.dump(wanted, file)
  except (OSError, ValueError) as error:
    raise DataError(f'cannot use the output directory: {error}', where=directory) from error
  if earlier != wanted:
    names = sorted(k for k in {*earlier, *wanted} if earlier.get(k) != wanted.get(k))
    changes = ', '.join(f'{k} {earlier.get(k)!r} there, {wanted.get(k)!r} here' for k in names)
    raise DataError(
      f'directory holds another corpus: {changes}',
      where=directory,
      hint='Give another --output, or delete the directory.',
    )
