"""Speech2Video: who learns in which stage and from what, what its numbers mean, what it draws."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noise import noisy_variables
from runs import build, first_batch, noisy_state

from configs import speech2video as configs
from tfg_jax import (
  configuration,
  errors,
  losses,
  partition,
  pretrained,
  systems,
  train,
  trained,
)
from tfg_jax.data import clip_codec, pipeline, records
from tfg_jax.features import speech
from tfg_jax.networks.cpc import CPC
from tfg_jax.pytorch import converted
from tfg_jax.systems import drawn_faces, speech_experts

pytestmark = pytest.mark.end_to_end  # compiles whole systems

EXPERTS = {'cpc', 'identity_teacher', 'emotion_teacher', 'observer'}
STUDENTS = {'identity_student', 'emotion_student'}
COMPOSERS = {
  'decoder', 'identity_discriminator', 'frame_discriminator', 'sync_discriminator',
}  # fmt: skip


@pytest.fixture(scope='module')
def config(toy_records):
  def make(variant='crema_d', **changes):
    c = configs.get_test_config(variant)
    c.data.root = str(toy_records)
    c.update_from_flattened_dict(changes)
    return c

  return make


@pytest.fixture(scope='module')
def run(config):
  """The twin after a step of every stage: {stage: (state before, state after, metrics)}."""
  resolved, system = build(config(**{'model.experts.traits': 2}))
  batch = first_batch(resolved, system.sample, seed=0)
  state, steps = noisy_state(system), {}
  for stage in range(3):
    before = state.replace(stage=stage)
    state, metrics = jax.jit(system.train_step)(before, batch)
    steps[stage] = before, state, jax.device_get(metrics)
  return system, batch, steps


def changed(before, after):
  """Names of the players whose parameters differ, and of those whose optimisers do."""

  def differs(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return any(not np.array_equal(x, y) for x, y in pairs)

  return tuple(
    {name for name, net in before.nets.items() if differs(part(net), part(after.nets[name]))}
    for part in (lambda net: net.params, lambda net: net.opt_state)
  )


@pytest.mark.parametrize(('stage', 'players'), list(enumerate((EXPERTS, STUDENTS, COMPOSERS))))
def test_a_stage_moves_its_own_players_and_their_optimisers(run, stage, players):
  before, after, metrics = run[2][stage]
  assert set(before.nets) == EXPERTS | STUDENTS | COMPOSERS
  assert changed(before, after) == (players, players)
  assert {name.split('/')[0] for name in metrics} == players
  assert all(np.isfinite(value) for value in metrics.values())
  assert all(metrics[f'{player}/grad_norm'] > 0 for player in players)


def test_each_composer_learns_from_its_own_loss(run):
  """One step, done again by hand: RMSProp with each one's rate on the gradient of its loss."""
  system, _, steps = run
  before, after, metrics = steps[2]
  rates = system.settings.learning_rates
  for name in sorted(COMPOSERS):
    old, new = before.nets[name], after.nets[name]
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), old.params, new.params)
    # From no memory, a step is rate * g / sqrt(0.01 g^2): ten times the rate, whatever g is.
    largest = max(jax.tree.leaves(moved))
    np.testing.assert_allclose(largest, 10 * getattr(rates, name), rtol=0.02, err_msg=name)
    squares = [x for x in jax.tree.leaves(new.opt_state) if x.ndim]
    norm = np.sqrt(100 * sum(np.sum(x) for x in squares))
    np.testing.assert_allclose(norm, metrics[f'{name}/grad_norm'], rtol=1e-3, err_msg=name)


def test_the_total_is_equation_10(run):
  system, _, steps = run
  metrics, weights = steps[2][2], system.settings.loss
  adversarial = sum(metrics[f'decoder/{name}'] for name in ('identity', 'frame', 'sync'))
  pixels = 100 * (metrics['decoder/similarity'] + metrics['decoder/gradient'])
  assert (weights.similarity, weights.gradient, weights.adversarial) == (100, 100, 1)
  np.testing.assert_allclose(metrics['decoder/total'], adversarial + pixels, rtol=1e-5)


