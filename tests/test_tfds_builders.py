"""The corpora as TFDS datasets, on a tiny folder."""

import clips
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_prep import clip_maker, corpora, tfds_builders
from data_prep.prepare import make_job
from tfg_jax.data import pipeline

FRAMING = {'crop': 'face', 'size': 32}


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
  root = tmp_path_factory.mktemp('videos')
  for split, count in (('train', 2), ('valid', 1), ('test', 1)):
    (root / split).mkdir()
    for i in range(count):
      path = root / split / f'{i}.mp4'
      clips.write(path, 6, size=(64, 64), audio=clips.tone(0.24, hertz=300 + i))
      path.with_suffix('.txt').write_text(f'say {i}')
  clips.write(root / 'train' / 'mute.mp4', 6, size=(64, 64))
  return root


def test_tfds_gives_what_prepare_makes(videos, tmp_path):
  config = tfds_builders.CorpusConfig(name='small', framing=FRAMING, licence='mine')
  data, info = tfds.load(
    'tfg_folder',
    builder_kwargs={'config': config},
    data_dir=tmp_path,
    download_and_prepare_kwargs={
      'download_config': tfds.download.DownloadConfig(manual_dir=videos)
    },
    with_info=True,
  )
  assert {split: len(own) for split, own in data.items()} == {'train': 2, 'valid': 1, 'test': 1}
  job = make_job('folder', str(videos), licence='mine', framing=FRAMING)
  (raw,) = (raw for raw in job.listing.clips if raw.clip_id == 'train/1')
  clip = clip_maker.make_clip(raw, job.framing).clip
  (example,) = (x for x in tfds.as_numpy(data['train']) if x['clip_id'] == b'train/1')
  assert example['text'] == b'say 1' and example['fps'] == 25 and example['sample_rate'] == 16_000
  np.testing.assert_array_equal(example['wav'], clip.wav)
  np.testing.assert_array_equal(example['boxes'], clip.boxes)
  frames = np.empty((6, 32, 32, 3), np.uint8)
  pipeline.decode_jpegs(clip.frames, frames, where='here')
  assert np.abs(example['frames'].astype(int) - frames).mean() < 2  # two JPEG decoders
  assert info.metadata['dropped'] == {'the file has no audio stream': 1}


def test_labels_come_along(tmp_path):
  for half, person in (('dev', 'id00003'), ('dev', 'id00007'), ('test', 'id00009')):
    for kind in ('mp4/{}/v/00001.mp4', 'aac/{}/v/00001.m4a'):
      path = tmp_path / 'raw' / half / kind.format(person)
      path.parent.mkdir(parents=True)
      sound = clips.tone(0.24)
      clips.write(path, 6, size=(64, 64)) if 'mp4' in kind else clips.write(path, audio=sound)
  config = tfds_builders.CorpusConfig(name='small', framing={'size': 32})
  data = tfds.load(
    'tfg_voxceleb2',
    split='train+test',
    builder_kwargs={'config': config},
    data_dir=tmp_path / 'out',
    download_and_prepare_kwargs={
      'download_config': tfds.download.DownloadConfig(manual_dir=tmp_path / 'raw')
    },
  )
  found = {x['speaker'].decode(): x['identity'].tolist() for x in tfds.as_numpy(data)}
  assert found == {'id00003': [0], 'id00007': [1], 'id00009': [0]}


def test_every_corpus_has_a_builder_with_features():
  for name in corpora.names():
    builder = tfds.builder_cls(f'tfg_{name}')
    assert builder.corpus == name
