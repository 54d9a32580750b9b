"""Voices as SF2F hears them: where somebody speaks, cut into windows, as log-mel.

On the host, `voiced` removes silence and `cut` takes windows out of what is left; on the device,
`log_mel` turns them into the networks' input. Waves are (N,) int16 mono at 16 kHz throughout; a
frame of log-mel is 25 ms, 100 per second.

Source: BAI-Yeqi/SF2F_PyTorch@e346b68 `utils/wav2mel.py`, `utils/vad_ex.py`, `datasets/`.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from tfg_jax.errors import ConfigError, DataError, MissingDependencyError
from tfg_jax.features import audio

MEL_BINS = 40
WINDOW = 125  # frames that the fuser's windows and the evaluation's crops have
STRIDE = 63  # frames from window to window in use; in training windows do not overlap
# Mean and deviation of raw log-mel over HQ-VoxCeleb (scripts/compute_mel_mean_var.py).
_MEAN, _DEVIATION = 10.9915, 3.1661
PADDING = -_MEAN / _DEVIATION  # short voices are padded with a raw value of 0

HOP, _LENGTH = 160, 400  # samples of a frame
_VAD_FRAME = 480  # samples, 30 ms
_VAD_RING = 10  # frames
_VAD_MODE = 1  # of WebRTC's detector: 0 lets most pass, 3 least
_QUIET = 30.0  # dB below the loud frames of a recording

DETECTORS = ('webrtc', 'energy', 'none')


# --------------------------------------------------------------------------------------------------
# On the host: int16 in, int16 out
# --------------------------------------------------------------------------------------------------


def voiced(wav: np.ndarray, detector: str) -> np.ndarray:
  """Keeps the stretches of a recording where somebody speaks.

  Args:
    wav: (N,) int16.
    detector: 'webrtc', the official one, of the package webrtcvad; 'energy', all that is within 30
      dB of the loud frames, for recordings from quiet rooms; 'none' keeps everything.

  Raises:
    ConfigError: for another detector.
    DataError: if nobody speaks.
    MissingDependencyError: without webrtcvad.
  """
  if detector not in DETECTORS:
    raise ConfigError(f'the detector is {detector!r}', hint=f'use one of {", ".join(DETECTORS)}')
  if detector == 'none':
    return wav
  frames = _vad_frames(wav)
  flags = webrtc_flags(wav) if detector == 'webrtc' else energy_flags(wav)
  segments = speech_segments(flags)
  if not segments:
    raise DataError(
      f'no speech in {len(wav) / audio.SAMPLE_RATE:.2f} s of sound',
      hint='Use a recording of somebody who speaks for 0.3 s or more.',
    )
  return frames[np.concatenate(segments)].ravel()


def _vad_frames(wav):
  """(F, 480); officially a last frame that just fits is left out."""
  return wav[: max(len(wav) - 1, 0) // _VAD_FRAME * _VAD_FRAME].reshape(-1, _VAD_FRAME)


def webrtc_flags(wav: np.ndarray) -> np.ndarray:
  """(F,) bool, WebRTC's opinion of each 30 ms.

  Raises:
    MissingDependencyError: without webrtcvad.
  """
  try:
    import webrtcvad
  except ImportError as error:
    raise MissingDependencyError(
      'the voice activity detector of SF2F is not installed',
      hint='pip install webrtcvad-wheels, or use --config.model.voice_activity=energy',
    ) from error
  vad = webrtcvad.Vad(_VAD_MODE)
  return np.array(
    [vad.is_speech(frame.tobytes(), audio.SAMPLE_RATE) for frame in _vad_frames(wav)], bool
  )


def energy_flags(wav: np.ndarray) -> np.ndarray:
  """(F,) bool, whether each 30 ms is within 30 dB of the recording's loud frames."""
  frames = _vad_frames(wav).astype(np.float64)
  if not frames.any():
    return np.zeros(len(frames), bool)
  energy = np.square(frames).mean(1)
  return energy > np.percentile(energy, 95) * 10 ** (-_QUIET / 10)


def speech_segments(flags: Sequence[bool]) -> list[np.ndarray]:
  """Frame numbers of each stretch of speech.

  It starts with ten voiced frames in a row and ends with ten unvoiced ones, which it keeps.
  """
  segments, ring, current = [], [], None
  for number in range(len(flags)):
    ring = [*ring, number][-_VAD_RING:]
    if current is None:
      if len(ring) == _VAD_RING and all(flags[i] for i in ring):
        current, ring = ring, []
    else:
      current.append(number)
      if len(ring) == _VAD_RING and not any(flags[i] for i in ring):
        segments.append(np.array(current))
        current, ring = None, []
  if current is not None:
    segments.append(np.array(current))
  return segments


def window_starts(frames: int, length: int, stride: int, first: int = 0) -> np.ndarray:
  """First frames of whole windows of `length` from frame `first` on; none in short voices."""
  return np.arange(first, frames - length + 1, stride)


def cut(wav: np.ndarray, start: int, frames: int) -> tuple[np.ndarray, int]:
  """Takes frames start, start + 1, ... out of a voice, so that `log_mel` gives the same numbers.

  Args:
    wav: (N,) int16.
    start: first frame.
    frames: number of them.

  Returns:
    (160 (frames + 1) + 240,) int16 with one frame of the past in front and zeros behind the end,
    and how many of its samples are sound.
  """
  past = np.zeros(HOP if start == 0 else 0, np.int16)
  begin = max(start - 1, 0) * HOP
  length = window_samples(frames)
  found = np.concatenate([past, wav[begin : begin + length - len(past)]])
  return np.concatenate([found, np.zeros(length - len(found), np.int16)]), len(found)


def window_samples(frames: int) -> int:
  """How long the window of `cut` is for so many frames."""
  return HOP * frames + _LENGTH


# --------------------------------------------------------------------------------------------------
# On the device
# --------------------------------------------------------------------------------------------------


def valid_frames(num_samples):
  """How many frames of a window of `cut` are sound, (...) of its number of samples; at least 1."""
  return jnp.maximum(audio.num_frames(num_samples) - 1, 1)


def log_mel(windows, num_samples):
  """The networks' input.

  Args:
    windows: (..., S) int16, see `cut`.
    num_samples: (...) int, valid samples of each.

  Returns:
    (..., F, 40) float32 with F = (S - 400) / 160, normalised; `PADDING` behind the sound.
  """
  shape, frames = windows.shape[:-1], (windows.shape[-1] - _LENGTH) // HOP
  num_samples = jnp.asarray(num_samples).reshape(-1)
  raw = audio.log_energies(
    windows.reshape(-1, windows.shape[-1]), num_samples, frames + 1, MEL_BINS
  )
  mel = (raw[:, 1:] - _MEAN) / _DEVIATION
  valid = jnp.arange(frames) < valid_frames(num_samples)[:, None]
  return jnp.where(valid[..., None], mel, PADDING).reshape(*shape, frames, MEL_BINS)
