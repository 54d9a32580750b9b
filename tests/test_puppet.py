"""The puppet corpus: its clips, its shards and the command."""

import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from corpus import whole_shards

from data_prep import puppet
from data_prep.puppets import clip
from tfg_jax.data import clip_codec, records
from tfg_jax.errors import ConfigError, DataError

SMALL = clip.Settings(seed=3, size=32, identities=3, frames=50, eval_fraction=0.2)
CLIPS = 8
ROOT = os.path.dirname(os.path.dirname(puppet.__file__))
SLOW = ('--clips=24', '--shards=4', '--size=32', '--eval_fraction=0', '--workers=2')


@pytest.fixture(scope='module')
def clips():
  return [clip.make_clip(SMALL, number) for number in range(CLIPS)]


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  """A corpus made in this process, with one shard for each split."""
  directory = str(tmp_path_factory.mktemp('puppets'))
  puppet.make_corpus(directory, SMALL, CLIPS, shards=1, workers=1, progress=False)
  return directory


def read(directory, split):
  source = records.RecordSource(directory, split)
  return [clip_codec.decode(source[i]) for i in range(len(source))]


def read_all(directory):
  """clip_id -> serialised clip, over all splits."""
  splits = records.read_info(directory).clips
  found = [record for split in splits for record in read(directory, split)]
  return {record.clip_id: clip_codec.encode(record) for record in found}


# --------------------------------------------------------------------------------------------------
# Clips
# --------------------------------------------------------------------------------------------------


def test_a_clip_depends_on_its_number_only(clips):
  again = clip.make_clip(SMALL, 5)
  assert clip_codec.encode(again) == clip_codec.encode(clips[5])
  assert len({record.wav.tobytes() for record in clips}) == CLIPS
  assert len({b''.join(record.frames) for record in clips}) == CLIPS


def test_clips_have_their_lengths_and_levels(clips):
  for record in clips:
    assert len(record.frames) == len(record.boxes) == 50
    assert record.wav.dtype == np.int16
    assert len(record.wav) == 50 * 640
    wave = record.wav / 32768
    assert np.abs(wave).max() < 0.96
    assert -36 < 20 * np.log10(np.sqrt(np.mean(wave**2))) < -17


def test_mouths_are_closed_in_the_silence_around_speech(clips):
  for record in clips:
    mouth = record.extras['mouth'].reshape(50, 8)
    assert np.abs(mouth[[0, -1], :7]).max() < 1e-6
    assert mouth[:, 0].max() > 0.15
    quiet = np.concatenate([record.wav[:1600], record.wav[-1600:]]) / 32768
    assert np.sqrt(np.mean(quiet**2)) < 0.0015


def test_mouths_open_with_the_sound():
  opening, level = [], []
  for number in range(4):
    record = clip.make_clip(SMALL, number)
    opening.append(record.extras['mouth'].reshape(50, 8)[:, 0])
    frames = record.wav.reshape(50, 640) / 32768
    level.append(np.log(1e-3 + np.sqrt(np.mean(frames**2, axis=1))))

  def match(lag):
    pairs = zip(opening, level, strict=True)
    return np.mean([np.corrcoef(np.roll(o, lag), e)[0, 1] for o, e in pairs])

  matches = {lag: match(lag) for lag in range(-5, 6)}
  assert abs(max(matches, key=matches.get)) <= 1
  assert matches[0] > 0.6
  assert matches[0] > matches[5] + 0.15
  assert matches[0] > matches[-5] + 0.15


def test_the_ground_truth_fits_together(clips):
  for record in clips:
    extras = record.extras
    times = extras['phoneme_times'].reshape(-1, 2)
    words = extras['word_times'].reshape(-1, 2)
    assert len(times) == len(extras['phonemes']) == len(extras['visemes'])
    assert len(words) == len(record.text.split())
    assert times[0, 0] > 0.15
    assert times[-1, 1] < 2 - 0.15
    assert words[0, 0] < words[-1, 1] <= times[-1, 1] + 1e-6
    assert np.abs(extras['viseme_times'].reshape(-1, 2) - times).max() <= 0.0701 + 1e-6
    assert record.boxes.min() >= 0
    assert record.boxes.max() <= 32
    assert extras['pose'].size == 5 * 50
    centre = extras['mouth_centre'].reshape(-1, 2)
    assert (record.boxes[:, :2] < centre).all()
    assert (centre < record.boxes[:, 2:]).all()
    assert record.speaker == f'puppet{int(extras["identity"][0]):03d}'
    portrait = cv2.imdecode(np.frombuffer(extras['portrait'][0], np.uint8), cv2.IMREAD_COLOR)
    assert portrait.shape == (32, 32, 3)
    assert b'=' in extras['attributes'][0]


