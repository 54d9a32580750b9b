"""Wav2Lip, TalkLip's local audio encoder and the two sync judges against the official networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import (
  assert_close,
  assert_running_statistics,
  forward,
  forward_training,
  golden,
  network,
  plain_convolutions,
  reference_variables,
  thinned,
  to_nchw,
  to_nhwc,
)

from tfg_jax import losses

pytestmark = pytest.mark.parity

# The references' own float32 noise in train mode, from their manifests: small batch variances.
TRAIN = 2e-4


def test_local_audio_encoder():
  name = 'talklip_local_audio_encoder'
  arrays, variables = golden(name), reference_variables(name)
  mel = to_nhwc(arrays['in_mel'])
  embedding, mids = forward(network(name), variables, mel)
  assert_close(embedding[..., None, None], arrays['out_embedding'])
  for i in (0, 2, 5, 8, 10, 11):
    assert_close(thinned(mids[f'out_{i}'][0], 4), arrays[f'mid_layer_{i:02d}'])

  embedding, _, updated = forward_training(network(name), variables, mel)
  assert_close(embedding[..., None, None], arrays['out_train_embedding'], TRAIN)
  assert_running_statistics(updated, arrays, name)


def wav2lip_inputs(faces, mels):
  """Time-major batches of a 5-D call: frame t of all samples, then frame t + 1."""
  faces = np.transpose(faces, (2, 0, 3, 4, 1)).reshape(-1, 96, 96, 6) / np.float32(255)
  mels = np.transpose(mels, (1, 0, 3, 4, 2)).reshape(-1, 80, 16, 1)
  return faces, mels


def test_wav2lip_generator():
  name = 'wav2lip_generator'
  arrays, variables = golden(name), reference_variables(name)
  face = to_nhwc(arrays['in_face4_u8']) / np.float32(255)
  image, mids = forward(network(name), variables, face, to_nhwc(arrays['in_mel4']))
  assert_close(to_nchw(image), arrays['out_face4'])
  audio, mids = mids['audio_encoder'], mids['image']
  assert_close(to_nchw(mids['pre_sigmoid'][0]), arrays['out_pre4'])
  assert_close(to_nchw(audio['out_12'][0]), arrays['mid_audio_embedding'])

  def compare(ours, theirs):
    expected = arrays[theirs]
    size = mids[ours][0].shape[1]
    pixels = 8 if size >= 48 else 4 if size >= 12 else 1
    assert_close(thinned(mids[ours][0], 1 if size == 1 else 8, pixels), expected)

  for i in range(7):
    compare(f'encoder_{i}', f'mid_enc{i}')
    compare(f'decoder_{i}', f'mid_dec{i}')
  compare('head', 'mid_outblock0')

  face, mel = wav2lip_inputs(arrays['in_face5_u8'], arrays['in_mel5'])
  image, mids = forward(network(name), variables, face, mel)
  assert_close(thinned(mids['image']['pre_sigmoid'][0], 1, 4), arrays['out_pre5_sub'])
  video = np.moveaxis(thinned(image, 1, 4).reshape(2, 2, 3, 24, 24), 0, 2)
  assert_close(video, arrays['out_face5_sub'])

  image, mids, updated = forward_training(network(name), variables, face, mel)
  assert_close(thinned(image, 1, 4), arrays['out_train_sub'], TRAIN)
  assert_close(thinned(mids['image']['pre_sigmoid'][0], 1, 4), arrays['out_train_pre_sub'], TRAIN)
  embedding = to_nchw(mids['audio_encoder']['out_12'][0])
  assert_close(embedding, arrays['mid_train_audio_embedding'], TRAIN)
  assert_close(to_nchw(mids['image']['encoder_6'][0]), arrays['mid_train_enc6'], TRAIN)
  assert_running_statistics(updated, arrays, name)


def test_color_syncnet():
  name = 'color_syncnet'
  arrays, variables = golden(name), reference_variables(name)
  face = to_nhwc(arrays['in_face_u8']) / np.float32(255)
  mel = to_nhwc(arrays['in_mel'])
  (seen, heard), mids = forward(network(name), variables, face, mel)
  assert_close(seen, arrays['out_face'])
  assert_close(heard, arrays['out_audio'])
  assert_close(jnp.sum(seen * heard, -1), arrays['out_cosine'])
  assert_close(losses.cosine_bce(heard, seen, arrays['in_label'][:, 0]), arrays['out_loss'])
  for stream, layers in (
    ('face', (0, 1, 3, 7, 10, 13, 14, 15, 16)),
    ('audio', (0, 2, 5, 8, 11, 12, 13)),
  ):
    for i in layers:
      mid = mids[stream][f'out_{i}'][0]
      last = i == layers[-1]
      pixels = 4 if mid.shape[2] > 6 and not (stream == 'audio' and i == 8) else 1
      assert_close(thinned(mid, 1 if last else 8, pixels), arrays[f'mid_{stream}{i}'])

  @jax.jit
  @jax.value_and_grad
  def all_in_sync(face, mel, variables):
    seen, heard = network(name).apply(variables, face, mel, train=False)
    return losses.cosine_bce(heard, seen, np.ones(3))

  with plain_convolutions():
    loss, gradient = all_in_sync(face, mel, variables)
  assert_close(loss, arrays['out_loss_all_positive'])
  assert_close(thinned(gradient, 1, 4), arrays['out_grad_face_sub'])

  (seen, heard), _, updated = forward_training(network(name), variables, face, mel)
  # Entries of unit rows; the reference's own noise is 5e-5.
  np.testing.assert_allclose(seen, arrays['out_train_face'], rtol=0, atol=2e-4)
  np.testing.assert_allclose(heard, arrays['out_train_audio'], rtol=0, atol=2e-4)
  assert_close(jnp.sum(seen * heard, -1), arrays['out_train_cosine'], TRAIN)
  loss = losses.cosine_bce(heard, seen, np.ones(3))
  assert_close(loss, arrays['out_train_loss_all_positive'], TRAIN)
  assert_running_statistics(updated, arrays, name)


def test_syncnet():
  name = 'syncnet_v2'
  arrays, variables = golden(name), reference_variables(name)
  frames = arrays['in_lip_u8'].astype(np.float32)
  mfcc = to_nhwc(arrays['in_mfcc'])
  (seen, heard), mids = forward(network(name), variables, frames, mfcc)
  assert_close(seen, arrays['out_lip'])
  assert_close(heard, arrays['out_aud'])
  assert_close(mids['lips']['flat'][0], arrays['out_lipfeat'])
  # PyTorch's numbers count convolution, norm, ReLU and pool.
  names = {0: 'convolved_0', 2: 'relu_0', 3: 'pool_0', 6: 'relu_1', 7: 'pool_1'}
  names |= {10: 'relu_2', 13: 'relu_3', 16: 'relu_4', 17: 'pool_4', 20: 'relu_5'}
  for i, ours in names.items():
    mid = mids['lips'][ours][0]
    pixels = 8 if mid.shape[1] > 6 else 1
    assert_close(thinned(mid, 16, pixels)[:, :, None], arrays[f'mid_lip{i}'])
    if f'mid_aud{i}' in arrays:
      assert_close(thinned(mids['speech'][ours][0], 16), arrays[f'mid_aud{i}'])

  (seen, heard), _, updated = forward_training(network(name), variables, frames, mfcc)
  assert_close(seen, arrays['out_train_lip'], TRAIN)
  assert_close(heard, arrays['out_train_aud'], TRAIN)
  assert_running_statistics(updated, arrays, name)
