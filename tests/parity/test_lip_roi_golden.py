"""Crop, paste-back and the lip reader's view against TalkLip's training code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_close, golden, to_nchw, to_nhwc

from tfg_jax.features import video

pytestmark = pytest.mark.parity


def batch(arrays):
  """Both clips, padded to five frames; RGB."""
  frames = np.zeros((2, 5, 160, 160, 3), np.float32)
  frames[0], frames[1, :4] = arrays['in_frames_a'], arrays['in_frames_b']
  picked = np.stack([arrays['in_picked_a'], arrays['in_picked_b']])
  boxes = np.stack([arrays[f'in_boxes_{clip}'][arrays[f'in_picked_{clip}']] for clip in 'ab'])
  faces = 255 * to_nhwc(arrays['in_generated']).reshape(2, 2, 96, 96, 3)
  return frames[..., ::-1], faces[..., ::-1], boxes, picked


def test_crop_faces():
  arrays = golden('lip_roi')
  for clip in 'ab':
    picked = arrays[f'in_picked_{clip}']
    frames, boxes = arrays[f'in_frames_{clip}'][picked], arrays[f'in_boxes_{clip}'][picked]
    faces = np.asarray(jax.jit(video.crop_faces, static_argnums=2)(frames, boxes, 96))
    difference = np.abs(faces - arrays[f'out_crop_{clip}'])
    # OpenCV drops bits between its two passes.
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 0.05


def test_paste_faces_and_lip_roi():
  arrays = golden('lip_roi')
  frames, faces, boxes, picked = batch(arrays)
  hybrid = np.asarray(jax.jit(video.paste_faces)(frames, faces, boxes, picked))[..., ::-1]
  assert_close(hybrid[0, 1], arrays['mid_pasted_a1'])
  assert_close(hybrid[1, 3, ::2, ::2], arrays['mid_pasted_b3'])
  np.testing.assert_array_equal(np.delete(hybrid[0], picked[0], 0)[..., ::-1], frames[0, [0, 3, 4]])
  # Truncation may land on either side of a whole number.
  assert np.max(np.abs(np.floor(hybrid[0, 1]) - arrays['out_frame_a1_uint8'])) <= 1
  assert np.mean(np.floor(hybrid[0, 1]) != arrays['out_frame_a1_uint8']) < 1e-3

  x1, y1, x2, y2 = boxes[0, 1]
  resized = hybrid[0, 2, y1:y2, x1:x2]
  assert_close(to_nchw(resized[None])[0], arrays['mid_resized_a2_antialias_false'])

  roi = video.lip_roi(hybrid[..., ::-1], np.array([5, 4]))
  assert_close(to_nchw(roi), arrays['out_video'])
  whole = video.lip_roi(hybrid[..., ::-1], np.array([5, 4]), size=160)
  gray = (0.165 * whole[0, 1, ..., 0] + 0.421) * 255
  assert_close(gray, arrays['mid_gray_a1'])


def test_gradient_reaches_the_generated_faces():
  arrays = golden('lip_roi')
  frames, faces, boxes, picked = batch(arrays)

  @jax.jit
  @jax.grad
  def gradient(generated):
    hybrid = video.paste_faces(frames, 255 * generated, boxes, picked)
    return jnp.sum(video.lip_roi(hybrid, np.array([5, 4])) ** 2)

  bgr = to_nchw(gradient(faces / 255).reshape(4, 96, 96, 3)[..., ::-1])
  assert_close(bgr[:, :, ::4, ::4], arrays['out_grad_sum_of_squares_sub'])
