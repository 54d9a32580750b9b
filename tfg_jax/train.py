"""The one loop that every system shares. The order of its lines is its documentation."""

import dataclasses
import pathlib
import signal
import threading
import time
import types
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from tfg_jax import (
  checkpoints,
  configuration,
  errors,
  evaluate,
  partition,
  pretrained,
  reporting,
  run_report,
  systems,
  trained,
)
from tfg_jax.data import pipeline, records
from tfg_jax.systems import base


def train_and_evaluate(
  config: ml_collections.ConfigDict, workdir: str | pathlib.Path, *, devices=None
) -> bool:
  """Trains from scratch, or goes on where the workdir's last checkpoint stands.

  Args:
    config: see `tfg_jax/configuration.py`; `data.root` must name a record set.
    workdir: where checkpoints, metrics and samples go.
    devices: to use; None for all.

  Returns:
    True if all steps are done, False if the run was asked to stop (SIGTERM, Ctrl-C); it has saved.

  Raises:
    ConfigError, DataError, CheckpointError: before the first step, for what cannot work.
    TrainingError: after too many steps in a row that were not applied.
    StorageError: the disk refuses to be written to, or another run uses the workdir.
  """
  workdir = pathlib.Path(workdir).absolute()
  run = configuration.resolve(config)
  place = partition.build(run.partition, batch_size=run.data.batch_size, devices=devices)
  source = records.RecordSource(run.data.root, 'train')
  system = systems.build(run, axis_name=place.axis_name)
  batches = pipeline.train_batches(
    source,
    sample=system.sample,
    seed=run.seed,
    num_workers=run.data.workers,
    **run.data.per_process,
  )

  with checkpoints.Checkpoints(workdir, run.checkpoint) as saved, _StopRequest() as stop:
    state, progress = _start(run, system, place, saved, source)
    start = int(state.step)
    if start >= run.num_steps or system.finished(state):
      reporting.say(f'Nothing left to do: step {start} of {run.num_steps} (config.num_steps).')
      return True
    if jax.process_index() == 0:
      trained.save_config(workdir, config)
    if progress.data_position is not None:
      batches.set_state(progress.data_position)
    _say_plan(run, place, source, state)
    evaluation = evaluate.Evaluation(run, system, place)
    step_fn = place.train(skip_bad_steps(system.train_step, run.metric_limits))
    feed = pipeline.DevicePrefetch(batches, place.put)
    report = _report(run, workdir, feed, start, progress)
    page = run_report.RunReport(workdir, start, place.mesh.devices.flatten())
    page.update(start, report.training_curves, report.evaluation_curves)
    reporting.say(f'All at a glance, and kept up to date: {workdir / run_report.REPORT_FILE}')
    done, skipped = start, int(state.skipped)
    began = time.monotonic()
    try:
      while done < run.num_steps:
        state, metrics = step_fn(state, next(feed))
        done += 1
        stopping = stop.after(done)
        report.step(done, metrics)
        if done == start + 1:
          _check_limits(run, system, state, metrics)
          jax.block_until_ready(metrics)
          reporting.say(
            f'First step after {time.monotonic() - began:.0f} s (compilation included).'
          )
        if done % run.log_every == 0:
          _say_skipped(done, int(state.skipped) - skipped)
          skipped = int(state.skipped)
          if int(state.skipped_in_row) >= run.max_skipped_in_row:
            state, progress = _roll_back(run, system, place, saved, state, progress)
            done, skipped = int(state.step), int(state.skipped)
            report.close()
            report = _report(run, workdir, feed, done, progress)
            continue

        evaluated, score = done % run.evaluation.every == 0 or done == run.num_steps, None
        if evaluated:
          results = evaluation.run(state)
          report.scalars(done, results.means)
          evaluation.show_samples(state, report)
          summary = system.summary(results.means)
          if jax.process_index() == 0:
            results.save(workdir, summary)
          reporting.say(f'After step {done}: {summary}')
          state = place.replicate(system.on_evaluation(state, results.means))
          score = results.means.get(system.score)
        is_due = done % run.checkpoint.every == 0 and not int(state.skipped_in_row)
        if evaluated or is_due or stopping:
          progress = dataclasses.replace(
            progress, data_position=feed.get_state(), pending_metrics=report.pending()
          )
          saved.save(state, progress, score=score)
          ended = done == run.num_steps or system.finished(state)
          page.update(done, report.training_curves, report.evaluation_curves, ended=ended)
        if system.finished(state):
          reporting.say(f'The schedule has ended after step {done}.')
          break
        if stopping and done < run.num_steps:
          reporting.say(f'Stopped after step {done}; run the same command to go on.')
          return False
    finally:
      feed.close()
      report.close()
  _say_done(run, system, results, workdir, time.monotonic() - began)
  return True


