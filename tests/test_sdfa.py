"""The baselines of Speech2Video: who learns when, and what the mismatch row shows."""

import jax
import numpy as np
import pytest
import runs
from runs import first_batch, noisy_state
from test_speech2video import changed

from configs import speech2video as configs
from tfg_jax import configuration, errors, systems
from tfg_jax.data import pipeline
from tfg_jax.networks import sdfa as networks
from tfg_jax.systems import sdfa

pytestmark = pytest.mark.end_to_end  # compiles whole systems

ANIMATORS = {'animator', 'frame_judge', 'sequence_judge', 'sync_judge'}


def build(toy_records, variant, **changes):
  c = configs.get_test_config(variant)
  c.data.root = str(toy_records)
  c.update_from_flattened_dict(changes)
  return runs.build(c)


@pytest.fixture(scope='module')
def run(toy_records):
  """S2F+SDFA after a step of every stage: {stage: (state before, state after, metrics)}."""
  resolved, system = build(toy_records, 'crema_d+s2f_sdfa')
  batch = first_batch(resolved, system.sample, seed=0)
  state, steps = noisy_state(system), {}
  for stage in range(3):
    before = state.replace(stage=stage)
    state, metrics = jax.jit(system.train_step)(before, batch)
    steps[stage] = before, state, jax.device_get(metrics)
  return system, batch, steps


@pytest.mark.parametrize(
  ('stage', 'players'), [(0, {'identity_teacher', 'observer'}), (1, {'voice'}), (2, ANIMATORS)]
)
def test_a_stage_moves_its_own_players_and_their_optimisers(run, stage, players):
  before, after, metrics = run[2][stage]
  assert set(before.nets) == {'identity_teacher', 'observer', 'voice'} | ANIMATORS
  assert changed(before, after) == (players, players)
  assert {name.split('/')[0] for name in metrics} == players
  assert all(np.isfinite(value) for value in metrics.values())


def test_the_total_weighs_l1_on_the_lower_half_and_three_judges(run):
  metrics = run[2][2][2]
  expected = 600 * metrics['animator/l1'] + metrics['animator/frame_judge']
  expected += 0.2 * metrics['animator/sequence_judge'] + 0.8 * metrics['animator/sync_judge']
  np.testing.assert_allclose(metrics['animator/total'], expected, rtol=1e-5)


def test_a_voice_is_enough_to_generate(run):
  system, batch, steps = run
  state = steps[2][1]

  @jax.jit
  def draw(state, wav):
    voice = system.describe(state, {'wav': wav[None]})
    times = np.arange(3, dtype=np.float32) / 25
    return system.generate(state, {'wav': wav, 'times': times, **voice})

  drawn = draw(state, batch['wav'][0])
  assert drawn.shape == (3, 32, 32, 3) and drawn.dtype == np.uint8
  with pytest.raises(errors.ConversionError, match="an SDFA run holds no 'cpc_audio'"):
    system.export(state, 'cpc_audio')


def test_sdfa_is_evaluated_with_the_picture_of_somebody_else_too(toy_records):
  resolved, system = build(toy_records, 'crema_d+sdfa')
  state = noisy_state(system).replace(stage=2)
  assert set(state.nets) == {'observer'} | ANIMATORS and system.score == 'sdfa/l1'
  batch = first_batch(resolved, system.sample_evaluation, pipeline.eval_batches)
  numbers = jax.jit(system.eval_step)(state, batch)
  rows = {name.split('/')[0] for name in numbers}
  assert rows == {'ground_truth', 'sdfa', 'sdfa_mismatch'}
  assert np.any(numbers['sdfa/l1'] != numbers['sdfa_mismatch/l1'])
  means = {name: float(x.mean()) for name, x in numbers.items()}
  assert 'shown another person' in system.summary(means)
  shown = jax.jit(system.videos)(state, batch)
  assert set(shown) == rows and shown['sdfa'].shape == batch['frames'].shape
  assert np.any(shown['sdfa'] != shown['sdfa_mismatch'])


def test_another_person_is_the_next_one_who_is_not_the_same():
  batch = {'wav': np.zeros((5, 1)), 'identity': np.array([3, 3, 1, 1, 3])}
  np.testing.assert_array_equal(sdfa._another_person(batch), [2, 2, 4, 4, 2])
  np.testing.assert_array_equal(sdfa._another_person({'wav': batch['wav']}), [1, 2, 3, 4, 0])


def test_stages(toy_records):
  for variant, expected in (('crema_d+sdfa', [0, 2, 2]), ('crema_d+s2f_sdfa', [0, 1, 2])):
    _, system = build(toy_records, variant)
    assert [system._stage(step) for step in (1, 2, 4)] == expected
  _, system = build(toy_records, 'voxceleb2+sdfa')  # no labels: no expert is needed or learns
  assert system._stage(0) == 2 and not system.experts.learned


@pytest.mark.parametrize('variant', [x for x in configs.VARIANTS if '+' in x])
def test_published_baselines_can_be_built(variant):
  c = configs.get_config(variant)
  c.data.root = 'records'
  if variant == 'voxceleb2+s2f_sdfa':
    c.model.experts.weights.identity_teacher = 'folder'
  system = systems.build(configuration.resolve(c), axis_name=None)
  state = jax.eval_shape(system.init, jax.random.key(0))
  assert set(state.nets) >= ANIMATORS
  if variant == 'crema_d+sdfa':  # two halves of a U-Net, as wide as the public one
    size = sum(x.size for x in jax.tree.leaves(state.nets['animator'].params))
    assert 40e6 < size < 60e6


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model.reference': 'name'}, "model.reference is 'name'"),
    ({'model.frames': 4}, 'model.frames is 4'),
    ({'model.loss.half': 'left'}, "model.loss.half is 'left'"),
    ({'model.optimizer': 'sgd'}, "model.optimizer is 'sgd'"),
    ({'model.voice_steps': 3}, 'model.voice_steps is 3, but a stage can only end'),
  ],
)
def test_settings_that_cannot_be(toy_records, changes, message):
  with pytest.raises(errors.ConfigError, match=message):
    build(toy_records, 'crema_d+sdfa', **changes)


def test_audio_windows_surround_their_frames():
  wav = np.arange(6400, dtype=np.int16)[None]
  windows = np.asarray(networks.audio_windows(wav, 5, 25.0))[0] * 32768
  assert windows.shape == (5, 3200)
  np.testing.assert_array_equal(windows[0, :1280], 0)
  np.testing.assert_array_equal(windows[0, 1280:], np.arange(1920))
  np.testing.assert_array_equal(windows[3], 3 * 640 - 1280 + np.arange(3200))


def test_gru_is_pytorchs():
  torch = pytest.importorskip('torch', reason='needs the extra [torch]')

  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 5, 3)).astype(np.float32)
  twin = torch.nn.GRU(3, 4, batch_first=True)
  params = {
    'input_kernel': twin.weight_ih_l0.detach().numpy().T,
    'hidden_kernel': twin.weight_hh_l0.detach().numpy().T,
    'input_bias': twin.bias_ih_l0.detach().numpy(),
    'hidden_bias': twin.bias_hh_l0.detach().numpy(),
  }
  expected, _ = twin(torch.from_numpy(x))
  actual = networks.GRU(4).apply({'params': params}, x)
  np.testing.assert_allclose(actual, expected.detach().numpy(), atol=1e-6)
