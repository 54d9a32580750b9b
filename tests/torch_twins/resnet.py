"""VGGFace2's ResNet-50 in PyTorch, at any widths; keys as in torchvision and the official file.

It differs from torchvision's network in two places: the stride is on the first 1x1 convolution of
a block, and the pool is not padded but rounds up.
"""

from torch import nn


def _norm(inputs, outputs, kernel, stride=1):
  """A convolution without bias and its batch norm."""
  conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
  return conv, nn.BatchNorm2d(outputs, eps=1e-5, momentum=0.1)


class Bottleneck(nn.Module):
  """(N, inputs, H, W) to (N, 4 * width, H / stride, W / stride)."""

  def __init__(self, inputs, width, stride, *, project):
    super().__init__()
    self.conv1, self.bn1 = _norm(inputs, width, 1, stride)
    self.conv2, self.bn2 = _norm(width, width, 3)
    self.conv3, self.bn3 = _norm(width, 4 * width, 1)
    if project:
      self.downsample = nn.Sequential(*_norm(inputs, 4 * width, 1, stride))

  def forward(self, x):
    y = self.bn1(self.conv1(x)).relu()
    y = self.bn2(self.conv2(y)).relu()
    y = self.bn3(self.conv3(y))
    shortcut = self.downsample(x) if hasattr(self, 'downsample') else x
    return (y + shortcut).relu()


class ResNet(nn.Module):
  """(N, 3, S, S) faces without their mean to (N, classes) logits; the official S is 224."""

  def __init__(self, stem=64, widths=(64, 128, 256, 512), blocks=(3, 4, 6, 3), classes=8631):
    super().__init__()
    self.conv1, self.bn1 = _norm(3, stem, 7, 2)
    self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
    inputs = stem
    for stage, (width, number) in enumerate(zip(widths, blocks, strict=True), start=1):
      made = []
      for i in range(number):
        stride = 2 if stage > 1 and i == 0 else 1
        made.append(Bottleneck(inputs, width, stride, project=i == 0))
        inputs = 4 * width
      setattr(self, f'layer{stage}', nn.Sequential(*made))
    self.fc = nn.Linear(inputs, classes)

  def forward(self, x):
    """Logits, and the map behind each stage."""
    x = self.maxpool(self.bn1(self.conv1(x)).relu())
    maps = [x]
    for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
      maps.append(layer(maps[-1]))
    return self.fc(maps[-1].mean((2, 3))), maps
