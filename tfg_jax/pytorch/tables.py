"""One table per public network: Flax module path, PyTorch key prefix, kind of layer.

Rows of a part that several networks share stand in a constant of their own.
"""

from tfg_jax.pytorch.rules import CONV

QUALITY_DISCRIMINATOR = (
  ('block_{i}_{j}', 'face_encoder_blocks.{i}.{j}.conv_block.0', CONV),
  ('binary_pred', 'binary_pred.0', CONV),
)

TABLES = {
  'talklip_discriminator': QUALITY_DISCRIMINATOR,
  'wav2lip_quality_discriminator': QUALITY_DISCRIMINATOR,
}
