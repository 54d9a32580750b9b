"""One table per public network: Flax module path, PyTorch key prefix, kind of layer.

Rows of a part that several networks share stand in a constant of their own.
"""

from tfg_jax.pytorch.rules import (
  BATCH_NORM,
  BATCH_NORM_UNCOUNTED,
  BIAS,
  CONV,
  CONV_BLOCK,
  CONV_TRANSPOSE,
  CONV_TRANSPOSE_BLOCK,
  DENSE,
  EMBED,
  KERNEL,
  LAYER_NORM,
  PRELU,
  Layout,
  Leaf,
  may_lack,
  nested,
  raw,
  stacked_conv,
  under,
)

QUALITY_DISCRIMINATOR = (
  ('block_{i}_{j}', 'face_encoder_blocks.{i}.{j}.conv_block.0', CONV),
  ('binary_pred', 'binary_pred.0', CONV),
)

_PROJECTIONS = tuple((name, name, DENSE) for name in ('q_proj', 'k_proj', 'v_proj', 'out_proj'))
_AVHUBERT_LAYER = (
  *under('self_attn', 'self_attn', _PROJECTIONS),
  ('self_attn_layer_norm', 'self_attn_layer_norm', LAYER_NORM),
  ('fc1', 'fc1', DENSE),
  ('fc2', 'fc2', DENSE),
  ('final_layer_norm', 'final_layer_norm', LAYER_NORM),
)
_AVHUBERT_RESNET = (
  ('conv', 'frontend3D.0', CONV),
  ('norm', 'frontend3D.1', BATCH_NORM),
  ('relu', 'frontend3D.2', PRELU),
  ('stage_{i}_{j}/conv{k}', 'trunk.layer{i}.{j}.conv{k}', CONV),
  ('stage_{i}_{j}/bn{k}', 'trunk.layer{i}.{j}.bn{k}', BATCH_NORM),
  ('stage_{i}_{j}/relu{k}', 'trunk.layer{i}.{j}.relu{k}', PRELU),
  ('stage_{i}_{j}/shortcut', 'trunk.layer{i}.{j}.downsample.0', CONV),
  ('stage_{i}_{j}/shortcut_bn', 'trunk.layer{i}.{j}.downsample.1', BATCH_NORM),
)
# `weight_norm(dim=2)` keeps a direction and one gain per tap.
_WEIGHT_NORMED = (
  Leaf('params', 'v', 'weight_v', KERNEL),
  Leaf('params', 'gain', 'weight_g', KERNEL),
)
AVHUBERT_ENCODER = (
  ('', '', (*raw('mask_emb'), *raw('label_embs', 'label_embs_concat'))),
  ('audio_encoder', 'feature_extractor_audio.proj', DENSE),
  ('video_encoder/proj', 'feature_extractor_video.proj', DENSE),
  *under('video_encoder', 'feature_extractor_video.resnet', _AVHUBERT_RESNET),
  ('layer_norm', 'layer_norm', LAYER_NORM),
  ('post_extract_proj', 'post_extract_proj', DENSE),
  ('transformer/pos_conv', 'encoder.pos_conv.0', (*_WEIGHT_NORMED, BIAS)),
  *under('transformer/layers_{i}', 'encoder.layers.{i}', _AVHUBERT_LAYER),
  ('transformer/layer_norm', 'encoder.layer_norm', LAYER_NORM),
  ('final_proj', 'final_proj', may_lack(DENSE)),  # fine-tuning drops it
)

