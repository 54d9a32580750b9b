"""The first layers that the lip readers share: a spatio-temporal convolution and a max pool.

Source: `VideoFrontend` of Stafylakis and Tzimiropoulos, 2017, as AV-HuBERT and its peers have it.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from tfg_jax.networks.layers import uniform_init


class GrayVideoConv(nn.Module):
  """3-D convolution of a gray video: kernel (5, 7, 7), stride (1, 2, 2), "same" zeros, no bias.

  The kernel is stored as (5, 7, 7, 1, features). It is applied as a 2-D convolution of five
  neighbouring frames stacked as channels, which gives the same sums; matrix units and CPUs both
  prefer it to a 3-D convolution of a single channel.
  """

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, video):  # (B, T, H, W, 1) -> (B, T, H / 2, W / 2, features)
    depth, window = 5, (7, 7)
    kernel = self.param('kernel', uniform_init(depth * 49), (depth, *window, 1, self.features))
    batch, frames, height, width, _ = video.shape
    padded = jnp.pad(video[..., 0].astype(self.dtype), ((0, 0), (2, 2), (0, 0), (0, 0)))
    stacked = jnp.stack([padded[:, i : i + frames] for i in range(depth)], axis=-1)
    y = lax.conv_general_dilated(
      stacked.reshape(batch * frames, height, width, depth),
      jnp.moveaxis(kernel[..., 0, :], 0, 2).astype(self.dtype),
      window_strides=(2, 2),
      padding=((3, 3), (3, 3)),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return y.reshape(batch, frames, *y.shape[1:])


def halving_max_pool(images):
  """Max pool, window 3, stride 2, padding 1 with -inf: (B, H, W, C) -> (B, H / 2, W / 2, C)."""
  return nn.max_pool(images, (3, 3), (2, 2), ((1, 1), (1, 1)))
