"""Configs are checked before anything is computed; every message names the key."""

import re

import jax
import ml_collections
import pytest

from configs import demo, talklip
from tfg_jax import configuration, errors, partition


def with_changes(**changes):
  config = talklip.get_test_config('no_lip').to_dict()
  for key, value in changes.items():
    section = config
    *path, last = key.split('__')
    for name in path:
      section = section[name]
    section[last] = value
  return ml_collections.ConfigDict(config)


def test_a_config_becomes_typed_settings():
  run = configuration.resolve(demo.get_config())
  assert run.data.batch_size == demo.get_config().data.batch_size
  assert run.checkpoint.keep_best == 1  # the default of a key that the config leaves out
  assert run.data.per_process['process_count'] == 1
  assert configuration.resolve(with_changes(data__fps=25)).data.fps == 25.0


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'sede': 1}, 'unknown key sede.'),
    ({'data__bath_size': 1}, 'unknown key data.bath_size.'),
    ({'num_steps': 0}, 'num_steps is 0.'),
    ({'seed': -1}, 'seed is -1.'),
    ({'dtype': 'float16'}, "dtype is 'float16'."),
    ({'data__batch_size': 'two'}, "data.batch_size is 'two', a str; it needs a int."),
    ({'data__batch_size': True}, 'data.batch_size is True, a bool'),
    ({'data__fps': '25'}, "data.fps is '25', a str; it needs a float."),
    ({'data__workers': -1}, 'data.workers is -1.'),
    ({'data__height': 0}, 'data.height is 0.'),
    ({'checkpoint__every': 0}, 'checkpoint.every is 0.'),
    ({'checkpoint__keep_best': -1}, 'checkpoint.keep_best is -1.'),
    ({'evaluation__every': 0}, 'evaluation.every is 0.'),
    ({'evaluation__max_clips': -1}, 'evaluation.max_clips is -1.'),
    ({'evaluation__samples': -1}, 'evaluation.samples is -1.'),
  ],
)
def test_impossible_values(changes, message):
  with pytest.raises(errors.ConfigError, match=re.escape(message)):
    configuration.resolve(with_changes(**changes))


def test_a_typo_is_answered_with_the_key_that_was_meant():
  with pytest.raises(errors.ConfigError, match='did you mean data.batch_size?'):
    configuration.resolve(with_changes(data__bath_size=1))


def test_a_missing_key_is_named():
  config = talklip.get_test_config('no_lip')
  del config['num_steps']
  with pytest.raises(errors.ConfigError, match='num_steps is missing'):
    configuration.resolve(config)


def test_a_field_that_no_module_has():
  from tfg_jax.networks.face_unet import FaceUNet

  with pytest.raises(errors.ConfigError, match='unknown key model.face.encodr'):
    configuration.build_module(FaceUNet, {'encodr': [1]}, 'model.face')
  built = configuration.build_module(FaceUNet, {'encoder': [4, 8]}, 'model.face')
  assert built.encoder == (4, 8)


def test_partitions_that_cannot_be(monkeypatch):
  with pytest.raises(errors.ConfigError, match="partition is 'shard'"):
    partition.build('shard', batch_size=2)
  with pytest.raises(errors.ConfigError, match='a batch of 3 does not divide over 2 devices'):
    partition.build('jit', batch_size=3, devices=jax.devices()[:2])
  monkeypatch.setattr(jax, 'process_count', lambda: 4)
  with pytest.raises(errors.ConfigError, match="partition is 'pmap'; it is for .* here are 4"):
    partition.build('pmap', batch_size=4)
