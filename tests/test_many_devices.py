"""Every system trains on 1, 2, 4 and 8 devices to the same numbers, statistics included."""

import os

import numpy as np
import pytest
from forked import Forked

pytestmark = pytest.mark.end_to_end
BATCH = 8

# Of each system the stage that all its networks are in; and how many devices are tried: TalkLip's
# all, of the others, which share everything but the step, the ends.
CASES = {
  'talklip:no_lip': (1, 2, 4, 8),
  'wav2lip:gan': (1, 8),
  'sync_expert:puppets_color': (1, 8),
  'sync_expert:puppets_syncnet': (1, 8),
  'lip_expert:puppets_finetune': (1, 8),
  'davs:puppets': (1, 8),
  'sf2f:puppets': (1, 8),
  'speech2video:puppets': (1, 8),
  'speech2video:puppets+sdfa': (1, 8),
}


def step_on(name, root, counts, output):
  """Writes metrics and statistics of a step of the last stage, a row for each number of devices."""
  # A thread for every sum that a device may wait in; with fewer they can wait for each other.
  os.environ['PJRT_NPROC'] = '64'
  import jax
  import jax.numpy as jnp

  jax.config.update('jax_num_cpu_devices', max(counts))
  import runs
  import twins

  from tfg_jax import partition, pretrained, train

  config = twins.get_config(name)
  config.data.root = root
  config.data.batch_size = BATCH
  if name.startswith('wav2lip'):
    expert = twins.get_config('sync_expert:color')
    config.model.expert = str(runs.untrained(expert, root, output.parent / 'expert'))
  if name.startswith('davs'):
    # Its opponents judge again after their step, and Adam's first one makes a full step of what may
    # be a gradient's rounding.
    config.model.opponents_learning_rate = 1e-7
  run, system = runs.build(config)
  sources = {name: pretrained.load(folder) for name, folder in system.sources.items()}
  state = system.start(runs.noisy_state(system), sources, ()).replace(stage=system.last_stage)
  batch = runs.first_batch(run, system.sample, seed=0)
  rows = []
  for count in counts:
    place = partition.build('jit', batch_size=BATCH, devices=jax.devices()[:count])
    step = place.train(train.skip_bad_steps(system.train_step))
    fresh = jax.tree.map(jnp.copy, state)  # the step reuses its memory
    new, metrics = step(place.replicate(fresh), place.put(batch))
    assert not int(new.skipped)
    stats = {name: net.stats for name, net in new.nets.items()}
    rows.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves((metrics, stats))]))
    print(count, len(metrics), len(jax.tree.leaves(stats)), flush=True)
  np.save(output, rows)


@pytest.mark.parametrize('name', CASES)
def test_a_step_on_many_devices(toy_records, tmp_path, name):
  output = tmp_path / 'rows.npy'
  process = Forked(tmp_path / 'log', step_on, name, str(toy_records), CASES[name], output)
  code, printed = process.wait(600)
  assert code == 0, printed
  rows = np.load(output)
  assert len(rows) == len(CASES[name]) and np.isfinite(rows).all()
  for row in rows[1:]:
    np.testing.assert_allclose(row, rows[0], rtol=2e-3, atol=1e-4)
