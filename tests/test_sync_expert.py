"""The sync experts: which pairs they are asked about, what they see of them, what they learn."""

import dataclasses
import json

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from runs import build, first_batch

from configs import sync_expert as configs
from tfg_jax import configuration, errors, partition, pretrained, systems, train
from tfg_jax.data import clip_codec, pipeline, records
from tfg_jax.features import audio
from tfg_jax.metrics import sync as sync_metrics
from tfg_jax.systems import sync_expert


@pytest.fixture(scope='module')
def twin(toy_records):
  """`twin(variant, **changes)`: a small config on the toy records."""

  def config(variant, **changes):
    c = configs.get_test_config(variant)
    c.data.root = str(toy_records)
    c.update_from_flattened_dict(changes)
    return c

  return config


@pytest.fixture(scope='module', params=['color', 'syncnet'])
def trained_one(request, twin):
  """(run, system, first metrics, last metrics, state) of 60 steps on one batch."""
  run, system = build(twin(request.param))
  batch = first_batch(run, system.sample, seed=0)
  state = jax.jit(system.init)(jax.random.key(0))
  step = jax.jit(train.skip_bad_steps(system.train_step))
  history = []
  for _ in range(60):
    state, metrics = step(state, batch)
    history.append(jax.device_get(metrics))
  return run, system, history[0], history[-1], state


def toy_clip(toy_records):
  return clip_codec.decode(records.RecordSource(toy_records, 'train')[0])


# --------------------------------------------------------------------------------------------------
# Pairs
# --------------------------------------------------------------------------------------------------


@hypothesis.given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 8), st.booleans())
def test_pairs_out_of_sync_are_near_or_far_as_asked(last, start, near, is_near):
  start = min(start, last)
  heard = sync_expert._elsewhere(np.random.default_rng(start), start, last, near, is_near)
  assert 0 <= heard <= last and heard != start
  shifts = np.abs(np.delete(np.arange(last + 1), start) - start)
  if ((shifts <= near) == is_near).any():  # else there is no such shift
    assert (abs(heard - start) <= near) == is_near


def test_half_of_the_pairs_are_in_sync(twin, toy_records):
  _, system = build(twin('color', **{'model.windows': 4000, 'model.near_share': 0.25}))
  drawn = system.sample(toy_clip(toy_records), np.random.default_rng(0))
  apart = np.abs(drawn['heard'] - drawn['starts'])
  assert abs((apart == 0).mean() - 0.5) < 0.03
  assert abs((apart[apart > 0] <= system.settings.near).mean() - 0.25) < 0.03
  assert set(drawn['starts']) == set(range(12))  # 16 frames
  index = drawn['frame_index'].reshape(-1, 5)
  np.testing.assert_array_equal(index, drawn['starts'][:, None] + np.arange(5))


@hypothesis.given(st.integers(1, 11), st.integers(0, 100))
def test_windows_to_match_are_different_and_hear_themselves(twin, toy_records, count, seed):
  _, system = build(twin('syncnet', **{'model.windows': count + 1}))
  drawn = system.sample(toy_clip(toy_records), np.random.default_rng(seed))
  assert len(set(drawn['starts'])) == count + 1 and (np.diff(drawn['starts']) > 0).all()
  np.testing.assert_array_equal(drawn['heard'], drawn['starts'])


def test_a_clip_with_fewer_windows_than_asked_for_gives_some_of_them_twice(twin, toy_records):
  _, system = build(twin('color', **{'model.evaluation_windows': 24}))
  drawn = system.sample_evaluation(toy_clip(toy_records), np.random.default_rng(0))
  assert drawn['starts'].shape == (24,) and set(drawn['starts']) <= set(range(12))
  np.testing.assert_array_equal(drawn['heard'], drawn['starts'])


