"""PSNR, SSIM and SyncNet scores against the official evaluation code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_close, golden, network, reference_variables

from tfg_jax.features import video
from tfg_jax.metrics import image, sync

pytestmark = pytest.mark.parity


def test_psnr_and_ssim():
  arrays = golden('psnr_ssim')
  real, drawn = arrays['mid_gt_crop96'], arrays['mid_synt_crop96']
  for ours, theirs in ((image.psnr, 'psnr_true'), (image.psnr_official, 'psnr_official')):
    assert_close(jax.jit(ours)(drawn, real), arrays[f'out_{theirs}'], 1e-5)
  assert_close(np.mean(image.psnr_official(drawn, real)), arrays['out_mean_psnr_official'], 1e-5)
  for theirs, wrap in (('mse_true', 1 << 20), ('mse_official_uint8_wrap', 256)):
    squares = np.square(real.astype(int) - drawn) % wrap
    assert_close(squares.mean((1, 2, 3)), arrays[f'out_{theirs}'], 1e-5)

  ssim = jax.jit(image.ssim)(drawn, real)
  assert_close(ssim, arrays['out_ssim'], 1e-5)
  assert_close(np.mean(ssim), arrays['out_mean_ssim'], 1e-5)
  full = image.ssim_map(drawn, real)
  assert_close(full.mean((1, 2)), arrays['out_ssim_per_channel'], 1e-5)
  assert_close(full[1, ..., 1], arrays['mid_ssim_map_frame1_green'][5:-5, 5:-5])


def test_crops_of_the_visual_metrics():
  arrays = golden('psnr_ssim')
  for frames, crops in (('in_gt_u8', 'mid_gt_crop96'), ('in_synt_u8', 'mid_synt_crop96')):
    ours = video.crop_faces(arrays[frames], arrays['in_bbox_x1y1x2y2'], 96)
    assert np.max(np.abs(ours - arrays[crops])) <= 1


@pytest.mark.parametrize('case', 'ab')
def test_sync_scores(case):
  arrays = golden('syncnet_scores')
  lips, speech = arrays[f'in_{case}_lip'], arrays[f'in_{case}_aud']
  # Padding behind the clip must not matter.
  padded = [np.pad(x, ((0, 7), (0, 0)), constant_values=9) for x in (lips, speech)]
  scores = jax.jit(sync.sync_scores)(*padded, len(lips))
  compare_scores(scores, arrays, case, len(lips))
  if case == 'a':
    assert_close(sync.sync_distances(lips, speech), arrays['mid_a_dists'])


def compare_scores(scores, arrays, case, number):
  assert int(scores.offset) == arrays[f'out_{case}_offset']
  assert_close(scores.mean_distances, arrays[f'out_{case}_mdist'])
  # Both are differences of distances: their error is relative to the distance.
  tolerance = 1e-4 * arrays[f'out_{case}_min_dist_lse_d']
  for ours, theirs in (
    (scores.confidence, 'confidence_lse_c'),
    (scores.distance, 'min_dist_lse_d'),
    (scores.frame_confidence[:number], 'frame_conf'),
    (sync.smoothed_confidence(scores.frame_confidence)[:number], 'frame_conf_medfilt9'),
  ):
    np.testing.assert_allclose(ours, arrays[f'out_{case}_{theirs}'], rtol=0, atol=tolerance)


def test_sync_scores_of_a_clip():
  arrays = golden('syncnet_scores')
  module, variables = network('syncnet_v2'), reference_variables('syncnet_v2')
  frames, wav = arrays['in_e2e_frames_u8'][..., ::-1], arrays['in_e2e_pcm16']
  number = int(sync.num_windows(len(frames), len(wav)))
  assert number == arrays['out_e2e_num_windows']
  assert min(len(frames), len(wav) // sync.SAMPLES_PER_FRAME) == arrays['out_e2e_min_length']

  # Blocks of windows as large as the official ones (20), the last one padded.
  starts = np.arange(40).clip(max=number - 1).reshape(2, 20)

  @jax.jit
  def embed(starts):
    seen = sync.lip_windows(jnp.asarray(frames), starts)
    heard = sync.speech_windows(jnp.asarray(wav), len(wav), starts)
    return module.apply(variables, seen, heard, train=False)

  lips, speech = (jnp.concatenate(x) for x in zip(*map(embed, starts), strict=True))
  assert_close(lips[:number, ::16], arrays['mid_e2e_lip'], 3e-3)  # resized frames may differ by 1
  assert_close(speech[:number, ::16], arrays['mid_e2e_aud'])
  scores = sync.sync_scores(lips, speech, number)
  assert int(scores.offset) == arrays['out_e2e_offset']
  distance = arrays['out_e2e_min_dist_lse_d']
  for ours, theirs in (
    (scores.mean_distances, 'mdist'),
    (scores.distance, 'min_dist_lse_d'),
    (scores.confidence, 'confidence_lse_c'),
    (scores.frame_confidence[:number], 'frame_conf'),
    (sync.smoothed_confidence(scores.frame_confidence[:number]), 'frame_conf_medfilt9'),
  ):
    np.testing.assert_allclose(ours, arrays[f'out_e2e_{theirs}'], rtol=0, atol=1e-3 * distance)

  resized = sync.lip_windows(jnp.asarray(frames), np.arange(0, 37))[:, 0]
  resized = np.concatenate([resized, sync.lip_windows(frames, np.array([36]))[0, 1:]])
  difference = np.abs(resized[::5, ::9, ::9] - arrays['mid_e2e_resized_sub'])
  assert difference.max() <= 1
