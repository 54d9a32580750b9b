"""The puppet corpus: voices, lips, faces, clips and the command."""

import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np
import pytest
from corpus import whole_shards
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import puppet
from data_prep.puppets import clip, identity, scene, script, visemes, voice
from tfg_jax.data import clip_codec, records
from tfg_jax.errors import ConfigError, DataError, MissingDependencyError

SMALL = clip.Settings(seed=3, size=32, identities=3, frames=50, eval_fraction=0.2)
CLIPS = 8
ROOT = os.path.dirname(os.path.dirname(puppet.__file__))
SLOW = ('--clips=24', '--shards=4', '--size=32', '--eval_fraction=0', '--workers=2')


def shape_of(name, smile=0.0):
  return np.array([*visemes.VISEMES[name][0], smile])


def frame_of(person, mouth, pose=None, size=96):
  wall = np.full((2 * size, 2 * size, 3), 200, np.uint8)
  return scene.paint_frame(
    person.look, size, pose or scene.Pose(), wall, lids=1.0, gaze=(0, 0), brows=(0, 0), mouth=mouth
  )


def median_pitch(wave):
  """Median F0 in Hz over the voiced 40 ms windows: the highest peak of the autocorrelation."""
  found = []
  for start in range(0, len(wave) - 640, 320):
    window = wave[start : start + 640] * np.hanning(640)
    power = np.fft.irfft(np.abs(np.fft.rfft(window, 2048)) ** 2)
    lags = np.arange(voice.SAMPLE_RATE // 400, voice.SAMPLE_RATE // 60)
    best = lags[np.argmax(power[lags])]
    if power[best] > 0.5 * power[0] > 1e-3:
      found.append(voice.SAMPLE_RATE / best)
  return float(np.median(found))


@pytest.fixture(scope='module')
def clips():
  return [clip.make_clip(SMALL, number) for number in range(CLIPS)]


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  """A corpus made in this process, with one shard for each split."""
  directory = str(tmp_path_factory.mktemp('puppets'))
  puppet.make_corpus(directory, SMALL, CLIPS, shards=1, workers=1, progress=False)
  return directory


def read(directory, split):
  source = records.RecordSource(directory, split)
  return [clip_codec.decode(source[i]) for i in range(len(source))]


def read_all(directory):
  """clip_id -> serialised clip, over all splits."""
  splits = records.read_info(directory).clips
  found = [record for split in splits for record in read(directory, split)]
  return {record.clip_id: clip_codec.encode(record) for record in found}


# --------------------------------------------------------------------------------------------------
# Voices
# --------------------------------------------------------------------------------------------------


def test_the_same_words_sound_the_same_whatever_was_said_before():
  who = voice.Voice(120, roughness=3, breath=3, flutter=5)
  first = voice.speak('bin green at f two again', who)
  voice.speak('something else', voice.Voice(230, formants=1.15))
  again = voice.speak('bin green at f two again', who)
  np.testing.assert_array_equal(first.wave, again.wave)
  assert first.phonemes == again.phonemes


def test_phonemes_follow_each_other_and_fill_the_speech():
  speech = voice.speak('place blue by f nine soon', voice.Voice(140))
  symbols = [symbol for symbol, _, _ in speech.phonemes]
  assert symbols == [
    'p',
    'l',
    'eI',
    's',
    'b',
    'l',
    'u:',
    'b',
    'aI',
    'E',
    'f',
    'n',
    'aI',
    'n',
    's',
    'u:',
    'n',
  ]
  ends = [end for _, _, end in speech.phonemes]
  starts = [start for _, start, _ in speech.phonemes]
  assert starts[1:] == ends[:-1]
  assert 0 <= starts[0] < 0.05
  assert 0 <= speech.seconds - ends[-1] < 0.05


def test_stops_begin_with_their_silence_not_with_their_burst():
  speech = voice.speak('a happy map', voice.Voice(110))
  start, end = next((a, b) for symbol, a, b in speech.phonemes if symbol == 'p')
  level = [
    np.sqrt(np.mean(speech.wave[round(t * 16_000) : round((t + 0.02) * 16_000)] ** 2))
    for t in (start - 0.06, start + 0.012)
  ]
  assert level[1] < 0.05 * level[0]
  assert end - start > 0.05


def test_words_said_as_one_share_their_time():
  words = voice.speak('it is of the man', voice.Voice(140)).words
  assert len(words) == 5
  assert words[2] == words[3]
  assert [a for a, _ in words] == sorted(a for a, _ in words)
  assert words[0][1] == words[1][0]


def test_pitch_follows_the_voice():
  for pitch in (95, 140, 220):
    found = median_pitch(voice.speak('we will lay one more ring', voice.Voice(pitch)).wave)
    assert abs(np.log2(found / pitch)) < 0.25


def test_the_folder_for_temporary_files_may_have_a_long_name(tmp_path, monkeypatch):
  folder = tmp_path / ('x' * 100)
  folder.mkdir()
  monkeypatch.setattr(tempfile, 'tempdir', str(folder))
  assert voice.speak('a happy map', voice.Voice(110)).phonemes


def test_text_that_cannot_be_said_is_refused():
  with pytest.raises(DataError, match=r"says nothing for '\.\.\.'"):
    voice.speak('...', voice.Voice(120))


def test_without_espeak_the_error_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'espeakng_loader', None)
  with pytest.raises(MissingDependencyError, match=r"'tfg_jax\[puppet\]'.*GPL-3"):
    voice.speak('one', voice.Voice(120))


