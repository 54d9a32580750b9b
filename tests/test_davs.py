"""DAVS: who learns from what in which stage, what its numbers mean, what it draws."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from noise import gaussian, noisy_variables
from runs import first_batch, noisy_state

from configs import davs as configs
from tfg_jax import configuration, errors, systems
from tfg_jax.data import clip_codec, pipeline, records
from tfg_jax.metrics import probe, retrieval
from tfg_jax.networks import davs as networks
from tfg_jax.systems import base, davs_losses, davs_players
from tfg_jax.systems.sources import Source

pytestmark = pytest.mark.end_to_end  # compiles whole systems

EMBEDDERS = {'lip_encoder', 'mfcc_encoder', 'word_classifier'}
OPPONENTS = {'domain_classifier', 'identity_word_classifier', 'sequence_discriminator'}
GENERATORS = EMBEDDERS | {'identity_encoder', 'decoder'}


def build(toy_records, variant='full', **changes):
  c = configs.get_test_config(variant)
  c.data.root = str(toy_records)
  c.update_from_flattened_dict(changes)
  return runs.build(c)


def learned(before, after):
  """Names of the networks whose parameters differ."""
  return {
    name
    for name in before.nets
    if any(
      not np.array_equal(x, y)
      for x, y in zip(
        jax.tree.leaves(before.nets[name].params),
        jax.tree.leaves(after.nets[name].params),
        strict=True,
      )
    )
  }


def test_fresh_lips_are_seen_through_and_say_next_to_nothing():
  video = np.random.default_rng(0).random((2, 6, 64, 64, 3), np.float32)
  lips = networks.LipEncoder(stem=4, widths=(8,), depth=0, maps=8, embedding=12)
  variables = jax.jit(functools.partial(lips.init, train=False))(jax.random.key(0), video)
  words, held = lips.apply(
    variables,
    video,
    train=True,
    mutable=['batch_stats', 'intermediates'],
    rngs={'dropout': jax.random.key(1)},
  )
  assert (held['intermediates']['folded'][0] > 0).mean() > 0.9  # else the ReLU behind it may close
  assert np.std(words, axis=(0, 1)).max() < 0.01 < np.std(words)  # the bias speaks


@pytest.fixture(scope='module')
def joint(toy_records):
  """System, state and batch of the joint stage, and its compiled step."""
  run, system = build(toy_records)
  return (
    system,
    noisy_state(system),
    first_batch(run, system.sample, seed=0),
    jax.jit(system.train_step),
  )


# --------------------------------------------------------------------------------------------------
# Who learns from what
# --------------------------------------------------------------------------------------------------


def test_every_network_of_the_joint_stage_learns_with_its_own_optimiser(joint):
  system, state, batch, step = joint
  new, metrics = step(state, batch)
  assert set(state.nets) == GENERATORS | OPPONENTS == learned(state, new)
  for name, net in new.nets.items():
    assert int(net.opt_state[0].count) == 1
    assert np.isfinite(metrics[f'{name}/grad_norm']) and metrics[f'{name}/grad_norm'] > 0
  assert all(np.isfinite(value) for value in metrics.values())
  # The decoder draws 2 x 2 moments, each a pass of its own; the identity encoder passes twice.
  assert int(new.nets['decoder'].stats['head_norm']['count']) == 4
  assert int(new.nets['identity_encoder'].stats['block_1_a']['norm']['count']) == 2
  assert int(new.nets['sequence_discriminator'].stats['mouth']['norm']['count']) == 3


def test_clips_that_are_not_drawn_are_read(toy_records):
  run, system = build(toy_records, **{'data.batch_size': 4, 'model.draw_every': 2})
  state, batch = noisy_state(system), first_batch(run, system.sample, seed=0)
  step = jax.jit(lambda batch: system.train_step(state, batch)[1])
  expected = step(batch)

  def changed(name, clip, by):
    rows = batch[name].copy()
    rows[clip] = (rows[clip] + by) % 3
    metrics = step(batch | {name: rows})
    return {name for name, value in metrics.items() if value != expected[name]}

  assert 'g/l1_audio' in changed('drawn_start', 0, by=1)
  assert changed('drawn_start', 1, by=1) == set()
  assert {'d/identity_words', 'g/words_audio'} <= changed('word', 1, by=1)


def test_the_loss_falls_on_one_repeated_batch(joint):
  _, state, batch, step = joint
  seen = []
  for _ in range(8):
    state, metrics = step(state.replace(step=state.step + 1), batch)
    seen.append(float(metrics['g/l1_audio'] + metrics['g/l1_video']))
  assert min(seen[-2:]) < 0.9 * seen[0]


def test_the_words_stage_trains_the_embedding_alone(toy_records):
  run, system = build(toy_records, 'words')
  state, batch = noisy_state(system), first_batch(run, system.sample, seed=0)
  assert state.stage == davs_players.WORDS and system.score == 'seen/word_error'
  new, metrics = jax.jit(system.train_step)(state, batch)
  assert set(state.nets) == EMBEDDERS | {'domain_classifier'} == learned(state, new)
  assert {'d/domain', 'g/domain_audio', 'g/domain_video', 'g/contrastive_video'} <= set(metrics)
  assert all(np.isfinite(value) for value in metrics.values())


def test_the_identity_stage_needs_no_words(toy_records):
  run, system = build(toy_records, 'identity')
  state, batch = noisy_state(system), first_batch(run, system.sample, seed=0)
  assert set(state.nets) == {'identity_encoder', 'person_classifier'}
  new, metrics = jax.jit(system.train_step)(state, batch)
  assert learned(state, new) == set(state.nets)
  assert set(metrics) == {'g/persons', 'identity_encoder/grad_norm', 'person_classifier/grad_norm'}
  batch = first_batch(run, system.sample_evaluation, pipeline.eval_batches)
  assert set(jax.jit(system.eval_step)(new, batch)) == {'portrait/person_error'}
  assert 'of the persons are recognised' in system.summary({'portrait/person_error': 0.25})


@pytest.mark.parametrize(
  ('variant', 'players'),
  [
    ('l1', GENERATORS | OPPONENTS - {'sequence_discriminator'}),
    ('base', GENERATORS | {'identity_word_classifier'}),
    ('tangled', GENERATORS | OPPONENTS - {'identity_word_classifier'}),
    ('paper', GENERATORS | OPPONENTS | {'person_probe'}),
    ('words_c', EMBEDDERS | {'lip_word_classifier'}),
    ('words_c+shared', EMBEDDERS),
    ('words_c+adv', EMBEDDERS | {'lip_word_classifier', 'domain_classifier'}),
  ],
)
def test_a_variant_has_the_players_that_it_weighs(toy_records, variant, players):
  assert set(build(toy_records, variant)[1].networks) == players


@pytest.mark.parametrize(
  'variant',
  ['l1', 'base', 'tangled', 'paper', 'words_c', 'words_c+shared', 'words_c+adv', 'puppets'],
)
def test_a_step_of_each_stage_of_each_variant(toy_records, variant):
  run, system = build(toy_records, variant)
  state, batch = noisy_state(system), first_batch(run, system.sample, seed=0)
  for stage in range(state.stage, system.last_stage + 1):
    before = state.replace(stage=stage)
    state, metrics = jax.jit(system.train_step)(before, batch)
    players = davs_players.learners(system.settings, stage)
    assert learned(before, state) == players
    assert all(np.isfinite(value) for value in metrics.values())


def test_another_optimiser_is_that_of_the_networks_of_pictures(toy_records):
  _, system = build(toy_records, **{'model.optimizer': 'muon'})
  adam = jax.tree.structure(optax.adam(1e-3).init({'kernel': jnp.ones((2, 2))}))
  others = {
    name
    for name in system.networks
    if jax.tree.structure(system._optimizer(name).init({'kernel': jnp.ones((2, 2))})) != adam
  }
  assert others == {'identity_encoder', 'lip_encoder', 'decoder'}


def test_a_person_cannot_hide_a_word_by_shrinking_a_number_or_by_an_offset():
  reader = networks.PooledWordClassifier(5)
  vectors = gaussian(3, 2, 20, 6)
  variables = noisy_variables(reader, vectors)
  told = reader.apply(variables, vectors)
  assert told.shape == (2, 5) and np.abs(told[0] - told[1]).max() > 0.1
  shrinking = np.asarray([1e-3, 1e-2, 0.1, 1, 10, 100], np.float32)
  hidden = shrinking * vectors + gaussian(4, 2, 1, 6)
  np.testing.assert_allclose(reader.apply(variables, hidden), told, atol=2e-3)
  assert np.isfinite(reader.apply(variables, jnp.ones_like(vectors))).all()


def test_how_much_a_number_varies_is_that_of_all_devices():
  vectors = gaussian(3, 2, 20, 6) * np.float32([[[1]], [[10]]])
  variables = noisy_variables(networks.PooledWordClassifier(5), vectors)
  told = networks.PooledWordClassifier(5).apply(variables, vectors)
  reader = networks.PooledWordClassifier(5, axis_name='devices')
  apart = jax.pmap(functools.partial(reader.apply, variables), axis_name='devices')
  np.testing.assert_allclose(apart(vectors[:, None])[:, 0], told, atol=1e-5)


def test_stages_follow_the_number_of_steps(toy_records):
  _, system = build(toy_records, 'puppets')
  state = base.State.create(jax.random.key(0), {})
  seen = [
    system.on_evaluation(state.replace(step=jnp.int32(step)), {}).stage for step in (0, 1, 2, 3, 4)
  ]
  assert seen == [0, 0, 1, 1, 2]
  assert system.score == 'from_audio/l1' and not system.finished(state)


# --------------------------------------------------------------------------------------------------
# Losses
# --------------------------------------------------------------------------------------------------


def settings(**changes):
  return davs_players.Settings(face_size=8, mouth_box=(4, 8, 2, 6), **changes)


def embeddings():
  return gaussian(0, 3, 2, 4), gaussian(1, 3, 2, 4)


@pytest.mark.parametrize('contrastive', ['l2', 'hardest', 'ranking'])
def test_only_the_ear_follows_in_the_joint_stage(contrastive):
  words = np.zeros((3, 5), np.float32)

  def loss(seen, heard, both):
    label = np.arange(3)
    terms = davs_losses.embedding(
      settings(contrastive=contrastive), seen, heard, words, words, label, both=both
    )
    return sum(value for name, value in terms.items() if 'contrastive' in name)

  seen, heard = jax.grad(loss, argnums=(0, 1))(*embeddings(), both=False)
  assert not np.any(seen) and np.any(heard)
  seen, heard = jax.grad(loss, argnums=(0, 1))(*embeddings(), both=True)
  assert np.any(seen) and np.any(heard)


def test_both_sides_follow_by_equation_1():
  words = np.zeros((3, 5), np.float32)

  def loss(seen, heard):
    terms = davs_losses.embedding(
      settings(contrastive='eq1'), seen, heard, words, words, np.arange(3), both=False
    )
    return terms['contrastive']

  seen, heard = jax.grad(loss, argnums=(0, 1))(*embeddings())
  assert np.any(seen) and np.any(heard)


def test_opponents_and_generators_want_the_contrary():
  """What lowers one side's loss on a verdict raises the other's."""
  verdicts = davs_losses.Verdicts(
    domain_heard=gaussian(0, 3, 2), domain_seen=gaussian(1, 3, 2), sequence=gaussian(2, 2, 6)
  )
  inputs = davs_losses.Inputs(*[None] * 5, np.arange(3), np.arange(3))

  def theirs(verdicts):
    real = davs_losses.Verdicts(sequence=np.zeros((2, 6), np.float32))
    return sum(davs_losses.opponents(settings(), verdicts, real, inputs, np.zeros(4)).values())

  def ours(verdicts):
    return sum(davs_losses.defeats(settings(), verdicts).values())

  for one, other in zip(
    jax.tree.leaves(jax.grad(theirs)(verdicts)),
    jax.tree.leaves(jax.grad(ours)(verdicts)),
    strict=True,
  ):
    assert np.all(one * other < 0)


# --------------------------------------------------------------------------------------------------
# Numbers and pictures
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def evaluated(toy_records):
  run, system = build(toy_records)
  state = noisy_state(system)
  batch = first_batch(run, system.sample_evaluation, pipeline.eval_batches)
  return system, state, batch


def test_evaluation_numbers(evaluated):
  system, state, batch = evaluated
  numbers = jax.jit(system.eval_step)(state, batch)
  np.testing.assert_array_equal(numbers['ground_truth/l1'], 0)
  np.testing.assert_array_equal(numbers['ground_truth/psnr'], 100)
  np.testing.assert_allclose(numbers['ground_truth/ssim'], 1, rtol=1e-5)
  # By hand: the portrait against frames 0, 4 and 9 of the block.
  index = system._evaluation_index(batch)
  np.testing.assert_array_equal(index[0], [0, 4, 9])
  target, portrait = system._faces(batch, index), system._inputs(batch).portrait
  error = np.abs(np.asarray(portrait)[:, None] - np.asarray(target))[:, :, 20:28, 8:24]
  np.testing.assert_allclose(numbers['still/mouth_l1'], error.mean((1, 2, 3, 4)), rtol=1e-4)
  assert set(np.unique(numbers['both/word_error'])) <= {0.0, 1.0}
  means = {name: 0.1 for name in numbers} | {'still/mouth_l1': 0.2, 'from_video/mouth_l1': 0.4}
  said = system.summary(means)
  assert '50% nearer to the real ones when drawn from audio' in said
  assert '100% further from the real ones when drawn from video' in said
  assert 'recognised in 90% of the clips when seen' in said


def test_a_flipped_clip_is_its_mirror_image_and_a_shifted_one_moves(evaluated):
  system, _, batch = evaluated
  index = np.zeros((2, 1), int)
  faces = np.asarray(system._faces(batch, index))
  flipped = system._faces(batch | {'flip': np.ones(2, np.int32)}, index)
  np.testing.assert_array_equal(flipped, faces[..., ::-1, :])
  shifted = batch | {'shift': np.array([[3, 0], [0, 0]], np.int32)}
  moved = system._faces(shifted, index)
  assert np.any(moved[0] != faces[0]) and np.array_equal(moved[1], faces[1])


def test_generate_draws_what_evaluation_sees(evaluated):
  system, state, batch = evaluated
  assert system.settings.audio_gain == 1.5 and system.settings.video_gain == 0.8
  plain = with_settings(system, audio_gain=1.0, video_gain=1.0)
  index = system._evaluation_index(batch)

  @jax.jit
  def draw(state, batch):
    """All in one program, which shares what they have in common."""
    portrait, target = system._inputs(batch).portrait, system._faces(batch, index)
    drawn = system._drawn(state, portrait, target, system._sounds(batch, index))
    speech = {
      'wav': batch['wav'][0],
      'num_samples': batch['num_samples'][0],
      'times': (batch['block_start'][0] + index[0]) / 25,
    }
    video = {'driving': (target[0] * 255).round().astype(jnp.uint8)}
    identity = {'identity': (portrait[:1] * 255).round().astype(jnp.uint8)}
    made = {
      'from_audio': plain.generate(state, identity | speech),
      'from_video': plain.generate(state, identity | video),
    }
    return drawn, made, system.generate(state, identity | speech)

  drawn, made, louder = draw(state, batch)
  for name, frames in made.items():
    assert frames.dtype == jnp.uint8 and frames.shape == (3, 32, 32, 3)
    expected = np.asarray(drawn[name][0]) * 255
    assert np.abs(np.asarray(frames, float) - expected).max() <= 1.5
  assert np.any(louder != made['from_audio'])


def with_settings(system, **changes):
  settings = dataclasses.replace(system.settings, **changes)
  return type(system)(settings, system.networks, system.last_stage)


def test_adaptation_brings_the_person_nearer(evaluated):
  system, state, batch = evaluated
  inputs = {
    'identity': (system._inputs(batch).portrait[:1] * 255).round().astype(jnp.uint8),
    'wav': batch['wav'][0],
    'num_samples': batch['num_samples'][0],
    'times': np.array([0.16, 0.2], np.float32),
  }
  assert system.adapt(state, inputs) is state
  adapting = with_settings(system, adaptation_steps=2, learning_rate=1e-2)
  adapted = adapting.adapt(state, inputs)
  assert learned(state, adapted) == {'identity_encoder', 'decoder'}

  def distance(state):
    drawn = np.asarray(adapting.generate(state, inputs), float)
    return np.abs(drawn - np.asarray(inputs['identity'], float)).mean()

  assert distance(adapted) < distance(state)


def test_a_split_is_searched_for_the_other_sense_and_read_for_the_word(toy_records):
  _, system = build(toy_records)
  rng = np.random.default_rng(0)
  word = np.arange(60) % 3
  seen = rng.standard_normal((60, 8)).astype(np.float32)
  features = {
    'word': word,
    'seen': seen,
    'heard': seen + 0.01 * rng.standard_normal((60, 8)).astype(np.float32),
    'person': np.eye(3, 6, dtype=np.float32)[word] + 0.1 * gaussian(3, 60, 6),
    'from_audio': seen,
    'from_video': rng.standard_normal((60, 8)).astype(np.float32),
    'still': np.ones((60, 8), np.float32),
  }
  lessons = {
    'word': word[::-1],
    'person': np.eye(3, 6, dtype=np.float32)[word[::-1]] + 0.1 * gaussian(5, 60, 6),
  }
  numbers, whole = system.compare(features, lessons)
  assert whole['video_to_audio/r@1'] == whole['audio_to_video/r@1'] == 100
  np.testing.assert_array_equal(numbers['from_audio/rank'], 1)
  assert whole['from_video/median_rank'] > 10
  assert np.mean(numbers['from_video/rank'] <= 10) * 100 == pytest.approx(whole['from_video/r@10'])
  np.testing.assert_array_equal(numbers['person/word_read'], 1)
  features['person'] = gaussian(4, 60, 6)
  numbers, _ = system.compare(features, lessons)
  assert numbers['person/word_read'].mean() < 0.7


def test_features_are_rows_of_every_clip(evaluated):
  system, state, batch = evaluated
  features = jax.eval_shape(system.features, state, batch)
  assert {name: x.shape for name, x in features.items()} == {
    'word': (2,),
    'person': (2, 3 * 8),
    **{name: (2, 4 * 8) for name in ('seen', 'heard', 'from_audio', 'from_video', 'still')},
  }


def test_lessons_are_what_the_features_say_of_persons(evaluated):
  system, state, batch = evaluated
  features, lessons = system.features(state, batch), system.lessons(state, batch)
  assert set(lessons) == {'person', 'word'}
  for name, rows in lessons.items():
    np.testing.assert_allclose(rows, features[name], rtol=1e-5, atol=1e-6)


def test_samples_begin_with_the_clip(evaluated):
  system, state, batch = evaluated
  shown = jax.eval_shape(system.samples, state, batch)
  assert shown['videos'].shape == (2, 16, 32, 3 * 32, 3)
  assert shown['strips'].shape == (2, 3 * 32, 3 * 32, 3)


def test_ranks_do_not_depend_on_the_block():
  queries, gallery = gaussian(0, 37, 5), gaussian(1, 37, 5)
  expected, _ = retrieval.ranks(queries, gallery, block=37)
  for block in (1, 8, 64):
    found, nearest = retrieval.ranks(queries, gallery, block=block)
    np.testing.assert_array_equal(found, expected)
    assert np.array_equal(nearest == np.arange(37), found == 0)


def test_the_probe_reads_what_is_there_and_guesses_at_nothing():
  labels = np.random.default_rng(0).integers(0, 4, 200)
  taught, told = gaussian(0, 200, 5), gaussian(1, 200, 5)
  assert 0.1 < probe.read(taught, labels, told, labels).mean() < 0.42
  taught[:, :4] += 20 * np.eye(4)[labels]
  told[:150, :4] += 20 * np.eye(4)[labels[:150]]
  right = probe.read(taught, labels, told, labels)
  assert right[:150].mean() > 0.95 and right[150:].mean() < 0.6
  # Labels are names, not places; one that nothing taught is never read.
  np.testing.assert_array_equal(probe.read(taught, labels + 7, told[:150], labels[:150] + 7), 1)
  np.testing.assert_array_equal(probe.read(taught, labels, told, labels + 10), 0)


# --------------------------------------------------------------------------------------------------
# What runs hand on
# --------------------------------------------------------------------------------------------------


def test_networks_of_other_runs_are_taken_over(toy_records, tmp_path):
  _, system = build(toy_records)
  state, other = noisy_state(system), noisy_state(system, seed=1)

  def variables(*names):
    return {
      name: {'params': other.nets[name].params, 'batch_stats': other.nets[name].stats}
      for name in names
    }

  source = Source(tmp_path, variables('lip_encoder', 'word_classifier'))
  begun = system.start(state, {'words': source}, ())
  assert learned(state, begun) == {'lip_encoder', 'word_classifier'}
  with pytest.raises(errors.CheckpointError, match='it holds generator and nothing that'):
    system.start(state, {'x': Source(tmp_path, {'generator': {}})}, ())


def test_converted_networks_are_taken_over(toy_records, tmp_path):
  _, system = build(toy_records)
  state, other = noisy_state(system), noisy_state(system, seed=1)

  sources = {
    name: Source(tmp_path, {public: system.export(other, public)}, public)
    for name, public in (('decoder', 'davs_decoder'), ('classifiers', 'davs_classifiers'))
  }
  begun = system.start(state, sources, ())
  heads = {'word_classifier', 'domain_classifier', 'identity_word_classifier'}
  assert learned(state, begun) == heads | {'decoder'}
  with pytest.raises(errors.ConversionError, match="this DAVS run holds no 'davs_nobody'"):
    system.export(state, 'davs_nobody')


def test_a_reader_of_pooled_features_is_none_of_the_public_heads(toy_records):
  _, system = build(toy_records, 'paper')
  state = noisy_state(system)
  assert 'identity_word_classifier' in state.nets
  heads = set(system.export(state, 'davs_classifiers')['params'])
  assert heads == {'words', 'domain'}


@pytest.mark.parametrize('variant', [name for name in configs._VARIANTS if name != 'puppets'])
def test_published_configs_build_at_full_size(variant):
  config = configs.get_config(variant)
  config.data.root = 'records'
  system = systems.build(configuration.resolve(config), axis_name=None)
  expected = {'decoder': networks.Decoder, 'identity_encoder': networks.IdentityEncoder}
  for name, module in expected.items():
    if name in system.networks:
      assert system.networks[name] == module()


# --------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('variant', 'changes', 'message'),
  [
    ('full', {'data.fps': 30.0}, 'data.fps is 30.'),
    ('full', {'model.optimizer': 'sgd'}, "model.optimizer is 'sgd'"),
    ('full', {'model.contrastive': 'l3'}, "model.contrastive is 'l3'"),
    ('full', {'model.confusion': 'cubes'}, "model.confusion is 'cubes'"),
    ('full', {'model.adversarial': 'hinge'}, "model.adversarial is 'hinge'"),
    ('full', {'model.identity_source': 'net9'}, "model.identity_source is 'net9'"),
    ('full', {'model.words': 0}, 'model.words is 0'),
    ('full', {'model.face_size': 64}, 'model.face_size is 64, but model.decoder draws 32 px'),
    ('full', {'model.block_frames': 5}, 'model.block_frames is 5'),
    ('full', {'model.drawn_frames': 9}, 'model.drawn_frames is 9'),
    ('full', {'model.draw_every': 0}, 'model.draw_every is 0'),
    ('full', {'model.mouth_box': (20, 40, 8, 24)}, 'model.mouth_box is'),
    ('paper', {'model.persons': 0}, 'model.persons is 0'),
    ('puppets', {'model.identity_steps': 1}, 'model.identity_steps is 1'),
    ('puppets', {'model.word_steps': 3}, 'model.word_steps is 3'),
  ],
)
def test_settings_that_cannot_be(toy_records, variant, changes, message):
  with pytest.raises(errors.ConfigError, match=message.replace('(', r'\(')):
    build(toy_records, variant, **changes)


def test_a_batch_that_is_not_drawn_evenly(toy_records):
  run, system = build(toy_records, **{'model.draw_every': 3})
  batch = first_batch(run, system.sample, seed=0)
  with pytest.raises(errors.ConfigError, match='model.draw_every is 3; .* has 2 clips'):
    jax.eval_shape(system.train_step, noisy_state(system), batch)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model.words': 2}, 'has word_label 2; model.words=2 needs 0 to 1'),
    ({'model.block_frames': 15}, 'has 16 frames; 15 and 2 at each end are needed'),
  ],
)
def test_clips_that_do_not_fit_are_named(toy_records, changes, message):
  run, system = build(toy_records, 'full', **changes)
  source = records.RecordSource(run.data.root, 'train')
  clip = clip_codec.decode(source[2])
  with pytest.raises(errors.DataError, match=f'clip clip0002 {message}'):
    system.sample(clip, np.random.default_rng(0))


def test_a_corpus_without_labels_is_refused(toy_records):
  run, system = build(toy_records)
  clip = clip_codec.decode(records.RecordSource(run.data.root, 'train')[0])
  with pytest.raises(errors.DataError, match='has no word_label; model.words=3'):
    system.sample(dataclasses.replace(clip, extras={}), np.random.default_rng(0))


def test_an_unknown_variant_is_named():
  with pytest.raises(ValueError, match="unknown variant 'h' of davs; known: full, l1"):
    configs.get_config('h')
