"""The preparation as a whole: the command, restarts, what is counted, several processes."""

import contextlib
import csv
import os
import pathlib
import signal
import subprocess
import sys
import threading

import clips
import pytest
from absl import flags
from corpus import whole_shards

from data_prep import clip_maker, listing, pipeline, prepare
from tfg_jax import errors
from tfg_jax.data import clip_codec, records

REPOSITORY = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
  """Twelve videos; of three more one is empty, one cut off, one without sound."""
  root = tmp_path_factory.mktemp('videos')
  for i in range(12):
    clips.write(root / f'clip{i:02d}.mp4', 10, size=(64, 64), audio=clips.tone(0.4))
  (root / 'clip03.txt').write_text('three', encoding='utf-8')
  for name in ('empty', 'short'):
    (root / f'{name}.txt').write_text('so that its header is not read before')
  (root / 'empty.mp4').touch()
  (root / 'short.mp4').write_bytes((root / 'clip00.mp4').read_bytes()[:2000])
  clips.write(root / 'silent.mp4', 10, size=(64, 64))
  return root


def job(videos, **framing):
  return prepare.make_job(
    'folder', str(videos), licence='mine', framing={'crop': 'face', 'size': 32, **framing}
  )


def run(videos, output, **settings):
  return pipeline.prepare(job(videos), str(output), **{'progress': False, **settings})


def read(directory, split):
  source = records.RecordSource(directory, split)
  return [clip_codec.decode(source[i]) for i in range(len(source))]


def drops_of(directory):
  with open(directory / pipeline.DROPS_FILE, encoding='utf-8', newline='') as file:
    return list(csv.DictReader(file))


def test_every_clip_becomes_a_record_or_a_drop(videos, tmp_path):
  report = run(videos, tmp_path)
  assert report.clips_in == 15 and sum(report.records.values()) == 12 and len(report.drops) == 3
  there = {clip.clip_id: clip for split in report.records for clip in read(tmp_path, split)}
  assert sorted(there) == [f'clip{i:02d}' for i in range(12)]
  assert there['clip03'].text == 'three' and len(there['clip03'].frames) == 10
  assert {row['clip']: row['reason'] for row in drops_of(tmp_path)} == {
    'empty': 'the file is empty',
    'short': 'this is not a media file that FFmpeg can read',
    'silent': 'the file has no audio stream',
  }
  text = (tmp_path / pipeline.REPORT_FILE).read_text()
  assert text.startswith('folder: 15 clips in = 12 records + 3 drops\n  records: ')
  assert '      1  the file is empty: empty\n' in text
  info = records.read_info(tmp_path)
  assert (info.licence, info.fps, info.width) == ('mine', 25, 32)
  assert info.preparation['crop'] == 'face' and info.preparation['valid_share'] == 0.05


def test_a_report_groups_drops_and_names_a_few():
  drops = [listing.Drop(f'c{i}', 'train', f'it has {i} frames instead of 29') for i in range(5)]
  drops.append(listing.Drop('d', 'test', 'no face was found'))
  report = pipeline.Report(
    'x', 16, {'train': 10}, drops, {'clips cut to --max_seconds': 2}, {'.txt': 3, '': 1}
  )
  assert str(report).splitlines() == [
    'x: 16 clips in = 10 records + 6 drops',
    '  records: train 10',
    '  drops (drops.csv names all of them):',
    '         5  it has … frames instead of …: c0, c1, c2, ...',
    '         1  no face was found: d',
    '  clips cut to --max_seconds: 2',
    '  other files: 1 without ending, 3 .txt',
  ]


def test_what_is_done_is_not_done_again(videos, tmp_path, monkeypatch):
  run(videos, tmp_path)
  before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob('*.tfrecord')}
  report = (tmp_path / pipeline.REPORT_FILE).read_text()
  lost = sorted(tmp_path.glob('*train*.tfrecord'))[:3]
  lost[0].unlink()
  lost[1].with_name(f'{lost[1].name}.index').unlink()
  journal = tmp_path / '.preparation' / f'{lost[2].name}.jsonl'
  journal.write_text('{"clip": "cut o')
  leftover = tmp_path / f'.{lost[0].name}.123.partial'
  leftover.touch()
  made = []
  make = clip_maker.make_clip
  monkeypatch.setattr(
    clip_maker, 'make_clip', lambda raw, framing: made.append(raw.clip_id) or make(raw, framing)
  )
  run(videos, tmp_path)
  after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob('*.tfrecord')}
  assert {name for name in before if before[name] != after[name]} == {path.name for path in lost}
  assert len(made) == 3 and (tmp_path / pipeline.REPORT_FILE).read_text() == report
  assert not leftover.exists()
  made.clear()
  run(videos, tmp_path)
  assert not made


