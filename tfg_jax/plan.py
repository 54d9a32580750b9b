r"""What a training step costs on a TPU slice, without one: the real step, compiled for it.

  python -m tfg_jax.main --mode=plan --topology=v5e:4x4 --config=configs/talklip.py:g+c \
    --config.data.batch_size=64 --config.model.expert=avhubert_base_seq2seq

No records are needed, and no weights: where a config wants the folder of a run or of a converted
network, a config file (configs/lip_expert.py:finetune_base) or the name of a public network will
do, here alone. Needs libtpu, the extra `tpu`; with --topology=local the devices here are asked.
"""

import dataclasses
import functools
import math
import pathlib
import re
import runpy
import tempfile
import time

import jax
import ml_collections
import numpy as np

from tfg_jax import (
  configuration,
  errors,
  hlo,
  networks,
  partition,
  pretrained,
  reporting,
  slices,
  systems,
  train,
  trained,
)
from tfg_jax.data import clip_codec, pipeline, records, vocabulary
from tfg_jax.pytorch import converted
from tfg_jax.systems import base, lip_expert

# What layers sum up in another shape than they keep: gradients of kernels that they rearrange, and
# statistics of several passes.
_SUMMED = re.compile(r'transpose\(.*/(conv_general_dilated|dot_general)$|norm/reduce_sum$')
_NO_MEMORY = re.compile(  # as libtpu has it of a whole program, or already of its temporaries
  r'Used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm'
  r'|temporaries \(([\d.]+)([KMG])\) exceeds available HBM \(([\d.]+)([KMG])\)'
)
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30}
_SHOWN = 8  # collectives, of those that should not be
_CONFIG_FILE = re.compile(r'(.+\.py)(?::(.+))?')


@dataclasses.dataclass(frozen=True)
class Cost:
  """What the compiler says of one step on one chip."""

  batch: int  # clips
  arguments: int  # bytes: state and batch
  temporaries: int  # bytes
  total: int  # bytes: both, outputs that take no argument's place, and the program
  flops: float
  traffic: float  # bytes, see `hlo.traffic`
  collectives: tuple[hlo.Collective, ...]

  @property
  def reduced(self) -> int:
    """Bytes that the chips add up."""
    return sum(x.size for x in self.collectives if x.kind == 'all-reduce')

  def seconds(self, on: slices.Slice) -> dict[str, float]:
    """The least time that each resource needs; nothing where the peaks are not known."""
    if on.chip is None:
      return {}
    chips = len(on.devices)
    # Every chip sends its share of each sum, and what the others need of it for theirs.
    sent = 2 * self.reduced * (chips - 1) / chips
    return {
      'compute': self.flops / on.chip.flops,
      'memory': self.traffic / on.chip.bandwidth,
      'network': sent / on.outlet if sent else 0.0,
    }


class NoMemoryError(Exception):
  """A step does not fit: it takes `total` of `limit` bytes of a chip."""

  def __init__(self, total: float, limit: float):
    super().__init__(f'{total} of {limit} bytes')
    self.total, self.limit = total, limit


