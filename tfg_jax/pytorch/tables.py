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

TABLES = {
  'avhubert_base_encoder': AVHUBERT_ENCODER,
  'avhubert_base_seq2seq': AVHUBERT_SEQ2SEQ,
  'avhubert_large_encoder': AVHUBERT_ENCODER,
  'avhubert_large_seq2seq': AVHUBERT_SEQ2SEQ,
  'color_syncnet': COLOR_SYNCNET,
  'syncnet_v2': SYNCNET_V2,
  'talklip_discriminator': QUALITY_DISCRIMINATOR,
  'talklip_generator': TALKLIP,
  'talklip_local_audio_encoder': under('', 'audio_encoder', MEL_ENCODER),
  'talklip_sync': CONTRASTIVE_HEAD,
  'wav2lip_generator': WAV2LIP,
  'wav2lip_quality_discriminator': QUALITY_DISCRIMINATOR,
}
