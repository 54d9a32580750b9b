"""One clip as bytes: what comes back, what is refused, and which other readers understand it."""

import os

import cv2
import grain
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tfg_jax.data import clip_codec, records
from tfg_jax.errors import DataError


def clip(number=0, *, length=3, **changes):
  rng = np.random.default_rng(number)
  fields = dict(
    clip_id=f'{number:05d}',
    speaker='s1',
    text='bin blue at f two now',
    word='blue',
    emotion='happy',
    split='train',
    frames=clip_codec.encode_jpegs(rng.integers(0, 256, (length, 8, 12, 3), np.uint8)),
    height=8,
    width=12,
    fps=25.0,
    boxes=rng.integers(0, 8, (length, 4)),
    wav=rng.integers(-(2**15), 2**15, length * 640).astype(np.int16),
    sample_rate=16_000,
  )
  return clip_codec.Clip(**{**fields, **changes})


# Clips


def test_a_clip_comes_back_whole():
  extras = {
    'landmarks': np.array([1.5, -2.0], np.float32),
    'phoneme_starts': np.array([0, 2**40, -1]),
    'phonemes': [b'b', b'', b'\xff'],
    'no_floats': np.zeros(0, np.float32),
    'no_ints': np.zeros(0, np.int64),
    'no_bytes': [],
  }
  before = clip(text='naïve 語', word='', extras=extras)
  after = clip_codec.decode(clip_codec.encode(before))
  for name in ('clip_id', 'speaker', 'text', 'word', 'emotion', 'split', 'frames', 'height'):
    assert getattr(after, name) == getattr(before, name)
  assert (after.width, after.fps, after.sample_rate) == (12, 25.0, 16_000)
  np.testing.assert_array_equal(after.boxes, before.boxes, strict=True)
  np.testing.assert_array_equal(after.wav, before.wav, strict=True)
  assert set(after.extras) == set(extras)
  for name, value in extras.items():
    assert type(after.extras[name]) is type(value)
    np.testing.assert_array_equal(after.extras[name], value)
    assert getattr(after.extras[name], 'dtype', None) == getattr(value, 'dtype', None)


texts = st.text(st.characters(exclude_categories=['Cs']), max_size=20)
int64s = st.integers(-(2**63), 2**63 - 1)


@hypothesis.given(
  text=texts,
  frames=st.lists(st.binary(max_size=20), min_size=1, max_size=4),
  wav=st.lists(st.integers(-(2**15), 2**15 - 1), max_size=9),
  fps=st.floats(0.125, 1000, width=32),
  extras=st.dictionaries(
    texts.filter(lambda name: name not in clip_codec._FIELDS),
    st.lists(st.binary(max_size=5)) | st.lists(int64s, min_size=1).map(np.array),
    max_size=3,
  ),
  data=st.data(),
)
def test_any_clip_comes_back_whole(text, frames, wav, fps, extras, data):
  boxes = data.draw(
    st.lists(
      st.lists(int64s, min_size=4, max_size=4), min_size=len(frames), max_size=len(frames)
    ).map(np.array)
  )
  before = clip(
    text=text, frames=frames, boxes=boxes, wav=np.array(wav, np.int16), fps=fps, extras=extras
  )
  encoded = clip_codec.encode(before)
  after = clip_codec.decode(encoded)
  assert (after.text, after.frames, after.fps) == (text, frames, fps)
  np.testing.assert_array_equal(after.boxes, boxes)
  np.testing.assert_array_equal(after.wav, wav)
  for name, value in extras.items():
    np.testing.assert_array_equal(after.extras[name], value)
  assert clip_codec.encode(after) == encoded


