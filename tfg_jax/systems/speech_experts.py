"""What Speech2Video leans on and does not train itself: CPC, two teachers, an observer.

CPC                predicts the next 120 ms of speech from its context                      (2.1)
Identity teacher   VGG-Face: describes a face, and its maps supervise the decoder       (2.1, 2.2)
Emotion teacher    SENet-50: which emotion a frame shows                                (2.1, Eq. 1)
Observer           a small network apart from both teachers, for evaluation

The paper takes the first three as published. Here each is frozen where the config names its
weights, a converted network or the workdir of a Speech2Video run, and else learns from the corpus:
CPC from its speech, the others from its labels.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tfg_jax import configuration, errors, losses
from tfg_jax.features import speech, video
from tfg_jax.networks.cpc import CPC, SAMPLES_PER_STEP, Predictor
from tfg_jax.networks.resnet import SENET50, ResNet
from tfg_jax.networks.speech2video import Observer
from tfg_jax.networks.vgg import VGGFace
from tfg_jax.systems import base, drawn_faces, players

# The order of FER+, with the words that the corpora's adapters use.
EMOTIONS = (
  'neutral', 'happy', 'surprised', 'sad', 'angry', 'disgusted', 'afraid', 'contemptuous',
)  # fmt: skip
# Expert -> the public network whose converted weights it takes.
PUBLIC = {
  'cpc': 'cpc_audio',
  'identity_teacher': 'vggface_vgg16',
  'emotion_teacher': 'senet50_ferplus',
}
_OMEGA = {'last': speech.last_context, 'mean': speech.mean_context}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The section `model.experts`. Sections of networks hold the fields of their modules."""

  identities: int = 0  # people whom the corpus names (extra `identity`); 0: it has no labels
  traits: int = 0  # how many of a corpus' (extra `traits`) the observer tells high from low
  weights: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # expert -> folder
  cpc: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  identity_teacher: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # VGGFace
  emotion_teacher: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # ResNet, SENet-50
  observer: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  teacher_size: int = 224  # side of the teachers' faces, pixels
  teacher_frames: int = 8  # K of Eq. 1; the paper does not say
  omega: str = 'last'  # context of the speech, as in the paper; or the 'mean' of all
  window: int = 20_480  # samples; this and the next two are the defaults of CPC_audio
  steps_ahead: int = 12
  negatives: int = 128
  cpc_learning_rate: float = 2e-4
  learning_rate: float = 1e-3  # of teachers and observer


