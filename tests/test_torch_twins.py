"""An exported network of any size runs in plain PyTorch: strict keys, the same pictures."""

import jax
import numpy as np
import pytest

from tfg_jax import pytorch
from tfg_jax.networks.discriminator import QualityDiscriminator
from tfg_jax.networks.face_unet import FaceUNet
from tfg_jax.networks.mel_encoder import MelEncoder
from tfg_jax.networks.resnet import ResNet
from tfg_jax.networks.talklip import ContrastiveHead, TalkLip
from tfg_jax.pytorch import files

torch = pytest.importorskip('torch', reason='needs the extra [torch]')
twins = pytest.importorskip('torch_twins.talklip')
resnet = pytest.importorskip('torch_twins.resnet')

FACE = dict(
  encoder=(4, 6, 8),
  encoder_residuals=(0, 1, 2),
  decoder=(5, 7, 9),
  decoder_residuals=(2, 0, 1),
  head=3,
)
AUDIO = dict(widths=(3, 4, 5, 6, 8), residuals=(1, 2, 0, 1))
JUDGE = dict(widths=(4, 6, 8))
SIZE = 12


def scrambled(variables, seed=0):
  """Variables with all leaves random, so that no statistic or bias is trivially 0 or 1."""
  rng = np.random.default_rng(seed)

  def scramble(path, x):
    if x.dtype != np.float32:
      return np.full(x.shape, 3, x.dtype)
    noise = rng.standard_normal(x.shape).astype(np.float32)
    return np.abs(noise) + 0.5 if path[-1].key in ('var', 'scale') else 0.3 * noise

  return jax.tree_util.tree_map_with_path(scramble, variables)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_small_generator_draws_the_same_faces_in_pytorch(tmp_path, suffix):
  network = TalkLip(
    MelEncoder(**AUDIO),
    image=FaceUNet(**FACE),
    contrastive=ContrastiveHead(features=10),
    map_audio=False,
  )
  rng = np.random.default_rng(1)
  face = rng.random((2, SIZE, SIZE, 6), np.float32)
  mel = rng.uniform(-4, 4, (2, 80, 16, 1)).astype(np.float32)
  variables = jax.eval_shape(lambda: network.init(jax.random.key(0), face, mel, train=False))
  variables = scrambled(variables)
  expected, _ = jax.jit(lambda v: network.apply(v, face, mel, train=False))(variables)

  path = tmp_path / f'generator{suffix}'
  files.write(path, pytorch.to_torch('talklip_generator', variables))
  twin = twins.TalkLip(**FACE, audio=AUDIO, features=10)
  twin.load_state_dict(load(path), strict=True)
  with torch.no_grad():
    actual = twin.eval()(as_nchw(face), as_nchw(mel))
  assert np.ptp(expected) > 0.1
  np.testing.assert_allclose(actual.numpy().transpose(0, 2, 3, 1), expected, atol=1e-4)


def test_a_small_discriminator_judges_the_same_in_pytorch(tmp_path):
  network = QualityDiscriminator(**JUDGE)
  face = np.random.default_rng(1).random((3, SIZE, SIZE, 3), np.float32)
  variables = scrambled(jax.eval_shape(lambda: network.init(jax.random.key(0), face)))
  expected = jax.nn.sigmoid(network.apply(variables, face))

  path = tmp_path / 'discriminator.pth'
  files.write(path, pytorch.to_torch('talklip_discriminator', variables))
  twin = twins.TalkLipDiscQual(**JUDGE)
  twin.load_state_dict(load(path), strict=True)
  with torch.no_grad():
    actual = twin.eval()(as_nchw(face))
  assert np.ptp(expected) > 1e-3
  np.testing.assert_allclose(actual.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize('size', [50, 64])  # maps of 25 and of 32 px before the pool
def test_a_small_resnet_sees_and_learns_the_same_in_pytorch(size):
  fields = dict(stem=4, widths=(4, 5, 6, 7), blocks=(1, 2, 1, 1), classes=9)
  network = ResNet(**fields)
  image = 100 * np.random.default_rng(1).standard_normal((2, size, size, 3), np.float32)
  shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), image, train=False))
  variables = scrambled(shapes)
  expected = jax.jit(lambda v: network.apply(v, image, train=False))(variables)
  trained, updated = jax.jit(
    lambda v: network.apply(v, image, train=True, mutable=['batch_stats'])
  )(variables)

  twin = resnet.ResNet(**fields)
  tensors = pytorch.to_torch('vggface2_resnet50', variables)
  twin.load_state_dict({key: torch.from_numpy(x) for key, x in tensors.items()}, strict=True)
  with torch.no_grad():
    actual, _ = twin.eval()(as_nchw(image))
    actual_trained, _ = twin.train()(as_nchw(image))
  for ours, theirs in ((expected, actual), (trained, actual_trained)):
    assert np.ptp(ours) > 0.1
    np.testing.assert_allclose(theirs, ours, atol=1e-4 * np.abs(ours).max())
  state = twin.state_dict()
  for key, x in pytorch.to_torch('vggface2_resnet50', {**variables, **updated}).items():
    np.testing.assert_allclose(state[key], x, rtol=1e-4, atol=1e-4 * np.abs(x).max(), err_msg=key)


def load(path):
  if path.suffix == '.safetensors':
    from safetensors.torch import load_file

    return load_file(path)
  return torch.load(path, weights_only=True)


def as_nchw(x):
  return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
