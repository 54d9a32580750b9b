"""Face crops, paste-back and the lip reader's view, on the device.

Frames are RGB. Boxes are (x1, y1, x2, y2) in pixels, end-exclusive, one per frame; they may reach
beyond the frame on the right and below, where they are cut off. Every resize is bilinear with
half-pixel centres and without antialiasing, written as two small matrices per box: shapes stay
static and a matrix unit does the work.

Sources: `croppatch` and the hybrid video of Sxjdwang/TalkLip `train.py`; OpenCV's INTER_LINEAR.
"""

import jax
import jax.numpy as jnp
from jax import lax

# What the public AV-HuBERT models were trained with.
LIP_SIZE = 88
_LIP_MEAN, _LIP_DEVIATION = 0.421, 0.165


def _hats(positions, length: int):
  """(..., n) positions to (..., n, length) weights of bilinear sampling at them."""
  return jnp.maximum(0, 1 - jnp.abs(positions[..., None] - jnp.arange(length)))


def _sides(boxes, height: int, width: int):
  """Starts and lengths of boxes (..., 4) inside the frame, ((x, w), (y, h)); lengths >= 1."""
  x1, y1, x2, y2 = jnp.moveaxis(boxes, -1, 0).astype(jnp.float32)
  x1, y1 = jnp.clip(x1, 0, width - 1), jnp.clip(y1, 0, height - 1)
  x2, y2 = jnp.minimum(x2, width), jnp.minimum(y2, height)
  return (x1, jnp.maximum(x2 - x1, 1)), (y1, jnp.maximum(y2 - y1, 1))


def crop_faces(frames, boxes, size: int):
  """Cuts one box out of each frame and scales it, as `cv2.resize` does.

  Args:
    frames: (..., H, W, C) uint8.
    boxes: (..., 4).
    size: S, side of the result in pixels.

  Returns:
    (..., S, S, C) float32 whole numbers in [0, 255]; OpenCV's fixed-point arithmetic differs by at
    most 1. No gradient goes to the frames.
  """
  height, width = frames.shape[-3:-1]

  def weights(start, length, full):
    positions = (jnp.arange(size) + 0.5) * (length[..., None] / size) - 0.5
    return _hats(start[..., None] + jnp.clip(positions, 0, length[..., None] - 1), full)

  (x, w), (y, h) = _sides(boxes, height, width)
  faces = jnp.einsum(
    '...yh,...hwc,...xw->...yxc',
    weights(y, h, height),
    frames.astype(jnp.float32),
    weights(x, w, width),
    precision=lax.Precision.HIGHEST,
  )
  return jnp.floor(faces + 0.5)


def paste_faces(frames, faces, boxes, index=None, mask=None):
  """Scales faces to their boxes and writes them over frames; differentiable in both.

  Args:
    frames: (B, T, H, W, C) float, e.g. 0 to 255.
    faces: (B, n, S, S, C) on the same scale.
    boxes: (B, n, 4), where each face goes.
    index: (B, n) int, the frame that each face goes to, without repeats; None if n = T and every
      frame gets its own.
    mask: (B, n) bool, False for faces that are not pasted; None for all.

  Returns:
    (B, T, H, W, C): the hybrid video, neither rounded nor clipped.
  """
  height, width = frames.shape[-3:-1]
  size = faces.shape[-2]

  def weights(start, length, full):
    inside = jnp.arange(full) - start[..., None]  # pixels from the side of the box
    positions = (inside + 0.5) * (size / length[..., None]) - 0.5
    covered = (inside >= 0) & (inside < length[..., None])
    return _hats(jnp.clip(positions, 0, size - 1), size), covered

  (x, w), (y, h) = _sides(boxes, height, width)
  rows, in_rows = weights(y, h, height)
  columns, in_columns = weights(x, w, width)
  scaled = jnp.einsum(
    '...hy,...yxc,...wx->...hwc', rows, faces, columns, precision=lax.Precision.HIGHEST
  )
  covered = in_rows[..., :, None] & in_columns[..., None, :]
  if mask is not None:
    covered &= mask[..., None, None]
  if index is None:
    return jnp.where(covered[..., None], scaled, frames)
  chosen = jnp.take_along_axis(frames, index[..., None, None, None], axis=1)
  hybrid = jnp.where(covered[..., None], scaled, chosen)
  if mask is not None:
    index = jnp.where(mask, index, frames.shape[1])  # out of range: not written
  # Clip by clip, so that XLA knows that no clip's faces go to another device.
  return jax.vmap(lambda clip, rows, faces: clip.at[rows].set(faces, mode='drop'))(
    frames, index, hybrid
  )


