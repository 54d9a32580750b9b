"""Whole public networks through files: PyTorch file -> Orbax checkpoint -> file, bit for bit."""

import collections
import functools
import math
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from reference import manifest, reference_tensors

from tfg_jax import convert
from tfg_jax.pytorch import files
from tfg_jax.pytorch.tables import TABLES

torch = pytest.importorskip('torch', reason='needs the extra [torch]')

pytestmark = pytest.mark.parity

# Larger ones cost minutes, and their tables pass through memory in test_tables.
MAX_NUMBERS = 65e6
LARGEST_GENERATOR = 'talklip_generator'
# How each program wraps its state_dict, where it does not save it bare.
WRAPPERS = {
  'avhubert': lambda state: {'args': None, 'model': state},
  'color_syncnet': lambda state: {'state_dict': state, 'global_step': 1},
  'cpc_audio': lambda state: {'config': {}, 'weights': state},
  'sf2f_generator': lambda state: {'model_state': state},
  'sf2f_identity_discriminator': lambda state: {'d_ac_state_0': state},
  'sf2f_image_discriminator': lambda state: {'d_img_state_0': state},
  'talklip': lambda state: {'state_dict': state, 'global_step': 1},
  'voice2face_discriminator': lambda state: {'d_ac_state_0': state},
  'voice2face_generator': lambda state: {'model_state': state},
  'wav2lip': lambda state: {'state_dict': {f'module.{key}': x for key, x in state.items()}},
}
DAVS_ENTRIES = {
  'davs_decoder': 'Decoder',
  'davs_identity_encoder': 'ID_encoder',
  'davs_image_discriminator': 'netD',
  'davs_lip_encoder': 'lip_feature_encoder',
  'davs_mfcc_encoder': 'mfcc_encoder',
  'davs_sequence_discriminator': 'netD_mul',
}


def numbers(network):
  return sum(math.prod(shape) for shape, _ in manifest(network)['tensors'].values())


SMALL = [network for network in sorted(TABLES) if numbers(network) < MAX_NUMBERS]

tensors_of = functools.lru_cache(maxsize=1)(reference_tensors)


def official_file(path, network):
  """Saves the reference weights as the official program would have."""
  state = collections.OrderedDict(
    (key, torch.from_numpy(np.asarray(x))) for key, x in tensors_of(network).items()
  )
  as_zip = True
  if network == 'vggface2_resnet50':
    path.write_bytes(pickle.dumps({key: x.numpy() for key, x in state.items()}, 2))
    return
  if network in DAVS_ENTRIES:
    as_zip = False  # PyTorch 0.2
    state = {DAVS_ENTRIES[network]: {f'module.{key}': x for key, x in state.items()}, 'step': 1}
  elif network in ('davs_classifiers', 'mvm_lrw'):
    entries = collections.defaultdict(dict)
    for key, x in state.items():
      entry, key = key.split('.', 1)
      entries[entry][key] = x
    state = dict(entries)
  else:
    for prefix, wrap in WRAPPERS.items():
      if network.startswith(prefix):
        state = wrap(state)
  torch.save(state, path, _use_new_zipfile_serialization=as_zip)


def assert_export_is_exact(directory, network, output):
  """Exports and compares; removes both, since all networks together have gigabytes."""
  convert.export_network(network, directory, output)
  shutil.rmtree(directory)
  ours, expected = files.read(output), tensors_of(network)
  assert ours.keys() == manifest(network)['tensors'].keys()
  for key, array in expected.items():
    tensor = np.asarray(ours[key])
    assert tensor.dtype == array.dtype and tensor.shape == array.shape
    np.testing.assert_array_equal(tensor, array, err_msg=key)
  output.unlink()


@pytest.mark.parametrize('network', SMALL)
def test_file_to_checkpoint_to_file_is_exact(tmp_path, network):
  official_file(tmp_path / 'official.pth', network)
  conversion = convert.import_network(network, tmp_path / 'official.pth', tmp_path / 'net')
  assert conversion.notes == []
  (tmp_path / 'official.pth').unlink()
  assert_export_is_exact(tmp_path / 'net', network, tmp_path / 'ours.pth')


@pytest.mark.skipif(not pathlib.Path('/proc/self/status').exists(), reason='needs Linux')
def test_the_largest_generator_needs_less_than_three_times_its_size(tmp_path):
  """Memory above the bare interpreter, for 137.6 million parameters, 551 MB."""
  official_file(tmp_path / 'x.pth', LARGEST_GENERATOR)
  script = (
    'import pathlib, sys\n'
    'def peak():\n'
    '  status = pathlib.Path("/proc/self/status").read_text()\n'
    '  return 1024 * int(status.split("VmHWM:")[1].split()[0])\n'
    'bare = peak()\n'
    'from tfg_jax import convert\n'
    'convert.import_network(*sys.argv[1:])\n'
    'print(peak() - bare)\n'
  )
  arguments = [LARGEST_GENERATOR, tmp_path / 'x.pth', tmp_path / 'net']
  result = subprocess.run(
    [sys.executable, '-c', script, *arguments],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(__file__).parents[2],
    check=True,
  )
  size = 4 * numbers(LARGEST_GENERATOR)
  print(f'{int(result.stdout) / 1e6:.0f} MB for {size / 1e6:.0f} MB of weights')
  assert int(result.stdout) < 3 * size
  (tmp_path / 'x.pth').unlink()
  assert_export_is_exact(tmp_path / 'net', LARGEST_GENERATOR, tmp_path / 'ours.pth')
