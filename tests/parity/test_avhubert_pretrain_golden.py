"""AV-HuBERT's masked prediction: masked inputs, cluster logits, loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_close, golden, network, reference_variables
from test_avhubert_golden import inputs

from tfg_jax.features.masking import replace_frames
from tfg_jax.losses import masked_prediction_loss

pytestmark = pytest.mark.parity


@jax.jit
def predict(variables, audio, video, padding_mask, mask, source):
  out, state = network('avhubert_base_encoder').apply(
    variables,
    audio,
    replace_frames(video, source),
    padding_mask,
    mask=mask,
    train=False,
    method='pretrain',
    mutable=['intermediates'],
  )
  return out, state['intermediates']['label_space'][0]


def test_masked_prediction():
  arrays = golden('avhubert_base_pretrain')
  variables = reference_variables('avhubert_base_encoder')
  audio, video, padding_mask = inputs(arrays)
  mask_audio, mask = arrays['in_mask_audio'], arrays['in_mask_audio'] | arrays['in_mask_video']
  embedding = variables['params']['mask_emb']
  masked = jnp.where(mask_audio[..., None], embedding, audio)
  assert_close(masked, np.swapaxes(arrays['in_audio_masked'], 1, 2))
  source = arrays['in_video_source_frame']
  source = np.where(source < 0, np.arange(source.shape[1]), source)

  out, label_space = predict(variables, audio, video, padding_mask, mask_audio, source)
  assert_close(out['features'], arrays['mid_encoder_out'])
  assert_close(label_space, arrays['mid_final_proj'])
  assert_close(out['penalty'], arrays['out_features_pen'])
  logits = np.asarray(out['logits'])
  for rows, name in ((mask & ~padding_mask, 'masked'), (~mask & ~padding_mask, 'unmasked')):
    expected = arrays[f'out_logit_{name}']
    assert_close(logits[rows][: len(expected)], expected)
    targets = arrays['in_targets'][rows]
    np.testing.assert_array_equal(targets, arrays[f'out_target_{name}'])
    chosen = jax.nn.log_softmax(logits[rows])[np.arange(len(targets)), targets]
    assert_close(-chosen.sum(), arrays[f'out_loss_{name}_sum'])

  valid = ~padding_mask
  for weight, counted, name in ((1.0, valid, ''), (0.0, valid & mask, '_nomask0')):
    loss = masked_prediction_loss(
      out['logits'], arrays['in_targets'], mask, padding_mask, unmasked_weight=weight
    )
    size = arrays[f'out_sample_size{name}']
    assert counted.sum() == size
    assert_close(size * (loss + 10 * out['penalty']), arrays[f'out_loss{name}'])
