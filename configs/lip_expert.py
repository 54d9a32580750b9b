r"""The lip-reading expert: AV-HuBERT's pre-training, then fine-tuning to spell what lips say.

On talking puppets, from nothing, on a laptop:

  python -m tfg_jax.main --config=configs/lip_expert.py:puppets_pretrain --workdir=PRETRAINED
  python -m tfg_jax.main --config=configs/lip_expert.py:puppets_finetune --workdir=EXPERT \
    --config.data.root=PRETRAINED/puppets --config.model.start=PRETRAINED

The same from scratch, without --config.model.start: the ablation.

As published, on any records with sound (pre-training) or with sound and text (fine-tuning):

  pretrain_base_1         targets are clusters of MFCC
  pretrain_base_2 to _5   ... of a layer of the iteration before: --config.model.targets.teacher=DIR
  pretrain_large_5        the large model, taught by a base model of iteration 4
  finetune_base, _large   --config.model.start=DIR, a workdir or a converted network

Numbers of the published variants are those of av_hubert's base_lrs3_iter1 to 5, large_lrs3_iter5,
base_lrs3_433h and large_lrs3_433h; counts of clusters and layers are those of the paper.
"""

import ml_collections

_ENCODERS = {
  'base': dict(width=768, depth=12, mlp_width=3072, heads=12),
  'large': dict(width=1024, depth=24, mlp_width=4096, heads=16),
}
_DECODERS = {
  'base': dict(depth=6, mlp_width=3072, heads=4),
  'large': dict(depth=9, mlp_width=4096, heads=8),
}

# clusters, layer of the teacher (AV-HuBERT, section 4 and appendix)
_ITERATIONS = {1: (100, 0), 2: (100, 9), 3: (500, 12), 4: (1000, 12), 5: (2000, 12)}
_SPECIALS = 4  # label ids before the first cluster

# updates, warm-up, updates in which the encoder rests
_FINETUNING = {'base': (120_000, 40_000, 60_000), 'large': (30_000, 10_000, 18_000)}

VARIANTS = (
  *(f'pretrain_base_{i}' for i in _ITERATIONS),
  'pretrain_large_5',
  'finetune_base',
  'finetune_large',
  'puppets_pretrain',
  'puppets_finetune',
)


