"""What every system is made of: an explicit state, pure functions over it, and nothing else.

A system knows nothing of files, devices or logging. The loop (`tfg_jax/train.py`) knows nothing of
lips: it only calls the functions of `System`, which are the contract between the two.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from tfg_jax import errors
from tfg_jax.data import clip_codec

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class Net:
  """One trained network: its parameters, its running statistics and its own optimiser state."""

  params: Any
  stats: Any
  opt_state: optax.OptState

  @classmethod
  def create(cls, params, stats, optimizer: optax.GradientTransformation) -> 'Net':
    """With a fresh optimiser state."""
    return cls(params=params, stats=stats, opt_state=optimizer.init(params))

  def update(self, grads, optimizer: optax.GradientTransformation, *, stats=None) -> 'Net':
    """One optimiser step; `stats` are the new running statistics (the old ones stay if None)."""
    updates, opt_state = optimizer.update(grads, self.opt_state, self.params)
    return Net(
      params=optax.apply_updates(self.params, updates),
      stats=self.stats if stats is None else stats,
      opt_state=opt_state,
    )


def muon(rate: optax.ScalarOrSchedule, b1: float, b2: float) -> optax.GradientTransformation:
  """Muon (Jordan et al. 2024) for the kernels; with the betas given, Nesterov's Adam for the rest.

  A kernel's step is its momentum with all singular values made equal, as large as Adam's: the same
  rate serves both (Liu et al. 2025, section 2.2). Small networks learn from half the examples.
  """

  def matrices(params):
    def as_matrix(path, x):
      *inputs, outputs = range(x.ndim)
      is_kernel = path[-1].key == 'kernel'
      return optax.contrib.MuonDimensionNumbers(tuple(inputs), outputs) if is_kernel else None

    return jax.tree_util.tree_map_with_path(as_matrix, params)

  return optax.contrib.muon(
    rate,
    consistent_rms=1.0,
    adam_b1=b1,
    adam_b2=b2,
    muon_weight_dimension_numbers=matrices,
  )


_OPTIMIZERS = {'adam': optax.adam, 'muon': muon}


def optimizer(name: str) -> Callable[..., optax.GradientTransformation]:
  """What `model.optimizer` names; takes rate, b1 and b2.

  Raises:
    ConfigError: if it names nothing.
  """
  if name not in _OPTIMIZERS:
    raise errors.ConfigError(
      f'model.optimizer is {name!r}.',
      where='config',
      hint=f'use one of {", ".join(map(repr, _OPTIMIZERS))}.',
    )
  return _OPTIMIZERS[name]


@flax.struct.dataclass
class State:
  """Everything a run needs to go on, saved in every checkpoint; nothing is remembered elsewhere.

  `stage` is static: it decides which losses exist in the compiled step, so a stage pays only for
  what it uses, and the step compiles once per stage.
  """

  step: jax.Array  # int32, steps taken so far
  key: jax.Array  # the run's PRNG key; a step uses fold_in(key, step)
  nets: dict[str, Net]
  frozen: dict[str, Any]  # variables that no optimiser touches
  schedule: dict[str, jax.Array]  # what `on_evaluation` remembers between evaluations
  skipped: jax.Array  # int32, steps not applied because a number was not finite
  skipped_in_row: jax.Array  # int32
  stage: int = flax.struct.field(pytree_node=False, default=0)

  @classmethod
  def create(cls, key, nets, *, frozen=None, schedule=None, stage=0) -> 'State':
    """Before the first step."""
    # The first evaluation or checkpoint loses weak types, and the step would compile once more.
    nets, frozen, schedule = jax.tree.map(
      lambda x: jnp.asarray(x, x.dtype), (nets, frozen or {}, schedule or {})
    )
    return cls(
      step=jnp.zeros((), jnp.int32),
      key=key,
      nets=nets,
      frozen=frozen,
      schedule=schedule,
      skipped=jnp.zeros((), jnp.int32),
      skipped_in_row=jnp.zeros((), jnp.int32),
      stage=stage,
    )

  def step_key(self, axis_name: str | None = None) -> jax.Array:
    """The key of this step; under pmap every device gets its own."""
    key = jax.random.fold_in(self.key, self.step)
    return key if axis_name is None else jax.random.fold_in(key, jax.lax.axis_index(axis_name))


# What systems draw (`System.draws`), with the flags of `python -m tfg_jax.generate` that it needs.
GENERATE_FLAGS = {
  'mouth': '--video=F --audio=F --output=OUT.mp4',  # mouths of a given video or picture
  'face': '--image=F --audio=F --output=OUT.mp4',  # the whole face of a picture
  'driven_face': '--image=F --audio=F --output=OUT.mp4',  # the same, or from a video's lips
  'head': '--audio=F --output=OUT.mp4',  # a talking head, without a picture
  'portrait': '--audio=F --output=face.png',  # a picture
}


class System(Protocol):
  """The functions that a paper's file supplies, pure ones under jit unless they say otherwise."""

  face_size: int  # side of the face crops that `generate` takes and gives, pixels
  draws: str  # a key of `GENERATE_FLAGS`; '' if it draws nothing
  # The evaluation result that decides which checkpoint is best, lower is better; evaluations
  # without it do not compete.
  score: str
  last_stage: int  # of a run; `init` has its first

  sources: Mapping[str, str]  # name -> folder of another run or of a converted network, for `start`

  def init(self, key: jax.Array) -> State:
    """Fresh state; all shapes follow from the config."""

  def start(
    self,
    state: State,
    sources: Mapping[str, Any],
    batches: Iterable[dict[str, np.ndarray]],
  ) -> State:
    """On the host, before the first step of a fresh run: takes weights over from what
    `pretrained.load` made of each of the sources, and
    works out of training batches whatever the steps need to be given."""

  def sample(self, clip: clip_codec.Clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """On the host, per training clip: what the step needs besides the clip, of fixed shapes; with
    `frame_index` where it does not need all frames (see `data.pipeline`)."""

  def sample_evaluation(self, clip: clip_codec.Clip, rng: np.random.Generator) -> dict:
    """The same for evaluation; `rng` depends on the clip alone."""

  def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
    """All updates of one step. The metrics hold every loss and gradient norm, so that a
    non-finite number anywhere shows in them."""

  def eval_step(self, state: State, batch: Batch) -> Metrics:
    """(B,) numbers per example, named 'who/metric': the generated row beside its baselines."""

  def summary(self, results: dict[str, float]) -> str:
    """The means of `eval_step` over a split, in a sentence for people."""

  def on_evaluation(self, state: State, results: dict[str, float]) -> State:
    """Schedules that react to validation; called on the host between steps. What it changes may
    be numpy arrays."""

  def finished(self, state: State) -> bool:
    """Whether the schedule has ended before `num_steps`."""

  def samples(self, state: State, batch: Batch) -> dict[str, jax.Array]:
    """uint8 RGB for people: 'strips' (B, H, W, 3) pictures and 'videos' (B, T, H, W, 3)."""

  def videos(self, state: State, batch: Batch) -> dict[str, jax.Array]:
    """Whole clips (B, T, H, W, 3) uint8 RGB by row, 'ground_truth' among them, for the observers of
    --mode=evaluate; systems that draw mouths or heads have it."""

  def features(self, state: State, batch: Batch) -> dict[str, jax.Array]:
    """(B, ...) arrays of which `compare` needs those of a whole split; this and the next two are
    for --mode=evaluate, and only of systems that look for clips among others."""

  def lessons(self, state: State, batch: Batch) -> dict[str, jax.Array]:
    """Those of them that teach the probes of `compare`, of training clips; {} if it has none."""

  def compare(
    self, features: Mapping[str, np.ndarray], lessons: Mapping[str, np.ndarray]
  ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """On the host, from what the two gave of all clips: (clips,) numbers of each clip among the
    others, and numbers that only the split has."""

  def generate(self, state: State, inputs: Batch) -> jax.Array:
    """Frames from media, for `tfg_jax.generate`."""

  def export(self, state: State, network: str) -> dict[str, Any]:
    """The variables of a public network that the state holds, for `tfg_jax.convert`.

    Raises:
      ConversionError: if it does not hold that one; the hint names those that it holds.
    """


class Expert:
  """What the systems that only look and listen have in common; their schedules follow the step."""

  draws = ''
  last_stage = 0
  called: str  # by messages

  def on_evaluation(self, state: State, results: dict[str, float]) -> State:
    del results
    return state

  def finished(self, state: State) -> bool:
    del state
    return False

  @property
  def face_size(self) -> int:
    """Raises ConfigError, as `generate` does: there is none."""
    raise self._draws_nothing

  def generate(self, state: State, inputs: Batch) -> jax.Array:
    raise self._draws_nothing

  @property
  def _draws_nothing(self):
    return errors.ConfigError(
      f'a run of {self.called} draws no faces.',
      where='--workdir',
      hint='name the workdir of a generator.',
    )


def global_norm(grads) -> jax.Array:
  """The L2 norm of all numbers of a tree; finite only if every one of them is."""
  return jnp.sqrt(sum(jnp.square(x).sum() for x in jax.tree.leaves(grads)))


def strip(video, num_frames) -> jax.Array:
  """Eight frames of each clip side by side, (B, T, H, W, C) to (B, H, 8 W, C).

  They come from its middle, where people speak, two apart.
  """
  shown = num_frames[:, None] // 2 + 2 * jnp.arange(-4, 4)
  shown = jnp.clip(shown, 0, num_frames[:, None] - 1)[..., None, None, None]
  picked = jnp.take_along_axis(video, shown, axis=1).swapaxes(1, 2)
  return picked.reshape(*picked.shape[:2], -1, picked.shape[-1])


def mean_over_devices(tree, axis_name: str | None):
  """Averages over the pmap axis; under jit (None) the numbers are already global."""
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)