def test_a_library_that_does_not_start_is_an_expected_failure(monkeypatch, tmp_path):
  import espeakng_loader

  monkeypatch.setattr(espeakng_loader, 'get_data_path', lambda: str(tmp_path / 'nowhere'))
  with pytest.raises(DataError, match='espeak-ng does not start'):
    voice.speak('one', voice.Voice(120))


# --------------------------------------------------------------------------------------------------
# Scripts
# --------------------------------------------------------------------------------------------------


def test_the_grammar_has_51_words_and_sentences_of_six():
  assert sum(map(len, script.GRAMMAR.values())) == 51
  line = script.grammar_line(np.random.default_rng(0))
  assert all(
    word in choices
    for word, choices in zip(line.text.split(), script.GRAMMAR.values(), strict=True)
  )


def test_word_lines_hold_the_target_at_its_place():
  for line in script.word_lines(np.random.default_rng(0), ('zebra',)):
    assert line.text.split()[line.position] == line.word == 'zebra'


def test_sentence_lines_get_shorter_word_by_word():
  lines = script.sentence_lines(np.random.default_rng(1), script.WORDS, 6)
  lengths = [len(line.text.split()) for line in lines]
  assert lengths == list(range(lengths[0], 0, -1))
  assert all(lines[0].text.startswith(line.text) for line in lines)


def test_word_lists_are_read_and_checked(tmp_path):
  path = tmp_path / 'words.txt'
  path.write_text("Hello\n\ndon't\nhello\n")
  assert script.read_words(path) == ('hello', "don't")
  path.write_text('one\ntwo words\n')
  with pytest.raises(DataError, match=r"'two words' is not a word.*\n.*line 2"):
    script.read_words(path)
  path.write_text('\n')
  with pytest.raises(DataError, match='the word list is empty'):
    script.read_words(path)
  with pytest.raises(DataError, match='cannot read the word list'):
    script.read_words(tmp_path / 'missing.txt')


# --------------------------------------------------------------------------------------------------
# Lips
# --------------------------------------------------------------------------------------------------


def test_every_viseme_of_the_table_exists_and_unknown_sounds_look_neutral():
  assert {name for names in visemes.VISEMES_OF.values() for name in names} == set(visemes.VISEMES)
  assert visemes.viseme_names('a sound of another language') == ('neutral',)