def get_config(variant='puppets_pretrain'):
  """The setting of one variant."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r} of lip_expert; known: {", ".join(VARIANTS)}')
  if variant.startswith('puppets'):
    return _puppets(variant)
  stage, size, *iteration = variant.split('_')
  encoder = _ENCODERS[size]
  c = _common()
  c.data = dict(
    root='', max_frames=500, height=160, width=160, fps=25.0, sample_rate=16_000, workers=8
  )
  c.checkpoint = dict(every=2000, keep=3, keep_best=1)
  c.evaluation = dict(every=10_000, split='valid', max_clips=2000, samples=4)
  if stage == 'pretrain':
    iteration = int(iteration[0])
    clusters, layer = _ITERATIONS[iteration]
    c.system = 'avhubert'
    c.num_steps = 400_000
    c.data.batch_size = 64  # 32,000 frames, as 32 GPUs of 1000
    c.model = dict(
      encoder=dict(
        encoder,
        classes=clusters + _SPECIALS,
        mask_input=iteration == 5,
        modality_dropout=0.5 if iteration == 5 else 0.0,
      ),
      targets=dict(
        clusters=clusters, clips=12_000, teacher='', layer=layer, encoder=_ENCODERS['base']
      ),
      audio_mask=0.8,
      audio_span=10,
      video_mask=0.3,
      video_span=5,
      unmasked_weight=1.0 if size == 'large' else 0.0,
      learning_rate=2e-3 if size == 'large' else 5e-4,
      warmup=32_000,
      weight_decay=0.01,
      clip_norm=10.0,
    )
  else:
    c.system = 'lip_expert'
    c.num_steps, warmup, freeze = _FINETUNING[size]
    c.data.batch_size = 16  # 8000 frames, as 8 GPUs of 1000
    c.model = dict(
      encoder=dict(encoder, **_finetuned()),
      decoder=_DECODERS[size],
      start='',
      tokenizer='',  # a sentencepiece model; empty: the characters below
      characters="abcdefghijklmnopqrstuvwxyz0123456789'",
      max_tokens=300,
      beam=50,
      smoothing=0.1,
      ctc=0.0,
      freeze=freeze,
      optimizer='adam',
      learning_rate=1e-3,
      warmup=warmup,
      final_rate=0.05,
    )
  c.model.view = dict(size=88, below=0, jitter=4, mirror=True)
  return c


def _common():
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.partition = 'jit'
  c.dtype = 'float32'
  c.log_every = 100
  return c


def _finetuned():
  """Regularisation of the encoder in fine-tuning."""
  return dict(
    dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.1,
    input_dropout=0.0,
    layer_dropout=0.1,
    feature_grad_mult=1.0,
  )


def _puppets(variant):
  """Narrow networks on 40 px mouths: minutes on a laptop."""
  clusters = 40
  encoder = dict(
    width=128,
    depth=3,
    mlp_width=256,
    heads=4,
    resnet_widths=(8, 16, 32, 64),
    resnet_blocks=1,
    position_taps=16,
    position_groups=8,
    label_width=64,
    classes=clusters + _SPECIALS,
  )
  c = _common()
  c.log_every = 25
  c.data = dict(
    root='',  # empty: the puppets below are made in the workdir
    # Lips that follow the sound exactly; with variability=1 they mumble, exaggerate and drift.
    puppets=dict(
      clips=1250,
      seed=0,
      identities=12,
      frames=75,
      size=96,
      variability=0.0,
      sway=0.2,
      eval_fraction=0.05,
    ),
    batch_size=8,  # more steps for the same minutes
    max_frames=75,
    height=96,
    width=96,
    fps=25.0,
    sample_rate=16_000,
    workers=0,
  )
  c.checkpoint = dict(every=100, keep=2, keep_best=1)
  c.evaluation = dict(every=300, split='valid', max_clips=0, samples=2)
  # The mouth of a puppet is 18 px below the centre of its frame.
  view = dict(size=40, below=18, jitter=2, mirror=True)
  if variant == 'puppets_pretrain':
    c.system = 'avhubert'
    c.num_steps = 600
    c.model = dict(
      # No dropout, as 600 steps do not overfit; sound is left out often, as lips have to do alone.
      encoder=dict(
        encoder,
        dropout=0.0,
        attention_dropout=0.0,
        input_dropout=0.0,
        layer_dropout=0.0,
        feature_grad_mult=1.0,
        modality_dropout=0.6,
        audio_dropout=0.8,
      ),
      view=view,
      unmasked_weight=1.0,
      targets=dict(clusters=clusters, clips=400, teacher='', layer=0, encoder={}),
      learning_rate=2e-3,
      warmup=60,
    )
  else:
    c.system = 'lip_expert'
    c.num_steps = 1200
    c.model = dict(
      encoder=dict(encoder, **_finetuned()),
      decoder=dict(depth=2, mlp_width=256, heads=4),
      view=view,
      start='',
      characters='abcdefghijklmnopqrstuvwxyz',
      max_tokens=40,
      beam=5,
      ctc=0.5,
      freeze=0,
      optimizer='muon',  # the paper's is Adam
      learning_rate=3e-3,
      warmup=100,
    )
  return c


def get_test_config(variant='puppets_pretrain'):
  """The same code path at a size that takes seconds on a CPU."""
  c = get_config(variant)
  clusters = 6
  c.num_steps = 4
  c.log_every = 2
  c.data.update(batch_size=2, max_frames=16, height=48, width=48, workers=0)
  c.model.view = dict(size=24, below=8, jitter=2, mirror=True)
  c.model.warmup = 2
  c.model.encoder.update(
    width=16,
    depth=1,
    mlp_width=16,
    heads=2,
    resnet_widths=(4,),
    resnet_blocks=1,
    position_taps=4,
    position_groups=2,
    label_width=8,
    classes=clusters + _SPECIALS,
  )
  if c.system == 'avhubert':
    layer = min(c.model.targets.layer, 1)
    c.model.targets = dict(clusters=clusters, clips=4, teacher='', layer=layer, encoder={})
  else:
    c.model.decoder.update(depth=1, mlp_width=16, heads=2)
    c.model.update(max_tokens=6, beam=2, freeze=2)
  c.checkpoint.update(every=2, keep=2)
  c.evaluation.update(every=2, max_clips=0, samples=1)
  return c