def test_the_distillation_remembers_faces_and_scales(run):
  system, batch, steps = run
  before, after, _ = steps[1]
  assert int(after.schedule['faces_seen']) == 1
  first = np.zeros((2, 1), np.int32)
  faces, maps = jax.jit(
    lambda state: (
      system._faces(batch, first),
      system.experts.maps(state, system.experts.faces(batch, first, 32)[:, 0]),
    )
  )(after)
  np.testing.assert_allclose(after.schedule['average_face'], np.mean(faces, 0), atol=1e-5)
  expected = [np.mean(x) for x in maps]
  np.testing.assert_allclose(after.schedule['map_scales'], expected, rtol=1e-3)
  assert [x.shape[1] for x in maps] == [2, 4, 8]


def test_students_read_omega_in_units_of_what_clips_differ_by(run):
  system, batch, steps = run
  after = steps[1][1]
  _, omega = system.experts.hear_whole(after, batch['wav'], batch['num_samples'])
  np.testing.assert_allclose(after.schedule['omega'], omega.mean(0), atol=1e-6)
  # Of two clips each is one deviation from the mean, however small the deviation.
  params = after.nets['identity_student'].params
  read = system.networks['identity_student'].apply(
    {'params': params}, jnp.sign(omega - omega.mean(0))
  )
  _, identity, _ = system._listen(after, batch['wav'], batch['num_samples'])
  np.testing.assert_allclose(identity, read, rtol=0.05, atol=0.02)


def test_stages_follow_the_number_of_steps(run):
  system, _, steps = run
  state = steps[0][0]
  reached = [
    system.on_evaluation(state.replace(step=jnp.int32(step)), {}).stage for step in (0, 2, 3, 4, 9)
  ]
  assert reached == [0, 1, 1, 2, 2]
  assert not system.finished(state)


def test_frames_out_of_sync_are_far_from_their_own(run, toy_records):
  system = run[0]
  clip = clip_codec.decode(records.RecordSource(toy_records, 'train')[0])
  rng = np.random.default_rng(0)
  for _ in range(50):
    sample = system.sample(clip, rng)
    assert np.all(np.abs(sample['drawn_frames'] - sample['shifted_index']) >= 5)
    assert len(set(sample['drawn_frames'])) == len(sample['drawn_frames'])
  short = system.sample(_cut(clip, 3), rng)
  apart = np.abs(short['drawn_frames'] - short['shifted_index'])
  np.testing.assert_array_equal(apart, np.maximum(short['drawn_frames'], 2 - short['drawn_frames']))


def _cut(clip, frames):
  return pipeline.cut(clip, 0, frames, 640)


# --------------------------------------------------------------------------------------------------
# Use
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def evaluated(run):
  system, batch, steps = run
  state = steps[2][1]
  numbers = jax.device_get(jax.jit(system.eval_step)(state, batch))
  return state, numbers


def test_evaluation_numbers(run, evaluated):
  system, batch, _ = run
  state, numbers = evaluated
  assert {name.split('/')[0] for name in numbers} == {
    'ground_truth', 'average_face', 'generated', 'teacher', 'speech',
  }  # fmt: skip
  np.testing.assert_array_equal(numbers['ground_truth/l1'], 0)
  np.testing.assert_array_equal(numbers['ground_truth/psnr'], 100)
  np.testing.assert_allclose(numbers['ground_truth/ssim'], 1, rtol=1e-5)
  real = np.asarray(system._faces(batch, batch['drawn_frames']))
  error = np.abs(np.asarray(state.schedule['average_face']) - real).mean((1, 2, 3)) / 2
  np.testing.assert_allclose(
    numbers['average_face/l1'], error.reshape(2, -1).mean(1), rtol=1e-4, atol=1e-6
  )
  assert all(set(np.unique(numbers[f'{row}/right_person'])) <= {0, 1} for row in ('speech',))
  assert set(np.unique(numbers['generated/right_traits'])) <= {0, 0.5, 1}  # of two

  means = {name: float(x.mean()) for name, x in numbers.items()}
  text = system.summary(means | {'generated/right_person': 0.5, 'ground_truth/right_person': 1.0})
  assert 'knows 50% of the speakers' in text and 'guessing gives 12% of the speakers' in text
  assert 'No weights were given for cpc, identity teacher, emotion teacher' in text