def test_lips_meet_for_m_even_between_wide_open_vowels_and_in_a_mumble():
  phonemes = [('A:', 0.2, 0.32), ('m', 0.32, 0.4), ('A:', 0.4, 0.55)]
  times = np.arange(0.1, 0.7, 0.005)
  for amplitude in (0.35, 1.0):
    curve = visemes.mouth_curve(phonemes, times, amplitude=amplitude)
    during, before = np.abs(times - 0.36).argmin(), np.abs(times - 0.27).argmin()
    assert curve[during, 6] > 0.85
    assert curve[during, 0] < 0.2 * amplitude
    assert curve[before, 0] > 0.7 * amplitude


def test_vowels_order_by_opening_and_width():
  times = np.array([0.35])
  shapes = {
    symbol: visemes.mouth_curve([(symbol, 0.2, 0.5)], times)[0] for symbol in ('A:', 'i:', 'u:')
  }
  assert shapes['A:'][0] > shapes['i:'][0] > shapes['u:'][0] > 0
  assert shapes['i:'][1] > 0.9 > 0.3 > shapes['A:'][1] > 0 > -0.9 > shapes['u:'][1]


def test_the_mouth_rests_far_from_speech():
  curve = visemes.mouth_curve([('A:', 1.0, 1.2)], np.array([0.0, 0.9, 1.3, 2.0]))
  np.testing.assert_allclose(curve, 0, atol=1e-9)


def test_diphthongs_move_from_one_shape_to_the_other():
  early, late = visemes.mouth_curve([('aU', 0.2, 0.5)], np.array([0.26, 0.44]))
  assert early[0] - late[0] > 0.5
  assert late[2] - early[2] > 0.7


@given(
  lengths=st.lists(st.floats(0.01, 0.3), min_size=1, max_size=12),
  seed=st.integers(0, 1000),
  amount=st.floats(0, 0.1),
)
@settings(max_examples=50, deadline=None)
def test_jitter_keeps_order_and_ends(lengths, seed, amount):
  borders = np.concatenate([[0.2], 0.2 + np.cumsum(lengths)])
  phonemes = [('a', float(a), float(b)) for a, b in zip(borders, borders[1:], strict=False)]
  moved = visemes.jitter_times(phonemes, np.random.default_rng(seed), amount=amount)
  times = [time for _, *span in moved for time in span]
  assert times == sorted(times)
  assert (times[0], times[-1]) == (phonemes[0][1], phonemes[-1][2])
  if amount == 0:
    np.testing.assert_allclose([a for _, a, _ in moved], borders[:-1])


# --------------------------------------------------------------------------------------------------
# Faces
# --------------------------------------------------------------------------------------------------


def test_visemes_can_be_told_apart_in_single_frames():
  person = identity.make_identity(0, 2)
  names = ('closed', 'wide', 'open', 'oh', 'round', 'lip', 'tongue', 'mid')
  frames = {name: frame_of(person, shape_of(name)).astype(float) for name in names}
  mouth = (slice(52, 88), slice(28, 68))
  for a in names:
    for b in names:
      if a < b:
        difference = np.abs(frames[a][mouth] - frames[b][mouth])
        # Camera noise has a mean difference below 3.
        assert difference.mean() > 4, (a, b)
        assert np.percentile(difference, 95) > 25, (a, b)


def test_lip_contours_have_the_shape_of_their_viseme():
  from data_prep.puppets import features

  look = identity.make_identity(0, 2).look

  def measure(name):
    upper, inner_upper, inner_lower, lower = features.mouth_contours(look, shape_of(name))
    return inner_lower[20, 1] - inner_upper[20, 1], np.ptp(upper[:, 0]), lower[20, 1] - upper[20, 1]

  gap, width, height = zip(*map(measure, ('closed', 'round', 'wide', 'open')), strict=True)
  assert gap[0] == 0 < gap[1] < gap[2] < gap[3]
  assert width[1] < 0.65 * width[0] < width[0] < width[2]
  assert width[1] / height[1] < 1.4 < 2.2 < width[2] / height[2]