def test_a_clip_that_is_too_short_is_named(twin, toy_records):
  _, system = build(twin('color'))
  clip = toy_clip(toy_records)
  short = dataclasses.replace(clip, frames=clip.frames[:5])
  with pytest.raises(errors.DataError, match='5 frames and sound for 16; two windows need 6'):
    system.sample(short, np.random.default_rng(0))
  deaf = dataclasses.replace(clip, wav=clip.wav[:640])
  with pytest.raises(errors.DataError, match='16 frames and sound for 1;'):
    system.sample(deaf, np.random.default_rng(0))


# --------------------------------------------------------------------------------------------------
# What they see
# --------------------------------------------------------------------------------------------------


def test_the_color_expert_sees_five_lower_halves_and_the_sound_from_the_first_on(twin):
  run, system = build(twin('color'))
  batch = first_batch(run, system.sample, seed=0)
  lips, speech = system._inputs(batch)
  clips, pairs, size = 2, 3, 24
  assert lips.shape == (clips * pairs, size // 2, size, 15)
  faces = sync_expert.mouths.crop(batch, np.broadcast_to(np.arange(15), (clips, 15)), size).reshape(
    clips * pairs, 5, size, size, 3
  )
  for frame in range(5):
    np.testing.assert_array_equal(lips[..., 3 * frame : 3 * frame + 3], faces[:, frame, 12:])
  mel = audio.log_mel(batch['wav'], batch['num_samples'])
  for clip in range(clips):
    for pair in range(pairs):
      first = 16 * int(batch['heard'][clip, pair]) // 5  # 3.2 columns a frame
      window = mel[clip, first : first + 16]
      got = speech[clip * pairs + pair, :, : len(window), 0]
      np.testing.assert_allclose(got, window.T, atol=2e-4)


def test_syncnet_sees_five_whole_frames_and_their_cepstra(twin):
  run, system = build(twin('syncnet'))
  batch = first_batch(run, system.sample, seed=0)
  lips, speech = system._inputs(batch)
  assert lips.shape == (6, 5, 56, 56, 3) and speech.shape == (6, 13, 20, 1)
  # Frames of 48 px scaled to 56: the mean stays, and BGR is RGB backwards.
  frames = batch['frames'].reshape(6, 5, 48, 48, 3)[..., ::-1]
  np.testing.assert_allclose(lips.mean((2, 3)), frames.mean((2, 3)), atol=2)
  expected = sync_metrics.speech_windows(batch['wav'][1], 10_240, batch['heard'][1])
  np.testing.assert_allclose(speech[3:], expected, atol=1e-3)


# --------------------------------------------------------------------------------------------------
# What they learn
# --------------------------------------------------------------------------------------------------


def one_clip(*rows):
  """(1, K, D) embeddings."""
  return jnp.asarray(rows, jnp.float32)[None]


def apart(starts, heard):
  return sync_expert._apart({'starts': jnp.asarray([starts]), 'heard': jnp.asarray([heard])})


def test_frames_from_lips_to_sounds():
  np.testing.assert_array_equal(apart([2, 5], [2, 9]), [[[0, 7], [-3, 4]]])


def test_pairs_are_judged_by_their_cosine():
  judge = sync_expert.Color(None, 24)
  lips, speech = one_clip([1, 0], [0.6, 0.8]), one_clip([0.8, 0.6], [1, 0])
  # 0.8 in sync, which is right; 0.6 out of sync, which is wrong.
  loss, right = judge.loss(lips, speech, apart([3, 7], [3, 1]))
  assert float(loss) == pytest.approx(-(np.log(0.8) + np.log(1 - 0.6)) / 2, rel=1e-5)
  assert float(right) == 0.5


def test_windows_are_matched_by_distance_both_ways():
  judge = sync_expert.SyncNet(None, 24)
  lips, speech = one_clip([0, 0], [3, 4]), one_clip([0, 1], [3, 0])
  distances = np.array([[1, 3], [np.hypot(3, 3), 4]])  # of lips (rows) to speech
  np.testing.assert_allclose(judge.similarity(lips, speech)[0], -distances, rtol=1e-6)
  likely = np.exp(-distances)
  found = np.diagonal(likely / likely.sum(1, keepdims=True)), np.diagonal(likely / likely.sum(0))
  loss, right = judge.loss(lips, speech, apart([3, 7], [3, 7]))
  assert float(loss) == pytest.approx(-np.log(found).mean(), rel=1e-5)
  assert float(right) == 1.0
  same = one_clip([1, 2], [1, 2])
  gradient = jax.grad(lambda x: judge.loss(x, same, apart([0, 1], [0, 1]))[0])(same)
  assert np.isfinite(gradient).all()  # where distances are 0


def test_what_is_learnt_of_a_repeated_batch(trained_one):
  _, system, first, last, _ = trained_one
  assert last['loss'] < 0.7 * first['loss']
  assert last['accuracy'] > 0.8
  assert set(last) == {'loss', 'accuracy', 'grad_norm'}


def test_evaluation_tells_near_sounds_from_far_ones(trained_one):
  """Every answer by hand, window by window."""
  run, system, _, _, state = trained_one
  batch = first_batch(run, system.sample_evaluation, pipeline.eval_batches)
  numbers = jax.device_get(jax.jit(system.eval_step)(state, batch))
  assert set(numbers) == {f'expert/{x}' for x in ('loss', 'accuracy', 'near', 'far')}
  net = state.nets['expert']
  lips, speech = system.judge.module.apply(
    {'params': net.params, 'batch_stats': net.stats}, *system._inputs(batch), train=False
  )
  for clip, starts in enumerate(batch['starts']):
    a, b = (np.asarray(x).reshape(2, 4, -1)[clip] for x in (lips, speech))
    answers = {'near': [], 'far': []}
    for i in range(4):
      for j in range(4):
        if i != j:
          if system.settings.judge == 'color':
            preferred = a[i] @ b[i] > a[i] @ b[j]
          else:
            preferred = np.linalg.norm(a[i] - b[i]) < np.linalg.norm(a[i] - b[j])
          kind = 'near' if abs(starts[i] - starts[j]) <= system.settings.near else 'far'
          answers[kind].append(preferred)
    for kind, found in answers.items():
      assert numbers[f'expert/{kind}'][clip] == pytest.approx(np.mean(found))
    together = answers['near'] + answers['far']
    assert numbers['expert/accuracy'][clip] == pytest.approx(np.mean(together))


@pytest.mark.parametrize('judge', ['color', 'syncnet'])
def test_guessing_costs_what_the_summary_takes_it_for(judge):
  judge = {'color': sync_expert.Color, 'syncnet': sync_expert.SyncNet}[judge](None, 24)
  alike = jnp.full((1, 6, 6), 0.5)
  own = jnp.eye(6, dtype=bool)[None]
  assert float(judge.evaluate(alike, own)[0]) == pytest.approx(judge.guessing(6), rel=1e-5)


def test_the_summary_warns_of_an_expert_that_guesses(twin):
  _, system = build(twin('color'))
  results = {'expert/loss': 0.69, 'expert/near': 0.6, 'expert/far': 0.9}
  said = system.summary(results)
  assert 'cannot tell' in said and '0.690 is no better than that of guessing (0.693)' in said
  said = system.summary(results | {'expert/loss': 0.3})
  assert '1 to 2 frames off in 60% and to one further off in 90% of the cases' in said


@pytest.mark.end_to_end
def test_pmap_trains_as_jit_does(twin):
  """Two devices and one; nothing of the pairs is drawn on the device."""
  ended = {}
  for kind, count in (('jit', 1), ('pmap', 2)):
    run = configuration.resolve(twin('color', partition=kind))
    place = partition.build(kind, batch_size=2, devices=jax.devices()[:count])
    system = systems.build(run, axis_name=place.axis_name)
    state = place.init(system.init, jax.random.key(0))
    step = place.train(train.skip_bad_steps(system.train_step))
    state, metrics = step(state, place.put(first_batch(run, system.sample, seed=0)))
    ended[kind] = jax.device_get((metrics, state.nets['expert'].stats))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5), ended['jit'], ended['pmap']
  )


