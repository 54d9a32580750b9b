"""Made-up results of the papers' jobs: all that `read`, `table` and `strip` of a study need."""

import json

import cv2
import numpy as np

from tfg_jax.claims import davs, sf2f, speech2video, talklip


def of_talklip(workdir, rates):
  """Runs' tables of clips with word error rates `rates` by row, and pictures of one colour each."""
  rng = np.random.default_rng(0)
  for number, name in enumerate(('wav2lip', *talklip.VARIANTS)):
    folder = workdir / name
    (folder / 'samples').mkdir(parents=True)
    lines = []
    for clip in range(40):
      row = {'clip_id': f'clip_{clip}'}
      for who in ('ground_truth', 'identity_mouth', 'generated'):
        rate = rates.get(name if who == 'generated' else who, 0.5)
        for metric in talklip.METRICS:
          row[f'{who}/{metric}'] = (rate if 'wer' in metric else 5) + 0.01 * rng.random()
      lines.append(row)
    text = [','.join(lines[0]), *(','.join(map(str, line.values())) for line in lines)]
    (folder / 'clips.csv').write_text('\n'.join(text) + '\n')
    (folder / 'config.json').write_text(json.dumps({'evaluation': {'samples': 2}}))
    picture = np.full((2 * 2 * 16, 64, 3), 30 * number, np.uint8)
    cv2.imwrite(str(folder / 'samples' / 'step_000000004.png'), picture)


def of_davs(workdir, levels):
  """Runs' tables of clips, numbers around `levels[name, column]` (0.5), and pictures."""
  rng = np.random.default_rng(0)
  rows = ('from_audio', 'from_video', 'still')
  columns = [f'{sense}/word_error' for sense in ('seen', 'heard', 'both')]
  columns += [f'{way}/rank' for way in ('video_to_audio', 'audio_to_video', *rows)]
  columns += [f'{row}/{metric}' for row in rows for metric in ('psnr', 'ssim')]
  columns += ['person/word_read']
  again = [f'{name}_again' for name in davs.EMBEDDINGS]
  for number, name in enumerate((*davs.EMBEDDINGS, *again, *davs.GENERATORS)):
    folder, first = workdir / name, name.removesuffix('_again')
    (folder / 'samples').mkdir(parents=True)
    lines = [','.join(['clip_id', *columns])]
    for clip in range(40):
      found = []
      for column in columns:
        level = levels.get((name, column), levels.get((first, column), 0.5))
        if column.endswith('rank'):
          found.append(1.0 if rng.random() < level else 30.0)
        elif column.endswith(('psnr', 'ssim')):
          found.append(level + 0.01 * rng.random())
        else:
          found.append(float(rng.random() < level))
      lines.append(','.join(map(str, [f'clip_{clip}', *found])))
    (folder / 'clips.csv').write_text('\n'.join(lines) + '\n')
    (folder / 'config.json').write_text(json.dumps({'evaluation': {'samples': 2}}))
    picture = np.full((2 * 3 * 16, 64, 3), 20 * number, np.uint8)
    cv2.imwrite(str(folder / 'samples' / 'step_000000004.png'), picture)


def of_sf2f(workdir, recalls):
  """What `tfg_jax.gallery` writes of 41 people whose numbers are `recalls[job, row]`, else 0.5; and
  pictures of one colour for each column."""
  rng = np.random.default_rng(0)
  for job, count in (('sf2f', 3), ('voice2face', 2)):
    rows = [name for of, name in sf2f._ROWS.values() if of == job]
    people = {}
    for row in rows:
      level = recalls.get((job, row), 0.5)
      for metric in sf2f.METRICS[:-1]:
        if metric.startswith('recall'):  # the last one is in no gallery
          hits = rng.permutation(40) < 40 * level
          people[f'{row}/{metric}'] = np.append(hits, np.nan)
        else:
          people[f'{row}/{metric}'] = level + 0.01 * rng.random(41)
    numbers = {name: {'vfs': 2.5} for name in rows}
    numbers['chance'] = {f'recall_{k}': k / 40 for k in (1, 2, 5, 10)}
    folder = workdir / job
    (folder / 'samples').mkdir(parents=True)
    (folder / 'gallery.json').write_text(json.dumps({'rows': numbers}))
    lines = [[f'puppet{i}', *(f'{float(x[i])}' for x in people.values())] for i in range(41)]
    text = [','.join(line) for line in [['person', *people], *lines]]
    (folder / 'people.csv').write_text('\n'.join(text) + '\n')
    picture = np.repeat(np.arange(count) * 50, 8)[None, :, None] + np.zeros((2 * 8, 1, 3))
    cv2.imwrite(str(folder / 'samples' / 'step_000000004.png'), picture.astype(np.uint8))


def of_speech2video(workdir, levels):
  """Tables of 41 clips with the mean `levels[row, metric]`, else 0.5; and pictures."""
  rng = np.random.default_rng(0)
  for number, job in enumerate(('speech2video', 'sdfa', 's2f_sdfa', 'unseen')):
    rows = [(row, name) for row, (of, name, *_) in speech2video._ROWS.items() if of == job]
    columns = {
      f'{name}/{metric}': levels.get((row, metric), 0.5) + 0.01 * rng.standard_normal(41)
      for row, name in rows
      for metric in speech2video.METRICS
      if (row, metric) != ('average_face', 'lse_c')
    }
    folder = workdir / job
    (folder / 'samples').mkdir(parents=True)
    lines = [[f'clip{i}', *(f'{x[i]}' for x in columns.values())] for i in range(41)]
    text = [','.join(line) for line in [['clip_id', *columns], *lines]]
    (folder / 'clips.csv').write_text('\n'.join(text) + '\n')
    (folder / 'config.json').write_text(json.dumps({'evaluation': {'samples': 3}}))
    picture = np.repeat([10, 50 * (number + 1)] * 3, 16)[:, None, None] + np.zeros((1, 64, 3))
    cv2.imwrite(str(folder / 'samples' / 'step_000000004.png'), picture.astype(np.uint8))
