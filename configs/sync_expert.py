r"""The sync experts: Wav2Lip's, which it learns from, and SyncNet, which LSE-C and LSE-D use.

As published, on records with 96 px face boxes or 224 px frames:

  color            Wav2Lip's expert on LRS2
  syncnet          SyncNet

On talking puppets, narrow, minutes on a laptop; RECORDS is a set of puppets of 96 px, e.g. the one
that a run of configs/lip_expert.py has made in its workdir:

  python -m tfg_jax.main --config=configs/sync_expert.py:puppets_color --workdir=DIR \
    --config.data.root=RECORDS
  python -m tfg_jax.main --config=configs/sync_expert.py:puppets_syncnet --workdir=DIR \
    --config.data.root=RECORDS

Numbers of `color` are those of Wav2Lip's code; SyncNet's training is not public, and its numbers
are ours.
"""

import ml_collections

VARIANTS = ('color', 'syncnet', 'puppets_color', 'puppets_syncnet')


def get_config(variant='color'):
  """The setting of one variant."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r} of sync_expert; known: {", ".join(VARIANTS)}')
  c = ml_collections.ConfigDict()
  c.system = 'sync_expert'
  c.seed = 0
  c.num_steps = 700_000
  c.partition = 'jit'
  c.dtype = 'float32'
  c.log_every = 100
  c.data = dict(
    root='',
    batch_size=64,
    max_frames=160,
    height=160,
    width=160,
    fps=25.0,
    sample_rate=16_000,
    workers=8,
  )
  judge = variant.removeprefix('puppets_')
  c.model = dict(
    judge=judge,
    size=96 if judge == 'color' else 224,
    lips={},  # empty: the official size
    speech={},
    windows=1 if judge == 'color' else 12,  # color: one pair
    near=0 if judge == 'color' else 3,
    near_share=0.0,
    evaluation_windows=24,
    optimizer='adam',
    learning_rate=1e-4,
  )
  c.checkpoint = dict(every=10_000, keep=3, keep_best=1)
  c.evaluation = dict(every=10_000, split='valid', max_clips=0, samples=2)
  if variant.startswith('puppets'):
    c.num_steps = 600
    c.log_every = 50
    c.data.update(
      batch_size=8,
      max_frames=75,
      height=96,
      width=96,
      workers=0,
    )
    c.model.update(
      size=48 if judge == 'color' else 96,
      windows=8 if judge == 'color' else 12,
      near=3,
      near_share=0.5 if judge == 'color' else 0.0,
      optimizer='muon',  # half the steps of Adam, Wav2Lip's, with `color`
      learning_rate=3e-3,
      **_NARROW[judge],
    )
    c.checkpoint.update(every=200, keep=2)
    c.evaluation.every = 200
  return c


_NARROW = {
  'color': dict(
    lips=dict(widths=(8, 16, 32, 64, 64), residuals=(0, 1, 1, 0)),
    speech=dict(widths=(8, 16, 32, 64, 64), residuals=(0, 1, 1, 1)),
  ),
  'syncnet': dict(
    lips=dict(widths=(16, 32, 64, 64, 64, 128), hidden=128, features=128),
    speech=dict(widths=(16, 32, 64, 64, 64, 128), hidden=128, features=128),
  ),
}


def get_test_config(variant='color'):
  """The same code path at a size that takes seconds on a CPU."""
  c = get_config(variant)
  c.num_steps = 4
  c.log_every = 2
  c.data.update(batch_size=2, max_frames=20, height=48, width=48, workers=0)
  c.model.update(windows=3, near=2, evaluation_windows=4, learning_rate=3e-3)
  if c.model.judge == 'color':
    c.model.update(size=24, near_share=0.5)
    c.model.lips = dict(widths=(4, 8, 8, 8), residuals=(0, 1, 0))
    c.model.speech = dict(widths=(4, 8, 8, 8, 8), residuals=(0, 0, 1, 0))
  else:
    c.model.size = 56
    c.model.lips = c.model.speech = dict(widths=(4, 4, 4, 4, 4, 8), hidden=8, features=8)
  c.checkpoint.update(every=2, keep=2)
  c.evaluation.update(every=2, samples=1)
  return c
