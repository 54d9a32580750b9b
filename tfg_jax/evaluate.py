"""Metrics of a checkpoint on a record set, always beside the ground truth and plain baselines.

results.json   means of every row of the table
clips.csv      the same numbers for each clip
"""

import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Mapping

import jax
import numpy as np
import tqdm

from tfg_jax import (
  configuration,
  marks,
  observers,
  partition,
  reporting,
  storage,
  systems,
  trained,
)
from tfg_jax.data import clip_codec, pipeline, records
from tfg_jax.systems import base

RESULTS_FILE = 'results.json'
CLIPS_FILE = 'clips.csv'
_LESSONS = 20_000  # training clips at most that teach a probe; DAVS' features of them take 400 MB


@dataclasses.dataclass(frozen=True)
class Results:
  """Numbers per clip, named 'who/metric', e.g. 'generated/mouth_l1'."""

  split: str
  step: int
  clip_ids: list[str]
  numbers: dict[str, np.ndarray]  # each (number of clips,)
  # What the clips weigh in the means of some numbers, e.g. their words; elsewhere all are equal.
  weights: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  whole: dict[str, float] = dataclasses.field(default_factory=dict)  # numbers of the split alone

  @property
  def means(self) -> dict[str, float]:
    """Of every number over the clips, and the split's own."""
    return {
      name: float(np.average(values, weights=self.weights.get(name)))
      for name, values in self.numbers.items()
    } | self.whole

  def and_(self, others: 'Results') -> 'Results':
    """With other numbers about the same clips.

    Raises:
      ValueError: if both have a number of the same name, of which one would be lost.
    """
    if twice := sorted(self.numbers.keys() & others.numbers.keys()):
      raise ValueError(f'{twice[0]} is measured twice')
    return dataclasses.replace(
      self,
      numbers=self.numbers | others.numbers,
      weights=self.weights | others.weights,
      whole=self.whole | others.whole,
    )

  def save(self, folder: pathlib.Path, summary: str):
    """Writes the means, with a sentence that says what they mean, and the table of clips.

    Raises:
      StorageError: if the disk refuses.
    """
    content = {'split': self.split, 'step': self.step, 'clips': len(self.clip_ids)}
    content |= {'summary': summary, 'means': self.means}
    file = io.StringIO()
    table = csv.writer(file)
    table.writerow(['clip_id', *self.numbers])
    table.writerows(zip(self.clip_ids, *self.numbers.values(), strict=True))
    with storage.reported(folder):
      folder.mkdir(parents=True, exist_ok=True)
      text = json.dumps(content, indent=2) + '\n'
      storage.write_whole(folder / RESULTS_FILE, [text.encode()])
      storage.write_whole(folder / CLIPS_FILE, [file.getvalue().encode()])

  def table(self) -> str:
    """Who (rows) by metric (columns), ground truth first."""
    metrics, rows = arrange(self.means)
    widths = [max(10, len(metric)) + 2 for metric in metrics]
    lines = [' ' * 16 + _cells(metrics, widths)]
    for row, values in rows.items():
      cells = (values.get(metric) for metric in metrics)
      cells = ('-' if cell is None else f'{cell:.4f}' for cell in cells)
      lines.append(f'{row.replace("_", " "):16}' + _cells(cells, widths))
    head = f'{len(self.clip_ids)} clips of split {self.split!r}, step {self.step}:'
    return '\n'.join([head, *lines])


def arrange(means: Mapping[str, float]) -> tuple[list[str], dict[str, dict[str, float]]]:
  """The metrics of a table, and the rows of everybody of whom some were measured: ground truth
  first."""
  metrics, rows = [], {}
  for name, value in means.items():
    who, metric = name.split('/')
    rows.setdefault(who, {})[metric] = value
    if metric not in metrics:
      metrics.append(metric)
  order = sorted(rows, key=lambda who: (who != 'ground_truth', who))
  return metrics, {who: rows[who] for who in order}