FACE_UNET = (
  ('encoder_{i}_{j}', 'face_encoder_blocks.{i}.{j}.conv_block', CONV_BLOCK),
  ('decoder_{i}_up', 'face_decoder_blocks.{i}.0.conv_block', CONV_TRANSPOSE_BLOCK),
  ('decoder_{i}_{j}', 'face_decoder_blocks.{i}.{j}.conv_block', CONV_BLOCK),
  ('output_block', 'output_block.0.conv_block', CONV_BLOCK),
  ('output', 'output_block.1', CONV),
)
MEL_ENCODER = (('layer_{i}', '{i}.conv_block', CONV_BLOCK),)
CONTRASTIVE_HEAD = (('audio_projection', 'Linearaudio', DENSE),)
WAV2LIP = (
  *under('image', '', FACE_UNET),
  *under('audio_encoder', 'audio_encoder', MEL_ENCODER),
)
TALKLIP = (
  *under('image', '', FACE_UNET),
  *under('audio_encoder', 'audio_encoder.w2v_model', AVHUBERT_ENCODER),
  *under('audio_encoder', 'audio_encoder', MEL_ENCODER),  # the local variant, unpublished
  ('audio_map', 'audio_map', DENSE),
  *under('contrastive', 'sync_net', CONTRASTIVE_HEAD),
)
COLOR_SYNCNET = (
  *under('face', 'face_encoder', MEL_ENCODER),
  *under('audio', 'audio_encoder', MEL_ENCODER),
)


def _sync_stream(flax, torch, dense, first, later):
  # PyTorch's layers stand in one list: convolution, norm, ReLU, and a pool after some of them.
  for i, position in enumerate((0, 4, 8, 11, 14, 18)):
    yield f'{flax}/conv_{i}', f'{torch}.{position}', later if i else first
    yield f'{flax}/norm_{i}', f'{torch}.{position + 1}', BATCH_NORM
  yield f'{flax}/hidden', f'{dense}.0', DENSE
  yield f'{flax}/hidden_norm', f'{dense}.1', BATCH_NORM
  yield f'{flax}/out', f'{dense}.3', DENSE


SYNCNET_V2 = (
  *_sync_stream('lips', 'netcnnlip', 'netfclip', stacked_conv(5), stacked_conv(1)),
  *_sync_stream('speech', 'netcnnaud', 'netfcaud', CONV, CONV),
)

_AVHUBERT_DECODER_LAYER = (
  *_AVHUBERT_LAYER,
  *under('encoder_attn', 'encoder_attn', _PROJECTIONS),
  ('encoder_attn_layer_norm', 'encoder_attn_layer_norm', LAYER_NORM),
)
AVHUBERT_SEQ2SEQ = (
  *under('encoder', 'encoder.w2v_model', AVHUBERT_ENCODER),
  ('decoder', 'decoder', raw('position_marker', 'embed_positions._float_tensor')),
  ('decoder/embed_tokens', 'decoder.embed_tokens', EMBED),
  *under('decoder/layers_{i}', 'decoder.layers.{i}', _AVHUBERT_DECODER_LAYER),
  ('decoder/layer_norm', 'decoder.layer_norm', LAYER_NORM),
)

_ESPNET_ATTENTION = tuple(
  (ours, theirs, DENSE)
  for ours, theirs in (
    ('q_proj', 'linear_q'),
    ('k_proj', 'linear_k'),
    ('v_proj', 'linear_v'),
    ('out_proj', 'linear_out'),
  )
)
_ESPNET_FEED_FORWARD = (('w_{k}', 'w_{k}', DENSE),)
_CONFORMER_LAYER = (
  ('self_attn', 'self_attn', (*raw('pos_bias_u'), *raw('pos_bias_v'))),
  *(
    (f'self_attn/linear_{name}', f'self_attn.linear_{name}', DENSE)
    for name in ('q', 'k', 'v', 'out', 'pos')
  ),
  *under('feed_forward', 'feed_forward', _ESPNET_FEED_FORWARD),
  *under('feed_forward_macaron', 'feed_forward_macaron', _ESPNET_FEED_FORWARD),
  ('conv_module/pointwise_conv{k}', 'conv_module.pointwise_conv{k}', CONV),
  ('conv_module/depthwise_conv', 'conv_module.depthwise_conv', CONV),
  ('conv_module/norm', 'conv_module.norm', BATCH_NORM),
  *((name, name, LAYER_NORM) for name in ('norm_ff', 'norm_mha', 'norm_ff_macaron')),
  *((name, name, LAYER_NORM) for name in ('norm_conv', 'norm_final')),
)
_CONFORMER_STAGE = (
  *((name, name, CONV) for name in ('conv1a', 'conv2a', 'conv1b', 'conv2b', 'downsample')),
  *((name, name, BATCH_NORM) for name in ('bn1a', 'bn1b', 'outbna', 'outbnb')),
)
CONFORMER_OBSERVER = (
  ('front_end/conv', 'visual_frontend.frontend3D.0', CONV),
  ('front_end/norm', 'visual_frontend.frontend3D.1', BATCH_NORM),
  *under('front_end/layer{i}', 'visual_frontend.resnet.layer{i}', _CONFORMER_STAGE),
  ('encoder/embed', 'encoder.embed.0', DENSE),
  ('encoder/embed_norm', 'encoder.embed.1', LAYER_NORM),
  *under('encoder/layers_{i}', 'encoder.encoders.{i}', _CONFORMER_LAYER),
  ('encoder/after_norm', 'encoder.after_norm', LAYER_NORM),
  ('decoder/embed', 'decoder.embed.0', EMBED),
  *under('decoder/layers_{i}_self_attn', 'decoder.decoders.{i}.self_attn', _ESPNET_ATTENTION),
  *under('decoder/layers_{i}_src_attn', 'decoder.decoders.{i}.src_attn', _ESPNET_ATTENTION),
  *under(
    'decoder/layers_{i}_feed_forward', 'decoder.decoders.{i}.feed_forward', _ESPNET_FEED_FORWARD
  ),
  ('decoder/layers_{i}_norm{j}', 'decoder.decoders.{i}.norm{j}', LAYER_NORM),
  ('decoder/after_norm', 'decoder.after_norm', LAYER_NORM),
  ('decoder/output', 'decoder.output_layer', DENSE),
  ('ctc', 'ctc.ctc_lo', DENSE),
)

