"""The TalkLip generator (Wang et al., CVPR 2023): audio encoder, face U-Net, contrastive head.

Source: Sxjdwang/TalkLip `models/talklip.py`, `models/learn_sync.py`. The global variant (g) hears
the whole utterance through AV-HuBERT; the local one (l, supplement Table 3) hears 0.2 s of mel
through Wav2Lip's audio encoder:

    g = TalkLip(AVHubertEncoder(), image=FaceUNet())
    l = TalkLip(MelEncoder(), image=FaceUNet(), map_audio=False)
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from tfg_jax.networks import layers
from tfg_jax.networks.face_unet import FaceUNet


class ContrastiveHead(nn.Module):
  """Maps audio embeddings to the space of the lip expert's visual features (`av_sync`)."""

  features: int = 768
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, audio):
    """Returns (N, features) rows of unit length, float32, from (N, D) audio embeddings."""
    audio = layers.unit(audio)
    self.sow('intermediates', 'audio', audio)
    projected = layers.Dense(self.features, dtype=self.dtype, name='audio_projection')(audio)
    self.sow('intermediates', 'projected', projected)
    return layers.unit(projected)


class TalkLip(nn.Module):
  """Redraws faces to speech.

  Training calls the three steps, `encode_audio`, `render` and `contrast`, one by one, so that it
  can stop the gradient between them and choose which of them normalises with batch statistics.

  Attributes:
    audio_encoder: `AVHubertEncoder` (g) or `MelEncoder` (l).
    image: the U-Net that draws.
    contrastive: the head of the contrastive loss; its variables exist in every checkpoint.
    map_audio: whether a linear layer stands between embedding and U-Net; False for (l), whose
      encoder has the width of the bottleneck.
    dtype: of that layer; the parts have their own.
  """

  audio_encoder: nn.Module
  image: FaceUNet = FaceUNet()
  contrastive: ContrastiveHead = ContrastiveHead()
  map_audio: bool = True
  dtype: Any = jnp.float32

  def setup(self):
    if self.map_audio:
      self.audio_map = layers.Dense(self.image.encoder[-1], dtype=self.dtype)

  def encode_audio(self, audio, padding_mask=None, *, train: bool):
    """Embeds speech.

    Args:
      audio: (g) (B, T, 104) stacked log filter banks; (l) (N, 80, 16, 1) mel windows.
      padding_mask: (g) (B, T) bool, True on padded rows; None for (l).
      train: dropout (g) or batch statistics (l).

    Returns:
      (g) (B, T, D); (l) (N, D).
    """
    if padding_mask is None:
      return self.audio_encoder(audio, train=train)
    return self.audio_encoder(audio, padding_mask=padding_mask, train=train)

  def render(self, face, embedding, *, train: bool):
    """Returns (N, S, S, 3) faces in [0, 1] from (N, S, S, 6) faces and (N, D) embeddings.

    `face` holds the pose face, lower half zero, then the identity face; official weights are BGR.
    """
    if self.map_audio:
      embedding = self.audio_map(embedding)
      self.sow('intermediates', 'mapped_audio', embedding)
    return self.image(face, embedding, train=train)

  def contrast(self, embedding):
    """Returns (N, 768) unit rows for the contrastive loss from (N, D) embeddings."""
    return self.contrastive(embedding)

  def __call__(self, face, audio, padding_mask=None, rows=None, *, train: bool):
    """Returns the faces and all audio embeddings.

    Args:
      face, audio, padding_mask: see `render` and `encode_audio`.
      rows: (N,) int, for (g): the embedding of face i is row `rows[i]` of the (B * T, D) ones.
      train: for every part.
    """
    embedding = self.encode_audio(audio, padding_mask, train=train)
    chosen = embedding if rows is None else pick_rows(embedding, rows)
    if self.is_initializing():
      self.contrast(chosen)
    return self.render(face, chosen, train=train), embedding


def pick_rows(embedding, rows):
  """Returns (N, D): the rows, counted through (B * T), of a (B, T, D) embedding."""
  return embedding.reshape(-1, embedding.shape[-1])[rows]
