"""Whole-video evaluation: each observer against its metric worked out by hand, and the command."""

import csv
import json
import types

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from runs import untrained

from configs import lip_expert as reader_configs
from configs import sync_expert as sync_configs
from configs import talklip as configs
from tfg_jax import (
  configuration,
  errors,
  evaluate,
  observers,
  partition,
  train,
)
from tfg_jax.data import pipeline, records
from tfg_jax.features import video as video_features
from tfg_jax.metrics import image, sync
from tfg_jax.networks import conformer, mvm
from tfg_jax.systems import base


@pytest.fixture(scope='module')
def batch(toy_records):
  """Three clips, the last one short."""
  source = records.RecordSource(toy_records, 'valid')
  settings = dict(batch_size=3, max_frames=16, height=48, width=48, fps=25.0, sample_rate=16_000)
  with pipeline.eval_batches(source, sample=lambda clip, rng: {}, **settings) as stream:
    found = next(stream)
  found['num_frames'][2] = 11
  found['num_samples'][2] = 11 * 640
  return found


@pytest.fixture(scope='module')
def sync_workdir(toy_records, tmp_path_factory):
  config = sync_configs.get_test_config('syncnet')
  return untrained(config, toy_records, tmp_path_factory.mktemp('syncnet'))


@pytest.fixture(scope='module')
def reader_workdir(toy_records, tmp_path_factory):
  """A lip reader that supervised nobody."""
  config = reader_configs.get_test_config('puppets_finetune')
  return untrained(config, toy_records, tmp_path_factory.mktemp('reader'), seed=1)


def clips_of(*texts, frames=29, **extras):
  """Clips of which only text, length and extras matter."""
  return [
    types.SimpleNamespace(clip_id=f'clip_{i}', text=text, frames=[b''] * frames, extras=extras)
    for i, text in enumerate(texts)
  ]


def noisy(frames):
  rng = np.random.default_rng(0)
  return np.clip(frames + rng.normal(0, 12, frames.shape), 0, 255).astype(np.uint8)


# --------------------------------------------------------------------------------------------------
# Observers
# --------------------------------------------------------------------------------------------------


def test_likeness_is_of_face_crops_and_real_frames(batch):
  drawn = noisy(batch['frames'])
  drawn[2, 11:] = 0  # behind the end
  judge = observers.Likeness()
  answers = jax.device_get(jax.jit(judge.judge)((), drawn, batch['frames'], batch))
  numbers = judge.numbers(answers, clips_of('', '', ''))
  for name, metric in (
    ('psnr', image.psnr), ('psnr_official', image.psnr_official), ('ssim', image.ssim)
  ):  # fmt: skip
    values, weights = numbers[name]
    np.testing.assert_array_equal(weights, [16, 16, 11])
    for clip, length in enumerate(weights):
      crops = [
        video_features.crop_faces(x[clip, :length], batch['boxes'][clip, :length], 96)
        for x in (drawn, batch['frames'])
      ]
      np.testing.assert_allclose(values[clip], np.mean(metric(*crops)), rtol=1e-5)
  same = judge.numbers(
    jax.device_get(judge.judge((), batch['frames'], batch['frames'], batch)), [''] * 3
  )
  assert (same['psnr'][0] == 100).all()
  np.testing.assert_allclose(same['ssim'][0], 1, rtol=1e-6)


def test_sync_scores_windows_of_each_clip_alone(batch, sync_workdir):
  judge = observers.Sync.load(sync_workdir)
  answers = jax.device_get(
    jax.jit(judge.judge)(judge.variables, batch['frames'], batch['frames'], batch)
  )
  module, variables = judge.expert.module, judge.variables
  for clip, length in enumerate((16, 16, 11)):
    starts = np.arange(length - 5)
    frames, wav = batch['frames'][clip, :length], batch['wav'][clip, : length * 640]
    scores = sync.sync_scores(
      module.apply(
        variables, sync.lip_windows(frames, starts, 56), train=False, method='embed_lips'
      ),
      module.apply(
        variables, sync.speech_windows(wav, len(wav), starts), train=False, method='embed_speech'
      ),
    )
    np.testing.assert_allclose(answers['lse_d'][clip], scores.distance, rtol=1e-3)
    np.testing.assert_allclose(answers['lse_c'][clip], scores.confidence, rtol=1e-2, atol=1e-4)
  values, weights = judge.numbers(answers, clips_of('', '', ''))['lse_c']
  np.testing.assert_array_equal(weights, 1)
  np.testing.assert_array_equal(values, answers['lse_c'])