@dataclasses.dataclass(frozen=True)
class Experts:
  """See the module; `from_section` builds it."""

  settings: Settings
  face_size: int
  cpc: CPC
  predictor: Predictor
  identity_teacher: VGGFace
  emotion_teacher: ResNet
  observer: Observer | None
  needed: tuple[str, ...] = tuple(PUBLIC)
  axis_name: str | None = None

  @classmethod
  def from_section(
    cls,
    section: Mapping[str, Any],
    face_size: int,
    *,
    needed: tuple[str, ...] = tuple(PUBLIC),
    axis_name: str | None,
    dtype: Any,
  ) -> 'Experts':
    """Builds networks from `model.experts`; of the public ones, only those `needed` will be used.

    Raises:
      ConfigError: for unknown keys or values that cannot be.
    """
    where = 'model.experts'
    settings = configuration.read_section(Settings, section, where)
    shared = dict(axis_name=axis_name, dtype=dtype)
    cpc = configuration.build_module(CPC, settings.cpc, f'{where}.cpc', dtype=dtype)
    # A teacher that learns here names the corpus' people; a given one, whom it was made for.
    learns = settings.identities and not settings.weights.get('identity_teacher')
    own_classes = {'classes': settings.identities} if learns else {}
    identity_teacher = configuration.build_module(
      VGGFace, settings.identity_teacher, f'{where}.identity_teacher', **own_classes, dtype=dtype
    )
    emotion_teacher = configuration.build_module(
      ResNet, {**SENET50, **settings.emotion_teacher}, f'{where}.emotion_teacher', **shared
    )
    unknown = set(settings.weights) - set(PUBLIC)
    if unknown:
      raise errors.ConfigError(
        f'{where}.weights names {min(unknown)!r}.',
        where='config',
        hint=f'known: {", ".join(PUBLIC)}.',
      )
    observer = None
    if settings.identities:
      observer = configuration.build_module(
        Observer,
        settings.observer,
        f'{where}.observer',
        identities=settings.identities,
        emotions=len(EMOTIONS),
        traits=settings.traits,
        **shared,
      )
    if settings.omega not in _OMEGA:
      raise errors.ConfigError(
        f'{where}.omega is {settings.omega!r}.',
        where='config',
        hint=f'use one of {", ".join(_OMEGA)}.',
      )
    for teacher in needed:
      if teacher != 'cpc' and not settings.weights.get(teacher) and not settings.identities:
        raise errors.ConfigError(
          f'{where} has neither labels nor weights for the {teacher.replace("_", " ")}.',
          where='config',
          hint=f'set {where}.identities, if the corpus has labels, or {where}.weights.{teacher}.',
        )
    return cls(
      settings,
      face_size,
      cpc,
      Predictor(settings.steps_ahead, cpc.features, dtype=dtype),
      identity_teacher,
      emotion_teacher,
      observer,
      needed,
      axis_name,
    )

  # ------------------------------------------------------------------------------------------------
  # State
  # ------------------------------------------------------------------------------------------------

  @property
  def sources(self) -> dict[str, str]:
    """Expert -> the folder of its weights, where they are given."""
    weights = self.settings.weights
    return {expert: weights[expert] for expert in self.needed if weights.get(expert)}

  @property
  def learned(self) -> tuple[str, ...]:
    """The experts that learn here."""
    names = tuple(expert for expert in self.needed if expert not in self.sources)
    return (*names, 'observer') if self.observer else names

  @property
  def _optimizers(self):
    adam = optax.adam(self.settings.learning_rate)
    return {
      'cpc': optax.adam(self.settings.cpc_learning_rate),
      'identity_teacher': adam,
      'emotion_teacher': adam,
      'observer': adam,
    }

  def init(self, key: jax.Array) -> tuple[dict[str, base.Net], dict[str, Any]]:
    """Fresh networks of the experts that learn, and fresh variables of those that do not."""
    keys = dict(zip((*PUBLIC, 'observer', 'predictor'), jax.random.split(key, 5), strict=True))
    size = self.settings.teacher_size
    face = jnp.zeros((1, size, size, 3))
    fresh = {
      'cpc': lambda key: self.cpc.init(key, jnp.zeros((1, 10 * SAMPLES_PER_STEP))),
      'identity_teacher': lambda key: self.identity_teacher.init(key, face, train=False),
      'emotion_teacher': lambda key: self.emotion_teacher.init(key, face, train=False),
      'observer': lambda key: self.observer.init(
        key, jnp.zeros((1, self.face_size, self.face_size, 3)), train=False
      ),
    }
    nets = {}
    for name in self.learned:
      variables = fresh[name](keys[name])
      params, stats = variables['params'], variables.get('batch_stats', {})
      if name == 'cpc':
        context = jnp.zeros((1, 1, self.cpc.context))
        predictor = self.predictor.init(keys['predictor'], context)['params']
        params = {**params, 'predictor': predictor}
      nets[name] = base.Net.create(params, stats, self._optimizers[name])
    return nets, {name: fresh[name](keys[name]) for name in self.sources}

  def start(self, state: base.State, sources: Mapping[str, Any]) -> base.State:
    """The state with the weights of the sources; see `systems.sources.Source`."""
    taken = {name: source.replace(state.frozen[name], name) for name, source in sources.items()}
    return state.replace(frozen=state.frozen | taken)

  def variables(self, state: base.State, name: str) -> dict[str, Any]:
    """The variables of one expert as its module takes them."""
    if name in state.frozen:
      return state.frozen[name]
    net = state.nets[name]
    params = {part: x for part, x in net.params.items() if part != 'predictor'}
    return {'params': params, **({'batch_stats': net.stats} if net.stats else {})}

  # ------------------------------------------------------------------------------------------------
  # Inputs
  # ------------------------------------------------------------------------------------------------

  def sample(
    self, clip, rng: np.random.Generator, *, strangers: bool = False
  ) -> dict[str, np.ndarray]:
    """On the host: frames for the teachers, a stretch of speech for CPC, and the clip's labels.

    Args:
      clip: a record.
      rng: what chooses.
      strangers: whether the clip may show somebody beyond those of the config, whom nobody knows.

    Raises:
      DataError: if the clip lacks a label that the config promises.
    """
    spare = max(len(clip.wav) - self.settings.window, 0)
    chosen = {
      'teacher_frames': rng.integers(len(clip.frames), size=self.settings.teacher_frames),
      'window_start': rng.integers(spare + 1),
    }
    if self.observer is not None:
      chosen |= {'identity': self._identity(clip, strangers), 'emotion': _emotion(clip)}
      if self.settings.traits:
        chosen['traits'] = _traits(clip, self.settings.traits)
    return {name: np.asarray(x, np.int32) for name, x in chosen.items()}

  def sample_evaluation(self, clip, rng: np.random.Generator, frames: int) -> dict[str, np.ndarray]:
    """What `sample` gives of anybody's clip, with so many `drawn_frames` spread over it."""
    index = (np.arange(frames) + 0.5) * len(clip.frames) / frames
    return self.sample(clip, rng, strangers=True) | {'drawn_frames': index.astype(np.int32)}

  def _identity(self, clip, strangers):
    number = clip.extras.get('identity', ())
    if len(number) != 1:
      raise errors.DataError(
        "the clip does not say who speaks: it has no number as extra 'identity'.",
        hint='prepare the corpus again, or train without labels: model.experts.identities=0.',
      )
    if number[0] < 0 or not (strangers or number[0] < self.settings.identities):
      raise errors.DataError(
        f'identity {number[0]} is not below {self.settings.identities}.',
        hint='set model.experts.identities to the number of people.',
      )
    return number[0]

  def faces(self, batch: base.Batch, index, size: int):
    """(B, n, size, size, 3) float32 RGB faces in [0, 255] of frames (B, n)."""
    frames = jnp.take_along_axis(batch['frames'], index[..., None, None, None], axis=1)
    boxes = jnp.take_along_axis(batch['boxes'], index[..., None], axis=1)
    return video.crop_faces(frames, boxes, size)

  # ------------------------------------------------------------------------------------------------
  # What they say
  # ------------------------------------------------------------------------------------------------

  def hear(self, state: base.State, wav):
    """Contexts (B, S // 160, D) of (B, S) int16 speech."""
    _, context = self.cpc.apply(self.variables(state, 'cpc'), wav / 32768)
    return context.astype(jnp.float32)

  def hear_whole(self, state: base.State, wav, num_samples):
    """Contexts as `hear` gives them, and omega (B, D), which sums them up."""
    context = self.hear(state, wav)
    return context, _OMEGA[self.settings.omega](context, speech.loud_steps(wav, num_samples))

  def describe(self, state: base.State, face):
    """(N, D) identities of teacher-sized faces in [0, 255]: fc7 behind its ReLU."""
    variables = self.variables(state, 'identity_teacher')
    return self.identity_teacher.apply(variables, face, train=False, method='describe')

  def name(self, state: base.State, description):
    """(N, identities) logits of what `describe` returned."""
    variables = self.variables(state, 'identity_teacher')
    return self.identity_teacher.apply(variables, description, method='classify')

  def maps(self, state: base.State, face):
    """Maps at S/16, S/8 and S/4 of faces (N, S, S, 3) in [0, 255]."""
    variables = self.variables(state, 'identity_teacher')
    return self.identity_teacher.apply(variables, face, method='maps')[::-1]

  def feel(self, state: base.State, face):
    """(N, 8) emotion logits of teacher-sized faces in [0, 255]."""
    variables = self.variables(state, 'emotion_teacher')
    return self.emotion_teacher.apply(variables, face, train=False)

  def observe(self, state: base.State, image):
    """Logits about faces (N, S, S, 3) in [-1, 1]; see `Observer`."""
    return self.observer.apply(self.variables(state, 'observer'), image, train=False)

  # ------------------------------------------------------------------------------------------------
  # Training
  # ------------------------------------------------------------------------------------------------

  def train_step(self, state: base.State, batch: base.Batch):
    """Every expert that learns takes a step of its own: (new nets, metrics)."""
    steps = {
      'cpc': self._predictive_loss,
      'identity_teacher': self._identity_loss,
      'emotion_teacher': self._emotion_loss,
      'observer': self._observer_loss,
    }
    keys = jax.random.split(state.step_key(self.axis_name), len(steps))
    nets, metrics = dict(state.nets), {}
    for (name, loss), key in zip(steps.items(), keys, strict=True):
      if name in self.learned:
        net = state.nets[name]
        nets[name], own, _ = players.learn(
          name,
          net,
          lambda params, loss=loss, net=net, key=key: loss(params, net.stats, batch, key),
          self._optimizers[name],
          axis_name=self.axis_name,
        )
        metrics |= own
    return nets, metrics

  def _predictive_loss(self, params, stats, batch, key):
    window = min(self.settings.window, batch['wav'].shape[1])
    wave = jax.vmap(lambda wav, start: jax.lax.dynamic_slice(wav, (start,), (window,)))(
      batch['wav'], batch['window_start']
    )
    own = {part: x for part, x in params.items() if part != 'predictor'}
    encoded, context = self.cpc.apply({'params': own}, wave / 32768)
    predicted = self.predictor.apply({'params': params['predictor']}, context)
    clips, length, _ = encoded.shape
    # From all clips, not only from the speaker's own as in CPC_audio: a context that tells voices
    # apart is what the students read.
    negatives = jax.random.randint(key, (clips, self.settings.negatives), 0, clips * length)
    loss = losses.predictive_coding(predicted, encoded, negatives)
    return loss, ({}, None, None)

  def _identity_loss(self, params, stats, batch, key):
    logits = self.identity_teacher.apply(
      {'params': params}, self._teacher_faces(batch), train=True, rngs={'dropout': key}
    )
    return _classification(logits, batch['identity'], None)

  def _emotion_loss(self, params, stats, batch, key):
    logits, updated = self.emotion_teacher.apply(
      {'params': params, 'batch_stats': stats},
      self._teacher_faces(batch),
      train=True,
      rngs={'dropout': key},
      mutable=['batch_stats'],
    )
    return _classification(logits, batch['emotion'], updated['batch_stats'])

  def _observer_loss(self, params, stats, batch, key):
    faces = self.faces(batch, batch['teacher_frames'], self.face_size)
    image = drawn_faces.to_signed(faces.reshape(-1, *faces.shape[2:]))
    said, updated = self.observer.apply(
      {'params': params, 'batch_stats': stats}, image, train=True, mutable=['batch_stats']
    )
    total, terms = jnp.zeros(()), {}
    for name, logits in said.items():
      label = batch[name]
      if name == 'traits':
        label = jnp.repeat(label, len(logits) // len(label), axis=0)
        loss = optax.sigmoid_binary_cross_entropy(logits, label).mean()
        own = {'loss': loss, 'accuracy': ((logits > 0) == label).mean()}
      else:
        loss, (own, _, _) = _classification(logits, label, None)
      total += loss
      terms |= {f'{name}_{key}': value for key, value in own.items()}
    return total, (terms, updated['batch_stats'], None)

  def _teacher_faces(self, batch):
    faces = self.faces(batch, batch['teacher_frames'], self.settings.teacher_size)
    return faces.reshape(-1, *faces.shape[2:])


def check_stage_ends(run: configuration.Run, **lengths: int):
  """Raises ConfigError for a stage of so many steps that it would not end at an evaluation."""
  for name, steps in lengths.items():
    if steps % run.evaluation.every:
      raise errors.ConfigError(
        f'model.{name} is {steps}, but a stage can only end where the run evaluates, every '
        f'{run.evaluation.every} steps.',
        where='config',
        hint='make it a multiple of evaluation.every.',
      )


def _emotion(clip):
  if clip.emotion not in EMOTIONS:
    raise errors.DataError(
      f'the emotion {clip.emotion!r} is not one of {", ".join(EMOTIONS)}.',
      hint='prepare the corpus again, or train without labels: model.experts.identities=0.',
    )
  return EMOTIONS.index(clip.emotion)


def _traits(clip, count):
  """(count,) 1 where a trait is in the upper half of [0, 1]."""
  traits = clip.extras.get('traits', ())
  if len(traits) < count:
    raise errors.DataError(
      f"the clip has {len(traits)} numbers as extra 'traits'.",
      where=clip.clip_id,
      hint=f'model.experts.traits is {count}; set it to 0 for a corpus without traits.',
    )
  return np.asarray(traits[:count]) > 0.5


def _classification(logits, label, stats):
  """Cross-entropy of (B * n, classes) logits with (B,) labels, as `players.learn` takes it."""
  label = jnp.repeat(label, len(logits) // len(label))
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
  return loss, ({'accuracy': (logits.argmax(-1) == label).mean()}, stats, None)