@dataclasses.dataclass(frozen=True)
class Step:
  """The training step of a config in one of its stages, known by its shapes."""

  system: base.System
  place: partition.Partition
  state: base.State
  clip: dict[str, jax.ShapeDtypeStruct]  # what a batch has of one clip

  @classmethod
  def of(cls, run: configuration.Run, on: slices.Slice, stage: int | None) -> 'Step':
    """Works out all shapes.

    Raises:
      ConfigError: if the batch does not divide over the chips, or there is no such stage.
    """
    place = partition.build(run.partition, batch_size=run.data.batch_size, devices=on.devices)
    system = systems.build(run, axis_name=place.axis_name)
    state = state_shapes(system)
    stages = range(state.stage, system.last_stage + 1)
    if stage is not None and stage not in stages:
      raise errors.ConfigError(
        f'{run.system} has no stage {stage}.',
        where='--stage',
        hint=f'this config has {", ".join(map(str, stages))}.',
      )
    state = state.replace(stage=system.last_stage if stage is None else stage)
    clip = {
      name: jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype)
      for name, rows in made_up_batch(run, system).items()
    }
    return cls(system, place, state, clip)

  def compile(self, batch: int) -> Cost:
    """Compiles it for so many clips per chip.

    Raises:
      NoMemoryError: if they are too many.
    """
    rows = batch * self.place.mesh.size
    arrays = {
      name: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype) for name, x in self.clip.items()
    }
    step = train.skip_bad_steps(self.system.train_step)
    try:
      compiled = self.place.lower(step, self.state, arrays).compile()
    except jax.errors.JaxRuntimeError as error:
      found = _NO_MEMORY.search(str(error))
      if not found:
        raise
      total, unit, limit, of = filter(None, found.groups())
      numbers = float(total) * _UNITS[unit], float(limit) * _UNITS[of]
      raise NoMemoryError(*numbers) from error
    memory, costs, text = (
      compiled.memory_analysis(),
      compiled.cost_analysis(),
      compiled.as_text(),
    )
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Cost(
      batch=batch,
      arguments=memory.argument_size_in_bytes,
      temporaries=memory.temp_size_in_bytes,
      total=memory.argument_size_in_bytes
      + memory.temp_size_in_bytes
      + memory.generated_code_size_in_bytes
      + new,
      flops=costs['flops'],
      traffic=hlo.traffic(text),
      collectives=hlo.collectives(text),
    )

  @functools.cached_property
  def state_bytes(self) -> int:
    """Of everything that a chip keeps from step to step."""
    return sum(math.prod(x.shape) * 4 for x in jax.tree.leaves(self.state))

  def unexplained(self, cost: Cost) -> list[hlo.Collective]:
    """What is exchanged besides gradients, batch statistics and single numbers."""
    known = {math.prod(x.shape) for x in jax.tree.leaves(self.state.nets)} | {1}

    def is_known(x):
      return x.kind == 'all-reduce' and (x.count in known or _SUMMED.search(x.source))

    return [x for x in cost.collectives if not is_known(x)]


def plan(
  config: ml_collections.ConfigDict, topology: str, *, stage: int | None = None, compiles: int = 4
) -> Cost | None:
  """Compiles a config's step for a slice and prints what it costs.

  Args:
    config: see `tfg_jax/configuration.py`; `data.batch_size` is that of the whole slice.
    topology: e.g. 'v5e:4x4', or 'local' for the devices here.
    stage: of the system; None for the last, which has the most losses.
    compiles: how often the step may be compiled again to find the largest batch that fits.

  Returns:
    The cost at the config's batch; where that does not fit, at the largest found, None if there is
    none.

  Raises:
    ConfigError: for a slice, a stage or a batch that cannot be.
    MissingDependencyError: without libtpu.
  """
  on = slices.find(topology)
  with tempfile.TemporaryDirectory() as folder:
    run = configuration.resolve(without_weights(config, pathlib.Path(folder)))
    step = Step.of(run, on, stage)
    chips = len(on.devices)
    asked = run.data.batch_size // chips
    reporting.say(
      f'{run.system}, stage {step.state.stage}, {run.partition}, {run.dtype}, for {topology}: '
      f'{chips} x {on.devices[0].device_kind}'
    )
    tried = {asked: _attempt(step, asked)}
    if on.chip is not None:
      for _ in range(compiles):
        batch = next_batch(tried, step.state_bytes, on.chip.memory)
        if batch is None:
          break
        tried[batch] = _attempt(step, batch)
  fits, fails = bounds(tried)
  cost = tried.get(asked if asked <= fits else fits)
  if cost is not None:
    reporting.say(report(step, cost, on))
  if on.chip is not None:
    more = 'more was not tried' if fails == math.inf else f'{fails} does not'
    reporting.say(f'largest batch    {fits} clips per chip fit, {more}')
  return cost


