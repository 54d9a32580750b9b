"""Runs without training: systems from configs, their batches, and workdirs of fresh states."""

import jax

from tfg_jax import checkpoints, configuration, systems, trained
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


def untrained(config, root, workdir, seed: int = 0):
  """Makes `workdir` that of a run on the records `root` that saved its first state and no more."""
  config.data.root = str(root)
  trained.save_config(workdir, config)
  run, system = build(config)
  state = jax.jit(system.init)(jax.random.key(seed))
  with checkpoints.Checkpoints(workdir, run.checkpoint) as saved:
    saved.save(state, checkpoints.Progress({}))
  return workdir
