"""SF2F (Bai et al., 2020): a portrait of somebody from their voice.

Generator      1 to 1.5 s of log-mel -> embedding -> portrait; with a fuser, many windows (3.2, 3.3)
Losses         10 pixels + 1 adversarial + 0.05 identity + 100 perceptual                   (3.4)
Players        generator, image discriminators and identity discriminators (one of each for every
               size that is drawn), fuser; each its own optimiser
Stages         0: FaceNet, where no weights are given, learns the corpus' faces; 1: all but the
               fuser; 2: the generator's batch norm is frozen, its optimiser begins again and rates
               fall; 3: the fuser alone, in front of frozen networks, and the discriminators. A
               stage ends with the evaluation after its number of steps.

Numbers are those of the official code (BAI-Yeqi/SF2F_PyTorch), which differs from the paper in
places. Its baseline voice2face (Wen et al., 2019) and the paper's ablations are settings.

Departures     An epoch goes over records, not people. People with fewer windows than others get a
               mask instead of an error. Batch norm stays frozen in stage 3, as the paper says;
               officially it thaws by accident. Rates fall with every step, not with every epoch.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from tfg_jax import configuration, errors, light_random, losses
from tfg_jax.data import voices
from tfg_jax.features import audio as audio_features
from tfg_jax.features import portrait, voice
from tfg_jax.networks import sf2f as networks
from tfg_jax.networks import voice2face
from tfg_jax.networks.facenet import FaceFeatures, FaceNet
from tfg_jax.systems import base, players
from tfg_jax.systems.sources import Source

FACES, PORTRAITS, SETTLING, FUSION = range(4)  # stages

_ENCODERS = {'inception': networks.VoiceEncoder, 'plain': voice2face.PlainVoiceEncoder}
_DECODERS = {'upsampling': networks.FaceDecoder, 'deconvolution': voice2face.DeconvolutionDecoder}
_NO_FRAMES = np.zeros(0, np.int32)  # of the video: portraits stand for it
_SHORTEST, _LONGEST = 100, 150  # frames of a training crop
_DRAWN = {'generator', 'image_discriminator', 'identity_discriminator'}  # what stage 3 takes over


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossWeights:
  """`model.loss`; a term with weight 0 is not computed, and its players do not exist."""

  pixel: float = 10.0  # of the mean in the network space, for every size that is drawn
  adversarial: float = 1.0  # of the image discriminators
  identity: float = 0.05  # both heads of the identity discriminators
  perceptual: float = 100.0
  cosine: float = 0.0  # of FaceNet's embeddings, beside the perceptual terms; off in all releases


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The section `model` of a config. Sections of networks hold the fields of their modules."""

  identities: int  # people in the training split
  voice_activity: str = 'webrtc'  # see `features.voice.voiced`
  encoder: str = 'inception'  # or 'plain', the baseline's
  encoder_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  decoder: str = 'upsampling'  # or 'deconvolution', the baseline's
  decoder_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  noise: float = 0.0  # on embeddings; 0.05 in the baseline
  windows: int = 0  # of a person, for the fuser; 0: there is none
  image_discriminator: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  identity_discriminator: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  gan: str = 'gan'  # see `losses.adversarial_loss`
  loss: LossWeights = LossWeights()
  facenet: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  facenet_weights: str = ''  # a converted sf2f_facenet, or a run that has trained one
  start: str = ''  # workdir of a run without fuser; this one is then stage 3
  face_steps: int = 0  # of stage 0
  portrait_steps: int = 0  # of stage 1
  settling_steps: int = 0  # of stage 2
  learning_rate: float = 5e-4
  fusion_learning_rate: float = 1e-4
  face_learning_rate: float = 1e-3
  b2: float = 0.999


