"""What the systems that read lips share: their view of a clip, and how they are set up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tfg_jax import configuration, errors, light_random
from tfg_jax.features import audio as audio_features
from tfg_jax.features import video as video_features
from tfg_jax.systems import base
from tfg_jax.systems.sources import Source

FPS = audio_features.SAMPLE_RATE / audio_features.SAMPLES_PER_ROW  # of video and audio rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
  """`model.view`: which square of the whole frame is seen; `jitter` and `mirror` act in training.

  Officially the centre of the frame for LRS2, and a random window of an aligned mouth for LRS3,
  4 pixels around its centre, half of the clips mirrored.
  """

  size: int = video_features.LIP_SIZE  # pixels of the stored frames, which are not scaled
  below: int = 0  # pixels between the centres of frame and square
  jitter: int = 4  # most pixels that the square is moved by, the same for all frames of a clip
  mirror: bool = True

  def __call__(self, frames, num_frames):
    """(B, T, H, W, 3) RGB, 0 to 255, to (B, T, size, size, 1), normalised; differentiable."""
    return video_features.lip_roi(frames, num_frames, self.size, self.below)

  def sample(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """How one training clip is seen: what `augmented` needs in the batch."""
    return {
      'view_shift': rng.integers(2 * self.jitter + 1, size=2, dtype=np.int32),
      'view_mirrored': np.bool_(self.mirror and rng.random() < 0.5),
    }

  def augmented(self, batch: base.Batch) -> jax.Array:
    """The same as calling it, moved and mirrored as `sample` drew."""
    wide = video_features.lip_roi(
      batch['frames'], batch['num_frames'], self.size + 2 * self.jitter, self.below
    )
    return video_features.random_view(wide, batch['view_shift'], batch['view_mirrored'], self.size)

  def check(self, height: int, width: int):
    """Raises ConfigError if the square, with its jitter, reaches over frames of this size."""
    size = self.size + 2 * self.jitter
    top = (height - size) // 2 + self.below
    if min(self.size, size) < 1 or size > min(height, width) or not 0 <= top <= height - size:
      raise errors.ConfigError(
        f'model.view of {self.size} px, {self.below} px below the centre and moved by up to '
        f'{self.jitter}, does not lie in frames of {height}x{width}.',
        where='config',
        hint='lower model.view.size, below or jitter.',
      )


def read_settings(kind: type, run: configuration.Run):
  """The section `model` of a config as the dataclass `kind`.

  Raises:
    ConfigError: as `configuration.read_section` does, or if `view` or the rates do not fit.
  """
  if (run.data.fps, run.data.sample_rate) != (FPS, audio_features.SAMPLE_RATE):
    raise errors.ConfigError(
      f'data has {run.data.fps:g} frames and {run.data.sample_rate} samples per second.',
      where='config',
      hint=f'AV-HuBERT reads {FPS:g} and {audio_features.SAMPLE_RATE}: prepare the corpus so.',
    )
  settings = configuration.read_section(kind, run.model, 'model')
  settings.view.check(run.data.height, run.data.width)
  return settings


def check_warmup(warmup: int, num_steps: int):
  """Raises ConfigError unless the warm-up of the learning rate leaves steps behind it."""
  if not 1 <= warmup < num_steps:
    raise errors.ConfigError(
      f'model.warmup is {warmup} of {num_steps} steps.',
      where='config',
      hint='use at least 1 and less than num_steps.',
    )


def padding_mask(batch: base.Batch) -> jax.Array:
  """(B, T) bool, True behind the end of each clip."""
  return jnp.arange(batch['frames'].shape[1]) >= batch['num_frames'][:, None]


def dropout_key(state: base.State, axis_name: str | None) -> jax.Array:
  """The step's key, for XLA's own generator: the default one costs a CPU more than the layers."""
  return light_random.from_key(state.step_key(axis_name))


def take_encoder(fresh, source: Source):
  """The variables of a fresh AV-HuBERT encoder with the numbers of a trained one.

  What only masked prediction uses may be missing or of another size; it stays fresh.

  Raises:
    CheckpointError: if the source has no encoder, or one of other sizes.
  """
  return source.replace(fresh, 'encoder', free=('mask_emb', 'label_embs'))


def show(video: jax.Array, num_frames: jax.Array) -> dict[str, jax.Array]:
  """Samples for people from what a reader sees, (B, T, S, S, 1): strips of 8 frames, and videos."""
  low, high = video.min((1, 2, 3, 4), keepdims=True), video.max((1, 2, 3, 4), keepdims=True)
  gray = (255 * (video - low) / jnp.maximum(high - low, 1e-6)).astype(jnp.uint8)
  videos = jnp.repeat(gray, 3, axis=-1)
  return {'strips': base.strip(videos, num_frames), 'videos': videos}
