r"""SF2F: a portrait from a voice, 64 or 128 px; numbers of the official code.

  python -m tfg_jax.main --config=configs/sf2f.py:puppets --workdir=/tmp/sf2f

  python -m tfg_jax.main --config=configs/sf2f.py:64 --workdir=DIR1 --config.data.root=DIR \
    --config.model.facenet_weights=DIR
  python -m tfg_jax.main --config=configs/sf2f.py:64+fuser --workdir=DIR2 --config.data.root=DIR \
    --config.model.facenet_weights=DIR --config.model.start=DIR1

The weights are the folder that `tfg_jax.convert import --network=sf2f_facenet` makes of the public
VGGFace2 checkpoint. The second run trains the fuser in front of what the first has learned.

Variants:
  64, 128, multires    one size, or 64 and 128 px at once (Table 5)
  voice2face           the baseline
  no_pixel, no_adversarial, no_identity, no_perceptual
                       64 without one of the four losses (Table 7)
  baseline_encoder, baseline_decoder
                       64 with a part of voice2face (Table 7)
  ...+fuser            any of them but voice2face, second stage
  faces                FaceNet alone, for the model.facenet_weights of others
  puppets              everything from nothing on drawn faces, in 20 minutes on a laptop
  puppets_voice2face   the baseline on them
  puppets_faces        FaceNet alone on them
"""

import ml_collections

_LOSS = dict(pixel=10.0, adversarial=1.0, identity=0.05, perceptual=100.0, cosine=0.0)
_PLAIN_JUDGE = dict(
  convolutions=((1, 32, 1, 0), (4, 64, 2, 1), (4, 128, 2, 1), (4, 256, 2, 1), (4, 512, 1, 0)),
  normalise=False,
  slope=0.2,
)
_BASELINE = dict(
  encoder='plain',
  decoder='deconvolution',
  noise=0.05,
  identity_discriminator=_PLAIN_JUDGE,
  loss=dict(pixel=100.0, adversarial=0.0, identity=1.0, perceptual=0.0, cosine=0.0),
)
# Name -> what differs from `64`.
_VARIANTS = {
  '64': {},
  '128': dict(decoder_fields=dict(sizes=(128,))),
  'multires': dict(decoder_fields=dict(sizes=(64, 128)), loss=_LOSS | dict(pixel=100.0)),
  'voice2face': _BASELINE,
  'no_pixel': dict(loss=_LOSS | dict(pixel=0.0)),
  'no_adversarial': dict(loss=_LOSS | dict(adversarial=0.0)),
  'no_identity': dict(loss=_LOSS | dict(identity=0.0)),
  'no_perceptual': dict(loss=_LOSS | dict(perceptual=0.0)),
  'baseline_encoder': dict(encoder='plain', noise=0.05),
  'baseline_decoder': dict(decoder='deconvolution'),
  'faces': {},
  'puppets': {},
  'puppets_voice2face': _BASELINE,
  'puppets_faces': {},
}
_ALONE = ('voice2face', 'faces', 'puppets')  # what the names of those without a fuser end with
_FUSED = tuple(name for name in _VARIANTS if not name.endswith(_ALONE))
VARIANTS = (*_VARIANTS, *(f'{name}+fuser' for name in _FUSED))

_EPOCH = 11  # iterations: 2,890 people, 256 of them in each