_MVM_BLOCK = (
  ('norm_{k}', 'res_layer.{k}', BATCH_NORM),
  ('conv_{k}', 'res_layer.{k}', CONV),
  ('relu_{k}', 'res_layer.{k}', PRELU),
  ('shortcut', 'shortcut_layer.0', CONV),
  ('shortcut_norm', 'shortcut_layer.1', BATCH_NORM),
)
_MVM_MEMORY = (
  ('', '', (*raw('key'), *raw('value'))),
  *((name, name, DENSE) for name in ('q_embd', 'v_embd', 'v_up', 'linear')),
  ('norm{k}', 'norm{k}', LAYER_NORM),
)
_MVM_TEMPORAL = (
  ('branch_{j}_{k}_conv', 'cbcr{j}_{k}.conv', CONV),
  ('branch_{j}_{k}_norm', 'cbcr{j}_{k}.batchnorm', BATCH_NORM),
  ('branch_{j}_{k}_relu', 'cbcr{j}_{k}.non_lin', PRELU),
  ('downsample', 'downsample', CONV),
  ('relu', 'relu_final', PRELU),
)
MVM_LRW = (
  ('visual/conv', 'v_front_state_dict.frontend.0', CONV),
  ('visual/norm', 'v_front_state_dict.frontend.1', BATCH_NORM),
  ('visual/relu', 'v_front_state_dict.frontend.2', PRELU),
  *under('visual/stage_{i}_{j}', 'v_front_state_dict.resnet.layer{i}.{j}', _MVM_BLOCK),
  ('visual/out_norm', 'v_front_state_dict.resnet.out_layer.0', BATCH_NORM),
  ('visual/out', 'v_front_state_dict.resnet.out_layer.3', DENSE),
  ('visual/out_layer_norm', 'v_front_state_dict.resnet.out_layer.4', LAYER_NORM),
  ('audio/conv_0', 'a_front_state_dict.frontend.0', CONV),
  ('audio/norm_0', 'a_front_state_dict.frontend.1', BATCH_NORM),
  ('audio/relu_0', 'a_front_state_dict.frontend.2', PRELU),
  ('audio/conv_1', 'a_front_state_dict.frontend.3', CONV),
  ('audio/norm_1', 'a_front_state_dict.frontend.4', BATCH_NORM),
  ('audio/relu_1', 'a_front_state_dict.frontend.5', PRELU),
  *under('audio/block', 'a_front_state_dict.Res_block.0', _MVM_BLOCK),
  ('audio/block_norm', 'a_front_state_dict.Res_block.1', BATCH_NORM),
  ('audio/out', 'a_front_state_dict.Linear.0', DENSE),
  ('audio/out_layer_norm', 'a_front_state_dict.Linear.1', LAYER_NORM),
  *under('memory', 'mem_state_dict', _MVM_MEMORY),
  *under('memory_{i}', 'tcn_state_dict.tcn.mb_ms_tcn.mem{i}', _MVM_MEMORY),
  *under('temporal_{i}', 'tcn_state_dict.tcn.mb_ms_tcn.layer{i}', _MVM_TEMPORAL),
  ('out', 'tcn_state_dict.tcn.tcn_output', DENSE),
)

