"""The adapters of LRW and of named faces, on fabricated folders of their layout."""

import clips
import cv2
import numpy as np
import pytest

from data_prep import landmarks, lrw, named_faces
from tfg_jax import alignment, errors
from tfg_jax.data import pipeline, records

# Where eyes and mouth of an aligned face are: the template, after crop and resize.
ALIGNED = (np.array([[140, 224], [220, 224], [180, 300]]) - (44, 104)) * 260 / 268


def detector(frames):
  """The fabricated face stands still; frames that are black in the middle have none."""
  points = np.array([[26.0, 20.0], [38.0, 20.0], [32.0, 31.0]])
  return [points if frame[24, 32].any() else None for frame in frames]


def nobody(frames):
  return [None] * len(frames)


@pytest.fixture
def detected(monkeypatch):
  monkeypatch.setattr(lrw, '_detector', lambda: detector)
  monkeypatch.setattr(named_faces, '_detector', lambda: detector)


# --------------------------------------------------------------------------------------------------
# Alignment
# --------------------------------------------------------------------------------------------------


def test_eyes_and_mouth_come_to_their_places():
  picture = np.full((48, 64, 3), 90, np.uint8)
  points = np.array([[20.0, 18.0], [36.0, 22.0], [26.0, 34.0]])
  for x, y in points:
    cv2.circle(picture, (int(x), int(y)), 2, (250, 250, 250), -1)
  transform = alignment.face_transform(*points)
  face = alignment.align_face(picture, transform).astype(int)
  moved = points @ transform[:, :2].T + transform[:, 2]
  # A rotation with one scale: angles stay, so the three do not fit their template exactly.
  assert np.abs(moved - [[140, 224], [220, 224], [180, 300]]).max() < 12
  for x, y in (moved - (44, 104)) * 260 / 268:
    assert face[round(y), round(x)].min() > 180


@pytest.mark.parametrize('angle', [0.0, 0.4, -1.1])
def test_similarity_finds_the_turn_that_was_made(angle):
  rng = np.random.default_rng(0)
  points = rng.uniform(0, 100, (6, 2))
  turn = 1.7 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  found = alignment.similarity(points, points @ turn.T + [3, -8])
  np.testing.assert_allclose(found, np.column_stack([turn, [3, -8]]), atol=1e-9)


def test_frames_without_a_face_borrow_from_their_neighbours():
  frames = [np.full((48, 64, 3), 100, np.uint8) for _ in range(5)]
  whole = landmarks.aligned_faces(frames, detector)
  frames[2] = frames[2].copy()
  frames[2][24, 32] = 0
  faces = landmarks.aligned_faces(frames, detector)
  assert faces.shape == (5, 260, 260, 3)
  np.testing.assert_array_equal(faces[[0, 1, 3, 4]], whole[[0, 1, 3, 4]])
  with pytest.raises(errors.DataError, match='no face was found'):
    landmarks.aligned_faces(frames, nobody)


# --------------------------------------------------------------------------------------------------
# LRW
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def words(tmp_path_factory):
  root = tmp_path_factory.mktemp('lrw')
  for word in ('ABOUT', 'WORLD'):
    for folder in ('train', 'val', 'test'):
      (root / word / folder).mkdir(parents=True)
      path = root / word / folder / f'{word}_00001.mp4'
      clips.write(path, 29, audio=clips.tone(1.16))
  return root


def test_lrw_becomes_records_with_a_number_for_every_word(words, tmp_path, detected):
  info, skipped = lrw.prepare(words, tmp_path / 'lrw', progress=False)
  assert skipped == 0 and info.clips == {'train': (2,), 'valid': (2,), 'test': (2,)}
  assert info.preparation['words'] == ['about', 'world']
  source = records.RecordSource(tmp_path / 'lrw', 'valid')
  clip = records.decode_clip(source[1])
  assert (clip.clip_id, clip.word) == ('WORLD_00001/valid', 'world')
  assert clip.extras['word_label'].tolist() == [1]
  assert len(clip.frames) == 29 and clip.boxes[0].tolist() == [2, 2, 258, 258]
  assert len(clip.wav) == 29 * 640
  frames = np.empty((29, 260, 260, 3), np.uint8)
  pipeline.decode_jpegs(clip.frames, frames, where='here')
  x, y = ALIGNED[2].astype(int)
  assert abs(int(frames[3, y, x, 0]) - 100) < 12  # the fabricated grey


