r"""Speech2Video: a talking face from speech alone, 128 px; numbers of the paper where it has them.

  python -m tfg_jax.main --config=configs/speech2video.py:puppets --workdir=/tmp/speech2video
  python -m tfg_jax.main --config=configs/speech2video.py:crema_d --workdir=DIR \
    --config.data.root=DIR --config.model.experts.weights.cpc=DIR \
    --config.model.experts.weights.identity_teacher=DIR \
    --config.model.experts.weights.emotion_teacher=DIR

The weights are folders that `tfg_jax.convert import` makes of the public cpc_audio, vggface_vgg16
and senet50_ferplus. An expert without weights learns from the corpus first.

Variants:
  crema_d     91 actors, 30 fps, labels of identity and emotion
  voxceleb2   25 fps, no labels: needs the weights of both teachers
  puppets     the drawn corpus at 64 px: everything from nothing, on a laptop
and with each of them the baselines of Table 1, as systems of their own, e.g. crema_d+sdfa:
  +sdfa       speech and a picture of the speaker; evaluated with another person's, too (mismatch)
  +s2f_sdfa   speech and features that a voice encoder has of the speaker's face
"""

import ml_collections

_CORPORA = ('crema_d', 'voxceleb2', 'puppets')
_BASELINES = ('sdfa', 's2f_sdfa')
VARIANTS = (*_CORPORA, *(f'{corpus}+{name}' for corpus in _CORPORA for name in _BASELINES))


