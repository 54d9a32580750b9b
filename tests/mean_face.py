"""A system in one file: it learns the mean of all faces, pixel by pixel, and draws it.

`config.system` names it 'mean_face:MeanFace'; the loop, checkpoints, evaluation, report and both
kinds of parallel training come with that. What a paper needs more is in `tfg_jax.systems.base`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tfg_jax import configuration
from tfg_jax.features import video
from tfg_jax.systems import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The section `model` of a config: keys that are not here are refused."""

  size: int = 32  # of the faces, pixels
  learning_rate: float = 1.0


class MeanFace(base.Expert):
  """`Expert`: it has no schedule of its own and redraws nobody's video."""

  called = 'MeanFace'
  score = 'drawn/l1'  # lower is better: which checkpoint is the best
  sources = {}  # it takes no other run's networks over

  def __init__(self, settings: Settings, axis_name: str | None):
    self._size, self._axis_name = settings.size, axis_name
    self._optimizer = optax.sgd(settings.learning_rate)

  @classmethod
  def from_config(cls, run: configuration.Run, *, axis_name: str | None = None) -> 'MeanFace':
    return cls(configuration.read_section(Settings, run.model, 'model'), axis_name)

  def init(self, key: jax.Array) -> base.State:
    params = {'pixels': jnp.full((self._size, self._size, 3), 0.5)}
    return base.State.create(key, {'face': base.Net.create(params, {}, self._optimizer)})

  def start(self, state, sources, batches):
    return state

  # On the host, for every clip: what the step needs besides the clip.
  def sample(self, clip, rng: np.random.Generator):
    return {'shown': np.int32(rng.integers(len(clip.frames)))}

  def sample_evaluation(self, clip, rng: np.random.Generator):
    return {'shown': np.int32(0)}

  # On the device.
  def _faces(self, batch):
    """(B, S, S, 3) in [0, 1]."""
    frame = batch['shown'][:, None]
    frames = jnp.take_along_axis(batch['frames'], frame[..., None, None, None], axis=1)
    boxes = jnp.take_along_axis(batch['boxes'], frame[..., None], axis=1)
    return video.crop_faces(frames, boxes, self._size)[:, 0] / 255

  def train_step(self, state, batch):
    net, faces = state.nets['face'], self._faces(batch)

    def loss(params):  # summed over pixels: each of them learns by itself
      return jnp.square(params['pixels'] - faces).sum((1, 2, 3)).mean() / 2

    value, grads = jax.value_and_grad(loss)(net.params)
    value, grads = base.mean_over_devices((value, grads), self._axis_name)
    metrics = {'loss': value, 'grad_norm': base.global_norm(grads)}
    return state.replace(nets={'face': net.update(grads, self._optimizer)}), metrics

  def eval_step(self, state, batch):
    faces = self._faces(batch)
    rows = {'ground_truth': faces, 'grey': 0.5, 'drawn': state.nets['face'].params['pixels']}
    return {f'{row}/l1': jnp.abs(x - faces).mean((1, 2, 3)) for row, x in rows.items()}

  def summary(self, results):
    return f'Faces differ from the mean by {results["drawn/l1"]:.3f} of the grey scale.'

  def samples(self, state, batch):
    faces = self._faces(batch)
    drawn = jnp.broadcast_to(state.nets['face'].params['pixels'], faces.shape)
    pictures = (jnp.concatenate([faces, drawn], axis=2) * 255).round().astype(jnp.uint8)
    videos = jnp.broadcast_to(pictures[:, None], (len(faces), *batch['frames'].shape[1:2],
                                                 *pictures.shape[1:]))  # fmt: skip
    return {'strips': pictures, 'videos': videos}
