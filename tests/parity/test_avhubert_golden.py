"""AV-HuBERT encoders, base and large, against the official code."""

import functools

import jax
import numpy as np
import pytest
from reference import (
  assert_close,
  assert_running_statistics,
  golden,
  network,
  reference_variables,
  to_nchw,
)

pytestmark = pytest.mark.parity


def time_last(x):
  """(B, T, D) to the official (B, D, T)."""
  return np.swapaxes(x, 1, 2)


def time_first(x):
  """(B, T, D) to the official (T, B, D)."""
  return np.swapaxes(x, 0, 1)


def inputs(arrays):
  """Returns audio (B, T, 104), video (B, T, 88, 88, 1) and the padding mask (B, T)."""
  audio = np.swapaxes(arrays['in_audio'], 1, 2) if 'in_audio' in arrays else None
  return audio, np.moveaxis(arrays['in_video'], 1, -1), arrays['in_padding_mask']


@functools.partial(jax.jit, static_argnames=('name', 'layer', 'traced'))
def encode(name, variables, audio, video, padding_mask, *, layer=None, traced=False):
  return network(name).apply(
    variables,
    audio,
    video,
    padding_mask,
    train=False,
    layer=layer,
    mutable=['intermediates'] if traced else False,
  )


@functools.partial(jax.jit, static_argnames='name')
def train_front_ends(name, variables, audio, video):
  return network(name).apply(
    variables, audio, video, train=True, method='features', mutable=['batch_stats']
  )


def first(tree):
  """Unpacks the one-element tuples of sown intermediates."""
  return jax.tree.map(lambda x: x[0], tree, is_leaf=lambda x: isinstance(x, tuple))


@pytest.mark.parametrize(
  ('name', 'layers', 'inner'),
  [('avhubert_base_encoder', (0, 5, 11), 9), ('avhubert_large_encoder', (0, 11, 23), 12)],
)
def test_encoder(name, layers, inner):
  arrays = golden(name)
  variables = reference_variables(name)
  audio, video, mask = inputs(arrays)

  out, state = encode(name, variables, audio, video, mask, traced=True)
  assert_close(out, arrays['out_av'])
  np.testing.assert_array_equal(mask, arrays['out_padding_mask'])
  seen = first(state['intermediates'])
  lips, transformer = seen['video_encoder'], seen['transformer']
  stem = lips['stem'].reshape(*video.shape[:2], *lips['stem'].shape[1:])
  expected = arrays['mid_frontend3d_sub']
  assert_close(to_nchw(stem)[:, ::8, ::3, ::5, ::5], expected)
  assert_close(to_nchw(lips['stage_1'])[::5, ::8, ::5, ::5], arrays['mid_layer1_sub'])
  assert_close(to_nchw(lips['stage_2'])[::5, ::8, ::3, ::3], arrays['mid_layer2_sub'])
  assert_close(to_nchw(lips['stage_4'])[::5, ::16], arrays['mid_layer4_sub'])
  assert_close(time_last(lips['pooled']), arrays['mid_resnet_out'])
  for ours, key in (
    (time_last(seen['video']), 'mid_features_video'),
    (time_last(seen['audio']), 'mid_features_audio'),
    (seen['fused'], 'mid_fused_layer_norm'),
    (seen['projected'], 'mid_post_extract_proj'),
    (time_last(transformer['position']), 'mid_pos_conv'),
  ):
    kept = len(arrays[key])  # the large model's file keeps one sample of some
    assert_close(ours[:kept], arrays[key])
  for layer in layers:
    assert_close(time_first(transformer[f'layer_{layer}']), arrays[f'mid_layer_{layer:02}_tbc'])

  assert_close(encode(name, variables, audio, None, mask), arrays['out_audio'])
  assert_close(encode(name, variables, None, video, mask), arrays['out_video'])
  assert_close(encode(name, variables, audio, None, None), arrays['out_audio_nopad'])
  raw = encode(name, variables, audio, video, mask, layer=inner)
  assert_close(raw, arrays[f'out_av_layer{inner}'])

  (_, seen), updated = train_front_ends(name, variables, audio, video)
  assert_close(time_last(seen), arrays['out_train_features_video'])
  prefix = 'feature_extractor_video.resnet.'
  arrays = {key.replace('stats_', f'stats_{prefix}'): x for key, x in arrays.items()}
  assert_running_statistics({**variables, **updated}, arrays, name)
