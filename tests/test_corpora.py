"""The adapters of CREMA-D and VoxCeleb2, on fabricated folders of their layout."""

import collections
import json

import clips
import numpy as np
import pytest

from data_prep import crema_d, shards, voxceleb2
from tfg_jax import errors
from tfg_jax.data import pipeline, records


def write_wav(path, seconds):
  clips.write(path, audio=clips.tone(seconds), audio_codec='pcm_s16le')


# --------------------------------------------------------------------------------------------------
# CREMA-D
# --------------------------------------------------------------------------------------------------


def detector(frames):
  """Finds the fabricated face: always the same place, 20 by 24 pixels."""
  return [np.array([[20, 12, 40, 36]], np.float32) for _ in frames]


@pytest.fixture(scope='module')
def crema(tmp_path_factory):
  root = tmp_path_factory.mktemp('crema')
  for folder in ('VideoFlash', 'AudioWAV'):
    (root / folder).mkdir()
  names = [f'{actor}_DFA_{mood}_XX' for actor in (1001, 1002, 1003) for mood in ('ANG', 'NEU')]
  for name in [*names, '1076_MTI_SAD_XX']:
    clips.write(root / 'VideoFlash' / f'{name}.flv', 8, rate=30, codec='flv1', container='flv')
    write_wav(root / 'AudioWAV' / f'{name}.wav', 0.24)
  return root


def test_a_clip_of_crema_d_is_a_square_around_the_face(crema):
  source = crema_d.Source(str(crema), '1002_DFA_ANG_XX', 'valid', 1, 48)
  clip = crema_d.make_clip(source, detector=detector)
  assert (clip.speaker, clip.emotion, clip.split) == ('1002', 'angry', 'valid')
  assert clip.text == "Don't forget a jacket"
  assert clip.extras['identity'].tolist() == [1] and clip.extras['level'] == [b'XX']
  assert clip.fps == 30 and len(clip.frames) == 7  # 0.24 s of sound
  assert len(clip.wav) == round(7 * 16_000 / 30)
  # A side of 1.6 * 24 = 38.4 pixels becomes 48: the face is 25 by 30, with room for the chin.
  widths = clip.boxes[:, 2:] - clip.boxes[:, :2]
  np.testing.assert_allclose(widths, np.tile([25, 32], (7, 1)), atol=1)  # rounded corners
  np.testing.assert_allclose((clip.boxes[0, 0] + clip.boxes[0, 2]) / 2, 24, atol=1)
  frames = np.empty((7, 48, 48, 3), np.uint8)
  pipeline.decode_jpegs(clip.frames, frames, where='here')
  assert abs(int(frames[0, 24, 24, 0]) - 100) < 12  # the fabricated grey


def test_broken_clips_of_crema_d_are_left_alone(crema):
  names = crema_d.find_clips(crema)
  assert len(names) == 6 and '1076_MTI_SAD_XX' not in names


def all_names():
  """As many clips as the corpus has of each actor and emotion: about 82 an actor."""
  moods = {'ANG': 14, 'DIS': 14, 'FEA': 14, 'HAP': 14, 'NEU': 12, 'SAD': 14}
  sentences = sorted(crema_d.SENTENCES)
  return [
    f'{actor}_{sentences[i % 12]}_{mood}_{"XX" if i < 12 else "HI"}'
    for actor in range(1001, 1021)
    for mood, count in moods.items()
    for i in range(count)
  ]


def test_clips_are_divided_70_15_15_for_every_actor_and_emotion():
  names = all_names()
  divided = crema_d.divide(names, by='clip', seed=3)
  assert sorted(sum(divided.values(), [])) == sorted(names)
  shares = [len(divided[split]) / len(names) for split in crema_d.SPLITS]
  np.testing.assert_allclose(shares, [0.7, 0.15, 0.15], atol=0.01)
  for split in ('valid', 'test'):
    cells = collections.Counter((name[:4], name.split('_')[2]) for name in divided[split])
    assert len(cells) == 20 * 6 and max(cells.values()) <= 4
  assert divided == crema_d.divide(names, by='clip', seed=3)
  assert divided != crema_d.divide(names, by='clip', seed=4)


def test_actors_can_be_kept_apart():
  divided = crema_d.divide(all_names(), by='actor')
  people = [{name[:4] for name in divided[split]} for split in crema_d.SPLITS]
  assert [len(own) for own in people] == [14, 3, 3]
  assert not people[0] & people[1] and not people[0] & people[2] and not people[1] & people[2]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda root: (root / 'AudioWAV').rename(root / 'Audio'), 'there is no folder AudioWAV'),
    (lambda root: [x.unlink() for x in (root / 'AudioWAV').iterdir()], 'no clip has both'),
    (lambda root: _name_wrongly(root), "'1001_XXX_ANG_XX' is not ACTOR_SENTENCE_EMOTION_LEVEL"),
  ],
)
def test_what_is_no_crema_d_is_refused(tmp_path, change, message):
  for folder, ending in (('VideoFlash', 'flv'), ('AudioWAV', 'wav')):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / f'1001_DFA_ANG_XX.{ending}').touch()
  change(tmp_path)
  with pytest.raises(errors.DataError, match=message):
    crema_d.find_clips(tmp_path)


def _name_wrongly(root):
  for folder, ending in (('VideoFlash', 'flv'), ('AudioWAV', 'wav')):
    (root / folder / f'1001_XXX_ANG_XX.{ending}').touch()


