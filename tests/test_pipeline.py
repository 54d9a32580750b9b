import concurrent.futures
import fractions
import itertools
import json
import multiprocessing
import os
import threading

import cv2
import numpy as np
import pytest
from absl import flags

from tfg_jax.data import clip_codec, pipeline, records, windows
from tfg_jax.errors import CheckpointError, DataError

CLIPS = 11
FRAMES = (4, 9, 6)  # of clips 0, 1, 2, 3 (4 again), ...
HEIGHT, WIDTH = 16, 24


def picture(clip, frame):
  return np.full((HEIGHT, WIDTH, 3), (10 * clip, 20 * frame, 200), np.uint8)


def make_clip(number, **changes):
  frames = FRAMES[number % 3]
  fields = dict(
    clip_id=f'{number:05d}',
    frames=clip_codec.encode_jpegs([picture(number, frame) for frame in range(frames)]),
    height=HEIGHT,
    width=WIDTH,
    fps=25.0,
    boxes=np.arange(4 * frames).reshape(-1, 4),
    wav=np.arange(640 * frames + 500).astype(np.int16),  # a little longer than the video
    sample_rate=16_000,
  )
  return clip_codec.Clip(**{**fields, **changes})


def write_corpus(directory, clips, **changes):
  encoded = [clip_codec.encode(clip) for clip in clips]
  for shard in range(2):
    path = records.shard_path(str(directory), 'puppet', 'train', shard, 2)
    records.write_shard(path, encoded[shard::2])
  fields = dict(
    corpus='puppet',
    fps=25.0,
    height=HEIGHT,
    width=WIDTH,
    sample_rate=16_000,
    licence='CC0',
    preparation={},
  )
  records.finish_dataset(directory, records.DatasetInfo(**{**fields, **changes}))
  return records.RecordSource(directory, 'train')


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  return write_corpus(tmp_path_factory.mktemp('corpus'), map(make_clip, range(CLIPS)))


def sample(clip, rng):
  return {
    'name': np.int32(clip.clip_id),
    'length': np.int32(len(clip.frames)),
    'draw': rng.integers(2**31, size=2),
  }


def train(source, **changes):
  settings = dict(
    batch_size=2, seed=5, sample=sample, max_frames=6, height=HEIGHT, width=WIDTH, num_threads=2
  )
  return pipeline.train_batches(source, **{**settings, **changes})


def evaluate(source, **changes):
  settings = dict(
    batch_size=2, sample=sample, max_frames=6, height=HEIGHT, width=WIDTH, num_threads=2
  )
  return pipeline.eval_batches(source, **{**settings, **changes})


def take(batches, count):
  with batches:
    return list(itertools.islice(batches, count))


def assert_same(got, want):
  assert len(got) == len(want)
  for one, other in zip(got, want, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      np.testing.assert_array_equal(one[name], other[name], err_msg=name, strict=True)


# What a batch holds


def test_batches_have_fixed_shapes(source):
  for batches, more in ((train(source), {}), (evaluate(source), {'example_mask': ((2,), 'bool')})):
    for batch in take(batches, 6):
      assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
        'frames': ((2, 6, HEIGHT, WIDTH, 3), 'uint8'),
        'boxes': ((2, 6, 4), 'int32'),
        'num_frames': ((2,), 'int32'),
        'wav': ((2, 6 * 640), 'int16'),
        'num_samples': ((2,), 'int32'),
        'clip_index': ((2,), 'int32'),
        'name': ((2,), 'int32'),
        'length': ((2,), 'int32'),
        'draw': ((2, 2), 'int64'),
        **more,
      }


