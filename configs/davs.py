r"""DAVS on LRW: aligned 260 px frames, 256 px faces, 25 fps; numbers of the released code.

  python -m tfg_jax.main --config=configs/davs.py:full --workdir=DIR --config.data.root=DIR

Three runs make the published model, as no corpus names both persons and words:

  davs.py:identity   stage 0 on faces with names (data_prep/corpora/named_faces.py; MS-Celeb-1M)
  davs.py:words      stage 1 on LRW (data_prep/corpora/lrw.py)
  davs.py:full       stage 2 on LRW, with --config.model.sources.identity=DIR and
                     --config.model.sources.words=DIR

Variants of stage 2:
  full               L1, adversarial, disentangled (Table 1, L_Re)
  l1                 without the discriminator (Table 1, L1)
  tangled            identity features may keep the word (SVM leakage 27.8 %; 9.7 % for full)
  base               L1, what others begin with: --config.model.sources.base=DIR; of the opponents
                     C_p^w looks on, as it takes long to learn
  paper              Eq. 1 to 5 as printed: pooled identity, persons removed from words; needs a
                     corpus that names persons too
Variants of stage 1 (Table 3, supervision):
  words              contrastive, shared classifier, adversarial (67.5, 91.8, 95.2 % of the words)
  words_c            contrastive, a classifier for each sense
  words_c+shared     contrastive, shared classifier
  words_c+adv        contrastive, adversarial
puppets              all three stages on talking puppets, which it makes; minutes on a CPU; the
                     identity may keep the word
puppets_VARIANT      any of the others on puppets: `claims` compares them, `full` after `base`
"""

import ml_collections

_LOOKS_ON = 1e-9  # C_p^w learns, and nobody minds
# Changes to `model` and `model.weights`.
_VARIANTS = {
  'full': ({}, {}),
  'l1': ({}, dict(adversarial=0.0)),
  'tangled': ({}, dict(identity_words=0.0)),
  'base': ({}, dict(adversarial=0.0, identity_words=_LOOKS_ON, domain=0.0)),
  'paper': (dict(contrastive='eq1', identity_source='pooled', persons=1000), dict(persons=2000.0)),
  'words': ({}, {}),
  'words_c': (dict(shared_classifier=False), dict(domain=0.0)),
  'words_c+shared': ({}, dict(domain=0.0)),
  'words_c+adv': (dict(shared_classifier=False), {}),
  'identity': (dict(persons=40_145), {}),
}
_GO_ON = ('full', 'l1', 'tangled')  # from a run of `base`
_PUBLIC = (
  *('identity_encoder', 'lip_encoder', 'mfcc_encoder', 'decoder'),
  *('sequence_discriminator', 'classifiers'),
)
# A few words that look and sound apart, and that a doll can say in 1.2 s.
_PUPPET_WORDS = (
  *('baby', 'banana', 'five', 'happy', 'lemon', 'monday'),
  *('moon', 'orange', 'paper', 'seven', 'water', 'yellow'),
)


def get_config(variant='full'):
  """The published setting of one variant."""
  on_puppets, name = variant.startswith('puppets'), variant.removeprefix('puppets').lstrip('_')
  if not (name in _VARIANTS or variant == 'puppets'):
    known = ', '.join((*_VARIANTS, 'puppets', 'puppets_VARIANT'))
    raise ValueError(f'unknown variant {variant!r} of davs; known: {known}')
  model, weights = _VARIANTS[name or 'full']
  c = ml_collections.ConfigDict()
  c.system = 'davs'
  c.seed = 0
  c.num_steps = 300_000
  c.partition = 'jit'
  c.dtype = 'float32'
  c.log_every = 100
  c.data = dict(
    root='',
    batch_size=16,
    max_frames=29,
    height=260,
    width=260,
    fps=25.0,
    sample_rate=16_000,
    workers=8,
  )
  c.model = dict(
    words=500,
    persons=0,
    identity_steps=0,
    word_steps=0,
    identity_encoder={},  # empty: the official size, as for the next five
    lip_encoder={},
    mfcc_encoder={},
    decoder={},
    discriminator={},
    word_classifier={},
    face_size=256,
    mouth_box=(170, 234, 64, 192),  # fixed by the alignment
    jitter=2,
    flip=True,
    margin_frames=2,  # without a whole window of sound
    block_frames=25,
    draw_every=1,  # 4: faces are drawn of a quarter of a batch, the rest is only read
    identity_source='net1',  # what C_p^w reads; 'pooled' in the paper's text
    weights=dict(identity_words=2000.0),
    optimizer='adam',
    learning_rate=2e-4,
    opponents_learning_rate=2e-4,
    b1=0.9,
    b2=0.999,
    # Workdirs of the runs before; or, by its name, what tfg_jax.convert made of a public network.
    sources=dict.fromkeys(('identity', 'words', 'base', *_PUBLIC), ''),
  )
  c.checkpoint = dict(every=5000, keep=3, keep_best=1)
  c.evaluation = dict(every=5000, split='valid', max_clips=1000, samples=4)
  c.model.update(model)
  if name == 'identity':
    c.data.update(batch_size=64, max_frames=1)  # pictures
    c.model.update(words=0, block_frames=1, margin_frames=0)
  if on_puppets:
    _make_small(c)
  if on_puppets and name in _GO_ON:
    # An E_p as quick as in `base` runs away from C_p^w: it hides the word from it, and adds more.
    c.model.update(optimizer='adam', learning_rate=3e-4, opponents_learning_rate=3e-3)
  if on_puppets and name.startswith('words'):
    # Lips learn sooner than at the rate of those who draw.
    c.model.update(learning_rate=1e-3, opponents_learning_rate=1e-3)
  c.model.weights.update(weights)
  if name.startswith('words'):
    c.model.word_steps = c.num_steps
  if name == 'identity':
    c.model.identity_steps = c.num_steps
  if variant == 'puppets':
    c.num_steps = 1000
    c.model.update(identity_steps=200, word_steps=400)
    c.model.weights.identity_words = _LOOKS_ON  # an E_p that still learns to draw is too quick
  return c