def test_a_smile_lifts_the_corners_of_the_mouth():
  from data_prep.puppets import features

  look = identity.make_identity(0, 2).look
  glad, sad = (features.mouth_contours(look, shape_of('rest', s))[1] for s in (0.9, -0.9))
  assert glad[0, 1] < glad[20, 1] - 2
  assert sad[0, 1] > sad[20, 1] + 0.5


def test_moods_show_in_brows_and_eyes():
  person = identity.make_identity(0, 3)
  wall = np.full((192, 192, 3), 200, np.uint8)
  upper = {
    name: scene.paint_frame(
      person.look,
      96,
      scene.Pose(),
      wall,
      lids=mood.eyes,
      gaze=(0, 0),
      brows=(mood.brow_inner, mood.brow_outer),
      mouth=np.zeros(8),
    )[26:56].astype(float)
    for name, mood in identity.EMOTIONS.items()
  }
  for a in upper:
    for b in upper:
      assert a == b or np.abs(upper[a] - upper[b]).mean() > 1, (a, b)


def test_puppets_look_different():
  people = [identity.make_identity(0, number) for number in range(8)]
  faces = [clip.render_still(person, 96).astype(float) for person in people]
  for i in range(8):
    for j in range(i):
      assert np.abs(faces[i] - faces[j]).mean() > 8, (i, j)


def test_puppets_sound_different_and_as_they_look():
  people = [identity.make_identity(0, number) for number in range(8)]
  spoken = [voice.speak('we will lay one more ring', person.voice) for person in people]
  heard = np.log2([median_pitch(speech.wave) for speech in spoken])
  assert np.ptp(heard) > 1
  assert np.diff(np.sort(heard)).min() > 0.01
  jaws = [person.look.jaw for person in people]
  assert np.corrcoef(heard, jaws)[0, 1] < -0.8
  many = [identity.make_identity(1, number) for number in range(60)]
  for trait, of_voice, of_face in (
    ('tract', [p.voice.formants for p in many], [p.look.size for p in many]),
    ('age', [p.voice.rate for p in many], [p.look.ears for p in many]),
  ):
    traits = [p.traits[trait] for p in many]
    assert np.corrcoef(traits, of_voice)[0, 1] < -0.6
    assert np.corrcoef(traits, of_face)[0, 1] > 0.6


@given(
  yaw=st.floats(-1, 1),
  pitch=st.floats(-1, 1),
  roll=st.floats(-40, 40),
  x=st.floats(-90, 90),
  y=st.floats(-90, 90),
  number=st.integers(0, 50),
)
@settings(max_examples=50, deadline=None)
def test_face_boxes_stay_inside_the_frame(yaw, pitch, roll, x, y, number):
  look = identity.make_identity(0, number).look
  x1, y1, x2, y2 = scene.face_box(look, 64, scene.Pose(yaw, pitch, roll, x, y))
  assert 0 <= x1 < x2 <= 64
  assert 0 <= y1 < y2 <= 64


def test_the_face_box_holds_the_face_and_little_else():
  person = identity.make_identity(0, 3)
  x1, y1, x2, y2 = scene.face_box(person.look, 96, scene.Pose())
  changed = np.abs(
    frame_of(person, shape_of('open')).astype(int) - frame_of(person, shape_of('rest'))
  ).max(axis=2)
  rows, columns = np.nonzero(changed[:82] > 30)
  assert x1 <= columns.min()
  assert columns.max() < x2
  assert y1 <= rows.min()
  assert 48 <= x2 - x1 <= 62
  assert 52 <= y2 - y1 <= 70


# --------------------------------------------------------------------------------------------------
# Clips
# --------------------------------------------------------------------------------------------------


def test_a_clip_depends_on_its_number_only(clips):
  again = clip.make_clip(SMALL, 5)
  assert clip_codec.encode(again) == clip_codec.encode(clips[5])
  assert len({record.wav.tobytes() for record in clips}) == CLIPS
  assert len({b''.join(record.frames) for record in clips}) == CLIPS