def skip_bad_steps(train_step, limits: Mapping[str, float] = types.MappingProxyType({})):
  """A step in which a metric is not finite, or above its limit, leaves every network as it was.

  It is counted in the state; data and PRNG go on, so the next step tries other clips. Limits of
  metrics that the stage does not have wait for one that has them.
  """

  def step(state: base.State, batch: base.Batch):
    new, metrics = train_step(state, batch)
    good = jnp.all(jnp.isfinite(jnp.stack(jax.tree.leaves(metrics))))
    for name in limits.keys() & metrics.keys():
      good &= metrics[name] <= limits[name]
    # Without it XLA works the answer out anew in the update of every parameter.
    good = jax.lax.optimization_barrier(good)
    nets = jax.tree.map(lambda a, b: jnp.where(good, a, b), new.nets, state.nets)
    new = new.replace(
      step=state.step + 1,
      nets=nets,
      skipped=state.skipped + ~good,
      skipped_in_row=jnp.where(good, 0, state.skipped_in_row + 1),
    )
    return new, metrics

  return step


def _start(run, system, place, saved, source) -> tuple[base.State, checkpoints.Progress]:
  """The state of the latest checkpoint, else a fresh one."""
  key = jax.random.key(run.seed)
  if saved.latest_step is None:
    state = place.init(system.init, key)
    sources = {name: pretrained.load(folder) for name, folder in system.sources.items()}
    # Every process draws the same clips, so that all work out the same.
    settings = {**run.data.per_process, 'process_index': 0, 'process_count': 1}
    with pipeline.train_batches(source, sample=system.sample, seed=run.seed, **settings) as batches:
      state = system.start(state, sources, batches)
    return place.replicate(state), checkpoints.Progress(dict(system.sources))
  state, progress = saved.restore_newest(_abstract(run, system, place))
  for name, folder in system.sources.items():
    if name not in progress.sources:
      raise errors.CheckpointError(
        f'the run was begun without the {name} of {folder}, and networks are taken over only when '
        'a run begins.',
        where=saved.workdir,
        hint='use the config that the run was started with, or another --workdir.',
      )
    if progress.sources[name] != folder:
      reporting.say(f'The {name} stays the one that was taken over from {progress.sources[name]}.')
  reporting.say(f'Going on after step {int(state.step)} of {run.num_steps}.')
  return state, progress


def _abstract(run, system, place) -> base.State:
  return checkpoints.abstract_state(system.init, jax.random.key(run.seed), place.whole)


def _report(run, workdir, feed, start, progress) -> reporting.Reporter:
  return reporting.Reporter(
    workdir,
    num_steps=run.num_steps,
    batch_size=run.data.batch_size,
    log_every=run.log_every,
    start_step=start,
    pending=progress.pending_metrics,
    waiting_share=feed.waiting_share,
  )


def _check_limits(run, system, state, metrics):
  unknown = sorted(run.metric_limits.keys() - metrics.keys())
  if unknown and state.stage == system.last_stage:
    raise errors.ConfigError(
      f'metric_limits.{unknown[0]} is of a metric that {run.system} does not have.',
      where='config',
      hint=f'it has {", ".join(sorted(metrics))}.',
    )