def test_frames_keep_their_colours():
  images = np.zeros((1, 16, 16, 3), np.uint8)
  images[..., 0] = 200  # red
  (file,) = clip_codec.encode_jpegs(images)
  decoded = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
  np.testing.assert_allclose(decoded[0, 0], [0, 0, 200], atol=3)  # BGR
  (file,) = clip_codec.encode_pngs(images)
  decoded = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
  np.testing.assert_array_equal(decoded[..., ::-1], images[0])


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'frames': []}, 'clip has no frames'),
    ({'boxes': np.zeros((2, 4), int)}, 'clip has 3 frames but 2 face boxes'),
    ({'boxes': np.zeros((3, 4))}, r'boxes are float64 of shape \(3, 4\); expected integers'),
    ({'boxes': np.zeros(12, int)}, r'boxes are int64 of shape \(12,\)'),
    ({'wav': np.zeros(5)}, r'wav is float64 of shape \(5,\); expected int16'),
    ({'wav': np.zeros((5, 2), np.int16)}, r'wav is int16 of shape \(5, 2\)'),
    ({'height': 0}, 'height is 0; expected a positive number'),
    ({'fps': float('nan')}, 'fps is nan'),
    ({'fps': float('inf')}, 'fps is inf'),
    ({'sample_rate': -1}, 'sample_rate is -1'),
    ({'extras': {'text': [b'x']}}, "extra 'text' has the name of a field"),
    ({'extras': {'x': np.zeros((2, 2))}}, r"extra 'x' is float64 of shape \(2, 2\); expected one"),
    ({'extras': {'x': 'words'}}, "extra 'x' is <U5"),
  ],
)
def test_a_clip_that_does_not_fit_together_is_refused(changes, message):
  with pytest.raises(DataError, match=message) as error:
    clip_codec.encode(clip(**changes))
  assert error.value.where == 'clip 00000'


def example(**features):
  """Encodes a tf.train.Example; floats, ints and bytes as lists."""
  message = clip_codec._Example()
  for name, values in features.items():
    feature = message.features.feature[name]
    kind = {bytes: 'bytes_list', int: 'int64_list', float: 'float_list'}[type(values[0])]
    getattr(feature, kind).value.extend(values)
  return message.SerializeToString()


GOOD = dict(
  **{name: [b''] for name in ('clip_id', 'speaker', 'text', 'word', 'emotion', 'split')},
  frames=[b'j'],
  boxes=[0, 0, 1, 1],
  wav=[b'\0\0'],
  fps=[25.0],
  height=[8],
  width=[8],
  sample_rate=[16_000],
)


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (b'\xff\xff\xff', 'record is not a tf.train.Example'),
    (b'', "record has no bytes_list named 'wav'"),
    (example(**{**GOOD, 'wav': [1]}), "record has no bytes_list named 'wav'"),
    (example(**{**GOOD, 'fps': [25.0, 25.0]}), "field 'fps' has 2 values; expected 1"),
    (example(**{**GOOD, 'boxes': [1, 2, 3]}), 'boxes hold 3 numbers; expected 4 for each frame'),
    (example(**{**GOOD, 'boxes': [0] * 8}), 'clip has 1 frames but 2 face boxes'),
    (example(**{**GOOD, 'wav': [b'\0\0\0']}), 'wav is 3 bytes; 16-bit samples need an even number'),
    (example(**{**GOOD, 'text': [b'\xff']}), r"text is not UTF-8: b'\\xff'"),
  ],
)
def test_a_record_that_is_no_clip_is_refused(data, message):
  if not data:
    data = example(**{name: value for name, value in GOOD.items() if name != 'wav'})
  with pytest.raises(DataError, match=message) as error:
    clip_codec.decode(data, where='here')
  assert error.value.where == 'here'


# Other readers


def clip_shard(directory):
  clips = [clip(number, length=2 + number, extras={'pitch': [0.5, 1.5]}) for number in range(3)]
  path = records.shard_path(str(directory), 'puppet', 'train', 0, 1)
  records.write_shard(path, map(clip_codec.encode, clips))
  return path, clips


def test_grain_reads_the_same_records(tmp_path):
  path, clips = clip_shard(tmp_path)
  found = list(grain.experimental.TFRecordIterDataset(path))
  assert found == [clip_codec.encode(clip) for clip in clips]


