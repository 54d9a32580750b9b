r"""How long a training step takes on the devices here, and what share of their peak that is.

  python -m tests.benchmarks.training_step --config=configs/talklip.py:g+c \
    --config.model.expert=avhubert_base_seq2seq --config.dtype=bfloat16 --peak=989

The real step of a config at its batch size, on noise: neither records nor weights are needed, and
where a config wants a folder of either, what `--mode=plan` takes will do. Says what was planned for
these devices and what was measured. --peak is that of one device, in TFLOP/s.
"""

from tfg_jax import host

host.keep_memory()  # before others start threads

import pathlib
import tempfile
import time

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from tests import runs
from tests.benchmarks import inputs, timing
from tfg_jax import configuration, plan, slices, train


def measure(config, *, stage: int | None, steps: int, peak: float | None) -> str:
  """Runs a config's step; says what it costs.

  Args:
    config: as for `plan.plan`.
    stage: of the system; None for the last.
    steps: measured ones.
    peak: TFLOP/s of a device; None where that is not known.
  """
  with tempfile.TemporaryDirectory() as folder:
    run = configuration.resolve(plan.without_weights(config, pathlib.Path(folder)))
    step = plan.Step.of(run, slices.find('local'), stage)
    batch = inputs.noisy_batch(run, step.system, run.data.batch_size)
    devices = step.place.mesh.size
    cost = step.compile(run.data.batch_size // devices)
    compiled = step.place.train(train.skip_bad_steps(step.system.train_step))
    state = step.place.replicate(runs.noise(step.state))
    placed = step.place.put(batch)

    def once():
      nonlocal state
      state, metrics = compiled(state, placed)
      jax.block_until_ready(metrics)

    began = time.perf_counter()
    once()
    first = time.perf_counter() - began
    seconds = float(np.median(timing.in_turn({'step': once}, steps)['step']))
  rate = cost.flops / seconds / 1e12
  used = (jax.devices()[0].memory_stats() or {}).get('peak_bytes_in_use')
  return '\n'.join(
    [
      f'{run.system}, stage {step.state.stage}, {run.dtype}, {run.data.batch_size} clips on '
      f'{devices} x {jax.devices()[0].device_kind}, JAX {jax.__version__}, '
      f'{time.strftime("%Y-%m-%d")}',
      f'step             {seconds * 1e3:.1f} ms, median of {steps}; the first took {first:.1f} s',
      f'clips            {run.data.batch_size / seconds:.1f} per second',
      f'compute          {cost.flops / 1e12:.3f} TFLOP per device, {rate:.2f} TFLOP/s'
      + (f', {rate / peak:.1%} of peak' if peak else ', peak unknown'),
      f'memory traffic   {cost.traffic / 1e9:.2f} GB as planned, '
      f'{cost.traffic / seconds / 1e9:.0f} GB/s',
      f'memory           {cost.total / 1e9:.2f} GB as planned, '
      + (f'{used / 1e9:.2f} GB at most in use' if used else 'in use unknown'),
    ]
  )


def main(_):
  host.prepare_jax()
  print(measure(_CONFIG.value, stage=_STAGE.value, steps=_STEPS.value, peak=_PEAK.value))


if __name__ == '__main__':
  _CONFIG = config_flags.DEFINE_config_file('config', None, 'The config, with its variant.')
  _STAGE = flags.DEFINE_integer('stage', None, 'Of the system; default the last.')
  _STEPS = flags.DEFINE_integer('steps', 10, 'How many are measured.', lower_bound=1)
  _PEAK = flags.DEFINE_float('peak', None, 'TFLOP/s of one device, for the share of it.')
  flags.mark_flag_as_required('config')
  app.run(main)