def test_wer1_counts_words_over_all_clips(reader_workdir):
  judge = observers.Reader.load(reader_workdir, beam=3)
  words = judge.reader.vocabulary
  said = np.stack([words.encode(x, 30) for x in ('one two three four', 'red dog')])
  values, weights = judge.numbers({'tokens': said}, clips_of('one two four four', 'Red'))['wer1']
  np.testing.assert_allclose(values, [1 / 4, 1])
  np.testing.assert_array_equal(weights, [4, 1])
  results = evaluate.Results('valid', 1, ['a', 'b'], {'x/wer1': values}, {'x/wer1': weights})
  assert results.means['x/wer1'] == pytest.approx(2 / 5)


def test_wer2_gives_the_true_text_so_far(reader_workdir):
  judge = observers.Speller.load(reader_workdir)
  words = judge.reader.vocabulary
  texts = clips_of('bat cat', 'ox')
  tokens = judge.inputs(texts)['speller_tokens']
  np.testing.assert_array_equal(tokens[1, :4], [*words.ids('ox'), 2])
  said = tokens.copy()
  said[0, 3] = words.ids('d')[1]  # bad cat
  said[1, 3:] = words.ids('z')[1]  # what follows the last letter does not count
  values, weights = judge.numbers({'tokens': said}, texts)['wer2']
  np.testing.assert_allclose(values, [0.5, 0])
  np.testing.assert_array_equal(weights, 1)


def test_readers_see_the_clip_and_not_what_is_behind_it(batch, reader_workdir):
  judges = [observers.Reader.load(reader_workdir, beam=2), observers.Speller.load(reader_workdir)]
  hidden = batch['frames'].copy()
  hidden[2, 11:] = 255
  for judge in judges:
    inputs = batch | judge.inputs(clips_of('ba', 'ba', 'ba'))
    see = jax.jit(judge.judge)
    clean = see(judge.variables, batch['frames'], None, inputs)['tokens']
    np.testing.assert_array_equal(see(judge.variables, hidden, None, inputs)['tokens'], clean)
    assert clean.shape[0] == 3


def test_the_view_of_the_conformer_is_opencvs():
  rng = np.random.default_rng(0)
  frames = cv2.GaussianBlur(rng.integers(0, 256, (80, 60, 3)).astype(np.uint8), (0, 0), 2)
  seen = video_features.conformer_view(frames[None, None].repeat(2, 1), jnp.array([1]))
  gray = cv2.resize(cv2.cvtColor(frames, cv2.COLOR_RGB2GRAY), (224, 224))[56:168, 56:168]
  expected = (gray / 255 - 0.4161) / 0.1688
  assert seen.shape == (1, 2, 112, 112, 1)
  np.testing.assert_allclose(seen[0, 0, ..., 0], expected, atol=1.01 / 255 / 0.1688)
  assert abs(float(seen[0, 0].mean()) - expected.mean()) < 0.01
  assert not np.any(seen[0, 1])


def test_the_conformer_reads_padded_texts_as_it_does_alone():
  module = conformer.ConformerLipReader(
    widths=(4,), features=8, depth=1, mlp_width=12, heads=2, taps=3, decoder_depth=1
  )
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (1, 3, 24, 24, 3), np.uint8)
  batch = {'num_frames': jnp.array([3])}
  judge = observers.Conformer({}, module)
  inputs = judge.inputs(clips_of('Bin it'))
  tokens = conformer.characters_to_tokens('Bin it')[None]
  seen = video_features.conformer_view(video, batch['num_frames'])
  required = conformer.required_frames(batch['num_frames'], tokens)
  call = (seen, batch['num_frames'], required, tokens)
  variables = module.init(jax.random.key(0), *call, frames=8, train=False)
  logits, _ = module.apply(variables, *call, frames=8, train=False)
  got = jax.jit(judge.judge)(variables, video, video, batch | inputs)['tokens']
  np.testing.assert_array_equal(got[0, :7], logits[0].argmax(-1))
  values, _ = judge.numbers({'tokens': inputs['conformer_tokens']}, clips_of('bin it'))['wer2']
  np.testing.assert_array_equal(values, [0])


