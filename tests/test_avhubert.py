"""AV-HuBERT at a size that compiles in a second: modalities, padding, gradients, pre-training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noise import gaussian, noisy_variables

from tfg_jax.losses import masked_prediction_loss
from tfg_jax.networks.avhubert import AVHubertEncoder, PositionalConv, scale_gradient

B, T = 2, 6

tiny = functools.partial(
  AVHubertEncoder,
  width=16,
  depth=1,
  mlp_width=24,
  heads=2,
  audio_features=12,
  resnet_widths=(4,),
  resnet_blocks=1,
  position_taps=4,
  position_groups=4,
  classes=6,
  label_width=8,
  prediction_head=True,
)
# Without its randomness, training mode shows what else it changes.
sober = functools.partial(
  tiny, dropout=0, attention_dropout=0, input_dropout=0, layer_dropout=0, modality_dropout=0
)


@pytest.fixture(scope='module')
def example():
  audio = gaussian(1, B, T, 12)
  video = gaussian(2, B, T, 8, 8, 1)
  return audio, video


@pytest.fixture(scope='module')
def variables(example):
  return noisy_variables(tiny(), *example, train=False)


@functools.partial(jax.jit, static_argnames=('module', 'train', 'layer', 'method'))
def run(module, variables, audio, video, mask=None, *, train=False, layer=None, method=None, key=0):
  rngs = {'dropout': jax.random.key(key)} if train else None
  options = {} if layer is None else {'layer': layer}
  if method is None:
    args = audio, video, mask
  else:
    args, options = (
      (audio, video),
      {'method': method, **({'mask': mask} if mask is not None else {})},
    )
  out = module.apply(
    variables, *args, train=train, rngs=rngs, mutable=['batch_stats'] if train else False, **options
  )
  return out[0] if train else out


def test_every_example_gives_the_same_parameters(example, variables):
  audio, video = example
  for given in ((audio, None), (None, video)):
    shapes = jax.eval_shape(lambda given=given: tiny().init(jax.random.key(0), *given, train=False))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)


def test_audio_alone_does_not_run_the_video_front_end(example, variables):
  audio, video = example
  params = {k: v for k, v in variables['params'].items() if k != 'video_encoder'}
  out = run(tiny(), {'params': params}, audio, None)
  np.testing.assert_array_equal(out, run(tiny(), variables, audio, None))


def test_a_missing_modality_is_zero_features_not_black_frames(example, variables):
  audio, video = example
  heard, seen = run(tiny(), variables, audio, None, method='features')
  assert (seen == 0).all() and seen.shape == heard.shape
  heard, seen = run(tiny(), variables, None, video, method='features')
  assert (heard == 0).all()
  black = run(tiny(), variables, audio, jnp.zeros_like(video))
  assert np.abs(black - run(tiny(), variables, audio, None)).max() > 1e-3


def test_padding_does_not_change_valid_outputs(example, variables):
  audio, video = example
  longer = [jnp.pad(x, ((0, 0), (0, 3)) + ((0, 0),) * (x.ndim - 2)) for x in example]
  mask = jnp.arange(T + 3) >= jnp.full((B, 1), T)
  padded = run(tiny(), variables, *longer, mask)
  np.testing.assert_allclose(padded[:, :T], run(tiny(), variables, audio, video), atol=1e-5)


def test_nothing_padded_equals_no_mask(example, variables):
  audio, _ = example
  masked = run(tiny(), variables, audio, None, jnp.zeros((B, T), bool))
  np.testing.assert_allclose(masked, run(tiny(), variables, audio, None), atol=1e-6)


def test_a_layer_on_request_comes_raw(example):
  audio, _ = example
  deep = tiny(depth=2)
  variables = noisy_variables(deep, audio, train=False)
  first, second = (run(deep, variables, audio, None, layer=layer) for layer in (1, 2))
  assert np.abs(first - second).max() > 1e-3
  norm = variables['params']['transformer']['layer_norm']
  mean, std = second.mean(-1, keepdims=True), second.std(-1, keepdims=True)
  expected = (second - mean) / std * norm['scale'] + norm['bias']
  np.testing.assert_allclose(run(deep, variables, audio, None), expected, atol=1e-3)


@pytest.mark.parametrize('layer', [0, 2])
def test_a_layer_that_does_not_exist(example, variables, layer):
  with pytest.raises(ValueError, match=f'layer must be 1 to 1 or None, not {layer}'):
    tiny().apply(variables, *example, train=False, layer=layer)


def test_no_modality_at_all(variables):
  with pytest.raises(ValueError, match='needs audio, video or both; both are None'):
    tiny().apply(variables, train=False)


def test_feature_grad_mult_scales_the_gradient_into_the_pixels(example, variables):
  _, video = example

  @functools.partial(jax.jit, static_argnums=0)
  def feature_and_gradient(factor, video):
    def feature(video):
      _, seen = tiny(feature_grad_mult=factor).apply(
        variables, None, video, train=False, method='features'
      )
      return seen[0, 0, 0]

    return jax.value_and_grad(feature)(video)

  value, whole = feature_and_gradient(1.0, video)
  assert np.abs(whole).max() > 1e-4
  for factor in (0.25, 0.0):
    again, gradient = feature_and_gradient(factor, video)
    assert again == value
    np.testing.assert_array_equal(gradient, factor * whole)


def test_scale_gradient_keeps_the_value():
  x = jnp.array([0.3, -7.0, 1e9])
  value, pull = jax.vjp(lambda x: scale_gradient(x, 0.1), x)
  np.testing.assert_array_equal(value, x)
  np.testing.assert_array_equal(pull(jnp.ones(3))[0], jnp.full(3, jnp.float32(0.1)))


def test_rematerialisation_changes_nothing(example, variables):
  audio, _ = example

  @functools.partial(jax.jit, static_argnums=0)
  def gradient(remat, audio):
    module = sober(remat=remat)
    return jax.grad(lambda x: module.apply(variables, x, train=True)[0, 0, 0])(audio)

  np.testing.assert_allclose(gradient(True, audio), gradient(False, audio), atol=1e-7)
  assert np.abs(gradient(True, audio)).max() > 1e-4


def test_dropout_depends_on_the_key_alone(example, variables):
  audio, _ = example
  same = [run(tiny(), variables, audio, None, train=True, key=key) for key in (3, 3, 4)]
  np.testing.assert_array_equal(same[0], same[1])
  assert np.abs(same[0] - same[2]).max() > 1e-3


def test_dropping_every_layer_leaves_the_position_and_the_norm(example, variables):
  audio, _ = example
  out = run(sober(layer_dropout=1.0), variables, audio, None, train=True)
  empty = sober(depth=0)
  np.testing.assert_allclose(out, run(empty, variables, audio, None), atol=1e-6)


@pytest.mark.parametrize('taps', [3, 4])
def test_positional_convolution_keeps_the_length(taps):
  module, x = PositionalConv(8, taps, 2), jnp.ones((1, 5, 8))
  out, fresh = jax.jit(lambda: module.init_with_output(jax.random.key(0), x))()
  assert out.shape == x.shape
  # A fresh kernel is `v` itself.
  norms = np.linalg.norm(fresh['params']['v'].reshape(taps, -1), axis=-1)
  np.testing.assert_allclose(fresh['params']['gain'][:, 0, 0], norms, rtol=1e-6)


def test_bfloat16_computes_low_and_keeps_parameters_high(example, variables):
  audio, _ = example
  module = tiny(dtype=jnp.bfloat16)
  out = run(module, variables, audio, None)
  assert out.dtype == jnp.bfloat16
  expected = run(tiny(), variables, audio, None)
  np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.15)
  shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), audio, train=False))
  assert {x.dtype for x in jax.tree.leaves(shapes['params'])} == {jnp.dtype('float32')}


def test_masked_audio_has_no_say(example, variables):
  audio, video = example
  mask = jnp.zeros((B, T), bool).at[:, 1:3].set(True)
  other = jnp.where(mask[..., None], 100.0, audio)
  first, second = (
    run(sober(), variables, x, video, mask, method='pretrain') for x in (audio, other)
  )
  np.testing.assert_array_equal(first['logits'], second['logits'])
  assert first['logits'].shape == (B, T, 6)
  assert np.abs(first['logits']).max() <= 10  # cosines over 0.1


def test_masked_features_hide_both_modalities(example):
  audio, video = example
  module = sober(mask_input=False)
  variables = noisy_variables(module, *example, train=False)
  assert variables['params']['mask_emb'].shape == (16,)
  mask = jnp.zeros((B, T), bool).at[:, 1:3].set(True)
  other = jnp.where(mask[..., None], 100.0, audio)
  first, second = (
    run(module, variables, x, video, mask, method='pretrain') for x in (audio, other)
  )
  np.testing.assert_allclose(first['logits'], second['logits'], atol=1e-5)


@pytest.mark.parametrize('audio_dropout', [0.0, 1.0])
def test_modality_dropout_drops_the_one_it_names(example, variables, audio_dropout):
  audio, video = example
  module = sober(modality_dropout=1.0, audio_dropout=audio_dropout)
  mask = jnp.zeros((B, T), bool)

  def logits(audio, video):
    return run(module, variables, audio, video, mask, method='pretrain', train=True)['logits']

  same = logits(audio, video)
  heard, seen = (
    logits(audio + 1, video),
    logits(audio, video * 2 + jnp.arange(T)[:, None, None, None]),
  )
  dropped, kept = (heard, seen) if audio_dropout else (seen, heard)
  np.testing.assert_array_equal(dropped, same)
  assert np.abs(kept - same).max() > 1e-3


def test_masked_prediction_loss_counts_frames_once():
  logits = jnp.zeros((1, 4, 5))
  mask = jnp.array([[True, True, False, False]])
  padding = jnp.array([[False, True, False, False]])
  targets = jnp.array([[3, 99, 1, 0]])
  loss = functools.partial(masked_prediction_loss, logits, targets, mask, padding)
  np.testing.assert_allclose(loss(), np.log(5), rtol=1e-6)
  np.testing.assert_allclose(loss(unmasked_weight=0.5), (1 + 2 * 0.5) * np.log(5) / 3, rtol=1e-6)
  nothing = jnp.zeros((1, 4), bool)
  assert masked_prediction_loss(logits, targets, nothing) == 0
