"""What a feature leaks: a linear classifier is taught with it, and the better it reads, the more.

DAVS reads words from identity features with an SVM of unstated kernel; this one is linear, one
against the rest, with the squared hinge, as scikit-learn's LinearSVC is.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax


def read(features, labels, *, folds: int = 10, c: float = 1.0) -> np.ndarray:
  """Whose label a linear SVM reads that was taught with others; (N,) float32, 1 where it does.

  Args:
    features: (N, D); scaled here to mean 0 and deviation 1 of the rows that teach.
    labels: (N,) int.
    folds: parts of the rows, N or fewer: each part is read by an SVM that all others have taught.
    c: weight of the errors against |w|^2 / 2.
  """
  features, labels = np.asarray(features, np.float32), np.asarray(labels)
  classes, numbers = np.unique(labels, return_inverse=True)
  part = np.arange(len(features)) % folds
  right = np.zeros(len(features), np.float32)
  for fold in range(folds):
    taught, tested = part != fold, part == fold
    mean, deviation = features[taught].mean(0), features[taught].std(0) + 1e-6
    rows = jnp.asarray((features - mean) / deviation)
    # All rows go in, those of the fold without weight: one shape, one compilation.
    weights = _fit(rows, jnp.asarray(numbers), jnp.asarray(taught, jnp.float32), len(classes), c)
    said = np.asarray(_score(weights, rows[tested]).argmax(-1))
    right[tested] = said == numbers[tested]
  return right


def _score(weights, features):
  return features @ weights['kernel'] + weights['bias']


@functools.partial(jax.jit, static_argnames='classes')
def _fit(features, labels, weight, classes, c, steps=200):
  """Minimises |w|^2 / 2 + c * sum of squared hinges, divided by the number of rows."""
  side = 2.0 * jax.nn.one_hot(labels, classes) - 1

  def objective(weights):
    hinge = jnp.maximum(1 - side * _score(weights, features), 0) * weight[:, None]
    size = jnp.square(weights['kernel']).sum() / 2
    return (size + c * jnp.square(hinge).sum()) / weight.sum()

  solver = optax.lbfgs()
  weights = {'kernel': jnp.zeros((features.shape[1], classes)), 'bias': jnp.zeros(classes)}
  value_and_grad = optax.value_and_grad_from_state(objective)

  def improve(carry, _):
    weights, state = carry
    value, gradient = value_and_grad(weights, state=state)
    updates, state = solver.update(
      gradient, state, weights, value=value, grad=gradient, value_fn=objective
    )
    return (optax.apply_updates(weights, updates), state), None

  (weights, _), _ = jax.lax.scan(improve, (weights, solver.init(weights)), length=steps)
  return weights
