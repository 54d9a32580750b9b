"""Voices: where somebody speaks, windows, log-mel; and what SF2F takes of a record."""

import dataclasses
import sys

import corpus
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfg_jax.data import voices
from tfg_jax.errors import ConfigError, DataError, MissingDependencyError
from tfg_jax.features import audio, voice

RATE = 16_000


def speech(seconds, seed=0):
  return np.random.default_rng(seed).normal(0, 3000, round(seconds * RATE)).astype(np.int16)


def quiet(seconds):
  return np.zeros(round(seconds * RATE), np.int16)


# --------------------------------------------------------------------------------------------------
# Voice activity
# --------------------------------------------------------------------------------------------------


def test_speech_begins_with_ten_voiced_frames_and_ends_with_ten_others():
  flags = [False] * 3 + [True] * 9 + [False] + [True] * 12 + [False] * 30 + [True] * 10
  segments = voice.speech_segments(flags)
  assert [(x[0], x[-1]) for x in segments] == [(13, 34), (55, 64)]
  assert voice.speech_segments([True] * 9) == []


def test_silence_is_removed():
  wav = np.concatenate([quiet(1), speech(1), quiet(1), speech(0.6, seed=1), quiet(1)])
  kept = voice.voiced(wav, 'energy')
  # Both stretches, each with the ten frames behind it that end it.
  assert len(kept) / RATE == pytest.approx(1.6 + 2 * 0.3, abs=0.1)
  np.testing.assert_array_equal(voice.voiced(wav, 'none'), wav)
  with pytest.raises(DataError, match='no speech in 2.00 s of sound'):
    voice.voiced(quiet(2), 'energy')
  with pytest.raises(ConfigError, match="the detector is 'ears'"):
    voice.voiced(wav, 'ears')


def test_without_webrtcvad_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'webrtcvad', None)
  with pytest.raises(MissingDependencyError, match='pip install webrtcvad-wheels'):
    voice.voiced(speech(1), 'webrtc')


# --------------------------------------------------------------------------------------------------
# Windows and log-mel
# --------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(samples=st.integers(1, 20_000), start=st.integers(0, 150))
def test_a_window_has_the_frames_of_the_whole_voice(samples, start):
  wav = speech(samples / RATE)
  wav = wav if len(wav) else np.ones(1, np.int16)
  total = int(audio.num_frames(len(wav)))
  start = min(start, total - 1)
  window, number = voice.cut(wav, start, 30)
  assert len(window) == voice.window_samples(30)
  # One frame of the past, then as many as there are.
  assert min(int(voice.valid_frames(number)), 30) == min(total - start, 30)
  begin = start * voice.HOP
  np.testing.assert_array_equal(window[voice.HOP : number], wav[begin : begin + number - voice.HOP])


def test_log_mel_of_a_window_and_behind_its_end():
  wav = speech(1)  # 99 frames
  whole, part = (voice.cut(wav, start, 60) for start in (0, 39))
  windows = np.stack([whole[0], part[0]])
  samples = np.array([whole[1], part[1]])
  mel = np.asarray(jax.jit(voice.log_mel)(windows, samples))
  assert mel.shape == (2, 60, 40)
  np.testing.assert_allclose(mel[0, 39:], mel[1, :21], atol=1e-5)
  long = voice.cut(wav, 39, 100)
  mel = np.asarray(voice.log_mel(long[0][None, None], np.array([[long[1]]])))
  assert mel.shape == (1, 1, 100, 40)
  np.testing.assert_allclose(mel[0, 0, 60:], voice.PADDING, rtol=1e-6)
  assert np.all(np.abs(mel[0, 0, :60] - voice.PADDING) > 0.1)


# --------------------------------------------------------------------------------------------------
# Records
# --------------------------------------------------------------------------------------------------


def record(**changes):
  return dataclasses.replace(corpus.clip(0), **changes)


def test_windows_do_not_span_utterances():
  parts = [speech(1.3, 1), speech(3.0, 2), speech(0.5, 3)]
  made = voices.windows(parts, 5, 125)
  assert made['windows_mask'].tolist() == [True, True, True, False, False]
  np.testing.assert_array_equal(made['windows'][0][160 : 160 + 1000], parts[0][:1000])
  np.testing.assert_array_equal(made['windows'][2][160:][:1000], parts[1][125 * 160 :][:1000])
  short = voices.windows([parts[2]], 2, 125)
  assert short['windows_mask'].tolist() == [True, False]
  np.testing.assert_array_equal(short['windows'][0][160 + 8000 :][:1000], parts[2][:1000])


def test_training_windows_start_anywhere():
  wav = speech(4)
  starts = set()
  for seed in range(30):
    made = voices.windows([wav], 1, 125, np.random.default_rng(seed))
    head = made['windows'][0][160:200]
    starts.add(next(i for i in range(400) if np.array_equal(wav[160 * i :][:40], head)))
  assert min(starts) < 60 and max(starts) > 200 and max(starts) < 398 - 125 + 1


def test_utterances():
  clip = record(wav=np.arange(100, dtype=np.int16))
  (whole,) = voices.utterances(clip)
  assert len(whole) == 100
  spans = {'utterances': np.array([0, 40, 40, 90, 120, 150])}
  assert [x[0] for x in voices.utterances(dataclasses.replace(clip, extras=spans))] == [0, 40]
  with pytest.raises(DataError, match='no speech in'):
    voices.voiced_utterances([quiet(1), quiet(0.5)], 'energy')
  assert len(voices.voiced_utterances([quiet(1), speech(1)], 'energy')) == 1


def test_portraits_and_people():
  clip = record()
  assert voices.read_portrait(clip, 16).shape == (16, 16, 3)
  assert voices.identity(clip, 1) == 0
  with pytest.raises(DataError, match=r'the extra identity is \[0\]; training needs one number be'):
    voices.identity(clip, 0)
  with pytest.raises(DataError, match='the record has no portrait'):
    voices.read_portrait(record(extras={}), 16)
  with pytest.raises(DataError, match='the portrait is not a picture'):
    voices.read_portrait(record(extras={'portrait': [b'nothing']}), 16)