def test_clips_have_their_lengths_and_levels(clips):
  for record in clips:
    assert len(record.frames) == len(record.boxes) == 50
    assert record.wav.dtype == np.int16
    assert len(record.wav) == 50 * 640
    wave = record.wav / 32768
    assert np.abs(wave).max() < 0.96
    assert -36 < 20 * np.log10(np.sqrt(np.mean(wave**2))) < -17


def test_mouths_are_closed_in_the_silence_around_speech(clips):
  for record in clips:
    mouth = record.extras['mouth'].reshape(50, 8)
    assert np.abs(mouth[[0, -1], :7]).max() < 1e-6
    assert mouth[:, 0].max() > 0.15
    quiet = np.concatenate([record.wav[:1600], record.wav[-1600:]]) / 32768
    assert np.sqrt(np.mean(quiet**2)) < 0.0015


def test_mouths_open_with_the_sound():
  opening, level = [], []
  for number in range(4):
    record = clip.make_clip(SMALL, number)
    opening.append(record.extras['mouth'].reshape(50, 8)[:, 0])
    frames = record.wav.reshape(50, 640) / 32768
    level.append(np.log(1e-3 + np.sqrt(np.mean(frames**2, axis=1))))

  def match(lag):
    pairs = zip(opening, level, strict=True)
    return np.mean([np.corrcoef(np.roll(o, lag), e)[0, 1] for o, e in pairs])

  matches = {lag: match(lag) for lag in range(-5, 6)}
  assert abs(max(matches, key=matches.get)) <= 1
  assert matches[0] > 0.6
  assert matches[0] > matches[5] + 0.15
  assert matches[0] > matches[-5] + 0.15


def test_the_ground_truth_fits_together(clips):
  for record in clips:
    extras = record.extras
    times = extras['phoneme_times'].reshape(-1, 2)
    words = extras['word_times'].reshape(-1, 2)
    assert len(times) == len(extras['phonemes']) == len(extras['visemes'])
    assert len(words) == len(record.text.split())
    assert times[0, 0] > 0.15
    assert times[-1, 1] < 2 - 0.15
    assert words[0, 0] < words[-1, 1] <= times[-1, 1] + 1e-6
    assert np.abs(extras['viseme_times'].reshape(-1, 2) - times).max() <= 0.0701 + 1e-6
    assert record.boxes.min() >= 0
    assert record.boxes.max() <= 32
    assert extras['pose'].size == 5 * 50
    centre = extras['mouth_centre'].reshape(-1, 2)
    assert (record.boxes[:, :2] < centre).all()
    assert (centre < record.boxes[:, 2:]).all()
    assert record.speaker == f'puppet{int(extras["identity"][0]):03d}'
    portrait = cv2.imdecode(np.frombuffer(extras['portrait'][0], np.uint8), cv2.IMREAD_COLOR)
    assert portrait.shape == (32, 32, 3)
    assert b'=' in extras['attributes'][0]


def test_without_variability_lips_follow_the_sound_exactly():
  still = clip.make_clip(clip.Settings(seed=3, size=32, frames=60, variability=0), 1)
  assert still.extras['amplitude'][0] == 1
  np.testing.assert_array_equal(still.extras['viseme_times'], still.extras['phoneme_times'])
  loose = [clip.make_clip(SMALL, number).extras for number in range(3)]
  assert len({float(extras['amplitude'][0]) for extras in loose}) == 3
  assert all(0.35 <= extras['amplitude'][0] <= 1.15 for extras in loose)


@pytest.mark.parametrize(
  ('mode', 'frames', 'words'),
  [('grammar', 40, ()), ('words', 29, ()), ('words', 20, ('beautiful',)), ('sentences', 29, ())],
)
def test_text_fits_the_frames(mode, frames, words):
  for number in range(3):
    case = clip.Settings(seed=1, size=32, mode=mode, frames=frames, words=words)
    record = clip.make_clip(case, number)
    times = record.extras['word_times'].reshape(-1, 2)
    assert times.min() >= 0.15
    assert times.max() <= frames / 25 - 0.15
    assert (mode == 'words') == bool(record.word)
    if record.word:
      start, end = record.extras['word_frames']
      a, b = times[record.text.split().index(record.word)]
      assert start <= a * 25 < start + 1
      assert end - 1 < b * 25 <= end


