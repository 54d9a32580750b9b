"""Speech2Video's table on puppets: what can be drawn from speech alone, and from what else.

quick    narrow networks, 64 px puppets: within an hour on two CPU cores
full     the published networks, 128 px puppets: for an accelerator

The three systems have the same steps of drawing. SDFA sees the first face of the clip, or of
somebody else's (mismatch); S2F+SDFA has features that a voice encoder expects the face to have.
Teachers and observers learn from the puppets' labels, as no weights are at hand. Some puppets are
in the split test_unseen alone, and a voice tells their age and depth
(`data_prep/puppets/identity.py`).
"""

import pathlib
from collections.abc import Mapping

import numpy as np
from PIL import Image

from tfg_jax import evaluate, trained
from tfg_jax.claims import comparison, strips
from tfg_jax.claims.comparison import Claim
from tfg_jax.claims.jobs import Job
from tfg_jax.claims.trainings import Trainings
from tfg_jax.data import clip_codec, records

SUBJECTS = 'held-out clips'
PAPER_NUMBERS = 'on CREMA-D, confidence of the public SyncNet'
METRICS = ('ssim', 'psnr', 'lse_c', 'right_person', 'right_emotion', 'right_traits')
_UNSEEN = 'unseen'  # the job that evaluates people who were not in the training
_SYSTEMS = ('speech2video', 'sdfa', 's2f_sdfa')

# Rows of the table: the job, the row of its evaluation, a name, and CREMA-D's of Table 1.
_ROWS = {
  'ground_truth': ('speech2video', 'ground_truth', 'real videos', ()),
  'average_face': ('speech2video', 'average_face', 'the average face', ()),
  'sdfa': ('sdfa', 'sdfa', 'SDFA, sees the face', (0.705, 23.568, 5.4)),
  'sdfa_mismatch': ('sdfa', 'sdfa_mismatch', 'SDFA, sees another face', (0.521, 20.024, 5.0)),
  's2f_sdfa': ('s2f_sdfa', 's2f_sdfa', 'S2F+SDFA', (0.519, 20.104, 4.9)),
  'speech2video': ('speech2video', 'generated', 'Speech2Video', (0.541, 20.540, 5.1)),
  'unseen_real': (_UNSEEN, 'ground_truth', 'real videos of strangers', ()),
  'unseen_average': (_UNSEEN, 'average_face', 'the average face for strangers', ()),
  'unseen': (_UNSEEN, 'generated', 'Speech2Video of strangers', ()),
}

_SEES = 'who is shown the face draws it best'
_ABOVE = 'speech alone beats the others that are not shown the face'
_WHO = 'what is drawn shows who speaks, in half of the clips more than the average face does'
_HOW = 'what is drawn shows how they feel'
_STRANGERS = 'of a voice never heard, age and depth can be seen'
CLAIMS = (
  *(Claim(_SEES, metric, 'speech2video', 'sdfa', 'higher') for metric in METRICS[:3]),
  *(
    Claim(_ABOVE, metric, baseline, 'speech2video', 'higher')
    for baseline in ('s2f_sdfa', 'sdfa_mismatch')
    for metric in METRICS[:3]
  ),
  Claim(_WHO, 'right_person', 'average_face', 'speech2video', 'higher', by=0.5),
  Claim(_HOW, 'right_emotion', 'average_face', 'speech2video', 'higher'),
  Claim(_STRANGERS, 'right_traits', 'unseen_average', 'unseen', 'higher'),
)

_QUICK = dict(
  puppets=dict(
    clips=2000, size=64, identities=24, unseen_identities=12, frames=75, eval_fraction=0.1, sway=0.2
  ),
  config='speech2video.py:puppets',
  flags=(),
  # 900 after the experts' 600, with CPC 1200, and 1200 of the students or 300 of the voice encoder.
  steps={'speech2video': 3300, 'sdfa': 1500, 's2f_sdfa': 1800},
  judge=(
    'sync_expert.py:puppets_syncnet',
    ('data.height=64', 'data.width=64', 'num_steps=300', 'evaluation.every=300'),
  ),
)
_FULL = dict(
  puppets=dict(
    clips=12_000, size=128, identities=180, unseen_identities=89, frames=75, eval_fraction=0.05
  ),
  config='speech2video.py:crema_d',
  flags=('data.fps=25', 'data.max_frames=75', 'model.experts.traits=2'),
  steps={'speech2video': 84_000, 'sdfa': 52_000, 's2f_sdfa': 84_000},
  judge=(
    'sync_expert.py:syncnet',
    ('data.height=128', 'data.width=128', 'num_steps=20000', 'evaluation.every=5000'),
  ),
)
FORMS = {'quick': _QUICK, 'full': _FULL}