def test_a_directory_keeps_to_its_corpus_and_settings(videos, tmp_path):
  run(videos, tmp_path)
  with pytest.raises(errors.DataError, match='holds another corpus: size 32 there, 48 here'):
    pipeline.prepare(job(videos, size=48), str(tmp_path), progress=False)
  (tmp_path / 'old').mkdir()
  (tmp_path / 'old' / 'x-train-00000-of-00001.tfrecord').touch()
  with pytest.raises(errors.DataError, match="holds another corpus: boxes|corpus 'unknown' there"):
    run(videos, tmp_path / 'old')
  (tmp_path / 'file').touch()
  with pytest.raises(errors.DataError, match='cannot use the output directory'):
    run(videos, tmp_path / 'file')


def test_shards_depend_on_the_clips_and_small_corpora_have_enough_of_them():
  def shards(count):
    raw = [listing.RawClip(clip_id=str(i), split='train', video='x') for i in range(count)]
    framing = listing.Framing(crop='face', size=32)
    return pipeline.plan(pipeline.Job('x', '', listing.Listing(raw), framing, {}), '/out')

  assert [len(shards(count)) for count in (1, 5, 16, 1024, 1025, 6400)] == [1, 5, 16, 16, 17, 100]
  lengths = [len(shard.clips) for shard in shards(1025)]
  assert sum(lengths) == 1025 and max(lengths) - min(lengths) <= 1
  assert shards(5)[4].path == '/out/x-train-00004-of-00005.tfrecord'


def test_an_unexpected_error_costs_one_clip_and_says_its_kind(videos, tmp_path, monkeypatch):
  make = clip_maker.make_clip

  def odd(raw, framing):
    if raw.clip_id == 'clip05':
      raise ZeroDivisionError('by nought')
    return make(raw, framing)

  monkeypatch.setattr(clip_maker, 'make_clip', odd)
  report = run(videos, tmp_path)
  assert 'unexpected ZeroDivisionError: by nought' in [drop.message for drop in report.drops]
  assert sum(report.records.values()) == 11


def test_nothing_to_prepare_and_nothing_usable_are_errors(videos, tmp_path, monkeypatch):
  nothing = listing.Listing([], [listing.Drop('a', 'train', 'it is empty')])
  empty = pipeline.Job('x', '', nothing, listing.Framing(crop='face', size=32), {})
  message = r"there are no clips to prepare; 1 are no use \['a: it is empty'\]"
  with pytest.raises(errors.ConfigError, match=message):
    pipeline.prepare(empty, str(tmp_path / 'a'))
  with pytest.raises(errors.ConfigError, match='--workers=0; expected at least 1'):
    run(videos, tmp_path / 'a', workers=0)

  def useless(raw, framing):
    raise errors.DataError('no')

  monkeypatch.setattr(clip_maker, 'make_clip', useless)
  message = r'(?s)no clip could be used. folder: 15 clips in = 0 records.*NOTE:.*15  no: '
  with pytest.raises(errors.DataError, match=message):
    run(videos, tmp_path / 'b')


def test_a_split_whose_clips_are_all_of_no_use_is_named_and_the_others_are_records(
  videos, tmp_path, monkeypatch
):
  make = clip_maker.make_clip

  def trainable(raw, framing):
    if raw.split != 'train':
      raise errors.DataError('no')
    return make(raw, framing)

  monkeypatch.setattr(clip_maker, 'make_clip', trainable)
  report = run(videos, tmp_path)
  assert report.records['test'] == report.records['valid'] == 0 < report.records['train']
  assert report.clips_in == sum(report.records.values()) + len(report.drops)
  assert '\n  NOTE: no clip could be used of test, valid\n' in str(report)
  assert len(read(tmp_path, 'train')) == report.records['train']


def test_journals_that_contradict_the_shards_are_an_error(videos, tmp_path):
  run(videos, tmp_path)
  journal = sorted(tmp_path.glob('.preparation/*test*.jsonl'))[0]
  journal.write_text('{"clip": "x", "message": "it was bad", "where": ""}\n')
  with pytest.raises(errors.DataError, match=r'15 clips in, but 12 records \+ 4 drops'):
    run(videos, tmp_path)