def test_traits_and_people_are_told_by_the_mean_over_a_clip():
  said = {
    'identity': np.array([[3.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 2.0]]),  # two frames each
    'traits': np.array([[5.0, -1.0], [-1.0, -1.0], [1.0, -1.0], [1.0, 3.0]]),
  }
  batch = {'identity': np.array([0, 7]), 'traits': np.array([[True, True], [True, False]])}
  numbers = drawn_faces.recognised('drawn', batch, said)
  np.testing.assert_array_equal(numbers['drawn/right_person'], [1, 0])  # 7 is a stranger
  np.testing.assert_array_equal(numbers['drawn/right_traits'], [0.5, 0.5])


def test_the_observer_learns_the_traits_too(run):
  before, after, metrics = run[2][0]
  assert 0 < metrics['observer/traits_loss'] < metrics['observer/total']
  kernels = [state.nets['observer'].params['traits']['kernel'] for state in (before, after)]
  assert np.mean(kernels[0] != kernels[1]) > 0.5


def test_observers_see_the_drawn_faces_in_their_boxes(run):
  system, batch, steps = run
  state, index = steps[2][1], np.broadcast_to(np.arange(16), (2, 16))
  shown = jax.jit(system.videos)(state, batch)
  np.testing.assert_array_equal(shown['ground_truth'], batch['frames'])
  cut = jax.jit(system.experts.faces, static_argnums=2)
  drawn = cut(batch | {'frames': shown['generated']}, index, system.face_size)
  expected = jax.jit(system.samples)(state, batch)['videos'][:, :, :, system.face_size :]
  # Scaled up to the box and down again.
  assert np.abs(np.asarray(drawn) - expected).mean() < 4
  outside = shown['generated'][0, 0, :, 0], batch['frames'][0, 0, :, 0]
  np.testing.assert_array_equal(*outside)


def test_generate_draws_what_evaluation_sees_from_what_has_been_heard(run):
  system, batch, steps = run
  times = np.arange(16, dtype=np.float32) / 25

  @jax.jit
  def draw(state, wav, num_samples):
    voice = system.describe(state, {'wav': wav[:1], 'num_samples': num_samples[:1]})
    generated = system.generate(state, {'wav': wav[0], 'times': times, **voice})
    context, identity, emotion = system._listen(state, wav[:1], num_samples[:1])
    maps = system._apply(state, 'decoder', identity, train=False, method='inflate')
    evaluated = system._draw(state, context, emotion, maps, times[None] + 1 / 25)
    return voice, generated, evaluated, context

  state, wav = steps[2][1], np.array(batch['wav'])
  voice, generated, evaluated, context = draw(state, wav, batch['num_samples'])
  assert voice['identity'].shape == (8,) and voice['emotion'].shape == (8,)
  assert generated.shape == (16, 32, 32, 3) and generated.dtype == np.uint8
  assert np.abs(np.asarray(generated) - (np.asarray(evaluated) + 1) * 127.5).max() <= 1
  # What comes after a frame does not change what it is drawn from, but for 10 ms of kernels.
  wav[0, 8 * 640 + 320 :] = 0
  *_, cut = draw(state, wav, batch['num_samples'])
  np.testing.assert_array_equal(cut[:, :32], context[:, :32])
  assert np.any(cut[:, 36:] != context[:, 36:])


