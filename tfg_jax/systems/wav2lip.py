"""Wav2Lip (Prajwal et al., ACM MM 2020): lip sync, supervised by a frozen sync expert.

Generator      masked pose + identity reference + 0.2 s of log-mel -> the face, lower half redrawn
Losses         w_s sync + w_a adversarial + (1 - w_s - w_a) L1
               The sync loss is the expert's, on the lower halves of five drawn faces in a row.
Stages         0: w_s is 0; 1: from the first evaluation on whose sync loss is below 0.75

TalkLip's strongest baseline, and where its networks come from. Numbers are those of the official
code (Rudrabha/Wav2Lip, `wav2lip_train.py` and `hq_wav2lip_train.py`).

Departures     The expert normalises with its stored statistics; officially with those of the batch,
               which also overwrite the stored ones. The stage is part of the state; officially a
               resumed run begins again with w_s = 0. In use, speech is heard around the frame as
               in training; the official script hears it 40 ms later.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tfg_jax import configuration, errors, light_random, losses
from tfg_jax.data import windows
from tfg_jax.features import audio as audio_features
from tfg_jax.networks import wav2lip as networks
from tfg_jax.networks.discriminator import QualityDiscriminator
from tfg_jax.networks.face_unet import FaceUNet
from tfg_jax.networks.mel_encoder import MelEncoder
from tfg_jax.systems import base, mouths, sync_expert


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossWeights:
  """`model.loss`; what they leave to 1 is the weight of L1."""

  sync: float = 0.01  # w_s in stage 1; officially 0.03 beside the adversarial loss
  adversarial: float = 0.0  # w_a; without it there is no discriminator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The section `model` of a config. Sections of networks hold the fields of their modules."""

  expert: str  # workdir of a sync_expert run with judge 'color', or a converted color_syncnet
  # Workdir of a run of wav2lip or of talklip with local audio, or a converted wav2lip_generator,
  # whose networks this run begins with.
  start: str = ''
  audio_encoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # MelEncoder
  face: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # FaceUNet
  discriminator: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  windows: int = 1  # of five frames, per clip and training step
  evaluation_windows: int = 8
  loss: LossWeights = LossWeights()
  switch_below: float = 0.75  # sync loss of an evaluation that turns the sync loss on
  # The step at which it is turned on instead, for short runs; evaluations look at it. Empty: none.
  stage_starts: tuple[int, ...] = ()
  optimizer: str = 'adam'  # of the generator; or 'muon'
  learning_rate: float = 1e-4  # of both players
  final_rate: float = 1.0  # of the learning rate, at num_steps, down a cosine; officially constant
  b1: float = 0.9  # officially 0.5 beside a discriminator
  b2: float = 0.999


