r"""Wav2Lip on LRS2: 160 px frames, 96 px faces, 25 fps; numbers of the official code.

  python -m tfg_jax.main --config=configs/wav2lip.py --workdir=DIR --config.data.root=DIR \
    --config.model.expert=DIR   (a run of configs/sync_expert.py, or a converted color_syncnet)

Variants:
  wav2lip         L1 and the sync expert
  gan             and a discriminator
  puppets         L1 and the sync expert with narrow networks on 48 px faces of puppets, minutes
                  on a laptop; the expert is a run of configs/sync_expert.py:puppets_color, and it
                  begins with one of configs/talklip.py:puppets_base_l (--config.model.start=DIR)
"""

import ml_collections

# w_s, w_a, b1 of Adam (wav2lip_train.py, hq_wav2lip_train.py)
_VARIANTS = {'wav2lip': (0.01, 0.0, 0.9), 'gan': (0.03, 0.07, 0.5), 'puppets': (0.01, 0.0, 0.5)}


def get_config(variant='wav2lip'):
  """The published setting of one variant."""
  if variant not in _VARIANTS:
    raise ValueError(f'unknown variant {variant!r} of wav2lip; known: {", ".join(_VARIANTS)}')
  sync, adversarial, b1 = _VARIANTS[variant]
  c = ml_collections.ConfigDict()
  c.system = 'wav2lip'
  c.seed = 0
  c.num_steps = 300_000
  c.partition = 'jit'
  c.dtype = 'float32'
  c.log_every = 100
  c.data = dict(
    root='',
    batch_size=16,
    max_frames=160,
    height=160,
    width=160,
    fps=25.0,
    sample_rate=16_000,
    workers=8,
  )
  c.model = dict(
    expert='',
    start='',
    audio_encoder={},  # empty: the official size, as for the next two
    face={},
    discriminator={},
    windows=1,
    evaluation_windows=8,
    loss=dict(sync=sync, adversarial=adversarial),
    switch_below=0.75,
    stage_starts=(),
    optimizer='adam',
    learning_rate=1e-4,
    final_rate=1.0,
    b1=b1,
    b2=0.999,
  )
  c.checkpoint = dict(every=3000, keep=3, keep_best=1)
  c.evaluation = dict(
    every=3000,
    split='valid',
    max_clips=0,
    samples=4,
    observers=dict(sync='', reader='', speller='', words='', beam=50),
  )
  if variant == 'puppets':
    _narrow(c)
  return c


def _narrow(c):
  """As the puppets' variants of configs/talklip.py, for comparison."""
  c.num_steps = 200
  c.log_every = 25
  c.data.update(batch_size=8, max_frames=75, height=96, width=96, workers=0)
  c.model.update(
    audio_encoder=dict(widths=(8, 16, 32, 48, 64), residuals=(0, 0, 0, 0)),
    face=dict(
      encoder=(8, 16, 24, 32, 64),
      encoder_residuals=(0, 0, 0, 0, 0),
      decoder=(8, 16, 24, 32, 64),
      decoder_residuals=(0, 0, 0, 0, 0),
      head=8,
    ),
    discriminator=dict(widths=(4, 8, 16, 24, 32)),
    stage_starts=(0,),
    optimizer='muon',
    learning_rate=3e-3,
    final_rate=0.02,
  )
  c.checkpoint.update(every=100, keep=2, keep_best=0)
  c.evaluation.update(every=200, max_clips=20, samples=4)
  c.evaluation.observers.beam = 5


def get_test_config(variant='wav2lip'):
  """The same code path at a size that takes seconds on a CPU."""
  c = get_config(variant)
  c.num_steps = 4
  c.log_every = 2
  c.data.update(batch_size=2, max_frames=20, height=48, width=48, workers=0)
  sizes = dict(
    encoder=(4, 8, 8, 8),
    encoder_residuals=(0, 1, 0, 0),
    decoder=(4, 8, 8, 8),
    decoder_residuals=(0, 1, 0, 0),
    head=4,
  )
  c.model.update(
    audio_encoder=dict(widths=(4, 8, 8, 8, 8), residuals=(0, 0, 1, 0)),
    face=sizes,
    discriminator=dict(widths=(4, 8, 8, 8)),
    evaluation_windows=2,
    learning_rate=1e-3,
  )
  c.checkpoint.update(every=2, keep=2)
  c.evaluation.update(every=2, samples=2)
  return c
