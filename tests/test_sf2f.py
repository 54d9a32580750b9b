"""SF2F: who learns in which stage, whose losses move whom, what is taken over, what it draws."""

import corpus
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from runs import first_batch, noisy_state

from configs import sf2f as configs
from tfg_jax import configuration, errors, systems
from tfg_jax.data import pipeline, voices
from tfg_jax.features import portrait, voice
from tfg_jax.systems.sf2f_players import FACES, FUSION, PORTRAITS, SETTLING
from tfg_jax.systems.sources import Source

pytestmark = pytest.mark.end_to_end  # compiles whole systems

FRAMES = 40  # of video: 1.6 s, 158 frames of log-mel


@pytest.fixture(scope='module')
def speakers(tmp_path_factory):
  """A record set of four people, whose clips are long enough for a window."""
  return corpus.write(tmp_path_factory.mktemp('speakers'), frames=FRAMES)


@pytest.fixture(scope='module')
def build(speakers):
  """`build(variant, **changes)`: run and system of a small config on it."""

  def make(variant='64', **changes):
    config = configs.get_test_config(variant)
    config.data.root = str(speakers)
    with config.unlocked():
      config.update_from_flattened_dict(changes)
    return runs.build(config)

  return make


def moved(before, after):
  """Names of the nets whose parameters differ."""
  return {
    name
    for name in before.nets
    if any(
      not np.array_equal(a, b)
      for a, b in zip(
        jax.tree.leaves(before.nets[name].params),
        jax.tree.leaves(after.nets[name].params),
        strict=True,
      )
    )
  }


def statistics(net):
  leaves = jax.tree_util.tree_leaves_with_path(net.stats)
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


# --------------------------------------------------------------------------------------------------
# Stages
# --------------------------------------------------------------------------------------------------

JUDGES = {'image_discriminator', 'identity_discriminator'}


@pytest.fixture(scope='module')
def everything(build):
  """A system with all four stages, its fresh state and batch.

  FaceNet takes most of the compiler's time; the gradient through it is a parity test's.
  """
  run, system = build('64', **{'model.windows': 2, 'model.loss.perceptual': 0.0})
  return (
    system,
    noisy_state(system).replace(stage=FACES),
    first_batch(run, system.sample, seed=0),
  )


def assert_learning(system, state, batch, learn):
  """One step moves exactly these nets, by terms that add up; returns the new state."""
  new, metrics = jax.jit(system.train_step)(state, batch)
  assert moved(state, new) == learn
  assert all(np.isfinite(value) for value in metrics.values())
  assert {name.split('/')[0] for name in metrics} == learn
  for player in learn - {'facenet'}:
    terms = {name: value for name, value in metrics.items() if name.startswith(f'{player}/')}
    total = terms.pop(f'{player}/total')
    terms.pop(f'{player}/grad_norm')
    assert sum(terms.values()) == pytest.approx(float(total), rel=1e-5)
  return new


def passes(net):
  """How often each batch norm of a net has seen a batch."""
  return {int(x) for name, x in statistics(net).items() if 'count' in name}


def test_in_stage_0_facenet_learns(everything):
  system, state, batch = everything
  new = assert_learning(system, state, batch, {'facenet'})
  assert passes(new.nets['facenet']) == {1} and passes(new.nets['generator']) == {0}


def test_in_stage_1_all_but_the_fuser_learn(everything):
  system, state, batch = everything
  new = assert_learning(system, state.replace(stage=PORTRAITS), batch, {'generator'} | JUDGES)
  assert passes(new.nets['generator']) == {1} and passes(new.nets['facenet']) == {0}
  # Drawn portraits in the generator's step; drawn and real ones in their own.
  assert passes(new.nets['image_discriminator']) == {3}
  assert passes(new.nets['identity_discriminator']) == {3}


def test_in_stage_3_the_fuser_learns(everything):
  system, state, batch = everything
  new = assert_learning(system, state.replace(stage=FUSION), batch, {'fuser'} | JUDGES)
  assert passes(new.nets['generator']) == {0} and passes(new.nets['image_discriminator']) == {3}