def test_without_variability_lips_follow_the_sound_exactly():
  still = clip.make_clip(clip.Settings(seed=3, size=32, frames=60, variability=0), 1)
  assert still.extras['amplitude'][0] == 1
  np.testing.assert_array_equal(still.extras['viseme_times'], still.extras['phoneme_times'])
  loose = [clip.make_clip(SMALL, number).extras for number in range(3)]
  assert len({float(extras['amplitude'][0]) for extras in loose}) == 3
  assert all(0.35 <= extras['amplitude'][0] <= 1.15 for extras in loose)


@pytest.mark.parametrize(
  ('mode', 'frames', 'words'),
  [('grammar', 40, ()), ('words', 29, ()), ('words', 20, ('beautiful',)), ('sentences', 29, ())],
)
def test_text_fits_the_frames(mode, frames, words):
  for number in range(3):
    case = clip.Settings(seed=1, size=32, mode=mode, frames=frames, words=words)
    record = clip.make_clip(case, number)
    times = record.extras['word_times'].reshape(-1, 2)
    assert times.min() >= 0.15
    assert times.max() <= frames / 25 - 0.15
    assert (mode == 'words') == bool(record.word)
    if record.word:
      start, end = record.extras['word_frames']
      a, b = times[record.text.split().index(record.word)]
      assert start <= a * 25 < start + 1
      assert end - 1 < b * 25 <= end


def test_the_target_is_in_the_middle_unless_its_carrier_does_not_fit_so():
  middles = []
  for number in range(12):
    record = clip.make_clip(clip.Settings(seed=1, size=32, mode='words', frames=60), number)
    times = record.extras['word_times'].reshape(-1, 2)
    middle = times[record.text.split().index(record.word)].mean()
    middles.append(middle)
    # What is left of the clip on the side where the carrier is longer.
    spare = min(times.min(), 2.4 - times.max()) - 0.16
    assert abs(middle - 1.2) < 1e-6 or spare == pytest.approx(0, abs=1e-6)
  assert np.median(np.abs(np.array(middles) - 1.2)) < 0.04


def test_long_enough_frames_get_a_carrier():
  record = clip.make_clip(clip.Settings(seed=1, size=32, mode='words'), 0)
  assert len(record.text.split()) == 4


def test_text_that_cannot_fit_is_refused():
  with pytest.raises(
    DataError, match=r'takes .* s at 450 words per minute; 12 frames leave 0\.16 s'
  ):
    clip.make_clip(clip.Settings(frames=12), 0)


# --------------------------------------------------------------------------------------------------
# The corpus
# --------------------------------------------------------------------------------------------------


def test_splits_hold_every_clip_once_and_unseen_puppets_apart():
  case = clip.Settings(identities=6, unseen_identities=2, eval_fraction=0.1)
  splits = [clip.split_of(case, number) for number in range(1000)]
  for split in ('valid', 'test', 'test_unseen'):
    assert 97 <= splits.count(split) <= 103
  assert splits.count('train') == 1000 - sum(map(splits.count, ('valid', 'test', 'test_unseen')))


def test_the_corpus_says_what_it_is(corpus, clips):
  info = records.read_info(corpus)
  assert {split: sum(counts) for split, counts in info.clips.items()} == {
    split: sum(record.split == split for record in clips) for split in ('train', 'valid', 'test')
  }
  assert (info.fps, info.height, info.width, info.sample_rate) == (25, 32, 32, 16_000)
  assert info.preparation['seed'] == 3
  assert info.licence.startswith('CC0')
  assert sorted(os.listdir(corpus))[0] == records.INFO_NAME  # nothing temporary is left
  found = read_all(corpus)
  assert found == {record.clip_id: clip_codec.encode(record) for record in clips}


def test_workers_and_shards_do_not_change_the_clips(corpus, tmp_path):
  puppet.make_corpus(tmp_path, SMALL, CLIPS, shards=2, workers=2, progress=False)
  assert len(records.read_info(tmp_path).clips['train']) == 2
  assert read_all(tmp_path) == read_all(corpus)
  assert not multiprocessing.active_children()


