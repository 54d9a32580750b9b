"""TalkLip in PyTorch, local variant: what a PyTorch user would write to load an exported run.

Layers and keys as in Sxjdwang/TalkLip `models/talklip.py` (face U-Net, discriminator, contrastive
head) and Rudrabha/Wav2Lip `models/wav2lip.py` (audio encoder), at any widths. The arguments are the
fields of `tfg_jax.networks`' modules, so a run's config builds the twins of its networks.
"""

import torch
from torch import nn
from torch.nn import functional


class Conv2d(nn.Module):
  """Convolution, batch norm, optional residual, ReLU."""

  def __init__(self, inputs, outputs, kernel, stride=1, padding=0, *, residual=False):
    super().__init__()
    self.conv_block = nn.Sequential(
      nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.BatchNorm2d(outputs)
    )
    self.residual = residual

  def forward(self, x):
    y = self.conv_block(x)
    return functional.relu(x + y if self.residual else y)


class Conv2dTranspose(nn.Module):
  """Transposed convolution, batch norm, ReLU."""

  def __init__(self, inputs, outputs, kernel, stride, padding, output_padding=0):
    super().__init__()
    self.conv_block = nn.Sequential(
      nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding, output_padding),
      nn.BatchNorm2d(outputs),
    )

  def forward(self, x):
    return functional.relu(self.conv_block(x))


class LeakyConv2d(nn.Module):
  """Convolution and leaky ReLU."""

  def __init__(self, inputs, outputs, kernel, stride=1, padding=0):
    super().__init__()
    self.conv_block = nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, padding))

  def forward(self, x):
    return functional.leaky_relu(self.conv_block(x), 0.01)


def _residuals(width, number):
  return [Conv2d(width, width, 3, padding=1, residual=True) for _ in range(number)]


def audio_encoder(widths=(32, 64, 128, 256, 512), residuals=(2, 2, 2, 1)):
  """(N, 1, 80, 16) log-mel windows to (N, widths[-1], 1, 1)."""
  layers, inputs = [], 1
  for width, stride, number in zip(widths, (1, (3, 1), 3, (3, 2)), residuals, strict=False):
    layers += [Conv2d(inputs, width, 3, stride, 1), *_residuals(width, number)]
    inputs = width
  layers += [Conv2d(inputs, widths[-1], 3), Conv2d(widths[-1], widths[-1], 1)]
  return nn.Sequential(*layers)


class AVSync(nn.Module):
  """The linear layer of the contrastive loss."""

  def __init__(self, audio, features):
    super().__init__()
    self.Linearaudio = nn.Linear(audio, features)


class TalkLip(nn.Module):
  """(N, 6, S, S) faces and (N, 1, 80, 16) mel windows to (N, 3, S, S) faces in [0, 1]."""

  def __init__(
    self,
    encoder=(16, 32, 64, 128, 256, 512),
    encoder_residuals=(0, 2, 3, 2, 2, 1),
    decoder=(64, 128, 256, 384, 512, 512),
    decoder_residuals=(2, 2, 2, 2, 2, 1),
    head=32,
    audio=None,
    features=768,
  ):
    super().__init__()
    self.audio_encoder = audio_encoder(**(audio or {}))
    embedding = self.audio_encoder[-1].conv_block[1].num_features
    self.sync_net = AVSync(embedding, features)

    blocks = [[Conv2d(6, encoder[0], 7, 1, 3)]]
    blocks += [
      [Conv2d(inputs, outputs, 3, 2, 1)]
      for inputs, outputs in zip(encoder, encoder[1:], strict=False)
    ]
    for block, width, number in zip(blocks, encoder, encoder_residuals, strict=True):
      block += _residuals(width, number)
    blocks.append([Conv2d(encoder[-1], encoder[-1], 3), Conv2d(encoder[-1], encoder[-1], 1)])
    self.face_encoder_blocks = nn.ModuleList([nn.Sequential(*block) for block in blocks])

    skips = [*encoder, encoder[-1]]
    blocks, inputs = [[Conv2d(embedding, decoder[-1], 1)]], decoder[-1] + skips.pop()
    for width, number in zip(decoder[::-1], decoder_residuals[::-1], strict=True):
      grow = (3, 1, 0) if len(blocks) == 1 else (3, 2, 1, 1)
      blocks.append([Conv2dTranspose(inputs, width, *grow), *_residuals(width, number)])
      inputs = width + skips.pop()
    self.face_decoder_blocks = nn.ModuleList([nn.Sequential(*block) for block in blocks])
    self.output_block = nn.Sequential(
      Conv2d(inputs, head, 3, 1, 1), nn.Conv2d(head, 3, 1), nn.Sigmoid()
    )

  def forward(self, face, mel):
    skips = []
    for block in self.face_encoder_blocks:
      face = block(face)
      skips.append(face)
    x = self.audio_encoder(mel)
    for block in self.face_decoder_blocks:
      x = torch.cat([block(x), skips.pop()], dim=1)
    return self.output_block(x)


class TalkLipDiscQual(nn.Module):
  """(N, 3, S, S) faces to (N,) probabilities that the lower half is real."""

  def __init__(self, widths=(32, 64, 128, 256, 512, 512)):
    super().__init__()
    blocks = [[LeakyConv2d(3, widths[0], 7, 1, 3)]]
    kernels = [*(5, 5, 5, 3, 3), *[3] * len(widths)]
    for inputs, outputs, kernel in zip(widths, widths[1:], kernels, strict=False):
      stride = (1, 2) if len(blocks) == 1 else 2
      blocks.append(
        [
          LeakyConv2d(inputs, outputs, kernel, stride, kernel // 2),
          LeakyConv2d(outputs, outputs, kernel, 1, kernel // 2),
        ]
      )
    blocks.append([LeakyConv2d(widths[-1], widths[-1], 3), LeakyConv2d(widths[-1], widths[-1], 1)])
    self.face_encoder_blocks = nn.ModuleList([nn.Sequential(*block) for block in blocks])
    self.binary_pred = nn.Sequential(nn.Conv2d(widths[-1], 1, 1), nn.Sigmoid())

  def forward(self, face):
    x = face[:, :, face.shape[2] // 2 :]
    for block in self.face_encoder_blocks:
      x = block(x)
    return self.binary_pred(x).flatten()
