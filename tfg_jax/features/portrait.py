"""Portraits as SF2F's networks see and make them.

The network space: RGB in [0, 1], less ImageNet's mean, over its deviation; (..., S, S, 3) float32.

Source: BAI-Yeqi/SF2F_PyTorch@e346b68 `datasets/utils.py`, `models/perceptual.py`,
`scripts/compute_vggface_score.py`.
"""

import io

import jax.numpy as jnp
import numpy as np
from jax import lax
from PIL import Image, UnidentifiedImageError

from tfg_jax.errors import DataError

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
# The face in an aligned portrait, shares of its side: left, top, right, bottom.
_FACE = (0.235, 0.195, 0.765, 0.915)
_VGGFACE_SIZE = 224
VGGFACE_MEAN = (131.0912, 103.8827, 91.4953)  # RGB, of VGGFace2's pictures


def read(file: bytes, size: int, *, where: object = '') -> np.ndarray:
  """Decodes a picture and scales it, as the official loader does, to (size, size, 3) uint8 RGB.

  Raises:
    DataError: if it is no picture; the message names it with `where`.
  """
  return resize(decode(file, where=where), size)


def decode(file: bytes, *, where: object = '') -> np.ndarray:
  """Decodes a picture to (H, W, 3) uint8 RGB; raises what `read` does."""
  try:
    with Image.open(io.BytesIO(file)) as picture:
      return np.asarray(picture.convert('RGB'))
  except (UnidentifiedImageError, OSError) as error:
    raise DataError(f'the portrait is not a picture: {file[:8]!r}...', where=where) from error


def resize(picture: np.ndarray, size: int) -> np.ndarray:
  """(H, W, 3) uint8 to (size, size, 3): bilinear, and averaging where it shrinks."""
  if picture.shape[:2] == (size, size):
    return picture
  return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))


def from_uint8(pixels):
  """uint8 RGB (..., H, W, 3) to the network space."""
  return (pixels.astype(jnp.float32) / 255 - jnp.array(_MEAN)) / jnp.array(_DEVIATION)


def to_uint8(image):
  """The network space to uint8 RGB (..., H, W, 3): cut off, not rounded, as officially."""
  return jnp.clip(_to_pixels(image), 0, 255).astype(jnp.uint8)


def _to_pixels(image):
  return (image * jnp.array(_DEVIATION) + jnp.array(_MEAN)) * 255


def face_crop(size: int) -> tuple[int, int, int, int]:
  """The face of a `size` px portrait: first row, row behind the last, the same of columns."""
  left, top, right, bottom = (int(share * size) for share in _FACE)
  return top, bottom + 1, left, right + 1  # officially both ends are inclusive


def facenet_input(image, *, crop: bool = True):
  """The network space to what FaceNet sees, (..., h, w, 3) within 1 of 0; `face_crop` with `crop`.

  There is no gradient where it is clipped.
  """
  pixels = (jnp.clip(_to_pixels(image), 0, 255) - 127.5) / 128
  if not crop:
    return pixels
  top, bottom, left, right = face_crop(image.shape[-2])
  return pixels[..., top:bottom, left:right, :]


def vggface_input(pixels):
  """(..., H, W, 3) uint8 RGB to (..., 224, 224, 3) for the VGGFace score.

  The public network was trained on BGR; the score of the paper is taken in this order.
  """
  centred = pixels.astype(jnp.float32) - jnp.array(VGGFACE_MEAN)
  return resize_corners(centred, (_VGGFACE_SIZE, _VGGFACE_SIZE))


def resize_corners(images, size: tuple[int, int]):
  """Bilinear between pixel centres that coincide at the corners (PyTorch's `align_corners`).

  Takes (..., H, W, C) and a height and width of 2 or more; no averaging where it shrinks.
  """

  def weights(old, new):  # (new, old)
    positions = np.linspace(0, old - 1, new)
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(old))).astype(np.float32)

  height, width = images.shape[-3:-1]
  return jnp.einsum(
    'yh,...hwc,xw->...yxc',
    weights(height, size[0]),
    images,
    weights(width, size[1]),
    precision=lax.Precision.HIGHEST,
  )


def halve(image):
  """Every second pixel of (..., H, W, 3): how two-resolution training makes its small target."""
  return image[..., ::2, ::2, :]