@dataclasses.dataclass(frozen=True)
class Wav2Lip:
  """See the module; `from_config` builds it."""

  settings: Settings
  generator: networks.Wav2Lip
  discriminator: QualityDiscriminator
  num_steps: int
  axis_name: str | None = None

  score = 'generated/l1'
  draws = 'mouth'
  last_stage = 1

  @classmethod
  def from_config(cls, run: configuration.Run, *, axis_name: str | None = None) -> 'Wav2Lip':
    """Builds networks and settings from `run.model`.

    Raises:
      ConfigError: for unknown keys or values that cannot be.
    """
    settings = configuration.read_section(Settings, run.model, 'model')
    if not settings.expert:
      raise errors.ConfigError(
        'Wav2Lip needs a sync expert, and model.expert is empty.',
        where='config',
        hint="name the workdir of a sync_expert run with model.judge='color', or a converted "
        'color_syncnet: --config.model.expert=DIR',
      )
    dtype = jnp.dtype(run.dtype)
    shared = dict(axis_name=axis_name, dtype=dtype)
    generator = networks.Wav2Lip(
      configuration.build_module(
        MelEncoder, settings.audio_encoder, 'model.audio_encoder', **shared
      ),
      configuration.build_module(FaceUNet, settings.face, 'model.face', **shared),
    )
    discriminator = mouths.build_discriminator(settings.discriminator, generator.image, dtype)
    base.optimizer(settings.optimizer)  # refused here if there is no such
    return cls(settings, generator, discriminator, run.num_steps, axis_name)

  # ------------------------------------------------------------------------------------------------
  # State
  # ------------------------------------------------------------------------------------------------

  def init(self, key: jax.Array) -> base.State:
    """Fresh networks: 'generator' and, with an adversarial loss, 'discriminator'."""
    generator_key, discriminator_key = jax.random.split(light_random.from_key(key))
    faces = jnp.zeros((1, self.face_size, self.face_size, 6))
    mel = jnp.zeros((1, audio_features.MEL_BINS, audio_features.MEL_WINDOW, 1))
    variables = self.generator.init(generator_key, faces, mel, train=False)
    nets = {
      'generator': base.Net.create(
        variables['params'], variables['batch_stats'], self._optimizer('generator')
      )
    }
    if self.settings.loss.adversarial:
      judge = self.discriminator.init(discriminator_key, faces[..., :3])
      nets['discriminator'] = base.Net.create(judge['params'], {}, self._optimizer('discriminator'))
    stage = mouths.stage_at(0, self.settings.stage_starts)
    return base.State.create(key, nets, stage=stage)

  @property
  def face_size(self) -> int:
    """S, the side of a face crop in pixels."""
    return self.generator.image.image_size

  def _optimizer(self, player: str) -> optax.GradientTransformation:
    settings = self.settings
    kind = settings.optimizer if player == 'generator' else 'adam'
    return mouths.optimizer(settings, self.num_steps, kind=kind, rate=settings.learning_rate)

  @property
  def sources(self) -> dict[str, str]:
    """Folders of networks that `start` takes over."""
    folders = {'expert': self.settings.expert, 'start': self.settings.start}
    return {name: folder for name, folder in folders.items() if folder}

  @functools.cached_property
  def _expert(self) -> sync_expert.Color:
    return sync_expert.read(self.settings.expert, 'color')

  def start(self, state: base.State, sources: dict, batches: Iterable[dict]) -> base.State:
    """On the host, before the first step: takes over the sync expert and what another run has
    learnt.

    Raises:
      CheckpointError, ConfigError: if the expert is none or sees faces of another size, or the
        other run does not fit.
    """
    del batches
    if self._expert.size != self.face_size:
      raise errors.ConfigError(
        f'the generator draws faces of {self.face_size} px and the expert sees '
        f'{self._expert.size}.',
        where=f'model.expert={self.settings.expert}',
        hint='train one of the two for the size of the other.',
      )
    if 'start' in sources:
      state = state.replace(nets=mouths.take_over(state.nets, sources['start']))
    return state.replace(frozen={'expert': sync_expert.variables(sources['expert'])})

  def export(self, state: base.State, network: str):
    """The variables of one public network (a name of `tfg_jax.networks.OFFICIAL`)."""
    held = {'wav2lip_generator': 'generator', 'wav2lip_quality_discriminator': 'discriminator'}
    if held.get(network) not in state.nets:
      raise errors.ConversionError(
        f'this Wav2Lip run holds no {network!r}.',
        hint=f'it holds {" and ".join(name for name, net in held.items() if net in state.nets)}.',
      )
    net = state.nets[held[network]]
    return {'params': net.params, **({'batch_stats': net.stats} if net.stats else {})}

  # ------------------------------------------------------------------------------------------------
  # Training
  # ------------------------------------------------------------------------------------------------

  def sample(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Windows of five frames to draw, and where their identity references start."""
    length = sync_expert.WINDOW_FRAMES
    drawn = windows.training_windows(rng, len(clip.frames), self.settings.windows, length)
    return drawn | {'frame_index': np.concatenate(mouths.frame_indices(drawn, length))}

  def sample_evaluation(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Windows spread over the clip; the identity reference is its first frame."""
    return windows.validation_windows(
      len(clip.frames), self.settings.evaluation_windows, mouths.EVALUATION_FRAMES
    )

  def train_step(self, state: base.State, batch: base.Batch) -> tuple[base.State, base.Metrics]:
    """Updates the generator, then the discriminator, on one pass of the fakes through both."""
    weights = self.settings.loss
    generator, discriminator = state.nets['generator'], state.nets.get('discriminator')
    target, face, index, mask = mouths.window_inputs(
      batch, sync_expert.WINDOW_FRAMES, self.face_size
    )
    mel = self._mel(batch, index / mouths.FPS)

    def generator_loss(params):
      fake, updated = self.generator.apply(
        {'params': params, 'batch_stats': generator.stats},
        face,
        mel,
        train=True,
        mutable=['batch_stats'],
      )
      terms = {'l1': losses.masked_l1(fake, target, mask, axis_name=self.axis_name)}
      total, l1_weight, on_fake = 0.0, 1.0, None
      if discriminator is not None:
        terms['adversarial'], on_fake = mouths.judge_fakes(
          self._judge, discriminator.params, fake, mask, axis_name=self.axis_name
        )
        total += weights.adversarial * terms['adversarial']
        l1_weight -= weights.adversarial
      if state.stage >= 1:
        windows_mask = batch['window_mask'].reshape(-1)
        terms['sync'] = losses.masked_mean(
          self._sync(state, fake, batch), windows_mask, axis_name=self.axis_name
        )
        total += weights.sync * terms['sync']
        l1_weight -= weights.sync
      return total + l1_weight * terms['l1'], (terms, updated['batch_stats'], on_fake)

    gradient = jax.value_and_grad(generator_loss, has_aux=True)
    (total, (terms, stats, on_fake)), g_grads = gradient(generator.params)
    metrics = {'g/total': total, **{f'g/{name}': value for name, value in terms.items()}}
    grads = {'generator': g_grads}
    if discriminator is not None:
      grads['discriminator'], d_terms = mouths.discriminator_gradient(
        self._judge, discriminator.params, target, on_fake, mask, axis_name=self.axis_name
      )
      metrics |= {f'd/{name}': value for name, value in d_terms.items()}
    grads, stats, metrics = base.mean_over_devices((grads, stats, metrics), self.axis_name)
    metrics |= {f'{name[0]}/grad_norm': base.global_norm(x) for name, x in grads.items()}
    nets = {
      name: net.update(
        grads[name], self._optimizer(name), stats=stats if name == 'generator' else None
      )
      for name, net in state.nets.items()
    }
    return state.replace(nets=nets), metrics

  def _sync(self, state, faces, batch):
    """(windows,) losses of the expert on drawn faces (N, S, S, 3), five to a window."""
    expert, variables = self._expert, state.frozen['expert']
    speech = expert.mel(batch, batch['window_starts'] / mouths.FPS)
    lips, heard = expert.module.apply(variables, expert.halves(faces), speech, train=False)
    return jax.vmap(lambda a, v: losses.cosine_bce(a[None], v[None], jnp.ones(1)))(heard, lips)

  def _mel(self, batch, times):
    """(N, 80, 16, 1) log-mel around the frames at `times` (B, n) in seconds."""
    mel = audio_features.mel_windows(batch['wav'], batch['num_samples'], times)
    return mel.reshape(-1, *mel.shape[2:])[..., None]

  def _judge(self, params, face):
    return self.discriminator.apply({'params': params}, face)

  def on_evaluation(self, state: base.State, results: dict[str, float]) -> base.State:
    """Turns the sync loss on once drawn lips are near enough to sync; it is never turned off.

    With `stage_starts` the step alone decides.
    """
    if self.settings.stage_starts:
      return state.replace(stage=mouths.stage_at(int(state.step), self.settings.stage_starts))
    if results['generated/sync'] < self.settings.switch_below:
      return state.replace(stage=1)
    return state

  def finished(self, state: base.State) -> bool:
    del state
    return False

  # ------------------------------------------------------------------------------------------------
  # Use
  # ------------------------------------------------------------------------------------------------

  def eval_step(self, state: base.State, batch: base.Batch) -> base.Metrics:
    """Distances between the windows' faces and the real ones, (B,) each; see `mouths.rows`.

    `sync` is the expert's loss on every row; 0.69 is a cosine of one half.
    """
    clips = len(batch['frames'])
    faces, mask = mouths.rows(self._painter(state), batch, self.face_size)
    numbers = mouths.distances(faces, mask, clips)
    for row, image in faces.items():
      loss = self._sync(state, image, batch)
      numbers[f'{row}/sync'] = mouths.mean_per_clip(loss, batch['window_mask'], clips)
    return numbers

  def summary(self, results: dict[str, float]) -> str:
    """Says what the numbers of `eval_step` mean."""
    return (
      f'{mouths.summary(results)} The sync expert puts them at {results["generated/sync"]:.2f}, '
      f'real ones at {results["ground_truth/sync"]:.2f} (0: in sync for sure).'
    )

  def samples(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """Real and redrawn clips; see `mouths.samples`."""
    return mouths.samples(self._painter(state), batch, self.face_size)

  def videos(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """Whole clips for observers; see `mouths.videos`."""
    return mouths.videos(self._painter(state), batch, self.face_size)

  def generate(self, state: base.State, inputs: base.Batch) -> jax.Array:
    """Redraws face crops to speech; see `mouths.generate`."""
    return mouths.generate(self._painter(state), inputs)

  def _painter(self, state):
    generator = state.nets['generator']
    variables = {'params': generator.params, 'batch_stats': generator.stats}

    def draw(face, batch, times):
      return self.generator.apply(variables, face, self._mel(batch, times), train=False)

    return draw
