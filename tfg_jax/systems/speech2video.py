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

import jax
import jax.numpy as jnp
import optax

from tfg_jax import configuration, light_random, losses
from tfg_jax.features import speech
from tfg_jax.systems import base, drawn_faces, players, speech2video_players
from tfg_jax.systems.speech2video_players import DISTILLATION, EXPERTS, OPTIMIZERS, rmsprop
from tfg_jax.systems.speech2video_speaker import Speaker, standardised


class Speech2Video(Speaker):
  """See the module; `from_config` builds it."""

  @classmethod
  def from_config(cls, run: configuration.Run, *, axis_name: str | None = None) -> 'Speech2Video':
    """Builds networks and settings from `run.model`.

    Raises:
      ConfigError: for unknown keys or values that cannot be.
    """
    settings, experts, networks = speech2video_players.build(run, axis_name)
    return cls(settings, run.data.fps, experts, networks, axis_name)

  # ------------------------------------------------------------------------------------------------
  # State
  # ------------------------------------------------------------------------------------------------

  @property
  def _optimizers(self) -> dict[str, optax.GradientTransformation]:
    rates = self.settings.learning_rates
    return {
      'identity_student': rmsprop(rates.students),
      'emotion_student': rmsprop(rates.students),
      'decoder': OPTIMIZERS[self.settings.optimizer](rates.decoder),
      'identity_discriminator': rmsprop(rates.identity_discriminator),
      'frame_discriminator': rmsprop(rates.frame_discriminator),
      'sync_discriminator': rmsprop(rates.sync_discriminator),
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
      variables = self.networks[name].init(player_key, *arrays, **settings)
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
    omega = standardised(omega, schedule)
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

    def at(frames):  # (B, n) -> (B * n, D): the step that has heard the whole of each frame
      step = speech.steps_at((frames + 1) / self.fps, context.shape[1])[..., None]
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
