"""The adapter of HQ-VoxCeleb, on a fabricated folder of the same layout."""

import dataclasses
import json

import clips as media_files
import cv2
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from data_prep import clip_maker
from data_prep.corpora import hq_voxceleb
from tfg_jax import alignment
from tfg_jax.errors import ConfigError, DataError
from tfg_jax.features import portrait

PEOPLE = [f'Person_{i:02d}' for i in range(12)]


@pytest.fixture(scope='module')
def layout(tmp_path_factory):
  """Twelve people of vox1 in the metadata; three have portraits and speech, one no portraits."""
  root = tmp_path_factory.mktemp('voxceleb')
  for sub in ('vox1', 'vox2'):
    (root / sub).mkdir()
  lines = ['VoxCeleb1 ID\tVGGFace1 ID\tGender'] + [f'id{i}\t{n}\tm' for i, n in enumerate(PEOPLE)]
  (root / 'vox1' / 'vox1_meta.csv').write_text('\n'.join(lines) + '\n')
  (root / 'vox2' / 'full_vox2_meta.csv').write_text('Name , VoxCeleb2ID \n')
  for number in (1, 0, 8, 9):  # train, train, test, valid by their rows
    faces = root / 'vox1' / 'masked_faces' / PEOPLE[number]
    faces.mkdir(parents=True)
    for i in range(2):
      picture = np.full((80, 80, 3), 20 * number + i, np.uint8)
      cv2.imwrite(str(faces / f'{i}.jpg'), picture)
  for number in (0, 1, 2, 8, 9):
    folder = root / 'raw' / 'vox1' / 'dev' / f'id{number}' / 'clip'
    folder.mkdir(parents=True)
    for i, seconds in enumerate((2.0, 3.0) if number else (20.0, 15.0, 32.0)):
      path = folder / f'{i:05d}.wav'
      media_files.write(
        path, audio=media_files.tone(seconds, hertz=200 + 100 * i), audio_codec='pcm_s16le'
      )
  return root


@pytest.fixture(scope='module')
def prepared(layout):
  """split -> its records."""
  framing = dataclasses.replace(hq_voxceleb.FRAMING, size=64)
  splits = {'train': [], 'valid': [], 'test': []}
  for raw in hq_voxceleb.list_clips(layout, speech=layout / 'raw').clips:
    splits[raw.split].append(clip_maker.make_clip(raw, framing).clip)
  return splits


def test_people_are_divided_by_the_rows_of_the_metadata(prepared):
  found = {split: {clip.speaker for clip in own} for split, own in prepared.items()}
  assert found == {
    'train': {'Person_00', 'Person_01'},
    'test': {'Person_08'},
    'valid': {'Person_09'},
  }
  numbers = {clip.speaker: int(clip.extras['identity'][0]) for clip in prepared['train']}
  assert numbers == {'Person_00': 0, 'Person_01': 1}


def test_records_hold_thirty_seconds_and_know_their_utterances(prepared):
  first, second, third, fourth = prepared['train'][:4]
  spans = [clip.extras['utterances'].reshape(-1, 2) / 16_000 for clip in (first, second, third)]
  np.testing.assert_allclose(spans[0], [[0, 20]], atol=0.01)
  np.testing.assert_allclose(spans[1], [[0, 15]], atol=0.01)
  np.testing.assert_allclose(spans[2], [[0, 30]], atol=0.01)
  np.testing.assert_allclose(fourth.extras['utterances'] / 16_000, [0, 2], atol=0.01)
  clip = prepared['valid'][0]
  np.testing.assert_allclose(clip.extras['utterances'] / 16_000, [0, 2, 2, 5], atol=0.01)
  assert len(clip.wav) == clip.extras['utterances'][-1]
  assert clip.fps == pytest.approx(1 / 30)
  assert len(clip.extras['portrait']) == 2 and len(clip.frames) == 1
  picture = cv2.imdecode(np.frombuffer(clip.extras['portrait'][1], np.uint8), cv2.IMREAD_COLOR)
  assert picture.shape == (64, 64, 3) and abs(int(picture[9, 9, 0]) - 181) <= 1


def test_a_split_file_overrules_the_rows(layout, tmp_path):
  path = layout / 'split.json'
  path.write_text(json.dumps({'vox1': {'train': PEOPLE[8:9], 'val': PEOPLE[:1], 'test': []}}))
  try:
    found = hq_voxceleb.list_clips(layout, speech=layout / 'raw')
    assert {(clip.speaker, clip.split) for clip in found.clips} == {
      ('Person_08', 'train'),
      ('Person_00', 'valid'),
    }
    path.write_text('{"vox1": {"dev": ["x"]}}')
    with pytest.raises(DataError, match='split.json is not'):
      hq_voxceleb.read_people(layout)
  finally:
    path.unlink()


def test_errors_name_what_is_missing(layout, tmp_path):
  with pytest.raises(DataError, match='vox1_meta.csv cannot be read: No such file'):
    hq_voxceleb.read_people(tmp_path)
  with pytest.raises(DataError, match='nobody has both portraits and speech'):
    hq_voxceleb.list_clips(layout, speech=tmp_path)
  (tmp_path / 'vox1').mkdir()
  (tmp_path / 'vox1' / 'vox1_meta.csv').write_text('a\tb\n1\t2\n')
  with pytest.raises(DataError, match="there is no column 'VoxCeleb1 ID'"):
    hq_voxceleb.read_people(tmp_path)
  with pytest.raises(ConfigError, match='--speech is missing'):
    hq_voxceleb.list_clips(layout)


