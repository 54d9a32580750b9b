r"""How fast training batches come from records, and whether memory grows meanwhile.

  python -m tests.benchmarks.data_rates --config=configs/talklip.py:no_lip --config.data.root=DIR \
    --step_ms=200

The batches of a config from its records, as training gets them, with `data.workers` processes. With
--step_ms, of a step on an accelerator, says how many cores keep it busy.
"""

import os
import pathlib
import time

from absl import app, flags
from ml_collections import config_flags

from tests import runs
from tfg_jax.data import pipeline, records


def resident(process: int) -> int:
  """Bytes that a process and its children hold in memory."""
  folder = pathlib.Path(f'/proc/{process}')
  try:
    pages = int((folder / 'statm').read_text().split()[1])
    children = [
      int(child)
      for task in (folder / 'task').iterdir()
      for child in (task / 'children').read_text().split()
    ]
  except FileNotFoundError:  # it has ended
    return 0
  return pages * os.sysconf('SC_PAGE_SIZE') + sum(map(resident, children))


def measure(config, *, batches: int, step_ms: float | None) -> str:
  """Reads so many batches after a quarter as many that are not measured; says how that went."""
  run, system = runs.build(config)
  source = records.RecordSource(run.data.root, 'train')
  cores = len(os.sched_getaffinity(0))
  held = []
  settings = dict(seed=run.seed, num_workers=run.data.workers, **run.data.per_process)
  with pipeline.train_batches(source, sample=system.sample, **settings) as stream:
    for _ in range(max(batches // 4, 1)):
      next(stream)
    began = time.perf_counter()
    for _ in range(batches):
      frames = next(stream)['frames'].shape[1]
      held.append(resident(os.getpid()))
    seconds = time.perf_counter() - began
  rate = batches * run.data.batch_size / seconds
  half = len(held) // 2
  early, late = max(held[: half or 1]), max(held[half:])
  lines = [
    f'{run.system}, {len(source)} clips of {run.data.root}, {run.data.workers} workers, '
    f'{cores} cores',
    f'clips            {rate:.1f} per second, {rate / cores:.1f} per core',
    f'frames           {rate * frames:.0f} per second, {rate * frames / cores:.0f} per core',
    f'memory           {early / 1e6:.0f} MB at most in the first half, {late / 1e6:.0f} MB in the '
    f'second ({batches} batches, {batches * run.data.batch_size / len(source):.1f} epochs)',
  ]
  if step_ms:
    needed = run.data.batch_size / step_ms * 1e3
    lines.append(
      f'a step           of {step_ms:.0f} ms takes {needed:.0f} clips per second: '
      f'{needed / (rate / cores):.1f} such cores'
    )
  return '\n'.join(lines)


def main(_):
  print(measure(_CONFIG.value, batches=_BATCHES.value, step_ms=_STEP_MS.value))


if __name__ == '__main__':
  _CONFIG = config_flags.DEFINE_config_file('config', None, 'The config, with its variant.')
  _BATCHES = flags.DEFINE_integer('batches', 100, 'How many are measured.', lower_bound=2)
  _STEP_MS = flags.DEFINE_float('step_ms', None, 'Of a training step on an accelerator.')
  flags.mark_flag_as_required('config')
  app.run(main)
