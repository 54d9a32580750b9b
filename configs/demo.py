r"""The demo: a narrow TalkLip on talking puppets, from nothing, on a laptop.

  python -m tfg_jax.main --config=configs/demo.py --workdir=/tmp/tfg

Makes its corpus, trains generator and discriminator on 48 px faces with the local audio encoder,
writes samples and evaluates on held-out clips.
"""

import ml_collections


def get_config():
  c = ml_collections.ConfigDict()
  c.system = 'talklip'
  c.seed = 0
  c.num_steps = 600
  c.partition = 'jit'
  c.dtype = 'float32'
  c.log_every = 25
  c.data = dict(
    root='',  # empty: the puppets below are made in the workdir
    # Lips that follow the sound exactly and heads that move little: what minutes suffice for.
    puppets=dict(
      clips=240,
      seed=0,
      identities=12,
      frames=75,
      size=96,
      variability=0.0,
      sway=0.2,
      eval_fraction=0.1,
    ),
    batch_size=4,
    max_frames=75,
    height=96,
    width=96,
    fps=25.0,
    sample_rate=16_000,
    workers=0,
  )
  c.model = dict(
    audio='local',
    audio_encoder=dict(widths=(8, 16, 32, 48, 64), residuals=(0, 0, 1, 0)),
    face=dict(
      encoder=(16, 16, 24, 32, 64),
      encoder_residuals=(0, 1, 1, 1, 0),
      decoder=(12, 16, 24, 32, 64),
      decoder_residuals=(0, 1, 1, 1, 0),
      head=16,
    ),
    discriminator=dict(widths=(4, 8, 16, 24, 32)),
    windows=5,
    window_frames=1,  # no loss here looks at several frames at once: spread them over the clip
    evaluation_windows=8,
    loss=dict(adversarial=0.02, lip=0.0, contrastive=0.0),
    learning_rate=4e-3,
    final_rate=0.02,
    b1=0.9,
    b2=0.999,
    patience=5,
  )
  c.checkpoint = dict(every=100, keep=2, keep_best=1)
  c.evaluation = dict(every=300, split='valid', max_clips=0, samples=4)
  return c
