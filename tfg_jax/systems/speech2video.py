"""Speech2Video (Interspeech 2021): a talking face from speech alone, by cross-modal distillation.

Stage 0   experts that have no weights yet learn from the corpus: see `speech_experts`
Stage 1   students read identity and emotion off the speech, taught by the faces      (2.1, Eq. 1-3)
Stage 2   F draws frames; three discriminators, similarity and gradient losses       (2.2, Eq. 4-10)

  c = CPC(speech), omega = its last step, nu = S_id(omega), mu = S_emo(omega),
  frame t = F(c_t, nu, mu)

Stages end after the config's numbers of steps. Each network is a player of its own, with its own
optimiser; what an earlier stage trained is frozen.

Departures     Real is 1 and generated 0, where the paper prints the reverse: same values. The paper
               prints no objective of F against the discriminators; it is the usual one, their real
               label on fakes. All players of stage 2 step at once, from one forward pass. omega is
               the last context before the silence at the end (on puppets the mean of all), and
               standardised over the clips. In Eq. 3 the teacher is the target.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tfg_jax import configuration, errors, light_random, losses
from tfg_jax.features import speech
from tfg_jax.networks.speech2video import (
  FrameDecoder,
  FrameDiscriminator,
  IdentityDiscriminator,
  Student,
  SyncDiscriminator,
)
from tfg_jax.systems import base, drawn_faces, players
from tfg_jax.systems.speech_experts import PUBLIC, Experts, check_stage_ends

EXPERTS, DISTILLATION, COMPOSITION = range(3)


def _rmsprop(rate):
  """With PyTorch's defaults, which differ from optax's."""
  return optax.rmsprop(rate, decay=0.99, eps=1e-8, eps_in_sqrt=False, initial_scale=0.0)


_OPTIMIZERS = {'rmsprop': _rmsprop, 'muon': functools.partial(base.muon, b1=0.9, b2=0.999)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossWeights:
  """`model.loss`: weights of Eq. 2 and 10, whose terms are means over pixels and score maps."""

  # Of the normalised distances in Eq. 2: the paper's number.
  distance: float = 0.025
  temperature: float = 1.0  # of Eq. 3
  literal: bool = False  # Eq. 3 as printed, the student as target
  adversarial: float = 1.0
  # The paper weighs sums over pixels by 1; on means that would be nothing beside the adversarial
  # terms, so these are the usual ratio of L1 to GAN (pix2pix).
  similarity: float = 100.0
  gradient: float = 100.0
  smoothed: bool = True  # what Eq. 9 takes gradients of
  # Of Eq. 8. The text wants what is above the nose; the formula prints the other half.
  half: str = 'upper'


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningRates:
  """`model.learning_rates`; those of stage 2 are the paper's."""

  students: float = 3e-4  # not given
  decoder: float = 3e-4
  identity_discriminator: float = 3e-4
  frame_discriminator: float = 1e-4
  sync_discriminator: float = 1e-5  # 'naturalness discriminator' in the paper's list of three


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The section `model` of a config. Sections of networks hold the fields of their modules."""

  experts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  identity_student: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  emotion_student: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  decoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  identity_discriminator: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  frame_discriminator: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  sync_discriminator: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  expert_steps: int  # of stage 0; skipped where no expert learns
  distillation_steps: int  # of stage 1
  frames: int = 4  # drawn per clip and step; they are independent, given c, nu and mu
  out_of_sync: int = 5  # frames at least between a frame and the speech that is not its own
  evaluation_frames: int = 8  # per clip, evenly spread
  loss: LossWeights = LossWeights()
  optimizer: str = 'rmsprop'  # of F, as in the paper, or 'muon'; all others have RMSProp
  learning_rates: LearningRates = LearningRates()


@dataclasses.dataclass(frozen=True)
class Speech2Video:
  """See the module; `from_config` builds it."""

  settings: Settings
  fps: float
  experts: Experts
  identity_student: Student
  emotion_student: Student
  decoder: FrameDecoder
  identity_discriminator: IdentityDiscriminator
  frame_discriminator: FrameDiscriminator
  sync_discriminator: SyncDiscriminator
  axis_name: str | None = None

  score = 'generated/l1'
  draws = 'head'
  last_stage = COMPOSITION

  @classmethod
  def from_config(cls, run: configuration.Run, *, axis_name: str | None = None) -> 'Speech2Video':
    """Builds networks and settings from `run.model`.

    Raises:
      ConfigError: for unknown keys or values that cannot be.
    """
    settings = configuration.read_section(Settings, run.model, 'model')
    dtype = jnp.dtype(run.dtype)

    def build(name, module, **fixed):
      return configuration.build_module(
        module, getattr(settings, name), f'model.{name}', dtype=dtype, **fixed
      )

    decoder = build('decoder', FrameDecoder, axis_name=axis_name)
    _check(run, settings, decoder)
    experts = Experts.from_section(
      settings.experts, decoder.image_size, axis_name=axis_name, dtype=dtype
    )
    if tuple(experts.identity_teacher.widths[:1:-1]) != tuple(decoder.map_widths):
      raise errors.ConfigError(
        f'model.decoder.map_widths is {decoder.map_widths}; the identity teacher has '
        f'{tuple(experts.identity_teacher.widths[:1:-1])}.',
        where='config',
        hint='give the widths of its last three stages, the last one first.',
      )
    return cls(
      settings,
      run.data.fps,
      experts,
      build('identity_student', Student, features=experts.identity_teacher.hidden),
      build('emotion_student', Student, features=experts.emotion_teacher.classes),
      decoder,
      build('identity_discriminator', IdentityDiscriminator),
      build('frame_discriminator', FrameDiscriminator),
      build('sync_discriminator', SyncDiscriminator),
      axis_name,
    )

  # ------------------------------------------------------------------------------------------------
  # State
  # ------------------------------------------------------------------------------------------------

  @property
  def face_size(self) -> int:
    """S, the side of a face in pixels."""
    return self.decoder.image_size

  @property
  def sources(self) -> dict[str, str]:
    """Where weights are taken from: expert -> folder."""
    return self.experts.sources

  @property
  def _optimizers(self) -> dict[str, optax.GradientTransformation]:
    rates = self.settings.learning_rates
    return {
      'identity_student': _rmsprop(rates.students),
      'emotion_student': _rmsprop(rates.students),
      'decoder': _OPTIMIZERS[self.settings.optimizer](rates.decoder),
      'identity_discriminator': _rmsprop(rates.identity_discriminator),
      'frame_discriminator': _rmsprop(rates.frame_discriminator),
      'sync_discriminator': _rmsprop(rates.sync_discriminator),
    }

  def init(self, key: jax.Array) -> base.State:
    """Fresh players. The schedule keeps running means of real faces, of the teacher's maps and of
    omega, taken in stage 1: an average face to compare with, and fixed scales of the other two."""
    expert_key, *keys = jax.random.split(light_random.from_key(key), 7)
    nets, frozen = self.experts.init(expert_key)
    size, context = self.face_size, jnp.zeros((1, self.experts.cpc.context))
    identity = jnp.zeros((1, self.experts.identity_teacher.hidden))
    emotion = jnp.zeros((1, self.experts.emotion_teacher.classes))
    image = jnp.zeros((1, size, size, 3))
    maps = [
      jnp.zeros((1, size // divisor, size // divisor, width))
      for divisor, width in zip((16, 8, 4), self.decoder.map_widths, strict=True)
    ]
    inputs = {
      'identity_student': (context,),
      'emotion_student': (context,),
      'decoder': (context, emotion, identity),
      'identity_discriminator': (maps,),
      'frame_discriminator': (image,),
      'sync_discriminator': (context, image),
    }
    for (name, arrays), player_key in zip(inputs.items(), keys, strict=True):
      settings = {'train': False} if name == 'decoder' else {}
      variables = getattr(self, name).init(player_key, *arrays, **settings)
      stats = variables.get('batch_stats', {})
      nets[name] = base.Net.create(variables['params'], stats, self._optimizers[name])
    schedule = {
      'faces_seen': jnp.zeros((), jnp.int32),
      'average_face': jnp.zeros((size, size, 3)),
      'map_scales': jnp.ones(3),
      'omega': jnp.zeros(self.experts.cpc.context),
      'omega_square': jnp.ones(self.experts.cpc.context),
    }
    stage = EXPERTS if self.experts.learned else DISTILLATION
    return base.State.create(key, nets, frozen=frozen, schedule=schedule, stage=stage)

  def start(self, state: base.State, sources, batches) -> base.State:
    """Takes the weights of given experts over."""
    return self.experts.start(state, sources)

  def on_evaluation(self, state: base.State, results: dict[str, float]) -> base.State:
    """The stage that the number of steps asks for."""
    first = self.settings.expert_steps if self.experts.learned else 0
    ends = (first, first + self.settings.distillation_steps)
    return state.replace(stage=sum(int(state.step) >= end for end in ends))

  def finished(self, state: base.State) -> bool:
    return False  # `num_steps` ends the run

  def export(self, state: base.State, network: str):
    """The variables of one public network (a name of `tfg_jax.networks.OFFICIAL`)."""
    for expert, name in PUBLIC.items():
      if name == network:
        return self.experts.variables(state, expert)
    raise errors.ConversionError(
      f'a Speech2Video run holds no {network!r}.', hint=f'it holds {", ".join(PUBLIC.values())}.'
    )

  # ------------------------------------------------------------------------------------------------
  # Inputs
  # ------------------------------------------------------------------------------------------------

  def sample(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Frames to draw, and for each another one whose speech is out of sync with it."""
    total, count = len(clip.frames), self.settings.frames
    index = rng.choice(total, count, replace=total < count)
    apart = np.abs(np.arange(total) - index[:, None])
    # As far apart as asked for, else as far as the clip allows.
    allowed = apart >= np.minimum(self.settings.out_of_sync, apart.max(1, keepdims=True))
    shifted = [rng.choice(np.flatnonzero(row)) for row in allowed]
    return self.experts.sample(clip, rng) | {
      'drawn_frames': np.array(index, np.int32),
      'shifted_index': np.array(shifted, np.int32),
    }

  def sample_evaluation(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Frames spread over the clip."""
    count = self.settings.evaluation_frames
    index = (np.arange(count) + 0.5) * len(clip.frames) / count
    sample = self.experts.sample(clip, rng, strangers=True)
    return sample | {'drawn_frames': index.astype(np.int32)}

  def _step(self, index, steps):
    """The CPC step that has heard the whole of each frame."""
    return speech.steps_at((index + 1) / self.fps, steps)

  def _faces(self, batch, index):
    """(B * n, S, S, 3) faces in [-1, 1] of frames (B, n)."""
    faces = drawn_faces.to_signed(self.experts.faces(batch, index, self.face_size))
    return faces.reshape(-1, *faces.shape[2:])

  def _apply(self, state, name, *inputs, params=None, **settings):
    params = state.nets[name].params if params is None else params
    stats = state.nets[name].stats
    variables = {'params': params, **({'batch_stats': stats} if stats else {})}
    return getattr(self, name).apply(variables, *inputs, **settings)

  def _listen(self, state, wav, num_samples):
    """Contexts (B, N, D), identities nu (B, D) and emotions mu (B, 8) of clips."""
    context, omega = self.experts.hear_whole(state, wav, num_samples)
    omega = _standardised(omega, state.schedule)
    identity, emotion = (
      self._apply(state, name, omega) for name in ('identity_student', 'emotion_student')
    )
    return context, identity, emotion

  # ------------------------------------------------------------------------------------------------
  # Training
  # ------------------------------------------------------------------------------------------------

  def train_step(self, state: base.State, batch: base.Batch) -> tuple[base.State, base.Metrics]:
    """The players of the state's stage each take a step."""
    if state.stage == EXPERTS:
      nets, metrics = self.experts.train_step(state, batch)
      return state.replace(nets=nets), metrics
    if state.stage == DISTILLATION:
      return self._distil(state, batch)
    return self._compose(state, batch)

  def _learn(self, state, name, loss):
    return players.learn(
      name, state.nets[name], loss, self._optimizers[name], axis_name=self.axis_name
    )

  def _distil(self, state, batch):
    """Eq. 2, whose two halves have no parameter in common: one for each student."""
    weights = self.settings.loss
    experts = self.experts
    _, omega = experts.hear_whole(state, batch['wav'], batch['num_samples'])
    size = experts.settings.teacher_size
    first = jnp.zeros((len(omega), 1), jnp.int32)
    identity = experts.describe(state, experts.faces(batch, first, size)[:, 0])
    shown = experts.faces(batch, batch['teacher_frames'], size)
    emotion = experts.feel(state, shown.reshape(-1, *shown.shape[2:]))
    emotion = emotion.reshape(*shown.shape[:2], -1).mean(1)  # Eq. 1

    schedule = self._remember(state, batch, omega)
    omega = _standardised(omega, schedule)
    nets, metrics = dict(state.nets), {}
    for name, target in (('identity_student', identity), ('emotion_student', emotion)):

      def loss(params, name=name, target=target):
        feature = self._apply(state, name, omega, params=params)
        terms = {
          'distance': losses.unit_distance(feature, target),
          'distillation': losses.distillation(
            feature, target, temperature=weights.temperature, literal=weights.literal
          ),
        }
        return weights.distance * terms['distance'] + terms['distillation'], (terms, None, None)

      nets[name], own, _ = self._learn(state, name, loss)
      metrics |= own
    return state.replace(nets=nets, schedule=schedule), metrics

  def _remember(self, state, batch, omega):
    """Running means over the clips seen so far and their first faces, all weighing the same."""
    first = jnp.zeros((len(batch['wav']), 1), jnp.int32)
    faces = self.experts.faces(batch, first, self.face_size)[:, 0]
    scales = jnp.stack([x.mean() for x in self.experts.maps(state, faces)])
    means = {
      'average_face': drawn_faces.to_signed(faces).mean(0),
      'map_scales': scales,
      'omega': omega.mean(0),
      'omega_square': jnp.square(omega).mean(0),
    }
    means = base.mean_over_devices(means, self.axis_name)
    seen = state.schedule['faces_seen'] + 1
    before = {name: state.schedule[name] for name in means}
    after = jax.tree.map(lambda old, new: old + (new - old) / seen, before, means)
    return after | {'faces_seen': seen}

  def _compose(self, state, batch):
    """Eq. 4 to 10 on `frames` frames of each clip."""
    weights = self.settings.loss
    context, identity, emotion = self._listen(state, batch['wav'], batch['num_samples'])
    index = batch['drawn_frames']
    real = self._faces(batch, index)

    def at(frames):  # (B, n) -> (B * n, D)
      step = self._step(frames, context.shape[1])[..., None]
      return jnp.take_along_axis(context, step, axis=1).reshape(-1, context.shape[-1])

    heard, shifted = at(index), at(batch['shifted_index'])
    each = index.shape[1]
    first = jnp.zeros((len(index), 1), jnp.int32)
    portrait = self.experts.faces(batch, first, self.face_size)[:, 0]
    maps = self.experts.maps(state, portrait)
    maps = [x / scale for x, scale in zip(maps, state.schedule['map_scales'], strict=True)]

    def judge(name, *inputs, params=None):
      return self._apply(state, name, *inputs, params=params)

    def decoder_loss(params):
      inflated, fake, stats = self._draw_in_training(state, params, heard, identity, emotion, each)
      terms = {
        'identity': losses.least_squares(judge('identity_discriminator', inflated), 1.0),
        'frame': losses.least_squares(judge('frame_discriminator', fake), 1.0),
        'sync': losses.least_squares(judge('sync_discriminator', heard, fake), 1.0),
        'similarity': losses.half_face_l1(fake, real, weights.half),
        'gradient': losses.gradient_loss(fake, real, smoothed=weights.smoothed),
      }
      total = (
        weights.adversarial * (terms['identity'] + terms['frame'] + terms['sync'])
        + weights.similarity * terms['similarity']
        + weights.gradient * terms['gradient']
      )
      return total, (terms, stats, (inflated, fake))

    nets = dict(state.nets)
    nets['decoder'], metrics, made = self._learn(state, 'decoder', decoder_loss)
    inflated, fake = jax.lax.stop_gradient(made)

    def against(name, loss, *pairs):
      def total(params):
        return loss(*(judge(name, *inputs, params=params) for inputs in pairs)), ({}, None, None)

      nets[name], own, _ = self._learn(state, name, total)
      return own

    metrics |= against('identity_discriminator', losses.adversary, (maps,), (inflated,))
    metrics |= against('frame_discriminator', losses.adversary, (real,), (fake,))
    metrics |= against(
      'sync_discriminator', losses.sync_adversary, (heard, real), (shifted, real), (heard, fake)
    )
    return state.replace(nets=nets), metrics

  def _draw_in_training(self, state, params, heard, identity, emotion, each):
    """(maps, frames, new statistics) of `each` frames per clip."""
    net = state.nets['decoder']
    variables = {'params': params, 'batch_stats': net.stats}
    maps, updated = self.decoder.apply(
      variables, identity, train=True, method='inflate', mutable=['batch_stats']
    )
    stats = updated['batch_stats']
    frames, updated = self.decoder.apply(
      {'params': params, 'batch_stats': net.stats | stats},
      heard,
      jnp.repeat(emotion, each, axis=0),
      [jnp.repeat(x, each, axis=0) for x in maps],
      train=True,
      method='draw',
      mutable=['batch_stats'],
    )
    return maps, frames, net.stats | stats | updated['batch_stats']

  # ------------------------------------------------------------------------------------------------
  # Use
  # ------------------------------------------------------------------------------------------------

  def eval_step(self, state: base.State, batch: base.Batch) -> base.Metrics:
    """Numbers per clip, means over its evaluation frames, (B,) each.

    Rows: 'ground_truth'; 'average_face', the mean of the training faces; 'generated'. `l1` in
    [0, 1], `ssim`, `psnr` in dB. Where the corpus has labels, `right_person`, `right_emotion` and
    `right_traits`: whether the observer, which is neither teacher, sees them. Where both teachers
    learned here, too: 'teacher', what they see in the real frames, and 'speech', what stage 1
    hears: in nu, as the identity teacher names it, and in mu.
    """
    index = batch['drawn_frames']
    clips, each = index.shape
    real = self._faces(batch, index)
    context, identity, emotion = self._listen(state, batch['wav'], batch['num_samples'])
    maps = self._apply(state, 'decoder', identity, train=False, method='inflate')
    times = (index + 1) / self.fps
    drawn = self._draw(state, context, emotion, maps, times)
    average = jnp.broadcast_to(state.schedule['average_face'], real.shape)
    numbers = {}
    for row, image in (('ground_truth', real), ('average_face', average), ('generated', drawn)):
      numbers |= drawn_faces.distances(row, image, real, clips)
      if self.experts.observer is not None:
        numbers |= drawn_faces.recognised(row, batch, self.experts.observe(state, image))
    if {'identity_teacher', 'emotion_teacher'} <= set(state.nets):
      size = self.experts.settings.teacher_size
      faces = self.experts.faces(batch, index, size).reshape(-1, size, size, 3)
      for row, description, mood in (
        ('teacher', self.experts.describe(state, faces), self.experts.feel(state, faces)),
        ('speech', jax.nn.relu(identity), emotion),
      ):
        said = {'identity': self.experts.name(state, description), 'emotion': mood}
        numbers |= drawn_faces.recognised(row, batch, said)
    return numbers

  def summary(self, results: dict[str, float]) -> str:
    """Says what the numbers of `eval_step` mean, and which experts were at hand."""
    text = (
      f'From the voices of clips it has not seen it draws faces of SSIM '
      f'{results["generated/ssim"]:.3f}; the average training face has '
      f'{results["average_face/ssim"]:.3f}.'
    )
    if 'generated/right_person' in results:
      drawn, real = (
        [results[f'{row}/right_{what}'] for what in ('person', 'emotion')]
        for row in ('generated', 'ground_truth')
      )
      text += (
        f' An observer knows {drawn[0]:.0%} of the speakers and {drawn[1]:.0%} of the emotions in '
        f'them, against {real[0]:.0%} and {real[1]:.0%} in the real videos; guessing gives '
        f'{1 / self.experts.observer.identities:.0%} of the speakers.'
      )
    learned = [name.replace('_', ' ') for name in self.experts.learned if name in PUBLIC]
    if learned:
      text += (
        f' No weights were given for {", ".join(learned)}, so they learned from this corpus alone; '
        "the paper's are public ones (model.experts.weights)."
      )
    return text

  def samples(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """Real faces (left or above) and those drawn from the speech (right or below)."""
    clips, length = batch['frames'].shape[:2]
    index = jnp.broadcast_to(jnp.arange(length), (clips, length))
    real = self._faces(batch, index)
    context, identity, emotion = self._listen(state, batch['wav'], batch['num_samples'])
    maps = self._apply(state, 'decoder', identity, train=False, method='inflate')
    drawn = self._draw(state, context, emotion, maps, (index + 1) / self.fps)
    real, drawn = (x.reshape(clips, length, *x.shape[1:]) for x in (real, drawn))
    return drawn_faces.pictures(real, drawn, batch['num_frames'])

  def videos(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """Whole clips for observers, (B, T, H, W, 3) uint8 RGB: real, and with drawn faces."""

    def draw(clip):
      context, identity, emotion = self._listen(state, clip['wav'], clip['num_samples'])
      maps = self._apply(state, 'decoder', identity, train=False, method='inflate')
      times = (jnp.arange(clip['frames'].shape[1])[None] + 1) / self.fps
      return self._draw(state, context, emotion, maps, times)

    return {'ground_truth': batch['frames'], 'generated': drawn_faces.redraw(draw, batch)}

  def describe(self, state: base.State, inputs: base.Batch) -> base.Batch:
    """Who speaks, and in which mood: what `generate` draws in all chunks of one speech.

    Args:
      state: trained.
      inputs: `wav` (M, L) int16, stretches of the speech at 16 kHz about as long as training clips,
        of which `num_samples` (M,) are sound.

    Returns:
      `identity` (D,) and `emotion` (8,), means over the stretches.
    """
    _, identity, emotion = self._listen(state, inputs['wav'], inputs['num_samples'])
    return {'identity': identity.mean(0), 'emotion': emotion.mean(0)}

  def generate(self, state: base.State, inputs: base.Batch) -> jax.Array:
    """Draws the frames of a stretch of speech.

    Args:
      state: trained.
      inputs: `wav` (L,) int16, speech at 16 kHz; `times` (N,) float32, seconds from its start to
        each frame; `identity` and `emotion` from `describe`. Frames should have heard a second or
        two: `wav` begins that much earlier.

    Returns:
      (N, S, S, 3) uint8 RGB faces, at `fps`.
    """
    context = self.experts.hear(state, inputs['wav'][None])
    identity, emotion = inputs['identity'][None], inputs['emotion'][None]
    maps = self._apply(state, 'decoder', identity, train=False, method='inflate')
    times = inputs['times'][None] + 1 / self.fps
    return drawn_faces.to_uint8(self._draw(state, context, emotion, maps, times))

  def _draw(self, state, context, emotion, maps, times):
    """(B * n, S, S, 3) in [-1, 1]: frames that end at `times` (B, n) in seconds."""
    each = times.shape[1]
    step = speech.steps_at(times, context.shape[1])
    heard = jnp.take_along_axis(context, step[..., None], axis=1)
    frames = self._apply(
      state,
      'decoder',
      heard.reshape(-1, heard.shape[-1]),
      jnp.repeat(emotion, each, axis=0),
      [jnp.repeat(x, each, axis=0) for x in maps],
      train=False,
      method='draw',
    )
    return jnp.clip(frames, -1, 1)


def _standardised(omega, schedule):
  """omega (B, D) over the deviations that clips have in it: who speaks shows in a small part of it,
  which the students would find late or never."""
  variance = schedule['omega_square'] - jnp.square(schedule['omega'])
  return (omega - schedule['omega']) * jax.lax.rsqrt(jnp.maximum(variance, 0) + 1e-6)


def _check(run, settings, decoder):
  drawn_faces.check_half(settings.loss.half)
  if settings.optimizer not in _OPTIMIZERS:
    raise errors.ConfigError(
      f'model.optimizer is {settings.optimizer!r}.',
      where='config',
      hint=f'use one of {", ".join(_OPTIMIZERS)}.',
    )
  if decoder.image_size % 32:
    raise errors.ConfigError(
      f'model.decoder.image_size is {decoder.image_size}.',
      where='config',
      hint='use a multiple of 32.',
    )
  check_stage_ends(
    run, expert_steps=settings.expert_steps, distillation_steps=settings.distillation_steps
  )
