"""Pictures of what systems have drawn, below each other."""

import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw


def last_samples(workdir: pathlib.Path) -> np.ndarray:
  """The strips of a run's last evaluation, (H, W, 3) uint8 RGB."""
  path = sorted((workdir / 'samples').glob('step_*.png'))[-1]
  return cv2.imread(str(path))[..., ::-1]


def labelled(rows: Sequence[tuple[str, str, np.ndarray]]) -> Image.Image:
  """Pictures below each other, each with a label on its left, and a text above where it has one."""
  left, line = 150, 14
  width = left + rows[0][2].shape[1]
  height = sum(len(picture) + (line if text else 0) for _, text, picture in rows)
  canvas = Image.new('RGB', (width, height), 'white')
  draw, top = ImageDraw.Draw(canvas), 0
  for label, text, picture in rows:
    if text:
      draw.text((left, top + 1), f'"{text}"', fill='black')
      top += line
    draw.text((4, top + len(picture) // 2 - 6), label, fill='black')
    canvas.paste(Image.fromarray(picture), (left, top))
    top += len(picture)
  return canvas
