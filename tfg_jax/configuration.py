"""From a config file to checked, typed settings: every derived number is worked out here, once.

A config is a plain `ml_collections.ConfigDict`. Its sections become the frozen dataclasses below,
so an unknown key or an impossible value is refused before anything is computed. The section `model`
belongs to the system that `config.system` names; see `tfg_jax/systems`.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, get_origin

import jax
import ml_collections

from tfg_jax import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """Where clips come from and how they are batched (`data`)."""

  root: str = ''  # folder of a record set; empty: the puppets below are made in the workdir
  puppets: Mapping[str, Any] = dataclasses.field(
    default_factory=dict
  )  # settings of data_prep.puppet
  batch_size: int = 8  # clips per step, over all devices
  max_frames: int = 160  # T of every batch; longer clips are cut
  height: int = 160  # of the stored frames, pixels
  width: int = 160
  fps: float = 25.0
  sample_rate: int = 16_000  # Hz
  workers: int = 0  # processes that decode; 0: threads of this one

  def __post_init__(self):
    _check_positive(
      self, 'data', 'batch_size', 'max_frames', 'height', 'width', 'fps', 'sample_rate'
    )
    _check(self.workers >= 0, f'data.workers is {self.workers}', 'use 0 or more')

  @property
  def per_process(self) -> dict[str, Any]:
    """What both kinds of batches of `tfg_jax.data.pipeline` take, for this process."""
    return dict(
      batch_size=self.batch_size // jax.process_count(),
      max_frames=self.max_frames,
      height=self.height,
      width=self.width,
      fps=self.fps,
      sample_rate=self.sample_rate,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
  """When to save and what to keep (`checkpoint`)."""

  every: int = 1000  # steps
  keep: int = 3  # the latest
  keep_best: int = 1  # by the system's score

  def __post_init__(self):
    _check_positive(self, 'checkpoint', 'every', 'keep')
    _check(self.keep_best >= 0, f'checkpoint.keep_best is {self.keep_best}', 'use 0 or more')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observers:
  """Networks that judge whole videos in --mode=evaluate (`evaluation.observers`).

  Each is the workdir of a run or a converted network; see `tfg_jax/observers.py`. Empty: not asked.
  """

  sync: str = ''  # sync_expert with judge 'syncnet', or syncnet_v2: LSE-C, LSE-D
  reader: str = ''  # lip_expert, or an avhubert_..._seq2seq: WER1
  speller: str = ''  # lip_expert with characters, or conformer_observer: WER2
  words: str = ''  # lip_expert, or mvm_lrw: word accuracy, where clips are of one word
  beam: int = 50  # live hypotheses of readers

  def __post_init__(self):
    _check_positive(self, 'evaluation.observers', 'beam')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
  """When to evaluate and on what (`evaluation`)."""

  every: int = 3000  # steps; the last step is always evaluated
  split: str = 'valid'
  max_clips: int = 0  # 0: the whole split
  samples: int = 4  # clips shown as pictures and videos
  observers: Observers = dataclasses.field(default_factory=Observers)

  def __post_init__(self):
    _check_positive(self, 'evaluation', 'every')
    _check(self.max_clips >= 0, f'evaluation.max_clips is {self.max_clips}', 'use 0 for all')
    _check(self.samples >= 0, f'evaluation.samples is {self.samples}', 'use 0 for none')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """A whole config, resolved."""

  system: str
  model: Mapping[str, Any]
  seed: int = 0
  num_steps: int
  partition: str = 'jit'
  dtype: str = 'float32'  # of the computation; parameters, statistics and losses stay float32
  log_every: int = 50  # steps
  # A step is not applied if a loss or gradient is not finite, or a metric is above its limit: a
  # discriminator that has won has a loss that no healthy step has, e.g. {'d/fake': 50.0}.
  metric_limits: Mapping[str, float] = dataclasses.field(default_factory=dict)
  max_skipped_in_row: int = 20  # such steps before the run goes back to its last good checkpoint,
  max_roll_backs: int = 0  # as often as this, and then stops
  data: Data = dataclasses.field(default_factory=Data)
  checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
  evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)

  def __post_init__(self):
    _check_positive(self, '', 'num_steps', 'log_every', 'max_skipped_in_row')
    _check(self.max_roll_backs >= 0, f'max_roll_backs is {self.max_roll_backs}', 'use 0 or more')
    for name, limit in self.metric_limits.items():
      _check(
        isinstance(limit, (int, float)) and math.isfinite(limit),
        f'metric_limits.{name} is {limit!r}',
        'use a number',
      )
    _check(self.seed >= 0, f'seed is {self.seed}', 'use 0 or more')
    _check(
      self.dtype in ('float32', 'bfloat16'),
      f'dtype is {self.dtype!r}',
      "use 'float32' or 'bfloat16'",
    )


def resolve(config: ml_collections.ConfigDict) -> Run:
  """Checks a config and returns it as typed settings.

  Raises:
    ConfigError: naming the key, its value and what would work.
  """
  return read_section(Run, config.to_dict(), '')


def read_section(section: type, values: Mapping[str, Any], name: str):
  """Fills the dataclass `section`, and those inside it, from a mapping; lists become tuples.

  Raises:
    ConfigError: for an unknown, missing or wrongly typed key; `name` says where the section stands.
  """
  prefix = f'{name}.' if name else ''
  fields = {field.name: field for field in dataclasses.fields(section)}
  _check_known(values, set(fields), name)
  for key, field in fields.items():
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    if required and key not in values:
      raise errors.ConfigError(f'{prefix}{key} is missing.', where='config', hint='set it.')
  return section(**{key: _typed(prefix + key, values[key], fields[key]) for key in values})


def build_module(module: type, values: Mapping[str, Any], name: str, **fixed):
  """Builds a Flax module from a config section that holds its fields; lists become tuples.

  Raises:
    ConfigError: for a key that is no field of the module, or one of those in `fixed`.
  """
  known = {field.name for field in dataclasses.fields(module)} - {'parent', 'name', *fixed}
  _check_known(values, known, name)
  values = {key: tuple(x) if isinstance(x, list) else x for key, x in values.items()}
  return module(**values, **fixed)


def _check_known(values, known, name):
  prefix = f'{name}.' if name else ''
  for key in values:
    if key not in known:
      close = difflib.get_close_matches(key, known, n=1)
      hint = f'did you mean {prefix}{close[0]}?' if close else f'known: {", ".join(sorted(known))}.'
      raise errors.ConfigError(f'unknown key {prefix}{key}.', where='config', hint=hint)


def _typed(name, value, field):
  """Checks a value against the field's annotation; ints may stand for floats."""
  kind = get_origin(field.type) or field.type
  if dataclasses.is_dataclass(kind):
    if isinstance(value, Mapping):
      return read_section(kind, value, name)
  elif kind is tuple:
    if isinstance(value, (list, tuple)):
      return tuple(value)
  elif kind is float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
      return float(value)
  elif kind is int:
    if isinstance(value, int) and not isinstance(value, bool):
      return value
  elif not isinstance(kind, type) or isinstance(value, kind):
    return value
  raise errors.ConfigError(
    f'{name} is {value!r}, a {type(value).__name__}; it needs a {getattr(kind, "__name__", kind)}.',
    where='config',
    hint='correct the value.',
  )


def _check(true, what, hint):
  if not true:
    raise errors.ConfigError(f'{what}.', where='config', hint=f'{hint}.')


def _check_positive(section, name, *keys):
  prefix = f'{name}.' if name else ''
  for key in keys:
    value = getattr(section, key)
    _check(value > 0, f'{prefix}{key} is {value}', 'use a number above 0')
