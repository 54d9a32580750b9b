"""The systems by their config name."""

import importlib

from tfg_jax import configuration, errors
from tfg_jax.systems import (
  avhubert,
  base,
  davs,
  lip_expert,
  sdfa,
  sf2f,
  speech2video,
  sync_expert,
  talklip,
  wav2lip,
)

SYSTEMS = {
  'avhubert': avhubert.AVHubert,
  'davs': davs.DAVS,
  'lip_expert': lip_expert.LipExpert,
  'sdfa': sdfa.SDFA,
  'sf2f': sf2f.SF2F,
  'speech2video': speech2video.Speech2Video,
  'sync_expert': sync_expert.SyncExpert,
  'talklip': talklip.TalkLip,
  'wav2lip': wav2lip.Wav2Lip,
}


def build(run: configuration.Run, *, axis_name: str | None) -> base.System:
  """Makes the system that a config names.

  Args:
    run: the resolved config; `run.system` is a key of SYSTEMS, or 'module:Class' of a system that
      is somewhere else on the path; `run.model` is the system's own section.
    axis_name: the pmap axis, or None under jit.

  Raises:
    ConfigError: if the name is unknown, or as the system's own settings raise it.
  """
  return _class_of(run.system).from_config(run, axis_name=axis_name)


def _class_of(name):
  if name in SYSTEMS:
    return SYSTEMS[name]
  module, colon, called = name.partition(':')
  problem = ''
  if colon:
    try:
      return getattr(importlib.import_module(module), called)
    except (ImportError, AttributeError) as error:
      problem = f': {error}'
  raise errors.ConfigError(
    f'system is {name!r}{problem}.',
    where='config.system',
    hint=f'known systems: {", ".join(SYSTEMS)}; others are named module:Class.',
  )
