"""The adapter of HQ-VoxCeleb, on a fabricated folder of the same layout."""

import dataclasses
import json

import clips as media_files
import cv2
import numpy as np
import pytest

from data_prep import clip_maker
from data_prep.corpora import hq_voxceleb
from tfg_jax.errors import ConfigError, DataError

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
  with pytest.raises(ConfigError, match='--crop=aligned; expected one of face'):
    dataclasses.replace(hq_voxceleb.FRAMING, crop='aligned', size=260)


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
