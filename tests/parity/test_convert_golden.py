"""Whole public networks through files: PyTorch file -> Orbax checkpoint -> file, bit for bit."""

import collections
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from reference import manifest, reference_tensors

from tfg_jax import convert
from tfg_jax.pytorch import files
from tfg_jax.pytorch.tables import TABLES

pytestmark = pytest.mark.parity

# Their tables are those of the base models; a gigabyte and more each.
LARGE = {'avhubert_large_encoder', 'avhubert_large_seq2seq'}
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


def official_file(path, network):
  """Saves the reference weights as the official program would have."""
  state = collections.OrderedDict(
    (key, torch.from_numpy(np.asarray(x))) for key, x in reference_tensors(network).items()
  )
  as_zip = True
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


@pytest.mark.parametrize('network', sorted(TABLES.keys() - LARGE))
def test_file_to_checkpoint_to_file_is_exact(tmp_path, network):
  official_file(tmp_path / 'official.pth', network)
  conversion = convert.import_network(network, tmp_path / 'official.pth', tmp_path / 'net')
  assert conversion.notes == []
  (tmp_path / 'official.pth').unlink()
  convert.export_network(network, tmp_path / 'net', tmp_path / 'ours.pth')
  ours, expected = files.read(tmp_path / 'ours.pth'), reference_tensors(network)
  assert ours.keys() == manifest(network)['tensors'].keys()
  for key, array in expected.items():
    tensor = np.asarray(ours[key])
    assert tensor.dtype == array.dtype and tensor.shape == array.shape
    np.testing.assert_array_equal(tensor, array, err_msg=key)
  files_left = [path for path in tmp_path.rglob('*') if path.is_file()]
  for path in files_left:
    path.unlink()  # gigabytes over all networks


def test_memory_of_the_largest_generator(tmp_path):
  """137.6 million parameters: less than three times their 550 MB above the bare interpreter."""
  network = 'talklip_generator'
  official_file(tmp_path / 'x.pth', network)
  size = sum(x.nbytes for x in reference_tensors(network).values())
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
  if not os.path.exists('/proc/self/status'):
    pytest.skip('needs Linux')
  result = subprocess.run(
    [sys.executable, '-c', script, network, tmp_path / 'x.pth', tmp_path / 'net'],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(__file__).parents[2],
    check=True,
  )
  used = int(result.stdout)
  print(f'{used / 1e6:.0f} MB for {size / 1e6:.0f} MB of weights')
  assert used < 3 * size
