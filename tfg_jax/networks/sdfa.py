"""Speech-driven facial animation: one picture, or a voice, and speech to the frames of a video.

Sources: DinoMan/speech-driven-animation (inference code), whose latent sizes stand in its model
files; Vougioukas, Petridis and Pantic (IJCV 2020), whose discriminators have no public code: the
wiring here is theirs, the sizes are ours. The voice encoder is Speech2Face's (Oh et al., CVPR 2019)
as that paper lists it.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from tfg_jax.networks import layers

_WINDOW = 3200  # samples, 0.2 s
_LEAD = 1280  # of them are before the frame
# kernel, stride, padding: 3200 -> 200 -> 100 -> 50 -> 25 -> 5; then one more over what is left.
_AUDIO = ((80, 16, 32), (4, 2, 1), (4, 2, 1), (4, 2, 1), (10, 5, 3))


def audio_windows(wav, frames: int, fps: float):
  """Cuts (B, S) int16 speech at 16 kHz into the (B, frames, 3200) windows around its frames."""
  starts = jnp.round(jnp.arange(frames) * (16_000 / fps)).astype(jnp.int32)
  padded = jnp.pad(wav, ((0, 0), (_LEAD, _WINDOW)))
  place = jnp.minimum(starts[:, None] + jnp.arange(_WINDOW), padded.shape[1] - 1)
  return padded[:, place] / 32768


class GRU(nn.Module):
  """One layer of PyTorch's GRU: gates in the order reset, update, new; two biases."""

  features: int

  @nn.compact
  def __call__(self, x):  # (B, T, in) -> (B, T, features), from a zero state
    init = layers.uniform_init(self.features)
    gates = 3 * self.features
    from_input = self.param('input_kernel', init, (x.shape[-1], gates))
    from_hidden = self.param('hidden_kernel', init, (self.features, gates))
    input_bias = self.param('input_bias', init, (gates,))
    hidden_bias = self.param('hidden_bias', init, (gates,))
    driven = x.astype(jnp.float32) @ from_input + input_bias

    def step(hidden, driven):
      r, z, n = jnp.split(driven, 3, axis=-1)
      old_r, old_z, old_n = jnp.split(hidden @ from_hidden + hidden_bias, 3, axis=-1)
      new = jnp.tanh(n + jax.nn.sigmoid(r + old_r) * old_n)
      update = jax.nn.sigmoid(z + old_z)
      hidden = (1 - update) * new + update * hidden
      return hidden, hidden

    _, out = lax.scan(step, jnp.zeros((len(x), self.features)), driven.swapaxes(0, 1))
    return out.swapaxes(0, 1)


class AudioEncoder(nn.Module):
  """Windows of 0.2 s to codes."""

  features: int = 256
  widths: Sequence[int] = (16, 32, 64, 128, 256)
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, windows, *, train: bool):  # (N, 3200) -> (N, features) in [-1, 1]
    x = windows[..., None]
    for width, (kernel, stride, padding) in zip(self.widths, _AUDIO, strict=True):
      x = layers.Conv(width, (kernel,), stride, padding, dtype=self.dtype)(x)
      x = nn.relu(layers.BatchNorm(axis_name=self.axis_name, dtype=self.dtype)(x, train=train))
    x = layers.Conv(self.features, (x.shape[1],), dtype=self.dtype)(x)
    return jnp.tanh(x[:, 0]).astype(jnp.float32)


class SpeechEncoder(nn.Module):
  """Audio encoder and two layers of GRU over the windows of a clip."""

  features: int = 256
  widths: Sequence[int] = (16, 32, 64, 128, 256)
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, windows, *, train: bool):  # (B, T, 3200) -> (B, T, features)
    encoder = AudioEncoder(self.features, self.widths, self.axis_name, self.dtype)
    x = encoder(windows.reshape(-1, windows.shape[-1]), train=train)
    x = x.reshape(*windows.shape[:2], -1)
    for _ in range(2):
      x = GRU(self.features)(x)
    return x


