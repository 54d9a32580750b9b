"""Crops, paste-back and the lip reader's view: against OpenCV, and at the frame's edges."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfg_jax.features import video

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (2, 3, 40, 50, 3), dtype=np.uint8)
CROP = jax.jit(video.crop_faces, static_argnums=2)
PASTE = jax.jit(video.paste_faces)

corners = st.tuples(
  st.integers(0, 48), st.integers(0, 38), st.integers(1, 60), st.integers(1, 60)
).map(lambda x: (x[0], x[1], x[0] + x[2], x[1] + x[3]))


@settings(max_examples=40)
@given(corners)
def test_crop_is_that_of_opencv(box):
  x1, y1, x2, y2 = box
  ours = CROP(FRAMES[0, 0], np.array(box), 16)
  theirs = cv2.resize(FRAMES[0, 0, y1 : min(y2, 40), x1 : min(x2, 50)], (16, 16))
  assert np.max(np.abs(ours - theirs)) <= 1


@settings(max_examples=40)
@given(corners)
def test_paste_is_a_bilinear_resize_into_the_box(box):
  x1, y1, x2, y2 = box
  face = RNG.random((1, 1, 16, 16, 3)).astype(np.float32)
  frame = FRAMES[:1, :1].astype(np.float32)
  pasted = np.array(PASTE(frame, face, np.array(box)[None, None]))[0, 0]
  height, width = min(y2, 40) - y1, min(x2, 50) - x1
  inside = cv2.resize(face[0, 0], (width, height))
  np.testing.assert_allclose(pasted[y1 : y1 + height, x1 : x1 + width], inside, atol=1e-5)
  pasted[y1 : y1 + height, x1 : x1 + width] = frame[0, 0, y1 : y1 + height, x1 : x1 + width]
  np.testing.assert_array_equal(pasted, frame[0, 0])


def test_crop_takes_one_box_per_frame():
  boxes = np.array([[[0, 0, 8, 8], [3, 5, 11, 13], [9, 9, 17, 17]]] * 2)
  crops = CROP(FRAMES, boxes, 8)
  assert crops.shape == (2, 3, 8, 8, 3)
  np.testing.assert_array_equal(crops[1, 1], FRAMES[1, 1, 5:13, 3:11])


def test_only_chosen_frames_are_replaced():
  frames = FRAMES.astype(np.float32)
  faces = RNG.random((2, 2, 8, 8, 3)).astype(np.float32)
  boxes = np.broadcast_to([4, 4, 12, 12], (2, 2, 4))
  index, mask = np.array([[2, 0], [1, 0]]), np.array([[True, True], [True, False]])
  hybrid = np.asarray(PASTE(frames, faces, boxes, index, mask))
  expected = frames.copy()
  expected[0, 2, 4:12, 4:12] = faces[0, 0]
  expected[0, 0, 4:12, 4:12] = faces[0, 1]
  expected[1, 1, 4:12, 4:12] = faces[1, 0]
  np.testing.assert_allclose(hybrid, expected, atol=1e-5)


def test_gradient_of_a_paste_reaches_the_faces_that_count():
  faces = jnp.ones((1, 2, 8, 8, 3))
  boxes = np.broadcast_to([4, 4, 20, 20], (1, 2, 4))
  mask = np.array([[True, False]])

  @jax.jit
  @jax.grad
  def gradient(faces):
    return PASTE(FRAMES[:1].astype(np.float32), faces, boxes, np.array([[1, 1]]), mask).sum()

  value = gradient(faces)
  # A pixel of the face covers four of the frame; the sum over the box is kept.
  np.testing.assert_allclose(value[0, 0].sum(), 16 * 16 * 3, rtol=1e-5)
  assert not np.any(value[0, 1])


def test_lip_roi_is_the_gray_centre_and_zero_behind_the_clip():
  frames = FRAMES.astype(np.float32)
  roi = np.asarray(video.lip_roi(frames, np.array([3, 1]), size=20))
  assert roi.shape == (2, 3, 20, 20, 1)
  gray = frames[..., :] @ np.array([0.299, 0.587, 0.114])
  expected = (gray[:, :, 10:30, 15:35, None] / 255 - 0.421) / 0.165
  np.testing.assert_allclose(roi[0], expected[0], atol=1e-5)
  np.testing.assert_allclose(roi[1, 0], expected[1, 0], atol=1e-5)
  assert not np.any(roi[1, 1:])


def test_lip_roi_refuses_frames_smaller_than_the_crop():
  with pytest.raises(ValueError, match='the lip crop is 88 px, the frames are 40x50'):
    video.lip_roi(FRAMES, np.array([3, 3]))


def test_lip_roi_below_the_centre():
  frames = FRAMES.astype(np.float32)
  lower = video.lip_roi(frames, np.array([3, 3]), size=20, below=6)
  shifted = video.lip_roi(frames[:, :, 12:], np.array([3, 3]), size=20)
  np.testing.assert_array_equal(lower, shifted)
  with pytest.raises(ValueError, match='the lip crop is 20 px, 11 px below the centre, the frames'):
    video.lip_roi(frames, np.array([3, 3]), size=20, below=11)


def test_random_view_moves_and_mirrors_whole_clips():
  clips = FRAMES.astype(np.float32)
  shift, flip = np.array([[2, 5], [0, 3]]), np.array([False, True])
  seen = video.random_view(clips, shift, flip, 20)
  np.testing.assert_array_equal(seen[0], clips[0, :, 2:22, 5:25])
  np.testing.assert_array_equal(seen[1], clips[1, :, 0:20, 3:23][:, :, ::-1])
