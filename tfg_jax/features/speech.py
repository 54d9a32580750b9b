"""Speech in steps of 10 ms: which are silent, what sums them up, which has heard a video frame."""

import jax.numpy as jnp

STEPS_PER_SECOND = 100
_SAMPLES_PER_STEP = 160


def steps_at(times, steps: int):
  """The last step that is over at `times`, (...) seconds: int32, from 0 to `steps` - 1.

  For a frame, ask for the time when it ends: a causal context has then heard all of it. An earlier
  step would miss a part of it, a later one would know the future.
  """
  # The small share keeps the quotients of frame rates, such as 3 / 30 s, from rounding down.
  step = jnp.floor(jnp.asarray(times) * STEPS_PER_SECOND + 1e-2).astype(jnp.int32) - 1
  return jnp.clip(step, 0, steps - 1)


def loud_steps(wav, num_samples, *, below: float = 30.0):
  """Whether a step is speech and not silence, (B, S // 160) bool.

  Silent is what has `below` dB less power than the loudest step.

  Args:
    wav: (B, S) int16, or floats on the same scale.
    num_samples: (B,) int, valid samples of each clip.
    below: in dB.
  """
  steps = wav.shape[1] // _SAMPLES_PER_STEP
  power = wav[:, : steps * _SAMPLES_PER_STEP].astype(jnp.float32).reshape(len(wav), steps, -1)
  power = jnp.square(power).mean(-1)
  valid = jnp.arange(steps) < (num_samples // _SAMPLES_PER_STEP)[:, None]
  power = jnp.where(valid, power, 0)
  return valid & (power >= power.max(1, keepdims=True) * 10 ** (-below / 10))


def last_context(context, loud):
  """(B, D), that of the last loud step: a recurrent summary of a clip stands in its last state, and
  forgets in the silence behind the speech.

  Args:
    context: (B, N, D).
    loud: (B, N) bool, see `loud_steps`; where none is, the first one.
  """
  last = jnp.where(loud, jnp.arange(loud.shape[1]), 0).max(1)
  return jnp.take_along_axis(context, last[:, None, None], axis=1)[:, 0]


def mean_context(context, loud):
  """(B, D), the mean of loud steps, or of all where none is; arguments as of `last_context`."""
  weights = jnp.where(loud.any(1, keepdims=True), loud, True)[..., None]
  return jnp.mean(context, axis=1, where=weights)