def _say_skipped(done, number):
  if number:
    reporting.say(
      f'{number} steps up to step {done} were not applied: a loss or gradient was not finite, or a '
      'metric above its limit (config.metric_limits).'
    )


def _roll_back(run, system, place, saved, state, progress):
  """The newest checkpoint from before the steps that were not applied; the data go on.

  Raises:
    TrainingError: if the run may not go back (again), or there is no such checkpoint.
  """
  step, in_row = int(state.step), int(state.skipped_in_row)
  problem = errors.TrainingError(
    f'the last {in_row} steps ({step - in_row + 1} to {step}) had a loss or gradient that is not '
    'finite, or a metric above its limit, and were not applied'
    + (f', after {progress.roll_backs} times going back.' if progress.roll_backs else '.'),
    where=saved.workdir,
    hint='lower the learning rate or look at these clips; the last checkpoint is whole. '
    'config.max_roll_backs lets a run go back to it and on with other clips.',
  )
  if progress.roll_backs >= run.max_roll_backs or saved.latest_step is None:
    raise problem
  reporting.say(problem.what)
  state, earlier = saved.restore_newest(
    _abstract(run, system, place), is_good=lambda state: not int(state.skipped_in_row)
  )
  progress = dataclasses.replace(earlier, roll_backs=progress.roll_backs + 1)
  reporting.say(
    f'Back to step {int(state.step)}, and on with other clips '
    f'({progress.roll_backs} of {run.max_roll_backs}, config.max_roll_backs).'
  )
  return state, progress


def _say_plan(run, place, source, state):
  count = place.mesh.size
  kind = place.mesh.devices.flat[0].device_kind
  sizes = {
    name: sum(np.prod(x.shape, dtype=int) for x in jax.tree.leaves(net.params))
    for name, net in state.nets.items()
  }
  nets = ', '.join(f'{name} {size / 1e6:.2f} M' for name, size in sizes.items())
  reporting.say(
    f'{run.system} on {count} x {kind} ({run.partition}, {run.dtype}): {len(source)} clips, '
    f'{run.data.batch_size} a step ({run.data.batch_size // count} per device); parameters: {nets}.'
  )


def _say_done(run, system, results, workdir, seconds):
  reporting.say(results.table())
  made = [
    f'{run.system} is trained: {results.step} steps, {seconds / 60:.1f} minutes in this go.',
    f'  clips to watch   {workdir / "samples"}',
    f'  all at a glance  {workdir / run_report.REPORT_FILE}',
    f'  curves           tensorboard --logdir={workdir / "tensorboard"}',
    f'  numbers          {workdir / evaluate.RESULTS_FILE}, {workdir / evaluate.CLIPS_FILE}',
  ]
  if system.draws:
    command = f'python -m tfg_jax.generate --workdir={workdir} {base.GENERATE_FLAGS[system.draws]}'
    made.append(f'  your own media   {command}')
  reporting.say('\n'.join(made))


class _StopRequest:
  """Turns SIGTERM and Ctrl-C into a wish that the loop sees between two steps.

  Of several processes JAX passes SIGTERM to one on to all, and says after which step they stop.
  """

  def __init__(self):
    self._requested = False
    self._alone = jax.process_count() == 1

  def after(self, step: int) -> bool:
    """Whether to stop after this step; to be asked after each."""
    return self._requested if self._alone else multihost_utils.reached_preemption_sync_point(step)

  def __enter__(self):
    self._previous = {}
    if self._alone and threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._previous[number] = signal.signal(number, self._ask)
    return self

  def __exit__(self, kind, error, trace):
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _ask(self, number, frame):
    if self._requested:  # a second Ctrl-C means now
      raise KeyboardInterrupt
    self._requested = True
    reporting.say(f'{signal.Signals(number).name}: saving after this step.')
