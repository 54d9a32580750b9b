"""Settings of all tests: two virtual devices, quick compilation, and a cache that tests share."""

import os
import pathlib
import pickle

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import corpus
import hypothesis
import jax
import numpy as np
import pytest
import runs
from noise import noisy_variables

jax.config.update('jax_num_cpu_devices', 2)
# A first example compiles, and a busy machine is no fault.
hypothesis.settings.register_profile('untimed', deadline=None)
hypothesis.settings.load_profile('untimed')
_PARITY = pathlib.Path(__file__).parent / 'parity'


def pytest_configure(config):
  """`pytest tests/parity` means all that is there; and the compiler's effort, before JAX starts."""
  chosen = any(argument.startswith('-m') for argument in config.invocation_params.args)
  paths = (pathlib.Path(argument.split('::')[0]).resolve() for argument in config.args)
  if not chosen and all(_PARITY in (path, *path.parents) for path in paths):
    config.option.markexpr = ''
  # Tiny networks wait for the compiler, full-size ones for the arithmetic.
  if config.option.markexpr not in ('', 'parity'):
    os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')


@pytest.fixture(scope='session', autouse=True)
def compilation_cache(tmp_path_factory):
  """One folder of compiled programs, that of the environment or one for this run: for all workers
  of pytest and the processes that they start."""
  base = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    base = base.parent
  settings = {
    'jax_compilation_cache_dir': str(base / 'compiled'),
    'jax_persistent_cache_min_compile_time_secs': 0.2,
  }
  for name, value in settings.items():
    value = os.environ.setdefault(name.upper(), str(value))
    jax.config.update(name, type(settings[name])(value))


@pytest.fixture(scope='session')
def toy_records(tmp_path_factory):
  """A record set of 8 training and 3 validation clips, see `tests/corpus.py`."""
  return corpus.write(tmp_path_factory.mktemp('toy'))


@pytest.fixture(scope='session')
def twin(toy_records):
  """`twin(variant, **changes)`: the small TalkLip config on the toy records."""
  from configs import talklip

  def config(variant='no_lip', **changes):
    c = talklip.get_test_config(variant)
    c.data.root = str(toy_records)
    c.update_from_flattened_dict(changes)
    return c

  return config


@pytest.fixture(scope='session')
def expert_workdir(toy_records, tmp_path_factory):
  """The workdir of a tiny lip expert with random weights, as deep as the twin's audio encoder."""
  from configs import lip_expert

  config = lip_expert.get_test_config('puppets_finetune')
  config.model.encoder.depth = 4
  return runs.untrained(config, toy_records, tmp_path_factory.mktemp('expert'))


@pytest.fixture(scope='session')
def trained_workdir(twin, tmp_path_factory):
  """The workdir of the twin after its 4 steps; tests must not change it."""
  from tfg_jax import train

  workdir = tmp_path_factory.mktemp('trained')
  assert train.train_and_evaluate(twin(), workdir, devices=jax.devices()[:1])
  return workdir


@pytest.fixture(scope='session')
def vggface_folder(tmp_path_factory):
  """A narrow VGGFace2 ResNet-50 that knows 11 people, imported from a pickle of arrays."""
  from tfg_jax import convert, pytorch
  from tfg_jax.networks.resnet import ResNet

  folder = tmp_path_factory.mktemp('vggface')
  network = ResNet(stem=3, widths=(2, 3, 2, 3), classes=11)
  variables = noisy_variables(network, np.zeros((1, 64, 64, 3), np.float32), train=False)
  tensors = pytorch.to_torch('vggface2_resnet50', variables)
  (folder / 'x.pkl').write_bytes(pickle.dumps(tensors, 2))
  convert.import_network('vggface2_resnet50', folder / 'x.pkl', folder / 'converted')
  return folder / 'converted'