def test_colours_may_overshoot_in_losses_and_are_white_or_black_in_pictures(run):
  system, _, steps = run
  state = steps[2][1]
  decoder = state.nets['decoder']
  out = decoder.params['out'] | {'bias': decoder.params['out']['bias'] + np.array([9.0, -9.0, 0.0])}
  beyond = dataclasses.replace(decoder, params=decoder.params | {'out': out})
  state = state.replace(nets=state.nets | {'decoder': beyond})
  context, identity = np.zeros((1, 4, system.experts.cpc.context), np.float32), np.zeros((1, 8))
  maps = system._apply(state, 'decoder', identity, train=False, method='inflate')
  inputs = context[0, :1], np.zeros((1, 8), np.float32), maps

  def red(params):
    frames = system._apply(state, 'decoder', *inputs, params=params, train=False, method='draw')
    return frames[..., 0].mean()

  value, gradient = jax.value_and_grad(red)(beyond.params)
  assert value > 5
  np.testing.assert_allclose(gradient['out']['bias'], [1, 0, 0], atol=1e-6)
  frame = system._draw(state, context, inputs[1], maps, np.array([[0.04]]))
  picture = np.asarray(drawn_faces.to_uint8(frame))
  assert (picture[..., 0] == 255).all() and (picture[..., 1] == 0).all()


def test_a_run_exports_its_experts(run):
  system, _, steps = run
  state = steps[2][1]
  assert set(system.export(state, 'cpc_audio')['params']) == {'encoder', 'recurrent'}
  assert 'batch_stats' in system.export(state, 'senet50_ferplus')
  with pytest.raises(errors.ConversionError, match="a Speech2Video run holds no 'mvm_lrw'"):
    system.export(state, 'mvm_lrw')


# --------------------------------------------------------------------------------------------------
# In the loop
# --------------------------------------------------------------------------------------------------


def test_a_run_goes_through_all_stages_and_can_be_broken_off(config, tmp_path):
  one = jax.devices()[:1]
  assert train.train_and_evaluate(config(num_steps=4), tmp_path, devices=one)
  assert trained.load(tmp_path, step=4).state.stage == 2
  assert train.train_and_evaluate(config(), tmp_path, devices=one)
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  players = [{name.split('/')[0] for name in row if name.endswith('grad_norm')} for row in rows]
  assert [x for x in players if x] == [EXPERTS] * 2 + [STUDENTS] * 2 + [COMPOSERS] * 2
  results = json.loads((tmp_path / 'results.json').read_text())
  assert results['clips'] == 3 and 'generated/right_person' in results['means']
  assert (tmp_path / 'samples' / 'step_000000006_clip_0.mp4').exists()


@pytest.mark.parametrize('stage', [1, 2])
def test_pmap_trains_as_jit_does(run, config, stage):
  _, batch, steps = run
  before, _, expected = steps[stage]
  place = partition.build('pmap', batch_size=2, devices=jax.devices()[:2])
  system = systems.build(configuration.resolve(config()), axis_name=place.axis_name)
  after, metrics = place.train(system.train_step)(before, place.put(batch))
  for name, value in metrics.items():
    np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-5, err_msg=name)
  for player in after.nets:
    for x, y in zip(
      jax.tree.leaves(after.nets[player].stats),
      jax.tree.leaves(steps[stage][1].nets[player].stats),
      strict=True,
    ):
      np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5, err_msg=player)


# --------------------------------------------------------------------------------------------------
# Configs
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('variant', ['crema_d', 'voxceleb2', 'puppets'])
def test_every_stage_of_a_published_config_can_be_traced(config, variant):
  c = configs.get_config(variant)
  c.data.root = 'records'
  if variant == 'voxceleb2':
    c.model.experts.weights.update(identity_teacher='a', emotion_teacher='b')
  resolved = configuration.resolve(c)
  system = systems.build(resolved, axis_name=None)
  state = jax.eval_shape(system.init, jax.random.key(0))
  experts, settings = system.experts, c.model.experts
  clips, length = 2, c.data.max_frames
  samples = int(length * 16_000 / c.data.fps)

  def ints(*shape, dtype='int32'):
    return jax.ShapeDtypeStruct((clips, *shape), dtype)

  batch = {
    'frames': ints(length, c.data.height, c.data.width, 3, dtype='uint8'),
    'boxes': ints(length, 4),
    'num_frames': ints(),
    'wav': ints(samples, dtype='int16'),
    'num_samples': ints(),
    'teacher_frames': ints(settings.teacher_frames),
    'window_start': ints(),
    'drawn_frames': ints(c.model.frames),
    'shifted_index': ints(c.model.frames),
    **({'identity': ints(), 'emotion': ints()} if experts.observer else {}),
    **({'traits': ints(settings.traits)} if settings.traits else {}),
  }
  learned = {'cpc'} if variant == 'voxceleb2' else EXPERTS
  for stage, players in enumerate((learned, STUDENTS, COMPOSERS)):
    _, metrics = jax.eval_shape(system.train_step, state.replace(stage=stage), batch)
    assert {name.split('/')[0] for name in metrics} == players
  numbers = jax.eval_shape(system.eval_step, state.replace(stage=2), batch)
  assert ('generated/right_person' in numbers) == (variant != 'voxceleb2')
  if variant == 'crema_d':
    sizes = {
      name: sum(x.size for x in jax.tree.leaves(net.params)) for name, net in state.nets.items()
    }
    # VGG-16 with 91 names; SENet-50.
    assert sizes['identity_teacher'] == 134_260_544 + 91 * 4097
    assert sizes['emotion_teacher'] == pytest.approx(26.0e6, rel=0.01)