def test_a_missing_package_stops_the_run_before_it_begins(videos, tmp_path, monkeypatch):
  import importlib.util

  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(errors.MissingDependencyError, match='needs the package apache_beam'):
    run(videos, tmp_path)
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'mtcnn' else 1)
  with pytest.raises(errors.MissingDependencyError, match='needs the package mtcnn'):
    pipeline.prepare(job(videos, crop='track'), str(tmp_path))


def test_a_failing_runner_is_one_message(videos, tmp_path, monkeypatch):
  def fails(path, data):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(records, 'write_shard', fails)
  with pytest.raises(errors.DataError, match='the preparation stopped: .*No space left on device'):
    run(videos, tmp_path)


@pytest.mark.end_to_end
def test_another_runner_of_beam_makes_the_same_records(videos, tmp_path):
  run(videos, tmp_path / 'a')
  flags_of_beam = ['--runner=PortableRunner', '--job_endpoint=embed', '--environment_type=LOOPBACK']
  run(videos, tmp_path / 'b', beam_flags=flags_of_beam)
  names = sorted(path.name for path in (tmp_path / 'a').glob('*.tfrecord'))
  assert names
  for name in names:
    assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()


# --------------------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------------------


def call(*arguments):
  values = flags.FlagValues()
  prepare.define_flags(values)
  prepare.main(values(['prepare', *map(str, arguments)]), values)


def test_the_command_prints_what_became_of_the_clips(videos, tmp_path, capsys):
  call(
    '--corpus=folder', f'--input={videos}', f'--output={tmp_path}', '--licence=mine', '--crop=face',
    '--size=32', '--workers=1',
  )  # fmt: skip
  assert capsys.readouterr().out.startswith('folder: 15 clips in = 12 records + 3 drops\n')


def test_an_interruption_is_one_line_and_the_same_command_goes_on(
  videos, tmp_path, monkeypatch, capsys
):
  arguments = [
    '--corpus=folder', f'--input={videos}', f'--output={tmp_path}', '--licence=mine', '--crop=face',
    '--size=32', '--workers=1',
  ]  # fmt: skip
  make, made = clip_maker.make_clip, []

  def interrupted(raw, framing):
    if len(made) == 4:
      raise KeyboardInterrupt
    made.append(raw.clip_id)
    return make(raw, framing)

  monkeypatch.setattr(clip_maker, 'make_clip', interrupted)
  with pytest.raises(SystemExit) as stopped:
    call(*arguments)
  assert stopped.value.code == errors.EXIT_INTERRUPTED
  said = capsys.readouterr()
  assert 'Interrupted. The same command goes on' in said.err and 'Traceback' not in said.err
  assert said.out == ''
  monkeypatch.setattr(clip_maker, 'make_clip', make)
  done = {path: path.stat().st_mtime_ns for path in tmp_path.glob('*.index')}
  call(*arguments)
  assert capsys.readouterr().out.startswith('folder: 15 clips in = 12 records + 3 drops\n')
  assert done and all(path.stat().st_mtime_ns == before for path, before in done.items())


def test_what_a_corpus_needs_is_described(capsys):
  call('--describe=lrs2')
  assert capsys.readouterr().out.startswith('LRS2 (Afouras et al., 2018)')


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], '--corpus is missing'),
    (['--corpus=grid'], '--input is missing'),
    (['--corpus=grid', '--input=x'], '--output is missing'),
    (['--corpus=grid', '--input=x', '--output=y', 'z'], r"unexpected arguments \['z'\]"),
    (['--corpus=grim', '--input=x', '--output=y'], '--corpus=grim is not known'),
    (['--corpus=grid', '--input=/none', '--output=y'], '--input=/none is not a folder'),
    (['--corpus=folder', '--input=/', '--output=y'], '--licence is missing'),
    (['--corpus=grid', '--input=/', '--output=y', '--licence=z'], '--licence=z: grid has its own'),
    (['--corpus=lrw', '--input=/', '--output=y', '--seed=1'], '--seed is not for lrw(?s:.)*none'),
    (['--corpus=grid', '--input=/', '--output=y', '--seed=1'], '--seed is not for(?s:.)*split_by'),
    (['--corpus=grid', '--input=/', '--output=y', '--size=1'], '--size=1; expected 32 to 512'),
    (['--corpus=hq_voxceleb', '--input=/', '--output=y'], '--speech is missing'),
    (
      ['--corpus=hq_voxceleb', '--input=/', '--output=y', '--size=100'],
      r'--size=100; expected one of \(64, 128, 256\)',
    ),
  ],
)
def test_flags_that_cannot_be(arguments, message):
  with pytest.raises(errors.ConfigError, match=message):
    call(*arguments)