# ChannelNorm keeps its numbers as (1, C, 1).
_PER_CHANNEL = Layout(lambda w: w.reshape(-1), lambda w: w.reshape(1, -1, 1))
CPC_AUDIO = (
  ('encoder/conv_{i}', 'gEncoder.conv{i}', CONV),
  (
    'encoder/norm_{i}',
    'gEncoder.batchNorm{i}',
    (
      Leaf('params', 'scale', 'weight', _PER_CHANNEL),
      Leaf('params', 'bias', 'bias', _PER_CHANNEL),
    ),
  ),
  (
    'recurrent',
    'gAR.baseNet',
    (
      Leaf('params', 'input_kernel', 'weight_ih_l0', KERNEL),
      Leaf('params', 'hidden_kernel', 'weight_hh_l0', KERNEL),
      *raw('input_bias', 'bias_ih_l0'),
      *raw('hidden_bias', 'bias_hh_l0'),
    ),
  ),
)

VGG_FACE = (
  ('conv{i}_{j}', 'conv{i}_{j}', CONV),
  ('fc{i}', 'fc{i}', DENSE),
)
SENET = (
  ('conv1', 'conv1_7x7_s2', CONV),
  ('conv1_bn', 'conv1_7x7_s2_bn', BATCH_NORM_UNCOUNTED),
  *(
    (f'block_{{i}}_{{j}}/{ours}{norm}', f'conv{{i}}_{{j}}_{theirs}{norm}', kind)
    for ours, theirs in (
      ('reduce', '1x1_reduce'),
      ('middle', '3x3'),
      ('increase', '1x1_increase'),
      ('proj', '1x1_proj'),
    )
    for norm, kind in (('', CONV), ('_bn', BATCH_NORM_UNCOUNTED))
  ),
  ('block_{i}_{j}/down', 'conv{i}_{j}_1x1_down', CONV),
  ('block_{i}_{j}/up', 'conv{i}_{j}_1x1_up', CONV),
  ('classifier', 'classifier', CONV),
)


def _resnet_block(flax, torch, *, project):
  for k, name in enumerate(('reduce', 'middle', 'increase'), start=1):
    yield f'{flax}/{name}', f'{torch}.conv{k}', CONV
    yield f'{flax}/{name}_bn', f'{torch}.bn{k}', BATCH_NORM
  if project:
    yield f'{flax}/proj', f'{torch}.downsample.0', CONV
    yield f'{flax}/proj_bn', f'{torch}.downsample.1', BATCH_NORM


# (out, in) <-> (1, 1, in, out): the classes are a 1x1 convolution here and in the SENet.
_POINTWISE = Layout(
  lambda w: KERNEL.to_flax(w)[None, None],
  lambda w: KERNEL.to_torch(w)[..., 0, 0],
)
RESNET50 = (
  ('conv1', 'conv1', CONV),
  ('conv1_bn', 'bn1', BATCH_NORM),
  # Caffe counts stages from 2 and blocks from 1.
  *(
    row
    for stage, blocks in enumerate((3, 4, 6, 3))
    for j in range(blocks)
    for row in _resnet_block(f'block_{stage + 2}_{j + 1}', f'layer{stage + 1}.{j}', project=j == 0)
  ),
  ('classifier', 'fc', (Leaf('params', 'kernel', 'weight', _POINTWISE), BIAS)),
)

# DAVS: its PyTorch, 0.2, did not count batches.
_DAVS_NORM = BATCH_NORM_UNCOUNTED


