"""What all commands share that draw a video chunk by chunk.

Which speech the frames of a chunk hear, how many frames a sound lasts, the sound track of the
output, and what is said on the way.
"""

import sys
from collections.abc import Callable, Iterable
from fractions import Fraction

import numpy as np
import tqdm

from tfg_jax import marks, media

SPEECH_RATE = 16_000  # Hz, of every system
CONTEXT = 2.0  # seconds of speech that a chunk hears before and after its own
CHUNK_FRAMES = 64
MAX_LATE = 0.04  # seconds that the last frame may outlast the sound
# Stretches of speech start at multiples of 0.2 s, which all hops of the features divide (10, 12.5
# and 40 ms): their rows fall where they would in the whole clip, so chunks do not show.
_GRID = 3200  # samples


def count_frames(seconds: float, rate: Fraction) -> int:
  """Frames of a sound: rounded, at least one, but never more than `MAX_LATE` longer than it."""
  return max(1, int(seconds * rate + min(0.5, MAX_LATE * rate)))


def heard(speech: np.ndarray, start: int, count: int, rate: Fraction) -> dict[str, np.ndarray]:
  """The speech of frames start to start + count - 1 and `CONTEXT` around them, for `generate`.

  Args:
    speech: (N,) int16 at `SPEECH_RATE`, from the time of frame 0.
    start, count: which frames; they may reach beyond the speech.
    rate: frames per second.

  Returns:
    `wav` (L,) int16 of which `num_samples` () int32 are sound, and `times` (count,) float32,
    seconds from the start of `wav` to each frame. L depends on `count` and `rate` alone.
  """
  stretch = (int((float(count / rate) + 2 * CONTEXT) * SPEECH_RATE) // _GRID + 2) * _GRID
  begin = max(0, int((start / float(rate) - CONTEXT) * SPEECH_RATE)) // _GRID * _GRID
  wav = speech[begin : begin + stretch]
  times = (start + np.arange(count)) / float(rate) - begin / SPEECH_RATE
  return {
    'wav': fit(wav, stretch),
    'num_samples': np.int32(len(wav)),
    'times': times.astype(np.float32),
  }


def fit(samples: np.ndarray, count: int) -> np.ndarray:
  """Cuts (N,), or pads it with silence, to `count` samples."""
  if len(samples) >= count:
    return samples[:count]
  return np.concatenate([samples, np.zeros(count - len(samples), samples.dtype)])


def sound_track(path: str, seconds: float):
  """The sound for `media.VideoWriter`: as good as it came, cut or padded to `seconds`, in blocks.

  Returns:
    An iterator of int16 (N, channels), and their sample rate.
  """
  own = media.probe(path).audio_rate
  rate = own if own in media.AAC_RATES else max(media.AAC_RATES)

  def blocks():
    left = round(seconds * rate)
    for block in media.stream_audio(path, rate, mono=False):
      yield block[:left]
      left -= len(block)
      if left <= 0:
        return
    while left > 0:  # after the sound: silence
      yield np.zeros((min(left, rate), block.shape[1]), np.int16)
      left -= rate

  return blocks(), rate


def written(
  path: str, *, seconds: float, frames: int, size: tuple[int, int], rate: Fraction, what: str
) -> str:
  """What to say of a finished file; `size` is width and height in pixels, `what` was drawn."""
  return (
    f'Wrote {path}: {seconds:.2f} s, {frames} frames of {size[0]}x{size[1]} at '
    f'{float(rate):.6g} per second, {what}.\n'
    f'It is synthetic; the file and {marks.sidecar_of(path)} say so. Say so too where you show it.'
  )


# Takes items, what is done with them, and how many there are if that is known; gives the items.
Progress = Callable[[Iterable, str, int | None], Iterable]


def progress(items: Iterable, what: str, total: int | None) -> Iterable:
  """Shows a bar on stderr while frames are used up."""
  interval = 0.5 if sys.stderr.isatty() else 30  # a log gets two lines a minute
  return tqdm.tqdm(items, what, total, unit=' frames', mininterval=interval, file=sys.stderr)
