"""What the systems that redraw mouths share: TalkLip and Wav2Lip.

Both see a face crop with its lower half blackened (the pose), another crop of the same person (the
identity reference) and speech, and give the whole crop back. Faces are (N, S, S, 3) in [0, 1], BGR
as the public weights have it; N counts the faces of all windows of all clips of a batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tfg_jax import configuration, errors, losses
from tfg_jax.features import video as video_features
from tfg_jax.networks.discriminator import QualityDiscriminator
from tfg_jax.networks.face_unet import FaceUNet
from tfg_jax.systems import base
from tfg_jax.systems.sources import Source

FPS = 25  # the video rate of both papers
EVALUATION_FRAMES = 5  # per window
# Of the discriminator's loss, by its logit on a fake. Far below what float32 adds up.
_LEAST_SLOPE = 1e-16


# --------------------------------------------------------------------------------------------------
# Inputs
# --------------------------------------------------------------------------------------------------


def frame_indices(drawn, length: int):
  """(..., n) int32 frames of windows of `length`, and those of their identity references.

  `drawn` is what `data.windows` chose; n = windows * length.
  """
  steps = np.arange(length, dtype=np.int32)
  index = drawn['window_starts'][..., None] + steps
  identity = drawn['identity_starts'][..., None] + drawn['identity_step'][..., None] * steps
  return tuple(x.reshape(*x.shape[:-2], -1) for x in (index, identity))


def window_inputs(batch: base.Batch, length: int, size: int):
  """The faces of a batch's windows of `length` frames, and where they stand.

  Returns:
    (target, pose and identity, frame index, mask): (N, S, S, 3), (N, S, S, 6), (B, n) and (N,),
    where N = B * n = B * windows * length.
  """
  index, identity_index = frame_indices(batch, length)
  rows = index, identity_index
  if 'frame_index' in batch:  # these alone are in the batch
    everyone = jnp.broadcast_to(jnp.arange(2 * index.shape[1]), batch['frame_index'].shape)
    rows = jnp.split(everyone, 2, axis=1)
  target, identity = (crop(batch, x, size) for x in rows)
  mask = jnp.repeat(batch['window_mask'].reshape(-1), length)
  return target, pose_and_identity(target, identity), index, mask


def crop(batch: base.Batch, index, size: int):
  """(N, S, S, 3) faces of the frames (B, n) of a batch."""
  frames = jnp.take_along_axis(batch['frames'], index[..., None, None, None], axis=1)
  boxes = jnp.take_along_axis(batch['boxes'], index[..., None], axis=1)
  faces = video_features.crop_faces(frames, boxes, size)
  return faces.reshape(-1, size, size, 3)[..., ::-1] / 255


def pose_and_identity(target, identity):
  """(N, S, S, 6): the target with its lower half blackened, then the identity reference."""
  half = target.shape[1] // 2
  return jnp.concatenate([target.at[:, half:].set(0), identity], axis=-1)


# --------------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------------


def stage_at(step: int, starts: Sequence[int]) -> int:
  """The stage of a step, where `starts` are the first steps of stages 1, 2 and so on."""
  return sum(step >= start for start in starts)


def take_over(nets: Mapping[str, base.Net], source: Source) -> dict[str, base.Net]:
  """Fresh networks with the numbers of another run's; their optimisers stay fresh.

  A public network is the generator. What the source lacks stays fresh, but for the generator.

  Raises:
    CheckpointError: if it has no generator, or a network of other sizes.
  """
  source = source.called('generator')
  taken = {}
  for name, net in nets.items():
    if name in source.nets or name == 'generator':
      found = source.replace({'params': net.params, 'batch_stats': net.stats}, name)
      net = net.replace(params=found['params'], stats=found['batch_stats'])
    taken[name] = net
  return taken


def optimizer(settings, num_steps: int, *, kind: str, rate: float) -> optax.GradientTransformation:
  """That of one player, whose learning rate goes down a cosine to `settings.final_rate` of `rate`.

  Args:
    settings: with the fields final_rate, b1 and b2.
    num_steps: of the run.
    kind: see `base.optimizer`.
    rate: at the start.
  """
  schedule = optax.cosine_decay_schedule(rate, num_steps, alpha=settings.final_rate)
  return base.optimizer(kind)(schedule, settings.b1, settings.b2)


def build_discriminator(settings: Mapping[str, Any], face: FaceUNet, dtype) -> QualityDiscriminator:
  """The discriminator of a config's section `model.discriminator`, for the faces that `face` draws.

  Raises:
    ConfigError: for unknown keys, or if it is not as deep as the pictures need.
  """
  built = configuration.build_module(
    QualityDiscriminator, settings, 'model.discriminator', dtype=dtype
  )
  if len(built.widths) != len(face.encoder):
    raise errors.ConfigError(
      f'model.discriminator.widths has {len(built.widths)} sizes, model.face.encoder has '
      f'{len(face.encoder)}.',
      where='config',
      hint='give both one width per size, from the face size down to 3 pixels.',
    )
  return built


# --------------------------------------------------------------------------------------------------
# Adversaries. `judge` is the discriminator: (parameters, faces (N, S, S, 3)) -> logits (N,)
# --------------------------------------------------------------------------------------------------


def judge_fakes(judge, params, fake, mask, *, axis_name: str | None):
  """What both players learn from drawn faces, with one pass through the discriminator and back.

  Of a face's logit z, the discriminator's loss has the slope sigma(z), the generator's -sigma(-z).
  So what goes back through the network differs by a factor per face alone, as long as it judges
  every face for itself.

  Args:
    judge: see above.
    params: of the discriminator.
    fake: drawn faces.
    mask: (N,) bool, False for faces that do not count.
    axis_name: see `tfg_jax.losses`.

  Returns:
    The generator's loss, to be differentiated by `fake` alone, and (loss, gradient) of the
    discriminator on fakes.
  """

  def learn(fake):
    logits, pull_back = jax.vjp(judge, params, fake)
    weights = jax.grad(losses.masked_mean)(logits, mask, axis_name=axis_name)  # of the faces
    # A face that fools nobody at all still tells the generator where to go.
    slope = jnp.maximum(jax.nn.sigmoid(logits), _LEAST_SLOPE)
    gradient, downhill = pull_back(jnp.where(weights > 0, weights * slope, 0))
    factor = jnp.where(weights > 0, -jax.nn.sigmoid(-logits) / slope, 0)
    downhill *= factor.reshape(-1, *[1] * (fake.ndim - 1)).astype(fake.dtype)
    on_fake = losses.fake_loss(logits, mask, axis_name=axis_name), gradient
    return (losses.generator_loss(logits, mask, axis_name=axis_name), on_fake), downhill

  @jax.custom_vjp
  def judged(fake):
    return learn(fake)[0]

  judged.defvjp(learn, lambda downhill, cotangents: (cotangents[0] * downhill,))
  return judged(fake)


def discriminator_gradient(judge, params, real, on_fake, mask, *, axis_name: str | None):
  """What the discriminator learns from a batch, none of it through the generator.

  Args:
    judge, params, mask, axis_name: as in `judge_fakes`.
    real: real faces.
    on_fake: what `judge_fakes` gives for the discriminator.

  Returns:
    The gradient and the terms {'real', 'fake'} of the loss, their sum.
  """

  def loss(params):
    return losses.real_loss(judge(params, real), mask, axis_name=axis_name)

  on_real, gradient = jax.value_and_grad(loss)(params)
  gradient = jax.tree.map(jnp.add, gradient, on_fake[1])
  return gradient, {'real': on_real, 'fake': on_fake[0]}


# --------------------------------------------------------------------------------------------------
# Use. `draw` is the trained generator: (faces (N, S, S, 6), batch, times (B, n) s) -> (N, S, S, 3)
# --------------------------------------------------------------------------------------------------


def rows(draw, batch: base.Batch, size: int):
  """Windows of evaluation as they are, with a pasted mouth, and drawn.

  Returns:
    ({row: faces (N, S, S, 3)}, mask (N,)); the rows are 'ground_truth', 'identity_mouth' (the
    identity reference's lower half under the real upper half) and 'generated'.
  """
  target, face, index, mask = window_inputs(batch, EVALUATION_FRAMES, size)
  half = size // 2
  pasted = jnp.concatenate([target[:, :half], face[:, half:, :, 3:]], axis=1)
  drawn = draw(face, batch, index / FPS)
  return {'ground_truth': target, 'identity_mouth': pasted, 'generated': drawn}, mask


def distances(faces, mask, clips: int) -> base.Metrics:
  """(B,) numbers of each of `rows`, named 'row/metric', against the ground truth.

  `l1` is over the whole face and `mouth_l1` over its mouth region, rows S/2 to S and columns S/4 to
  3S/4, both in [0, 1]. What the papers report is measured on whole videos, by `tfg_jax.observers`.
  """
  numbers = {}
  for row, image in faces.items():
    for metric, value in _distances(image, faces['ground_truth']).items():
      numbers[f'{row}/{metric}'] = mean_per_clip(value, mask, clips)
  return numbers


def _distances(image, target):
  """(N,) numbers per face."""
  size = target.shape[1]
  error = jnp.abs(image - target)
  mouth = error[:, size // 2 :, size // 4 : size - size // 4]
  return {'l1': error.mean((1, 2, 3)), 'mouth_l1': mouth.mean((1, 2, 3))}


def mean_per_clip(values, mask, clips: int):
  """(N,) to (B,), over those that count."""
  values, mask = values.reshape(clips, -1), mask.reshape(clips, -1)
  return (values * mask).sum(1) / mask.sum(1)


def summary(results: dict[str, float]) -> str:
  """Says what the numbers of `distances` mean."""
  drawn, pasted = results['generated/mouth_l1'], results['identity_mouth/mouth_l1']
  change = 1 - drawn / pasted
  return (
    f'On clips it has not seen, the drawn mouths are {abs(change):.0%} '
    f'{"nearer to" if change > 0 else "further from"} the real ones than the mouth of the '
    f'identity reference, pasted in: L1 {drawn:.4f} against {pasted:.4f}.'
  )


def videos(draw, batch: base.Batch, size: int) -> dict[str, jax.Array]:
  """Whole clips (B, T, H, W, 3) uint8 RGB for observers, by the names of `rows`."""

  def paste(face, batch, times):
    del batch, times
    half = size // 2
    return jnp.concatenate([face[:, :half, :, :3], face[:, half:, :, 3:]], axis=1)

  return {
    'ground_truth': batch['frames'],
    'identity_mouth': redraw(paste, batch, size),
    'generated': redraw(draw, batch, size),
  }


def redraw(draw, batch: base.Batch, size: int) -> jax.Array:
  """Whole clips with all their faces drawn, the identity reference being the first frame's.

  Returns:
    (B, T, H, W, 3) uint8 RGB.
  """
  length = batch['frames'].shape[1]
  index = jnp.arange(length)[None]

  def of_clip(clip):
    clip = jax.tree.map(lambda x: x[None], clip)
    target = crop(clip, index, size)
    identity = jnp.broadcast_to(target[:1], target.shape)
    drawn = draw(pose_and_identity(target, identity), clip, index / FPS)[None, ..., ::-1] * 255
    pasted = video_features.paste_faces(clip['frames'].astype(jnp.float32), drawn, clip['boxes'])
    return pasted[0].round().astype(jnp.uint8)

  # One clip after the other: all faces of a batch at once would fill the memory.
  needed = ('frames', 'boxes', 'wav', 'num_samples')
  return jax.lax.map(of_clip, {name: batch[name] for name in needed})


def samples(draw, batch: base.Batch, size: int) -> dict[str, jax.Array]:
  """Real (left or above) and redrawn clips (right or below), whole frames."""
  real, drawn = batch['frames'], redraw(draw, batch, size)
  return {
    'strips': jnp.concatenate([base.strip(x, batch['num_frames']) for x in (real, drawn)], axis=1),
    'videos': jnp.concatenate([real, drawn], axis=3),
  }


def generate(draw, inputs: base.Batch) -> jax.Array:
  """Redraws face crops to speech.

  Args:
    draw: see above.
    inputs: `faces` and `identity`, (N, S, S, 3) uint8 RGB crops; `wav` (L,) int16, a stretch of
      speech at 16 kHz with `num_samples` () valid samples; `times` (N,) float32, seconds from the
      stretch's start to each frame.

  Returns:
    (N, S, S, 3) uint8 RGB faces.
  """
  target, identity = (inputs[name][..., ::-1] / 255 for name in ('faces', 'identity'))
  heard = {'wav': inputs['wav'][None], 'num_samples': inputs['num_samples'][None]}
  drawn = draw(pose_and_identity(target, identity), heard, inputs['times'][None])
  return (drawn[..., ::-1] * 255).round().astype(jnp.uint8)