def jobs(workdir: pathlib.Path, form: str, *, seed: int, variability: float) -> list[Job]:
  """All that has to be done, what most others wait for first.

  Args:
    workdir: the folder of each run is in it, by the name of its job.
    form: a key of FORMS.
    seed: of corpus and networks; SyncNet, which judges, has the next one.
    variability: of the puppets, see `data_prep.puppet`.
  """
  parts = FORMS[form]
  made = Trainings(workdir, seed)
  config, flags = parts['config'], parts['flags']
  systems = [
    made.run(
      name,
      config if name == 'speech2video' else f'{config}+{name}',
      (*flags, f'num_steps={parts["steps"][name]}'),
    )
    for name in _SYSTEMS
  ]
  judge = made.run('syncnet', *parts['judge'], seed=seed + 1)

  def evaluated(job, name, split, *more, needs=()):
    flags = (f'--config.evaluation.split={split}', '--config.evaluation.max_clips=0', *more)
    return Job(name, (*job.arguments, '--mode=evaluate', *flags), (job.name, *needs))

  observer = f'--config.evaluation.observers.sync={workdir / "syncnet"}'
  return [
    made.corpus(parts['puppets'] | dict(variability=variability)),
    *systems,
    judge,
    *(
      evaluated(job, f'{job.name}_judged', 'test', observer, needs=('syncnet',)) for job in systems
    ),
    evaluated(systems[0], _UNSEEN, 'test_unseen', f'--results={workdir / _UNSEEN}'),
  ]


def read(workdir: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
  """What the jobs found: `numbers[row][metric]`, (clips,) each."""
  numbers = {}
  for row, (job, name, *_) in _ROWS.items():
    found = comparison.read_columns(workdir / job / evaluate.CLIPS_FILE)
    numbers[row] = {
      metric: found[f'{name}/{metric}'] for metric in METRICS if f'{name}/{metric}' in found
    }
  return numbers


def table(numbers: Mapping[str, Mapping[str, np.ndarray]]) -> str:
  """Ours and the paper's, row by row."""
  rows = []
  for row, (_, _, name, paper) in _ROWS.items():
    paper = (*paper, *(None,) * (len(METRICS) - len(paper)))
    ours = [numbers[row].get(metric) for metric in METRICS]
    cells = zip(METRICS, ours, paper, strict=True)
    rows.append([name, *(f'{_cell(metric, a)} ({_cell(metric, b)})' for metric, a, b in cells)])
  head = ('SSIM', 'PSNR', 'LSE-C', 'speaker seen', 'emotion seen', 'age and depth seen')
  return comparison.markdown(['', *head], rows)


def _cell(metric, value):
  if value is None:
    return '-'
  value = float(np.mean(value))
  if metric.startswith('right'):
    return f'{value:.1%}'
  return f'{value:.3f}' if metric == 'ssim' else f'{value:.2f}'


def strip(workdir: pathlib.Path, *, clips: int = 3) -> Image.Image:
  """The same sentences as filmed and as drawn by the systems."""
  source = records.RecordSource(workdir / 'puppets', 'valid')
  shown = trained.read_config(workdir / _SYSTEMS[0]).evaluation.samples
  rows = []
  for clip in range(clips):
    for name in _SYSTEMS:
      real, drawn = np.split(np.split(strips.last_samples(workdir / name), shown)[clip], 2)
      if name == _SYSTEMS[0]:
        rows.append(('ground truth', clip_codec.decode(source[clip]).text, real))
      rows.append((_ROWS[name][2], '', drawn))
  return strips.labelled(rows)
