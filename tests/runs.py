"""Runs without training: systems from configs, their batches and states, and workdirs of these."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from tfg_jax import checkpoints, configuration, partition, systems, trained
from tfg_jax.data import pipeline, records


def build(config):
  """(run, system) of a config, for one device."""
  run = configuration.resolve(config)
  return run, systems.build(run, axis_name=None)


def first_batch(run, sample, batches=pipeline.train_batches, **settings):
  """The first batch of the training clips."""
  source = records.RecordSource(run.data.root, 'train')
  with batches(source, sample=sample, **settings, **run.data.per_process) as stream:
    return next(stream)


def newest(config, workdir):
  """(state, progress) of a workdir's newest checkpoint, on one device."""
  run, system = build(config)
  place = partition.build('jit', batch_size=run.data.batch_size, devices=jax.devices()[:1])
  with checkpoints.Checkpoints(workdir, run.checkpoint, read_only=True) as saved:
    abstract = checkpoints.abstract_state(system.init, jax.random.key(0), place.whole)
    return saved.restore(saved.latest_step, abstract)


def noisy_state(system, seed=0):
  """A state of noise: as good as what `init` gives, whose compilation takes longer than a step."""
  return noise(jax.eval_shape(system.init, jax.random.key(0)), seed)


def noise(state, seed=0):
  """A state of noise in the shapes of `state`; its statistics and optimisers are fresh."""
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    names = [str(getattr(key, 'key', getattr(key, 'name', key))) for key in path]
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.random.key(seed)
    if 'opt_state' in names or not jnp.issubdtype(leaf.dtype, jnp.floating):
      return np.zeros(leaf.shape, leaf.dtype)
    if 'params' not in names:  # statistics
      return np.full(leaf.shape, names[-1] in ('var', 'map_scales', 'omega_square'), leaf.dtype)
    noise = rng.standard_normal(leaf.shape)
    if names[-1] == 'scale':
      noise = 1 + 0.1 * np.abs(noise)
    else:
      noise *= 1 / np.sqrt(np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.1
    return noise.astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(fill, state)


def pretended(system, name='talklip', state=77):
  """In place of a `trained.Trained`, for a system of functions that a test makes up."""
  data = configuration.Data(max_frames=15, fps=30.0)
  return types.SimpleNamespace(
    run=types.SimpleNamespace(system=name, data=data),
    system=system,
    state=np.uint8(state),
    step=500,
    weights='sha256:abc',
    jitted=trained.jitted(system),
  )


def noisy(config, workdir):
  """Makes `workdir` that of a run that saved a state of noise; returns the state."""
  trained.save_config(workdir, config)
  run, system = build(config)
  state = noisy_state(system)
  with checkpoints.Checkpoints(workdir, run.checkpoint) as saved:
    saved.save(state, checkpoints.Progress({}))
  return state


def untrained(config, root, workdir, seed: int = 0):
  """Makes `workdir` that of a run on the records `root` that saved its first state and no more."""
  config.data.root = str(root)
  trained.save_config(workdir, config)
  run, system = build(config)
  state = jax.jit(system.init)(jax.random.key(seed))
  with checkpoints.Checkpoints(workdir, run.checkpoint) as saved:
    saved.save(state, checkpoints.Progress({}))
  return workdir