def lip_roi(frames, num_frames, size: int = LIP_SIZE, below: int = 0):
  """What the lip reader sees: the gray centre of the whole frame, normalised.

  Args:
    frames: (B, T, H, W, 3) RGB, 0 to 255.
    num_frames: (B,) int; later frames become zero, after normalisation.
    size: side of the crop.
    below: pixels by which the crop lies below the centre.

  Returns:
    (B, T, size, size, 1) float32, (gray / 255 - 0.421) / 0.165; differentiable.

  Raises:
    ValueError: if the crop reaches over the frames.
  """
  height, width = frames.shape[2:4]
  top, left = (height - size) // 2 + below, (width - size) // 2
  if min(height, width) < size or not 0 <= top <= height - size:
    where = f', {below} px below the centre' if below else ''
    raise ValueError(f'the lip crop is {size} px{where}, the frames are {height}x{width}')
  centre = frames[:, :, top : top + size, left : left + size].astype(jnp.float32)
  # Elementwise rather than a product with a vector: exact on every backend, and no slower.
  gray = 0.299 * centre[..., 0] + 0.587 * centre[..., 1] + 0.114 * centre[..., 2]
  normal = (gray / 255 - _LIP_MEAN) / _LIP_DEVIATION
  valid = jnp.arange(frames.shape[1]) < num_frames[:, None]
  return jnp.where(valid[..., None, None], normal, 0)[..., None]


def conformer_view(frames, num_frames):
  """What TalkLip's conformer observer sees: the gray frame at 224 px, of which the centre is read.

  Args:
    frames: (B, T, H, W, 3) RGB, 0 to 255; the aspect ratio is ignored, as officially.
    num_frames: (B,) int; later frames become zero, after normalisation.

  Returns:
    (B, T, 112, 112, 1) float32, (gray / 255 - 0.4161) / 0.1688.
  """
  height, width = frames.shape[2:4]
  gray = jnp.round(frames.astype(jnp.float32) @ jnp.array([[0.299], [0.587], [0.114]]))
  whole = jnp.broadcast_to(jnp.array([0, 0, width, height]), (*frames.shape[:2], 4))
  centre = crop_faces(gray, whole, 224)[:, :, 56:168, 56:168]
  valid = jnp.arange(frames.shape[1]) < num_frames[:, None]
  return jnp.where(valid[..., None, None, None], (centre / 255 - 0.4161) / 0.1688, 0)


def mvm_view(frames, num_frames):
  """What TalkLip's word classifier sees: a gray window around the mouth of LRW's frames.

  Args:
    frames: (B, T, 256, 256, 3) RGB, 0 to 255.
    num_frames: (B,) int; later frames become zero, after normalisation.

  Returns:
    (B, T, 112, 112, 1) float32, (gray / 255 - 0.4136) / 0.17.

  Raises:
    ValueError: for frames of another size.
  """
  if frames.shape[2:4] != (256, 256):
    height, width = frames.shape[2:4]
    raise ValueError(f'frames of {height}x{width}; the word classifier knows LRW, 256x256')
  x = frames[:, :, 95:231, 59:195].astype(jnp.float32)
  for axis in (3, 2):  # Pillow scales rows, rounds, then columns; smaller pictures are antialiased
    shape = list(x.shape)
    shape[axis] = 112
    x = jnp.round(jax.image.resize(x, shape, 'linear'))
  gray = jnp.round(0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2])
  valid = jnp.arange(frames.shape[1]) < num_frames[:, None]
  return jnp.where(valid[..., None, None], (gray / 255 - 0.4136) / 0.17, 0)[..., None]


def random_view(video, shift, flip, size: int):
  """Cuts a window out of each clip and mirrors some: the same for all frames of a clip.

  Args:
    video: (B, T, H, W, C).
    shift: (B, 2) int, top and left of the window.
    flip: (B,) bool, which clips are mirrored.
    size: side of the window.

  Returns:
    (B, T, size, size, C).
  """

  def cut(clip, corner, mirrored):
    start = (0, corner[0], corner[1], 0)
    window = lax.dynamic_slice(clip, start, (len(clip), size, size, clip.shape[-1]))
    return jnp.where(mirrored, window[:, :, ::-1], window)

  return jax.vmap(cut)(video, shift, flip)
