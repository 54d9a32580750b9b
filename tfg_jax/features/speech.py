"""Speech in steps of 10 ms: when it ends, and which step has heard a video frame."""

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


def last_step(wav, num_samples, *, below: float = 30.0):
  """The last step that is not silent, (B,) int32.

  A recurrent summary of a clip stands in its last state, and forgets in the silence behind the
  speech. Silent is what has `below` dB less power than the loudest step.

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
  loud = power >= power.max(1, keepdims=True) * 10 ** (-below / 10)
  return jnp.where(loud & valid, jnp.arange(steps), 0).max(1).astype(jnp.int32)