def test_the_baseline_learns_without_an_image_discriminator(build):
  run, system = build('voice2face')
  state = noisy_state(system).replace(stage=PORTRAITS)
  assert_learning(
    system, state, first_batch(run, system.sample, seed=0), {'generator', 'identity_discriminator'}
  )


@pytest.mark.parametrize('variant', configs.VARIANTS)
def test_every_variant_takes_a_step(build, variant):
  """Traced, not computed: the networks differ from those of the tests above in size and number."""
  fuses = variant.endswith('+fuser')
  run, system = build(variant, **({'model.start': 'elsewhere'} if fuses else {}))
  alone = variant.endswith('faces')
  stage = FACES if alone else FUSION if fuses else PORTRAITS
  assert system._stage_at(2) == stage  # 2 steps of FaceNet, where it learns
  state = jax.eval_shape(system.init, jax.random.key(0)).replace(stage=stage)
  new, metrics = jax.eval_shape(system.train_step, state, first_batch(run, system.sample, seed=0))
  assert jax.tree.map(lambda x: x.shape, new) == jax.tree.map(lambda x: x.shape, state)
  if alone:
    assert {x.split('/')[0] for x in metrics} == {'facenet'}
    assert system.draws == ''
    return
  name = variant.removesuffix('+fuser')
  player = 'fuser' if fuses else 'generator'
  terms = {x.split('/')[1] for x in metrics if x.startswith(player)} - {'total', 'grad_norm'}
  behind = ('_16', '_32') if name == 'multires' else ('',)
  expected = {'pixel', 'adversarial', 'identity', 'identity_adversarial', 'perceptual'}
  expected -= {
    'no_pixel': {'pixel'},
    'no_adversarial': {'adversarial'},
    'no_identity': {'identity', 'identity_adversarial'},
    'no_perceptual': {'perceptual'},
  }.get(name, {'adversarial', 'perceptual'} if name.endswith('voice2face') else set())
  assert terms == {term + size for term in expected for size in behind}


def test_stages_follow_the_steps_and_reset_optimisers(build):
  _, system = build(
    '64',
    **{
      'model.windows': 2,
      'model.face_steps': 2,
      'model.portrait_steps': 4,
      'model.settling_steps': 2,
    },
  )
  state = noisy_state(system).replace(stage=FACES)
  ones = jax.tree.map(jnp.ones_like, state.nets)
  seen = []
  for step in (0, 2, 4, 6, 8, 10):
    state = system.on_evaluation(state.replace(step=jnp.int32(step), nets=ones), {})
    counts = {
      name: int(state.nets[name].opt_state[0].count) for name in ('generator', *sorted(JUDGES))
    }
    seen.append((state.stage, tuple(counts.values())))
  assert seen == [
    (FACES, (1, 1, 1)),
    (PORTRAITS, (1, 1, 1)),
    (PORTRAITS, (1, 1, 1)),
    (SETTLING, (0, 1, 1)),
    (FUSION, (1, 0, 0)),
    (FUSION, (1, 1, 1)),
  ]
  assert not system.finished(state)


def test_rates_fall_to_a_thousandth_while_the_generator_settles(build):
  _, system = build(**{'model.settling_steps': 4, 'model.learning_rate': 1e-3})
  state = noisy_state(system).replace(stage=SETTLING)
  at = {step: system._rates(state.replace(step=jnp.int32(4 + step))) for step in (0, 2, 4)}
  assert at[0]['generator'] == pytest.approx(1e-3)
  assert at[2]['image_discriminator'] == pytest.approx(1e-3 * (1 - 0.999 / 2))
  assert at[4]['generator'] == pytest.approx(1e-6, rel=1e-2)
  assert at[4]['identity_discriminator'] == 1e-3  # as officially
  fusing = system._rates(state.replace(stage=FUSION))
  assert fusing['fuser'] == fusing['image_discriminator'] == 1e-4


