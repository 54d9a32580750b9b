"""LSE-C, LSE-D and the audio-video offset, from embeddings of a whole clip.

`agreement` is ours: it takes any judge's numbers and favours no shift, short clips or long.

Source of the rest: joonson/syncnet_python `SyncNetInstance.py` as Wav2Lip and TalkLip evaluate with
it. The LRS protocol: every full frame is scaled to 224x224, values 0 to 255, BGR; 5 frames and 20
MFCC columns make a window, one window per frame.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tfg_jax.features import audio, video

FRAME_SIZE = 224
WINDOW_FRAMES = 5
WINDOW_COLUMNS = 20  # MFCC columns, 10 ms each
COLUMNS_PER_FRAME = 4
FPS = 25
SAMPLES_PER_FRAME = 16_000 // FPS
MAX_SHIFT = 15  # windows
_PENALTY = 1e-6  # added to every difference, as `torch.nn.functional.pairwise_distance` does


class SyncScores(NamedTuple):
  """Scores of one clip.

  confidence: LSE-C, higher is better.
  distance: LSE-D, lower is better.
  offset: windows (40 ms each) between audio and video, -15 to 15; 0 in sync.
  mean_distances: (31,), for the offsets 15 to -15.
  frame_confidence: (N,), per window.
  """

  confidence: jax.Array
  distance: jax.Array
  offset: jax.Array
  mean_distances: jax.Array
  frame_confidence: jax.Array


def num_windows(num_frames, num_samples):
  """Returns how many windows clips (...) have, one fewer than would fit; none if not positive."""
  return jnp.minimum(num_frames, num_samples // SAMPLES_PER_FRAME) - WINDOW_FRAMES


def lip_windows(frames, starts, size: int = FRAME_SIZE):
  """Returns (N, 5, size, size, 3) float32 BGR windows from (T, H, W, 3) uint8 RGB frames.

  `starts` (N,) are first frames; the aspect ratio is ignored, as officially.
  """
  height, width = frames.shape[1:3]
  boxes = jnp.broadcast_to(jnp.array([0, 0, width, height]), (len(frames), 4))
  scaled = video.crop_faces(frames, boxes, size)[..., ::-1]
  return scaled[starts[:, None] + jnp.arange(WINDOW_FRAMES)]


def speech_windows(wav, num_samples, starts):
  """Returns (N, 13, 20, 1) MFCC windows from (S,) int16 audio at 16 kHz; `starts` as above."""
  cepstra = audio.mfcc(wav[None], jnp.asarray(num_samples)[None], audio.num_frames(len(wav)))[0]
  columns = COLUMNS_PER_FRAME * starts[:, None] + jnp.arange(WINDOW_COLUMNS)
  return cepstra[columns].swapaxes(1, 2)[..., None]


def sync_distances(lips, speech, number=None):
  """Distances of lip windows to speech windows up to 15 away.

  Args:
    lips, speech: (N, D) embeddings of the same windows; rows from `number` on are padding.
    number: valid windows, N if None.

  Returns:
    (N, 31): column j pairs lip window i with speech window i + j - 15. Windows beyond the clip
    count as zero vectors, so that short clips average distances to them too.
  """
  length = len(lips)
  number = length if number is None else number
  speech = jnp.where(jnp.arange(length)[:, None] < number, speech, 0)
  padded = jnp.pad(speech, ((MAX_SHIFT, MAX_SHIFT), (0, 0)))
  shifted = padded[jnp.arange(length)[:, None] + jnp.arange(2 * MAX_SHIFT + 1)]  # (N, 31, D)
  return jnp.linalg.norm(lips[:, None] - shifted + _PENALTY, axis=-1)


def sync_scores(lips, speech, number=None) -> SyncScores:
  """Scores one clip of (T, D) windows; see `sync_distances` for the arguments."""
  distances = sync_distances(lips, speech, number)
  valid = jnp.arange(len(lips)) < (len(lips) if number is None else number)
  mean = jnp.where(valid[:, None], distances, 0).sum(0) / valid.sum()
  best = jnp.argmin(mean)
  median = jnp.median(mean)
  return SyncScores(
    confidence=median - mean[best],
    distance=mean[best],
    offset=MAX_SHIFT - best,
    mean_distances=mean,
    frame_confidence=jnp.where(valid, median - distances[:, best], 0),
  )


def smoothed_confidence(frame_confidence, window: int = 9):
  """Median of each value and its neighbours, zeros beyond the ends: (N,) to (N,)."""
  padded = jnp.pad(frame_confidence, window // 2)
  return jnp.median(jnp.stack([padded[i : i + len(frame_confidence)] for i in range(window)]), 0)


class Agreement(NamedTuple):
  """How well the sound of one clip fits its lips, shift by shift.

  match: at the best shift, in standard deviations of all pairings of its windows around their mean.
  confidence: how much better that is than the median over the shifts.
  offset: frames that the sound has to be moved by to fit best, -15 to 15, as in `SyncScores`:
    negative where it is late.
  matches: (31,), for the offsets 15 to -15; NaN where less than half of the windows meet.
  """

  match: jax.Array
  confidence: jax.Array
  offset: jax.Array
  matches: jax.Array


def agreement(similarity, number) -> Agreement:
  """Compares the pairings of one shift with all other pairings of lips and sound in a clip.

  Windows that are like everything (closed lips, noise) say nothing about sync: every window's mean
  over the windows of the other stream is taken off first.

  Args:
    similarity: (N, N) of lip window i and speech window j, higher where they fit better.
    number: valid windows; rows and columns from there on are padding.
  """
  length = len(similarity)
  valid = jnp.arange(length) < number
  pairs = valid[:, None] & valid

  def mean(values, axis=None):
    shown = jnp.where(pairs, values, 0).sum(axis, keepdims=True)
    return shown / jnp.maximum(pairs.sum(axis, keepdims=True), 1)

  centred = similarity - mean(similarity, 0) - mean(similarity, 1) + mean(similarity)
  scaled = centred / jnp.sqrt(jnp.maximum(mean(jnp.square(centred)), 1e-12))
  heard = jnp.arange(length)[:, None] + jnp.arange(-MAX_SHIFT, MAX_SHIFT + 1)  # (N, 31)
  met = valid[:, None] & (heard >= 0) & (heard < number)
  values = jnp.take_along_axis(scaled, jnp.clip(heard, 0, length - 1), axis=1)
  count = met.sum(0)
  matches = jnp.where(met, values, 0).sum(0) / jnp.maximum(count, 1)
  matches = jnp.where(2 * count >= number, matches, jnp.nan)
  best = jnp.nanargmax(matches)
  return Agreement(
    match=matches[best],
    confidence=matches[best] - jnp.nanmedian(matches),
    offset=MAX_SHIFT - best,
    matches=matches,
  )
