"""Golden arrays and reference weights of the public networks, and how close is close enough.

`$TFG_GOLDEN_DIR` points the parity tests at other golden files of the same names,
`$TFG_GOLDEN_SEED` at the seed of the weights that made them.
"""

import contextlib
import functools
import os
import pathlib

import jax
import numpy as np
import pytest
import weights

from tfg_jax import networks, pytorch
from tfg_jax.networks import winograd

_KEPT_DIR = pathlib.Path(__file__).parent / 'golden'
GOLDEN_DIR = pathlib.Path(os.environ.get('TFG_GOLDEN_DIR', _KEPT_DIR))
# All goldens would be 20 MB; these are not in the project.
NOT_KEPT = frozenset(
  [
    'avhubert_large_encoder',
    'avhubert_large_seq2seq',
    'davs_classifiers',
    'davs_decoder',
    'davs_identity_encoder',
    'davs_lip_encoder',
    'davs_sequence_discriminator',
    'sf2f_facenet',
    'sf2f_generator_128_multires',
    'sf2f_generator_64',
    'sf2f_generator_64_fuser',
    'sf2f_losses',
    'vggface_vgg16',
    'voice2face_discriminator',
    'voice2face_generator',
  ]
)
SEED = int(os.environ.get('TFG_GOLDEN_SEED', '0'))

manifest = functools.lru_cache(weights.load_manifest)


@functools.lru_cache
def golden(name):
  """Returns the arrays of one golden file; skips the test where the project does not keep it, or
  the folder that somebody chose does not hold it."""
  path = GOLDEN_DIR / f'{name}.npz'
  may_lack = name in NOT_KEPT if GOLDEN_DIR == _KEPT_DIR else GOLDEN_DIR.is_dir()
  if may_lack and not path.exists():
    pytest.skip(f'{path} is not here; point TFG_GOLDEN_DIR at a full set')
  with np.load(path) as arrays:
    return dict(arrays)


def reference_tensors(name):
  """Returns {key: array}, the reference state_dict of one public network."""
  return weights.reference_state(manifest(name), SEED)


@functools.lru_cache(maxsize=1)
def reference_variables(name):
  """Returns the variables of one public network with its reference weights."""
  return jax.tree.map(jax.numpy.asarray, pytorch.from_torch(name, reference_tensors(name)))


def network(name):
  """Returns the full-size module of one public network."""
  return networks.OFFICIAL[name]()


@functools.partial(jax.jit, static_argnums=(0,))
def forward(module, variables, *inputs):
  """Outputs and named intermediates of an evaluation pass."""
  output, state = module.apply(variables, *inputs, train=False, mutable=['intermediates'])
  return output, state['intermediates']


@functools.partial(jax.jit, static_argnums=(0,))
def forward_training(module, variables, *inputs):
  """Outputs, intermediates and variables after one training pass."""
  mutable = ['intermediates', 'batch_stats']
  output, state = module.apply(variables, *inputs, train=True, mutable=mutable)
  updated = {'params': variables['params'], 'batch_stats': state['batch_stats']}
  return output, state['intermediates'], updated


def to_nchw(x):
  """(B, *space, C) to PyTorch's (B, C, *space)."""
  return np.moveaxis(np.asarray(x), -1, 1)


def to_nhwc(x):
  """PyTorch's (B, C, *space) to (B, *space, C)."""
  return np.moveaxis(np.asarray(x), 1, -1)


def thinned(x, channels=1, pixels=1):
  """Every n-th channel and pixel, channels first, as the goldens hold them."""
  return to_nchw(x)[:, ::channels, ::pixels, ::pixels]


@contextlib.contextmanager
def plain_convolutions():
  """What is traced in it has no convolutions after Winograd, not on CPUs either.

  For gradients through ReLUs that are compared closely: rounded in another way, single numbers are
  on the other side of the kink, each of which moves pixels by up to 2e-3 of the largest gradient.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(winograd, 'pays', lambda *_: False)
    yield


def assert_close(actual, expected, tolerance=1e-4):
  """Asserts |actual - expected| <= tolerance * max|expected| everywhere, and equal shapes."""
  actual, expected = np.asarray(actual), np.asarray(expected)
  assert actual.shape == expected.shape
  scale = np.max(np.abs(expected))
  error = np.max(np.abs(actual - expected))
  assert error <= tolerance * scale, (
    f'max error {error:.3g} = {error / scale:.3g} of max {scale:.3g}'
  )


def assert_running_statistics(updated, arrays, name, *, prefix='out_train_stats_', tolerance=1e-4):
  """Compares the statistics after one training step with every golden `<prefix><key>`."""
  state = pytorch.to_torch(name, updated)
  keys = [key for key in arrays if key.startswith(prefix)]
  assert keys
  for key in keys:
    assert_close(state[key.removeprefix(prefix)], arrays[key], tolerance)
