"""Puppets as people: their voices, words, lips and faces."""

import sys
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.puppets import clip, identity, scene, script, visemes, voice
from tfg_jax.errors import DataError, MissingDependencyError


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
@settings(max_examples=50)
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
@settings(max_examples=50)
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