def test_unseen_puppets_are_in_their_split_only(tmp_path):
  case = clip.Settings(
    seed=1, size=32, frames=30, identities=4, unseen_identities=2, eval_fraction=0.25,
    mode='sentences', words=('moon', 'blue'),
  )  # fmt: skip
  puppet.make_corpus(tmp_path, case, 10, progress=False)
  speakers = {
    split: {record.speaker for record in read(tmp_path, split)}
    for split in records.read_info(tmp_path).clips
  }
  unseen = speakers.pop('test_unseen')
  assert unseen <= {'puppet002', 'puppet003'}
  assert not unseen & set.union(*speakers.values())
  assert records.read_info(tmp_path).preparation['words'] == ['moon', 'blue']


def test_an_interrupted_run_keeps_its_whole_shards(corpus, tmp_path, monkeypatch):
  made = []
  whole = clip.make_clip

  def until_interrupted(case, number):
    if len(made) == 5:
      raise KeyboardInterrupt
    made.append(number)
    return whole(case, number)

  monkeypatch.setattr(clip, 'make_clip', until_interrupted)
  with pytest.raises(KeyboardInterrupt):
    puppet.make_corpus(tmp_path, SMALL, CLIPS, shards=2, progress=False)
  kept = {name for name in os.listdir(tmp_path) if name.endswith('.tfrecord')}
  assert kept
  assert not (tmp_path / records.INFO_NAME).exists()
  first = {name: (tmp_path / name).stat().st_mtime_ns for name in kept}

  def counted(case, number):
    made.append(number)
    return whole(case, number)

  made.clear()
  monkeypatch.setattr(clip, 'make_clip', counted)
  puppet.make_corpus(tmp_path, SMALL, CLIPS, shards=2, progress=False)
  assert 0 < len(made) < CLIPS
  assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == first
  assert read_all(tmp_path) == read_all(corpus)

  made.clear()
  puppet.make_corpus(tmp_path, SMALL, CLIPS, shards=2, progress=False)
  assert made == []


def test_a_directory_with_another_corpus_is_refused(corpus, tmp_path):
  with pytest.raises(DataError, match='holds another corpus: clips 8 there, 9 here'):
    puppet.make_corpus(corpus, SMALL, 9, shards=1, progress=False)
  (tmp_path / 'lrs2-train-00000-of-00001.tfrecord').write_bytes(b'')
  with pytest.raises(DataError, match='holds another corpus: unknown'):
    puppet.make_corpus(tmp_path, SMALL, CLIPS, progress=False)


def test_a_run_that_was_interrupted_with_other_settings_is_refused(tmp_path):
  case = clip.Settings(seed=3, frames=1)
  with pytest.raises(DataError, match='takes'):
    puppet.make_corpus(tmp_path, case, 30, progress=False)
  with pytest.raises(DataError, match='seed 3 there, 0 here'):
    puppet.make_corpus(tmp_path, clip.Settings(frames=1), 30, progress=False)


def test_an_output_that_is_no_directory_is_refused(tmp_path):
  path = tmp_path / 'file'
  path.write_text('')
  with pytest.raises(DataError, match='cannot use the output directory'):
    puppet.make_corpus(str(path), SMALL, CLIPS, progress=False)
  (tmp_path / '.preparation.json').write_text('{')
  with pytest.raises(DataError, match='cannot use the output directory'):
    puppet.make_corpus(tmp_path, SMALL, CLIPS, progress=False)


