r"""Makes the puppet corpus: drawn faces that speak, free of any licence, with full ground truth.

python -m data_prep.puppet --output=/tmp/puppets --clips=2000 --seed=0

The speech comes from espeak-ng, which is GPL-3 and is installed only by the extra `puppet` (or
`demo`); what it says is ours. Each puppet has a face and a voice that go together
(puppets/identity.py), moods that show and sound, and a mouth that follows the phonemes as loosely
as people's mouths do (--variability). puppets/clip.py lists what a record holds.

A clip depends on the seed, its number and the settings, not on the number of clips, shards or
workers. An interrupted run goes on where it was: shards that are whole are not made again.
"""

import concurrent.futures
import dataclasses
import functools
import importlib.metadata
import json
import multiprocessing
import os
import signal
import sys
import threading

from absl import app, flags

from tfg_jax import errors
from tfg_jax.errors import ConfigError, DataError

CORPUS = 'puppet'
LICENCE = 'CC0-1.0: drawn and synthesised, free for any use'

_STARTED = '.preparation.json'  # the settings of a run that has not finished
_CLIPS_PER_SHARD = 64
_MAX_SHARDS = 1024


@dataclasses.dataclass(frozen=True)
class _Shard:
  path: str
  numbers: tuple[int, ...]  # of its clips


def make_corpus(directory, settings, clips, *, shards=None, workers=1, progress=True):
  """Writes a puppet corpus, or finishes one that was interrupted.

  Args:
    directory: made if missing.
    settings: puppets.clip.Settings.
    clips: number of clips, all splits together.
    shards: of the training split; None is one for 64 clips. Other splits have their share of it.
    workers: processes; 1 works in this one.
    progress: whether to show a bar on stderr.

  Returns:
    records.DatasetInfo.

  Raises:
    ConfigError: for settings that cannot work.
    DataError: if the directory holds something else, or a text does not fit the frames.
    MissingDependencyError: without espeakng-loader.
  """
  from data_prep.puppets import voice
  from data_prep.puppets.clip import FPS
  from tfg_jax.data import records

  _check(settings, clips, shards, workers)
  plan = _plan(directory, settings, clips, shards)
  preparation = _preparation(settings, clips, sum(len(paths) for paths in plan.values()))
  _claim(directory, preparation)
  todo = [shard for paths in plan.values() for shard in paths if not _is_whole(shard.path)]
  _make_shards(todo, settings, clips, min(workers, len(todo)), progress)
  info = records.finish_dataset(
    directory,
    records.DatasetInfo(
      corpus=CORPUS,
      fps=float(FPS),
      height=settings.size,
      width=settings.size,
      sample_rate=voice.SAMPLE_RATE,
      licence=LICENCE,
      preparation=preparation,
    ),
  )
  for name in os.listdir(directory):
    # The second: shards that a killed run was writing.
    if name == _STARTED or (name.startswith(f'.{CORPUS}-') and name.endswith('.partial')):
      os.remove(os.path.join(directory, name))
  return info


def _check(settings, clips, shards, workers):
  evaluations = len(settings.splits) - 1
  for flag, value, accepted, expected in (
    ('clips', clips, clips >= 1, 'at least 1'),
    ('seed', settings.seed, settings.seed >= 0, 'at least 0'),
    ('size', settings.size, 32 <= settings.size <= 1024, '32 to 1024 pixels'),
    ('identities', settings.identities, settings.identities >= 1, 'at least 1'),
    (
      'unseen_identities',
      settings.unseen_identities,
      0 <= settings.unseen_identities < settings.identities,
      f'0 to {settings.identities - 1}, fewer than --identities',
    ),
    ('frames', settings.frames, settings.frames >= 1, 'at least 1'),
    ('variability', settings.variability, 0 <= settings.variability <= 1.5, '0 to 1.5'),
    ('sway', settings.sway, 0 <= settings.sway <= 1.5, '0 to 1.5'),
    (
      'eval_fraction',
      settings.eval_fraction,
      0 <= settings.eval_fraction * evaluations < 1,
      f'0 to below {1 / evaluations:.2f}, so that clips are left to train on',
    ),
    ('shards', shards, shards is None or 1 <= shards <= 99_999, '1 to 99999'),
    ('workers', workers, workers >= 1, 'at least 1'),
  ):
    if not accepted:
      raise ConfigError(f'--{flag}={value}; expected {expected}')
  if settings.unseen_identities and not settings.eval_fraction:
    raise ConfigError(
      f'--unseen_identities={settings.unseen_identities} have no clips at --eval_fraction=0',
      hint='Give a fraction above 0, or hold nobody out.',
    )
  if settings.words and settings.mode == 'grammar':
    raise ConfigError(
      'mode grammar has its own 51 words and no use for a word list',
      hint='Give --mode=words or --mode=sentences with --words_file.',
    )