def _davs_block(conv, norm):
  """A `ConvNorm` whose convolution and norm have the keys `conv` and `norm`."""
  return (*nested('conv', conv, CONV), *nested('norm', norm, _DAVS_NORM))


DAVS_IDENTITY_ENCODER = (
  # Python 2 read the number 01 of the first block as octal.
  *(
    ('block_1_' + branch, 'block1', _davs_block(f'conv01_{branch}', f'conv01_{branch}_bn'))
    for branch in 'ab'
  ),
  *(
    (
      f'block_{{i}}_{branch}',
      'block{i}',
      _davs_block(f'conv{{i}}_{branch}', f'conv{{i}}_{branch}_bn'),
    )
    for branch in 'ab'
  ),
)
_PRE_ACTIVATION = (
  ('conv{k}', 'conv{k}', CONV),
  ('bn{k}', 'bn{k}', _DAVS_NORM),
  ('shortcut_norm', 'downsample.0', _DAVS_NORM),
  ('shortcut', 'downsample.2', CONV),
)
DAVS_LIP_ENCODER = (
  ('stem', 'model', _davs_block('conv1', 'bn1')),
  *under('conv{i}', 'model.conv{i}', _PRE_ACTIVATION),
  *under('hourglass/b{i}_{j}', 'model.m0.b{i}_{j}', _PRE_ACTIVATION),
  *under('hourglass/b2_plus_1', 'model.m0.b2_plus_1', _PRE_ACTIVATION),
  *under('top', 'model.top_m_0', _PRE_ACTIVATION),
  ('last', 'model', _davs_block('conv_last0', 'bn_end0')),
  ('heat_maps', 'model.l0', CONV),
  ('unused_conv{i}', 'model.conv{i}', CONV),
  ('unused_fc', 'model.fc', DENSE),
  ('map_norm', 'bn1', _DAVS_NORM),
  ('fold', 'conv6', CONV),
  ('fc', 'fc', DENSE),
)
DAVS_MFCC_ENCODER = (
  ('square_4', 'model1.conv4', CONV),
  ('square_{i}', 'model1', _davs_block('conv{i}', 'bn{i}')),
  ('unused_norm', 'model1.bn5', _DAVS_NORM),
  ('tall_3', 'model2.conv3', CONV),
  ('tall_{i}', 'model2', _davs_block('conv{i}', 'bn{i}')),
  ('fc', 'fc', DENSE),
)
DAVS_DECODER = (
  ('root', 'deconv1_1_new', CONV_TRANSPOSE),
  ('root_norm', 'deconv1_1_bn', _DAVS_NORM),
  ('stage_{i}_{j}', 'convblock{i}', _davs_block('conv{i}_{j}', 'conv{i}_{j}_bn')),
  ('head', 'conv7_1', CONV_TRANSPOSE),
  ('head_norm', 'conv7_1_bn', _DAVS_NORM),
  ('image', 'conv7_2', CONV_TRANSPOSE),
)
DAVS_DISCRIMINATOR = (
  ('conv_1', 'conv1', CONV),
  ('conv_2', '', _davs_block('conv2_1', 'norm_1')),
  ('conv_3', '', _davs_block('conv2_2', 'norm_2')),
  ('conv_4', '', _davs_block('conv3', 'norm3')),
  ('patch', 'conv4', CONV),
  ('mouth', '', _davs_block('conv6', 'bn6')),
  ('mouth_all', 'conv9', CONV),
  ('speech_{i}', '', _davs_block('mfcc_conv{i}', 'mfcc_bn{i}')),
  ('fc', 'fc', DENSE),
  ('fc2', 'fc2', DENSE),
  ('unused_conv8', 'conv8', CONV),
  ('unused_norm{i}', 'bn{i}', _DAVS_NORM),
)
DAVS_CLASSIFIERS = (
  ('words/fc_{i}', 'model_fusion.fc_{i}', DENSE),
  ('words/unused', 'model_fusion.dis', DENSE),
  ('domain/fc{i}', 'discriminator_audio.fc{i}', DENSE),
  ('identity_words/conv6', 'ID_lip_discriminator.conv6', CONV),
  ('identity_words/fc', 'ID_lip_discriminator.fc', DENSE),
  ('identity_words/fc_2', 'ID_lip_discriminator.fc_2', DENSE),
  # The released checkpoint has only the heads above.
  ('probe/fc_1', 'id_fc.fc_1', may_lack(DENSE)),
  ('probe/unused_fc_2', 'id_fc.fc_2', may_lack(DENSE)),
  ('probe/unused', 'id_fc.dis', may_lack(DENSE)),
  ('persons/fc', 'face_id_fc.fc', may_lack(DENSE)),
)


