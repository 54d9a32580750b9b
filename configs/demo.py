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
  c.num_steps = 1250
  c.partition = 'jit'
  c.dtype = 'float32'
  c.log_every = 50
  c.data = dict(
    root='',  # empty: the puppets below are made in the workdir
    # Lips that follow the sound exactly, heads that hold still and little silence: what minutes
    # suffice for.
    puppets=dict(
      clips=240,
      seed=0,
      identities=12,
      frames=50,
      size=96,
      variability=0.0,
      sway=0.0,
      eval_fraction=0.1,
    ),
    batch_size=20,
    max_frames=50,
    height=96,
    width=96,
    fps=25.0,
    sample_rate=16_000,
    workers=0,
  )
  c.model = dict(
    audio='local',
    audio_encoder=dict(widths=(8, 16, 32, 48, 64), residuals=(0, 0, 0, 0)),
    face=dict(
      encoder=(8, 16, 24, 32, 64),
      encoder_residuals=(0, 0, 0, 0, 0),
      decoder=(8, 16, 24, 32, 64),
      decoder_residuals=(0, 0, 0, 0, 0),
      head=8,
    ),
    discriminator=dict(widths=(4, 8, 16, 24, 32)),
    # One face of a clip: batch norm and Adam learn several times faster from 20 people and moments
    # than from 4 of them in 5 frames each.
    windows=1,
    window_frames=1,
    evaluation_windows=8,
    loss=dict(adversarial=0.02, lip=0.0, contrastive=0.0),
    optimizer='muon',  # gets as far as Adam, the paper's, in half the steps
    learning_rate=3e-3,
    discriminator_learning_rate=1e-4,
    final_rate=0.02,
    b1=0.5,
    b2=0.999,
    patience=5,
  )
  c.checkpoint = dict(every=625, keep=2, keep_best=1)
  c.evaluation = dict(
    every=625,
    split='valid',
    max_clips=0,
    samples=4,
    observers=dict(sync='', reader='', speller='', words='', beam=50),
  )
  return c
