"""SF2F's tables on puppets: does a voice tell a face, and do more windows of it tell more?

quick    narrow networks, 64 px puppets: within half an hour on two CPU cores
full     the published networks, 128 px puppets: for an accelerator

Some puppets are in the split test_unseen alone; what is drawn of their voices is looked for among
their portraits. Voices tell the shape of a puppet's face and its age, and nothing of the colours of
skin, hair and eyes (`data_prep/puppets/identity.py`), so nobody could find them all. The FaceNet
that SF2F learns from and the one that judges are of different seeds.
"""

import json
import pathlib
from collections.abc import Mapping

import numpy as np
from PIL import Image

from tfg_jax import gallery
from tfg_jax.claims import comparison, strips
from tfg_jax.claims.comparison import Claim
from tfg_jax.claims.jobs import Job
from tfg_jax.claims.trainings import Trainings
from tfg_jax.metrics import likeness

SUBJECTS = 'unseen people'
PAPER_NUMBERS = 'on HQ-VoxCeleb, in galleries of 100 people and from another FaceNet'
SPLIT = 'test_unseen'
METRICS = ('cosine', 'l1', *(f'recall_{k}' for k in likeness.RECALLS), 'vfs')

# Rows of the table: the job, and the row of its gallery.
_ROWS = {
  'ground_truth': ('sf2f', 'ground_truth'),
  'voice2face_1.25s': ('voice2face', 'generated_1.25s'),
  'single_1.25s': ('sf2f', 'generated_1.25s'),
  'voice2face_5s': ('voice2face', 'generated_5s'),
  'single_5s': ('sf2f', 'generated_5s'),
  'fused_5s': ('sf2f', 'fused_5s'),
}
_NAMES = {
  'chance': 'chance',
  'ground_truth': 'real portraits',
  'voice2face_1.25s': 'voice2face, 1.25 s',
  'single_1.25s': 'SF2F without fuser, 1.25 s',
  'voice2face_5s': 'voice2face, 5 s',
  'single_5s': 'SF2F without fuser, 5 s',
  'fused_5s': 'SF2F, 5 s',
}
# HQ-VoxCeleb at 64 px, Table 2 of the paper; recalls as shares.
_PAPER = {
  'chance': (None, None, 0.01, 0.02, 0.05, 0.10, None),
  'voice2face_1.25s': (0.202, 23.46, 0.0177, 0.0355, 0.1460, 0.2033, 15.47),
  'single_1.25s': (0.304, 19.22, 0.0532, 0.0810, 0.1927, 0.3280, 18.59),
  'voice2face_5s': (0.205, 23.17, 0.0164, 0.0364, 0.1512, 0.2082, 15.68),
  'single_5s': (0.294, 18.51, 0.0411, 0.0838, 0.1943, 0.3397, 18.54),
  'fused_5s': (0.317, 17.91, 0.0575, 0.0932, 0.2036, 0.3665, 19.49),
}

_FOUND = 'unseen people are found far better than by chance, twice as often or more'
_ABOVE = 'SF2F is above voice2face'
_FUSED = 'the fuser is above none'
CLAIMS = (
  Claim(_FOUND, 'recall_5', 'chance', 'single_1.25s', 'higher', by=1.0, relative=True),
  Claim(_FOUND, 'recall_5', 'chance', 'fused_5s', 'higher', by=1.0, relative=True),
  Claim(_ABOVE, 'cosine', 'voice2face_1.25s', 'single_1.25s', 'higher'),
  Claim(_ABOVE, 'recall_5', 'voice2face_1.25s', 'single_1.25s', 'higher'),
  Claim(_ABOVE, 'cosine', 'voice2face_5s', 'fused_5s', 'higher'),
  Claim(_ABOVE, 'recall_5', 'voice2face_5s', 'fused_5s', 'higher'),
  Claim(_FUSED, 'cosine', 'single_5s', 'fused_5s', 'higher'),
  Claim(_FUSED, 'recall_5', 'single_5s', 'fused_5s', 'higher'),
)

