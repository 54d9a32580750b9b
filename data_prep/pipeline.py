"""All records of a corpus, as an Apache Beam pipeline that goes on after interruptions.

The unit of work is a shard: a worker makes its clips one after the other and the shard appears
under its name when it is whole. While it works it writes a journal, one line for each clip: kept,
or dropped and why. A shard with its index and a whole journal is not made again.

    OUTPUT/CORPUS-train-00003-of-00064.tfrecord (.index)
    OUTPUT/dataset_info.json          when all shards are there
    OUTPUT/drops.csv, report.txt      what was dropped and why; clips in = records + drops
    OUTPUT/.preparation/              settings and journals

Workers read the corpus and write the shards by their paths: on several machines both are on a disk
that all of them mount (NFS, Filestore, Cloud Storage FUSE).
"""

import collections
import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import logging
import os
import signal
import threading
from collections.abc import Sequence

from data_prep.listing import Drop, Framing, Listing, RawClip
from tfg_jax import storage
from tfg_jax.errors import ConfigError, DataError, MediaError, MissingDependencyError, TfgError

CLIPS_PER_SHARD = 64
MIN_SHARDS = 16  # of a split, so that small corpora keep several workers busy
DROPS_FILE = 'drops.csv'
REPORT_FILE = 'report.txt'
_STATE = '.preparation'
_SETTINGS = 'settings.json'
_POLL = 1.0  # seconds between two looks at the journals
_EXAMPLES = 3  # of dropped clips that the report names for each reason


@dataclasses.dataclass(frozen=True)
class Job:
  """A corpus to be prepared."""

  corpus: str
  licence: str
  listing: Listing
  framing: Framing
  settings: dict  # what else the records depend on; JSON values


@dataclasses.dataclass(frozen=True)
class Shard:
  """The work of one worker at a time."""

  path: str
  journal: str
  clips: tuple[RawClip, ...]
  framing: Framing


@dataclasses.dataclass(frozen=True)
class Report:
  """What became of the clips."""

  corpus: str
  clips_in: int
  records: dict[str, int]  # split -> number
  drops: Sequence[Drop]
  notes: dict[str, int]
  ignored: dict[str, int]

  def __str__(self):
    made = sum(self.records.values())
    splits = ', '.join(f'{split} {count}' for split, count in sorted(self.records.items()))
    lines = [
      f'{self.corpus}: {self.clips_in} clips in = {made} records + {len(self.drops)} drops',
      f'  records: {splits}',
    ]
    empty = ', '.join(split for split, count in sorted(self.records.items()) if not count)
    if empty:
      lines.append(f'  NOTE: no clip could be used of {empty}')
    reasons = collections.defaultdict(list)
    for drop in self.drops:
      reasons[drop.reason].append(drop.clip_id)
    if reasons:
      lines.append(f'  drops ({DROPS_FILE} names all of them):')
    for reason, names in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
      more = ', ...' if len(names) > _EXAMPLES else ''
      lines.append(f'    {len(names):6d}  {reason}: {", ".join(names[:_EXAMPLES])}{more}')
    lines += [f'  {what}: {count}' for what, count in sorted(self.notes.items())]
    if self.ignored:
      kinds = ', '.join(f'{count} {kind or "without ending"}' for kind, count in
                        sorted(self.ignored.items()))  # fmt: skip
      lines.append(f'  other files: {kinds}')
    return '\n'.join(lines)