def test_given_experts_are_frozen(config, tmp_path):
  folder = tmp_path / 'cpc'
  _, system = build(config(**{'model.experts.weights.cpc': str(folder)}))
  assert system.sources == {'cpc': str(folder)}
  state = noisy_state(system)
  assert 'cpc' not in state.nets and 'cpc' in state.frozen
  weights = jax.tree.map(lambda x: np.full(x.shape, 7, x.dtype), state.frozen['cpc'])
  converted.save(folder, weights, converted.Conversion('cpc_audio', 'x.pt', '0'))
  state = system.start(state, {'cpc': pretrained.load(folder)}, [])
  assert all(np.all(x == 7) for x in jax.tree.leaves(system.export(state, 'cpc_audio')))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model.loss.half': 'left'}, "model.loss.half is 'left'"),
    ({'model.optimizer': 'sgd'}, "model.optimizer is 'sgd'"),
    ({'model.experts.omega': 'first'}, "model.experts.omega is 'first'"),
    ({'model.decoder.image_size': 40}, 'model.decoder.image_size is 40'),
    ({'model.expert_steps': 3}, 'model.expert_steps is 3, but a stage can only end'),
    ({'model.decoder.map_widths': (5, 4, 4)}, r'map_widths is \(5, 4, 4\); the identity teacher'),
    ({'model.experts.identities': 0}, 'neither labels nor weights for the identity teacher'),
  ],
)
def test_settings_that_cannot_be(config, changes, message):
  with pytest.raises(errors.ConfigError, match=message):
    build(config(**changes))


def test_weights_of_nothing_known(config):
  c = config()
  c.model.experts.weights = {'ear': 'x'}
  with pytest.raises(errors.ConfigError, match="model.experts.weights names 'ear'"):
    build(c)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'extras': {}}, 'the clip does not say who speaks'),
    ({'extras': {'identity': np.array([8])}}, 'identity 8 is not below 8'),
    ({'emotion': 'hungry'}, "the emotion 'hungry' is not one of neutral"),
    ({'extras': {'identity': np.array([0])}}, "the clip has 0 numbers as extra 'traits'"),
  ],
)
def test_labels_that_cannot_be(run, toy_records, changes, message):
  clip = clip_codec.decode(records.RecordSource(toy_records, 'train')[0])
  with pytest.raises(errors.DataError, match=message):
    run[0].sample(dataclasses.replace(clip, **changes), np.random.default_rng(0))


def test_strangers_are_evaluated_and_not_trained_on(run, toy_records):
  clip = clip_codec.decode(records.RecordSource(toy_records, 'train')[0])
  stranger = dataclasses.replace(clip, extras=clip.extras | {'identity': np.array([8])})
  sample = run[0].sample_evaluation(stranger, np.random.default_rng(0))
  assert sample['identity'] == 8
  with pytest.raises(errors.DataError, match='identity 8 is not below 8'):
    run[0].sample(stranger, np.random.default_rng(0))


