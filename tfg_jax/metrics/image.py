"""PSNR and SSIM of face crops, as TalkLip's evaluation takes them and as they should be.

Source: Sxjdwang/TalkLip `evaluation/visual_quality.py` with scikit-image 0.17.2.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

IDENTICAL = 100.0  # dB, by convention, where there is no error at all


def psnr(image, reference):
  """Peak signal-to-noise ratio in dB of (N, H, W, C) images, values 0 to 255; (N,) float32."""
  error = image.astype(jnp.float32) - reference.astype(jnp.float32)
  return _decibel(jnp.square(error))


def psnr_official(image, reference):
  """PSNR as TalkLip's Table 1 has it, (N,) float32, of (N, H, W, C) uint8 images.

  It squares differences of uint8 arrays in uint8, so what it averages is d^2 mod 256: never below
  the true PSNR, exact for |d| < 16, and about 28 dB for any garbage. For comparison with that table
  only.
  """
  error = image.astype(jnp.int32) - reference.astype(jnp.int32)
  return _decibel((jnp.square(error) % 256).astype(jnp.float32))


def _decibel(squares):
  mean = squares.mean((1, 2, 3))
  exact = mean == 0
  return jnp.where(exact, IDENTICAL, 10 * jnp.log10(255**2 / jnp.where(exact, 1, mean)))


def ssim(image, reference):
  """Structural similarity of (N, H, W, C) images, values 0 to 255; (N,) float32, at most 1.

  Gaussian window of sigma 1.5 cut at radius 5, K1 = 0.01, K2 = 0.03, each channel for itself, mean
  over the map without its 5-pixel border (Wang et al., 2004, as in scikit-image).
  """
  return ssim_map(image, reference).mean((1, 2, 3))


def ssim_map(image, reference):
  """(N, H, W, C) images to the (N, H - 10, W - 10, C) map whose mean is the SSIM."""
  # Moments about the middle of the range lose fewer float32 digits; SSIM's variances do not change.
  x, y = image.astype(jnp.float32) - 127.5, reference.astype(jnp.float32) - 127.5
  mean_x, mean_y, xx, yy, xy = _blur(jnp.stack([x, y, x * x, y * y, x * y]))
  var_x, var_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
  mean_x, mean_y = mean_x + 127.5, mean_y + 127.5
  c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
  luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
  return luminance * (2 * covariance + c2) / (var_x + var_y + c2)


def _blur(x):
  """Gaussian blur over axes -3 and -2, sigma 1.5, where the window of radius 5 lies inside."""
  taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
  taps = jnp.asarray(taps / taps.sum(), jnp.float32)
  for axis in (-3, -2):
    length = x.shape[axis] - len(taps) + 1
    x = sum(tap * lax.slice_in_dim(x, i, i + length, axis=axis) for i, tap in enumerate(taps))
  return x