def test_tensorflow_reads_the_same_clips(tmp_path):
  tf = pytest.importorskip('tensorflow')
  path, clips = clip_shard(tmp_path)
  features = {
    'clip_id': tf.io.FixedLenFeature([], tf.string),
    'text': tf.io.FixedLenFeature([], tf.string),
    'fps': tf.io.FixedLenFeature([], tf.float32),
    'height': tf.io.FixedLenFeature([], tf.int64),
    'frames': tf.io.VarLenFeature(tf.string),
    'boxes': tf.io.VarLenFeature(tf.int64),
    'wav': tf.io.FixedLenFeature([], tf.string),
    'pitch': tf.io.FixedLenFeature([2], tf.float32),
  }
  dataset = tf.data.TFRecordDataset([path]).batch(1)
  parsed = [tf.io.parse_example(batch, features) for batch in dataset]
  assert len(parsed) == len(clips)
  for got, want in zip(parsed, clips, strict=True):
    assert got['clip_id'][0] == want.clip_id.encode()
    assert got['text'][0] == want.text.encode()
    assert (got['fps'][0], got['height'][0]) == (25.0, 8)
    assert list(tf.sparse.to_dense(got['frames'])[0].numpy()) == want.frames
    np.testing.assert_array_equal(
      tf.sparse.to_dense(got['boxes'])[0].numpy().reshape(-1, 4), want.boxes
    )
    np.testing.assert_array_equal(tf.io.decode_raw(got['wav'], tf.int16)[0], want.wav)
    np.testing.assert_array_equal(got['pitch'][0], [0.5, 1.5])


def test_tensorflows_own_examples_are_read(tmp_path):
  tf = pytest.importorskip('tensorflow')
  encoded = clip_codec.encode(clip(extras={'pitch': [0.5]}))
  rewritten = tf.train.Example.FromString(encoded).SerializeToString()
  path = records.shard_path(str(tmp_path), 'puppet', 'train', 0, 1)
  with tf.io.TFRecordWriter(path) as writer:
    writer.write(rewritten)
  info = records.DatasetInfo(
    corpus='puppet',
    fps=25.0,
    height=8,
    width=12,
    sample_rate=16_000,
    licence='CC0',
    preparation={},
  )
  records.finish_dataset(tmp_path, info)
  source = records.RecordSource(tmp_path, 'train')  # scanned: TensorFlow writes no index
  assert clip_codec.encode(clip_codec.decode(source[0])) == encoded


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # of TensorFlow Datasets about itself
def test_tensorflow_datasets_reads_the_same_clips(tmp_path):
  pytest.importorskip('tensorflow')
  import tensorflow_datasets as tfds

  path, clips = clip_shard(tmp_path)
  names = tfds.core.ShardedFileTemplate(
    data_dir=tmp_path,
    template='{DATASET}-{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}',
    dataset_name='puppet',
    split='train',
    filetype_suffix='tfrecord',
  )
  split = tfds.core.SplitInfo(
    name='train', shard_lengths=[3], num_bytes=os.path.getsize(path), filename_template=names
  )
  features = tfds.features.FeaturesDict(
    {
      'clip_id': tfds.features.Text(),
      'frames': tfds.features.Sequence(tfds.features.Image(shape=(8, 12, 3))),
      'boxes': tfds.features.Sequence(np.int64),
      'pitch': tfds.features.Sequence(np.float32),
    }
  )
  tfds.folder_dataset.write_metadata(
    data_dir=tmp_path, features=features, split_infos=[split], filename_template=names
  )
  dataset = tfds.builder_from_directory(tmp_path).as_dataset('train')
  for got, want in zip(tfds.as_numpy(dataset), clips, strict=True):
    assert got['clip_id'] == want.clip_id.encode()
    assert got['frames'].shape == (len(want.frames), 8, 12, 3)
    np.testing.assert_array_equal(got['boxes'].reshape(-1, 4), want.boxes)
    np.testing.assert_array_equal(got['pitch'], [0.5, 1.5])
