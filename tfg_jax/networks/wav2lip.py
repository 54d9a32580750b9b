"""The Wav2Lip generator (Prajwal et al., ACM MM 2020): mel encoder and face U-Net.

Source: Rudrabha/Wav2Lip `models/wav2lip.py`.
"""

from flax import linen as nn

from tfg_jax.networks.face_unet import FaceUNet
from tfg_jax.networks.mel_encoder import MelEncoder


class Wav2Lip(nn.Module):
  """Redraws faces to 0.2 s of speech each."""

  audio_encoder: MelEncoder = MelEncoder()
  image: FaceUNet = FaceUNet()

  def __call__(self, face, mel, *, train: bool):
    """Returns (N, S, S, 3) faces in [0, 1].

    Args:
      face: (N, S, S, 6) in [0, 1]: the pose face, lower half zero, then the identity face. The
        official weights expect BGR.
      mel: (N, 80, 16, 1) log-mel windows in [-4, 4].
      train: normalise with the batch's statistics and update the running ones.
    """
    return self.image(face, self.audio_encoder(mel, train=train), train=train)