def test_what_is_taken_over(build, tmp_path):
  _, first = build('64')
  _, second = build('64+fuser', **{'model.start': str(tmp_path)})
  assert second.sources == {'portraits': str(tmp_path)}
  assert second._stage_at(0) == FUSION
  trained, state = (
    noisy_state(first).replace(stage=PORTRAITS),
    noisy_state(second).replace(stage=FUSION),
  )
  trained = trained.replace(nets=jax.tree.map(lambda x: x + 1, trained.nets))
  nets = {
    name: {'params': net.params, 'batch_stats': net.stats} for name, net in trained.nets.items()
  }
  started = second.start(state, {'portraits': Source(tmp_path, nets)}, ())
  assert moved(state, started) == {'generator', 'facenet'} | JUDGES
  assert not moved(trained, started)
  assert int(started.nets['generator'].opt_state[0].count) == 0
  with pytest.raises(errors.CheckpointError, match='no facenet'):
    second.start(state, {'portraits': Source(tmp_path, {'encoder': {}})}, ())

  _, given = build('64', **{'model.facenet_weights': str(tmp_path), 'model.face_steps': 0})
  state = noisy_state(given).replace(stage=PORTRAITS)
  assert 'facenet' not in state.nets
  weights = jax.tree.map(lambda x: np.asarray(x) + 1, state.frozen['facenet'])
  for source in (
    Source(tmp_path, {'facenet': weights}),
    Source(tmp_path, {'sf2f_facenet': weights}, 'sf2f_facenet'),
  ):
    found = given.start(state, {'facenet': source}, ()).frozen['facenet']
    jax.tree.map(np.testing.assert_array_equal, found, weights)


# --------------------------------------------------------------------------------------------------
# Numbers and pictures
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def fused(build):
  """System with a fuser, its fresh state and an evaluation batch."""
  run, system = build('64+fuser', **{'model.start': 'elsewhere'})
  return (
    system,
    noisy_state(system).replace(stage=FUSION),
    first_batch(run, system.sample_evaluation, pipeline.eval_batches),
  )


def test_evaluation_numbers(fused):
  system, state, batch = fused
  numbers = jax.jit(system.eval_step)(state, batch)
  assert {name.split('/')[0] for name in numbers} == {
    'ground_truth',
    'silence',
    'generated',
    'fused',
  }
  assert system.score == 'fused/l1'
  np.testing.assert_allclose(numbers['ground_truth/cosine'], 1, rtol=1e-5)
  np.testing.assert_array_equal(numbers['ground_truth/pixels'], 0)
  # By hand: what is drawn of the windows that exist.
  mel = voice.log_mel(batch['windows'], batch['windows_samples'])
  drawn = jax.jit(system.draw)(state, mel, mask=batch['windows_mask'])
  real = system.real(batch['portrait'])[-1]
  a, b = (np.asarray(jax.jit(system.see_faces)(state, image).embedding) for image in (drawn, real))
  np.testing.assert_allclose(numbers['fused/l1'], np.abs(a - b).sum(-1), rtol=1e-4)
  faces = jax.jit(system.eval_step)(state.replace(stage=FACES), batch)
  assert numbers.keys() - faces.keys() == {f'{name.split("/")[0]}/l1' for name in numbers}
  means = {name: float(value.mean()) for name, value in numbers.items()}
  assert 'trained on the faces of this corpus' in system.summary(means)
  shown = jax.jit(system.samples)(state, batch)
  assert shown['strips'].shape == (2, 16, 48, 3) and shown['strips'].dtype == jnp.uint8
  assert shown['videos'].shape == (2, 40, 16, 48, 3)


def test_generate_draws_what_evaluation_sees(fused):
  """From the beginning of a voice: one window, then two."""
  system, state, batch = fused
  wav = batch['wav'][0]
  window, number = voice.cut(wav, 0, 188)
  inputs = {'voice': window, 'num_samples': np.int32(number), 'lengths': np.array([125, 188])}
  portraits = np.asarray(jax.jit(system.generate)(state, inputs))
  assert portraits.shape == (2, 16, 16, 3)
  for drawn, count in zip(portraits, (1, 2), strict=True):
    made = voices.windows([wav], count, 63)
    if count == 2:  # the voice is 1.6 s long: its second window is padded
      made['windows'][1], made['windows_samples'][1] = voice.cut(wav, 63, 125)
      made['windows_mask'][1] = True
    mel = voice.log_mel(made['windows'][None], made['windows_samples'][None])
    expected = portrait.to_uint8(jax.jit(system.draw)(state, mel))[0]
    assert np.abs(drawn.astype(int) - np.asarray(expected, int)).max() <= 1