def test_errors_in_workers_arrive_whole(tmp_path):
  case = clip.Settings(size=32, frames=10, eval_fraction=0)
  with pytest.raises(DataError, match='10 frames leave 0.08 s'):
    puppet.make_corpus(tmp_path, case, 2, shards=2, workers=2, progress=False)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'clips': 0}, '--clips=0; expected at least 1'),
    ({'seed': -1}, '--seed=-1; expected at least 0'),
    ({'size': 16}, '--size=16; expected 32 to 1024 pixels'),
    ({'identities': 0}, '--identities=0; expected at least 1'),
    ({'unseen_identities': 24}, '--unseen_identities=24; expected 0 to 23'),
    ({'frames': 0}, '--frames=0; expected at least 1'),
    ({'variability': 2.0}, '--variability=2.0; expected 0 to 1.5'),
    ({'sway': -1.0}, '--sway=-1.0; expected 0 to 1.5'),
    ({'eval_fraction': 0.5}, '--eval_fraction=0.5; expected 0 to below 0.50'),
    ({'shards': 0}, '--shards=0; expected 1 to 99999'),
    ({'workers': 0}, '--workers=0; expected at least 1'),
    ({'unseen_identities': 2, 'eval_fraction': 0.0}, 'have no clips at --eval_fraction=0'),
    ({'words': ('moon',)}, 'mode grammar has its own 51 words'),
    ({'clips': 3}, "--clips=3 at --eval_fraction=0.05 leaves split 'valid' empty"),
  ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, change, message):
  run = {name: change.pop(name) for name in ('shards', 'workers') if name in change}
  clips = change.pop('clips', 100)
  with pytest.raises(ConfigError, match=message):
    puppet.make_corpus(tmp_path / 'new', clip.Settings(**change), clips, progress=False, **run)
  assert not (tmp_path / 'new').exists()


def test_the_command_makes_a_corpus_and_fails_readably(tmp_path):
  def run(*arguments):
    return subprocess.run(
      [sys.executable, '-m', 'data_prep.puppet', f'--output={tmp_path}/out', *arguments],
      capture_output=True,
      text=True,
      cwd=ROOT,
    )

  small = ('--clips=2', '--size=32', '--frames=40', '--eval_fraction=0', '--workers=1')
  made = run(*small)
  assert made.returncode == 0, made.stderr
  assert made.stdout.strip().endswith('train 2 clips')
  assert json.loads((tmp_path / 'out' / records.INFO_NAME).read_text())['corpus'] == 'puppet'
  refused = run(*small, '--seed=1')
  assert refused.returncode == 2
  assert 'DataError: directory holds another corpus: seed 0 there, 1 here' in refused.stderr
  assert 'Traceback' not in refused.stderr


def test_help_imports_neither_jax_nor_tensorflow():
  script_text = (
    'import sys\n'
    'from data_prep import puppet\n'
    'from absl import flags\n'
    'flags.FLAGS.get_help()\n'
    'print([n for n in ("jax", "tensorflow", "cv2") if n in sys.modules])'
  )
  done = subprocess.run(
    [sys.executable, '-c', script_text],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  assert done.stdout.strip() == '[]', done.stderr


def started_command(directory):
  """Starts the command with two workers in a group of its own, and waits for its first clips."""
  # As from a terminal: a job in the background of a script ignores Ctrl-C, and so do its children.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    process = subprocess.Popen(
      [sys.executable, '-m', 'data_prep.puppet', f'--output={directory}', *SLOW],
      stderr=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      start_new_session=True,
      cwd=ROOT,
    )
  finally:
    signal.signal(signal.SIGINT, before)
  shown = ''
  while not re.search(r'[1-9]\d*/24', shown):
    shown += process.stderr.read(1)
    assert process.poll() is None, shown
  return process


@pytest.mark.faults
def test_a_killed_run_leaves_no_processes_and_can_go_on(tmp_path):
  draw = random.Random(0)
  for _ in range(3):
    process = started_command(tmp_path / 'a')
    time.sleep(draw.uniform(0, 0.5))
    process.kill()
    process.communicate(timeout=30)  # returns when the workers have let go of the pipes too
    whole_shards(tmp_path / 'a')
  for name in 'ab':
    again = [sys.executable, '-m', 'data_prep.puppet', f'--output={tmp_path / name}', *SLOW]
    subprocess.run(again, check=True, capture_output=True, cwd=ROOT)
  assert read_all(tmp_path / 'a') == read_all(tmp_path / 'b')
  assert sorted(os.listdir(tmp_path / 'a')) == sorted(os.listdir(tmp_path / 'b'))


@pytest.mark.faults
def test_an_interrupted_command_says_how_to_go_on(tmp_path):
  process = started_command(tmp_path)
  os.killpg(process.pid, signal.SIGINT)  # as a terminal does
  _, errors = process.communicate(timeout=30)
  assert process.returncode == 130
  assert errors.strip().endswith('The same command goes on from the last whole shard.')
  assert 'Traceback' not in errors
  assert not [name for name in os.listdir(tmp_path) if name.endswith('.partial')]
