"""Speech features: against the packages that define them, and what padding may not do."""

import jax
import librosa
import numpy as np
import pytest
import python_speech_features
from hypothesis import given, settings
from hypothesis import strategies as st

from tfg_jax.features import audio

RNG = np.random.default_rng(0)


def speech_like(samples):
  """Noise that swells and fades, with digital silence in it; int16."""
  swell = np.sin(np.linspace(0, 9, samples)) ** 2
  wav = (3000 * swell * RNG.standard_normal(samples)).astype(np.int16)
  wav[samples // 3 : samples // 2] = 0
  return wav


WAV = speech_like(7000)
SAMPLES = np.array([6000, 5001])
BATCH = np.stack([WAV, WAV])
LOG_MEL = jax.jit(audio.log_mel)
MFCC = jax.jit(audio.mfcc, static_argnums=2)
LOG_FILTERBANK = jax.jit(audio.log_filterbank, static_argnums=2)


def test_log_filterbank_is_that_of_python_speech_features():
  rows = LOG_FILTERBANK(BATCH, SAMPLES, 12)
  assert rows.shape == (2, 12, audio.FILTERBANK_FEATURES)
  for row, samples in zip(rows, SAMPLES, strict=True):
    log = python_speech_features.logfbank(WAV[:samples], 16_000)
    log = np.pad(log, ((0, -len(log) % 4), (0, 0))).reshape(-1, 104)
    expected = (log - log.mean(1, keepdims=True)) / np.sqrt(log.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(row[: len(log)], expected, atol=1e-4)
    assert not np.any(row[len(log) :])


def test_mfcc_is_that_of_python_speech_features():
  cepstra = MFCC(BATCH, SAMPLES, 40)
  for ours, samples in zip(cepstra, SAMPLES, strict=True):
    expected = python_speech_features.mfcc(WAV[:samples], 16_000)
    assert len(expected) == audio.num_frames(int(samples))
    np.testing.assert_allclose(ours[: len(expected)], expected, atol=2e-3)  # of about 100
    assert not np.any(ours[len(expected) :])


def test_log_mel_is_that_of_librosa_with_reflection():
  mel = LOG_MEL(BATCH, SAMPLES)
  assert mel.shape == (2, 36, audio.MEL_BINS)
  for ours, samples in zip(mel, SAMPLES, strict=True):
    wav = WAV[:samples].astype(np.float64) / 32768
    emphasised = np.append(wav[0], wav[1:] - 0.97 * wav[:-1])
    magnitude = np.abs(librosa.stft(emphasised, n_fft=800, hop_length=200, pad_mode='reflect'))
    basis = librosa.filters.mel(sr=16_000, n_fft=800, n_mels=80, fmin=55, fmax=7600)
    decibel = 20 * np.log10(np.maximum(1e-5, basis @ magnitude)) - 20
    expected = np.clip(8 * (decibel + 100) / 100 - 4, -4, 4).T
    np.testing.assert_allclose(ours[: len(expected)], expected, atol=1e-4)


def test_slaney_filters_are_those_of_librosa():
  ours = audio.slaney_filters(16_000, 800, 80, 55.0, 7600.0)
  theirs = librosa.filters.mel(sr=16_000, n_fft=800, n_mels=80, fmin=55, fmax=7600)
  np.testing.assert_allclose(ours, theirs, atol=1e-8)


def test_log_mel_refuses_audio_shorter_than_its_reflection():
  with pytest.raises(ValueError, match='needs more than 400 samples, got 400'):
    audio.log_mel(np.zeros((1, 400), np.int16), np.array([400]))


def test_silence_is_the_lowest_value():
  silence, samples = np.zeros_like(BATCH), np.array([7000, 7000])
  np.testing.assert_array_equal(LOG_MEL(silence, samples), -4)
  energy = MFCC(silence, samples, 40)[..., 0]
  np.testing.assert_allclose(energy, -36.0437, atol=1e-4)


@settings(max_examples=20)
@given(st.integers(1, 20_000))
def test_frames_are_counted_as_python_speech_features_counts_them(samples):
  frames = python_speech_features.sigproc.framesig(np.zeros(samples), 400, 160)
  assert audio.num_frames(samples) == len(frames)


@settings(max_examples=50)
@given(st.integers(0, 500), st.sampled_from([0.0, 0.04, 0.08]))
def test_mel_windows_start_at_whole_frames_without_rounding_errors(frame, lead):
  start = audio.mel_window_starts(np.float32(frame / 25), lead)
  assert start == (16 * (frame - round(25 * lead))) // 5


def test_mel_windows_are_the_same_for_few_and_for_many():
  rng = np.random.default_rng(0)
  wav = rng.integers(-9000, 9000, (2, 16_000)).astype(np.int16)
  count, times = np.array([16_000, 9_000]), np.array([[0.0, 0.31, 0.9], [0.52, 0.0, 0.2]])
  few = audio.mel_windows(wav, count, times)
  many = audio.mel_windows(wav, count, np.tile(times, 4))
  assert few.shape == (2, 3, 80, 16)
  np.testing.assert_allclose(many[:, :3], few, atol=1e-5)
  np.testing.assert_array_equal(many[:, :3], many[:, 3:6])