class Evaluation:
  """One system's evaluation on one split: compiled once, run as often as the loop asks."""

  def __init__(self, run: configuration.Run, system: base.System, place: partition.Partition):
    self._run = run
    self._system = system
    self._place = place
    self._source = records.RecordSource(run.data.root, run.evaluation.split)
    self._eval_step = place.evaluate(system.eval_step)
    self._samples = jax.jit(system.samples)

  def run(self, state: base.State) -> Results:
    """Evaluates every clip of the split (or the first `evaluation.max_clips`) once."""
    clip_ids, collected = [], []
    for batch in self._batches():
      batch = self._place.put(batch)
      rows = {name: batch[name] for name in ('clip_index', 'example_mask')}
      numbers, rows = self._place.fetch((self._eval_step(state, batch), rows))
      collected.append({name: values[rows['example_mask']] for name, values in numbers.items()})
      clip_ids += [clip.clip_id for clip in self._clips(rows)]
    return Results(self._run.evaluation.split, int(state.step), clip_ids, _joined(collected))

  def observe(self, state: base.State, judges: dict[str, observers.Observer]) -> Results:
    """The same clips as `run`, drawn as whole videos and put before observers."""
    videos = jax.jit(self._system.videos)
    judge = {name: jax.jit(observer.judge) for name, observer in judges.items()}
    weights = {name: jax.device_put(observer.variables) for name, observer in judges.items()}
    clip_ids, values, counts = [], [], []
    batches = tqdm.tqdm(self._batches(), desc='observing', unit='batch', disable=None)
    for batch in batches:
      real = batch['example_mask']
      clips = self._clips(batch)
      clip_ids += [clip.clip_id for clip in clips]
      # A batch that is filled up repeats its last clip.
      filled = clips + clips[-1:] * (len(real) - len(clips))
      for observer in judges.values():
        batch |= observer.inputs(filled)
      shown = videos(state, batch)
      found = {}
      for row, video in shown.items():
        for name, observer in judges.items():
          answers = judge[name](weights[name], video, batch['frames'], batch)
          answers = {key: x[real] for key, x in jax.device_get(answers).items()}
          numbers = observer.numbers(answers, clips)
          found |= {f'{row}/{metric}': number for metric, number in numbers.items()}
      values.append({name: value for name, (value, _) in found.items()})
      counts.append({name: count for name, (_, count) in found.items()})
    split = self._run.evaluation.split
    return Results(split, int(state.step), clip_ids, _joined(values), _joined(counts))

  def compare(self, state: base.State) -> Results:
    """What the same clips are among each other, and what clips of the training tell of them."""
    features, clip_ids, collected = jax.jit(self._system.features), [], []
    for batch in tqdm.tqdm(self._batches(), desc='comparing', unit='batch', disable=None):
      real = batch['example_mask']
      rows = jax.device_get(features(state, batch))
      collected.append({name: values[real] for name, values in rows.items()})
      clip_ids += [clip.clip_id for clip in self._clips(batch)]
    numbers, whole = self._system.compare(_joined(collected), self._lessons(state))
    return Results(self._run.evaluation.split, int(state.step), clip_ids, numbers, whole=whole)

  def _lessons(self, state):
    """What the system's probes are taught with: training clips, each once, in random order."""
    run = self._run
    source = records.RecordSource(run.data.root, 'train')
    clips = min(len(source), run.evaluation.max_clips or _LESSONS, _LESSONS)
    batches = pipeline.train_batches(
      source, seed=run.seed, sample=self._system.sample_evaluation, **run.data.per_process
    )
    lessons, collected = jax.jit(self._system.lessons), []
    count = max(1, clips // run.data.batch_size)
    with batches:
      for _ in tqdm.tqdm(range(count), desc='teaching', unit='batch', disable=None):
        collected.append(jax.device_get(lessons(state, next(batches))))
        if not collected[0]:
          break
    return _joined(collected)

  def show_samples(self, state: base.State, report: reporting.Reporter):
    """Writes pictures and videos of the split's first clips, in process 0."""
    count = min(self._run.evaluation.samples, len(self._source))
    if not count or jax.process_index() != 0:
      return
    with self._batches(batch_size=count, max_clips=count, process_count=1) as batches:
      batch = next(batches)
    shown = jax.device_get(self._samples(self._place.here(state), batch))
    wavs = [wav[:n] for wav, n in zip(batch['wav'], batch['num_samples'], strict=True)]
    report.samples(
      marks.Maker(self._run.system, int(state.step), weights=None),
      shown['strips'],
      shown['videos'],
      wavs,
      fps=self._run.data.fps,
      rate=self._run.data.sample_rate,
    )

  def _clips(self, batch):
    """The records of a batch, without those that fill it up."""
    numbers = batch['clip_index'][batch['example_mask']]
    return [clip_codec.decode(self._source[int(i)]) for i in numbers]

  def _batches(self, **changes):
    settings = {'max_clips': self._run.evaluation.max_clips, **self._run.data.per_process}
    return pipeline.eval_batches(
      self._source, sample=self._system.sample_evaluation, **{**settings, **changes}
    )


def _cells(cells, widths) -> str:
  return ''.join(f'{cell:>{width}}' for cell, width in zip(cells, widths, strict=True))


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def evaluate_workdir(workdir: pathlib.Path, config, output: pathlib.Path | None = None) -> Results:
  """Evaluates the best checkpoint of a run, prints the table and writes it to `output`.

  That is a folder; by default the workdir.

  Raises:
    CheckpointError, DataError, ConfigError: where run, records and config do not fit.
  """
  run = configuration.resolve(config)
  state = trained.load(workdir, all_frozen=True).state
  place = partition.build(run.partition, batch_size=run.data.batch_size)
  system = systems.build(run, axis_name=place.axis_name)
  state = jax.device_put(state, place.whole)
  evaluation = Evaluation(run, system, place)
  results = evaluation.run(state)
  if hasattr(system, 'videos'):
    judges = observers.load(run.evaluation.observers, system.sources.values(), fps=run.data.fps)
    if system.draws == 'mouth':  # whole faces are measured at their own size, by the system
      judges = {'likeness': observers.Likeness()} | judges
    if judges:
      results = results.and_(evaluation.observe(state, judges))
    reporting.say(observers.credits(run.evaluation.observers))
  if hasattr(system, 'compare'):
    results = results.and_(evaluation.compare(state))
  output = output or workdir
  results.save(output, system.summary(results.means))
  reporting.say(results.table())
  return results