def test_texts_that_the_conformer_cannot_take():
  judge = observers.Conformer({})
  with pytest.raises(errors.DataError, match='301 characters; 300 fit'):
    judge.inputs(clips_of('a' * 301))
  with pytest.raises(errors.DataError, match="no token for \\['Ä'\\]"):
    judge.inputs(clips_of('ä'))


def test_word_accuracy_of_a_reader_asks_for_the_whole_text(reader_workdir):
  judge = observers.load(configuration.Observers(words=str(reader_workdir)), (), fps=25.0)['words']
  words = judge.reader.vocabulary
  said = np.stack([words.encode(x, 30) for x in ('about', 'abou', 'able')])
  values, weights = judge.numbers({'tokens': said}, clips_of('ABOUT', 'about', 'able'))[
    'word_accuracy'
  ]
  np.testing.assert_array_equal(values, [1, 0, 1])
  np.testing.assert_array_equal(weights, 1)


def test_the_view_of_the_word_classifier_is_pillows():
  rng = np.random.default_rng(0)
  frames = cv2.GaussianBlur(rng.integers(0, 256, (256, 256, 3)).astype(np.uint8), (0, 0), 1)
  seen = video_features.mvm_view(frames[None, None].repeat(2, 1), jnp.array([1]))
  window = Image.fromarray(frames).crop((59, 95, 195, 231)).resize((112, 112), Image.BILINEAR)
  expected = (np.asarray(window.convert('L')) / 255 - 0.4136) / 0.17
  assert seen.shape == (1, 2, 112, 112, 1)
  np.testing.assert_allclose(seen[0, 0, ..., 0], expected, atol=1.01 / 255 / 0.17)
  assert np.abs(seen[0, 0, ..., 0] - expected).mean() < 0.1 / 255 / 0.17
  assert not np.any(seen[0, 1])
  with pytest.raises(ValueError, match='frames of 96x96; the word classifier knows LRW, 256x256'):
    video_features.mvm_view(np.zeros((1, 1, 96, 96, 3)), jnp.array([1]))


def test_the_word_classifier_looks_both_ways_at_29_frames():
  module = mvm.MVM(
    classes=5,
    visual_features=8,
    widths=(4,),
    temporal_features=6,
    depth=2,
    heads=2,
    slots=3,
    audio_widths=(4,),
    mel_bins=8,
  )
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (2, 20, 256, 256, 3), np.uint8)
  batch = {'num_frames': jnp.array([20, 12])}
  whole = np.pad(video, ((0, 0), (0, 9), (0, 0), (0, 0), (0, 0)))
  seen = video_features.mvm_view(whole, batch['num_frames'])
  variables = module.init(jax.random.key(0), seen[:, :2], train=False)
  judge = observers.WordClassifier(variables, module)
  clips = clips_of('about', 'able', word_label=np.array([3]))
  assert judge.inputs(clips) == {}
  got = jax.jit(judge.judge)(variables, video, video, batch)['label']
  logits = mvm.flipped_too(lambda x: module.apply(variables, x, train=False), seen)
  np.testing.assert_array_equal(got, logits.argmax(-1))
  values, _ = judge.numbers({'label': np.array([3, 2])}, clips)['word_accuracy']
  np.testing.assert_array_equal(values, [1, 0])


@pytest.mark.parametrize(
  ('clips', 'message'),
  [
    (clips_of('a'), '29 frames without a word_label'),
    (clips_of('a', frames=30, word_label=[1]), '30 frames with a word_label; mvm_lrw knows the 29'),
  ],
)
def test_clips_that_the_word_classifier_cannot_take(clips, message):
  with pytest.raises(errors.DataError, match=message):
    observers.WordClassifier({}).inputs(clips)


def test_a_teacher_is_no_observer(reader_workdir):
  settings = configuration.Observers(reader=str(reader_workdir))
  with pytest.raises(errors.ConfigError, match='observers.reader is what the run has learnt from'):
    observers.load(settings, [reader_workdir / '..' / reader_workdir.name], fps=25.0)


def test_observers_know_one_frame_rate():
  with pytest.raises(errors.ConfigError, match='sees 25 frames per second, and data.fps is 30'):
    observers.load(configuration.Observers(sync='folder'), (), fps=30.0)


def test_a_reader_is_no_judge_of_sync(reader_workdir):
  with pytest.raises(errors.CheckpointError, match='no syncnet judge of sync'):
    observers.load(configuration.Observers(sync=str(reader_workdir)), (), fps=25.0)