def prepare(
  job: Job,
  directory: str,
  *,
  workers: int = 1,
  beam_flags: Sequence[str] = (),
  progress: bool = True,
) -> Report:
  """Makes the records of a corpus, or finishes what an interrupted run began.

  Args:
    job: what to make.
    directory: made if missing.
    workers: processes on this machine; 1 works in this one. Not used with a runner of one's own.
    beam_flags: Beam's options, e.g. ['--runner=FlinkRunner', '--flink_master=...'].
    progress: whether to show a bar on stderr.

  Raises:
    ConfigError: if there is nothing to prepare, or workers cannot be.
    DataError: if the directory holds something else, no clip can be used, or the runner fails.
    MissingDependencyError: without Beam, or without the face detector where it is needed.
  """
  from tfg_jax.data import records

  if workers < 1:
    raise ConfigError(f'--workers={workers}; expected at least 1')
  if not job.listing.clips:
    drops = [f'{drop.clip_id}: {drop.message}' for drop in job.listing.drops[:_EXAMPLES]]
    raise ConfigError(
      f'there are no clips to prepare; {len(job.listing.drops)} are no use {drops}',
      hint='check --corpus and --input',
    )
  _check_dependencies(job)
  info = _dataset_info(job)
  _claim(directory, info)
  shards = plan(job, directory)
  todo = [shard for shard in shards if not _is_whole(shard)]
  with _Progress(job.corpus, directory, shards, todo, shown=progress):
    _run(todo, directory, workers, beam_flags)
  info = records.finish_dataset(directory, info)
  _remove_leftovers(job.corpus, directory)
  report = _report(job, shards, info)
  _write(os.path.join(directory, DROPS_FILE), _drops_table(report.drops))
  _write(os.path.join(directory, REPORT_FILE), f'{report}\n')
  made = sum(report.records.values())
  if report.clips_in != made + len(report.drops):
    raise DataError(
      f'{report.clips_in} clips in, but {made} records + {len(report.drops)} drops',
      where=directory,
      hint='Delete the directory and prepare again.',
    )
  if not made:
    raise DataError(f'no clip could be used. {report}', where=os.path.join(directory, DROPS_FILE))
  return report


