"""One table per public network: Flax module path, PyTorch key prefix, kind of layer.

Rows of a part that several networks share stand in a constant of their own.
"""

from tfg_jax.pytorch.rules import (
  BATCH_NORM,
  BIAS,
  CONV,
  CONV_BLOCK,
  CONV_TRANSPOSE_BLOCK,
  DENSE,
  EMBED,
  KERNEL,
  LAYER_NORM,
  PRELU,
  Leaf,
  may_lack,
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

TABLES = {
  'avhubert_base_encoder': AVHUBERT_ENCODER,
  'avhubert_base_seq2seq': AVHUBERT_SEQ2SEQ,
  'avhubert_large_encoder': AVHUBERT_ENCODER,
  'avhubert_large_seq2seq': AVHUBERT_SEQ2SEQ,
  'color_syncnet': COLOR_SYNCNET,
  'conformer_observer': CONFORMER_OBSERVER,
  'mvm_lrw': MVM_LRW,
  'syncnet_v2': SYNCNET_V2,
  'talklip_discriminator': QUALITY_DISCRIMINATOR,
  'talklip_generator': TALKLIP,
  'talklip_local_audio_encoder': under('', 'audio_encoder', MEL_ENCODER),
  'talklip_sync': CONTRASTIVE_HEAD,
  'wav2lip_generator': WAV2LIP,
  'wav2lip_quality_discriminator': QUALITY_DISCRIMINATOR,
}