def test_wer2_needs_characters(reader_workdir, monkeypatch):
  from tfg_jax.data import vocabulary
  from tfg_jax.systems import lip_expert

  reader = lip_expert.read(reader_workdir)
  pieces = vocabulary.from_pieces(['ab', 'c'], [0.0, 0.0])
  changed = lip_expert.Reader(reader.module, pieces, reader.view)
  monkeypatch.setattr(lip_expert, 'read', lambda folder: changed)
  with pytest.raises(errors.CheckpointError, match='pieces of words, and WER2 is about characters'):
    observers.Speller.load(str(reader_workdir))


# --------------------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------------------


@pytest.mark.end_to_end
def test_evaluate_puts_every_row_before_every_observer(
  twin, sync_workdir, reader_workdir, tmp_path, capsys
):
  assert train.train_and_evaluate(twin('no_lip'), tmp_path, devices=jax.devices()[:1])
  capsys.readouterr()  # what training says
  judges = dict(sync=str(sync_workdir), reader=str(reader_workdir), speller=str(reader_workdir))
  config = twin('no_lip')
  config.evaluation.observers = dict(judges, beam=2)
  config.data.batch_size = 2  # of 3 clips: the last batch is filled up
  results = evaluate.evaluate_workdir(tmp_path, config, tmp_path / 'found')
  who = ('ground_truth', 'identity_mouth', 'generated')
  metrics = ('psnr', 'psnr_official', 'ssim', 'lse_c', 'lse_d', 'offset', 'wer1', 'wer2')
  for row in who:
    for metric in metrics:
      assert results.numbers[f'{row}/{metric}'].shape == (3,)
      assert np.isfinite(results.numbers[f'{row}/{metric}']).all()
  assert results.means['ground_truth/psnr'] == 100
  assert results.means['ground_truth/ssim'] == pytest.approx(1)
  assert results.means['generated/psnr'] < results.means['generated/psnr_official'] + 1e-4 < 100
  assert results.means['generated/lse_d'] != results.means['ground_truth/lse_d']
  said = capsys.readouterr().out
  lines = said[said.index('3 clips of split') :].splitlines()
  assert lines[1].split()[:3] == ['l1', 'mouth_l1', 'psnr'] and lines[2].startswith('ground truth')
  assert f'a run of this project, {sync_workdir}: not comparable with papers' in said
  saved = json.loads((tmp_path / 'found' / 'results.json').read_text())
  assert saved['means'] == pytest.approx(results.means)
  with (tmp_path / 'found' / 'clips.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [row['clip_id'] for row in rows] == ['clip0008', 'clip0009', 'clip0010']
  assert float(rows[1]['generated/wer1']) == results.numbers['generated/wer1'][1]


def test_samples_are_the_first_clips_once_each(twin):
  """More than a batch holds and than are evaluated, and no more than there are."""
  run = configuration.resolve(twin(**{'evaluation.samples': 5, 'evaluation.max_clips': 1}))
  place = partition.build('jit', batch_size=2, devices=jax.devices()[:2])
  system = types.SimpleNamespace(
    eval_step=lambda state, batch: {},
    sample_evaluation=lambda clip, rng: {},
    samples=lambda state, batch: {'strips': batch['clip_index'], 'videos': batch['frames']},
  )
  shown = []
  report = types.SimpleNamespace(samples=lambda maker, strips, *rest, **rates: shown.extend(strips))
  state = place.replicate(base.State.create(jax.random.key(0), {}))
  evaluate.Evaluation(run, system, place).show_samples(state, report)
  assert shown == [0, 1, 2]


def test_no_number_takes_the_place_of_another():
  own = evaluate.Results('valid', 1, ['a'], {'generated/psnr': np.ones(1)})
  others = evaluate.Results('valid', 1, ['a'], {'generated/ssim': np.zeros(1)})
  assert own.and_(others).means == {'generated/psnr': 1, 'generated/ssim': 0}
  with pytest.raises(ValueError, match='generated/psnr is measured twice'):
    own.and_(others).and_(own)


def test_observers_that_nobody_named_are_said_to_be_missing():
  said = observers.credits(configuration.Observers())
  assert 'reader   none: --config.evaluation.observers.reader=DIR names one' in said
  assert configs.get_config('l').evaluation.observers.beam == 50
