"""Deterministic weights for parity checks: the same tensors from a name, a shape and a seed.

A manifest (manifests/<network>.json) lists every tensor of a public PyTorch implementation's
state_dict: its key, shape and dtype. `reference_state` fills it with reproducible numbers, so a
golden input/output pair (golden/<network>.npz) pins a whole network without shipping its weights.

    state = reference_state(load_manifest("talklip_generator"), seed=0)   # dict: key -> ndarray
"""

import json
import pathlib
import zlib

import numpy as np

HERE = pathlib.Path(__file__).parent


def load_manifest(name):
  """Returns the manifest dict of one network: {'source', 'tensors': {key: [shape, dtype]}, ...}."""
  return json.loads((HERE / 'manifests' / f'{name}.json').read_text())


def reference_tensor(key, shape, dtype='float32', seed=0):
  """Returns the reference value of one tensor.

  Args:
    key: its state_dict key; the random stream depends on it and on `seed` alone.
    shape: its shape, PyTorch layout.
    dtype: numpy dtype name; integer tensors (BatchNorm's num_batches_tracked) are zeros.
    seed: an int; 0 for the published golden files.
  """
  shape = tuple(shape)
  if not np.issubdtype(np.dtype(dtype), np.floating):
    return np.zeros(shape, dtype)
  rng = np.random.default_rng(zlib.crc32(f'{seed}:{key}'.encode()))
  noise = rng.standard_normal(shape)
  leaf = key.rsplit('.', 1)[-1]
  if leaf == 'running_var':
    value = 0.5 + rng.random(shape)
  elif leaf == 'running_mean':
    value = 0.1 * noise
  elif leaf == 'weight_g':  # weight-normalised convolution: its norm
    value = 1.0 + 0.1 * np.abs(noise)
  elif len(shape) <= 1:
    value = 1.0 + 0.1 * noise if leaf == 'weight' else 0.05 * noise
  else:
    value = noise / np.sqrt(np.prod(shape[1:]))
  return value.astype(dtype)


def reference_state(manifest, seed=0):
  """Returns {key: ndarray} for every tensor of a manifest."""
  return {
    key: reference_tensor(key, shape, dtype, seed)
    for key, (shape, dtype) in manifest['tensors'].items()
  }