def test_flags_behind_two_dashes_are_beams(videos, tmp_path, monkeypatch):
  given = {}
  monkeypatch.setattr(pipeline, 'prepare', lambda job, output, **settings: given.update(settings))
  call(
    '--corpus=folder', f'--input={videos}', f'--output={tmp_path}', '--licence=mine', '--',
    '--runner=FlinkRunner', '--flink_master=host:8081',
  )  # fmt: skip
  assert given['beam_flags'] == ['--runner=FlinkRunner', '--flink_master=host:8081']


# --------------------------------------------------------------------------------------------------
# Several processes
# --------------------------------------------------------------------------------------------------


def start(videos, output):
  """The command in two processes, on videos long enough to be caught at work."""
  return subprocess.Popen(
    [
      sys.executable, '-m', 'data_prep.prepare', '--corpus=folder', f'--input={videos}',
      f'--output={output}', '--licence=mine', '--crop=face', '--size=512', '--workers=2',
    ],
    cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  )  # fmt: skip


def wait_until(condition):
  """Looks again until there is an answer; gives up after two minutes."""
  pause = threading.Event()
  for _ in range(1200):
    if answer := condition():
      return answer
    pause.wait(0.1)
  raise AssertionError('nothing happened')


def workers_of(process):
  """Process ids of Beam's workers: what the command started, or the shells that it started."""
  parents = {}
  for stat in pathlib.Path('/proc').glob('[0-9]*/stat'):
    with contextlib.suppress(OSError):
      parents[int(stat.parent.name)] = int(stat.read_text().rpartition(')')[2].split()[1])
  children = {one for one, parent in parents.items() if parent == process.pid}
  below = {one for one, parent in parents.items() if parent in children}
  shells = {parents[one] for one in below}
  return sorted(children - shells | below)


def at_work(output):
  return sum(len(path.read_text().splitlines()) for path in output.glob('.preparation/*.jsonl')) > 1


@pytest.fixture(scope='module')
def long_videos(tmp_path_factory):
  root = tmp_path_factory.mktemp('long')
  clips.write(root / '0.mp4', 400, size=(128, 128), audio=clips.tone(16))
  for i in range(1, 24):
    os.link(root / '0.mp4', root / f'{i}.mp4')
  return root


@pytest.mark.faults
@pytest.mark.skipif(not pathlib.Path('/proc/self/stat').exists(), reason='needs /proc')
@pytest.mark.parametrize('fate', ['a worker dies', 'interrupted', 'killed'])
def test_a_run_that_is_stopped_leaves_no_process_and_goes_on(long_videos, tmp_path, fate):
  process = start(long_videos, tmp_path)
  wait_until(lambda: at_work(tmp_path) or process.poll() is not None)
  workers = workers_of(process)
  assert len(workers) == 2, process.communicate()[1]
  if fate == 'a worker dies':
    os.kill(workers[0], signal.SIGKILL)
  else:
    process.send_signal(signal.SIGINT if fate == 'interrupted' else signal.SIGKILL)
  _, errors_printed = process.communicate(timeout=60)
  expected = {'a worker dies': 2, 'interrupted': errors.EXIT_INTERRUPTED, 'killed': -9}
  assert process.returncode == expected[fate], errors_printed
  if fate == 'a worker dies':
    assert 'DataError: a worker process died' in errors_printed
  wait_until(lambda: not any(pathlib.Path(f'/proc/{number}').exists() for number in workers))
  done = {path: path.stat().st_mtime_ns for path in tmp_path.glob('*.index')}
  assert whole_shards(tmp_path) >= len(done) and len(done) < 18
  again = start(long_videos, tmp_path)
  printed, errors_printed = again.communicate(timeout=300)
  assert again.returncode == 0, errors_printed
  assert printed.startswith('folder: 24 clips in = 24 records + 0 drops\n')
  hidden = [path.name for path in tmp_path.rglob('*') if 'partial' in path.name]
  assert not hidden and not list(tmp_path.glob('.preparation/running-*'))
  assert all(path.stat().st_mtime_ns == before for path, before in done.items())


@pytest.mark.end_to_end
def test_processes_make_the_same_records_as_one(videos, tmp_path):
  run(videos, tmp_path / 'a')
  run(videos, tmp_path / 'b', workers=2)
  for path in sorted((tmp_path / 'a').glob('*.tfrecord')):
    assert path.read_bytes() == (tmp_path / 'b' / path.name).read_bytes()
  assert (tmp_path / 'a' / 'report.txt').read_text() == (tmp_path / 'b' / 'report.txt').read_text()
