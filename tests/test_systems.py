"""A system from somebody else's file goes through the loop like those of the papers."""

import json

import cv2
import jax
import ml_collections
import numpy as np
import pytest
from mean_face import MeanFace

from tfg_jax import configuration, errors, systems, train, trained
from tfg_jax.data import clip_codec, records


def config_of(root, **changes):
  c = ml_collections.ConfigDict(
    dict(
      system='mean_face:MeanFace',
      seed=0,
      num_steps=12,
      log_every=4,
      partition='jit',
      dtype='float32',
      data=dict(
        root=str(root), batch_size=8, max_frames=16, height=48, width=48, fps=25.0,
        sample_rate=16_000, workers=0,
      ),
      model=dict(size=16, learning_rate=0.5),
      checkpoint=dict(every=6, keep=2, keep_best=1),
      evaluation=dict(every=6, split='valid', max_clips=0, samples=2),
    )
  )  # fmt: skip
  c.update_from_flattened_dict(changes)
  return c


@pytest.mark.parametrize('kind', ['jit', 'pmap'])
def test_the_example_learns_the_mean_face(toy_records, tmp_path, kind):
  devices = jax.devices()[: 2 if kind == 'pmap' else 1]
  config = config_of(toy_records, partition=kind)
  assert train.train_and_evaluate(config, tmp_path, devices=devices)
  run = trained.load(tmp_path)
  assert isinstance(run.system, MeanFace)
  # All eight clips are in every batch, and their faces differ in colour.
  source = records.RecordSource(toy_records, 'train')
  colours = []
  for number in range(8):
    jpeg = np.frombuffer(clip_codec.decode(source[number]).frames[0], np.uint8)
    colours.append(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[10, 8, ::-1])
  drawn = np.asarray(run.state.nets['face'].params['pixels'])[1, 1] * 255
  np.testing.assert_allclose(drawn, np.mean(colours, axis=0), atol=3)
  means = json.loads((tmp_path / 'results.json').read_text())['means']
  assert means['ground_truth/l1'] == 0 < means['drawn/l1']
  assert 'Faces differ from the mean by' in (tmp_path / 'report.html').read_text()


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('talkl', "system is 'talkl'"),
    ('nowhere:Nothing', "system is 'nowhere:Nothing': No module named 'nowhere'"),
    ('mean_face:Nothing', "'mean_face:Nothing': module 'mean_face' has no attribute 'Nothing'"),
  ],
)
def test_systems_that_are_not_there(toy_records, name, message):
  run = configuration.resolve(config_of(toy_records, system=name))
  with pytest.raises(errors.ConfigError, match=message) as caught:
    systems.build(run, axis_name=None)
  assert 'known systems: avhubert' in str(caught.value) and 'module:Class' in str(caught.value)


def test_keys_that_the_example_does_not_know_are_refused(toy_records):
  config = config_of(toy_records)
  config.model.colour = 'red'
  with pytest.raises(errors.ConfigError, match='model.colour'):
    systems.build(configuration.resolve(config), axis_name=None)
