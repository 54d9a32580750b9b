"""Speech features against python_speech_features and Wav2Lip's librosa code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_close, golden

from tfg_jax.features import audio

pytestmark = pytest.mark.parity

# What the module's docstring promises; log values and cepstra are O(10).
FLOAT32 = 1e-5


def one(samples, padding=0):
  """A batch of one clip, with noise behind its end that must not be heard."""
  noise = np.random.default_rng(0).integers(-3000, 3000, padding, dtype=np.int16)
  return np.concatenate([samples, noise])[None], np.array([len(samples)])


def test_log_filterbank():
  arrays = golden('audio_logfbank')
  assert_close(audio._filterbank(), arrays['mid_mel_filterbank_f64'], FLOAT32)

  wav, num_samples = one(arrays['in_wav'])
  rows = jax.jit(audio.log_filterbank, static_argnums=2)(wav, num_samples, 25)
  assert_close(rows[0], arrays['out_layer_norm'], FLOAT32)

  emphasised = audio._emphasise(jnp.asarray(wav), num_samples)
  assert_close(emphasised[0, :500], arrays['mid_preemphasis_head_f64'], FLOAT32)
  frames = audio._cut(emphasised, 400, 160, 99)
  assert frames.shape[1:] == tuple(arrays['mid_frames_shape'])
  assert_close(frames[0, -1], arrays['mid_last_frame_f64'], FLOAT32)
  _, power = audio._short_time_power(wav, num_samples, 99)
  assert_close(power[0, 10], arrays['mid_power_frame10_f64'], FLOAT32)
  log = jnp.log(audio._without_zeros(power @ audio._filterbank().T))
  assert_close(log[0], arrays['mid_logfbank_f64'], FLOAT32)
  stacked = np.pad(log[0], ((0, 1), (0, 0))).reshape(25, 104)
  assert_close(stacked, arrays['mid_stacked'], FLOAT32)


def test_log_filterbank_lengths():
  arrays = golden('audio_logfbank')
  frames = audio.num_frames(arrays['in_lengths'])
  np.testing.assert_array_equal(frames, arrays['out_num_frames'])
  np.testing.assert_array_equal(-(-frames // audio.STACK), arrays['out_num_stacked'])

  wav, num_samples = one(arrays['in_wav'][:9000], padding=5000)
  rows = audio.log_filterbank(wav, num_samples, 20)[0]
  assert_close(rows[:14], arrays['out_layer_norm_9000'], FLOAT32)
  assert not np.any(rows[14:])


def test_mfcc():
  arrays = golden('syncnet_mfcc')
  wav, num_samples = one(arrays['in_pcm16'], padding=700)
  cepstra = jax.jit(audio.mfcc, static_argnums=2)(wav, num_samples, 101)[0]
  assert_close(cepstra[:99], arrays['out_mfcc'], FLOAT32)
  assert not np.any(cepstra[99:])
  assert_close(cepstra[:99].T[None, None], arrays['out_syncnet_input'], FLOAT32)

  emphasised = audio._emphasise(jnp.asarray(wav), num_samples)
  assert_close(emphasised[0, :16000], arrays['mid_preemph'], FLOAT32)
  frames = audio._cut(emphasised, 400, 160, 99)[0]
  assert_close(frames[::20], arrays['mid_frames_sub'], FLOAT32)
  energy, power = audio._short_time_power(wav, num_samples, 99)
  assert_close(power[0, ::10], arrays['mid_pspec_sub'], FLOAT32)
  assert_close(jnp.log(audio._without_zeros(energy))[0], arrays['mid_log_energy'], FLOAT32)
  assert_close(audio._filterbank(), arrays['mid_filterbank'], FLOAT32)
  log = jnp.log(audio._without_zeros(power @ audio._filterbank().T))[0]
  assert_close(log, arrays['mid_log_fbank'], FLOAT32)
  assert_close(log @ audio._cosine_transform(), arrays['mid_dct'], FLOAT32)
  assert_close(audio._lifter(), arrays['mid_lifter'], FLOAT32)


def test_log_mel():
  arrays = golden('wav2lip_mel')
  wav, num_samples = one(arrays['in_pcm16'])
  np.testing.assert_array_equal(wav[0] / np.float32(32768), arrays['in_wav'])
  mel = jax.jit(audio.log_mel)(wav, num_samples)[0].T
  assert_close(mel, arrays['out_mel'], FLOAT32)
  # Zeros at the ends, as newer librosa has them, would be something else.
  assert np.max(np.abs(mel - arrays['out_mel_constant_pad'])) > 0.1

  padded_wav, num_samples = one(arrays['in_pcm16'], padding=1234)
  assert_close(audio.log_mel(padded_wav, num_samples)[0, :81].T, arrays['out_mel'], FLOAT32)

  basis = audio.slaney_filters(16000, 800, 80, 55.0, 7600.0)
  assert_close(basis, arrays['mid_mel_basis'], FLOAT32)
  emphasised = audio._emphasise(jnp.asarray(wav), num_samples) / 32768
  assert_close(emphasised[0], arrays['mid_preemph'], FLOAT32)
  padded = audio._reflect(emphasised[0], num_samples[0], 400)
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 800)
  magnitude = np.abs(np.fft.rfft(audio._cut(padded[None], 800, 200, 81)[0] * window)).T
  assert_close(magnitude[:, ::10], arrays['mid_stft_mag_sub'], FLOAT32)
  linear = basis @ magnitude
  assert_close(linear, arrays['mid_mel_linear'], FLOAT32)
  decibel = 20 * np.log10(np.maximum(1e-5, linear))
  # Below the floor that comes next, the reference's own float32 shows.
  assert_close(decibel, arrays['mid_db'])
  assert_close(decibel - 20, arrays['mid_db_minus_ref'])


@pytest.mark.parametrize('rate', ['25_0', '30_0', '29_97'])
def test_windows_start_where_wav2lip_inference_starts_them(rate):
  expected = golden('wav2lip_mel')[f'out_infer_starts_fps{rate}']
  times = np.arange(len(expected)) / float(rate.replace('_', '.'))
  starts = audio.mel_window_starts(times, lead=0)
  # Its last chunk is moved back to the last full window.
  np.testing.assert_array_equal(np.minimum(starts, 81 - audio.MEL_WINDOW), expected)


def test_windows_start_where_wav2lip_training_starts_them():
  arrays = golden('wav2lip_mel')
  frames = arrays['in_train_frame_id']
  starts = audio.mel_window_starts(frames / 25, lead=0)
  np.testing.assert_array_equal(starts, arrays['out_train_window_start'])

  each = audio.mel_window_starts((frames[:, None] + np.arange(5)) / 25)
  valid = arrays['out_train_valid']
  np.testing.assert_array_equal(each[valid], arrays['out_train_indiv_starts'][valid])
  inside = (each >= 0).all(1) & (each + audio.MEL_WINDOW <= 81).all(1)
  np.testing.assert_array_equal(inside & (starts + audio.MEL_WINDOW <= 81), valid)


def test_mel_windows_are_pieces_of_the_spectrogram_with_repeated_edges():
  arrays = golden('wav2lip_mel')
  wav, num_samples = one(arrays['in_pcm16'], padding=3000)
  times = np.array([[0, 0.4, 1.0]])
  windows = audio.mel_windows(wav, num_samples, times)[0]
  for window, start in zip(windows, [-4, 28, 76], strict=True):
    columns = np.clip(np.arange(start, start + 16), 0, 80)
    assert_close(window, arrays['out_mel'][:, columns], FLOAT32)