_CAST = dict(mode='sentences', frames=150)
_FEW = ('data.max_frames=150', 'model.identities=500', 'model.facenet.classes=500')
_QUICK = dict(
  # Many people with few clips each; those of 180 are a tenth, from 100 people or more.
  puppets=_CAST
  | dict(clips=2000, size=64, identities=680, unseen_identities=180, eval_fraction=0.1),
  faces=('sf2f.py:puppets_faces', (*_FEW, 'num_steps=1000', 'model.face_steps=1000')),
  # As many steps of portraits each; and some of the fuser.
  sf2f=(
    'sf2f.py:puppets',
    (*_FEW, 'num_steps=3500', 'model.face_steps=0', 'model.portrait_steps=2500'),
  ),
  voice2face=('sf2f.py:puppets_voice2face', (*_FEW, 'num_steps=3000', 'model.face_steps=0')),
)
_MANY = (
  'data.max_frames=150',
  'data.fps=25.0',
  'model.identities=2400',
  'model.voice_activity=energy',
  'evaluation.every=1000',
  f'evaluation.split={SPLIT}',
)
_FULL = dict(
  puppets=_CAST
  | dict(clips=12_000, size=128, identities=3000, unseen_identities=600, eval_fraction=0.1),
  faces=('sf2f.py:faces', (*_MANY, 'num_steps=10000', 'model.face_steps=10000')),
  sf2f=(
    'sf2f.py:64',
    (
      *_MANY,
      'num_steps=38000',
      'model.portrait_steps=30000',
      'model.settling_steps=6000',
      'model.windows=4',
    ),
  ),
  voice2face=(
    'sf2f.py:voice2face',
    (*_MANY, 'num_steps=36000', 'model.portrait_steps=36000', 'model.settling_steps=0'),
  ),
)
FORMS = {'quick': _QUICK, 'full': _FULL}


def jobs(workdir: pathlib.Path, form: str, *, seed: int, variability: float) -> list[Job]:
  """All that has to be done, what most others wait for first.

  Args:
    workdir: the folder of each run is in it, by the name of its job.
    form: a key of FORMS.
    seed: of corpus and networks; the FaceNet that judges has the next one.
    variability: of the puppets, see `data_prep.puppet`; nothing here looks at lips.
  """
  parts = FORMS[form]
  made = Trainings(workdir, seed)
  systems = [
    made.run(name, *parts[name], facenet_weights='faces') for name in ('sf2f', 'voice2face')
  ]
  searches = [
    Job(
      f'{job.name}_searched',
      (
        'tfg_jax.gallery',
        f'--workdir={workdir / job.name}',
        f'--judge={workdir / "judge"}',
        f'--split={SPLIT}',
      ),
      (job.name, 'judge'),
    )
    for job in systems
  ]
  return [
    made.corpus(parts['puppets'] | dict(variability=variability)),
    made.run('faces', *parts['faces']),
    made.run('judge', *parts['faces'], seed=seed + 1),
    *systems,
    *searches,
  ]


def read(workdir: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
  """What the jobs found: `numbers[row][metric]`, (people,) each, recalls of those in a gallery; and
  the score of the set."""
  numbers = {}
  for row, (job, name) in _ROWS.items():
    people = comparison.read_columns(workdir / job / gallery.PEOPLE_FILE)
    found = json.loads((workdir / job / gallery.RESULTS_FILE).read_text())['rows']
    columns = {metric: people[f'{name}/{metric}'] for metric in METRICS if metric != 'vfs'}
    numbers[row] = {metric: values[~np.isnan(values)] for metric, values in columns.items()}
    numbers[row]['vfs'] = np.array([found[name]['vfs']])
  count = len(numbers['fused_5s']['recall_1'])
  numbers['chance'] = {metric: np.full(count, share) for metric, share in found['chance'].items()}
  return {row: numbers[row] for row in _NAMES}


def table(numbers: Mapping[str, Mapping[str, np.ndarray]]) -> str:
  """Ours and the paper's, row by row."""
  rows = []
  for row, name in _NAMES.items():
    ours = [_cell(metric, numbers[row].get(metric)) for metric in METRICS]
    paper = [
      _cell(metric, x) for metric, x in zip(METRICS, _PAPER.get(row, (None,) * 7), strict=True)
    ]
    rows.append([name, *(f'{a} ({b})' for a, b in zip(ours, paper, strict=True))])
  return comparison.markdown(['', *(metric.upper().replace('_', '@') for metric in METRICS)], rows)


def _cell(metric, value):
  if value is None:
    return '-'
  value = float(np.mean(value))
  if metric.startswith('recall'):
    return f'{value:.1%}'
  return f'{value:.3f}' if metric == 'cosine' else f'{value:.2f}'


def strip(workdir: pathlib.Path) -> Image.Image:
  """Unseen people, and what the systems draw of their voices."""
  sf2f, voice2face = (strips.last_samples(workdir / name) for name in ('sf2f', 'voice2face'))
  real, single, fused = np.split(sf2f, 3, axis=1)
  baseline = np.split(voice2face, 2, axis=1)[1]
  rows = (
    (_NAMES['ground_truth'], real),
    (_NAMES['voice2face_1.25s'], baseline),
    (_NAMES['single_1.25s'], single),
    (_NAMES['fused_5s'].replace('5 s', 'up to 5 s'), fused),
  )
  return strips.labelled([(name, '', _side_by_side(pictures)) for name, pictures in rows])


def _side_by_side(pictures):
  """Square pictures below each other, turned into a row."""
  size = pictures.shape[1]
  return np.concatenate(np.split(pictures, len(pictures) // size), axis=1)
