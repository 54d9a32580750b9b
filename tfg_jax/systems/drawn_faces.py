"""How drawn faces are measured and shown: shared by the systems that draw whole faces."""

import jax.numpy as jnp

from tfg_jax.metrics import image as image_metrics
from tfg_jax.systems import base


def to_signed(image):
  """[0, 255] to [-1, 1]."""
  return image / 127.5 - 1


def to_uint8(image):
  """[-1, 1] to uint8."""
  return ((image + 1) * 127.5).round().astype(jnp.uint8)


def distances(row: str, image, target, clips: int):
  """`l1` in [0, 1], `ssim` and `psnr` (dB) of faces (B * n, S, S, 3) in [-1, 1], means per clip."""
  image, target = ((x + 1) * 127.5 for x in (image, target))
  numbers = {
    'l1': jnp.abs(image - target).mean((1, 2, 3)) / 255,
    'ssim': image_metrics.ssim(image, target),
    'psnr': image_metrics.psnr(image, target),
  }
  return {f'{row}/{name}': x.reshape(clips, -1).mean(1) for name, x in numbers.items()}


def recognised(row: str, batch, who, mood):
  """`right_person` and `right_emotion`, (B,) 0 or 1 each.

  Whether the means over a clip's frames of the logits (B * n, classes) are largest for its labels.
  """
  numbers = {}
  for name, label, logits in (
    ('right_person', batch['identity'], who),
    ('right_emotion', batch['emotion'], mood),
  ):
    guess = logits.reshape(len(label), -1, logits.shape[-1]).mean(1).argmax(-1)
    numbers[f'{row}/{name}'] = (guess == label).astype(jnp.float32)
  return numbers


def pictures(real, drawn, num_frames):
  """Samples for people: strips and videos of faces (B, T, S, S, 3) in [-1, 1], real ones first."""
  real, drawn = to_uint8(real), to_uint8(drawn)
  return {
    'strips': jnp.concatenate([base.strip(x, num_frames) for x in (real, drawn)], axis=1),
    'videos': jnp.concatenate([real, drawn], axis=3),
  }