def _make_small(c):
  """Puppets, narrow networks, and stages long enough to see each of them work."""
  c.num_steps = 400
  c.log_every = 25
  c.data.update(
    batch_size=16,
    max_frames=29,
    height=80,
    width=80,
    workers=0,
    puppets=dict(
      clips=600,
      seed=0,
      identities=10,
      mode='words',
      words=_PUPPET_WORDS,
      frames=29,
      size=80,
      eval_fraction=0.1,
      sway=0.2,  # aligned faces hardly move
    ),
  )
  c.model.update(
    words=len(_PUPPET_WORDS),  # of all variants, as puppets have both labels
    persons=10,
    identity_encoder=dict(
      blocks=(1, 1, 1, 1, 1),
      widths=(16, 32, 96, 48, 48),  # the third is net2's, all that G sees of details
      deviations=(0.03, 0.06, 0.04, 0.03, 0.02),
    ),
    lip_encoder=dict(stem=8, widths=(16, 16, 24), depth=2, maps=12, embedding=48),
    mfcc_encoder=dict(square=(16, 24, 32, 48), tall=(16, 32, 48), embedding=48),
    decoder=dict(root=48, widths=(64, 96, 64, 32), convs=(1, 1, 1, 1), head=8),
    discriminator=dict(
      widths=(8, 16, 24, 32), speech=(8, 16, 24, 24), hidden=32, mouth=(4, 7, 2, 5)
    ),
    # At 1e-4 contrast shapes the embeddings alone for hundreds of steps, and not for words.
    word_classifier=dict(hidden=64, deviation=0.05),
    face_size=64,
    mouth_box=(38, 60, 14, 50),
    jitter=1,
    flip=False,  # puppets look to one side no more often than to the other
    evaluation_frames=9,
    weights=dict(
      # That of the README's table. E_p's gradient is nearly all this term's, and Adam drops its
      # size: at 1200 the first 200 steps were the same, with the narrower C_p^w of before.
      identity_words=5000.0,
      # At 1 and 5 the encoders hide their sense before they learn a word, and stay there; at 0.1
      # the adversary still costs words.
      word_stage_domain=0.02,
      domain=0.5,
    ),
    # From net1 C_p^w learns no word in 800 steps.
    identity_source='pooled',
    # Faces as near in less than half of Adam's steps; what hears learns more words with Adam.
    optimizer='muon',
    learning_rate=2e-3,
    opponents_learning_rate=2e-3,
    audio_gain=1.0,  # gains and adaptation made up for a domain gap that puppets have not
    video_gain=1.0,
  )
  c.model.block_frames, c.model.margin_frames = 25, 2
  c.model.drawn_frames = 4
  c.checkpoint.update(every=200, keep=2)
  c.evaluation.update(every=200, max_clips=0, samples=4)


def get_test_config(variant='full'):
  """The same code path at a size that takes seconds on a CPU."""
  c = get_config(variant)
  c.num_steps = 4
  c.log_every = 2
  c.data.update(batch_size=2, max_frames=16, height=48, width=48, workers=0)
  c.model.update(
    words=3,
    identity_encoder=dict(
      blocks=(1, 1, 1, 1, 1), widths=(4, 4, 4, 4, 8), deviations=(0.1, 0.1, 0.1, 0.1, 0.1)
    ),
    lip_encoder=dict(stem=4, widths=(4,), depth=0, maps=4, embedding=8),
    mfcc_encoder=dict(square=(4, 4, 4, 4), tall=(4, 4, 4), embedding=8),
    decoder=dict(root=8, widths=(8, 4, 4), convs=(1, 1, 1), head=4),
    discriminator=dict(widths=(4, 4, 4, 4), speech=(4, 4, 4, 4), hidden=4, mouth=(0, 3, 0, 3)),
    word_classifier=dict(hidden=8),
    face_size=32,
    mouth_box=(20, 28, 8, 24),
    block_frames=10,
    identity_frames=3,
    word_frames=4,
    drawn_frames=2,
    evaluation_frames=3,
    learning_rate=1e-3,
  )
  if c.model.persons:
    c.model.persons = 4
  if c.model.word_steps:
    c.model.word_steps = 4
  if c.model.identity_steps:
    c.model.identity_steps = 4
  if variant == 'identity':
    c.model.words = 0
  if variant == 'puppets':
    c.num_steps = 6
    c.model.update(identity_steps=2, word_steps=2)
  c.checkpoint.update(every=2, keep=2)
  c.evaluation.update(every=2, samples=2)
  return c
