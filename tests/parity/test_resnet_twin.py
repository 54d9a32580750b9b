"""VGGFace2's ResNet-50 at full size, against PyTorch: there is no golden file of this network."""

import numpy as np
import pytest
from reference import (
  assert_close,
  forward,
  forward_training,
  network,
  reference_tensors,
  reference_variables,
  to_nchw,
)

from tfg_jax import pytorch
from tfg_jax.features import portrait

torch = pytest.importorskip('torch', reason='needs the extra [torch]')
twins = pytest.importorskip('torch_twins.resnet')

pytestmark = pytest.mark.parity
NAME = 'vggface2_resnet50'


def test_vggface2_resnet50():
  pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
  image = np.array(portrait.vggface_input(pixels))
  variables = reference_variables(NAME)
  twin = twins.ResNet()
  tensors = {key: torch.from_numpy(x) for key, x in reference_tensors(NAME).items()}
  twin.load_state_dict(tensors, strict=True)

  logits, seen = forward(network(NAME), variables, image)
  with torch.no_grad():
    expected, maps = twin.eval()(torch.from_numpy(to_nchw(image)))
  assert logits.shape == (2, 8631)
  assert_close(logits, expected)
  for name, features in zip(('pool1', *(f'stage_{i}' for i in range(2, 6))), maps, strict=True):
    assert_close(to_nchw(seen[name][0]), features)

  logits, _, updated = forward_training(network(NAME), variables, image)
  with torch.no_grad():
    expected, _ = twin.train()(torch.from_numpy(to_nchw(image)))
  assert_close(logits, expected)
  state = twin.state_dict()
  for key, x in pytorch.to_torch(NAME, updated).items():
    assert_close(x, state[key])