@pytest.mark.parametrize('index', [(), (2, 0), (1, 1, 3)])
def test_systems_that_look_at_few_frames_get_no_others(source, index):
  def look(clip, rng):
    return {**sample(clip, rng), 'frame_index': np.array(index, np.int32)}

  (whole,), (few,) = take(train(source), 1), take(train(source, sample=look), 1)
  chosen = np.array(index, np.int64)
  expected = {**whole, 'frames': whole['frames'][:, chosen], 'boxes': whole['boxes'][:, chosen]}
  assert_same([few], [{**expected, 'frame_index': np.stack([chosen.astype(np.int32)] * 2)}])


def test_a_chosen_frame_that_is_damaged_has_its_number(tmp_path):
  clip = make_clip(0)
  clip.frames[2] = b'no picture'
  source = write_corpus(tmp_path, [clip])

  def look(clip, rng):
    return {'frame_index': np.array([0, 2], np.int32)}

  with (
    train(source, sample=look, batch_size=1) as batches,
    pytest.raises(DataError, match='frame 2 is not a JPEG picture'),
  ):
    next(batches)


def test_clips_are_padded_and_cut_in_step(source):
  for batch in take(evaluate(source, batch_size=1), CLIPS):
    index = int(batch['clip_index'][0])
    clip = clip_codec.decode(source[index])
    number = int(clip.clip_id)
    frames = min(FRAMES[number % 3], 6)
    assert (batch['name'], batch['length'], batch['num_frames']) == (number, frames, frames)
    for frame in range(frames):
      wanted = picture(number, frame)
      np.testing.assert_allclose(batch['frames'][0, frame].astype(int), wanted, atol=4)
    assert not batch['frames'][0, frames:].any()
    boxes = np.arange(4 * frames).reshape(-1, 4)
    np.testing.assert_array_equal(batch['boxes'][0, :frames], boxes)
    np.testing.assert_array_equal(batch['boxes'][0, frames:], boxes[-1:].repeat(6 - frames, 0))
    samples = 640 * frames
    assert batch['num_samples'] == samples
    np.testing.assert_array_equal(batch['wav'][0, :samples], np.arange(samples).astype(np.int16))
    assert not batch['wav'][0, samples:].any()


def test_training_uses_every_part_of_long_clips_with_its_own_boxes_and_audio(source):
  starts = set()
  for batch in take(train(source, batch_size=1), 20 * CLIPS):
    number = int(batch['name'][0])
    if FRAMES[number % 3] == 9:
      start = int(batch['boxes'][0, 0, 0]) // 4
      starts.add(start)
      assert (batch['num_frames'], batch['num_samples']) == (6, 6 * 640)
      np.testing.assert_allclose(
        batch['frames'][0, 5].astype(int), picture(number, start + 5), atol=4
      )
      np.testing.assert_array_equal(batch['wav'][0], np.arange(640 * start, 640 * (start + 6)))
  assert starts == {0, 1, 2, 3}


def test_audio_shorter_than_the_video_is_counted(tmp_path):
  short = write_corpus(tmp_path, [make_clip(0, wav=np.ones(700, np.int16)) for _ in range(2)])
  (batch,) = take(evaluate(short), 1)
  np.testing.assert_array_equal(batch['num_samples'], [700, 700])
  assert batch['wav'].sum() == 1400


