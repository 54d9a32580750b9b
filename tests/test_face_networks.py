"""Small twins of the face networks: shapes, ranges, what they react to, and their refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noise import noisy_variables

from tfg_jax import pytorch
from tfg_jax.networks.discriminator import QualityDiscriminator
from tfg_jax.networks.face_unet import FaceUNet
from tfg_jax.networks.mel_encoder import MelEncoder
from tfg_jax.networks.syncnet import ColorSyncNet, FaceHalfEncoder
from tfg_jax.networks.talklip import ContrastiveHead, TalkLip, pick_rows
from tfg_jax.networks.wav2lip import Wav2Lip

UNET = FaceUNet(
  encoder=(4, 6, 8),
  encoder_residuals=(0, 1, 0),
  decoder=(4, 6, 8),
  decoder_residuals=(1, 0, 0),
  head=4,
)
MEL = MelEncoder(widths=(2, 3, 4, 5, 8), residuals=(1, 0, 0, 0))


def random(*shape):
  return np.random.default_rng(0).random(shape, dtype=np.float32)


@functools.partial(jax.jit, static_argnames=('module', 'train', 'method'))
def apply(module, variables, *inputs, **settings):
  return module.apply(variables, *inputs, **settings)


def test_face_unet_draws_faces_of_its_size():
  face, audio = random(2, 12, 12, 6), random(2, 7)
  assert UNET.image_size == 12 and FaceUNet().image_size == 96
  variables = noisy_variables(UNET, face, audio, train=False)
  image = apply(UNET, variables, face, audio, train=False)
  assert image.shape == (2, 12, 12, 3) and image.dtype == jnp.float32
  assert np.all((image > 0) & (image < 1))
  assert np.abs(apply(UNET, variables, face, 1 - audio, train=False) - image).max() > 1e-3
  assert np.abs(apply(UNET, variables, 1 - face, audio, train=False) - image).max() > 1e-3


def test_face_unet_refuses_other_sizes_and_unequal_sequences():
  with pytest.raises(ValueError, match=r'draws \(N, 12, 12, 6\), got \(1, 24, 24, 6\)'):
    noisy_variables(UNET, random(1, 24, 24, 6), random(1, 7), train=False)
  unequal = UNET.clone(encoder_residuals=(0, 1))
  with pytest.raises(ValueError, match='shorter'):
    noisy_variables(unequal, random(1, 12, 12, 6), random(1, 7), train=False)


@pytest.mark.parametrize('levels', [2, 3])
def test_discriminator_follows_the_face_size_and_sees_the_lower_half_only(levels):
  size = 3 * 2 ** (levels - 1)
  judge = QualityDiscriminator(widths=(4,) * levels)
  face = random(2, size, size, 3)
  variables = noisy_variables(judge, face)
  logits = apply(judge, variables, face)
  assert logits.shape == (2,)
  upper, lower = face.copy(), face.copy()
  upper[:, : size // 2] = 0
  lower[:, size // 2 :] = 0
  np.testing.assert_array_equal(apply(judge, variables, upper), logits)
  assert np.all(apply(judge, variables, lower) != logits)


def test_discriminator_refuses_faces_of_another_size():
  with pytest.raises(ValueError, match='3 widths judge 12 px faces'):
    noisy_variables(QualityDiscriminator(widths=(4, 4, 4)), random(1, 96, 96, 3))


def test_mel_encoder_refuses_other_windows():
  with pytest.raises(ValueError, match='80 bins x 16 steps'):
    noisy_variables(MEL, random(1, 80, 20, 1), train=False)


def test_local_talklip_draws_from_mel_windows():
  talklip = TalkLip(MEL, image=UNET, contrastive=ContrastiveHead(6), map_audio=False)
  face, mel = random(2, 12, 12, 6), random(2, 80, 16, 1)
  variables = noisy_variables(talklip, face, mel, train=False)
  assert set(variables['params']) == {'audio_encoder', 'image', 'contrastive'}
  image, embedding = apply(talklip, variables, face, mel, train=False)
  assert image.shape == (2, 12, 12, 3) and embedding.shape == (2, 8)
  drawn = apply(talklip, variables, face, embedding, train=False, method='render')
  np.testing.assert_allclose(drawn, image, atol=1e-6)
  rows = apply(talklip, variables, embedding, method='contrast')
  assert rows.shape == (2, 6)
  np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1, rtol=1e-5)


def test_pick_rows_counts_through_the_batch():
  embedding = jnp.arange(12.0).reshape(2, 3, 2)
  np.testing.assert_array_equal(pick_rows(embedding, jnp.array([5, 1])), [[10, 11], [2, 3]])


def test_wav2lip_twin_survives_the_way_to_pytorch_and_back():
  wav2lip = Wav2Lip(MEL, UNET)
  variables = noisy_variables(wav2lip, random(1, 12, 12, 6), random(1, 80, 16, 1), train=False)
  tensors = pytorch.to_torch('wav2lip_generator', variables)
  # 8 channels of the decoder and 8 of the encoder's skip come in, 6 go out.
  assert tensors['face_decoder_blocks.2.0.conv_block.0.weight'].shape == (16, 6, 3, 3)
  back = pytorch.from_torch('wav2lip_generator', tensors, like=variables)
  jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_color_syncnet_gives_unit_rows_that_are_not_negative():
  syncnet = ColorSyncNet(FaceHalfEncoder((2, 3, 4, 5, 6, 8), (1, 0, 0, 0, 0)), MEL)
  face, mel = random(2, 48, 96, 15), random(2, 80, 16, 1)
  variables = noisy_variables(syncnet, face, mel, train=False)
  for rows in apply(syncnet, variables, face, mel, train=False):
    assert rows.shape == (2, 8) and np.all(rows >= 0)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1, rtol=1e-5)