def plan(job: Job, directory: str) -> list[Shard]:
  """The shards of a job; they depend on the clips, not on the workers."""
  from tfg_jax.data import records

  splits = collections.defaultdict(list)
  for clip in job.listing.clips:
    splits[clip.split].append(clip)
  shards = []
  for split, clips in splits.items():
    count = min(len(clips), max(MIN_SHARDS, -(-len(clips) // CLIPS_PER_SHARD)))
    for i in range(count):
      path = records.shard_path(directory, job.corpus, split, i, count)
      journal = os.path.join(directory, _STATE, f'{os.path.basename(path)}.jsonl')
      own = clips[len(clips) * i // count : len(clips) * (i + 1) // count]
      shards.append(Shard(path, journal, tuple(own), job.framing))
  return shards


def make_shard(shard: Shard) -> collections.Counter:
  """Makes the clips of a shard and writes it with its journal; returns how many became what."""
  from data_prep import clip_maker
  from tfg_jax.data import clip_codec, records

  counts = collections.Counter()

  def encoded(journal):
    for raw in shard.clips:
      entry = {'clip': raw.clip_id}
      try:
        made = clip_maker.make_clip(raw, shard.framing)
        data = clip_codec.encode(made.clip)
        entry['notes'] = made.notes
      except (DataError, MediaError) as error:
        data, entry['message'], entry['where'] = None, error.what, error.where
      except TfgError:
        raise  # a package is missing: nothing would be made
      except Exception as error:  # one odd file must not end a run over a million
        data, entry['where'] = None, raw.video
        entry['message'] = f'unexpected {type(error).__name__}: {error}'
      journal.write(json.dumps(entry) + '\n')
      journal.flush()
      counts['dropped' if data is None else 'kept'] += 1
      if data is not None:
        yield data

  with open(shard.journal, 'w', encoding='utf-8') as journal:
    records.write_shard(shard.path, encoded(journal))
  return counts


def _is_whole(shard):
  if not (os.path.exists(shard.path) and os.path.exists(f'{shard.path}.index')):
    return False
  return len(_read_journal(shard.journal)) == len(shard.clips)


def _read_journal(path):
  """The entries of a journal; a last line that was not written to its end does not count."""
  if not os.path.exists(path):
    return []
  with open(path, encoding='utf-8') as file:
    return [json.loads(line) for line in file if line.endswith('\n')]


# --------------------------------------------------------------------------------------------------
# Running
# --------------------------------------------------------------------------------------------------


def _run(shards, directory, workers, beam_flags):
  """Runs the pipeline over the shards that are still to be made."""
  if not shards:
    return
  if workers == 1 and not beam_flags:  # Beam would take an interruption for a failure of a clip
    with _stops_readably(directory):
      for shard in shards:
        make_shard(shard)
    return
  import apache_beam as beam
  from apache_beam.options.pipeline_options import PipelineOptions
  from apache_beam.runners.portability.fn_api_runner import FnApiRunner

  from data_prep import beam_worker

  flags = list(beam_flags)
  with contextlib.ExitStack() as stack:
    if any(flag.startswith('--runner') for flag in flags):
      runner, command = None, None
    else:
      # Beam's direct runner. By that name it would look for a Go program on GitHub first (Prism).
      runner, command = FnApiRunner(), None
      mode = 'multi_processing' if workers > 1 else 'in_memory'
      flags += [f'--direct_running_mode={mode}']
      flags += [f'--direct_num_workers={min(workers, len(shards))}']
      flags += ['--default_sdk_harness_log_level=WARNING']
      logging.getLogger('apache_beam').setLevel(logging.WARNING)
      if workers > 1:
        command = os.getpid(), stack.enter_context(_watched_workers(directory))
    with (
      _stops_readably(directory),
      beam.Pipeline(runner, options=PipelineOptions(flags)) as pipeline,
    ):
      _ = (
        pipeline
        | 'Shards' >> beam.Create(shards, reshuffle=True)
        | 'Make' >> beam.ParDo(beam_worker.MakeShard(command))
      )


@contextlib.contextmanager
def _stops_readably(directory):
  """Makes a DataError of what a runner or the disk stops with."""
  try:
    yield
  except TfgError:
    raise
  except (RuntimeError, OSError, ValueError) as error:
    lines = [line for line in str(error).splitlines() if line.strip()]
    raise DataError(
      f'the preparation stopped: {lines[-1].strip() if lines else type(error).__name__}',
      where=directory,
      hint='Once its cause is gone the same command goes on; --workers=1 shows more of it.',
    ) from error


@contextlib.contextmanager
def _watched_workers(directory):
  """Ends all workers when one dies or the command is interrupted.

  Beam's direct runner waits for ever for a worker that is dead, and on an interruption until the
  others have made their shards.

  Yields:
    Path of a file; a worker ends when it is gone.

  Raises:
    DataError: if a worker died.
  """
  path = os.path.join(directory, _STATE, f'running-{os.getpid()}')
  with open(path, 'w', encoding='utf-8'):
    pass
  stopping, died = threading.Event(), []

  def stop():
    stopping.set()
    with contextlib.suppress(FileNotFoundError):
      os.remove(path)

  def on_thread_error(arguments):
    # Beam starts each worker from a thread of its own, which raises when the worker fails.
    if 'Worker subprocess' not in str(arguments.exc_value):
      thread_error(arguments)
    elif not stopping.is_set():
      died.append(str(arguments.exc_value))
      stop()
      # A real signal: it wakes the main thread where it waits.
      signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

  def on_interrupt(number, frame):
    stop()
    raise KeyboardInterrupt

  thread_error, threading.excepthook = threading.excepthook, on_thread_error
  interrupt = signal.signal(signal.SIGINT, on_interrupt)
  try:
    yield path
  except KeyboardInterrupt as error:
    if not died:
      raise
    raise DataError(
      f'a worker process died: {died[0]}',
      where=directory,
      hint='If memory is short give fewer --workers; the same command goes on.',
    ) from error
  finally:
    stop()
    signal.signal(signal.SIGINT, interrupt)
    threading.excepthook = thread_error


class _Progress:
  """A bar that follows the journals, as runners say nothing until they are done."""

  def __init__(self, name, directory, shards, todo, *, shown):
    from tqdm import tqdm

    self._folder = os.path.join(directory, _STATE)
    self._todo = {shard.journal: 0 for shard in todo}  # journal -> entries seen
    self._lengths = {shard.journal: len(shard.clips) for shard in todo}
    total = sum(len(shard.clips) for shard in shards)
    done = total - sum(self._lengths.values())
    self._bar = tqdm(
      total=total, initial=done, unit='clip', desc=name, disable=not shown, smoothing=0.05
    )
    self._dropped = 0
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._follow, daemon=True)

  def __enter__(self):
    for journal in self._todo:  # entries of an interrupted run would be counted twice
      if os.path.exists(journal):
        os.remove(journal)
    self._thread.start()

  def __exit__(self, *_):
    self._stop.set()
    self._thread.join()
    self._bar.close()

  def _follow(self):
    while not self._stop.wait(_POLL):
      self._look()
    self._look()

  def _look(self):
    there = set(os.listdir(self._folder))
    for journal, seen in list(self._todo.items()):
      if os.path.basename(journal) not in there:
        continue
      entries = _read_journal(journal)
      self._bar.update(len(entries) - seen)
      self._dropped += sum('message' in entry for entry in entries[seen:])
      if len(entries) == self._lengths[journal]:
        del self._todo[journal]
      else:
        self._todo[journal] = len(entries)
    self._bar.set_postfix(dropped=self._dropped)


# --------------------------------------------------------------------------------------------------
# Before and after
# --------------------------------------------------------------------------------------------------


def _check_dependencies(job):
  from importlib.util import find_spec

  from data_prep import clip_maker

  needed = ['apache_beam']
  if clip_maker.needs_faces(job.framing) and not all(clip.boxes for clip in job.listing.clips):
    needed += ['mtcnn', 'tensorflow']
  for name in needed:
    if find_spec(name) is None:
      raise MissingDependencyError(
        f'preparing {job.corpus} needs the package {name}', hint="pip install 'tfg_jax[prep]'"
      )


def _dataset_info(job):
  from tfg_jax.data import records

  names = '\n'.join(f'{clip.split}/{clip.clip_id}' for clip in job.listing.clips)
  framing = job.framing
  return records.DatasetInfo(
    corpus=job.corpus,
    fps=float(framing.fps),
    height=framing.size,
    width=framing.size,
    sample_rate=16_000,
    licence=job.licence,
    preparation={
      **dataclasses.asdict(framing),
      **job.settings,
      **job.listing.facts,
      'clips': len(job.listing.clips) + len(job.listing.drops),
      'listing': hashlib.sha256(names.encode(errors='replace')).hexdigest()[:16],
    },
  )


def _claim(directory, info):
  """Makes the directory this run's own, or finds that it already is."""
  from tfg_jax.data import records

  wanted = json.loads(json.dumps({'corpus': info.corpus, **info.preparation}))
  settings = os.path.join(directory, _STATE, _SETTINGS)
  try:
    os.makedirs(os.path.dirname(settings), exist_ok=True)
    if os.path.exists(settings):
      with open(settings, encoding='utf-8') as file:
        earlier = json.load(file)
    elif os.path.exists(os.path.join(directory, records.INFO_NAME)):
      old = records.read_info(directory)
      earlier = {'corpus': old.corpus, **old.preparation}
    elif any(name.endswith('.tfrecord') for name in os.listdir(directory)):
      earlier = {'corpus': 'unknown'}
    else:
      earlier = wanted
    if earlier == wanted:
      _write(settings, json.dumps(wanted))
  except (OSError, ValueError) as error:
    raise DataError(
      f'cannot use the output directory: {error}',
      where=directory,
      hint='name another --output, or allow writing there.',
    ) from error
  if earlier != wanted:
    names = sorted(k for k in {*earlier, *wanted} if earlier.get(k) != wanted.get(k))
    changes = ', '.join(f'{k} {earlier.get(k)!r} there, {wanted.get(k)!r} here' for k in names)
    raise DataError(
      f'directory holds another corpus: {changes}',
      where=directory,
      hint='Give another --output, or delete the directory.',
    )


def _remove_leftovers(corpus, directory):
  """Removes what processes that were killed had begun."""
  for folder, start in ((directory, f'.{corpus}-'), (os.path.join(directory, _STATE), 'running-')):
    for name in os.listdir(folder):
      if name.startswith(start):
        os.remove(os.path.join(folder, name))


def _report(job, shards, info):
  drops, notes = list(job.listing.drops), collections.Counter()
  for shard in shards:
    for raw, entry in zip(shard.clips, _read_journal(shard.journal), strict=True):
      notes.update(entry.get('notes', {}))
      if 'message' in entry:
        drops.append(Drop(raw.clip_id, raw.split, entry['message'], entry['where']))
  return Report(
    job.corpus,
    len(job.listing.clips) + len(job.listing.drops),
    {split: sum(counts) for split, counts in info.clips.items()},
    drops,
    dict(notes),
    job.listing.ignored,
  )


def _drops_table(drops):
  file = io.StringIO()
  table = csv.writer(file, lineterminator='\n')
  table.writerow(['clip', 'split', 'reason', 'message', 'where'])
  for drop in drops:
    table.writerow([drop.clip_id, drop.split, drop.reason, drop.message, drop.where])
  return file.getvalue()


def _write(path, text):
  """Writes a file that is whole or absent, whatever characters names in it have."""
  storage.write_whole(path, [text.encode('utf-8', 'backslashreplace')])