@pytest.mark.parametrize('fps', [24.0, 25.0, 29.97, 30.0, 59.94])
def test_cuts_at_any_rate_fit_and_follow_the_frames(fps):
  rate = fractions.Fraction(16_000) / fractions.Fraction(fps)
  frames = 300
  clip = make_clip(
    0,
    frames=[b'%d' % i for i in range(frames)],
    boxes=np.zeros((frames, 4), int),
    wav=(np.arange(round(frames * rate)) % 30_000).astype(np.int16),
  )
  for start in range(0, frames, 7):
    part = pipeline.cut(clip, start, 50, rate)
    assert part.frames == clip.frames[start : start + 50]
    assert len(part.boxes) == len(part.frames)
    assert abs(int(part.wav[0]) - start * 16_000 / fps % 30_000) <= 0.5
    length = len(part.frames) * 16_000 / fps
    assert abs(len(part.wav) - length) <= 1.5
    assert len(part.wav) <= -(-50 * rate // 1)


# Order


def test_every_epoch_has_every_clip_once_in_another_order(source):
  batches = take(train(source, batch_size=1), 3 * CLIPS)
  order = [int(batch['clip_index'][0]) for batch in batches]
  epochs = [order[i : i + CLIPS] for i in range(0, len(order), CLIPS)]
  for epoch in epochs:
    assert sorted(epoch) == list(range(CLIPS))
  assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_seed_decides_order_and_draws(source):
  first = take(train(source), 8)
  assert_same(take(train(source), 8), first)
  other = take(train(source, seed=6), 8)
  assert [b['clip_index'].tolist() for b in first] != [b['clip_index'].tolist() for b in other]


def test_draws_differ_between_epochs_and_clips(source):
  draws = [batch['draw'].tobytes() for batch in take(train(source, batch_size=1), 5 * CLIPS)]
  assert len(set(draws)) == len(draws)


def test_processes_share_every_global_batch(source):
  whole = take(train(source, batch_size=6), 12)
  parts = [
    take(train(source, batch_size=2, process_index=p, process_count=3), 12) for p in range(3)
  ]
  for step, batch in enumerate(whole):
    for process, part in enumerate(parts):
      mine = {name: value[2 * process : 2 * process + 2] for name, value in batch.items()}
      assert_same([part[step]], [mine])


@pytest.mark.parametrize('process_count', [1, 2, 3])
def test_evaluation_sees_every_clip_once_in_equal_batch_counts(source, process_count):
  parts = [
    take(evaluate(source, process_index=p, process_count=process_count), None)
    for p in range(process_count)
  ]
  assert len({len(part) for part in parts}) == 1
  seen = [b['clip_index'][b['example_mask']].tolist() for part in parts for b in part]
  assert sorted(itertools.chain(*seen)) == list(range(CLIPS))
  slots = 2 * process_count * len(parts[0])
  assert slots - CLIPS < 2 * process_count
  for part in parts:
    for batch in part:
      assert np.all(batch['clip_index'][~batch['example_mask']] == CLIPS - 1)


def test_evaluation_is_in_order_and_repeatable(source):
  first = take(evaluate(source), None)
  order = np.concatenate([batch['clip_index'] for batch in first])
  np.testing.assert_array_equal(order, [*range(CLIPS), CLIPS - 1])
  assert_same(take(evaluate(source), None), first)


@pytest.mark.parametrize(('max_clips', 'used'), [(3, 3), (0, CLIPS), (100, CLIPS)])
def test_evaluation_may_stop_early(source, max_clips, used):
  batches = take(evaluate(source, max_clips=max_clips), None)
  seen = np.concatenate([batch['clip_index'][batch['example_mask']] for batch in batches])
  np.testing.assert_array_equal(seen, np.arange(used))
  assert len(batches) == -(-used // 2)


def test_draws_of_evaluation_belong_to_the_clip(source):
  by_two, by_three = (take(evaluate(source, batch_size=b), None) for b in (2, 3))
  draws = [np.concatenate([b['draw'] for b in part])[:CLIPS] for part in (by_two, by_three)]
  np.testing.assert_array_equal(*draws)


# Resuming


@pytest.mark.parametrize('position', [0, 1, 7, 1_000_003])
def test_a_restored_position_gives_the_same_batches(source, position):
  with train(source) as batches:
    state = {**batches.get_state(), 'batches': position}
    batches.set_state(state)
    if position < 100:
      batches.set_state({**state, 'batches': 0})
      for _ in range(position):
        next(batches)
    assert batches.get_state() == state
    straight = list(itertools.islice(batches, 3))
  with train(source) as resumed:
    next(resumed)
    resumed.set_state(state)
    assert_same(list(itertools.islice(resumed, 3)), straight)
    assert resumed.get_state()['batches'] == position + 3


def test_worker_processes_continue_where_threads_stopped_and_back(source):
  straight = take(train(source), 7)
  with train(source) as threads:
    assert_same(list(itertools.islice(threads, 2)), straight[:2])
    state = threads.get_state()
  flags.FLAGS.unparse_flags()  # as in a notebook; Grain reads its flags when workers start
  with train(source, num_workers=2, num_threads=1) as workers:
    workers.set_state(state)
    assert_same(list(itertools.islice(workers, 3)), straight[2:5])
    state = workers.get_state()
    assert len(multiprocessing.active_children()) == 2
  assert not multiprocessing.active_children()
  with train(source) as threads:
    threads.set_state(state)
    assert_same(list(itertools.islice(threads, 2)), straight[5:])


def test_a_resume_may_change_the_number_of_processes(source):
  with train(source, batch_size=4) as one:
    for _ in range(3):
      next(one)
    state, expected = one.get_state(), next(one)
  for process in range(2):
    with train(source, batch_size=2, process_index=process, process_count=2) as part:
      part.set_state(state)
      mine = {name: value[2 * process : 2 * process + 2] for name, value in expected.items()}
      assert_same([next(part)], [mine])


def test_the_state_is_json_and_says_what_it_belongs_to(source):
  with train(source) as batches:
    state = batches.get_state()
  assert json.loads(json.dumps(state)) == state
  assert state == {
    'batches': 0,
    'source': 'RecordSource(puppet, train, 11 clips, 2 shards)',
    'seed': 5,
    'global_batch': 2,
  }


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'seed': 6}, 'the data position was saved with seed=5; this run has 6'),
    ({'batch_size': 3}, 'the data position was saved with global_batch=2; this run has 3'),
  ],
)
def test_a_position_of_another_order_is_refused(source, changes, message):
  state = train(source).get_state()
  with pytest.raises(CheckpointError, match=message) as error:
    train(source, **changes).set_state(state)
  assert error.value.hint == 'Resume with the same data settings, or start in a new workdir.'


