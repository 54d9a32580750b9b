"""The baselines of Speech2Video: speech-driven facial animation, from a picture or from the voice.

SDFA            a picture of the speaker and speech to video (Vougioukas et al., IJCV 2020)
SDFA(mismatch)  the same network, shown another person's picture: a row of its evaluation
S2F+SDFA        no picture: features that a voice encoder has of the face (Speech2Face, CVPR 2019)
                take its place, and the generator loses its skip connections

Stage 0   experts learn, see `speech_experts`: only the observer and the identity teacher are needed
Stage 1   S2F+SDFA: the voice encoder learns the teacher's features of the face, by their distance
Stage 2   the animation: L1 on the lower half, and a frame, a sequence and a sync discriminator

The Speech2Video paper trains these baselines without saying how, and SDFA's public code has no
training: weights of the losses are those of the SDFA paper, sizes and rates ours.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tfg_jax import configuration, errors, light_random, losses
from tfg_jax.networks import sdfa as networks
from tfg_jax.systems import base, drawn_faces, players
from tfg_jax.systems.speech_experts import Experts, check_stage_ends

EXPERTS, VOICE, ANIMATION = range(3)
_SYNC_FRAMES = 5
_JUDGES = ('frame_judge', 'sequence_judge', 'sync_judge')


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossWeights:
  """`model.loss` of stage 2."""

  l1: float = 600.0
  frame: float = 1.0
  sequence: float = 0.2
  sync: float = 0.8
  half: str = 'lower'  # of the face that L1 sees


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningRates:
  """`model.learning_rates`; Adam's b1 is 0.5."""

  voice: float = 1e-4
  animator: float = 1e-4
  frame_judge: float = 1e-4
  sequence_judge: float = 1e-5
  sync_judge: float = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The section `model` of a config. Sections of networks hold the fields of their modules."""

  reference: str  # 'image': SDFA; 'voice': S2F+SDFA
  experts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  speech: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  face: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  generator: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  voice: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  frame_judge: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  sequence_judge: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  sync_judge: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  noise: int = 10
  noise_scale: float = 0.33
  expert_steps: int  # of stage 0
  voice_steps: int  # of stage 1; without meaning where a picture is shown
  frames: int = 16  # in a row, drawn per clip and step
  evaluation_frames: int = 8  # per clip, evenly spread
  loss: LossWeights = LossWeights()
  optimizer: str = 'adam'  # or 'muon', of the animator; all others have Adam
  learning_rates: LearningRates = LearningRates()


@dataclasses.dataclass(frozen=True)
class SDFA:
  """See the module; `from_config` builds it."""

  settings: Settings
  fps: float
  experts: Experts
  animator: networks.Animator
  voice: networks.VoiceEncoder
  frame_judge: networks.FrameJudge
  sequence_judge: networks.SequenceJudge
  sync_judge: networks.SyncJudge
  axis_name: str | None = None

  last_stage = ANIMATION

  @classmethod
  def from_config(cls, run: configuration.Run, *, axis_name: str | None = None) -> 'SDFA':
    """Builds networks and settings from `run.model`.

    Raises:
      ConfigError: for unknown keys or values that cannot be.
    """
    settings = configuration.read_section(Settings, run.model, 'model')
    if settings.reference not in ('image', 'voice'):
      raise errors.ConfigError(
        f'model.reference is {settings.reference!r}.',
        where='config',
        hint="use 'image' or 'voice'.",
      )
    drawn_faces.check_half(settings.loss.half)
    base.optimizer(settings.optimizer)  # refused here if there is no such
    check_stage_ends(run, expert_steps=settings.expert_steps, voice_steps=settings.voice_steps)
    if settings.frames < _SYNC_FRAMES:
      raise errors.ConfigError(
        f'model.frames is {settings.frames}.',
        where='config',
        hint=f'the sync discriminator sees {_SYNC_FRAMES} in a row.',
      )
    dtype = jnp.dtype(run.dtype)
    shared = dict(axis_name=axis_name, dtype=dtype)

    def build(name, module, **fixed):
      return configuration.build_module(module, getattr(settings, name), f'model.{name}', **fixed)

    generator = build('generator', networks.FrameGenerator, **shared)
    experts = Experts.from_section(
      settings.experts,
      generator.image_size,
      needed=() if settings.reference == 'image' else ('identity_teacher',),
      **shared,
    )
    return cls(
      settings,
      run.data.fps,
      experts,
      networks.Animator(
        build('speech', networks.SpeechEncoder, **shared),
        generator,
        build('face', networks.FaceEncoder, **shared) if settings.reference == 'image' else None,
        dtype=dtype,
      ),
      build('voice', networks.VoiceEncoder, features=experts.identity_teacher.hidden, **shared),
      build('frame_judge', networks.FrameJudge, dtype=dtype),
      build('sequence_judge', networks.SequenceJudge, dtype=dtype),
      build('sync_judge', networks.SyncJudge, dtype=dtype),
      axis_name,
    )

  # ------------------------------------------------------------------------------------------------
  # State
  # ------------------------------------------------------------------------------------------------

  @property
  def face_size(self) -> int:
    """S, the side of a face in pixels."""
    return self.animator.generator.image_size

  @property
  def name(self) -> str:
    """Of the row of its evaluation."""
    return 'sdfa' if self._sees else 's2f_sdfa'

  @property
  def draws(self) -> str:
    """A face where a picture is the reference, else a head."""
    return 'face' if self._sees else 'head'

  @property
  def score(self) -> str:
    """The distance of what it draws from the real faces."""
    return f'{self.name}/l1'

  @property
  def sources(self) -> dict[str, str]:
    """Where weights are taken from: expert -> folder."""
    return self.experts.sources

  @property
  def _sees(self) -> bool:
    return self.settings.reference == 'image'

  def _optimizer(self, name) -> optax.GradientTransformation:
    kind = self.settings.optimizer if name == 'animator' else 'adam'
    return base.optimizer(kind)(getattr(self.settings.learning_rates, name), b1=0.5, b2=0.999)

  def init(self, key: jax.Array) -> base.State:
    """Fresh players; 'voice' only where it is needed."""
    expert_key, *keys = jax.random.split(light_random.from_key(key), 6)
    nets, frozen = self.experts.init(expert_key)
    size, frames = self.face_size, _SYNC_FRAMES
    windows = networks.audio_windows(jnp.zeros((1, 6400)), frames, self.fps)
    image, video = jnp.zeros((1, size, size, 3)), jnp.zeros((1, frames, size, size, 3))
    features = jnp.zeros((1, self.voice.features))
    noise = jnp.zeros((1, 1, self.settings.noise))
    index = jnp.zeros((1, 1), jnp.int32)
    inputs = {
      'animator': (windows, image if self._sees else features, index, noise),
      'frame_judge': (image, image),
      'sequence_judge': (windows, video),
      'sync_judge': (windows[:, 0], video),
    }
    if not self._sees:
      inputs['voice'] = (networks.spectrogram(jnp.zeros((1, 32_000))),)
    for (name, arrays), player_key in zip(inputs.items(), keys, strict=False):
      settings = {'train': False} if name in ('animator', 'voice') else {}
      variables = getattr(self, name).init(player_key, *arrays, **settings)
      stats = variables.get('batch_stats', {})
      nets[name] = base.Net.create(variables['params'], stats, self._optimizer(name))
    return base.State.create(key, nets, frozen=frozen, stage=self._stage(0))

  def start(self, state: base.State, sources, batches) -> base.State:
    """Takes the weights of given experts over."""
    return self.experts.start(state, sources)

  def _stage(self, step: int) -> int:
    first = self.settings.expert_steps if self.experts.learned else 0
    second = first + (0 if self._sees else self.settings.voice_steps)
    return EXPERTS if step < first else VOICE if step < second else ANIMATION

  def on_evaluation(self, state: base.State, results: dict[str, float]) -> base.State:
    """The stage that the number of steps asks for."""
    return state.replace(stage=self._stage(int(state.step)))

  def finished(self, state: base.State) -> bool:
    return False  # `num_steps` ends the run

  def export(self, state: base.State, network: str):
    raise errors.ConversionError(
      f'an SDFA run holds no {network!r}.', hint='none of its networks is a public one.'
    )

  # ------------------------------------------------------------------------------------------------
  # Inputs
  # ------------------------------------------------------------------------------------------------

  def sample(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Frames in a row; of a clip with fewer, the last one repeats."""
    count = self.settings.frames
    start = rng.integers(max(len(clip.frames) - count, 0) + 1)
    index = np.minimum(start + np.arange(count), len(clip.frames) - 1)
    return self.experts.sample(clip, rng) | {'drawn_frames': index.astype(np.int32)}

  def sample_evaluation(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Frames spread over the clip."""
    return self.experts.sample_evaluation(clip, rng, self.settings.evaluation_frames)

  def _faces(self, batch, index):
    """(B, n, S, S, 3) faces in [-1, 1] of frames (B, n)."""
    return drawn_faces.to_signed(self.experts.faces(batch, index, self.face_size))

  def _portrait(self, batch):
    """(B, S, S, 3): the first face of each clip."""
    return self._faces(batch, jnp.zeros((len(batch['wav']), 1), jnp.int32))[:, 0]

  def _apply(self, state, name, *inputs, params=None, **settings):
    net = state.nets[name]
    variables = {'params': net.params if params is None else params}
    if net.stats:
      variables['batch_stats'] = net.stats
    return getattr(self, name).apply(variables, *inputs, **settings)

  def _reference(self, state, batch):
    """What says who speaks: a picture, or features of the voice."""
    if self._sees:
      return self._portrait(batch)
    return self._apply(state, 'voice', networks.spectrogram(batch['wav']), train=False)

  # ------------------------------------------------------------------------------------------------
  # Training
  # ------------------------------------------------------------------------------------------------

  def train_step(self, state: base.State, batch: base.Batch) -> tuple[base.State, base.Metrics]:
    """The players of the state's stage each take a step."""
    if state.stage == EXPERTS:
      nets, metrics = self.experts.train_step(state, batch)
    elif state.stage == VOICE:
      nets, metrics = self._learn_voices(state, batch)
    else:
      nets, metrics = self._animate(state, batch)
    return state.replace(nets=nets), metrics

  def _learn(self, state, name, loss):
    return players.learn(
      name, state.nets[name], loss, self._optimizer(name), axis_name=self.axis_name
    )

  def _learn_voices(self, state, batch):
    first = jnp.zeros((len(batch['wav']), 1), jnp.int32)
    size = self.experts.settings.teacher_size
    target = self.experts.describe(state, self.experts.faces(batch, first, size)[:, 0])
    spectrogram = networks.spectrogram(batch['wav'])

    def loss(params):
      feature, updated = self._apply(
        state, 'voice', spectrogram, params=params, train=True, mutable=['batch_stats']
      )
      return losses.unit_distance(feature, target), ({}, updated['batch_stats'], None)

    net, metrics, _ = self._learn(state, 'voice', loss)
    return {**state.nets, 'voice': net}, metrics

  def _animate(self, state, batch):
    weights, index = self.settings.loss, batch['drawn_frames']
    clips, count = index.shape
    real = self._faces(batch, index)
    windows = networks.audio_windows(batch['wav'], batch['frames'].shape[1], self.fps)
    reference, portrait = self._reference(state, batch), self._portrait(batch)
    heard = jnp.take_along_axis(windows, index[..., None], axis=1)
    shown = jnp.repeat(portrait, count, axis=0)
    middle = (count - _SYNC_FRAMES) // 2
    centre = middle + _SYNC_FRAMES // 2
    # Half a stretch away: the same voice, saying something else.
    shifted = jnp.roll(windows, windows.shape[1] // 2, axis=1)
    shifted = jnp.take_along_axis(shifted, index[:, centre, None, None], axis=1)[:, 0]
    noise = self.settings.noise_scale * jax.random.normal(
      state.step_key(self.axis_name), (clips, count, self.settings.noise)
    )

    def judge(name, video, params=None, *, speech=None):
      if name == 'frame_judge':
        inputs = video.reshape(-1, *video.shape[2:]), shown
      elif name == 'sequence_judge':
        inputs = heard, video
      else:
        speech = heard[:, centre] if speech is None else speech
        inputs = speech, video[:, middle : middle + _SYNC_FRAMES]
      return self._apply(state, name, *inputs, params=params)

    def animator_loss(params):
      drawn, updated = self._apply(
        state,
        'animator',
        windows,
        reference,
        index,
        noise,
        params=params,
        train=True,
        mutable=['batch_stats'],
      )
      drawn = drawn.reshape(real.shape)
      terms = {
        'l1': losses.half_face_l1(drawn, real, weights.half),
        **{name: losses.generator_loss(judge(name, drawn)) for name in _JUDGES},
      }
      total = weights.l1 * terms['l1'] + sum(
        getattr(weights, name.removesuffix('_judge')) * terms[name] for name in _JUDGES
      )
      return total, (terms, updated['batch_stats'], drawn)

    nets = dict(state.nets)
    nets['animator'], metrics, drawn = self._learn(state, 'animator', animator_loss)
    drawn = jax.lax.stop_gradient(drawn)
    for name in _JUDGES:

      def loss(params, name=name):
        on_fake = losses.fake_loss(judge(name, drawn, params))
        if name == 'sync_judge':
          on_fake = (on_fake + losses.fake_loss(judge(name, real, params, speech=shifted))) / 2
        terms = {'real': losses.real_loss(judge(name, real, params)), 'fake': on_fake}
        return terms['real'] + terms['fake'], (terms, None, None)

      nets[name], own, _ = self._learn(state, name, loss)
      metrics |= own
    return nets, metrics

  # ------------------------------------------------------------------------------------------------
  # Use
  # ------------------------------------------------------------------------------------------------

  def eval_step(self, state: base.State, batch: base.Batch) -> base.Metrics:
    """Numbers per clip as Speech2Video's `eval_step` gives them.

    Rows: 'ground_truth'; 'sdfa' with the clip's first face as reference and 'sdfa_mismatch' with
    that of another person in the batch (the next one; records do not say who is a woman or a man);
    or 's2f_sdfa'.
    """
    index = batch['drawn_frames']
    real = self._faces(batch, index)
    real = real.reshape(-1, *real.shape[2:])
    length = batch['frames'].shape[1]
    rows = {'ground_truth': real} | {
      row: self._draw(state, batch['wav'], reference, index, length)
      for row, reference in self._references(state, batch).items()
    }
    numbers = {}
    for row, image in rows.items():
      numbers |= drawn_faces.distances(row, image, real, len(index))
      if self.experts.observer is not None:
        numbers |= drawn_faces.recognised(row, batch, self.experts.observe(state, image))
    return numbers

  def _references(self, state, batch):
    """What the rows of an evaluation are drawn from."""
    reference = self._reference(state, batch)
    mismatch = {'sdfa_mismatch': reference[_another_person(batch)]} if self._sees else {}
    return {self.name: reference} | mismatch

  def _draw(self, state, wav, reference, index, length):
    """(B * n, S, S, 3) in [-1, 1]; without noise, so that the same input gives the same video."""
    windows = networks.audio_windows(wav, length, self.fps)
    noise = jnp.zeros((*index.shape, self.settings.noise))
    return self._apply(state, 'animator', windows, reference, index, noise, train=False)

  def summary(self, results: dict[str, float]) -> str:
    """Says what the numbers of `eval_step` mean."""
    name = {'sdfa': 'SDFA', 's2f_sdfa': 'S2F+SDFA'}[self.name]
    text = (
      f'{name} draws faces of SSIM {results[f"{self.name}/ssim"]:.3f} and '
      f'{results[f"{self.name}/psnr"]:.2f} dB on clips it has not seen'
    )
    if self._sees:
      text += f'; shown another person, of {results["sdfa_mismatch/ssim"]:.3f}'
    return f'{text}.'

  def samples(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """Real faces (left or above) and drawn ones (right or below)."""
    clips, length = batch['frames'].shape[:2]
    index = jnp.broadcast_to(jnp.arange(length), (clips, length))
    real = self._faces(batch, index)
    drawn = self._draw(state, batch['wav'], self._reference(state, batch), index, length)
    return drawn_faces.pictures(real, drawn.reshape(real.shape), batch['num_frames'])

  def videos(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """Whole clips for observers, (B, T, H, W, 3) uint8 RGB: real, and with drawn faces."""
    length = batch['frames'].shape[1]

    def draw(clip, reference):
      return self._draw(state, clip['wav'], reference, jnp.arange(length)[None], length)

    return {'ground_truth': batch['frames']} | {
      row: drawn_faces.redraw(draw, batch, reference)
      for row, reference in self._references(state, batch).items()
    }

  def describe(self, state: base.State, inputs: base.Batch) -> base.Batch:
    """S2F+SDFA: who speaks, as Speech2Video's `describe` takes and gives it."""
    feature = self._apply(state, 'voice', networks.spectrogram(inputs['wav']), train=False)
    return {'identity': feature.mean(0)}

  def generate(self, state: base.State, inputs: base.Batch) -> jax.Array:
    """Draws the frames of a stretch of speech.

    Args:
      state: trained.
      inputs: `wav` (L,) int16, speech at 16 kHz; `times` (N,) float32, seconds from its start to
        each frame; `identity`: (N, S, S, 3) uint8 RGB, of which the first picture is the person,
        or what `describe` gave.

    Returns:
      (N, S, S, 3) uint8 RGB faces.
    """
    identity = inputs['identity']
    reference = drawn_faces.to_signed(identity[:1]) if self._sees else identity[None]
    length = int(inputs['wav'].shape[0] * self.fps // 16_000)
    index = jnp.round(inputs['times'] * self.fps).astype(jnp.int32)
    index = jnp.clip(index, 0, length - 1)[None]
    return drawn_faces.to_uint8(self._draw(state, inputs['wav'][None], reference, index, length))


def _another_person(batch):
  """(B,) for each clip the next one in the batch that shows somebody else, if one does."""
  clips = len(batch['wav'])
  order = (jnp.arange(clips)[:, None] + jnp.arange(1, clips + 1)) % clips
  if 'identity' not in batch:
    return order[:, 0]
  other = batch['identity'][order] != batch['identity'][:, None]
  return jnp.take_along_axis(order, other.argmax(1)[:, None], axis=1)[:, 0]
