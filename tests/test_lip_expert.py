"""The lip expert's fine-tuning: what it starts from, who learns when, what it reads."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import build, first_batch

from configs import lip_expert as configs
from tfg_jax import errors, pretrained, train, trained
from tfg_jax.data import clip_codec, pipeline, records, vocabulary
from tfg_jax.data.vocabulary import EOS, PAD
from tfg_jax.metrics import text
from tfg_jax.pytorch import converted
from tfg_jax.systems import lip_expert

pytestmark = pytest.mark.end_to_end  # compiles whole systems


@pytest.fixture(scope='module')
def config(toy_records):
  def changed(variant='puppets_finetune', **changes):
    c = configs.get_test_config(variant)
    c.data.root = str(toy_records)
    c.update_from_flattened_dict(changes)
    return c

  return changed


@pytest.fixture(scope='module')
def fresh(config):
  """System, state and a training batch."""
  run, system = build(config())
  return system, jax.jit(system.init)(jax.random.key(0)), first_batch(run, system.sample, seed=0)


@pytest.fixture(scope='module')
def workdirs(config, tmp_path_factory):
  """The workdirs of a pre-training and of the fine-tuning that starts from it, both by the loop."""
  first, second = (tmp_path_factory.mktemp(name) for name in ('pretrained', 'finetuned'))
  device = jax.devices()[:1]
  assert train.train_and_evaluate(config('puppets_pretrain'), first, devices=device)
  finetune = config(**{'model.start': str(first)})
  assert train.train_and_evaluate(finetune, second, devices=device)
  return first, second


def assert_same(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


def differ(tree, other):
  pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
  return any(not np.array_equal(x, y) for x, y in pairs)


# --------------------------------------------------------------------------------------------------
# Learning
# --------------------------------------------------------------------------------------------------


def test_the_decoder_reads_the_sentence_one_token_late():
  tokens = jnp.array([[7, 8, EOS, PAD], [7, 8, 9, EOS]])
  expected = [[EOS, 7, 8, PAD], [EOS, 7, 8, 9]]
  np.testing.assert_array_equal(lip_expert.previous(tokens), expected)


def test_the_text_comes_with_the_clip(fresh):
  system, _, batch = fresh
  assert batch['tokens'].shape == (2, 6)
  assert system.reader.vocabulary.decode(batch['tokens'][0]) == 'ba'


@pytest.fixture(scope='module')
def one_step(fresh):
  system, _, batch = fresh
  step = jax.jit(system.train_step)
  return lambda state: step(state, batch)


def test_the_encoder_rests_at_first(fresh, one_step):
  _, state, _ = fresh
  new, metrics = one_step(state.replace(step=jnp.int32(1)))  # of freeze=2
  old_encoder, encoder = state.nets['encoder'], new.nets['encoder']
  assert_same(old_encoder.params, encoder.params)
  assert metrics['encoder/grad_norm'] == 0
  assert int(encoder.stats['video_encoder']['norm']['count']) == 1  # as officially
  assert differ(state.nets['decoder'].params, new.nets['decoder'].params)


def test_later_the_encoder_learns_too(fresh, one_step):
  _, state, _ = fresh
  new, metrics = one_step(state.replace(step=jnp.int32(2)))
  assert metrics['encoder/grad_norm'] > 0
  for name in ('encoder', 'decoder', 'aligner'):
    assert differ(state.nets[name].params, new.nets[name].params)
  audio = [net.nets['encoder'].params['audio_encoder'] for net in (state, new)]
  assert_same(*audio)  # it reads lips alone
  assert set(metrics) == {
    'decoder/loss',
    'decoder/token_accuracy',
    'decoder/grad_norm',
    'encoder/grad_norm',
    'aligner/loss',
    'aligner/grad_norm',
  }


def test_an_encoder_that_never_rests_learns_the_same(fresh, one_step, config):
  _, state, batch = fresh
  _, system = build(config(**{'model.freeze': 0}))
  new, metrics = jax.jit(system.train_step)(state.replace(step=jnp.int32(2)), batch)
  expected, same_metrics = one_step(state.replace(step=jnp.int32(2)))
  for name, value in metrics.items():
    np.testing.assert_allclose(value, same_metrics[name], rtol=1e-4, err_msg=name)
  for name, net in new.nets.items():
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(compare, net.params, expected.nets[name].params)


def test_the_rate_warms_up_and_decays(config):
  changes = {'model.optimizer': 'adam', 'model.warmup': 4, 'model.learning_rate': 0.1}
  _, system = build(config(num_steps=12, **changes))
  params = {'w': jnp.zeros(())}
  optimizer = system._optimizer
  state = optimizer.init(params)
  steps = []
  for _ in range(13):
    update, state = optimizer.update({'w': jnp.ones(())}, state, params)
    steps.append(-float(update['w']))  # Adam's step for a constant gradient is the rate
  np.testing.assert_allclose(steps[0], 0.001, rtol=1e-3)
  np.testing.assert_allclose(steps[4], 0.1, rtol=1e-3)
  np.testing.assert_allclose(steps[8], 0.1 * 0.05**0.5, rtol=1e-3)
  np.testing.assert_allclose(steps[12], 0.005, rtol=1e-3)


# --------------------------------------------------------------------------------------------------
# Starting from pre-training, being used
# --------------------------------------------------------------------------------------------------


def test_fine_tuning_starts_from_the_pretrained_encoder(workdirs, config):
  source = pretrained.load(workdirs[0])
  _, system = build(config(**{'model.start': str(workdirs[0])}))
  state = jax.jit(system.init)(jax.random.key(5))
  begun = system.start(state, {'encoder': source}, iter(()))
  taken, own = begun.nets['encoder'], source.nets['encoder']
  own['params'].pop('final_proj')  # of masked prediction alone
  assert_same(taken.params, own['params'])
  assert_same(taken.stats, own['batch_stats'])
  assert_same(begun.nets['decoder'].params, state.nets['decoder'].params)
  assert_same(taken.opt_state, state.nets['encoder'].opt_state)  # which has seen nothing


def test_from_scratch_nothing_is_taken_over(fresh):
  system, state, _ = fresh
  assert system.sources == {}
  assert system.start(state, {}, iter(())) is state


def test_a_workdir_gives_its_reader(workdirs):
  reader = lip_expert.read(workdirs[1])
  variables = lip_expert.variables(pretrained.load(workdirs[1]))
  state = trained.load(workdirs[1]).state
  assert_same(variables['params']['decoder'], state.nets['decoder'].params)
  assert reader.vocabulary.ids('ab') == [4, 5, 6]
  assert reader.view.size == 24
  frames = np.zeros((1, 16, 48, 48, 3), np.float32)
  shapes = jax.eval_shape(
    lambda v: reader.module.apply(
      v, jnp.zeros((1, 6), int), None, reader.view(frames, np.array([16])), train=False
    ),
    variables,
  )
  assert shapes[0].shape == (1, 6, len(reader.vocabulary))


def test_evaluation_reads_freely_and_under_teacher_forcing(workdirs):
  run = trained.load(workdirs[1])
  system, state = run.system, run.state
  results = json.loads((workdirs[1] / 'results.json').read_text())['means']
  source = records.RecordSource(run.run.data.root, 'valid')
  batch = next(
    iter(pipeline.eval_batches(source, sample=system.sample_evaluation, **run.run.data.per_process))
  )
  numbers = jax.jit(system.eval_step)(state, batch)
  assert numbers.keys() == results.keys()
  variables = system._variables(state)
  video = system.reader.view(batch['frames'], batch['num_frames'])
  tokens = batch['tokens']
  logits, memory = system.reader.module.apply(
    variables, lip_expert.previous(tokens), None, video, train=False
  )
  right = (np.asarray(logits.argmax(-1)) == tokens) & (tokens != PAD)
  expected = right.sum(1) / (tokens != PAD).sum(1)
  np.testing.assert_allclose(numbers['expert/token_accuracy'], expected, rtol=1e-6)
  said = system.reader.module.apply(variables, memory, beam=2, max_length=5, method='spell').tokens
  decode = system.reader.vocabulary.decode
  for i in range(len(tokens)):
    rate = text.word_error_rate([decode(said[i, 0])], [decode(tokens[i])])
    assert numbers['expert/word_error_rate'][i] == pytest.approx(rate)
  summary = system.summary({**results, 'expert/word_error_rate': 0.125})
  assert '12.5% of the words are read wrongly' in summary


def test_the_loop_shows_what_it_sees(workdirs):
  for workdir in workdirs:
    names = {path.name for path in (workdir / 'samples').iterdir()}
    assert {'step_000000004.png', 'step_000000004_clip_0.mp4'} <= names


def test_its_networks_are_exported(fresh):
  system, state, batch = fresh
  exported = system.export(state, 'avhubert_base_seq2seq')
  assert exported['params']['decoder'] is state.nets['decoder'].params
  with pytest.raises(errors.ConversionError, match="a lip_expert run holds no 'mvm_lrw'"):
    system.export(state, 'mvm_lrw')
  with pytest.raises(errors.ConfigError, match='a run of the lip expert draws no faces'):
    system.generate(state, batch)
  with pytest.raises(errors.ConfigError, match='draws no faces'):
    _ = system.face_size


@pytest.mark.parametrize(('size', 'decoder'), [('base', 57.5e6), ('large', 152.2e6)])
def test_published_configs_build_at_full_size(size, decoder):
  c = configs.get_config(f'finetune_{size}')
  c.data.root = 'records'
  _, system = build(c)
  state = jax.eval_shape(system.init, jax.random.key(0))
  found = sum(x.size for x in jax.tree.leaves(state.nets['decoder'].params))
  pieces = 1000 - len(system.reader.vocabulary)  # the fact sheet counts a vocabulary of 1000
  width = system.reader.module.encoder.width
  assert found + pieces * width == pytest.approx(decoder, rel=0.001)


# --------------------------------------------------------------------------------------------------
# Converted networks
# --------------------------------------------------------------------------------------------------


def piece(symbol):
  data = symbol.encode()
  return bytes([10, len(data) + 2, 10, len(data)]) + data


def test_a_converted_reader_spells_with_its_own_pieces(tmp_path):
  params = {'encoder': {'w': np.ones(2)}, 'decoder': {'w': np.zeros(3)}}
  tree = {'params': params, 'batch_stats': {'encoder': {'mean': np.zeros(1)}}}
  conversion = converted.Conversion('avhubert_large_seq2seq', 'x.pt', '0')
  tokenizer = b''.join(map(piece, (*vocabulary.SPECIALS, '\u2581a', 'b')))
  converted.save(tmp_path / 'reader', tree, conversion, tokenizer=tokenizer)
  reader = lip_expert.read(tmp_path / 'reader')
  assert reader.module.encoder.width == 1024
  assert reader.vocabulary.ids('ab') == [4, 5]
  assert reader.view.size == 88
  source = pretrained.load(tmp_path / 'reader')
  assert_same(lip_expert.variables(source), tree)


def test_a_converted_encoder_is_no_reader(tmp_path):
  tree = {'params': {'w': np.ones(2)}, 'batch_stats': {}}
  conversion = converted.Conversion('avhubert_base_encoder', 'x.pt', '0')
  converted.save(tmp_path / 'encoder', tree, conversion)
  source = pretrained.load(tmp_path / 'encoder')
  assert_same(source.called('encoder').nets['encoder']['params'], tree['params'])
  with pytest.raises(errors.CheckpointError, match='avhubert_base_encoder and is no lip reader'):
    lip_expert.variables(source)
  with pytest.raises(
    errors.CheckpointError, match='this is a converted avhubert_base_encoder, and'
  ):
    lip_expert.read(tmp_path / 'encoder')


def test_the_workdir_of_another_system_is_no_reader(workdirs):
  with pytest.raises(errors.CheckpointError, match='the workdir of a run of avhubert, and no lip'):
    lip_expert.read(workdirs[0])


def test_the_published_variants_have_no_aligner(config):
  _, system = build(config('finetune_base'))
  assert set(jax.eval_shape(system.init, jax.random.key(0)).nets) == {'encoder', 'decoder'}
  with pytest.raises(errors.ConfigError, match='model.ctc is 1'):
    build(config(**{'model.ctc': 1.0}))


def test_muon_steps_kernels_and_adam_the_rest(config):
  _, system = build(config(**{'model.optimizer': 'muon', 'model.warmup': 1, 'num_steps': 2}))
  params = {'kernel': jnp.zeros((4, 3)), 'embedding': jnp.zeros((4, 3))}
  rng = np.random.default_rng(0)
  grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
  optimizer = system._optimizer
  _, state = optimizer.update(grads, optimizer.init(params), params)  # at 1 % of the rate
  steps, _ = optimizer.update(grads, state, params)
  rate = system.settings.learning_rate
  singular = np.linalg.svd(steps['kernel'], compute_uv=False)
  assert singular.max() / singular.min() < 2
  # One gradient twice: Adam's step is the rate, up to Nesterov's part.
  np.testing.assert_allclose(np.abs(steps['embedding']), rate, rtol=0.3)
  with pytest.raises(errors.ConfigError, match="model.optimizer is 'lion'"):
    build(config(**{'model.optimizer': 'lion'}))


def test_texts_that_do_not_fit(config):
  _, system = build(config(**{'model.max_tokens': 3}))
  clip = clip_codec.Clip(
    clip_id='',
    frames=[],
    height=48,
    width=48,
    fps=25.0,
    boxes=np.zeros((0, 4), np.int64),
    wav=np.zeros(0, np.int16),
    sample_rate=16_000,
    text='ba',
  )
  with pytest.raises(errors.DataError, match='has 4 tokens, with the end; 3 fit'):
    system.sample(clip, np.random.default_rng(0))