def test_an_unknown_variant_is_named():
  with pytest.raises(ValueError, match="unknown variant 'x' of speech2video; known: crema_d"):
    configs.get_config('x')


# --------------------------------------------------------------------------------------------------
# Parts
# --------------------------------------------------------------------------------------------------


def test_steps_of_frames_at_common_rates():
  for rate, expected in ((25, [3, 7, 11, 15]), (30, [2, 5, 9, 12]), (29.97, [2, 5, 9, 12])):
    ends = (np.arange(4, dtype=np.float32) + 1) / rate
    np.testing.assert_array_equal(speech.steps_at(ends, 100), expected)
  ends = (np.arange(3000, dtype=np.float32) + 1) / 25
  np.testing.assert_array_equal(speech.steps_at(ends, 12_000), 4 * np.arange(3000) + 3)
  np.testing.assert_array_equal(speech.steps_at(jnp.array([0.0, 9.0]), 50), [0, 49])


def test_the_speech_is_summed_up_without_its_silence():
  wav = np.zeros((4, 3200), np.int16)
  wav[0, 320:800] = 3000  # steps 2 to 4
  wav[0, 1600:1700] = 20  # noise
  wav[1] = 100
  wav[2, 1000:] = 3000
  loud = speech.loud_steps(wav, jnp.array([3200, 3200, 1440, 3200]))
  spans = [(2, 5), (0, 20), (6, 9), (0, 20)]
  expected = [[first <= step < end for step in range(20)] for first, end in spans]
  np.testing.assert_array_equal(loud, expected)
  context = np.random.default_rng(0).standard_normal((4, 20, 3)).astype(np.float32)
  last = [context[i, end - 1] for i, (_, end) in enumerate(spans)]
  np.testing.assert_allclose(speech.last_context(context, loud), last)
  means = [context[i, first:end].mean(0) for i, (first, end) in enumerate(spans)]
  np.testing.assert_allclose(speech.mean_context(context, loud), means, atol=1e-6)
  nothing = jnp.zeros((4, 20), bool)
  np.testing.assert_allclose(speech.last_context(context, nothing), context[:, 0])
  np.testing.assert_allclose(speech.mean_context(context, nothing), context.mean(1), atol=1e-6)


def test_the_context_is_causal_and_has_one_step_each_10_ms():
  module = CPC(features=4, context=6)
  wave = np.random.default_rng(0).standard_normal((1, 1765)).astype(np.float32)
  variables = noisy_variables(module, wave)
  listen = jax.jit(module.apply)
  z, c = listen(variables, wave)
  assert z.shape == (1, 11, 4) and c.shape == (1, 11, 6)
  # A new array: on CPU the one handed over may be read after the call has returned.
  silenced = np.where(np.arange(1765) < 1200, wave, 0)
  _, other = listen(variables, silenced)
  # Step k hears up to sample 160 k + 311.
  np.testing.assert_allclose(other[:, :6], c[:, :6], atol=1e-6)
  assert np.abs(other[:, 8:] - c[:, 8:]).max() > 1e-3


def test_predictive_coding_by_hand():
  rng = np.random.default_rng(0)
  encoded = rng.standard_normal((2, 5, 3)).astype(np.float32)
  predicted = rng.standard_normal((2, 5, 2, 3)).astype(np.float32)
  negatives = np.array([[0, 7, 3], [6, 6, 1]])
  expected = 0.0
  for k in range(2):
    for b in range(2):
      for t in range(3):
        guess = predicted[b, t, k]
        place = b * 5 + t + k + 1
        others = [guess @ encoded.reshape(10, 3)[n] / 3 for n in negatives[b] if n != place]
        scores = np.array([guess @ encoded[b, t + k + 1] / 3, *others])
        expected += (np.log(np.exp(scores).sum()) - scores[0]) / 6
  loss, gradient = jax.value_and_grad(losses.predictive_coding)(predicted, encoded, negatives)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  assert np.all(np.isfinite(gradient)) and not np.any(gradient[:, 3:])


def test_public_experts_are_the_official_names():
  from tfg_jax import networks

  assert set(speech_experts.PUBLIC.values()) <= set(networks.OFFICIAL)
