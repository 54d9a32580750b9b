"""The players of Speech2Video: their settings, and how they are built."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from tfg_jax import configuration, errors
from tfg_jax.networks.speech2video import (
  FrameDecoder,
  FrameDiscriminator,
  IdentityDiscriminator,
  Student,
  SyncDiscriminator,
)
from tfg_jax.systems import base, drawn_faces
from tfg_jax.systems.speech_experts import Experts, check_stage_ends

EXPERTS, DISTILLATION, COMPOSITION = range(3)  # stages


def rmsprop(rate):
  """With PyTorch's defaults, which differ from optax's."""
  return optax.rmsprop(rate, decay=0.99, eps=1e-8, eps_in_sqrt=False, initial_scale=0.0)


OPTIMIZERS = {'rmsprop': rmsprop, 'muon': functools.partial(base.muon, b1=0.9, b2=0.999)}


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


def build(run: configuration.Run, axis_name: str | None):
  """Builds settings, experts and networks from `run.model`.

  Returns:
    (Settings, Experts, {name: module} of students, decoder and discriminators).

  Raises:
    ConfigError: for unknown keys or values that cannot be.
  """
  settings = configuration.read_section(Settings, run.model, 'model')
  dtype = jnp.dtype(run.dtype)

  def module(name, kind, **fixed):
    values = getattr(settings, name)
    return configuration.build_module(kind, values, f'model.{name}', dtype=dtype, **fixed)

  decoder = module('decoder', FrameDecoder, axis_name=axis_name)
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
  networks = {
    'identity_student': module(
      'identity_student', Student, features=experts.identity_teacher.hidden
    ),
    'emotion_student': module('emotion_student', Student, features=experts.emotion_teacher.classes),
    'decoder': decoder,
    'identity_discriminator': module('identity_discriminator', IdentityDiscriminator),
    'frame_discriminator': module('frame_discriminator', FrameDiscriminator),
    'sync_discriminator': module('sync_discriminator', SyncDiscriminator),
  }
  return settings, experts, networks


def _check(run, settings, decoder):
  drawn_faces.check_half(settings.loss.half)
  if settings.optimizer not in OPTIMIZERS:
    raise errors.ConfigError(
      f'model.optimizer is {settings.optimizer!r}.',
      where='config',
      hint=f'use one of {", ".join(OPTIMIZERS)}.',
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