def test_a_state_that_says_nothing_is_refused(source):
  with pytest.raises(CheckpointError, match='the data position was saved with source=None'):
    train(source).set_state({'batches': 3})


def test_closed_batches_say_so(source):
  batches = train(source)
  next(batches)
  batches.close()
  batches.close()
  with pytest.raises(ValueError, match='the batches were closed'):
    next(batches)


def grain_threads():
  return [thread for thread in threading.enumerate() if thread.name.startswith('grain')]


def test_closing_ends_the_threads(source):
  before = grain_threads()
  with train(source) as batches:
    next(batches)
    started = [thread for thread in grain_threads() if thread not in before]
    assert started
  for thread in started:
    thread.join(10)
    assert not thread.is_alive()


# Damage


@pytest.mark.parametrize('make', [train, evaluate])
@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'height': 96}, "corpus 'puppet' has height=16; the config says 96"),
    ({'width': 96}, "corpus 'puppet' has width=24; the config says 96"),
    ({'fps': 30.0}, "corpus 'puppet' has fps=25.0; the config says 30.0"),
    ({'sample_rate': 8000}, "corpus 'puppet' has sample_rate=16000; the config says 8000"),
  ],
)
def test_a_corpus_that_does_not_fit_the_config_is_refused(source, make, changes, message):
  with pytest.raises(DataError, match=message) as error:
    make(source, **changes)
  assert error.value.where == source.directory
  (name,) = changes
  assert error.value.hint.startswith(f'Set {name} of the config to that of the corpus')


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'fps': 30.0}, r'clip 00001 has fps=30.0; dataset_info.json says 25.0'),
    ({'sample_rate': 8000}, 'clip 00001 has sample_rate=8000; dataset_info.json says 16000'),
    (
      {'frames': clip_codec.encode_jpegs(np.zeros((9, 8, 8, 3), np.uint8))},
      'frame 0 is 8x8; expected 16x24',
    ),
    ({'frames': [b''] * 9}, "frame 0 is not a JPEG picture: b''"),
    ({'frames': [b'not a picture'] * 9}, "frame 0 is not a JPEG picture: b'not a pi'"),
  ],
)
@pytest.mark.parametrize('make', [train, evaluate])
def test_clips_that_do_not_fit_are_named(tmp_path, changes, message, make):
  bad = write_corpus(tmp_path, [make_clip(0), make_clip(1, **changes)])
  with make(bad) as batches, pytest.raises(DataError, match=message) as error:
    next(batches)
  assert error.value.where.startswith(bad.locate(1))


