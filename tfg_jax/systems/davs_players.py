"""The players of DAVS: their settings, which of them a run has, and how they run in training."""

import dataclasses
import functools
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tfg_jax import configuration, errors, losses
from tfg_jax.networks import davs as networks
from tfg_jax.systems import base

IDENTITY, WORDS, JOINT = range(3)  # stages
FPS = 25

CONTRASTIVE = {
  'l2': losses.l2_contrastive,
  'hardest': functools.partial(losses.l2_contrastive, hardest=True),
  'ranking': losses.ranking,
  'eq1': losses.contrastive_eq1,
}
CONFUSION = {'squares': losses.confusion, 'log': losses.log_confusion}
ADVERSARIAL = {'cross_entropy': losses.soft_cross_entropy, 'squares': losses.square_distance}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
  """`model.weights`, those of the released code; a term with weight 0 is not computed."""

  l1: float = 4.0  # of grey levels, whole face
  mouth_l1: float = 8.0  # on top of it, in the mouth's box
  steadiness: float = 5.0  # what moves outside of that box, audio only
  adversarial: float = 1.0  # D_seq, both heads
  image_adversarial: float = 0.0  # its twin for single frames; off in the released run
  contrastive: float = 1.0
  words: float = 1.0  # cross-entropy of the shared classifier, each sense
  domain: float = 5.0  # each sense, in stage 2
  word_stage_domain: float = 1.0  # the same in stage 1; as much as all else can stall small runs
  identity_words: float = 2000.0  # Eq. 3 through C_p^w; in the code 1e6 for the mean of 500 words
  persons: float = 0.0  # Eq. 5 through C_w^p; the released code has none


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The section `model` of a config. Sections of networks hold the fields of their modules."""

  words: int = 500  # classes; 0 for a run that only learns persons
  persons: int = 0  # classes; 0 where the corpus names nobody
  identity_steps: int = 0  # of stage 0
  word_steps: int = 0  # of stage 1
  identity_encoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  lip_encoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  mfcc_encoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  decoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  discriminator: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  word_classifier: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  face_size: int = 256  # pixels
  mouth_box: tuple[int, ...] = (170, 234, 64, 192)  # top, bottom, left, right in the face
  jitter: int = 2  # pixels of the frame by which a clip's crops are shifted
  flip: bool = True  # half of the clips, in training
  margin_frames: int = 2  # at both ends of a clip, whose sound is not whole
  block_frames: int = 25  # between them
  identity_frames: int = 20  # consecutive, for C_p^w
  word_frames: int = 12  # every second one, for the joint space
  drawn_frames: int = 6  # of those
  # Faces are drawn of one clip in so many; all are read, by the opponents of the encoders too.
  draw_every: int = 1
  evaluation_frames: int = 25  # drawn per clip
  shared_classifier: bool = True  # one word classifier for both senses
  # What C_p^w reads: 'net1' as in the code, or 'pooled' as in the paper.
  identity_source: str = 'net1'
  contrastive: str = 'l2'
  confusion: str = 'squares'
  adversarial: str = 'cross_entropy'
  softening: float = 0.1  # labels of D are off by up to this much
  weights: Weights = Weights()
  # Or 'muon', of those that see or draw; all others have Adam.
  optimizer: str = 'adam'
  learning_rate: float = 2e-4
  opponents_learning_rate: float = 2e-4
  b1: float = 0.9
  b2: float = 0.999
  audio_gain: float = 1.5  # of speech embeddings in `generate`, as the released scripts have it
  video_gain: float = 0.8
  adaptation_steps: int = 0  # of `adapt`; 5 in the released scripts
  # Folders of runs or converted networks whose weights are taken over.
  sources: Mapping[str, str] = dataclasses.field(default_factory=dict)


def stage_at(step: int, settings: Settings) -> int:
  """The stage of a step, counted from 0."""
  first, second = settings.identity_steps, settings.identity_steps + settings.word_steps
  return IDENTITY if step < first else WORDS if step < second else JOINT


def embedders(settings: Settings) -> list[str]:
  """Networks that make and name the joint embedding."""
  names = ['lip_encoder', 'mfcc_encoder', 'word_classifier']
  return names if settings.shared_classifier else [*names, 'lip_word_classifier']


def opponents(settings: Settings) -> list[str]:
  """Networks that learn against the others in the joint stage; the rest are not built."""
  w = settings.weights
  weighed = {
    'domain_classifier': w.domain,
    'identity_word_classifier': w.identity_words,
    'person_probe': w.persons,
    'sequence_discriminator': w.adversarial,
    'image_discriminator': w.image_adversarial,
  }
  return [name for name, weight in weighed.items() if weight]


def learners(settings: Settings, stage: int) -> set[str]:
  """Networks that learn in a stage."""
  if stage == IDENTITY:
    return {'identity_encoder', 'person_classifier'}
  embedding = set(embedders(settings))
  if stage == WORDS:
    return embedding | {name for name in opponents(settings) if name == 'domain_classifier'}
  return embedding | {'identity_encoder', 'decoder'} | set(opponents(settings))


def build(run: configuration.Run, axis_name: str | None):
  """Builds settings and networks from `run.model`.

  Returns:
    (Settings, {name: module} of all players of the run's stages, its last stage).

  Raises:
    ConfigError: for unknown keys or values that cannot be.
  """
  settings = configuration.read_section(Settings, run.model, 'model')
  last = stage_at(run.num_steps - 1, settings)
  _check(settings, run, last)
  base.optimizer(settings.optimizer)  # refused here if there is no such
  shared = dict(axis_name=axis_name, dtype=jnp.dtype(run.dtype))
  stages = range(stage_at(0, settings), last + 1)
  names = sorted(set().union(*(learners(settings, stage) for stage in stages)))
  players = {name: _module(name, settings, shared) for name in names}
  if last == JOINT and players['decoder'].image_size != settings.face_size:
    raise errors.ConfigError(
      f'model.face_size is {settings.face_size}, but model.decoder draws '
      f'{players["decoder"].image_size} px.',
      where='config',
      hint='every stage of the decoder doubles the picture, from 4 px on.',
    )
  return settings, players, last


# Those with running statistics, and the section of the config that holds their fields.
_SECTIONS = {
  'identity_encoder': (networks.IdentityEncoder, 'identity_encoder'),
  'lip_encoder': (networks.LipEncoder, 'lip_encoder'),
  'mfcc_encoder': (networks.MfccEncoder, 'mfcc_encoder'),
  'decoder': (networks.Decoder, 'decoder'),
  'sequence_discriminator': (networks.Discriminator, 'discriminator'),
  'image_discriminator': (networks.Discriminator, 'discriminator'),
}


def _module(name, settings: Settings, shared) -> nn.Module:
  if name in _SECTIONS:
    module, section = _SECTIONS[name]
    values = getattr(settings, section)
    return configuration.build_module(module, values, f'model.{section}', **shared)
  dtype = shared['dtype']
  if name == 'domain_classifier':
    return networks.DomainClassifier(dtype=dtype)
  if name in ('person_classifier', 'person_probe'):
    return networks.PersonClassifier(settings.persons, dtype=dtype)
  if name == 'identity_word_classifier':
    if settings.identity_source == 'pooled':
      return networks.PooledWordClassifier(settings.words, **shared)
    return networks.IdentityWordClassifier(settings.words, dtype=dtype)
  values, classes = settings.word_classifier, {'words': settings.words}
  where = 'model.word_classifier'
  return configuration.build_module(networks.WordClassifier, values, where, **classes, dtype=dtype)


class Passes:
  """Training passes of one step: what they start from, and keys that differ from pass to pass."""

  def __init__(self, players: Mapping[str, nn.Module], state: base.State, key):
    self._players = players
    self._nets = state.nets
    self.key = key
    self.stats = {name: net.stats for name, net in state.nets.items()}

  def params(self, *names):
    """Parameters that the step began with, by name."""
    return {name: self._nets[name].params for name in names}

  def train(self, params, stats, name, *inputs):
    """(output, statistics of all networks): a pass with the batch's own statistics."""
    variables = {'params': params[name], 'batch_stats': stats[name]}
    output, updated = self._players[name].apply(
      variables, *inputs, train=True, rngs={'dropout': self._key(name)}, mutable=['batch_stats']
    )
    return output, stats | {name: updated.get('batch_stats', {})}

  def classify(self, params, name, *inputs):
    """Output of a network without statistics."""
    module, settings = self._players[name], {}
    if has_modes(module):
      settings = {'train': True, 'rngs': {'dropout': self._key(name)}}
    return module.apply({'params': params[name]}, *inputs, **settings)

  def _key(self, name):
    return jax.random.fold_in(self.key, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def has_modes(module) -> bool:
  """Whether a module's call says `train`."""
  modeless = networks.WordClassifier, networks.DomainClassifier, networks.PooledWordClassifier
  return not isinstance(module, modeless)


def _check(settings: Settings, run: configuration.Run, last: int):
  """Raises ConfigError for what no network or step could make sense of."""
  s = settings
  for name, value, known in (
    ('contrastive', s.contrastive, CONTRASTIVE),
    ('confusion', s.confusion, CONFUSION),
    ('adversarial', s.adversarial, ADVERSARIAL),
    ('identity_source', s.identity_source, ('net1', 'pooled')),
  ):
    if value not in known:
      raise errors.ConfigError(
        f'model.{name} is {value!r}.', where='config', hint=f'use one of {", ".join(known)}.'
      )
  if run.data.fps != FPS:
    raise errors.ConfigError(
      f'data.fps is {run.data.fps:g}.', where='config', hint=f'DAVS sees {FPS} frames per second.'
    )
  every = run.evaluation.every
  for name, value, accepted, hint in (
    ('words', s.words, s.words or last == IDENTITY, 'only a run of stage 0 alone needs none'),
    (
      'persons',
      s.persons,
      s.persons or not (s.identity_steps or s.weights.persons),
      'stage 0 and weights.persons need persons to tell apart',
    ),
    (
      'identity_steps',
      s.identity_steps,
      s.identity_steps % every == 0 or last == IDENTITY,
      f'a stage ends with an evaluation: use a multiple of evaluation.every, {every}',
    ),
    (
      'word_steps',
      s.word_steps,
      s.word_steps % every == 0 or last <= WORDS,
      f'a stage ends with an evaluation: use a multiple of evaluation.every, {every}',
    ),
    (
      'block_frames',
      s.block_frames,
      last == IDENTITY or s.block_frames >= max(s.identity_frames, 2 * s.word_frames),
      'it holds identity_frames frames, and word_frames of every second one',
    ),
    (
      'drawn_frames',
      s.drawn_frames,
      0 < s.drawn_frames <= s.word_frames,
      'they are some of the word_frames',
    ),
    ('draw_every', s.draw_every, s.draw_every > 0, 'faces are drawn of one clip in so many'),
    (
      'mouth_box',
      s.mouth_box,
      len(s.mouth_box) == 4
      and 0 <= s.mouth_box[0] < s.mouth_box[1] <= s.face_size
      and 0 <= s.mouth_box[2] < s.mouth_box[3] <= s.face_size,
      'give top, bottom, left, right inside of face_size',
    ),
  ):
    if not accepted:
      raise errors.ConfigError(f'model.{name} is {value}.', where='config', hint=f'{hint}.')