def test_a_longer_buffer_changes_nothing_without_fuser(build):
  _, system = build()
  state = noisy_state(system).replace(stage=PORTRAITS)
  wav = np.random.default_rng(0).normal(0, 3000, 32_000).astype(np.int16)
  whole, number = voice.cut(wav, 0, 198)
  inputs = {'voice': whole, 'num_samples': np.int32(number), 'lengths': np.array([130, 198])}
  portraits = np.asarray(jax.jit(system.generate)(state, inputs))
  window, number = voice.cut(wav, 0, 130)
  mel = voice.log_mel(window[None], np.array([number]))
  expected = np.asarray(portrait.to_uint8(jax.jit(system.draw)(state, mel))[0], int)
  assert np.abs(portraits[0].astype(int) - expected).max() <= 1


def test_exports(build, fused):
  system, state, _ = fused
  variables = system.export(state, 'sf2f_generator_64_fuser')
  assert set(variables['params']) == {'encoder', 'decoder', 'fuser'}
  assert set(system.export(state, 'sf2f_image_discriminator')['params']) == {'stack', 'classifier'}
  assert 'logits' in system.export(state, 'sf2f_facenet')['params']
  with pytest.raises(errors.ConversionError, match="holds no 'voice2face_generator'"):
    system.export(state, 'voice2face_generator')
  _, baseline = build('voice2face')
  state = noisy_state(baseline).replace(stage=PORTRAITS)
  assert 'identity' in baseline.export(state, 'voice2face_discriminator')['params']
  assert 'encoder' in baseline.export(state, 'voice2face_generator')['params']


# --------------------------------------------------------------------------------------------------
# Configs
# --------------------------------------------------------------------------------------------------

MILLIONS = {'64': 16.41, '64+fuser': 17.20, 'multires+fuser': 17.21, 'voice2face': 23.35}


@pytest.mark.parametrize('variant', configs.VARIANTS)
def test_published_configs_build(variant):
  config = configs.get_config(variant)
  config.data.root = 'records'
  if not variant.startswith('puppets') and variant != 'faces':
    config.model.facenet_weights = 'facenet'
  if variant.endswith('+fuser'):
    config.model.start = 'portraits'
  system = systems.build(configuration.resolve(config), axis_name=None)
  if variant not in MILLIONS:
    return
  state = jax.eval_shape(system.init, jax.random.key(0))
  parts = [state.nets[name] for name in ('generator', 'fuser') if name in state.nets]
  size = sum(x.size for x in jax.tree.leaves([net.params for net in parts]))
  assert size / 1e6 == pytest.approx(MILLIONS[variant], abs=0.01)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model.encoder': 'deep'}, "model.encoder is 'deep'"),
    ({'model.decoder': 'deep'}, "model.decoder is 'deep'"),
    ({'model.voice_activity': 'loud'}, "model.voice_activity is 'loud'"),
    ({'model.gan': 'dcgan'}, "model.gan is 'dcgan'"),
    ({'model.face_steps': 0}, 'there is no FaceNet'),
    ({'model.facenet_weights': 'x'}, 'model.face_steps is 2, but FaceNet has given weights'),
    ({'model.start': 'x'}, 'model.start is for a fuser'),
    ({'model.portrait_steps': 0, 'model.windows': 2}, 'model.portrait_steps is 0 and model.start'),
    ({'model.portrait_steps': 3}, 'model.portrait_steps is 3, but a stage can only end'),
  ],
)
def test_settings_that_cannot_be(build, changes, message):
  with pytest.raises(errors.ConfigError, match=message):
    build(**changes)


def test_an_unknown_variant_is_named():
  with pytest.raises(ValueError, match="unknown variant '32' of sf2f; known: 64, 128"):
    configs.get_config('32')
