"""What a run tells people: progress lines, metric files, sample pictures and videos.

  workdir/metrics.jsonl         one line per step; a resumed run cuts what it will do again
  workdir/tensorboard/          the same means, for TensorBoard
  workdir/samples/              strips (PNG) and videos with sound (MP4)

Only process 0 reports.
"""

import fractions
import io
import json
import os
import pathlib
import time
from collections.abc import Callable

import jax
import numpy as np
from PIL import Image

from tfg_jax import curves, errors, marks, media, storage

METRICS_FILE = 'metrics.jsonl'


def say(line: str):
  """One line for the person at the terminal."""
  if jax.process_index() == 0:
    print(line, flush=True)


class Reporter:
  """Collects metrics without making the devices wait, and writes them every `log_every` steps."""

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    num_steps: int,
    batch_size: int,
    log_every: int,
    start_step: int,
    waiting_share: Callable[[], float],
    pending: tuple = (),
  ):
    """Opens the files of a run.

    Args:
      workdir: of the run.
      num_steps, batch_size, log_every: as in the config.
      start_step: steps done before; what the files hold beyond it is cut.
      waiting_share: share of the time since the last call that was spent waiting for data.
      pending: rows that the checkpoint of `start_step` held, see `Reporter.pending`.
    """
    # Of what metrics.jsonl holds.
    self.training_curves, self.evaluation_curves = curves.Curves(), curves.Curves()
    self._samples = workdir / 'samples'
    self._num_steps = num_steps
    self._batch_size = batch_size
    self._log_every = log_every
    self._rows = list(pending)
    self._writes = jax.process_index() == 0
    if self._writes:
      with storage.reported(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        written = start_step - len(self._rows)
        self._lines, kept = _open_metrics(workdir / METRICS_FILE, keep_until=written)
        self.training_curves, self.evaluation_curves = curves.read(kept)
        self._tensorboard = _tensorboard_writer(workdir / 'tensorboard')
    self._waiting_share = waiting_share
    self._mark = (time.monotonic(), start_step)

  def step(self, step: int, metrics: dict[str, jax.Array]):
    """Takes the metrics of one step as they are on the devices."""
    self._rows.append((step, metrics))
    if step % self._log_every == 0 or step == self._num_steps:
      self.flush()

  def pending(self) -> tuple:
    """The rows that are in no file yet, as JSON, for a checkpoint; all others are on the disk."""
    if self._writes:
      with storage.reported(self._lines.name):
        os.fsync(self._lines.fileno())
    self._rows = [(step, _to_floats(row)) for step, row in self._rows]
    return tuple(self._rows)

  def scalars(self, step: int, values: dict[str, float]):
    """Writes evaluation results, after the metrics of the steps before them."""
    self.flush()
    if self._writes:
      self._write([(step, values)])
      self.evaluation_curves.add(step, values)
      if self._tensorboard:
        self._tensorboard.write_scalars(step, values)

  def samples(
    self, maker: marks.Maker, strips: np.ndarray, videos: np.ndarray, wavs: list, *, fps, rate
  ):
    """Writes pictures and clips, marked as synthetic; row i of each belongs to the same clip.

    Args:
      maker: the system and the step that made them.
      strips: (B, H, W, 3) uint8 RGB.
      videos: (B, T, H, W, 3) uint8 RGB, padded; clip i is as long as its sound.
      wavs: B arrays of int16 mono.
      fps: frames per second.
      rate: of the sound, Hz.
    """
    if not self._writes:
      return
    name = f'step_{maker.step:09d}'
    said = marks.of_samples(maker)
    picture = np.concatenate(list(strips), axis=0)
    png = io.BytesIO()
    Image.fromarray(picture).save(png, 'PNG', pnginfo=said.png)
    with storage.reported(self._samples):
      self._samples.mkdir(exist_ok=True)
      storage.write_whole(self._samples / f'{name}.png', [png.getvalue()])
    if self._tensorboard:
      self._tensorboard.write_images(maker.step, {'samples': picture[None]})
    for index, (video, wav) in enumerate(zip(videos, wavs, strict=True)):
      frames = video[: round(len(wav) / rate * fps)]
      path = self._samples / f'{name}_clip_{index}.mp4'
      write_video(path, frames, wav, fps=fps, rate=rate, tags=said.tags)

  def close(self):
    """Ends the files of numbers; raises StorageError if the disk refuses."""
    if self._writes:
      with storage.reported(self._lines.name):
        self._lines.close()
      if self._tensorboard:
        self._tensorboard.close()

  def flush(self):
    """Writes and prints the rows collected since the last time; waits for the devices, once."""
    if not self._rows:
      return
    rows = [(at, _to_floats(row)) for at, row in self._rows]
    self._rows = []
    step = rows[-1][0]
    now = time.monotonic()
    started, started_step = self._mark
    self._mark = (now, step)
    seconds = max(now - started, 1e-9)
    rate = (step - started_step) / seconds
    means = {name: float(np.mean([row[name] for _, row in rows])) for name in rows[-1][1]}
    means |= {
      'time/steps_per_s': rate,
      'time/clips_per_s': rate * self._batch_size,
      'time/waiting_for_data': self._waiting_share(),
    }
    if self._writes:
      self._write(rows)
      for at, row in rows:
        self.training_curves.add(at, row)
      if self._tensorboard:
        self._tensorboard.write_scalars(step, means)
    left = (self._num_steps - step) / max(rate, 1e-9)
    shown = '  '.join(
      f'{name} {value:.4g}' for name, value in means.items() if not name.startswith('time/')
    )
    say(
      f'step {step}/{self._num_steps}  {rate:.2f} steps/s  {rate * self._batch_size:.1f} clips/s  '
      f'{_clock(left)} left  waiting for data {means["time/waiting_for_data"]:.0%}  {shown}'
    )

  def _write(self, rows):
    with storage.reported(self._lines.name):
      self._lines.writelines(json.dumps({'step': step, **row}) + '\n' for step, row in rows)
      self._lines.flush()


def write_video(path: pathlib.Path, frames: np.ndarray, wav: np.ndarray, *, fps, rate, tags):
  """Writes (T, H, W, 3) uint8 RGB frames with int16 mono sound as an MP4."""
  height, width = frames.shape[1:3]
  rate_of_frames = fractions.Fraction(fps).limit_denominator(1001)
  with media.VideoWriter(
    path, width, height, rate_of_frames, audio=(wav, rate), metadata=tags
  ) as writer:
    for frame in frames:
      writer.write(frame)


def _open_metrics(path, *, keep_until):
  """The metrics file for appending, and its lines, without those of steps to be done again."""
  kept = []
  if path.exists():
    with path.open('rb') as file:
      for number, line in enumerate(file, 1):
        if not line.endswith(b'\n') or _step_of(line, path, number) > keep_until:
          break
        kept.append(line)
    os.truncate(path, sum(map(len, kept)))  # one operation, which nothing can interrupt
  return path.open('a'), kept


def _step_of(line, path, number):
  try:
    return json.loads(line)['step']
  except (ValueError, TypeError, KeyError) as error:
    raise errors.CheckpointError(
      f'line {number} of the metrics is damaged: {line[:40]!r}...',
      where=path,
      hint='mend the line or move the file away; the checkpoints do not need it.',
    ) from error


def _tensorboard_writer(directory):
  """None, and a line that says so, where TensorFlow is not installed."""
  try:
    from clu.metric_writers import SummaryWriter  # imports TensorFlow
  except ModuleNotFoundError as error:
    say(f'No TensorBoard files: {error.name} is not installed. metrics.jsonl has every number.')
    return None
  return SummaryWriter(str(directory))


def _to_floats(row):
  return {name: float(value) for name, value in jax.device_get(row).items()}


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'