class FaceEncoder(nn.Module):
  """A picture to its code, with the maps on the way."""

  features: int = 50
  widths: Sequence[int] = (64, 128, 256, 512, 1024)
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """Takes (B, S, S, 3) in [-1, 1]; returns (B, features) and the maps from S/2 to S/32."""
    x, maps = image, []
    for width in self.widths:
      x = layers.Conv(width, (4, 4), 2, 1, use_bias=False, dtype=self.dtype)(x)
      x = nn.relu(layers.BatchNorm(axis_name=self.axis_name, dtype=self.dtype)(x, train=train))
      maps.append(x)
    code = layers.Conv(self.features, x.shape[1:3], use_bias=False, dtype=self.dtype)(x)
    return jnp.tanh(code[:, 0, 0]).astype(jnp.float32), maps


class FrameGenerator(nn.Module):
  """Codes to frames: a U-Net's way up, or a plain one where there is no picture to skip from."""

  image_size: int = 128
  widths: Sequence[int] = (1024, 512, 256, 128, 64)
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, code, maps=None, *, train: bool):
    """Draws frames.

    Args:
      code: (N, D), speech, noise and identity of each frame.
      maps: of `FaceEncoder`, a row for each frame, or None.
      train: whether batch statistics are the batch's own.

    Returns:
      (N, S, S, 3) in [-1, 1], float32.
    """

    def up(x, features, kernel=4, strides=2, padding=1):
      x = layers.ConvTranspose(
        features, (kernel, kernel), strides, padding, use_bias=False, dtype=self.dtype
      )(x)
      norm = layers.BatchNorm(axis_name=self.axis_name, dtype=self.dtype)
      return nn.relu(norm(x, train=train))

    x = up(code[:, None, None], self.widths[0], self.image_size // 32, 1, 0)
    for level, width in enumerate(self.widths[1:]):
      if maps is not None:
        x = jnp.concatenate([x, maps[-1 - level]], axis=-1)
        x = up(x, self.widths[level], kernel=3, strides=1)
      x = up(x, width)
    x = layers.ConvTranspose(3, (4, 4), 2, 1, use_bias=False, dtype=self.dtype)(x)
    return jnp.tanh(x).astype(jnp.float32)


class Animator(nn.Module):
  """The generator's side: speech, noise and who it is to frames.

  Attributes:
    speech, generator: its parts.
    face: encodes a picture of the person; None where features of the voice stand for it.
    identity: width of the identity code made of such features.
    dtype: of the computation.
  """

  speech: SpeechEncoder
  generator: FrameGenerator
  face: FaceEncoder | None = None
  identity: int = 50
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, windows, reference, index, noise, *, train: bool):
    """Draws some frames of each clip.

    Args:
      windows: (B, T, 3200), see `audio_windows`; the recurrence starts at the first one.
      reference: (B, S, S, 3) pictures in [-1, 1], or (B, D) features of voices.
      index: (B, n) int, frames to draw.
      noise: (B, n, N).
      train: whether batch statistics are the batch's own.

    Returns:
      (B * n, S, S, 3) in [-1, 1], float32.
    """
    speech = self.speech(windows, train=train)
    heard = jnp.take_along_axis(speech, index[..., None], axis=1)
    each, maps = index.shape[1], None
    if self.face is None:
      identity = layers.Dense(self.identity, dtype=self.dtype, name='identity_map')(reference)
    else:
      identity, maps = self.face(reference, train=train)
      maps = [jnp.repeat(x, each, axis=0) for x in maps]
    identity = jnp.repeat(identity[:, None], each, axis=1)
    code = jnp.concatenate([heard, noise, identity], axis=-1)
    return self.generator(code.reshape(-1, code.shape[-1]), maps, train=train)


class VoiceEncoder(nn.Module):
  """Speech2Face: a spectrogram to the features of the speaker's face."""

  features: int = 4096
  widths: Sequence[int] = (64, 64, 128, 128, 128, 256, 512, 512, 512)
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, spectrogram, *, train: bool):  # (B, T, 257, 2) -> (B, features)
    x = spectrogram
    for i, width in enumerate(self.widths):
      # The last two halve by their stride; four before them are followed by a pool over time.
      strides = 2 if i >= len(self.widths) - 2 else 1
      x = nn.relu(layers.Conv(width, (4, 4), strides, 1, dtype=self.dtype)(x))
      x = layers.BatchNorm(axis_name=self.axis_name, dtype=self.dtype)(x, train=train)
      if 2 <= i < len(self.widths) - 3:
        x = nn.max_pool(x, (2, 1), (2, 1))
    x = x.mean(1).reshape(len(x), -1)
    x = nn.relu(layers.Dense(self.features, dtype=self.dtype)(x))
    return layers.Dense(self.features, dtype=self.dtype)(x).astype(jnp.float32)


