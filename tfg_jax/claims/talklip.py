"""Table 1 of TalkLip on puppets: does a lip-reading expert make generated speech readable?

quick    narrow networks, 96 px puppets: within an hour on two CPU cores
full     the published networks, 160 px puppets: for an accelerator

Every variant begins with one of two generators, of local or of global audio, that L1 has trained,
and goes on for the same number of steps, on the same clips and from the same seed. Experts and
observers are lip readers from different seeds.
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
PAPER_NUMBERS = 'on LRS2 and from other judges'
VARIANTS = ('no_lip_no_gan', 'no_lip', 'l', 'l+c', 'g', 'g+c')
_SHOWN = ('no_lip', 'l+c', 'g+c')  # of them, in the strip
_BASES = {'g': 'base_g', 'g+c': 'base_g'}  # the others, and Wav2Lip, begin with base_l
METRICS = ('psnr', 'ssim', 'lse_c', 'lse_d', 'wer1', 'wer2')

# LRS2, Tables 1 and 7 of the paper; word error rates as shares.
_PAPER = {
  'ground_truth': (None, 1.000, 8.25, 6.45, 0.2382, 0.409),
  'wav2lip': (31.36, 0.854, 8.40, 6.58, 0.8206, 0.739),
  'no_lip_no_gan': (30.70, 0.851, 5.93, None, 1.1626, 0.893),
  'no_lip': (31.08, 0.852, 7.09, None, 1.0357, 0.822),
  'l': (31.38, 0.849, 7.58, 6.63, 0.4574, 0.557),
  'l+c': (31.14, 0.850, 7.76, 6.56, 0.3800, 0.492),
  'g': (30.86, 0.854, 8.38, 6.01, 0.2531, 0.365),
  'g+c': (31.19, 0.850, 8.53, 6.00, 0.2343, 0.351),
}
_NAMES = {
  'ground_truth': 'ground truth',
  'identity_mouth': "identity's mouth, pasted",
  'wav2lip': 'Wav2Lip',
  **{name: f'TalkLip ({name})' for name in ('l', 'l+c', 'g', 'g+c')},
  'no_lip': 'without lip loss',
  'no_lip_no_gan': 'without lip loss and GAN',
}

_LOWERS = 'the lip loss lowers the word error rate a lot, by a fifth or more'
CLAIMS = (
  Claim(_LOWERS, 'wer1', 'no_lip', 'l', 'lower', by=0.2, relative=True),
  Claim(_LOWERS, 'wer2', 'no_lip', 'l', 'lower', by=0.2, relative=True),
  Claim('global audio reads better than local', 'wer1', 'l', 'g', 'lower'),
  Claim('contrast does not hurt reading', 'wer1', 'l', 'l+c', 'not higher'),
  Claim('contrast does not hurt reading', 'wer1', 'g', 'g+c', 'not higher'),
  Claim('contrast helps sync', 'lse_c', 'l', 'l+c', 'higher'),
  Claim('contrast helps sync', 'lse_c', 'g', 'g+c', 'higher'),
  # The paper's own rows are 0.7 dB and 0.005 apart.
  Claim('pictures stay as near to the real ones', 'psnr', 'no_lip', 'l', 'close', by=1.0),
  Claim('pictures stay as near to the real ones', 'psnr', 'no_lip', 'g+c', 'close', by=1.0),
  Claim('pictures stay as near to the real ones', 'ssim', 'no_lip', 'l', 'close', by=0.02),
  Claim('pictures stay as near to the real ones', 'ssim', 'no_lip', 'g+c', 'close', by=0.02),
)

# What the forms differ in: puppets, and the config and further flags of each part; the last three
# add to those of TalkLip.
_QUICK = dict(
  puppets=dict(clips=1000, size=96, identities=12, sway=0.2, eval_fraction=0.08),
  pretrain=('lip_expert.py:puppets_pretrain', ('num_steps=400', 'evaluation.every=400')),
  reader=('lip_expert.py:puppets_finetune', ('num_steps=800', 'evaluation.every=800')),
  color=('sync_expert.py:puppets_color', ('num_steps=300', 'evaluation.every=300')),
  syncnet=('sync_expert.py:puppets_syncnet', ('num_steps=200', 'evaluation.every=200')),
  wav2lip=('wav2lip.py:puppets', ()),
  talklip=('talklip.py:puppets_', ()),
  base_l=(),
  base_g=(),
  variant=(),
)
_FRAMES = ('data.height=160', 'data.width=160', 'data.max_frames=75')
_MOUTHS = (*_FRAMES, 'model.view.below=30')  # pixels from the centre of a puppet's frame
_SPELLS = ('model.characters=abcdefghijklmnopqrstuvwxyz', 'model.max_tokens=40', 'model.beam=5')
_FULL = dict(
  puppets=dict(clips=20_000, size=160, identities=100, sway=1.0, eval_fraction=0.02),
  pretrain=(
    'lip_expert.py:pretrain_base_1',
    ('num_steps=20000', 'model.warmup=2000', 'evaluation.every=5000', *_MOUTHS),
  ),
  reader=(
    'lip_expert.py:finetune_base',
    (
      'num_steps=20000',
      'model.warmup=4000',
      'model.freeze=4000',
      'evaluation.every=5000',
      *_MOUTHS,
      *_SPELLS,
    ),
  ),
  color=('sync_expert.py:color', ('num_steps=30000', 'evaluation.every=5000', *_FRAMES)),
  syncnet=('sync_expert.py:syncnet', ('num_steps=30000', 'evaluation.every=5000', *_FRAMES)),
  wav2lip=(
    'wav2lip.py',
    ('num_steps=20000', 'model.stage_starts=(0,)', 'evaluation.every=5000', *_FRAMES),
  ),
  talklip=(
    'talklip.py:',
    (
      'model.max_tokens=40',
      'evaluation.every=5000',
      'evaluation.observers.beam=5',
      *_FRAMES,
    ),
  ),
  base_l=('num_steps=40000',),
  base_g=('num_steps=40000', 'model.stage_starts=(20000,)'),
  variant=('num_steps=20000', 'model.stage_starts=(0,0)'),
)
FORMS = {'quick': _QUICK, 'full': _FULL}


def jobs(workdir: pathlib.Path, form: str, *, seed: int, variability: float) -> list[Job]:
  """All that has to be done, what most others wait for first.

  Args:
    workdir: the folder of each run is in it, by the name of its job.
    form: a key of FORMS.
    seed: of corpus, experts and generators; observers have the next one.
    variability: of the puppets, see `data_prep.puppet`.
  """
  parts = FORMS[form]
  made = Trainings(workdir, seed)
  config, flags = parts['reader']
  experts = [
    # A second core more than halves the time of their steps, and hardly helps a generator's.
    made.run('pretrained', *parts['pretrain'], alone=True),
    made.run('expert', config, flags, start='pretrained', alone=True),
    made.run('observer', config, flags, seed=seed + 1, alone=True),
    made.run('color', *parts['color']),
    made.run('syncnet', *parts['syncnet'], seed=seed + 1),
  ]
  config, flags = parts['talklip']
  bases = [
    made.run('base_g', f'{config}base_g', (*flags, *parts['base_g']), expert='expert'),
    made.run('base_l', f'{config}base_l', (*flags, *parts['base_l'])),
  ]
  systems = []
  for name in VARIANTS:
    sources = {} if name.startswith('no_lip') else dict(expert='expert')
    sources['start'] = _BASES.get(name, 'base_l')
    systems.append(made.run(name, config + name, (*flags, *parts['variant']), **sources))
  systems.append(made.run('wav2lip', *parts['wav2lip'], start='base_l', expert='color'))

  judged = (
    '--mode=evaluate',
    '--config.evaluation.split=test',
    '--config.evaluation.max_clips=0',
    f'--config.evaluation.observers.sync={workdir / "syncnet"}',
    f'--config.evaluation.observers.reader={workdir / "observer"}',
    f'--config.evaluation.observers.speller={workdir / "observer"}',
  )
  evaluations = [
    Job(f'{job.name}_judged', (*job.arguments, *judged), (job.name, 'observer', 'syncnet'))
    for job in systems
  ]
  corpus = made.corpus(parts['puppets'] | dict(variability=variability))
  return [corpus, *experts, *bases, *systems, *evaluations]


def read(workdir: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
  """What the jobs found: `numbers[row][metric]`, (clips,) each, ground truth first."""
  numbers = {}
  for name in ('wav2lip', *VARIANTS):
    found = comparison.read_columns(workdir / name / evaluate.CLIPS_FILE)
    for who, row in (('ground_truth', None), ('identity_mouth', None), ('generated', name)):
      numbers[row or who] = {metric: found[f'{who}/{metric}'] for metric in METRICS}
  return {row: numbers[row] for row in _NAMES}


def table(numbers: Mapping[str, Mapping[str, np.ndarray]]) -> str:
  """Ours and the paper's, row by row."""
  head = ['', *(f'{metric.upper().replace("_", "-")}' for metric in METRICS)]
  rows = []
  for row, name in _NAMES.items():
    ours = [_cell(metric, numbers[row][metric].mean()) for metric in METRICS]
    paper = [_cell(metric, x) for metric, x in zip(METRICS, _PAPER.get(row, ()), strict=False)]
    paper += ['-'] * (len(METRICS) - len(paper))
    rows.append([name, *(f'{a} ({b})' for a, b in zip(ours, paper, strict=True))])
  return comparison.markdown(head, rows)


def _cell(metric: str, value: float | None) -> str:
  if value is None or (metric == 'psnr' and value >= 100):  # what is given for equal pictures
    return '-'
  if metric.startswith('wer'):
    return f'{value:.1%}'
  return f'{value:.3f}' if metric == 'ssim' else f'{value:.2f}'


def strip(workdir: pathlib.Path, *, clips: int = 2) -> Image.Image:
  """The same words as filmed, and as drawn by some of the variants."""
  rows = []
  source = records.RecordSource(workdir / 'puppets', 'valid')
  samples = {name: strips.last_samples(workdir / name) for name in _SHOWN}
  shown = trained.read_config(workdir / 'no_lip').evaluation.samples
  height = len(samples['no_lip']) // shown
  for clip in range(clips):
    text = clip_codec.decode(source[clip]).text
    for name in _SHOWN:
      real, drawn = np.split(samples[name][clip * height : (clip + 1) * height], 2)
      if name == _SHOWN[0]:
        rows.append((_NAMES['ground_truth'], text, real))
      rows.append((_NAMES[name], '', drawn))
  return strips.labelled(rows)
