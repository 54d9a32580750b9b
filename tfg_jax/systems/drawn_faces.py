"""How drawn faces are measured and shown: shared by the systems that draw whole faces."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from tfg_jax import errors, losses
from tfg_jax.features import video as video_features
from tfg_jax.metrics import image as image_metrics
from tfg_jax.systems import base


def check_half(half: str):
  """Raises ConfigError if `model.loss.half` is none of `losses.HALVES`."""
  if half not in losses.HALVES:
    raise errors.ConfigError(
      f'model.loss.half is {half!r}.',
      where='config',
      hint=f'use one of {", ".join(losses.HALVES)}.',
    )


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


def recognised(row: str, batch: base.Batch, said: Mapping[str, jax.Array]):
  """`right_person` and `right_emotion`, 0 or 1, and `right_traits`, a share, (B,) each.

  Whether the means over a clip's frames of the logits (B * n, classes) are largest for its labels,
  and of those of traits have the right sign.
  """
  numbers = {}
  for name, logits in said.items():
    label = batch[name]
    mean = logits.reshape(len(label), -1, logits.shape[-1]).mean(1)
    if name == 'traits':
      numbers[f'{row}/right_traits'] = ((mean > 0) == label).mean(1)
    else:
      called = {'identity': 'person', 'emotion': 'emotion'}[name]
      numbers[f'{row}/right_{called}'] = (mean.argmax(-1) == label).astype(jnp.float32)
  return numbers


def redraw(draw: Callable, batch: base.Batch, *given: jax.Array) -> jax.Array:
  """Whole clips with drawn faces in place of the real ones.

  Args:
    draw: of a batch of one clip and its rows of `given`: (T, S, S, 3) faces in [-1, 1].
    batch: of clips.
    given: (B, ...) each.

  Returns:
    (B, T, H, W, 3) uint8 RGB.
  """

  def of_clip(rows):
    clip, *rest = jax.tree.map(lambda x: x[None], rows)
    faces = (draw(clip, *rest)[None] + 1) * 127.5
    frames = clip['frames'].astype(jnp.float32)
    return video_features.paste_faces(frames, faces, clip['boxes'])[0].round().astype(jnp.uint8)

  # One clip after the other: all faces of a batch at once would fill the memory.
  needed = ('frames', 'boxes', 'wav', 'num_samples')
  return jax.lax.map(of_clip, ({name: batch[name] for name in needed}, *given))


def pictures(real, drawn, num_frames):
  """Samples for people: strips and videos of faces (B, T, S, S, 3) in [-1, 1], real ones first."""
  real, drawn = to_uint8(real), to_uint8(drawn)
  return {
    'strips': jnp.concatenate([base.strip(x, num_frames) for x in (real, drawn)], axis=1),
    'videos': jnp.concatenate([real, drawn], axis=3),
  }
