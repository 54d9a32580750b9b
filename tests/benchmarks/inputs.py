"""What a step is measured on, without records or weights."""

import numpy as np

from tfg_jax import plan


def noisy_batch(run, system, clips: int) -> dict[str, np.ndarray]:
  """A made-up batch of noise: of grey frames every feature would be normalised to zero."""
  rng = np.random.default_rng(0)
  rows = plan.made_up_batch(run, system)
  batch = {name: np.repeat(x, clips, axis=0) for name, x in rows.items()}
  for name, x in batch.items():
    if x.dtype == np.uint8:
      batch[name] = rng.integers(0, 256, x.shape, np.uint8)
  return batch
