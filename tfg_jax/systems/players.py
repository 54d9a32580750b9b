"""One step of one player, for systems with many of them: own loss, own gradients, own optimiser."""

from collections.abc import Callable

import jax

from tfg_jax.systems import base


def learn(name: str, net: base.Net, loss: Callable, optimizer, *, axis_name: str | None):
  """Updates one network by its own loss.

  Args:
    name: of the player, in front of its metrics.
    net: its network.
    loss: `params -> (total, (terms, stats, made))`: a scalar; its named terms; new running
      statistics or None; whatever else it made, e.g. pictures for the other players.
    optimizer: the player's.
    axis_name: the pmap axis, or None under jit.

  Returns:
    (the new net, metrics with the gradient's norm, made).
  """
  (total, (terms, stats, made)), grads = jax.value_and_grad(loss, has_aux=True)(net.params)
  grads, terms = base.mean_over_devices((grads, {**terms, 'total': total}), axis_name)
  metrics = {f'{name}/{term}': value for term, value in terms.items()}
  metrics[f'{name}/grad_norm'] = base.global_norm(grads)
  return net.update(grads, optimizer, stats=stats), metrics, made