@pytest.mark.end_to_end
@pytest.mark.parametrize('variant', ['color', 'syncnet'])
def test_a_run_trains_is_read_again_and_knows_what_it_is(twin, variant, tmp_path, capsys):
  assert train.train_and_evaluate(twin(variant), tmp_path, devices=jax.devices()[:1])
  means = json.loads((tmp_path / 'results.json').read_text())['means']
  said = build(twin(variant))[1].summary(means)
  assert f'After step 4: {said}' in capsys.readouterr().out
  judge = sync_expert.read(tmp_path, variant)
  run, system = build(twin(variant))
  assert judge == system.judge
  variables = sync_expert.variables(pretrained.load(tmp_path))
  lips, speech = system._inputs(first_batch(run, system.sample, seed=0))
  embedded = judge.module.apply(variables, lips, speech, train=False)
  assert all(np.isfinite(x).all() for x in embedded)
  other = 'syncnet' if variant == 'color' else 'color'
  with pytest.raises(errors.CheckpointError, match=f'no {other} judge of sync'):
    sync_expert.read(tmp_path, other)


# --------------------------------------------------------------------------------------------------
# What cannot be
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('variant', 'changes', 'message'),
  [
    ('color', {'model.judge': 'ear'}, "model.judge is 'ear'"),
    ('color', {'model.near': -1}, 'model.near is -1'),
    ('color', {'model.optimizer': 'newton'}, "model.optimizer is 'newton'"),
    ('color', {'model.near_share': 1.5}, 'model.near_share is 1.5'),
    ('syncnet', {'model.near_share': 0.5}, 'model.near_share is 0.5'),
    ('color', {'model.evaluation_windows': 1}, 'model.evaluation_windows is 1'),
    ('syncnet', {'model.windows': 1}, 'model.windows is 1'),
    ('color', {'model.size': 48}, 'model.size is 48 and model.lips.widths has 4 sizes'),
    (
      'color',
      {'model.lips.widths': (4, 8, 8, 9)},
      'last of model.lips.widths is 9, of model.speech',
    ),
    ('syncnet', {'model.size': 40}, 'pictures of 40 px are too small for SyncNet'),
  ],
)
def test_settings_that_cannot_be(twin, variant, changes, message):
  with pytest.raises(errors.ConfigError, match=message):
    build(twin(variant, **changes))