def _plan(directory, settings, clips, shards):
  """Split -> its shards with the numbers of their clips."""
  from data_prep.puppets.clip import split_of
  from tfg_jax.data import records

  splits = settings.splits if settings.eval_fraction else ('train',)
  numbers = {split: [] for split in splits}
  for number in range(clips):
    numbers[split_of(settings, number)].append(number)
  for split, own in numbers.items():
    if not own:
      raise ConfigError(
        f'--clips={clips} at --eval_fraction={settings.eval_fraction} leaves split {split!r} empty',
        hint='Make more clips, or give --eval_fraction=0 for training clips only.',
      )
  if shards is None:
    shards = min(-(-len(numbers['train']) // _CLIPS_PER_SHARD), _MAX_SHARDS)
  plan = {}
  for split, own in numbers.items():
    count = max(1, round(shards * len(own) / len(numbers['train'])))
    plan[split] = [
      _Shard(
        records.shard_path(directory, CORPUS, split, i, count),
        tuple(own[len(own) * i // count : len(own) * (i + 1) // count]),
      )
      for i in range(count)
    ]
  return plan


def _preparation(settings, clips, shards):
  """What the files depend on, as JSON values."""
  from data_prep.puppets.script import WORDS

  fields = dataclasses.asdict(settings)
  fields['words'] = list(settings.words or WORDS) if settings.mode != 'grammar' else []
  try:
    synthesiser = f'espeakng-loader {importlib.metadata.version("espeakng-loader")}'
  except importlib.metadata.PackageNotFoundError:
    synthesiser = ''  # speaking will say what to install
  return {**fields, 'clips': clips, 'shards': shards, 'synthesiser': synthesiser}


def _claim(directory, preparation):
  """Makes the directory this run's own, or finds that it already is."""
  from tfg_jax.data import records

  try:
    os.makedirs(directory, exist_ok=True)
    started = os.path.join(directory, _STARTED)
    if os.path.exists(os.path.join(directory, records.INFO_NAME)):
      info = records.read_info(directory)
      earlier = info.preparation if info.corpus == CORPUS else {'corpus': info.corpus}
    elif os.path.exists(started):
      with open(started, encoding='utf-8') as file:
        earlier = json.load(file)
    elif any(name.endswith('.tfrecord') for name in os.listdir(directory)):
      earlier = {'corpus': 'unknown'}
    else:
      earlier = preparation
      temporary = started + '.partial'
      with open(temporary, 'w', encoding='utf-8') as file:
        json.dump(preparation, file)
      os.replace(temporary, started)
  except (OSError, ValueError) as error:
    raise DataError(
      f'cannot use the output directory: {error}',
      where=directory,
      hint='name another --output, or allow writing there.',
    ) from error
  if earlier != preparation:
    names = sorted(k for k in {*earlier, *preparation} if earlier.get(k) != preparation.get(k))
    changes = ', '.join(
      f'{name} {_short(earlier.get(name))} there, {_short(preparation.get(name))} here'
      for name in names
      if 'corpus' not in earlier
    )
    raise DataError(
      f'directory holds another corpus: {changes or earlier["corpus"]}',
      where=directory,
      hint='Give another --output, or delete the directory.',
    )


def _short(value):
  return f'list of {len(value)}' if isinstance(value, list) else repr(value)


def _is_whole(path):
  return os.path.exists(path) and os.path.exists(path + '.index')


def _make_shards(shards, settings, clips, workers, progress):
  from tqdm import tqdm

  left = sum(len(shard.numbers) for shard in shards)
  with tqdm(
    total=clips, initial=clips - left, unit='clip', desc='puppets', disable=not progress
  ) as bar:
    if workers <= 1:
      for shard in shards:
        _make_shard(shard, settings, bar.update)
      return
    # Spawned, not forked: the caller may hold the threads of JAX or TensorFlow.
    context = multiprocessing.get_context('spawn')
    done, stop = context.Value('q', 0), context.Event()
    pool = concurrent.futures.ProcessPoolExecutor(
      workers, mp_context=context, initializer=_start_worker, initargs=(done, stop)
    )
    try:
      # A terminal sends Ctrl-C to the workers too. They are born deaf to it, so that it finds none
      # of them half started, and hear of it by `stop`.
      signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
      try:
        waiting = {pool.submit(_make_shard_in_worker, shard, settings) for shard in shards}
      finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
      while waiting:
        finished, waiting = concurrent.futures.wait(
          waiting, timeout=0.2, return_when=concurrent.futures.FIRST_EXCEPTION
        )
        for future in finished:
          future.result()
        bar.update(clips - left + done.value - bar.n)
    finally:
      stop.set()
      pool.shutdown(cancel_futures=True)


_done = None  # of a worker: number of clips that all workers have made
_stop = None  # of a worker: set when the command is interrupted or another worker has failed


def _start_worker(done, stop):
  """Prepares a worker process."""
  import cv2

  global _done, _stop
  _done, _stop = done, stop
  cv2.setNumThreads(1)  # the processes share the cores already
  # Workers of a parent that was killed would wait for work for ever.
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
  multiprocessing.parent_process().join()
  os._exit(1)


def _make_shard_in_worker(shard, settings):
  def count(number):
    with _done.get_lock():
      _done.value += number
    if _stop.is_set():
      raise KeyboardInterrupt

  _make_shard(shard, settings, count)


def _make_shard(shard, settings, count):
  from data_prep.puppets.clip import make_clip
  from tfg_jax.data import clip_codec, records

  def encoded():
    for number in shard.numbers:
      yield clip_codec.encode(make_clip(settings, number))
      count(1)

  records.write_shard(shard.path, encoded())


def define_flags(values=flags.FLAGS):
  """Defines the flags; other commands have an --output too, so importing this does not."""
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  whole = functools.partial(flags.DEFINE_integer, flag_values=values)
  real = functools.partial(flags.DEFINE_float, flag_values=values)
  text('output', None, 'Directory to write the corpus to.')
  whole('clips', 2000, 'Number of clips, all splits together.')
  whole('seed', 0, 'Another seed is another cast saying other things.')
  whole('size', 96, 'Width and height of the frames, pixels.')
  whole('identities', 24, 'Number of puppets.')
  whole(
    'unseen_identities', 0, 'Puppets, out of --identities, that appear in split test_unseen only.'
  )
  flags.DEFINE_enum(
    'mode',
    'grammar',
    ['grammar', 'words', 'sentences'],
    'grammar: six words of a 51-word grammar, as in GRID. words: a target word in a carrier, as in '
    'LRW. sentences: random words.',
    flag_values=values,
  )
  text('words_file', None, 'Word list for words and sentences, one a line; default built in.')
  whole('frames', 75, 'Frames of a clip, at 25 per second.')
  real('variability', 1.0, 'How loosely lips follow the sound: 0 not at all, 1 as people do.')
  real('sway', 1.0, 'How far heads move while they speak: 0 not at all, 1 as people do.')
  real('eval_fraction', 0.05, 'Share of the clips in each of valid, test and test_unseen.')
  whole('shards', None, f'Shards of the training split; default one for {_CLIPS_PER_SHARD} clips.')
  whole('workers', None, 'Processes; default one for each core.')


def main(argv, values=flags.FLAGS):
  errors.check_arguments(argv, values, 'output')
  from data_prep.puppets.clip import Settings
  from data_prep.puppets.script import read_words

  names = [field.name for field in dataclasses.fields(Settings) if field.name != 'words']
  words = read_words(values.words_file) if values.words_file else ()
  settings = Settings(words=words, **{name: values[name].value for name in names})
  workers = os.cpu_count() if values.workers is None else values.workers
  try:
    info = make_corpus(values.output, settings, values.clips, shards=values.shards, workers=workers)
  except KeyboardInterrupt:
    print('Interrupted. The same command goes on from the last whole shard.', file=sys.stderr)
    sys.exit(errors.EXIT_INTERRUPTED)
  counts = ', '.join(f'{split} {sum(shards)}' for split, shards in sorted(info.clips.items()))
  print(f'{values.output}: {counts} clips')


if __name__ == '__main__':
  define_flags()
  app.run(errors.exit_on_expected_failure(main), flags_parser=errors.parse_flags)