def test_a_clip_without_a_face_says_so(crema):
  source = crema_d.Source(str(crema), '1001_DFA_ANG_XX', 'train', 0, 48)
  with pytest.raises(errors.DataError, match='no face was found'):
    crema_d.make_clip(source, detector=lambda frames: [np.zeros((0, 4))] * len(frames))


@pytest.mark.parametrize(
  ('settings', 'message'),
  [({'split_by': 'word'}, '--split_by=word'), ({'size': 9}, '--size=9; expected 32 to 512')],
)
def test_settings_of_crema_d_that_cannot_be(crema, tmp_path, settings, message):
  with pytest.raises(errors.ConfigError, match=message):
    crema_d.prepare(crema, tmp_path, **settings)


# --------------------------------------------------------------------------------------------------
# VoxCeleb2
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def voxceleb(tmp_path_factory):
  root = tmp_path_factory.mktemp('voxceleb')
  for half, person, video in (
    ('dev', 'id00012', 'a'), ('dev', 'id00012', 'b'), ('dev', 'id00015', 'c'),
    ('test', 'id00017', 'd'),
  ):  # fmt: skip
    for kind, ending in (('mp4', '.mp4'), ('aac', '.m4a')):
      path = root / half / kind / person / video / f'00001{ending}'
      path.parent.mkdir(parents=True)
      if kind == 'mp4':
        clips.write(path, 9, size=(64, 64))
      else:
        clips.write(path, audio=clips.tone(0.4))
  return root


def prepare_voxceleb(voxceleb, output, **settings):
  settings = dict(size=32, valid_share=0.4, max_frames=6, progress=False) | settings
  return voxceleb2.prepare(voxceleb, output, **settings)


def test_voxceleb2_becomes_records(voxceleb, tmp_path):
  info, skipped = prepare_voxceleb(voxceleb, tmp_path)
  assert skipped == 0 and info.fps == 25
  assert sum(sum(count) for count in info.clips.values()) == 4 and sum(info.clips['test']) == 1
  source = records.RecordSource(tmp_path, 'test')
  clip = records.decode_clip(source[0])
  assert (clip.clip_id, clip.speaker, clip.emotion) == ('id00017/d/00001', 'id00017', '')
  assert len(clip.frames) == 6 and len(clip.wav) == 6 * 640
  np.testing.assert_array_equal(clip.boxes, np.tile([0, 0, 32, 32], (6, 1)))
  batches = pipeline.eval_batches(
    source, batch_size=1, sample=lambda clip, rng: {}, max_frames=8, height=32, width=32
  )
  with batches:
    assert next(batches)['num_frames'] == 6
  train = [
    records.decode_clip(x) for x in map(records.RecordSource(tmp_path, 'train').__getitem__, (0,))
  ]
  assert train[0].extras['identity'].tolist() in ([0], [1])


def test_a_preparation_goes_on_and_keeps_to_itself(voxceleb, tmp_path, monkeypatch):
  prepare_voxceleb(voxceleb, tmp_path)
  before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob('*.tfrecord')}
  (lost,) = tmp_path.glob('*test*.tfrecord')
  lost.unlink()
  prepare_voxceleb(voxceleb, tmp_path)
  after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob('*.tfrecord')}
  assert {name for name in before if before[name] != after[name]} == {lost.name}
  with pytest.raises(errors.DataError, match='another corpus: size 32 there, 48 here'):
    prepare_voxceleb(voxceleb, tmp_path, size=48)


def test_clips_that_cannot_be_used_are_listed(voxceleb, tmp_path):
  info = records.DatasetInfo(
    corpus='x', fps=25.0, height=8, width=8, sample_rate=16_000, licence='', preparation={}
  )

  def make(source):
    if source == 'bad':
      raise errors.DataError('it is bad', where='x')
    return records.Clip(
      clip_id=source, frames=[b'x'], height=8, width=8, fps=25.0, sample_rate=16_000,
      boxes=np.zeros((1, 4), np.int64), wav=np.zeros(640, np.int16),
    )  # fmt: skip

  splits = {'train': ['good', 'bad']}
  made, skipped = shards.write_corpus(tmp_path, info, splits, make, progress=False)
  assert (sum(made.clips['train']), skipped) == (1, 1)
  (line,) = (tmp_path / shards.SKIPPED_FILE).read_text().splitlines()
  assert json.loads(line)['clip'] == 'bad' and 'it is bad' in json.loads(line)['problem']
  with pytest.raises(errors.ConfigError, match="split 'valid' would have no clips"):
    shards.write_corpus(tmp_path / 'b', info, {'valid': []}, make, progress=False)
  with pytest.raises(errors.DataError, match="no clip of split 'train' could be used"):
    shards.write_corpus(tmp_path / 'c', info, {'train': ['bad']}, make, progress=False)


def test_what_is_no_voxceleb2_is_refused(voxceleb, tmp_path):
  with pytest.raises(errors.DataError, match='there is no PERSON/VIDEO/UTTERANCE.mp4'):
    prepare_voxceleb(tmp_path, tmp_path / 'out')
  path = tmp_path / 'dev' / 'mp4' / 'id1' / 'a'
  path.mkdir(parents=True)
  (path / '00001.mp4').touch()
  with pytest.raises(errors.DataError, match='utterance id1/a/00001 has no sound'):
    prepare_voxceleb(tmp_path, tmp_path / 'out')
  with pytest.raises(errors.ConfigError, match='--size=1; expected 32 to 224'):
    prepare_voxceleb(voxceleb, tmp_path / 'out', size=1)
  with pytest.raises(errors.ConfigError, match='--valid_share=0; expected above 0'):
    prepare_voxceleb(voxceleb, tmp_path / 'out', valid_share=0)
