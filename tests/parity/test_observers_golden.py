"""The observers of TalkLip's evaluation: conformer (characters) and MVM (words)."""

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

from tfg_jax.metrics.text import Errors, teacher_forced_errors
from tfg_jax.networks.conformer import (
  EOS,
  PADDING,
  SPACE,
  ConformerLipReader,
  required_frames,
)
from tfg_jax.networks.mvm import MVM

pytestmark = pytest.mark.parity


def corpus_errors(predictions, references):
  """Sums the errors of all rows; references are padded with -1."""
  rows = [
    teacher_forced_errors(said, meant[meant != PADDING], space=SPACE, eos=EOS)
    for said, meant in zip(predictions, references, strict=True)
  ]
  return Errors(*np.sum(rows, axis=0))


def clip(arrays, case):
  """Returns video (zeros behind each clip's end), lengths, required frames and tokens."""
  lengths = arrays[f'in_{case}_ilens']
  video = (arrays[f'in_{case}_video_u8'] / np.float32(255) - np.float32(0.4161)) / np.float32(
    0.1688
  )
  video *= (np.arange(video.shape[1]) < lengths[:, None])[..., None, None]
  return video[..., None], lengths, arrays[f'in_{case}_ilenreq'], arrays[f'in_{case}_tokens']


@functools.partial(jax.jit, static_argnames=('module', 'frames', 'train'))
def read(module, variables, inputs, *, frames, train=False):
  mutable = ['intermediates', 'batch_stats'] if train else ['intermediates']
  (logits, ctc), state = module.apply(
    variables, *inputs, frames=frames, train=train, mutable=mutable
  )
  seen = jax.tree.map(
    lambda x: x[0], state.pop('intermediates'), is_leaf=lambda x: type(x) is tuple
  )
  return logits, ctc, seen, state


def assert_reading(outputs, arrays, prefix):
  logits, ctc, seen, _ = outputs
  assert_close(seen['lips'], arrays[f'{prefix}_frontend'])
  assert_close(seen['memory'], arrays[f'{prefix}_enc'])
  assert_close(logits, arrays[f'{prefix}_logits'])
  assert_close(ctc, arrays[f'{prefix}_ctc_logits'])


@pytest.mark.parametrize('case', ['a', 'b'])
def test_conformer_reads(case):
  arrays = golden('conformer_observer')
  variables = reference_variables('conformer_observer')
  inputs = clip(arrays, case)
  _, lengths, required, tokens = inputs
  frames = int(required.max())
  outputs = read(ConformerLipReader(leak=True), variables, inputs, frames=frames)
  assert_reading(outputs, arrays, f'out_{case}')
  predicted = np.asarray(outputs[0]).argmax(-1)
  np.testing.assert_array_equal(predicted, arrays[f'out_{case}_argmax'])
  errors = corpus_errors(predicted, tokens)
  assert_close(errors.character_error_rate, arrays[f'out_{case}_cer'])
  assert_close(errors.word_error_rate, arrays[f'out_{case}_wer'])
  if case == 'b':
    return

  np.testing.assert_array_equal(required_frames(lengths, tokens), required)

  seen = outputs[2]
  front, encoder, decoder = seen['front_end'], seen['encoder'], seen['decoder']
  assert_close(to_nchw(front['stem'])[:, ::8, :, ::8, ::8], arrays['mid_a_conv3d'])
  for stage, step in ((1, 4), (2, 4), (3, 2), (4, 2)):
    images = to_nchw(front[f'stage_{stage}'])[:, ::16, ::step, ::step]
    assert_close(images, arrays[f'mid_a_resnet_layer{stage}'])
  assert_close(encoder['embedded'], arrays['mid_a_enc_embed'])
  for ours, theirs in (('macaron', 'ffmacaron'), ('attended', 'attn'), ('convolved', 'conv')):
    assert_close(encoder['layers_0'][ours], arrays[f'mid_a_enc_layer0_{theirs}'])
  for layer in (0, 5, 11):
    assert_close(encoder[f'layer_{layer}'], arrays[f'mid_a_enc_layer{layer}'])
  assert_close(decoder['embedded'], arrays['mid_a_dec_embed'])
  for layer in (0, 5):
    assert_close(decoder[f'layer_{layer}'], arrays[f'mid_a_dec_layer{layer}'])


def test_conformer_trains():
  arrays = golden('conformer_observer')
  variables = reference_variables('conformer_observer')
  inputs = clip(arrays, 'b')
  module = ConformerLipReader(leak=True, dropout=0.0)
  outputs = read(module, variables, inputs, frames=int(inputs[2].max()), train=True)
  assert_reading(outputs, arrays, 'out_train_b')
  assert_running_statistics({**variables, **outputs[3]}, arrays, 'conformer_observer')


def test_conformer_error_rates():
  arrays = golden('conformer_observer')
  said, meant = arrays['in_wer_hyp'], arrays['in_wer_ref']
  rows = [corpus_errors([a], [b]) for a, b in zip(said, meant, strict=True)]
  rates = [(row.character_error_rate, row.word_error_rate) for row in rows]
  assert_close(rates, arrays['out_wer_rows_cer_wer'])
  together = corpus_errors(said, meant)
  rates = [together.character_error_rate, together.word_error_rate]
  assert_close(rates, arrays['out_wer_batch_cer_wer'])


@functools.partial(jax.jit, static_argnames=('module', 'train'))
def classify(module, variables, video, *, train=False):
  mutable = ['intermediates', 'batch_stats'] if train else ['intermediates']
  logits, state = module.apply(variables, video, train=train, mutable=mutable)
  return logits, state


def test_mvm():
  arrays = golden('mvm_lrw')
  variables = reference_variables('mvm_lrw')
  video = (arrays['in_video_u8'] / np.float32(255) - np.float32(0.4136)) / np.float32(0.17)
  video = video[..., None]
  module = network('mvm_lrw')

  logits, state = classify(module, variables, video)
  assert_close(logits, arrays['out_logits'])
  seen = state['intermediates']
  assert_close(seen['lips'][0], arrays['mid_v_feat'])
  assert_close(seen['memory_out'][0], arrays['mid_mem'])
  visual = seen['visual']
  stem = to_nchw(visual['stem'][0])
  stem = np.swapaxes(stem.reshape(*video.shape[:2], *stem.shape[1:]), 1, 2)
  assert_close(stem[:, ::8, :, ::4, ::4], arrays['mid_front'])
  for stage in range(1, 5):
    images = to_nchw(visual[f'stage_{stage}'][0])[:, ::16, ::2, ::2]
    assert_close(images, arrays[f'mid_res{stage}'])
  for i in range(1, 5):
    assert_close(np.swapaxes(seen[f'temporal_{i}_out'][0], 1, 2)[:, ::4], arrays[f'mid_tcn{i}'])
  for i in range(1, 4):
    assert_close(np.swapaxes(seen[f'memory_{i}_out'][0], 1, 2)[:, ::4], arrays[f'mid_mem{i}'])

  logits, _ = classify(module, variables, video[:, :, :, ::-1])
  assert_close(logits, arrays['out_logits_flip'])
  logits, state = classify(
    MVM(visual_dropout=0.0, memory_dropout=0.0, temporal_dropout=0.0), variables, video, train=True
  )
  assert_close(logits, arrays['out_train_logits'])
  updated = {**variables, 'batch_stats': state['batch_stats']}
  assert_running_statistics(updated, arrays, 'mvm_lrw')