def get_config(variant='crema_d'):
  """The setting of one variant."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r} of speech2video; known: {", ".join(VARIANTS)}')
  corpus, _, baseline = variant.partition('+')
  c = ml_collections.ConfigDict()
  c.system = 'speech2video'
  c.seed = 0
  c.partition = 'jit'
  c.dtype = 'float32'
  c.log_every = 100
  # 100 epochs for each of the two stages, as in the paper, of CREMA-D's 5,207 training clips. The
  # experts' 60 are ours.
  c.num_steps = 84_000
  c.data = dict(
    root='',
    batch_size=16,  # the paper does not say
    max_frames=120,  # 4 s; a random part of longer clips
    height=128,
    width=128,
    fps=30.0,
    sample_rate=16_000,
    workers=8,
  )
  c.model = dict(
    experts=dict(
      identities=91,
      traits=0,
      weights=dict(cpc='', identity_teacher='', emotion_teacher=''),
      cpc={},  # empty: the official size, as for the next ones
      identity_teacher={},
      emotion_teacher={},
      observer={},
      teacher_size=224,
      teacher_frames=8,
      window=20_480,
      steps_ahead=12,
      negatives=128,
      omega='last',
      cpc_learning_rate=2e-4,
      learning_rate=1e-3,
    ),
    identity_student=dict(hidden=1024),
    emotion_student=dict(hidden=256),
    decoder={},
    identity_discriminator={},
    frame_discriminator={},
    sync_discriminator={},
    expert_steps=20_000,
    distillation_steps=32_000,
    frames=4,
    out_of_sync=5,
    evaluation_frames=8,
    loss=dict(
      distance=0.025,
      temperature=1.0,
      literal=False,
      adversarial=1.0,
      similarity=100.0,
      gradient=100.0,
      smoothed=True,
      half='upper',
    ),
    optimizer='rmsprop',
    learning_rates=dict(
      students=3e-4,
      decoder=3e-4,
      identity_discriminator=3e-4,
      frame_discriminator=1e-4,
      sync_discriminator=1e-5,
    ),
  )
  c.checkpoint = dict(every=2000, keep=2, keep_best=1)
  c.evaluation = dict(
    every=2000,
    split='valid',
    max_clips=0,
    samples=4,
    observers=dict(sync='', reader='', speller='', words='', beam=50),
  )
  if corpus == 'voxceleb2':
    c.data.update(max_frames=100, fps=25.0, workers=16)
    c.model.experts.identities = 0
  elif corpus == 'puppets':
    _make_small(c)
  if baseline:
    _make_baseline(c, baseline, small=corpus == 'puppets')
  return c


def _make_baseline(c, baseline, *, small):
  """Another system on the same corpus, with the same experts."""
  c.system = 'sdfa'
  model = dict(
    reference='image' if baseline == 'sdfa' else 'voice',
    experts=c.model.experts.to_dict(),
    speech={},
    face={},
    generator={},
    voice={},
    frame_judge={},
    sequence_judge={},
    sync_judge={},
    noise=10,
    noise_scale=0.33,
    expert_steps=c.model.expert_steps,
    voice_steps=c.model.distillation_steps,
    frames=16,
    evaluation_frames=c.model.evaluation_frames,
    loss=dict(l1=600.0, frame=1.0, sequence=0.2, sync=0.8, half='lower'),
    optimizer='adam',
    learning_rates=dict(
      voice=1e-4, animator=1e-4, frame_judge=1e-4, sequence_judge=1e-5, sync_judge=1e-5
    ),
  )
  if small:
    model.update(
      speech=dict(features=48, widths=(4, 8, 12, 16, 24)),
      face=dict(features=16, widths=(8, 16, 24, 32, 48)),
      generator=dict(image_size=64, widths=(48, 32, 24, 16, 8)),
      voice=dict(widths=(8, 8, 12, 12, 16, 16, 24, 32, 32)),
      frame_judge=dict(widths=(8, 16, 24, 32)),
      sequence_judge=dict(widths=(8, 16, 24, 32), features=32),
      sync_judge=dict(widths=(8, 16, 24, 32), features=32),
      frames=6,
      expert_steps=600,  # enough where CPC is not among them
      voice_steps=300,
      optimizer='muon',
      learning_rates=dict(
        voice=1e-3, animator=1e-3, frame_judge=3e-4, sequence_judge=1e-4, sync_judge=1e-4
      ),
    )
    model['loss']['half'] = 'full'  # as of Speech2Video's, and for the same reason
  c.model = model


def _make_small(c):
  """Everything at a size that a laptop trains in minutes, on a corpus that it makes."""
  c.num_steps = 3300
  c.log_every = 50
  c.data = dict(
    root='',  # empty: the puppets below are made in the workdir
    puppets=dict(clips=480, seed=0, identities=12, frames=75, size=64, eval_fraction=0.1),
    batch_size=8,
    max_frames=75,
    height=64,
    width=64,
    fps=25.0,
    sample_rate=16_000,
    workers=0,
  )
  c.model.experts.update(
    identities=12,
    traits=2,  # a deep voice, old age
    cpc=dict(features=48, context=96),
    identity_teacher=dict(
      widths=(8, 16, 24, 32, 32), depths=(1, 1, 1, 1, 1), hidden=256, dropout=0.2
    ),
    emotion_teacher=dict(stem=12, widths=(6, 12, 24), blocks=(1, 1, 1), reduction=4, dropout=0.0),
    observer=dict(widths=(12, 16, 24, 32)),
    teacher_size=64,
    teacher_frames=2,
    window=10_240,
    # Such windows teach CPC to forget: a reader names 4 of 10 speakers by its last context, and
    # more than 5 by the mean of all.
    omega='mean',
    cpc_learning_rate=3e-4,  # at 5e-4 and more it may get stuck at guessing
  )
  c.model.update(
    identity_student=dict(hidden=128),
    emotion_student=dict(hidden=64),
    decoder=dict(
      image_size=64,
      map_widths=(32, 32, 24),
      identity_widths=(48, 48, 32),
      widths=(64, 64, 48, 32, 24, 12),
    ),
    identity_discriminator=dict(widths=(24, 32, 32)),
    frame_discriminator=dict(widths=(8, 16, 24, 32)),
    sync_discriminator=dict(widths=(8, 16, 24, 32, 32), hidden=32),
    expert_steps=1200,  # CPC's; what faces tell takes half of them
    distillation_steps=1200,
  )
  # In minutes judges do not learn what a face is, and where lips may be open or closed Eq. 8 is
  # content with stripes as fine as pixels, which smoothed gradients do not see. Eq. 2 at the
  # paper's weight leaves students as far from the teacher as strangers are.
  c.model.loss.update(half='full', smoothed=False, adversarial=0.01, distance=10.0)
  c.model.optimizer = 'muon'
  # Minutes instead of days: the players step further.
  c.model.learning_rates.update(
    students=3e-3,
    decoder=1e-3,
    identity_discriminator=3e-4,
    frame_discriminator=3e-4,
    sync_discriminator=1e-4,
  )
  c.checkpoint.update(every=300)
  c.evaluation.update(every=300)


def get_test_config(variant='crema_d'):
  """The same code path at a size that takes seconds on a CPU: one evaluation in every stage."""
  c = get_config(variant)
  c.num_steps = 6
  c.log_every = 2
  c.data.update(batch_size=2, max_frames=16, height=48, width=48, fps=25.0, workers=0)
  c.checkpoint.update(every=2)
  c.evaluation.update(every=2, samples=2)
  c.model.experts.update(
    identities=min(c.model.experts.identities, 8),
    cpc=dict(features=4, context=6),
    identity_teacher=dict(widths=(2, 2, 3, 4, 5), depths=(1, 1, 1, 1, 1), hidden=8),
    emotion_teacher=dict(stem=4, widths=(4, 4), blocks=(1, 1), reduction=4),
    observer=dict(widths=(4, 4)),
    teacher_size=32,
    teacher_frames=2,
    window=4800,
    steps_ahead=2,
    negatives=8,
  )
  if not c.model.experts.identities:  # given teachers know other faces than the corpus'
    c.model.experts.identity_teacher.classes = 7
  if c.system == 'sdfa':
    c.model.update(
      speech=dict(features=4, widths=(2, 2, 2, 2, 2)),
      face=dict(features=4, widths=(2, 2, 2, 2, 4)),
      generator=dict(image_size=32, widths=(4, 2, 2, 2, 2)),
      voice=dict(widths=(2, 2, 2, 2, 2)),
      frame_judge=dict(widths=(2, 2)),
      sequence_judge=dict(widths=(2, 2), features=8),
      sync_judge=dict(widths=(2, 2), features=8),
      expert_steps=2,
      voice_steps=2,
      frames=5,
      evaluation_frames=2,
    )
    return c
  c.model.update(
    identity_student=dict(hidden=6),
    emotion_student=dict(hidden=6),
    decoder=dict(
      image_size=32, map_widths=(5, 4, 3), identity_widths=(4, 4, 4), widths=(6, 4, 4, 4, 4, 4)
    ),
    identity_discriminator=dict(widths=(4, 4, 4)),
    frame_discriminator=dict(widths=(4, 4, 4, 4)),
    sync_discriminator=dict(widths=(4, 4, 4, 4, 4), hidden=4),
    expert_steps=2,
    distillation_steps=2,
    frames=2,
    evaluation_frames=2,
  )
  return c