def test_an_unknown_field_of_syncnet_is_named(twin):
  config = twin('syncnet')
  config.model.lips = {'width': 4}
  with pytest.raises(errors.ConfigError, match='unknown key model.lips.width'):
    build(config)


def test_a_run_of_something_else_is_no_judge(expert_workdir):
  with pytest.raises(errors.CheckpointError, match='a run of lip_expert, and no color judge'):
    sync_expert.read(expert_workdir, 'color')


def test_it_exports_its_own_network_alone(trained_one):
  _, system, _, _, state = trained_one
  names = {'color': 'color_syncnet', 'syncnet': 'syncnet_v2'}
  mine = names.pop(system.settings.judge)
  assert set(system.export(state, mine)) == {'params', 'batch_stats'}
  with pytest.raises(errors.ConversionError, match=f'it holds {mine}'):
    system.export(state, *names.values())


def test_it_draws_nothing(twin):
  _, system = build(twin('color'))
  with pytest.raises(errors.ConfigError, match='sync expert draws no faces'):
    system.generate(None, {})
  with pytest.raises(errors.ConfigError, match='sync expert draws no faces'):
    _ = system.face_size


def test_an_unknown_variant_is_named():
  with pytest.raises(ValueError, match="unknown variant 'sound' of sync_expert; known: color"):
    configs.get_config('sound')


@pytest.mark.parametrize('variant', configs.VARIANTS)
def test_every_variant_is_a_judge(variant, toy_records):
  config = configs.get_config(variant)
  run, system = build(config)
  shapes = jax.eval_shape(system.init, jax.random.key(0))
  assert set(shapes.nets) == {'expert'}