def _attempt(step: Step, batch: int) -> Cost | NoMemoryError:
  """Compiles, and says how that went."""
  began = time.monotonic()
  try:
    result = step.compile(batch)
    said = f'{_giga(result.total)} per chip'
  except NoMemoryError as error:
    result = error
    said = f'do not fit, {_giga(error.total)} of {_giga(error.limit)}'
  seconds = time.monotonic() - began
  reporting.say(f'{batch} clips per chip: {said} (compiled in {seconds:.0f} s)')
  return result


def bounds(tried: dict[int, Cost | NoMemoryError]) -> tuple[int, float]:
  """The largest batch that fits, 0 if none does, and the smallest that does not, or infinity."""
  fits = max((batch for batch, x in tried.items() if isinstance(x, Cost)), default=0)
  fails = min((batch for batch, x in tried.items() if not isinstance(x, Cost)), default=math.inf)
  return fits, fails


def next_batch(
  tried: dict[int, Cost | NoMemoryError], state_bytes: int, memory: float
) -> int | None:
  """Which batch to try next; None where the largest is known to 5 %.

  Args:
    tried: batch per chip -> what came out.
    state_bytes: what a chip needs at any batch; the rest grows with it.
    memory: of a chip, bytes.
  """
  fits, fails = bounds(tried)
  least = fits + max(1, fits // 20)
  if least >= fails:
    return None
  batch, result = list(tried.items())[-1]
  guess = int((memory - state_bytes) / max(result.total - state_bytes, 1) * batch)
  return int(min(max(guess, least), max(fails - 1, least)))


def report(step: Step, cost: Cost, on: slices.Slice) -> str:
  """A table of the resources, the bound and the collectives, for people."""
  seconds = cost.seconds(on)

  def time_of(resource):
    return f'{seconds[resource] * 1e3:8.2f} ms' if seconds else 'peak unknown'

  share = f', {cost.total / on.chip.memory:.0%} of it' if on.chip else ''
  lines = [
    f'per chip, {cost.batch} clips',
    f'memory           {_giga(cost.total)}{share}: {_giga(cost.arguments)} arguments, '
    f'{_giga(cost.temporaries)} temporaries',
    f'compute          {cost.flops / 1e12:8.3f} TFLOP  {time_of("compute")}',
    f'memory traffic   {cost.traffic / 1e9:8.3f} GB     {time_of("memory")}',
    f'all-reduce       {cost.reduced / 1e9:8.3f} GB     {time_of("network")}',
  ]
  if seconds:
    bound = max(seconds, key=seconds.get)
    rate = cost.batch * len(on.devices) / seconds[bound]
    lines.append(
      f'step             {seconds[bound] * 1e3:.1f} ms at best, bound by {bound}: '
      f'{rate:.0f} clips/s of the slice, {seconds["compute"] / seconds[bound]:.0%} of peak FLOPs'
    )
  for kind in sorted({x.kind for x in cost.collectives}):
    same = [x for x in cost.collectives if x.kind == kind]
    lines.append(f'{kind:16} {len(same)} arrays, {_mega(same)}')
  others = sorted(step.unexplained(cost), key=lambda x: -x.size)
  if others:
    lines.append(f'besides gradients, statistics and metrics, {_mega(others)} are exchanged:')
    lines += [f'  {x.kind} of {_mega([x])}: {x.source}' for x in others[:_SHOWN]]
    if more := others[_SHOWN:]:
      lines.append(f'  and {len(more)} more, {_mega(more)}')
  else:
    lines.append('nothing is exchanged besides gradients, statistics and metrics')
  return '\n'.join(lines)


def _giga(size) -> str:
  return f'{size / 1e9:.2f} GB'


def _mega(exchanged) -> str:
  return f'{sum(x.size for x in exchanged) / 1e6:.3f} MB'


# --------------------------------------------------------------------------------------------------
# Shapes without records and weights
# --------------------------------------------------------------------------------------------------


def state_shapes(system: base.System) -> base.State:
  """The shapes of the state that a run begins with."""
  state = jax.eval_shape(system.init, jax.random.key(0))
  if system.sources.keys() <= state.frozen.keys():
    return state  # there is room for all that `start` takes over
  sources = {name: pretrained.shapes(folder) for name, folder in system.sources.items()}

  def start(state, nets):
    filled = {name: dataclasses.replace(x, nets=nets[name]) for name, x in sources.items()}
    return system.start(state, filled, ())

  return jax.eval_shape(start, state, {name: x.nets for name, x in sources.items()})


def made_up_batch(run: configuration.Run, system: base.System) -> dict[str, np.ndarray]:
  """One row of a training batch, from a made-up record: grey frames, noise to hear."""
  data = run.data
  info = records.DatasetInfo(
    corpus='made_up',
    fps=data.fps,
    height=data.height,
    width=data.width,
    sample_rate=data.sample_rate,
    licence='',
    preparation={},
  )
  with tempfile.TemporaryDirectory() as root:
    shard = records.shard_path(root, info.corpus, 'train', 0, 1)
    records.write_shard(shard, [clip_codec.encode(_made_up(data))])
    records.finish_dataset(root, info)
    settings = {**data.per_process, 'batch_size': 1}
    source = records.RecordSource(root, 'train')
    with pipeline.train_batches(source, sample=system.sample, seed=0, **settings) as batches:
      return next(batches)


def _made_up(data: configuration.Data) -> clip_codec.Clip:
  """A clip of grey frames and noise with everything that a system may ask of one."""
  picture = np.full((1, data.height, data.width, 3), 128, np.uint8)
  (jpeg,) = clip_codec.encode_jpegs(picture)
  samples = int(data.max_frames * data.sample_rate / data.fps)
  noise = np.random.default_rng(0).integers(-20_000, 20_000, samples, dtype=np.int16)
  box = np.array([0, 0, data.width, data.height])
  return clip_codec.Clip(
    clip_id='made_up',
    frames=[jpeg] * data.max_frames,
    height=data.height,
    width=data.width,
    fps=data.fps,
    boxes=np.tile(box, (data.max_frames, 1)),
    wav=noise,
    sample_rate=data.sample_rate,
    text='a',
    emotion='happy',
    extras={'identity': np.array([0]), 'word_label': np.array([0]), 'portrait': [jpeg]},
  )


def without_weights(
  config: ml_collections.ConfigDict, folder: pathlib.Path
) -> ml_collections.ConfigDict:
  """The config with folders in place of config files and public networks.

  They are made in `folder`, as a run that was just begun and a conversion leave them, but for the
  weights.

  Raises:
    ConfigError: for a file that is no config.
  """

  def fill(value):
    if isinstance(value, dict):
      return {name: fill(x) for name, x in value.items()}
    if not isinstance(value, str):
      return value
    made = folder / value.replace('/', '_')
    if value in networks.OFFICIAL:
      conversion = converted.Conversion(value, source='', sha256='')
      converted.save_record(made, conversion, _tokenizer(value))
    elif named := _CONFIG_FILE.fullmatch(value):
      trained.save_config(made, _read_config(*named.groups()))
    else:
      return value
    return str(made)

  return ml_collections.ConfigDict(fill(config.to_dict()))


def _read_config(path, variant) -> ml_collections.ConfigDict:
  try:
    return runpy.run_path(path)['get_config'](*filter(None, [variant]))
  except (OSError, KeyError, ValueError, TypeError) as error:
    reason = getattr(error, 'strerror', None) or error
    raise errors.ConfigError(f'this is no config: {reason}', where=path) from error


def _tokenizer(network: str) -> bytes:
  """A sentencepiece model for a lip reader, of which only the number of pieces matters."""
  if network not in lip_expert.READERS:
    return b''

  def field(content):  # the first one of a message
    return b'\n' + bytes([len(content)]) + content

  size = networks.OFFICIAL[network]().decoder.vocabulary
  pieces = (*vocabulary.SPECIALS, *map(str, range(size - len(vocabulary.SPECIALS))))
  return b''.join(field(field(piece.encode())) for piece in pieces)
