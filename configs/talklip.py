r"""TalkLip on LRS2: 160 px frames, 96 px faces, 25 fps; numbers of the official code.

  python -m tfg_jax.main --config=configs/talklip.py:g+c --workdir=DIR --config.data.root=DIR \
    --config.model.expert=DIR   (a run of configs/lip_expert.py, or the converted official expert)

Variants (Table 1 of the paper):
  l, l+c          local audio encoder, with lip loss; +c with the contrastive loss
  g, g+c          global audio encoder (AV-HuBERT), the same
  no_lip          l without lip loss: L1 and adversarial
  no_lip_no_gan   l with L1 alone

and what they can begin with (--config.model.start=DIR), L1 alone:
  base_l, base_g

Each also as puppets_l, puppets_base_l and so on: narrow networks on 48 px faces of puppets, minutes
on a laptop, with a run of configs/lip_expert.py:puppets_finetune as the expert. There the base sees
many clips, one frame of each, and the others go on from it with frames in a row, which an expert
can read. `tfg_jax.claims` trains all of them.
"""

import ml_collections

# audio encoder, lip loss, contrastive loss, adversarial loss (official weights, its README)
_VARIANTS = {
  'l': ('local', 1e-5, 0.0, 0.07),
  'l+c': ('local', 1e-5, 1e-3, 0.07),
  'g': ('global', 1e-5, 0.0, 0.07),
  'g+c': ('global', 1e-5, 1e-3, 0.07),
  'no_lip': ('local', 0.0, 0.0, 0.07),
  'no_lip_no_gan': ('local', 0.0, 0.0, 0.0),
  'base_l': ('local', 0.0, 0.0, 0.0),
  'base_g': ('global', 0.0, 0.0, 0.0),
}

VARIANTS = (*_VARIANTS, *(f'puppets_{name}' for name in _VARIANTS))


def get_config(variant='g+c'):
  """The setting of one variant."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r} of talklip; known: {", ".join(VARIANTS)}')
  audio, lip, contrastive, adversarial = _VARIANTS[variant.removeprefix('puppets_')]
  c = ml_collections.ConfigDict()
  c.system = 'talklip'
  c.seed = 0
  c.num_steps = 570_000  # 100 epochs of 45,839 clips
  c.partition = 'jit'
  c.dtype = 'float32'
  c.log_every = 100
  c.data = dict(
    root='',
    batch_size=8,
    max_frames=160,  # LRS2's longest test clip has 145
    height=160,
    width=160,
    fps=25.0,
    sample_rate=16_000,
    workers=8,
  )
  c.model = dict(
    audio=audio,
    expert='',  # the lip reader's folder; only no_lip, no_lip_no_gan and base_l do without
    start='',
    feature_grad_mult=0.1,
    audio_encoder={},  # empty: the official size, as for the next two
    face={},
    discriminator={},
    contrastive_features=768,
    max_tokens=200,
    windows=8,
    window_frames=5,
    evaluation_windows=8,
    loss=dict(adversarial=adversarial, lip=lip, contrastive=contrastive),
    optimizer='adam',
    learning_rate=1e-4,
    discriminator_learning_rate=1e-4,
    final_rate=1.0,
    b1=0.5,
    b2=0.999,
    patience=5,
    stage_starts=(),
  )
  # The last one is used: the score, L1, does not see what the lip loss is for.
  c.checkpoint = dict(every=3000, keep=3, keep_best=0)
  c.evaluation = dict(
    every=3000,
    split='valid',
    max_clips=0,
    samples=4,
    observers=dict(sync='', reader='', speller='', words='', beam=50),
  )
  if variant.startswith('puppets'):
    _narrow(c)
    if 'base' in variant:
      _begin(c)
  return c


def _begin(c):
  c.num_steps = 700
  c.data.batch_size = 20
  c.model.update(window_frames=1, stage_starts=(350,) if c.model.audio == 'global' else ())
  c.evaluation.every = 350


def _narrow(c):
  """Puppets of 96 px, as configs/lip_expert.py makes them."""
  c.num_steps = 200
  c.log_every = 25
  c.data.update(max_frames=75, height=96, width=96, workers=0)
  c.model.update(
    # Lips lose much to the expert in five of its frames: at these weights its gradient in a face is
    # about as long as that of L1.
    feature_grad_mult=1.0,
    face=dict(
      encoder=(8, 16, 24, 32, 64),
      encoder_residuals=(0, 0, 0, 0, 0),
      decoder=(8, 16, 24, 32, 64),
      decoder_residuals=(0, 0, 0, 0, 0),
      head=8,
    ),
    discriminator=dict(widths=(4, 8, 16, 24, 32)),
    contrastive_features=128,
    max_tokens=40,
    windows=1,
    stage_starts=(0, 0),
    optimizer='muon',  # gets as far as Adam, the paper's, in half the steps
    learning_rate=3e-3,
    final_rate=0.02,
  )
  if c.model.audio == 'local':
    c.model.audio_encoder = dict(widths=(8, 16, 32, 48, 64), residuals=(0, 0, 0, 0))
  else:
    c.model.audio_encoder = dict(  # that of the lip expert
      width=128,
      depth=3,
      mlp_width=256,
      heads=4,
      resnet_widths=(8, 16, 32, 64),
      resnet_blocks=1,
      position_taps=16,
      position_groups=8,
      label_width=64,
      classes=44,
    )
  weights = c.model.loss
  weights.lip *= 50  # 5e-4
  weights.adversarial = min(weights.adversarial, 0.02)
  c.checkpoint.update(every=100, keep=2)
  c.evaluation.update(every=200, max_clips=20, samples=4)
  c.evaluation.observers.beam = 5


def get_test_config(variant='g+c'):
  """The same code path at a size that takes seconds on a CPU."""
  c = get_config(variant)
  c.num_steps = 4
  c.log_every = 2
  c.data.update(batch_size=2, max_frames=25, height=48, width=48, workers=0)
  c.model.update(
    face=dict(
      encoder=(4, 8, 8),
      encoder_residuals=(0, 1, 0),
      decoder=(4, 8, 8),
      decoder_residuals=(0, 1, 0),
      head=4,
    ),
    discriminator=dict(widths=(4, 8, 8)),
    contrastive_features=16,
    max_tokens=64,
    windows=2,
    evaluation_windows=2,
    learning_rate=1e-3,
  )
  if c.model.audio == 'local':
    c.model.audio_encoder = dict(widths=(4, 8, 8, 8, 8), residuals=(0, 0, 1, 0))
  else:
    c.model.audio_encoder = dict(  # that of the tiny lip expert
      width=16,
      depth=4,
      mlp_width=16,
      heads=2,
      resnet_widths=(4,),
      resnet_blocks=1,
      position_taps=4,
      position_groups=2,
      label_width=8,
      classes=10,
    )
  c.checkpoint.update(every=2, keep=2)
  c.evaluation.update(every=2, samples=2)
  return c
