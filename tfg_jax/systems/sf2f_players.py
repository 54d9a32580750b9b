"""The players of SF2F: their settings, and which of them a run has."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from tfg_jax import configuration, errors
from tfg_jax.features import voice
from tfg_jax.networks import sf2f as networks
from tfg_jax.networks import voice2face
from tfg_jax.networks.facenet import FaceNet

FACES, PORTRAITS, SETTLING, FUSION = range(4)  # stages
SHORTEST, LONGEST = 100, 150  # frames of a training crop

_ENCODERS = {'inception': networks.VoiceEncoder, 'plain': voice2face.PlainVoiceEncoder}
_DECODERS = {'upsampling': networks.FaceDecoder, 'deconvolution': voice2face.DeconvolutionDecoder}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossWeights:
  """`model.loss`; a term with weight 0 is not computed, and its players do not exist."""

  pixel: float = 10.0  # of the mean in the network space, for every size that is drawn
  adversarial: float = 1.0  # of the image discriminators
  identity: float = 0.05  # both heads of the identity discriminators
  perceptual: float = 100.0
  cosine: float = 0.0  # of FaceNet's embeddings, beside the perceptual terms; off in all releases


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The section `model` of a config. Sections of networks hold the fields of their modules."""

  identities: int  # people in the training split
  voice_activity: str = 'webrtc'  # see `features.voice.voiced`
  encoder: str = 'inception'  # or 'plain', the baseline's
  encoder_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  decoder: str = 'upsampling'  # or 'deconvolution', the baseline's
  decoder_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  noise: float = 0.0  # on embeddings; 0.05 in the baseline
  windows: int = 0  # of a person, for the fuser; 0: there is none
  image_discriminator: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  identity_discriminator: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  gan: str = 'gan'  # see `losses.adversarial_loss`
  loss: LossWeights = LossWeights()
  facenet: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  facenet_weights: str = ''  # a converted sf2f_facenet, or a run that has trained one
  start: str = ''  # workdir of a run without fuser; this one is then stage 3
  face_steps: int = 0  # of stage 0
  portrait_steps: int = 0  # of stage 1
  settling_steps: int = 0  # of stage 2
  learning_rate: float = 5e-4
  fusion_learning_rate: float = 1e-4
  face_learning_rate: float = 1e-3
  b2: float = 0.999


def build(run: configuration.Run, axis_name: str | None):
  """Builds settings and networks from `run.model`.

  Returns:
    (Settings, the generator, {player: {size: module}} of the discriminators that have a weight,
    FaceNet).

  Raises:
    ConfigError: for unknown keys or values that cannot be.
  """
  settings = configuration.read_section(Settings, run.model, 'model')
  _check(run, settings)
  dtype = jnp.dtype(run.dtype)
  shared = dict(axis_name=axis_name, dtype=dtype)

  def module(kind, section, *, defaults=None, **fixed):
    values = {**(defaults or {}), **getattr(settings, section)}
    return configuration.build_module(kind, values, f'model.{section}', **fixed)

  encoder = module(_ENCODERS[settings.encoder], 'encoder_fields', **shared)
  has_norm = settings.decoder == 'upsampling'
  decoder = module(
    _DECODERS[settings.decoder], 'decoder_fields', **(shared if has_norm else dict(dtype=dtype))
  )
  fuser = networks.AttentionFuser(encoder.features, dtype=dtype) if settings.windows else None
  judges = {
    name: {
      size: module(kind, name, defaults={'convolutions': _convolutions(size)}, **fixed, **shared)
      for size in decoder.sizes
    }
    for name, kind, fixed, weight in (
      ('image_discriminator', networks.ImageDiscriminator, {}, settings.loss.adversarial),
      (
        'identity_discriminator',
        networks.IdentityDiscriminator,
        dict(identities=settings.identities),
        settings.loss.identity,
      ),
    )
    if weight
  }
  learned = {} if settings.facenet_weights else dict(classes=settings.identities)
  facenet = module(FaceNet, 'facenet', defaults=learned, **shared)
  generator = networks.VoiceToFace(encoder, decoder, fuser, settings.noise)
  return settings, generator, judges, facenet


def _convolutions(size: int) -> tuple[tuple[int, int, int, int], ...]:
  """The official convolutions of discriminators: 64 px have three, and so on up and down."""
  return tuple((4, 64 << i, 2, 0) for i in range(size.bit_length() - 4))


def _check(run, settings):
  def check(true, what, hint):
    if not true:
      raise errors.ConfigError(f'{what}.', where='config', hint=f'{hint}.')

  for key, known in (('encoder', _ENCODERS), ('decoder', _DECODERS)):
    value = getattr(settings, key)
    check(value in known, f'model.{key} is {value!r}', f'use one of {", ".join(known)}')
  check(
    settings.voice_activity in voice.DETECTORS,
    f'model.voice_activity is {settings.voice_activity!r}',
    f'use one of {", ".join(voice.DETECTORS)}',
  )
  check(
    settings.gan in ('gan', 'wgan', 'lsgan'),
    f'model.gan is {settings.gan!r}',
    'use gan, wgan or lsgan',
  )
  check(
    settings.facenet_weights or settings.start or settings.face_steps,
    'there is no FaceNet: neither model.facenet_weights nor model.face_steps is set',
    'give the folder of a converted sf2f_facenet, or steps in which one learns the corpus',
  )
  check(
    not (settings.facenet_weights and settings.face_steps),
    f'model.face_steps is {settings.face_steps}, but FaceNet has given weights',
    'set one of model.facenet_weights and model.face_steps',
  )
  check(
    settings.windows or not settings.start,
    'model.start is for a fuser, and model.windows is 0',
    'set model.windows, e.g. 20',
  )
  faces_alone = settings.face_steps and not settings.windows
  check(
    bool(settings.start) != bool(settings.portrait_steps)
    or (faces_alone and not settings.portrait_steps),
    f'model.portrait_steps is {settings.portrait_steps} and model.start is {settings.start!r}',
    'set one of them: portraits are learned here, or taken over; or model.face_steps alone',
  )
  for key in ('face_steps', 'portrait_steps', 'settling_steps'):
    steps = getattr(settings, key)
    check(
      steps % run.evaluation.every == 0,
      f'model.{key} is {steps}, but a stage can only end where the run evaluates, every '
      f'{run.evaluation.every} steps',
      'use a multiple of evaluation.every',
    )