def test_the_target_is_in_the_middle_unless_its_carrier_does_not_fit_so():
  middles = []
  for number in range(12):
    record = clip.make_clip(clip.Settings(seed=1, size=32, mode='words', frames=60), number)
    times = record.extras['word_times'].reshape(-1, 2)
    middle = times[record.text.split().index(record.word)].mean()
    middles.append(middle)
    # What is left of the clip on the side where the carrier is longer.
    spare = min(times.min(), 2.4 - times.max()) - 0.16
    assert abs(middle - 1.2) < 1e-6 or spare == pytest.approx(0, abs=1e-6)
  assert np.median(np.abs(np.array(middles) - 1.2)) < 0.04


def test_long_enough_frames_get_a_carrier():
  record = clip.make_clip(clip.Settings(seed=1, size=32, mode='words'), 0)
  assert len(record.text.split()) == 4


def test_text_that_cannot_fit_is_refused():
  with pytest.raises(
    DataError, match=r'takes .* s at 450 words per minute; 12 frames leave 0\.16 s'
  ):
    clip.make_clip(clip.Settings(frames=12), 0)


def test_moods_change_the_voice():
  who = voice.Voice(150)
  sad, glad = (
    identity.voice_in_mood(who, identity.EMOTIONS[name], 1.0) for name in ('sad', 'happy')
  )
  text = 'we will lay one more ring'
  slow, quick = voice.speak(text, sad), voice.speak(text, glad)
  assert slow.seconds > 1.15 * quick.seconds
  assert median_pitch(slow.wave) < 0.9 * median_pitch(quick.wave)


# --------------------------------------------------------------------------------------------------
# The corpus
# --------------------------------------------------------------------------------------------------


def test_splits_hold_every_clip_once_and_unseen_puppets_apart():
  case = clip.Settings(identities=6, unseen_identities=2, eval_fraction=0.1)
  splits = [clip.split_of(case, number) for number in range(1000)]
  for split in ('valid', 'test', 'test_unseen'):
    assert 97 <= splits.count(split) <= 103
  assert splits.count('train') == 1000 - sum(map(splits.count, ('valid', 'test', 'test_unseen')))


def test_the_corpus_says_what_it_is(corpus, clips):
  info = records.read_info(corpus)
  assert {split: sum(counts) for split, counts in info.clips.items()} == {
    split: sum(record.split == split for record in clips) for split in ('train', 'valid', 'test')
  }
  assert (info.fps, info.height, info.width, info.sample_rate) == (25, 32, 32, 16_000)
  assert info.preparation['seed'] == 3
  assert info.licence.startswith('CC0')
  assert sorted(os.listdir(corpus))[0] == records.INFO_NAME  # nothing temporary is left
  found = read_all(corpus)
  assert found == {record.clip_id: clip_codec.encode(record) for record in clips}


def test_workers_and_shards_do_not_change_the_clips(corpus, tmp_path):
  puppet.make_corpus(tmp_path, SMALL, CLIPS, shards=2, workers=2, progress=False)
  assert len(records.read_info(tmp_path).clips['train']) == 2
  assert read_all(tmp_path) == read_all(corpus)
  assert not multiprocessing.active_children()


def test_unseen_puppets_are_in_their_split_only(tmp_path):
  case = clip.Settings(
    seed=1, size=32, frames=30, identities=4, unseen_identities=2, eval_fraction=0.25,
    mode='sentences', words=('moon', 'blue'),
  )  # fmt: skip
  puppet.make_corpus(tmp_path, case, 10, progress=False)
  speakers = {
    split: {record.speaker for record in read(tmp_path, split)}
    for split in records.read_info(tmp_path).clips
  }
  unseen = speakers.pop('test_unseen')
  assert unseen <= {'puppet002', 'puppet003'}
  assert not unseen & set.union(*speakers.values())
  assert records.read_info(tmp_path).preparation['words'] == ['moon', 'blue']