def _voice2face_encoder(flax, torch):
  # PyTorch's layers stand in one list: convolution, norm, ReLU.
  for i in range(4):
    yield f'{flax}/conv_{i}', f'{torch}.{3 * i}', CONV
    yield f'{flax}/norm_{i}', f'{torch}.{3 * i + 1}', BATCH_NORM
  yield f'{flax}/out', f'{torch}.12', CONV


_SF2F_ENCODER = (
  ('encoder/block_{i}/conv_{k}', 'encoder.model.{i}.conv_k{k}.model.0', CONV),
  ('encoder/block_{i}/norm_{k}', 'encoder.model.{i}.conv_k{k}.model.1', BATCH_NORM),
  ('encoder/out', 'encoder.model.4', CONV),
  ('fuser/query', 'encoder.attn_fuser.attention.linear_in', DENSE),
  ('fuser/out', 'encoder.attn_fuser.attention.linear_out', DENSE),
  ('decoder/stem', 'decoder.fc.0', DENSE),
  ('decoder/stem_norm', 'decoder.fc.1', BATCH_NORM),
)
SF2F_GENERATOR = (
  *_SF2F_ENCODER,
  ('decoder/up_{i}', 'decoder.up_layers.{i}.1', CONV),
  ('decoder/up_{i}_norm', 'decoder.up_layers.{i}.2', BATCH_NORM),
  ('decoder/head_0_hidden', 'decoder.gnet.0', CONV),
  ('decoder/head_0', 'decoder.gnet.2', CONV),
)
SF2F_GENERATOR_MULTIRES = (
  *_SF2F_ENCODER,
  ('decoder/up_4', 'decoder.up_mid_layer.1', CONV),
  ('decoder/up_4_norm', 'decoder.up_mid_layer.2', BATCH_NORM),
  ('decoder/up_{i}', 'decoder.up_low_layers.{i}.1', CONV),
  ('decoder/up_{i}_norm', 'decoder.up_low_layers.{i}.2', BATCH_NORM),
  ('decoder/head_0_hidden', 'decoder.gnet_low.0', CONV),
  ('decoder/head_0', 'decoder.gnet_low.2', CONV),
  ('decoder/head_1_hidden', 'decoder.gnet_mid.0', CONV),
  ('decoder/head_1', 'decoder.gnet_mid.2', CONV),
)
VOICE2FACE_GENERATOR = (
  *_voice2face_encoder('encoder', 'encoder.model'),
  ('decoder/deconv_{i}', 'decoder.model.{i}.model.0', CONV_TRANSPOSE),
  ('decoder/out', 'decoder.model.5.model.0', CONV_TRANSPOSE),
)


def _sf2f_judge(torch, *, normalised):
  # One list again: convolution, then norm (if any), activation, convolution.
  step = 3 if normalised else 2
  for i in range(5):
    yield f'stack/conv_{i}', f'{torch}.{step * i}', CONV
    yield f'stack/norm_{i}', f'{torch}.{step * i + 1}', BATCH_NORM


_IDENTITY_HEADS = (
  ('hidden', 'cnn.2', DENSE),
  ('real', 'real_classifier', DENSE),
  ('identity', 'id_classifier', DENSE),
)
SF2F_IMAGE_DISCRIMINATOR = (
  *_sf2f_judge('cnn', normalised=True),
  ('classifier', 'classifier', CONV),
)
SF2F_IDENTITY_DISCRIMINATOR = (*_sf2f_judge('cnn.0', normalised=True), *_IDENTITY_HEADS)
VOICE2FACE_DISCRIMINATOR = (*_sf2f_judge('cnn.0', normalised=False), *_IDENTITY_HEADS)