def spectrogram(wav):
  """What `VoiceEncoder` hears of (B, S) int16 speech: (B, T, 257, 2), 100 rows per second.

  Hann windows of 25 ms, 512 bins; real and imaginary parts, compressed by sign(x) |x|^0.3.
  """
  frames = (wav.shape[1] - 400) // 160 + 1
  cut = wav[:, 160 * jnp.arange(frames)[:, None] + jnp.arange(400)] / 32768
  window = 0.5 - 0.5 * jnp.cos(2 * jnp.pi * jnp.arange(400) / 400)
  spectrum = jnp.fft.rfft(cut * window, 512)
  parts = jnp.stack([spectrum.real, spectrum.imag], axis=-1)
  return jnp.sign(parts) * jnp.abs(parts) ** 0.3


class FrameJudge(nn.Module):
  """Whether a frame is real, beside the reference that shows the person."""

  widths: Sequence[int] = (64, 128, 256, 512)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, reference):  # (N, S, S, 3) each -> (N, S/16, S/16, 1) logits
    x = jnp.concatenate([image, reference], axis=-1)
    return _convolve(x, self.widths, self.dtype, score=True)


class SequenceJudge(nn.Module):
  """Whether frames follow each other, and their speech, as in life."""

  widths: Sequence[int] = (64, 128, 256, 512)
  features: int = 256
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, windows, images):  # (B, n, 3200), (B, n, S, S, 3) -> (B, 1) logits
    clips, length = images.shape[:2]
    seen = _convolve(images.reshape(-1, *images.shape[2:]), self.widths, self.dtype)
    seen = layers.Dense(self.features, dtype=self.dtype)(seen.reshape(clips, length, -1))
    heard = _listen(windows.reshape(-1, windows.shape[-1]), self.features, self.dtype)
    heard = heard.reshape(clips, length, -1)
    state = GRU(self.features)(jnp.concatenate([seen, heard], axis=-1))
    return layers.Dense(1, dtype=self.dtype)(state[:, -1]).astype(jnp.float32)


class SyncJudge(nn.Module):
  """Whether the mouths of five frames and 0.2 s of speech belong together."""

  widths: Sequence[int] = (64, 128, 256, 512)
  features: int = 256
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, windows, images):  # (B, 3200), (B, 5, S, S, 3) -> (B, 1) logits
    mouths = images[:, :, images.shape[2] // 2 :]
    stacked = jnp.moveaxis(mouths, 1, 3).reshape(len(images), *mouths.shape[2:4], -1)
    seen = _convolve(stacked, self.widths, self.dtype).reshape(len(images), -1)
    seen = layers.Dense(self.features, dtype=self.dtype)(seen)
    heard = _listen(windows, self.features, self.dtype)
    both = nn.leaky_relu(jnp.concatenate([seen, heard], axis=-1), 0.2)
    return layers.Dense(1, dtype=self.dtype)(both).astype(jnp.float32)


def _convolve(x, widths, dtype, *, score=False):
  for width in widths:
    x = nn.leaky_relu(layers.Conv(width, (4, 4), 2, 1, dtype=dtype)(x), 0.2)
  if score:
    x = layers.Conv(1, (3, 3), padding=1, dtype=dtype)(x).astype(jnp.float32)
  return x


def _listen(windows, features, dtype):
  """(N, features) of (N, 3200): the audio encoder's strides, at few channels and without norms."""
  x = windows[..., None]
  for kernel, stride, padding in _AUDIO:
    x = layers.Conv(features // 8, (kernel,), stride, padding, dtype=dtype)(x)
    x = nn.leaky_relu(x, 0.2)
  return layers.Dense(features, dtype=dtype)(x.reshape(len(x), -1))