def test_an_interrupted_run_keeps_its_whole_shards(corpus, tmp_path, monkeypatch):
  made = []
  whole = clip.make_clip

  def until_interrupted(case, number):
    if len(made) == 5:
      raise KeyboardInterrupt
    made.append(number)
    return whole(case, number)

  monkeypatch.setattr(clip, 'make_clip', until_interrupted)
  with pytest.raises(KeyboardInterrupt):
    puppet.make_corpus(tmp_path, SMALL, CLIPS, shards=2, progress=False)
  kept = {name for name in os.listdir(tmp_path) if name.endswith('.tfrecord')}
  assert kept
  assert not (tmp_path / records.INFO_NAME).exists()
  first = {name: (tmp_path / name).stat().st_mtime_ns for name in kept}

  def counted(case, number):
    made.append(number)
    return whole(case, number)

  made.clear()
  monkeypatch.setattr(clip, 'make_clip', counted)
  puppet.make_corpus(tmp_path, SMALL, CLIPS, shards=2, progress=False)
  assert 0 < len(made) < CLIPS
  assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == first
  assert read_all(tmp_path) == read_all(corpus)

  made.clear()
  puppet.make_corpus(tmp_path, SMALL, CLIPS, shards=2, progress=False)
  assert made == []


def test_a_directory_with_another_corpus_is_refused(corpus, tmp_path):
  with pytest.raises(DataError, match='holds another corpus: clips 8 there, 9 here'):
    puppet.make_corpus(corpus, SMALL, 9, shards=1, progress=False)
  (tmp_path / 'lrs2-train-00000-of-00001.tfrecord').write_bytes(b'')
  with pytest.raises(DataError, match='holds another corpus: unknown'):
    puppet.make_corpus(tmp_path, SMALL, CLIPS, progress=False)


def test_a_run_that_was_interrupted_with_other_settings_is_refused(tmp_path):
  case = clip.Settings(seed=3, frames=1)
  with pytest.raises(DataError, match='takes'):
    puppet.make_corpus(tmp_path, case, 30, progress=False)
  with pytest.raises(DataError, match='seed 3 there, 0 here'):
    puppet.make_corpus(tmp_path, clip.Settings(frames=1), 30, progress=False)


def test_an_output_that_is_no_directory_is_refused(tmp_path):
  path = tmp_path / 'file'
  path.write_text('')
  with pytest.raises(DataError, match='cannot use the output directory'):
    puppet.make_corpus(str(path), SMALL, CLIPS, progress=False)
  (tmp_path / '.preparation.json').write_text('{')
  with pytest.raises(DataError, match='cannot use the output directory'):
    puppet.make_corpus(tmp_path, SMALL, CLIPS, progress=False)


def test_errors_in_workers_arrive_whole(tmp_path):
  case = clip.Settings(size=32, frames=10, eval_fraction=0)
  with pytest.raises(DataError, match='10 frames leave 0.08 s'):
    puppet.make_corpus(tmp_path, case, 2, shards=2, workers=2, progress=False)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'clips': 0}, '--clips=0; expected at least 1'),
    ({'seed': -1}, '--seed=-1; expected at least 0'),
    ({'size': 16}, '--size=16; expected 32 to 1024 pixels'),
    ({'identities': 0}, '--identities=0; expected at least 1'),
    ({'unseen_identities': 24}, '--unseen_identities=24; expected 0 to 23'),
    ({'frames': 0}, '--frames=0; expected at least 1'),
    ({'variability': 2.0}, '--variability=2.0; expected 0 to 1.5'),
    ({'sway': -1.0}, '--sway=-1.0; expected 0 to 1.5'),
    ({'eval_fraction': 0.5}, '--eval_fraction=0.5; expected 0 to below 0.50'),
    ({'shards': 0}, '--shards=0; expected 1 to 99999'),
    ({'workers': 0}, '--workers=0; expected at least 1'),
    ({'unseen_identities': 2, 'eval_fraction': 0.0}, 'have no clips at --eval_fraction=0'),
    ({'words': ('moon',)}, 'mode grammar has its own 51 words'),
    ({'clips': 3}, "--clips=3 at --eval_fraction=0.05 leaves split 'valid' empty"),
  ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, change, message):
  run = {name: change.pop(name) for name in ('shards', 'workers') if name in change}
  clips = change.pop('clips', 100)
  with pytest.raises(ConfigError, match=message):
    puppet.make_corpus(tmp_path / 'new', clip.Settings(**change), clips, progress=False, **run)
  assert not (tmp_path / 'new').exists()