def get_config(variant='64'):
  """The setting of one variant."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r} of sf2f; known: {", ".join(VARIANTS)}')
  name = variant.removesuffix('+fuser')
  c = ml_collections.ConfigDict()
  c.system = 'sf2f'
  c.seed = 0
  c.num_steps = 12_000 * _EPOCH
  c.partition = 'jit'
  c.dtype = 'float32'
  c.log_every = 10 * _EPOCH
  c.data = dict(
    root='',
    batch_size=256,
    # What data_prep.prepare --corpus=hq_voxceleb writes: 30 s of speech to one picture.
    max_frames=1,
    height=128,
    width=128,
    fps=1 / 30,
    sample_rate=16_000,
    workers=8,
  )
  c.model = dict(
    identities=2890,  # of HQ-VoxCeleb's training split
    voice_activity='webrtc',
    encoder='inception',
    encoder_fields={},  # empty: the official size, as for the next ones
    decoder='upsampling',
    decoder_fields={},
    noise=0.0,
    windows=0,
    image_discriminator={},
    identity_discriminator={},
    gan='gan',
    loss=_LOSS,
    facenet={},
    facenet_weights='',
    start='',
    face_steps=0,
    portrait_steps=10_000 * _EPOCH,
    settling_steps=2000 * _EPOCH,
    learning_rate=5e-4,
    fusion_learning_rate=1e-4,
    face_learning_rate=1e-3,
    b2=0.999,  # 0.98 in the paper
  )
  # Officially every 15 epochs.
  c.checkpoint = dict(every=200 * _EPOCH, keep=3, keep_best=1)
  c.evaluation = dict(every=200 * _EPOCH, split='valid', max_clips=0, samples=8)
  with c.unlocked():
    c.model.update(_VARIANTS[name])
  if variant.endswith('+fuser'):
    c.num_steps = 50 * _EPOCH
    c.log_every = _EPOCH
    c.model.update(windows=20, portrait_steps=0, settling_steps=0)
    c.checkpoint.every = c.evaluation.every = 5 * _EPOCH
  if name.startswith('puppets'):
    _make_small(c)
  if name.endswith('faces'):
    c.num_steps = c.model.face_steps = 500 if name.startswith('puppets') else 1000 * _EPOCH
    c.model.update(windows=0, portrait_steps=0, settling_steps=0)
  return c


def _make_small(c):
  """Everything at a size that a laptop trains in minutes, on a corpus that it makes."""
  c.num_steps = 3500
  c.log_every = 50
  c.data = dict(
    root='',  # empty: the puppets below are made in the workdir
    puppets=dict(
      clips=400,
      seed=0,
      identities=100,
      unseen_identities=20,
      mode='sentences',
      frames=100,
      size=64,
      eval_fraction=0.1,
    ),
    batch_size=16,
    max_frames=100,
    height=64,
    width=64,
    fps=25.0,
    sample_rate=16_000,
    workers=0,
  )
  baseline = c.model.decoder == 'deconvolution'
  with c.unlocked():
    c.model.update(
      identities=80,
      voice_activity='energy',  # the puppets' rooms are quiet
      encoder_fields=dict(widths=(64, 64, 96, 96), features=96),
      decoder_fields=dict(widths=(96, 64, 32, 16, 8)) if baseline else dict(width=96),
      image_discriminator=dict(
        convolutions=((4, 16, 2, 0), (4, 24, 2, 0), (4, 32, 2, 0)),
      ),
      facenet=dict(size=75, shrink=4, repeats=(1, 1, 1), features=64, classes=80, dropout=0.2),
      face_steps=500,
      portrait_steps=3000 if baseline else 2000,
      settling_steps=0 if baseline else 500,
      windows=0 if baseline else 4,
      learning_rate=3e-4 if baseline else 1e-3,
      fusion_learning_rate=5e-4,
    )
    # With the published weights, batches of 16 never get as far as a head on shoulders.
    if baseline:
      c.model.loss.identity = 0.1
    else:
      c.model.loss.update(pixel=50.0, adversarial=0.02, identity=0.01, perceptual=5.0)
    judge = c.model.identity_discriminator
    judge.convolutions = ((4, 16, 2, 0), (4, 24, 2, 0), (4, 32, 2, 0))
    judge.features = 64
  c.checkpoint = dict(every=500, keep=2, keep_best=0)
  # The people of this split are in no other.
  c.evaluation = dict(every=500, split='test_unseen', max_clips=0, samples=8)


def get_test_config(variant='64'):
  """The same code path at a size that takes seconds on a CPU; `data.root` holds 4 people."""
  c = get_config(variant)
  c.num_steps = 4
  c.log_every = 2
  c.data = dict(
    root='',
    batch_size=2,
    max_frames=40,
    height=48,
    width=48,
    fps=25.0,
    sample_rate=16_000,
    workers=0,
  )
  sizes = [size // 4 for size in c.model.decoder_fields.get('sizes', (64,))]
  deconvolves = c.model.decoder == 'deconvolution'
  small = dict(convolutions=((4, 8, 2, 0), (4, 8, 1, 0)))
  fuses = c.model.windows > 0
  with c.unlocked():
    c.model.update(
      identities=4,
      voice_activity='none',
      encoder_fields=dict(widths=(8, 8), features=8),
      decoder_fields=dict(widths=(8, 8, 4)) if deconvolves else dict(width=16, sizes=sizes),
      image_discriminator=small,
      identity_discriminator={**c.model.identity_discriminator.to_dict(), **small, 'features': 8},
      facenet=dict(size=75, shrink=16, repeats=(0, 0, 0), features=8),
      windows=2 if fuses else 0,
      face_steps=0 if c.model.start or variant.endswith('+fuser') else 2,
      portrait_steps=0 if variant.endswith(('+fuser', 'faces')) else 2,
      settling_steps=0,
      learning_rate=1e-3,
    )
  c.checkpoint.update(every=2, keep=2)
  c.evaluation.update(every=2, split='valid', samples=2)
  return c