def _facenet_branch(flax, torch, layers=()):
  """A single layer stands without a number of its own."""
  if not layers:
    yield f'{flax}/conv_0', f'{torch}.conv', CONV
    yield f'{flax}/norm_0', f'{torch}.bn', BATCH_NORM
  for i in layers:
    yield f'{flax}/conv_{i}', f'{torch}.{i}.conv', CONV
    yield f'{flax}/norm_{i}', f'{torch}.{i}.bn', BATCH_NORM


def _facenet_residual(flax, torch):
  yield from _facenet_branch(f'{flax}/branch_0', f'{torch}.branch0')
  for k in (1, 2):
    yield from _facenet_branch(f'{flax}/branch_{k}', f'{torch}.branch{k}', range(3))
  yield f'{flax}/out', f'{torch}.conv2d', CONV


FACENET = (
  *(
    row
    for name in ('1a', '2a', '2b', '3b', '4a', '4b')
    for row in _facenet_branch(f'conv2d_{name}', f'conv2d_{name}')
  ),
  *_facenet_residual('repeat_{g}_{n}', 'repeat_{g}.{n}'),
  *_facenet_branch('mixed_6a_0', 'mixed_6a.branch0'),
  *_facenet_branch('mixed_6a_1', 'mixed_6a.branch1', range(3)),
  *_facenet_branch('mixed_7a_0', 'mixed_7a.branch0', range(2)),
  *_facenet_branch('mixed_7a_1', 'mixed_7a.branch1', range(2)),
  *_facenet_branch('mixed_7a_2', 'mixed_7a.branch2', range(3)),
  *_facenet_residual('block8', 'block8'),
  ('last_linear', 'last_linear', DENSE),
  ('last_bn', 'last_bn', BATCH_NORM),
  ('logits', 'logits', DENSE),
)

TABLES = {
  'avhubert_base_encoder': AVHUBERT_ENCODER,
  'avhubert_base_seq2seq': AVHUBERT_SEQ2SEQ,
  'avhubert_large_encoder': AVHUBERT_ENCODER,
  'avhubert_large_seq2seq': AVHUBERT_SEQ2SEQ,
  'color_syncnet': COLOR_SYNCNET,
  'conformer_observer': CONFORMER_OBSERVER,
  'cpc_audio': CPC_AUDIO,
  'davs_classifiers': DAVS_CLASSIFIERS,
  'davs_decoder': DAVS_DECODER,
  'davs_identity_encoder': DAVS_IDENTITY_ENCODER,
  'davs_image_discriminator': DAVS_DISCRIMINATOR,
  'davs_lip_encoder': DAVS_LIP_ENCODER,
  'davs_mfcc_encoder': DAVS_MFCC_ENCODER,
  'davs_sequence_discriminator': DAVS_DISCRIMINATOR,
  'mvm_lrw': MVM_LRW,
  'senet50_ferplus': SENET,
  'sf2f_facenet': FACENET,
  'sf2f_generator_128_multires': SF2F_GENERATOR_MULTIRES,
  'sf2f_generator_64': SF2F_GENERATOR,
  'sf2f_generator_64_fuser': SF2F_GENERATOR,
  'sf2f_identity_discriminator': SF2F_IDENTITY_DISCRIMINATOR,
  'sf2f_image_discriminator': SF2F_IMAGE_DISCRIMINATOR,
  'syncnet_v2': SYNCNET_V2,
  'talklip_discriminator': QUALITY_DISCRIMINATOR,
  'talklip_generator': TALKLIP,
  'talklip_local_audio_encoder': under('', 'audio_encoder', MEL_ENCODER),
  'talklip_sync': CONTRASTIVE_HEAD,
  'vggface2_resnet50': RESNET50,
  'vggface_vgg16': VGG_FACE,
  'voice2face_discriminator': VOICE2FACE_DISCRIMINATOR,
  'voice2face_generator': VOICE2FACE_GENERATOR,
  'wav2lip_generator': WAV2LIP,
  'wav2lip_quality_discriminator': QUALITY_DISCRIMINATOR,
}