def test_the_command_makes_a_corpus_and_fails_readably(tmp_path):
  def run(*arguments):
    return subprocess.run(
      [sys.executable, '-m', 'data_prep.puppet', f'--output={tmp_path}/out', *arguments],
      capture_output=True,
      text=True,
      cwd=ROOT,
    )

  small = ('--clips=2', '--size=32', '--frames=40', '--eval_fraction=0', '--workers=1')
  made = run(*small)
  assert made.returncode == 0, made.stderr
  assert made.stdout.strip().endswith('train 2 clips')
  assert json.loads((tmp_path / 'out' / records.INFO_NAME).read_text())['corpus'] == 'puppet'
  refused = run(*small, '--seed=1')
  assert refused.returncode == 2
  assert 'DataError: directory holds another corpus: seed 0 there, 1 here' in refused.stderr
  assert 'Traceback' not in refused.stderr


def test_help_imports_neither_jax_nor_tensorflow():
  script_text = (
    'import sys\n'
    'from data_prep import puppet\n'
    'from absl import flags\n'
    'flags.FLAGS.get_help()\n'
    'print([n for n in ("jax", "tensorflow", "cv2") if n in sys.modules])'
  )
  done = subprocess.run(
    [sys.executable, '-c', script_text],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  assert done.stdout.strip() == '[]', done.stderr


def started_command(directory):
  """Starts the command with two workers in a group of its own, and waits for its first clips."""
  # As from a terminal: a job in the background of a script ignores Ctrl-C, and so do its children.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    process = subprocess.Popen(
      [sys.executable, '-m', 'data_prep.puppet', f'--output={directory}', *SLOW],
      stderr=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      start_new_session=True,
      cwd=ROOT,
    )
  finally:
    signal.signal(signal.SIGINT, before)
  shown = ''
  while not re.search(r'[1-9]\d*/24', shown):
    shown += process.stderr.read(1)
    assert process.poll() is None, shown
  return process


@pytest.mark.faults
def test_a_killed_run_leaves_no_processes_and_can_go_on(tmp_path):
  draw = random.Random(0)
  for _ in range(3):
    process = started_command(tmp_path / 'a')
    time.sleep(draw.uniform(0, 0.5))
    process.kill()
    process.communicate(timeout=30)  # returns when the workers have let go of the pipes too
    whole_shards(tmp_path / 'a')
  for name in 'ab':
    again = [sys.executable, '-m', 'data_prep.puppet', f'--output={tmp_path / name}', *SLOW]
    subprocess.run(again, check=True, capture_output=True, cwd=ROOT)
  assert read_all(tmp_path / 'a') == read_all(tmp_path / 'b')
  assert sorted(os.listdir(tmp_path / 'a')) == sorted(os.listdir(tmp_path / 'b'))


@pytest.mark.faults
def test_an_interrupted_command_says_how_to_go_on(tmp_path):
  process = started_command(tmp_path)
  os.killpg(process.pid, signal.SIGINT)  # as a terminal does
  _, errors = process.communicate(timeout=30)
  assert process.returncode == 130
  assert errors.strip().endswith('The same command goes on from the last whole shard.')
  assert 'Traceback' not in errors
  assert not [name for name in os.listdir(tmp_path) if name.endswith('.partial')]
