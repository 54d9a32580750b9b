"""The tables of DAVS on puppets: what each supervision adds, what the person's features tell.

quick    narrow networks, 64 px faces: two to three hours on two CPU cores
full     the published networks, 260 px puppets: for an accelerator

Puppets say words in carrier sentences, so every clip names a word and a person. The four embeddings
of Table 3 begin alike and have the same steps and clips. Another seed changes as much as some
supervisions do, so each is trained from two, and the table has means of both, clip by clip. The
three generators begin with one that has learnt L1 alone, from the best embedding and an encoder of
persons.
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
PAPER_NUMBERS = 'on LRW: 500 words, 25,000 clips to search'
EMBEDDINGS = {
  'words_c': 'contrast',
  'words_c+shared': 'contrast, shared classifier',
  'words_c+adv': 'contrast, adversarial',
  'words': 'all three',
}
GENERATORS = {
  'l1': 'without GAN',
  'tangled': 'without disentangling',
  'full': 'all',
}
_AGAIN = '_again'  # after the name of an embedding: from the next seed
_EMBEDDING = 'words_c+shared'  # that generators begin with; on puppets the adversary adds nothing
_STILL = 'still'
_SENSES = ('seen', 'heard', 'both')
_WAYS = ('video_to_audio', 'audio_to_video')

# Table 3: share of words recognised; R@1, R@10 and median rank each way.
_PAPER_EMBEDDINGS = {
  'words_c': (0.618, 0.817, 0.908, 0.293, 0.563, 6, 0.298, 0.563, 6),
  'words_c+shared': (0.656, 0.916, 0.949, 0.388, 0.664, 3, 0.445, 0.709, 2),
  'words_c+adv': (0.635, 0.881, 0.937, 0.393, 0.679, 3, 0.422, 0.692, 2),
  'words': (0.675, 0.918, 0.952, 0.642, 0.847, 1, 0.677, 0.858, 1),
}
# Table 1, and the words that an SVM reads from the person's features; Table 4 cannot be read in the
# public text.
_PAPER_GENERATORS = {
  'l1': (25.4, 0.859, 25.7, 0.865, None),
  'tangled': (None, None, None, None, 0.278),
  'full': (26.7, 0.883, 26.8, 0.884, 0.097),
}

_ADDS = 'each supervision adds to recognition and retrieval'
_STEPS = (
  ('words_c', 'words_c+shared'),
  ('words_c', 'words_c+adv'),
  ('words_c+shared', 'words'),
  ('words_c+adv', 'words'),
)
_CLEANS = 'disentangling takes more than half of the word out of the person'
_GAN = 'the GAN brings pictures nearer to the real ones'
_SAYS = 'disentangled, generated clips find their originals better'
CLAIMS = (
  *(
    Claim(_ADDS, metric, first, second, 'higher')
    for first, second in _STEPS
    for metric in ('seen', 'both', *(f'{way}_1' for way in _WAYS))
  ),
  Claim(_CLEANS, 'word_read', 'tangled', 'full', 'lower', by=0.5, relative=True),
  *(
    Claim(_GAN, f'from_{sense}_{metric}', 'l1', 'full', 'higher')
    for sense in ('audio', 'video')
    for metric in ('psnr', 'ssim')
  ),
  *(Claim(_SAYS, f'from_{sense}_10', 'tangled', 'full', 'higher') for sense in ('audio', 'video')),
)

_WORDS = pathlib.Path(__file__).with_name('davs_words.txt')  # 20 of the puppets' own 165
_READ_MORE = ('data.batch_size=32', 'model.draw_every=4')  # clips are cheap to read, not to draw
_QUICK = dict(
  puppets=dict(
    clips=2400,
    size=80,
    identities=12,
    frames=29,
    eval_fraction=0.15,
    sway=0.2,
    words_file=_WORDS,
  ),
  config='davs.py:puppets_',
  flags=('model.words=20', 'model.persons=12'),
  identity=('num_steps=200', 'model.identity_steps=200', 'evaluation.every=200'),
  words=('num_steps=1000', 'model.word_steps=1000', 'evaluation.every=1000'),
  base=('num_steps=1000', 'evaluation.every=1000', *_READ_MORE),
  generator=('num_steps=1000', 'evaluation.every=1000', *_READ_MORE),
)
_FULL = dict(
  puppets=dict(clips=20_000, size=260, identities=100, frames=29, eval_fraction=0.05),
  config='davs.py:',
  flags=(
    'model.words=165',
    'model.persons=100',
    'model.flip=False',
    'model.mouth_box=(152,240,56,200)',  # of a puppet in the middle of its frame
    'data.batch_size=16',
    'data.max_frames=29',
    'model.block_frames=25',
    'model.margin_frames=2',
  ),
  identity=('num_steps=5000', 'model.identity_steps=5000', 'evaluation.every=5000'),
  words=('num_steps=20000', 'model.word_steps=20000', 'evaluation.every=20000'),
  base=('num_steps=20000', 'evaluation.every=20000'),
  generator=('num_steps=10000', 'evaluation.every=10000'),
)
FORMS = {'quick': _QUICK, 'full': _FULL}


def jobs(workdir: pathlib.Path, form: str, *, seed: int, variability: float) -> list[Job]:
  """All that has to be done, what most others wait for first.

  Args:
    workdir: the folder of each run is in it, by the name of its job.
    form: a key of FORMS.
    seed: of corpus and networks; embeddings have the next one too.
    variability: of the puppets, see `data_prep.puppet`.
  """
  parts = FORMS[form]
  made = Trainings(workdir, seed)

  def run(name, flags, again=False, **sources):
    config, called = parts['config'] + name, name + _AGAIN * again
    flags = (*parts['flags'], *flags)
    return made.run(called, config, flags, seed=seed + again, **sources)

  embeddings = {
    name + _AGAIN * again: run(name, parts['words'], again)
    for again in (False, True)
    for name in EMBEDDINGS
  }
  begun = {'sources.identity': 'identity', 'sources.words': _EMBEDDING}
  generators = {
    name: run(name, parts['generator'], **{'sources.base': 'base'}) for name in GENERATORS
  }
  judged = ('--mode=evaluate', '--config.evaluation.split=test', '--config.evaluation.max_clips=0')
  evaluations = [
    Job(f'{job.name}_judged', (*job.arguments, *judged), (job.name,))
    for job in (*embeddings.values(), *generators.values())
  ]
  return [
    made.corpus(parts['puppets'] | dict(mode='words', variability=variability)),
    run('identity', parts['identity']),
    embeddings.pop(_EMBEDDING),
    run('base', parts['base'], **begun),
    *generators.values(),
    *embeddings.values(),
    *evaluations,
  ]


def read(workdir: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
  """What the jobs found: `numbers[row][metric]`, (clips,) each."""
  numbers = {}
  for name in EMBEDDINGS:
    both = [_embedding(workdir / run) for run in (name, name + _AGAIN)]
    numbers[name] = {metric: (both[0][metric] + both[1][metric]) / 2 for metric in both[0]}
  for name in GENERATORS:
    found = comparison.read_columns(workdir / name / evaluate.CLIPS_FILE)
    numbers[name] = {'word_read': found['person/word_read']}
    for row in ('from_audio', 'from_video'):
      numbers[name] |= _likeness(row, row, found)
  numbers[_STILL] = {}  # the same pictures in the columns of both senses
  for row in ('from_audio', 'from_video'):
    numbers[_STILL] |= _likeness(row, _STILL, found)
  return numbers


def _embedding(workdir):
  found = comparison.read_columns(workdir / evaluate.CLIPS_FILE)
  numbers = {sense: 1 - found[f'{sense}/word_error'] for sense in _SENSES}
  for way in _WAYS:
    numbers |= _places(way, found)
  return numbers


def _likeness(called, row, found):
  """How near the pictures of a row are to the real ones, and whether they find their clip."""
  pictures = {f'{called}_{metric}': found[f'{row}/{metric}'] for metric in ('psnr', 'ssim')}
  return pictures | _places(called, {f'{called}/rank': found[f'{row}/rank']})


def _places(name, found):
  rank = found[f'{name}/rank']
  return {f'{name}_rank': rank} | {f'{name}_{k}': (rank <= k).astype(float) for k in (1, 10)}


def table(numbers: Mapping[str, Mapping[str, np.ndarray]]) -> str:
  """Ours and the paper's, row by row: embeddings, and below them generators."""
  found = [f'{way}_{metric}' for way in _WAYS for metric in (1, 10, 'rank')]
  arrows = [
    f'{way} {metric}'
    for way in ('video → audio', 'audio → video')
    for metric in ('R@1', 'R@10', 'median rank')
  ]
  embeddings = comparison.markdown(
    ['', *_SENSES, *arrows],
    [
      _line(name, numbers[row], (*_SENSES, *found), _PAPER_EMBEDDINGS[row])
      for row, name in EMBEDDINGS.items()
    ],
  )
  pictures = [
    f'from_{sense}_{metric}' for sense in ('audio', 'video') for metric in ('psnr', 'ssim')
  ]
  heads = [f'{metric}, {sense}' for sense in ('audio', 'video') for metric in ('PSNR', 'SSIM')]
  searched = ['from_audio_10', 'from_video_10']
  generators = comparison.markdown(
    ['', *heads, 'word read from the person', 'R@10 of the original, audio', 'video'],
    [
      _line(name, numbers[row], (*pictures, 'word_read', *searched), _PAPER_GENERATORS.get(row, ()))
      for row, name in {_STILL: 'the photo, unmoved', **GENERATORS}.items()
    ],
  )
  return f'{embeddings}\n\n{generators}'