def test_a_damaged_record_is_named(tmp_path):
  bad = write_corpus(tmp_path, [make_clip(0), make_clip(1)])
  path = records.shard_path(str(tmp_path), 'puppet', 'train', 1, 2)
  with open(path, 'r+b') as file:
    file.seek(100)
    byte = file.read(1)[0]
    file.seek(100)
    file.write(bytes([byte ^ 1]))
  with train(bad) as batches, pytest.raises(DataError, match='record is damaged') as error:
    next(batches)
  assert error.value.where == bad.locate(1)


def test_errors_of_worker_processes_come_out_whole(tmp_path):
  bad = write_corpus(tmp_path, [make_clip(0), make_clip(1, fps=30.0)])
  with train(bad, num_workers=1) as batches, pytest.raises(DataError) as error:
    next(batches)
  assert error.value.what == 'clip 00001 has fps=30.0; dataset_info.json says 25.0'
  assert error.value.where == bad.locate(1)


def test_errors_of_sampling_name_the_clip(source):
  def choose(clip, rng):
    return windows.training_windows(rng, len(clip.frames), 2)

  with train(source, sample=choose, batch_size=CLIPS) as batches:
    with pytest.raises(DataError, match='clip has 4 frames; training windows need 6') as error:
      next(batches)
    assert ', record ' in error.value.where
    assert ', clip 000' in error.value.where


def test_errors_of_sampling_keep_their_own_place(source):
  def choose(clip, rng):
    raise DataError('no such word', where='vocabulary.txt')

  with train(source, sample=choose) as batches, pytest.raises(DataError) as error:
    next(batches)
  assert error.value.where == 'vocabulary.txt'


def test_decoding_does_not_depend_on_the_thread(source):
  clip = clip_codec.decode(source[0])

  def decode(_):
    out = np.zeros((len(clip.frames), HEIGHT, WIDTH, 3), np.uint8)
    pipeline.decode_jpegs(clip.frames, out, where='')
    return out

  expected = np.stack(
    [
      cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
      for file in clip.frames
    ]
  )
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for out in pool.map(decode, range(50)):
      np.testing.assert_array_equal(out, expected)


# Moving batches to the devices


class Numbers:
  """Stands for a BatchIterator: counts, and can be made to wait or to fail."""

  def __init__(self, stop=None, error=None):
    self.position, self.stop, self.error = 0, stop, error
    self.allowed = threading.Semaphore(0)
    self.free = True
    self.closed = False

  def __next__(self):
    if not self.free:
      assert self.allowed.acquire(timeout=30)
    if self.position == self.stop:
      raise self.error or StopIteration
    self.position += 1
    return self.position

  def get_state(self):
    return {'batches': self.position}

  def close(self):
    self.closed = True


def prefetch_threads():
  return [t for t in threading.enumerate() if t.name == 'device-prefetch']


def test_prefetched_batches_come_in_order_with_the_state_behind_them():
  numbers = Numbers(stop=20)
  with pipeline.DevicePrefetch(numbers, lambda number: -number, depth=3) as batches:
    assert batches.get_state() == {'batches': 0}
    for step, batch in enumerate(batches, start=1):
      assert batch == -step
      assert batches.get_state() == {'batches': step}
    assert step == 20
    with pytest.raises(StopIteration):
      next(batches)
    assert batches.get_state() == {'batches': 20}
  assert numbers.closed
  assert not prefetch_threads()


