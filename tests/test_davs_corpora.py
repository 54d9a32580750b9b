"""The adapters of LRW and of named faces, on fabricated folders of their layout."""

import dataclasses

import clips
import cv2
import numpy as np
import pytest

from data_prep import clip_maker, landmarks, listing
from data_prep.corpora import lrw, named_faces
from tfg_jax import alignment, errors
from tfg_jax.data import pipeline

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
  monkeypatch.setattr(clip_maker, 'landmark_detector', lambda: detector)


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


def test_lrw_becomes_records_with_a_number_for_every_word(words, detected):
  found = lrw.list_clips(words)
  splits = [clip.split for clip in found.clips]
  assert splits == ['train', 'train', 'valid', 'valid', 'test', 'test']
  assert found.facts == {'words': ['about', 'world']}
  clip = clip_maker.make_clip(found.clips[3], lrw.FRAMING).clip
  assert (clip.clip_id, clip.word) == ('WORLD_00001/valid', 'world')
  assert clip.extras['word_label'].tolist() == [1]
  assert len(clip.frames) == 29 and clip.boxes[0].tolist() == [2, 2, 258, 258]
  assert len(clip.wav) == 29 * 640
  frames = np.empty((29, 260, 260, 3), np.uint8)
  pipeline.decode_jpegs(clip.frames, frames, where='here')
  x, y = ALIGNED[2].astype(int)
  assert abs(int(frames[3, y, x, 0]) - 100) < 12  # the fabricated grey


def test_clips_of_lrw_that_are_no_use_are_left_out(words, tmp_path, monkeypatch):
  monkeypatch.setattr(clip_maker, 'landmark_detector', lambda: nobody)
  source = lrw.list_clips(words).clips[0]
  with pytest.raises(errors.DataError, match='no face was found'):
    clip_maker.make_clip(source, lrw.FRAMING)
  path = clips.write(tmp_path / 'short.mp4', 5, audio=clips.tone(0.2))
  short = dataclasses.replace(source, video=path, sounds=(listing.Sound(path),))
  with pytest.raises(errors.DataError, match='it has 5 frames instead of 29'):
    clip_maker.make_clip(short, lrw.FRAMING)


def test_what_is_no_lrw_is_refused(tmp_path):
  with pytest.raises(errors.DataError, match='there are no folders of words'):
    lrw.list_clips(tmp_path)
  (tmp_path / 'ABOUT' / 'train').mkdir(parents=True)
  with pytest.raises(errors.DataError, match='ABOUT has no clips in train'):
    lrw.list_clips(tmp_path)


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


def test_named_faces_become_clips_of_one_frame(people, detected):
  found = named_faces.list_clips(people, valid_share=0.25)
  assert sorted(clip.split for clip in found.clips) == 6 * ['train'] + 2 * ['valid']
  assert found.facts == {'people': 2} and len({clip.clip_id for clip in found.clips}) == 8
  made = [clip_maker.make_clip(raw, named_faces.FRAMING).clip for raw in found.clips]
  assert {(clip.speaker, int(clip.extras['identity'][0])) for clip in made} == {
    ('Ada', 0),
    ('Bob', 1),
  }
  assert all(len(clip.frames) == 1 and len(clip.wav) == 0 for clip in made)
  assert made[0].boxes.tolist() == [[2, 2, 258, 258]] and made[0].height == 260


def test_more_pictures_do_not_move_the_others(people):
  before = named_faces.list_clips(people, valid_share=0.25)
  (people / 'Ada' / 'new.jpg').touch()
  after = named_faces.list_clips(people, valid_share=0.25)
  bobs = [{x.clip_id: x.split for x in found.clips if x.speaker == 'Bob'}
          for found in (before, after)]  # fmt: skip
  assert bobs[0] == bobs[1]


def test_what_are_no_named_faces_is_refused(tmp_path, people):
  with pytest.raises(errors.ConfigError, match='--valid_share=0.9'):
    named_faces.list_clips(people, valid_share=0.9)
  (tmp_path / 'none').mkdir()
  with pytest.raises(errors.DataError, match='there are no folders of people'):
    named_faces.list_clips(tmp_path / 'none')
  (tmp_path / 'none' / 'Eve').mkdir()
  with pytest.raises(errors.DataError, match='Eve has 0 pictures'):
    named_faces.list_clips(tmp_path / 'none')
  (people / 'Ada' / 'x.png').write_bytes(b'x')
  (source,) = (x for x in named_faces.list_clips(people).clips if x.clip_id == 'Ada/x.png')
  with pytest.raises(errors.MediaError, match='no size that can be read|not a media file'):
    clip_maker.make_clip(source, named_faces.FRAMING)