def test_clips_of_lrw_that_are_no_use_are_left_out(words, tmp_path, monkeypatch):
  source = lrw.find_clips(words)['train'][0]
  with pytest.raises(errors.DataError, match='no face was found'):
    lrw.make_clip(source, detector=nobody)
  clips.write(tmp_path / 'short.mp4', 5, audio=clips.tone(0.2))
  short = lrw.dataclasses.replace(source, path=str(tmp_path / 'short.mp4'))
  with pytest.raises(errors.DataError, match='it has 5 frames instead of 29'):
    lrw.make_clip(short, detector=detector)


def test_what_is_no_lrw_is_refused(tmp_path):
  with pytest.raises(errors.DataError, match='there are no folders of words'):
    lrw.find_clips(tmp_path)
  (tmp_path / 'ABOUT' / 'train').mkdir(parents=True)
  with pytest.raises(errors.DataError, match='ABOUT has no clips in train'):
    lrw.find_clips(tmp_path)


# --------------------------------------------------------------------------------------------------
# Named faces
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def people(tmp_path):
  root = tmp_path / 'people'
  for name in ('Ada', 'Bob'):
    (root / name).mkdir(parents=True)
    for i in range(4):
      cv2.imwrite(str(root / name / f'{i}.png'), np.full((48, 64, 3), 100 + i, np.uint8))
  (root / 'Bob' / 'notes.txt').touch()
  return root


def test_named_faces_become_clips_of_one_frame(people, tmp_path, detected):
  info, skipped = named_faces.prepare(
    people, tmp_path / 'faces', licence='mine', valid_share=0.25, progress=False
  )
  assert skipped == 0 and info.clips == {'train': (6,), 'valid': (2,)}
  assert info.licence == 'mine' and info.preparation['people'] == 2
  clips_there = [
    records.decode_clip(record)
    for split in ('train', 'valid')
    for record in _all(records.RecordSource(tmp_path / 'faces', split))
  ]
  assert {(clip.speaker, int(clip.extras['identity'][0])) for clip in clips_there} == {
    ('Ada', 0),
    ('Bob', 1),
  }
  assert all(len(clip.frames) == 1 and len(clip.wav) == 0 for clip in clips_there)
  assert len({clip.clip_id for clip in clips_there}) == 8


def _all(source):
  return [source[i] for i in range(len(source))]


def test_more_pictures_do_not_move_the_others(people):
  before = named_faces.find_pictures(people, valid_share=0.25)
  (people / 'Ada' / 'new.jpg').touch()
  after = named_faces.find_pictures(people, valid_share=0.25)
  bobs = [{x.clip_id for x in found['valid'] if x.person == 'Bob'} for found in (before, after)]
  assert bobs[0] == bobs[1]


def test_what_are_no_named_faces_is_refused(tmp_path, people):
  with pytest.raises(errors.ConfigError, match='--valid_share=0.9'):
    named_faces.prepare(people, tmp_path / 'x', licence='', valid_share=0.9)
  (tmp_path / 'none').mkdir()
  with pytest.raises(errors.DataError, match='there are no folders of people'):
    named_faces.find_pictures(tmp_path / 'none', valid_share=0.1)
  (tmp_path / 'none' / 'Eve').mkdir()
  with pytest.raises(errors.DataError, match='Eve has 0 pictures'):
    named_faces.find_pictures(tmp_path / 'none', valid_share=0.1)
  (people / 'Ada' / 'x.png').write_bytes(b'x')
  source = named_faces.Source(str(people / 'Ada' / 'x.png'), 'Ada/x', 'Ada', 0, 'train')
  with pytest.raises(errors.MediaError, match='this is not a picture'):
    named_faces.make_clip(source, detector=detector)


@pytest.mark.parametrize('command', [lrw, named_faces])
def test_a_flag_that_is_missing_is_named(command):
  from absl import flags

  values = flags.FlagValues()
  command.define_flags(values)
  values(['command'])
  with pytest.raises(errors.ConfigError, match='--input is missing'):
    command.main(['command'], values)
  with pytest.raises(errors.ConfigError, match='unexpected arguments'):
    command.main(['command', 'x'], values)
  values(['command', '--input=/none', '--output=/tmp/x', *_licence(command)])
  with pytest.raises(errors.ConfigError, match='--input=/none is not a folder'):
    command.main(['command'], values)


def _licence(command):
  return ['--licence=mine'] if command is named_faces else []
