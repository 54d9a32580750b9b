"""What a feature leaks: a linear classifier is trained on it, and the better it does, the more.

DAVS reads words from identity features with an SVM of unstated kernel; this one is linear, one
against the rest, with the squared hinge, as scikit-learn's LinearSVC is.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax


def leakage(train_features, train_labels, test_features, test_labels, *, c: float = 1.0) -> float:
  """Accuracy in percent, on the test rows, of a linear SVM that saw the training rows.

  Args:
    train_features, test_features: (N, D) and (M, D); scaled here to mean 0 and deviation 1 of the
      training rows.
    train_labels, test_labels: (N,) and (M,) int.
    c: weight of the errors against |w|^2 / 2.
  """
  classes, labels = np.unique(np.asarray(train_labels), return_inverse=True)
  mean, deviation = np.mean(train_features, 0), np.std(train_features, 0) + 1e-6
  weights = _fit(
    jnp.asarray((train_features - mean) / deviation, jnp.float32),
    jnp.asarray(labels),
    len(classes),
    c,
  )
  scores = _score(weights, jnp.asarray((test_features - mean) / deviation, jnp.float32))
  return 100 * float(np.mean(classes[np.argmax(scores, -1)] == np.asarray(test_labels)))


def _score(weights, features):
  return features @ weights['kernel'] + weights['bias']


@functools.partial(jax.jit, static_argnums=2)
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