def _line(name, ours, metrics, paper):
  paper = (*paper, *(None,) * (len(metrics) - len(paper)))
  cells = (
    f'{_cell(metric, ours.get(metric))} ({_cell(metric, value)})'
    for metric, value in zip(metrics, paper, strict=True)
  )
  return [name, *cells]


def _cell(metric: str, values) -> str:
  if values is None:
    return '-'
  if metric.endswith('rank'):
    return f'{np.median(values):g}'
  value = float(np.mean(values))
  if metric.endswith('psnr'):
    return f'{value:.1f}'
  return f'{value:.3f}' if metric.endswith('ssim') else f'{value:.1%}'


def strip(workdir: pathlib.Path, *, clips: int = 2) -> Image.Image:
  """The same words as filmed, and as drawn from one photo by the generators."""
  source = records.RecordSource(workdir / 'puppets', 'valid')
  shown = trained.read_config(workdir / 'full').evaluation.samples
  rows = []
  for clip in range(clips):
    words = clip_codec.decode(source[clip]).text
    for name in GENERATORS:
      samples = np.split(strips.last_samples(workdir / name), shown)[clip]
      real, from_audio, from_video = np.split(samples, 3)
      if name == next(iter(GENERATORS)):
        rows.append(('ground truth', words, real))
      rows.append((f'{GENERATORS[name]}, audio', '', from_audio))
    rows.append((f'{GENERATORS[name]}, video', '', from_video))
  return strips.labelled(rows)