def test_prefetching_stays_within_its_depth():
  put = []
  ready = threading.Semaphore(0)

  def collect(number):
    put.append(number)
    ready.release()
    return number

  numbers = Numbers()
  with pipeline.DevicePrefetch(numbers, collect, depth=2) as batches:
    for _ in range(2):
      assert ready.acquire(timeout=30)
    assert not ready.acquire(timeout=0.05)  # the third waits for the consumer
    assert next(batches) == 1
    assert ready.acquire(timeout=30)
    assert put == [1, 2, 3]
    assert batches.get_state() == {'batches': 1}


def test_resuming_from_a_prefetched_state_gives_the_next_batch(source):
  with pipeline.DevicePrefetch(train(source), lambda batch: batch) as batches:
    for _ in range(3):
      next(batches)
    state = batches.get_state()
    expected = next(batches)
  resumed = train(source)
  resumed.set_state(state)
  with pipeline.DevicePrefetch(resumed, lambda batch: batch) as batches:
    assert_same([next(batches)], [expected])


@pytest.mark.parametrize('place', ['next', 'put'])
def test_errors_of_the_thread_come_out_unchanged_after_the_good_batches(place):
  error = DataError('record is damaged', where='shard 3', hint='Prepare it again.')

  def put(number):
    if place == 'put' and number == 3:
      raise error
    return number

  numbers = Numbers(stop=2 if place == 'next' else None, error=error)
  with pipeline.DevicePrefetch(numbers, put) as batches:
    assert [next(batches), next(batches)] == [1, 2]
    for _ in range(2):
      with pytest.raises(DataError) as caught:
        next(batches)
      assert caught.value is error
    assert batches.get_state() == {'batches': 2}
  assert not prefetch_threads()


def test_closing_does_not_wait_for_a_consumer():
  numbers = Numbers()
  batches = pipeline.DevicePrefetch(numbers, lambda number: number, depth=1)
  next(batches)
  batches.close()
  batches.close()
  assert not prefetch_threads()
  with pytest.raises(ValueError, match='the prefetch was closed'):
    next(batches)


def test_the_share_of_waiting_is_measured(monkeypatch):
  numbers = Numbers()
  numbers.free = False
  now = [100.0]
  monkeypatch.setattr(pipeline.time, 'perf_counter', lambda: now[0])
  with pipeline.DevicePrefetch(numbers, lambda number: number) as batches:

    def arrive():
      now[0] += 3.0  # the consumer is waiting by now, or starts to: both count from its own call
      numbers.allowed.release()

    timer = threading.Timer(0.05, arrive)
    timer.start()
    next(batches)
    timer.join()
    now[0] += 9.0
    assert batches.waiting_share() == pytest.approx(0.25)
    now[0] += 1.0
    assert batches.waiting_share() == 0.0
    numbers.free = True
    numbers.allowed.release()


def test_memory_does_not_grow_with_the_number_of_batches(source):
  def resident():
    with open('/proc/self/statm') as file:
      return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')

  # Much padding: a batch is 1.4 MB, and quickly made.
  with pipeline.DevicePrefetch(train(source, max_frames=600), lambda batch: batch) as batches:
    for _ in range(20):
      batch = next(batches)
    size = sum(value.nbytes for value in batch.values())
    before = resident()
    for _ in range(100):
      next(batches)
    assert resident() - before < 30 * size


def test_a_late_position_is_not_wound_forward_to(source, monkeypatch):
  reads = []
  read = records.RecordSource.__getitem__
  monkeypatch.setattr(
    records.RecordSource, '__getitem__', lambda self, i: reads.append(i) or read(self, i)
  )
  with train(source, num_threads=1) as batches:
    batches.set_state({**batches.get_state(), 'batches': 10**9})
    next(batches)
  assert len(reads) <= 6