def test_portraits_are_cut_in_no_other_way():
  with pytest.raises(ConfigError, match='--crop=track; expected one of face, aligned'):
    dataclasses.replace(hq_voxceleb.FRAMING, crop='track')
  with pytest.raises(ConfigError, match=r'--size=260; expected one of \(64, 128, 256\)'):
    dataclasses.replace(hq_voxceleb.FRAMING, crop='aligned', size=260)


def _dots(pupils, side):
  """A grey picture with a red left pupil and a blue right one."""
  picture = np.full((side, side, 3), 128, np.uint8)
  for point, colour in zip(pupils, ((255, 0, 0), (0, 0, 255)), strict=True):
    centre = tuple(int(round(16 * x)) for x in point)
    cv2.circle(picture, centre, 16 * 5, colour, -1, cv2.LINE_AA, shift=4)
  return picture


def _pupils_of(portrait):
  """Where the two dots are, in shares of the side."""
  pixels = portrait.astype(float)
  rows, columns = np.mgrid[: len(portrait), : len(portrait)]
  for this, other in ((0, 2), (2, 0)):
    weight = np.clip(pixels[..., this] - pixels[..., other] - 30, 0, None)
    x, y = (weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()
    yield (x + 0.5) / len(portrait), (y + 0.5) / len(portrait)


@hypothesis.given(
  apart=st.floats(40, 160), angle=st.floats(-1.0, 1.0), x=st.floats(150, 250), y=st.floats(150, 250)
)
@hypothesis.settings(max_examples=25)
def test_pupils_come_to_their_places(apart, angle, x, y):
  half = apart / 2 * np.array([np.cos(angle), np.sin(angle)])
  pupils = [np.array([x, y]) - half, np.array([x, y]) + half]
  aligned = alignment.align_portrait(_dots(pupils, 400), *pupils, 128)
  assert aligned.shape[0] % 128 == 0  # averages whole pixels
  found = list(_pupils_of(portrait.resize(aligned, 128)))
  np.testing.assert_allclose(found, [[0.38, 0.465], [0.62, 0.465]], atol=0.006)


def test_the_face_of_an_aligned_portrait_is_where_networks_look_for_it():
  # MTCNN's box around pupils at 0.27 and 0.73 of its width and 0.375 of its height.
  top, bottom, left, right = portrait.face_crop(128)
  width, height = right - left, bottom - top
  expected = [left + 0.27 * width, left + 0.73 * width], top + 0.375 * height
  picture = _dots([(100, 100), (160, 100)], 256)
  aligned = alignment.align_portrait(picture, (100, 100), (160, 100), 128)
  (x1, y1), (x2, y2) = _pupils_of(portrait.resize(aligned, 128))
  np.testing.assert_allclose([x1 * 128, x2 * 128], expected[0], atol=1.5)
  np.testing.assert_allclose([y1 * 128, y2 * 128], expected[1], atol=1.5)


def test_large_portraits_shrink_without_moire_and_have_white_around():
  stripes = np.zeros((1400, 1400, 3), np.uint8)
  stripes[:, ::2] = 255
  aligned = alignment.align_portrait(stripes, (550, 700), (850, 705), 128)
  shrunk = portrait.resize(aligned, 128)
  assert shrunk[50:80, 40:90].std() < 20  # single pixels would be black or white
  far = alignment.align_portrait(np.zeros((100, 100, 3), np.uint8), (30, 10), (70, 10), 64)
  assert far[0, 0].tolist() == [255, 255, 255]


def test_portraits_are_aligned_where_asked(layout, monkeypatch):
  framing = dataclasses.replace(hq_voxceleb.FRAMING, crop='aligned', size=64)
  raw = hq_voxceleb.list_clips(layout, speech=layout / 'raw').clips[0]
  points = np.array([[25.0, 30], [55, 30], [40, 60]])
  seen = iter([points, points * 0.9])  # the second one's pupils are 27 pixels apart
  monkeypatch.setattr(clip_maker, 'landmark_detector', lambda: lambda pictures: [next(seen)])
  made = clip_maker.make_clip(raw, framing)
  assert len(made.clip.extras['portrait']) == 1
  assert made.notes == {'portraits left out, as no face with pupils far enough apart was found': 1}
  picture = portrait.read(made.clip.extras['portrait'][0], 64)
  assert (picture[0] == 255).all() and picture[40, 32].max() < 30  # white around the grey picture
  monkeypatch.setattr(clip_maker, 'landmark_detector', lambda: lambda pictures: [None])
  with pytest.raises(DataError, match='in none of 2 portraits a face was found') as raised:
    clip_maker.make_clip(raw, framing)
  assert raised.value.where.endswith('masked_faces/Person_00')


def test_people_and_files_that_are_no_use_are_counted(layout):
  bad = layout / 'raw' / 'vox1' / 'dev' / 'id1' / 'clip' / '00009.wav'
  bad.touch()
  try:
    found = hq_voxceleb.list_clips(layout, speech=layout / 'raw')
  finally:
    bad.unlink()
  drops = {drop.clip_id: (drop.split, drop.message) for drop in found.drops}
  assert len(drops) == 9
  assert drops['vox1/Person_02'] == ('train', 'this person has no portraits')
  assert drops['vox1/Person_03'] == ('train', 'this person has no portraits and speech')
  assert drops['vox1/Person_01/00009.wav'] == ('train', 'the file is empty (0 bytes)')
  assert found.facts == {'people': {'train': 2, 'valid': 1, 'test': 1}}
