"""Speech features on the device: log filter banks (AV-HuBERT), log-mel (Wav2Lip), MFCC (SyncNet).

All take a batch of 16 kHz mono clips, (B, S) int16 padded with anything behind `num_samples` (B,),
have static shapes and can be jitted. Numbers are float32; against the float64 of the public code
the largest error on the golden speech is 1e-6 of the largest value for log filter banks and MFCCs
and 6e-6 for log-mel (tests/parity/test_audio_golden.py holds 1e-5).

Sources: python_speech_features 0.6 `logfbank` and `mfcc`; Rudrabha/Wav2Lip `audio.py` with
librosa 0.7; Sxjdwang/TalkLip `train.py`.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tfg_jax.features import spectrum

SAMPLE_RATE = 16_000
PREEMPHASIS = 0.97

# python_speech_features: 25 ms windows every 10 ms, rectangular.
_WINDOW = 400
_HOP = 160
_FFT = 512
_FILTERS = 26
_LOG_FLOOR = float(np.finfo(np.float64).eps)  # stands for an exact zero: log -> -36.04

STACK = 4  # filter bank frames per row of the global encoder: 25 rows per second
FILTERBANK_FEATURES = STACK * _FILTERS
SAMPLES_PER_ROW = STACK * _HOP

MFCC_COEFFICIENTS = 13
_LIFTER = 22

# Wav2Lip: 50 ms windows every 12.5 ms.
_MEL_FFT = 800
_MEL_HOP = 200
MEL_BINS = 80
MEL_WINDOW = 16  # columns that one frame of video hears: 0.2 s
_MEL_RATE = SAMPLE_RATE / _MEL_HOP  # columns per second
_MEL_LOWEST, _MEL_HIGHEST = 55.0, 7600.0  # Hz


def num_frames(num_samples):
  """Returns how many 10 ms frames python_speech_features makes of (...) `num_samples`."""
  return 1 + (num_samples > _WINDOW) * -((_WINDOW - num_samples) // _HOP)


def log_filterbank(wav, num_samples, rows: int):
  """Stacked log filter banks as AV-HuBERT hears them, one row per 40 ms.

  Args:
    wav: (B, S) int16, or floats on the same scale: amplitudes are not divided by 32768.
    num_samples: (B,) int, valid samples of each clip, at least 1.
    rows: T, length of the result; clips that are longer lose their end.

  Returns:
    (B, T, 104) float32, each row with mean 0 and variance 1 over its 4 x 26 values; rows behind the
    audio are zero.
  """
  num_samples = jnp.asarray(num_samples)
  log = log_energies(wav, num_samples, rows * STACK, _FILTERS)
  valid = jnp.arange(rows * STACK) < num_frames(num_samples)[:, None]
  stacked = jnp.where(valid[..., None], log, 0).reshape(len(log), rows, FILTERBANK_FEATURES)
  centred = stacked - stacked.mean(-1, keepdims=True)
  return centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)


def log_energies(wav, num_samples, frames: int, filters: int):
  """Natural logarithms of mel filter energies, one row per 10 ms (`logfbank`).

  Args:
    wav: (B, S) int16, or floats on the same scale.
    num_samples: (B,) int, valid samples of each clip, at least 1.
    frames: F, length of the result.
    filters: between 0 and 8 kHz.

  Returns:
    (B, F, filters) float32, -36.04 for digital silence. Rows from `num_frames(num_samples)` on mean
    nothing.
  """
  _, power = _short_time_power(wav, jnp.asarray(num_samples), frames)
  return jnp.log(_without_zeros(power @ _filterbank(filters).T))


def mfcc(wav, num_samples, frames: int):
  """13 cepstra every 10 ms as SyncNet hears them; the first is the log energy.

  Args:
    wav: (B, S) int16, or floats on the same scale.
    num_samples: (B,) int, valid samples of each clip, at least 1.
    frames: F, length of the result.

  Returns:
    (B, F, 13) float32; frames from `num_frames(num_samples)` on are zero.
  """
  num_samples = jnp.asarray(num_samples)
  energy, power = _short_time_power(wav, num_samples, frames)
  log = jnp.log(_without_zeros(power @ _filterbank().T))
  cepstra = (log @ _cosine_transform()) * _lifter()
  cepstra = cepstra.at[..., 0].set(jnp.log(_without_zeros(energy)))
  valid = jnp.arange(frames) < num_frames(num_samples)[:, None]
  return jnp.where(valid[..., None], cepstra, 0)


def log_mel(wav, num_samples):
  """Log-mel spectrogram as Wav2Lip hears it, 80 columns per second.

  Args:
    wav: (B, S) int16.
    num_samples: (B,) int, valid samples of each clip, more than 400: the first and the last 400
      samples are reflected at the ends.

  Returns:
    (B, C, 80) float32 in [-4, 4], with C = 1 + S // 200 and silence at -4. Of a clip only the first
    1 + num_samples // 200 columns mean something.

  Raises:
    ValueError: if S is 400 or less.
  """
  columns = 1 + wav.shape[1] // _MEL_HOP
  return _mel_columns(_cut(_mel_signal(wav, num_samples), _MEL_FFT, _MEL_HOP, columns))


def _mel_signal(wav, num_samples):
  """(B, 400 + S + 400) float32: column c of the spectrogram is of the 800 samples from 200 c on."""
  pad = _MEL_FFT // 2
  if wav.shape[1] <= pad:
    raise ValueError(f'log_mel needs more than {pad} samples, got {wav.shape[1]}')
  num_samples = jnp.asarray(num_samples)
  emphasised = _emphasise(wav.astype(jnp.float32) / 32768, num_samples)
  return jax.vmap(_reflect, in_axes=(0, 0, None))(emphasised, num_samples, pad)


def _mel_columns(pieces):
  """(..., 800) samples to (..., 80) log-mel in [-4, 4]."""
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_MEL_FFT) / _MEL_FFT)  # periodic Hann
  magnitude = spectrum.magnitudes(pieces * np.float32(window))
  with jax.default_matmul_precision('highest'):
    mel = magnitude @ slaney_filters(
      SAMPLE_RATE, _MEL_FFT, MEL_BINS, _MEL_LOWEST, _MEL_HIGHEST
    ).T.astype(np.float32)
  # -100 dB to 20 dB, 20 dB as the reference, mapped to [-4, 4]: the two steps of Wav2Lip in one.
  return jnp.clip(1.6 * jnp.log10(jnp.maximum(mel, 1e-5)) + 2.4, -4, 4)


def mel_window_starts(times, lead: float = 0.04):
  """Returns the first mel column, int32, of the window for frames at `times`, (...) seconds.

  The window of 16 columns starts `lead` seconds before its frame: 0.04 as in Wav2Lip's training, 0
  as in its inference script, 0.08 to centre it on the frame.
  """
  # Frame times such as 0.04 are not exact in float32; a column lasts 12.5 ms.
  return jnp.floor((jnp.asarray(times) - lead) * _MEL_RATE + 1e-3).astype(jnp.int32)


def mel_windows(wav, num_samples, times, lead: float = 0.04):
  """Cuts the 0.2 s of log-mel that belong to each frame.

  Args:
    wav, num_samples: as for `log_mel`.
    times: (B, n) seconds from the start of the audio to each frame.
    lead: see `mel_window_starts`.

  Returns:
    (B, n, 80, 16) float32 in [-4, 4]; where a window leaves the audio, its first or last column
    repeats.
  """
  columns = mel_window_starts(times, lead)[..., None] + jnp.arange(MEL_WINDOW)  # (B, n, 16)
  last = jnp.asarray(num_samples)[:, None, None] // _MEL_HOP
  columns = jnp.clip(columns, 0, last)
  if times.shape[1] * MEL_WINDOW < wav.shape[1] // _MEL_HOP:  # few windows of a long clip
    samples = columns[..., None] * _MEL_HOP + jnp.arange(_MEL_FFT)
    windows = _mel_columns(_take(_mel_signal(wav, num_samples), samples))
  else:
    windows = _take(log_mel(wav, num_samples), columns)
  return windows.swapaxes(-1, -2)


def _take(arrays, index):
  """Rows (B, ...) of each of B arrays."""
  return jax.vmap(lambda array, rows: array[rows])(arrays, index)


# --------------------------------------------------------------------------------------------------
# What they share
# --------------------------------------------------------------------------------------------------


def _emphasise(wav, num_samples):
  """y[n] = x[n] - 0.97 x[n - 1] on the valid samples, zero behind them; (B, S) float32."""
  wav = wav.astype(jnp.float32)
  before = jnp.pad(wav, ((0, 0), (1, 0)))[:, :-1]
  valid = jnp.arange(wav.shape[1]) < num_samples[:, None]
  return jnp.where(valid, wav - PREEMPHASIS * before, 0)


def _cut(signal, length: int, hop: int, count: int):
  """(B, S) to (B, count, length): windows every `hop` samples, zeros behind the signal's end.

  Windows are put together from blocks that they share, which needs no gather.
  """
  block = math.gcd(length, hop)
  needed = (count - 1) * hop + length
  missing = max(0, needed - signal.shape[1])
  signal = jnp.pad(signal, ((0, 0), (0, missing)))[:, :needed]
  blocks = signal.reshape(len(signal), -1, block)
  step = hop // block
  parts = [blocks[:, i : i + (count - 1) * step + 1 : step] for i in range(length // block)]
  return jnp.concatenate(parts, axis=-1)


def _reflect(signal, length, pad: int):
  """(S,) with `length` valid samples to (S + 2 pad,), mirrored at both ends, without the ends."""
  head = signal[1 : pad + 1][::-1]
  tail = lax.dynamic_slice(signal, (length - 1 - pad,), (pad,))[::-1]
  padded = jnp.concatenate([head, signal, jnp.zeros(pad)])
  return lax.dynamic_update_slice(padded, tail, (pad + length,))


def _short_time_power(wav, num_samples, frames: int):
  """Energy (B, F) and power spectrum (B, F, 257) of 25 ms frames; both scaled by 1/512."""
  cut = _cut(_emphasise(wav, num_samples), _WINDOW, _HOP, frames)
  power = jnp.square(spectrum.magnitudes(cut, _FFT)) / _FFT
  return power.sum(-1), power


def _without_zeros(x):
  return jnp.where(x == 0, _LOG_FLOOR, x)


@functools.cache
def _filterbank(filters=_FILTERS):
  """(filters, 257) float32: triangles with corners on FFT bins, evenly spaced in mel, peak 1."""
  highest = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
  corners = 700 * (10 ** (np.linspace(0, highest, filters + 2) / 2595) - 1)  # Hz
  corners = np.floor((_FFT + 1) * corners / SAMPLE_RATE)
  bins = np.arange(_FFT // 2 + 1)
  low, peak, high = (corners[i : i + filters, None] for i in range(3))
  rising, falling = (bins - low) / (peak - low), (high - bins) / (high - peak)
  return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def _cosine_transform():
  """(26, 13) float32: orthonormal DCT-II."""
  n, k = np.arange(_FILTERS)[:, None], np.arange(MFCC_COEFFICIENTS)
  basis = np.cos(np.pi * k * (2 * n + 1) / (2 * _FILTERS)) * np.sqrt(2 / _FILTERS)
  basis[:, 0] /= np.sqrt(2)
  return basis.astype(np.float32)


def _lifter():
  """(13,) float32 weights that raise the higher cepstra."""
  n = np.arange(MFCC_COEFFICIENTS)
  return (1 + _LIFTER / 2 * np.sin(np.pi * n / _LIFTER)).astype(np.float32)


@functools.cache
def slaney_filters(sample_rate: int, fft: int, bins: int, lowest: float, highest: float):
  """(bins, 1 + fft // 2) float64 mel filters of unit area, on Slaney's scale (librosa's default).

  The scale is linear up to 1000 Hz, 15 mel there, and logarithmic above.
  """

  def to_mel(hz):
    return np.where(
      hz < 1000, 3 * hz / 200, 15 + 27 * np.log(np.maximum(hz, 1) / 1000) / np.log(6.4)
    )

  def to_hz(mel):
    return np.where(mel < 15, 200 * mel / 3, 1000 * 6.4 ** ((mel - 15) / 27))

  corners = to_hz(np.linspace(to_mel(lowest), to_mel(highest), bins + 2))
  frequencies = np.arange(1 + fft // 2) * sample_rate / fft
  low, peak, high = (corners[i : i + bins, None] for i in range(3))
  rising, falling = (frequencies - low) / (peak - low), (high - frequencies) / (high - peak)
  return np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)


# --------------------------------------------------------------------------------------------------
# Cepstra of the magnitude spectrum, 300 to 3700 Hz (DAVS)
# --------------------------------------------------------------------------------------------------

MFCC_WINDOW = (20, 12)  # moments of 10 ms, and the cepstra 1 to 12
_VOICE_FILTERS = 13
_VOICE_LOWEST, _VOICE_HIGHEST = 300.0, 3700.0  # Hz
_MFCC_LEAD = 8  # moments of a window before its frame


def magnitude_mfcc(wav, num_samples, frames: int, *, floor: float = 0.0):
  """13 cepstra every 10 ms of the magnitude (not power) spectrum, as SyncNet's MATLAB recipe has
  them; c0 is the first. No frame is padded: those that reach behind the audio mean nothing.

  Args:
    wav: (B, S) int16, or floats on the same scale.
    num_samples: (B,) int, valid samples of each clip; (num_samples - 400) // 160 + 1 frames.
    frames: F, length of the result.
    floor: what a filter gives at least. 0 is the official recipe, where digital silence gives
      infinities; 1 is below the rounding noise of 16 bits, so it changes nothing but such silence.

  Returns:
    (B, F, 13) float32; up to 2e-6 of the largest from the float64 of the recipe.

  Source: DAVS `preprocess/savemfcc.m` with Wojcicki's `mfcc.m`.
  """
  cut = _cut(_emphasise(wav, jnp.asarray(num_samples)), _WINDOW, _HOP, frames)
  magnitude = spectrum.magnitudes(cut * np.hamming(_WINDOW).astype(np.float32), _FFT)
  with jax.default_matmul_precision('highest'):
    energies = magnitude @ _voice_filters().T
    log = jnp.log(jnp.maximum(energies, floor))
    return (log @ _voice_cosines()) * _lifter()


def mfcc_windows(wav, num_samples, times, *, floor: float = 0.0):
  """Cuts the 0.2 s of cepstra around each video frame, c0 left out.

  Args:
    wav, num_samples, floor: as for `magnitude_mfcc`; at least 400 samples.
    times: (B, n) seconds from the start of the audio to each frame.

  Returns:
    (B, n, 20, 12) float32; row 8 of a window starts with its frame. Where a window leaves the
    audio, its first or last moment repeats.
  """
  total = (wav.shape[1] - _WINDOW) // _HOP + 1
  cepstra = magnitude_mfcc(wav, num_samples, total, floor=floor)[..., 1:]
  # Frame times such as 0.04 are not exact in float32.
  first = jnp.floor(jnp.asarray(times) * (SAMPLE_RATE / _HOP) + 1e-3).astype(jnp.int32) - _MFCC_LEAD
  moments = first[..., None] + jnp.arange(MFCC_WINDOW[0])  # (B, n, 20)
  last = (jnp.asarray(num_samples)[:, None, None] - _WINDOW) // _HOP
  moments = jnp.clip(moments, 0, jnp.maximum(last, 0))
  return jax.vmap(lambda clip, index: clip[index])(cepstra, moments)


def _voice_corners():
  """(15,) float64 Hz, evenly spaced in mel."""
  lowest, highest = (1127 * np.log(1 + hz / 700) for hz in (_VOICE_LOWEST, _VOICE_HIGHEST))
  return 700 * (np.exp(np.linspace(lowest, highest, _VOICE_FILTERS + 2) / 1127) - 1)


@functools.cache
def _voice_filters():
  """(13, 257) float32: triangles in Hz between the corners, peak 1."""
  corners = _voice_corners()
  frequencies = np.arange(_FFT // 2 + 1) * SAMPLE_RATE / _FFT
  low, peak, high = (corners[i : i + _VOICE_FILTERS, None] for i in range(3))
  rising, falling = (frequencies - low) / (peak - low), (high - frequencies) / (high - peak)
  return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def _voice_cosines():
  """(13, 13) float32: DCT-II whose first column is not made orthonormal."""
  n, k = np.arange(_VOICE_FILTERS)[:, None] + 0.5, np.arange(MFCC_COEFFICIENTS)
  return (np.cos(np.pi * k * n / _VOICE_FILTERS) * np.sqrt(2 / _VOICE_FILTERS)).astype(np.float32)
