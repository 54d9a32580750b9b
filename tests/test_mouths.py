"""Players that redraw mouths: what both learn from the discriminator's pass over drawn faces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfg_jax import losses
from tfg_jax.networks.discriminator import QualityDiscriminator
from tfg_jax.systems import mouths

MASK = np.array([True, True, False, True])


@pytest.fixture(scope='module')
def judged():
  """A discriminator's parameters, and four drawn faces."""
  module = QualityDiscriminator(widths=(4, 8, 8))
  faces = jax.random.uniform(jax.random.key(1), (len(MASK), 12, 12, 3))
  params = jax.jit(module.init)(jax.random.key(0), faces)['params']
  return module, params, faces


def both_losses(judge, params, fake):
  """Of the generator and the discriminator, with their gradients by faces and parameters."""

  def of_faces(fake):
    loss, on_fake = mouths.judge_fakes(judge, params, fake, MASK, axis_name=None)
    return 3 * loss, on_fake

  (loss, (on_fake, gradient)), downhill = jax.value_and_grad(of_faces, has_aux=True)(fake)
  return {'g': loss, 'g_slope': downhill, 'd': on_fake, 'd_slope': gradient}


def both_losses_apart(judge, params, fake):
  """The same, as their definitions have it."""
  loss, downhill = jax.value_and_grad(
    lambda fake: 3 * losses.generator_loss(judge(params, fake), MASK)
  )(fake)
  on_fake, gradient = jax.value_and_grad(
    lambda params: losses.fake_loss(judge(params, fake), MASK)
  )(params)
  return {'g': loss, 'g_slope': downhill, 'd': on_fake, 'd_slope': gradient}


@pytest.mark.parametrize('bias', [-90, -30, 0, 30, 90])
def test_both_players_learn_what_their_losses_say(judged, bias):
  module, params, faces = judged

  def judge(params, faces):
    logits = module.apply({'params': params}, faces)
    return bias + 100 * (logits - jax.lax.stop_gradient(logits.mean()))

  ours = jax.jit(lambda: both_losses(judge, params, faces))()
  expected = jax.jit(lambda: both_losses_apart(judge, params, faces))()
  for name, want in expected.items():
    for x, y in zip(jax.tree.leaves(ours[name]), jax.tree.leaves(want), strict=True):
      scale = float(jnp.abs(y).max())
      # A discriminator that no fake fools learns as good as nothing.
      atol = 1e-5 * scale + (1e-14 if name == 'd_slope' else 0)
      np.testing.assert_allclose(x, y, rtol=1e-5, atol=atol, err_msg=name)
  assert float(jnp.abs(ours['g_slope'][~MASK]).max()) == 0
  if bias < 90:
    assert float(jnp.abs(ours['g_slope'][MASK]).max()) > 0


def test_the_fakes_go_through_the_discriminator_once_and_back_once():
  def judge(params, faces):
    return faces.reshape(len(faces), -1) @ params

  args = jnp.ones(12 * 12 * 3), jnp.ones((len(MASK), 12, 12, 3))
  counts = [
    str(jax.make_jaxpr(lambda *args, of=of: of(judge, *args))(*args)).count('dot_general')
    for of in (both_losses, both_losses_apart)
  ]
  assert counts == [3, 4]  # forward, by parameters, by faces; apart, forward twice


def test_the_discriminator_learns_from_real_and_drawn_faces(judged):
  module, params, faces = judged
  real = faces[::-1]

  def judge(params, faces):
    return module.apply({'params': params}, faces)

  def both(params):
    real_loss = losses.real_loss(judge(params, real), MASK)
    return real_loss + losses.fake_loss(judge(params, faces), MASK)

  @jax.jit
  def learn():
    _, on_fake = mouths.judge_fakes(judge, params, faces, MASK, axis_name=None)
    return mouths.discriminator_gradient(judge, params, real, on_fake, MASK, axis_name=None)

  gradient, terms = learn()
  np.testing.assert_allclose(terms['real'] + terms['fake'], both(params), rtol=1e-6)
  for x, y in zip(
    jax.tree.leaves(gradient), jax.tree.leaves(jax.jit(jax.grad(both))(params)), strict=True
  ):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)
