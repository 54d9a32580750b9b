"""What a feature leaks: a linear classifier is taught with it, and the better it reads, the more.

DAVS reads words from identity features with an SVM of unstated kernel; this one is linear, one
against the rest, with the squared hinge, as scikit-learn's LinearSVC is.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax


def read(lessons, lesson_labels, features, labels, *, c: float = 1.0) -> np.ndarray:
  """Whose label a linear SVM reads that other clips have taught; (N,) float32, 1 where it does.

  Args:
    lessons: (M, D), what teaches; all is scaled here to mean 0 and deviation 1 of these.
    lesson_labels: (M,) int.
    features: (N, D), what is read.
    labels: (N,) int; one that nothing taught is never read.
    c: weight of the errors against |w|^2 / 2.
  """
  lessons, features = np.asarray(lessons, np.float32), np.asarray(features, np.float32)
  classes, numbers = np.unique(lesson_labels, return_inverse=True)
  mean, deviation = lessons.mean(0), lessons.std(0) + 1e-6
  weights = _fit(jnp.asarray((lessons - mean) / deviation), jnp.asarray(numbers), len(classes), c)
  said = np.asarray(_score(weights, jnp.asarray((features - mean) / deviation)).argmax(-1))
  return (classes[said] == np.asarray(labels)).astype(np.float32)


def _score(weights, features):
  return features @ weights['kernel'] + weights['bias']


@functools.partial(jax.jit, static_argnames='classes')
def _fit(features, labels, classes, c, steps=200):
  """Minimises |w|^2 / 2 + c * sum of squared hinges, divided by the number of rows."""
  side = 2.0 * jax.nn.one_hot(labels, classes) - 1

  def objective(weights):
    hinge = jnp.maximum(1 - side * _score(weights, features), 0)
    size = jnp.square(weights['kernel']).sum() / 2
    return (size + c * jnp.square(hinge).sum()) / len(features)

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