@dataclasses.dataclass(frozen=True)
class SF2F:
  """See the module; `from_config` builds it."""

  settings: Settings
  fps: float
  generator: networks.VoiceToFace
  image_discriminators: Mapping[int, nn.Module]  # by size
  identity_discriminators: Mapping[int, nn.Module]
  facenet: FaceNet
  axis_name: str | None = None

  @classmethod
  def from_config(cls, run: configuration.Run, *, axis_name: str | None = None) -> 'SF2F':
    """Builds networks and settings from `run.model`.

    Raises:
      ConfigError: for unknown keys or values that cannot be.
    """
    settings = configuration.read_section(Settings, run.model, 'model')
    _check(run, settings)
    dtype = jnp.dtype(run.dtype)
    shared = dict(axis_name=axis_name, dtype=dtype)

    def build(name, module, values, **fixed):
      return configuration.build_module(module, values, f'model.{name}', **fixed)

    encoder = build(
      'encoder_fields', _ENCODERS[settings.encoder], settings.encoder_fields, **shared
    )
    has_norm = {} if settings.decoder == 'deconvolution' else shared
    decoder = build(
      'decoder_fields',
      _DECODERS[settings.decoder],
      settings.decoder_fields,
      **(has_norm or dict(dtype=dtype)),
    )
    judges = {}
    for name, module, fixed, weight in (
      ('image_discriminator', networks.ImageDiscriminator, {}, settings.loss.adversarial),
      (
        'identity_discriminator',
        networks.IdentityDiscriminator,
        dict(identities=settings.identities),
        settings.loss.identity,
      ),
    ):
      values = getattr(settings, name)
      judges[name] = {
        size: build(name, module, {'convolutions': _judge(size), **values}, **fixed, **shared)
        for size in decoder.sizes
        if weight
      }
    learned = {} if settings.facenet_weights else dict(classes=settings.identities)
    return cls(
      settings,
      run.data.fps,
      networks.VoiceToFace(
        encoder,
        decoder,
        networks.AttentionFuser(encoder.features, dtype=dtype) if settings.windows else None,
        settings.noise,
      ),
      judges['image_discriminator'],
      judges['identity_discriminator'],
      build('facenet', FaceNet, {**learned, **settings.facenet}, **shared),
      axis_name,
    )

  @property
  def face_size(self) -> int:
    """Side of the largest portrait, pixels."""
    return self.generator.decoder.sizes[-1]

  @property
  def draws(self) -> str:
    """A portrait, unless FaceNet alone learns here."""
    return '' if self.last_stage == FACES else 'portrait'

  @property
  def score(self) -> str:
    """What the best checkpoint has the least of: the paper's figures are chosen by it too."""
    return 'fused/l1' if self._fuses else 'generated/l1'

  @property
  def sources(self) -> dict[str, str]:
    """Where FaceNet and the networks of stage 1 come from, if not from here."""
    folders = {'facenet': self.settings.facenet_weights, 'portraits': self.settings.start}
    return {name: folder for name, folder in folders.items() if folder}

  @property
  def _fuses(self) -> bool:
    return self.generator.fuser is not None

  @property
  def _judges(self) -> dict[str, Mapping[int, nn.Module]]:
    """The discriminators that exist, by player and size."""
    judges = {
      'image_discriminator': self.image_discriminators,
      'identity_discriminator': self.identity_discriminators,
    }
    return {name: modules for name, modules in judges.items() if modules}

  # ------------------------------------------------------------------------------------------------
  # State
  # ------------------------------------------------------------------------------------------------

  def init(self, key: jax.Array) -> base.State:
    """Fresh networks; FaceNet is one of them where no weights are given, else in `frozen`."""
    keys = jax.random.split(light_random.from_key(key), 4)
    shape = (1, 2, voice.WINDOW, voice.MEL_BINS) if self._fuses else (1, _LONGEST, voice.MEL_BINS)
    variables = self.generator.init(keys[0], jnp.zeros(shape), train=False)
    params = dict(variables['params'])
    trees = {'fuser': {'params': params.pop('fuser')}} if self._fuses else {}
    trees['generator'] = {**variables, 'params': params}
    for (name, modules), judge_key in zip(self._judges.items(), keys[1:3], strict=False):
      made = {
        str(size): module.init(judge_key, jnp.zeros((1, size, size, 3)), train=False)
        for size, module in modules.items()
      }
      trees[name] = {
        kind: {size: tree.get(kind, {}) for size, tree in made.items()}
        for kind in ('params', 'batch_stats')
      }
    frozen = {}
    facenet = self.facenet.init(keys[3], jnp.zeros((1, 8, 8, 3)), train=False)
    if self.settings.facenet_weights:
      frozen['facenet'] = facenet
    else:
      trees['facenet'] = facenet
    nets = {
      name: base.Net.create(tree['params'], tree.get('batch_stats', {}), self._optimizer(1.0))
      for name, tree in trees.items()
    }
    return base.State.create(key, nets, frozen=frozen, stage=self._stage_at(0))

  def start(
    self, state: base.State, taken: dict[str, Source], batches: Iterable[dict]
  ) -> base.State:
    """On the host, before the first step: takes over FaceNet, and the networks of stage 1.

    Raises:
      CheckpointError: if they do not fit.
    """
    del batches
    nets, frozen = dict(state.nets), dict(state.frozen)
    if 'facenet' in taken:
      frozen['facenet'] = taken['facenet'].replace(frozen['facenet'], 'facenet')
    if 'portraits' in taken:
      for name in sorted(nets.keys() & (_DRAWN | {'facenet'})):
        found = taken['portraits'].replace(
          {'params': nets[name].params, 'batch_stats': nets[name].stats}, name
        )
        nets[name] = nets[name].replace(params=found['params'], stats=found['batch_stats'])
    return state.replace(nets=nets, frozen=frozen)

  def _optimizer(self, rate) -> optax.GradientTransformation:
    return optax.adam(rate, b2=self.settings.b2)

  def _stage_at(self, step: int) -> int:
    steps = self.settings
    ends = np.cumsum([steps.face_steps, steps.portrait_steps, steps.settling_steps])
    return min(sum(step >= int(end) for end in ends), self.last_stage)

  @property
  def last_stage(self) -> int:
    """The fuser's, where there is one; FaceNet's, where nothing else learns."""
    if not (self.settings.start or self.settings.portrait_steps):
      return FACES
    if self._fuses:
      return FUSION
    return SETTLING if self.settings.settling_steps else PORTRAITS

  def on_evaluation(self, state: base.State, results: dict[str, float]) -> base.State:
    """The stage that the number of steps asks for. With stage 2 the generator's optimiser begins
    again, with stage 3 those of the discriminators."""
    del results
    stage = self._stage_at(int(state.step))
    if stage == state.stage:
      return state
    again = {SETTLING: ('generator',), FUSION: tuple(self._judges)}.get(stage, ())
    nets = dict(state.nets)
    for name in again:
      zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), nets[name].opt_state)
      nets[name] = nets[name].replace(opt_state=zeros)
    return state.replace(nets=nets, stage=stage)

  def finished(self, state: base.State) -> bool:
    return False

  def _rates(self, state) -> dict[str, jax.Array]:
    """Learning rates by player in the state's stage."""
    settings = self.settings
    rates = dict.fromkeys(('generator', *self._judges), settings.learning_rate)
    if state.stage == SETTLING:
      begun = settings.face_steps + settings.portrait_steps
      done = (state.step - begun) / max(settings.settling_steps, 1)
      # To a thousandth; officially the identity discriminators' stays.
      for name in ('generator', 'image_discriminator'):
        rates[name] = settings.learning_rate * (1 - 0.999 * done)
    elif state.stage == FUSION:
      rates = dict.fromkeys(('fuser', *self._judges), settings.fusion_learning_rate)
    return rates | {'facenet': settings.face_learning_rate}

  def _variables(self, state, *, generator=None, fuser=None):
    """The generator's whole variables; the arguments replace parameters."""
    net = state.nets['generator']
    params = dict(net.params if generator is None else generator)
    if self._fuses:
      params['fuser'] = state.nets['fuser'].params if fuser is None else fuser
    return {'params': params, **({'batch_stats': net.stats} if net.stats else {})}

  def _facenet_variables(self, state):
    if 'facenet' in state.frozen:
      return state.frozen['facenet']
    net = state.nets['facenet']
    return {'params': net.params, 'batch_stats': net.stats}

  def export(self, state: base.State, network: str):
    """The variables of a public network; of discriminators those of the smallest portraits."""
    settings, sizes = self.settings, self.generator.decoder.sizes
    is_baseline = settings.encoder == 'plain'
    held = {'sf2f_facenet': self._facenet_variables(state)}
    if is_baseline == (settings.decoder == 'deconvolution'):
      kind = '128_multires' if len(sizes) > 1 else '64_fuser' if self._fuses else '64'
      name = 'voice2face_generator' if is_baseline else f'sf2f_generator_{kind}'
      held[name] = self._variables(state)
    for name in self._judges:
      net, size = state.nets[name], str(sizes[0])
      name = 'voice2face_discriminator' if is_baseline else f'sf2f_{name}'
      held[name] = {'params': net.params[size], 'batch_stats': net.stats[size]}
    if network not in held:
      raise errors.ConversionError(
        f'this SF2F run holds no {network!r}.', hint=f'it holds {", ".join(sorted(held))}.'
      )
    return held[network]

  # ------------------------------------------------------------------------------------------------
  # Inputs
  # ------------------------------------------------------------------------------------------------

  def sample(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A stretch of voice, one of the person's portraits and who it is; windows for the fuser, and a
    frame of the video where FaceNet learns here."""
    settings = self.settings
    parts = voices.utterances(clip)
    (wav,) = voices.voiced_utterances([parts[rng.integers(len(parts))]], settings.voice_activity)
    arrays = {
      'portrait': voices.read_portrait(clip, self.face_size, rng),
      'identity': np.int32(voices.identity(clip, settings.identities)),
      'frame_index': _NO_FRAMES,
      **voices.random_crop(wav, _LONGEST, rng),
    }
    if settings.windows:
      heard = voices.voiced_utterances(parts, settings.voice_activity)
      arrays |= voices.windows(heard, settings.windows, voice.WINDOW, rng)
    if not settings.facenet_weights:
      frame = clip.frames[rng.integers(len(clip.frames))]
      arrays['face'] = portrait.read(frame, self.face_size)
    return arrays

  def sample_evaluation(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """1.25 s somewhere in the record, windows from its start, and its first portrait."""
    heard = voices.voiced_utterances(voices.utterances(clip), self.settings.voice_activity)
    arrays = {
      'portrait': voices.read_portrait(clip, self.face_size),
      'frame_index': _NO_FRAMES,
      **voices.random_crop(max(heard, key=len), voice.WINDOW, rng),
    }
    if self.settings.windows:
      arrays |= voices.windows(heard, self.settings.windows, voice.STRIDE)
    return arrays

  def real(self, pixels) -> tuple[jax.Array, ...]:
    """(B, S, S, 3) uint8 portraits in the network space at every size, by leaving pixels out."""
    sizes = self.generator.decoder.sizes
    steps = [sizes[-1] // size for size in sizes]
    return tuple(portrait.from_uint8(pixels[:, ::step, ::step]) for step in steps)

  def _crop(self, state, batch):
    """Log-mel (B, 150, 40) of which the first n frames count, and n (B,): one for the batch."""
    number = jax.random.randint(state.step_key(), (), _SHORTEST, _LONGEST + 1)
    mel = voice.log_mel(batch['voice'], batch['voice_samples'])
    spare = jnp.maximum(voice.valid_frames(batch['voice_samples']) - number, 0)
    first = jnp.floor(batch['voice_place'] * (spare + 1)).astype(jnp.int32)
    index = jnp.minimum(first[:, None] + jnp.arange(_LONGEST), _LONGEST - 1)
    mel = jnp.take_along_axis(mel, index[..., None], axis=1)
    return mel, jnp.full(len(mel), number)

  def _noise(self, key, count: int):
    if not self.settings.noise:
      return None
    return jax.random.normal(key, (count, self.generator.encoder.features))

  # ------------------------------------------------------------------------------------------------
  # Training
  # ------------------------------------------------------------------------------------------------

  def train_step(self, state: base.State, batch: base.Batch) -> tuple[base.State, base.Metrics]:
    """Updates the generator (in stage 3 the fuser), then both kinds of discriminators, on one
    forward pass of the portraits; in stage 0 FaceNet alone."""
    nets, rates = dict(state.nets), self._rates(state)
    metrics = {}

    def learn(name, loss):
      nets[name], numbers, made = players.learn(
        name, nets[name], loss, self._optimizer(rates[name]), axis_name=self.axis_name
      )
      metrics.update(numbers)
      return made

    if state.stage == FACES:
      learn('facenet', lambda params: self._face_loss(state, params, batch))
      return state.replace(nets=nets), metrics

    real = self.real(batch['portrait'])
    judges = {name: (state.nets[name].params, state.nets[name].stats) for name in self._judges}
    player = 'fuser' if state.stage == FUSION else 'generator'

    def generator_loss(params):
      drawn, stats = self._draw_in_training(state, batch, **{player: params})
      terms, judged = self.generator_terms(
        drawn, real, batch['identity'], judges, self._facenet_variables(state)
      )
      return sum(terms.values()), (terms, stats, (drawn, judged))

    drawn, judged = learn(player, generator_loss)
    drawn = jax.lax.stop_gradient(drawn)
    for name in self._judges:
      learn(
        name,
        lambda params, name=name: self.judge_loss(
          name, params, judged[name], drawn, real, batch['identity']
        ),
      )
    return state.replace(nets=nets), metrics

  def _draw_in_training(self, state, batch, *, generator=None, fuser=None):
    """Portraits of a batch and the generator's new statistics; None where they stay."""
    variables = self._variables(state, generator=generator, fuser=fuser)
    key = jax.random.fold_in(state.step_key(self.axis_name), 1)
    noise = self._noise(key, len(batch['portrait']))
    if state.stage == FUSION:
      mel = voice.log_mel(batch['windows'], batch['windows_samples'])
      drawn, _ = self.generator.apply(
        variables, mel, mask=batch['windows_mask'], noise=noise, train=False
      )
      return drawn, None
    mel, lengths = self._crop(state, batch)
    if state.stage == SETTLING:
      drawn, _ = self.generator.apply(variables, mel, lengths, noise=noise, train=False)
      return drawn, None
    (drawn, _), updated = self.generator.apply(
      variables, mel, lengths, noise=noise, train=True, mutable=['batch_stats']
    )
    return drawn, updated['batch_stats']

  def generator_terms(self, drawn, real, labels, judges, facenet):
    """Every weighted term of the generator's loss.

    Args:
      drawn, real: tuples of (B, S, S, 3) portraits, one for each size.
      labels: (B,) int, who they are.
      judges: player -> (parameters, running statistics), both by size.
      facenet: FaceNet's variables.

    Returns:
      Scalars by name, with the size behind it where there are several; and the discriminators'
      statistics, which the drawn portraits have changed: player -> size -> statistics.
    """
    weights, terms = self.settings.loss, {}
    judged = {name: dict(stats) for name, (_, stats) in judges.items()}
    for size, fake, true in zip(self.generator.decoder.sizes, drawn, real, strict=True):
      behind = f'_{size}' if len(drawn) > 1 else ''
      if weights.pixel:
        terms[f'pixel{behind}'] = weights.pixel * losses.masked_l1(fake, true)
      if 'image_discriminator' in judges:
        logits, judged['image_discriminator'][str(size)] = self._judge(
          'image_discriminator', size, *judges['image_discriminator'], fake
        )
        adversarial = losses.adversarial_loss(logits, real=True, kind=self.settings.gan)
        terms[f'adversarial{behind}'] = weights.adversarial * adversarial
      if 'identity_discriminator' in judges:
        (logits, who), judged['identity_discriminator'][str(size)] = self._judge(
          'identity_discriminator', size, *judges['identity_discriminator'], fake
        )
        terms[f'identity{behind}'] = weights.identity * losses.cross_entropy(who, labels)
        adversarial = losses.adversarial_loss(logits, real=True, kind=self.settings.gan)
        terms[f'identity_adversarial{behind}'] = weights.identity * adversarial
      if weights.perceptual or weights.cosine:
        seen, meant = (self._recognise(facenet, image) for image in (fake, true))
        meant = jax.lax.stop_gradient(meant)
        each = losses.perceptual_terms(seen, meant)
        terms[f'perceptual{behind}'] = weights.perceptual * (
          each @ jnp.array(losses.PERCEPTUAL_WEIGHTS)
        )
        if weights.cosine:
          similarity = jnp.sum(seen.embedding * meant.embedding, -1)
          terms[f'cosine{behind}'] = weights.cosine * (1 - similarity).mean()
    return terms, judged

  def judge_loss(self, name, params, stats, drawn, real, labels):
    """A discriminator's loss, of all its sizes together, as `players.learn` wants it.

    The image discriminators see what was drawn first, the identity discriminators what is real.
    """
    terms, stats = {}, dict(stats)
    order = (False, True) if name == 'image_discriminator' else (True, False)
    for i, size in enumerate(self.generator.decoder.sizes):
      behind = f'_{size}' if len(drawn) > 1 else ''
      for is_real in order:
        image = (real if is_real else drawn)[i]
        logits, stats[str(size)] = self._judge(name, size, params, stats, image)
        if name == 'identity_discriminator':
          logits, who = logits
          if is_real:
            terms[f'identity{behind}'] = losses.cross_entropy(who, labels)
        terms[f'{"real" if is_real else "drawn"}{behind}'] = losses.adversarial_loss(
          logits, real=is_real, kind=self.settings.gan
        )
    return sum(terms.values()), (terms, stats, None)

  def _judge(self, name, size, params, stats, image):
    """What a discriminator says in training, and its new statistics."""
    key = str(size)
    said, updated = self._judges[name][size].apply(
      {'params': params[key], 'batch_stats': stats[key]},
      image,
      train=True,
      mutable=['batch_stats'],
    )
    return said, updated.get('batch_stats', {})

  def _recognise(self, facenet, image):
    return self.facenet.apply(facenet, portrait.facenet_input(image), train=False)

  def _face_loss(self, state, params, batch):
    """Who is in a frame of the video, and in the portrait."""
    pictures = jnp.concatenate([batch['face'], batch['portrait']])
    labels = jnp.tile(batch['identity'], 2)
    key = jax.random.fold_in(state.step_key(self.axis_name), 2)
    seen, updated = self.facenet.apply(
      {'params': params, 'batch_stats': state.nets['facenet'].stats},
      portrait.facenet_input(portrait.from_uint8(pictures)),
      train=True,
      mutable=['batch_stats'],
      rngs={'dropout': key},
    )
    loss = losses.cross_entropy(seen.logits, labels)
    accuracy = (seen.logits.argmax(-1) == labels).mean()
    return loss, ({'accuracy': accuracy}, updated['batch_stats'], None)

  # ------------------------------------------------------------------------------------------------
  # Use
  # ------------------------------------------------------------------------------------------------

  def see_faces(self, state: base.State, image) -> FaceFeatures:
    """What FaceNet makes of (B, S, S, 3) portraits in the network space."""
    return self._recognise(self._facenet_variables(state), image)

  def draw(self, state: base.State, mel, *, lengths=None, mask=None, key=None) -> jax.Array:
    """(B, S, S, 3) portraits in the network space, the largest size; see `VoiceToFace.embed`.

    `key` is for the baseline, which adds noise in use as well.
    """
    noise = None if key is None else self._noise(key, len(mel))
    variables = self._variables(state)
    drawn, _ = self.generator.apply(variables, mel, lengths, mask=mask, noise=noise, train=False)
    return drawn[-1]

  def _draw_all(self, state, batch):
    """Portraits by row of the evaluation."""
    mel = voice.log_mel(batch['voice'], batch['voice_samples'])
    key = jax.random.key(0)
    drawn = {'generated': self.draw(state, mel, key=key)}
    if self._fuses:
      mel = voice.log_mel(batch['windows'], batch['windows_samples'])
      drawn['fused'] = self.draw(state, mel, mask=batch['windows_mask'], key=key)
    return drawn

  def eval_step(self, state: base.State, batch: base.Batch) -> base.Metrics:
    """How much portraits resemble the real one, (B,) each.

    Rows: 'ground_truth', 'silence' (what is drawn where nobody speaks), 'generated' from 1.25 s and
    'fused' from many windows. `cosine` and `l1` (the sum over dimensions) are of FaceNet's
    embeddings, `pixels` the mean difference in [0, 1]. While FaceNet itself learns, in stage 0,
    there is no `l1`: what it finds alike then would make the best checkpoint.
    """
    true = self.real(batch['portrait'])[-1]
    quiet = jnp.full((1, voice.WINDOW, voice.MEL_BINS), voice.PADDING)
    silence = jnp.repeat(self.draw(state, quiet, key=jax.random.key(0)), len(true), axis=0)
    rows = {'ground_truth': true, 'silence': silence, **self._draw_all(state, batch)}
    meant = self.see_faces(state, true).embedding
    numbers = {}
    for name, image in rows.items():
      seen = self.see_faces(state, image).embedding
      numbers[f'{name}/cosine'] = jnp.sum(seen * meant, -1)
      if state.stage != FACES:
        numbers[f'{name}/l1'] = jnp.abs(seen - meant).sum(-1)
      difference = portrait.to_uint8(image).astype(jnp.float32) - portrait.to_uint8(true)
      numbers[f'{name}/pixels'] = jnp.abs(difference).mean((1, 2, 3)) / 255
    return numbers

  def summary(self, results: dict[str, float]) -> str:
    """Says what the numbers of `eval_step` mean."""
    if self.last_stage == FACES:
      return 'FaceNet alone learns here; facenet/accuracy says how well it tells training faces.'
    row = 'fused' if self._fuses else 'generated'
    judge = (
      'a FaceNet with the given weights'
      if self.settings.facenet_weights
      else 'a FaceNet that was trained on the faces of this corpus, as no weights were given'
    )
    return (
      f'To {judge}, portraits drawn from a voice have a cosine of {results[f"{row}/cosine"]:.3f} '
      f'to the real ones; one drawn from silence {results["silence/cosine"]:.3f}. '
      'python -m tfg_jax.gallery searches for people by them.'
    )

  def samples(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """Real and drawn portraits side by side; as a video, while the voice is heard."""
    shown = [self.real(batch['portrait'])[-1], *self._draw_all(state, batch).values()]
    strips = jnp.concatenate([portrait.to_uint8(image) for image in shown], axis=2)
    frames = math.ceil(batch['wav'].shape[1] / audio_features.SAMPLE_RATE * self.fps)
    return {'strips': strips, 'videos': jnp.repeat(strips[:, None], frames, axis=1)}

  def generate(self, state: base.State, inputs: base.Batch) -> jax.Array:
    """Portraits from the beginning of a voice, one for each of K lengths.

    Args:
      state: trained.
      inputs: `voice` (S,) int16, what `voice.cut` takes from frame 0 on, with `num_samples` ()
        valid; `lengths` (K,) int, frames that each portrait has heard, 125 or more.

    Returns:
      (K, S, S, 3) uint8 RGB.
    """
    lengths = inputs['lengths']
    mel = voice.log_mel(inputs['voice'], inputs['num_samples'])
    key = jax.random.key(0)
    if not self._fuses:
      heard = jnp.broadcast_to(mel, (len(lengths), *mel.shape))
      return portrait.to_uint8(self.draw(state, heard, lengths=lengths, key=key))
    starts = jnp.arange(0, len(mel) - voice.WINDOW + 1, voice.STRIDE)
    variables = self._variables(state)
    local = self.generator.apply(
      variables, mel[starts[:, None] + jnp.arange(voice.WINDOW)], train=False, method='embed'
    )
    local = jnp.broadcast_to(local, (len(lengths), *local.shape))
    mask = starts + voice.WINDOW <= lengths[:, None]
    fused = self.generator.apply(variables, local, mask, method='fuse')
    return portrait.to_uint8(self.generator.apply(variables, fused, train=False, method='draw')[-1])


def _judge(size: int) -> tuple[tuple[int, int, int, int], ...]:
  """The official convolutions of discriminators: 64 px have three, and so on up and down."""
  return tuple((4, 64 << i, 2, 0) for i in range(size.bit_length() - 4))


def _check(run, settings):
  def check(true, what, hint):
    if not true:
      raise errors.ConfigError(f'{what}.', where='config', hint=f'{hint}.')

  for key, known in (('encoder', _ENCODERS), ('decoder', _DECODERS)):
    value = getattr(settings, key)
    check(value in known, f'model.{key} is {value!r}', f'use one of {", ".join(known)}')
  check(
    settings.voice_activity in voice.DETECTORS,
    f'model.voice_activity is {settings.voice_activity!r}',
    f'use one of {", ".join(voice.DETECTORS)}',
  )
  check(
    settings.gan in ('gan', 'wgan', 'lsgan'),
    f'model.gan is {settings.gan!r}',
    'use gan, wgan or lsgan',
  )
  check(
    settings.facenet_weights or settings.start or settings.face_steps,
    'there is no FaceNet: neither model.facenet_weights nor model.face_steps is set',
    'give the folder of a converted sf2f_facenet, or steps in which one learns the corpus',
  )
  check(
    not (settings.facenet_weights and settings.face_steps),
    f'model.face_steps is {settings.face_steps}, but FaceNet has given weights',
    'set one of model.facenet_weights and model.face_steps',
  )
  check(
    settings.windows or not settings.start,
    'model.start is for a fuser, and model.windows is 0',
    'set model.windows, e.g. 20',
  )
  faces_alone = settings.face_steps and not settings.windows
  check(
    bool(settings.start) != bool(settings.portrait_steps)
    or (faces_alone and not settings.portrait_steps),
    f'model.portrait_steps is {settings.portrait_steps} and model.start is {settings.start!r}',
    'set one of them: portraits are learned here, or taken over; or model.face_steps alone',
  )
  for key in ('face_steps', 'portrait_steps', 'settling_steps'):
    steps = getattr(settings, key)
    check(
      steps % run.evaluation.every == 0,
      f'model.{key} is {steps}, but a stage can only end where the run evaluates, every '
      f'{run.evaluation.every} steps',
      'use a multiple of evaluation.every',
    )
