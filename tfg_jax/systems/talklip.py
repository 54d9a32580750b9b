"""TalkLip (Wang et al., CVPR 2023): lip sync, supervised by a frozen lip-reading expert.

Generator      masked pose + identity reference + speech -> the face, lower half redrawn     (3.1)
Losses         (1 - a - b) L1 + b adversarial + a lip + c contrastive                 (3.2 to 3.4)
               The last two come from the expert, which sees the real clip with the drawn faces
               pasted in.
Stages         0: L1 + adversarial, audio encoder frozen; 1: its last layers too; 2: lip and
               contrastive losses; the run ends with stage 3. A stage ends when the validation L1
               has not improved for `patience` + 1 evaluations.

Numbers are those of the official code (Sxjdwang/TalkLip), which differs from the paper in places.

Departures     The discriminator learns from its own loss alone; the official step adds 0.07 of the
               generator's gradient to it, by leaving it uncleared. The stage is part of the state;
               officially a resumed run begins again at stage 0.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from tfg_jax import configuration, errors, light_random, losses
from tfg_jax.data import windows
from tfg_jax.features import audio as audio_features
from tfg_jax.features import video as video_features
from tfg_jax.networks import talklip as networks
from tfg_jax.networks.avhubert import AVHubertEncoder
from tfg_jax.networks.discriminator import QualityDiscriminator
from tfg_jax.networks.face_unet import FaceUNet
from tfg_jax.networks.mel_encoder import MelEncoder
from tfg_jax.systems import base, lip_expert, lips, mouths

# Stage 1 on, these layers of the audio encoder learn; the rest of it never does.
_TUNED_LAYERS = 3
_MOST_NEGATIVES = 100  # of the contrastive loss, per face


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossWeights:
  """`model.loss`; what they leave to 1 (but for the contrastive one) is the weight of L1."""

  adversarial: float = 0.07
  lip: float = 1e-5
  contrastive: float = 1e-3

  @property
  def l1(self) -> float:
    """Of the L1 loss: what the other two leave of 1."""
    return 1 - self.adversarial - self.lip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The section `model` of a config. Sections of networks hold the fields of their modules."""

  audio: str  # 'local': 0.2 s of mel around the frame; 'global': AV-HuBERT on the utterance
  # Workdir of a lip_expert run, or a converted avhubert_..._seq2seq. The lip and contrastive losses
  # come from it, and the weights that the global audio encoder starts with.
  expert: str = ''
  # Workdir of a talklip run, or a converted talklip_generator, whose networks this run begins with.
  # What of a global audio encoder a run does not train comes from `expert`: give both the same.
  start: str = ''
  # Multiplies the gradient that the expert sends back into the pictures; the loss weights are for
  # this one, whatever the expert was trained with.
  feature_grad_mult: float = 0.1
  audio_encoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  face: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # FaceUNet
  discriminator: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  contrastive_features: int = 768  # of the contrastive head: the width of the expert
  max_tokens: int = 200  # of a clip's text, with its end
  windows: int = 8  # per clip and training step
  window_frames: int = 5
  evaluation_windows: int = 8  # per clip, of 5 frames; the official stride gives about 8
  loss: LossWeights = LossWeights()
  optimizer: str = 'adam'  # of the generator, its audio encoder included; or 'muon'
  learning_rate: float = 1e-4  # of the same
  discriminator_learning_rate: float = 1e-4
  final_rate: float = 1.0  # of the learning rate, at num_steps, down a cosine; officially constant
  b1: float = 0.5
  b2: float = 0.999
  patience: int = 5  # evaluations without a better score that a stage survives
  # Steps at which stages 1 and 2 begin, for runs too short for a plateau; evaluations look at them.
  # Empty: as officially.
  stage_starts: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class TalkLip:
  """See the module; `from_config` builds it."""

  settings: Settings
  generator: networks.TalkLip
  discriminator: QualityDiscriminator
  num_steps: int
  axis_name: str | None = None

  score = 'generated/l1'
  draws = 'mouth'
  last_stage = 2

  @classmethod
  def from_config(cls, run: configuration.Run, *, axis_name: str | None = None) -> 'TalkLip':
    """Builds networks and settings from `run.model`.

    Raises:
      ConfigError: for unknown keys or values that cannot be.
    """
    settings = configuration.read_section(Settings, run.model, 'model')
    wants_expert = [
      what
      for what, wanted in (
        (f'model.loss.lip={settings.loss.lip:g}', settings.loss.lip),
        (f'model.loss.contrastive={settings.loss.contrastive:g}', settings.loss.contrastive),
        ("model.audio='global'", settings.audio == 'global'),
      )
      if wanted
    ]
    if wants_expert and not settings.expert:
      raise errors.ConfigError(
        f'{wants_expert[0]} needs a lip expert, and model.expert is empty.',
        where='config',
        hint='name the workdir of a lip_expert run or a converted avhubert_base_seq2seq: '
        '--config.model.expert=DIR',
      )
    dtype = jnp.dtype(run.dtype)
    shared = dict(axis_name=axis_name, dtype=dtype)
    face = configuration.build_module(FaceUNet, settings.face, 'model.face', **shared)
    if settings.audio == 'local':
      encoder = configuration.build_module(
        MelEncoder, settings.audio_encoder, 'model.audio_encoder', **shared
      )
    elif settings.audio == 'global':
      encoder = configuration.build_module(
        AVHubertEncoder, settings.audio_encoder, 'model.audio_encoder', dtype=dtype
      )
    else:
      raise errors.ConfigError(
        f'model.audio is {settings.audio!r}.', where='config', hint="use 'local' or 'global'."
      )
    base.optimizer(settings.optimizer)  # refused here if there is no such
    discriminator = mouths.build_discriminator(settings.discriminator, face, dtype)
    generator = networks.TalkLip(
      encoder,
      image=face,
      contrastive=networks.ContrastiveHead(settings.contrastive_features, dtype=dtype),
      map_audio=settings.audio == 'global',
      dtype=dtype,
    )
    return cls(settings, generator, discriminator, run.num_steps, axis_name)

  # ------------------------------------------------------------------------------------------------
  # State
  # ------------------------------------------------------------------------------------------------

  def init(self, key: jax.Array) -> base.State:
    """Fresh networks: 'generator', 'discriminator' and, for the global variant, the tuned part of
    the audio encoder, 'audio'; the rest of that encoder is in `frozen`."""
    generator_key, discriminator_key = jax.random.split(light_random.from_key(key))
    faces = jnp.zeros((1, self.face_size, self.face_size, 6))
    if self._hears_globally:
      audio, rows = jnp.zeros((1, 4, audio_features.FILTERBANK_FEATURES)), jnp.zeros(1, jnp.int32)
      mask = jnp.zeros((1, 4), bool)
    else:
      audio, rows, mask = (
        jnp.zeros((1, audio_features.MEL_BINS, audio_features.MEL_WINDOW, 1)),
        None,
        None,
      )
    variables = self.generator.init(generator_key, faces, audio, mask, rows, train=False)
    learned, tuned, frozen = self._split(variables)
    judge = self.discriminator.init(discriminator_key, faces[..., :3])
    params = {'generator': learned['params'], 'discriminator': judge['params']}
    if tuned:
      params['audio'] = tuned
    stats = {'generator': learned['batch_stats']}
    nets = {
      name: base.Net.create(x, stats.get(name, {}), self._optimizer(name))
      for name, x in params.items()
    }
    schedule = {'best': jnp.asarray(100.0), 'waited': jnp.zeros((), jnp.int32)}
    stage = mouths.stage_at(0, self.settings.stage_starts)
    return base.State.create(key, nets, frozen=frozen, schedule=schedule, stage=stage)

  @property
  def face_size(self) -> int:
    """S, the side of a face crop in pixels."""
    return self.generator.image.image_size

  @property
  def _hears_globally(self) -> bool:
    return self.settings.audio == 'global'

  def _optimizer(self, player: str) -> optax.GradientTransformation:
    kind, rate = self.settings.optimizer, self.settings.learning_rate
    if player == 'discriminator':
      kind, rate = 'adam', self.settings.discriminator_learning_rate
    return mouths.optimizer(self.settings, self.num_steps, kind=kind, rate=rate)

  @property
  def _reads_lips(self) -> bool:
    return bool(self.settings.loss.lip or self.settings.loss.contrastive)

  @functools.cached_property
  def _reader(self) -> lip_expert.Reader:
    reader = lip_expert.read(self.settings.expert)
    encoder, decoder = reader.module.encoder, reader.module.decoder
    dtype = self.generator.dtype  # whatever the expert was trained in
    encoder = encoder.clone(feature_grad_mult=self.settings.feature_grad_mult, dtype=dtype)
    module = reader.module.clone(encoder=encoder, decoder=decoder.clone(dtype=dtype))
    return dataclasses.replace(reader, module=module)

  @property
  def sources(self) -> dict[str, str]:
    """Folders of networks that `start` takes over."""
    folders = {'start': self.settings.start}
    if self._reads_lips or self._hears_globally:
      folders['expert'] = self.settings.expert
    return {name: folder for name, folder in folders.items() if folder}

  def start(self, state: base.State, sources: dict, batches: Iterable[dict]) -> base.State:
    """On the host, before the first step: takes over the lip expert, its audio encoder and what
    another run has learnt.

    Args:
      state: fresh.
      sources: what `pretrained.load` made of each of `self.sources`.
      batches: of training clips; not needed here.

    Raises:
      CheckpointError: if the expert is no lip reader, or one of them does not fit.
      ConfigError: if the contrastive head has another width than the expert.
    """
    del batches
    if self._hears_globally:
      fresh = {name: tree['audio_encoder'] for name, tree in self._variables(state).items()}
      state = self._hear_with(state, lips.take_encoder(fresh, sources['expert']))
    if 'start' in sources:
      state = self._take_over(state, sources['start'])
    if self._reads_lips:
      width = self._reader.module.encoder.width
      if width != self.settings.contrastive_features:
        raise errors.ConfigError(
          f'model.contrastive_features is {self.settings.contrastive_features} and the expert has '
          f'{width}.',
          where='config',
          hint=f'use {width}.',
        )
      state = state.replace(
        frozen=state.frozen | {'expert': lip_expert.variables(sources['expert'])}
      )
    return state

  def _take_over(self, state, source):
    if not (source.public and self._hears_globally):
      return state.replace(nets=mouths.take_over(state.nets, source))
    # The public generator holds all of its audio encoder.
    variables = source.replace(self._variables(state), 'generator')
    encoder = {name: tree['audio_encoder'] for name, tree in variables.items()}
    learned, _, _ = self._split(variables)
    source = dataclasses.replace(source, nets={'generator': learned})
    return self._hear_with(state.replace(nets=mouths.take_over(state.nets, source)), encoder)

  def _hear_with(self, state, encoder):
    """The state with the variables of a whole global audio encoder."""
    tuned, frozen = self._split_audio(encoder)
    audio = state.nets['audio'].replace(params=tuned)
    return state.replace(
      nets=state.nets | {'audio': audio}, frozen=state.frozen | {'audio': frozen}
    )

  def _split(self, variables):
    """The generator's variables as (learned from the start, tuned from stage 1 on, frozen)."""
    if not self._hears_globally:
      return variables, {}, {}
    params = dict(variables['params'])
    stats = dict(variables['batch_stats'])
    encoder = {
      'params': params.pop('audio_encoder'),
      'batch_stats': stats.pop('audio_encoder', {}),
    }
    tuned, frozen = self._split_audio(encoder)
    return {'params': params, 'batch_stats': stats}, tuned, {'audio': frozen}

  def _split_audio(self, encoder):
    """The global audio encoder's variables as (parameters tuned from stage 1 on, the rest)."""
    params = traverse_util.flatten_dict(encoder['params'])
    depth = self.generator.audio_encoder.depth
    names = {f'layers_{i}' for i in range(max(depth - _TUNED_LAYERS, 0), depth)}
    tuned = {path: x for path, x in params.items() if names & set(path)}
    rest = {path: x for path, x in params.items() if path not in tuned}
    frozen = {
      'params': traverse_util.unflatten_dict(rest),
      'batch_stats': encoder['batch_stats'],
    }
    return traverse_util.unflatten_dict(tuned), frozen

  def _variables(self, state: base.State, trained: dict | None = None):
    """The generator's whole variables; `trained` replaces the parameters of nets by name."""
    params = {name: net.params for name, net in state.nets.items()} | (trained or {})
    learned, stats = dict(params['generator']), dict(state.nets['generator'].stats)
    if self._hears_globally:
      frozen = state.frozen['audio']
      encoder = traverse_util.flatten_dict(frozen['params'])
      encoder |= traverse_util.flatten_dict(params['audio'])
      learned['audio_encoder'] = traverse_util.unflatten_dict(encoder)
      stats['audio_encoder'] = frozen['batch_stats']
    return {'params': learned, 'batch_stats': stats}

  def export(self, state: base.State, network: str):
    """The variables of one public network (a name of `tfg_jax.networks.OFFICIAL`)."""
    if network == 'talklip_generator':
      return self._variables(state)
    if network == 'talklip_discriminator':
      return {'params': state.nets['discriminator'].params}
    raise errors.ConversionError(
      f'a TalkLip run holds no {network!r}.',
      hint='it holds talklip_generator and talklip_discriminator.',
    )

  # ------------------------------------------------------------------------------------------------
  # Inputs
  # ------------------------------------------------------------------------------------------------

  def sample(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Windows of consecutive frames to draw, where their identity references start, and `tokens`
    (max_tokens,) int32 for the expert to read."""
    drawn = windows.training_windows(
      rng, len(clip.frames), self.settings.windows, self.settings.window_frames
    )
    if self._reads_lips:
      drawn['tokens'] = self._reader.vocabulary.encode(clip.text, self.settings.max_tokens)
    else:  # nobody looks at more of the clip than what is drawn, and whom
      indices = mouths.frame_indices(drawn, self.settings.window_frames)
      drawn['frame_index'] = np.concatenate(indices)
    return drawn

  def sample_evaluation(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Windows spread over the clip; the identity reference is its first frame."""
    return windows.validation_windows(
      len(clip.frames), self.settings.evaluation_windows, mouths.EVALUATION_FRAMES
    )

  def _embed(self, variables, wav, num_samples, times, rows: int, *, train, dropout_key=None):
    """Embeddings (N, D) of speech at `times` (B, n) in seconds, and the new batch statistics.

    `rows` is the number of 40 ms rows that the global encoder hears.
    """
    if self._hears_globally:
      audio = audio_features.log_filterbank(wav, num_samples, rows)
      heard = -(-num_samples // audio_features.SAMPLES_PER_ROW)
      padding = jnp.arange(rows) >= heard[:, None]
      embedded = self.generator.apply(
        variables,
        audio,
        padding,
        train=train,
        method='encode_audio',
        rngs={'dropout': dropout_key} if train else None,
        mutable=['batch_stats'] if train else False,
      )
      embedding = embedded[0] if train else embedded
      # A row lasts 40 ms; the last one answers for times behind the end.
      row = jnp.clip(jnp.floor(times * mouths.FPS + 1e-3).astype(jnp.int32), 0, rows - 1)
      chosen = jnp.take_along_axis(embedding, row[..., None], axis=1)
      return chosen.reshape(-1, chosen.shape[-1]), None
    mel = audio_features.mel_windows(wav, num_samples, times)
    mel = mel.reshape(-1, *mel.shape[2:])[..., None]
    if not train:
      return self.generator.apply(variables, mel, train=False, method='encode_audio'), None
    embedding, updated = self.generator.apply(
      variables, mel, train=True, method='encode_audio', mutable=['batch_stats']
    )
    return embedding, updated['batch_stats']['audio_encoder']

  # ------------------------------------------------------------------------------------------------
  # Training
  # ------------------------------------------------------------------------------------------------

  def train_step(self, state: base.State, batch: base.Batch) -> tuple[base.State, base.Metrics]:
    """Updates the generator, then the discriminator, on one pass of the fakes through both."""
    weights = self.settings.loss
    target, face, index, mask = mouths.window_inputs(
      batch, self.settings.window_frames, self.face_size
    )
    tunes_audio = state.stage >= 1 and 'audio' in state.nets
    players = ['generator', 'audio'] if tunes_audio else ['generator']
    discriminator = state.nets['discriminator']

    def generator_loss(trained):
      variables = self._variables(state, trained)
      embedding, audio_stats = self._embed(
        variables,
        batch['wav'],
        batch['num_samples'],
        index / mouths.FPS,
        batch['wav'].shape[1] // audio_features.SAMPLES_PER_ROW,
        train=True,
        dropout_key=lips.dropout_key(state, self.axis_name),
      )
      fake, updated = self.generator.apply(
        variables, face, embedding, train=True, method='render', mutable=['batch_stats']
      )
      stats = state.nets['generator'].stats | {'image': updated['batch_stats']['image']}
      if audio_stats is not None:
        stats |= {'audio_encoder': audio_stats}
      terms = {'l1': losses.masked_l1(fake, target, mask, axis_name=self.axis_name)}
      terms['adversarial'], on_fake = mouths.judge_fakes(
        self._judge, discriminator.params, fake, mask, axis_name=self.axis_name
      )
      total = weights.l1 * terms['l1'] + weights.adversarial * terms['adversarial']
      if state.stage >= 2 and self._reads_lips:
        terms |= self._read(state, variables, fake, embedding, batch, index, mask)
        total += weights.lip * terms['lip'] + weights.contrastive * terms['contrastive']
      return total, (terms, stats, on_fake)

    trained = {name: state.nets[name].params for name in players}
    gradient = jax.value_and_grad(generator_loss, has_aux=True)
    (total, (terms, stats, on_fake)), g_grads = gradient(trained)

    d_grads, d_terms = mouths.discriminator_gradient(
      self._judge, discriminator.params, target, on_fake, mask, axis_name=self.axis_name
    )
    metrics = {
      'g/total': total,
      **{f'g/{name}': value for name, value in terms.items()},
      **{f'd/{name}': value for name, value in d_terms.items()},
    }
    g_grads, d_grads, metrics = base.mean_over_devices((g_grads, d_grads, metrics), self.axis_name)
    metrics |= {
      'g/grad_norm': base.global_norm(g_grads),
      'd/grad_norm': base.global_norm(d_grads),
    }

    nets = dict(state.nets)
    for name, grads in (g_grads | {'discriminator': d_grads}).items():
      new_stats = stats if name == 'generator' else None
      nets[name] = nets[name].update(grads, self._optimizer(name), stats=new_stats)
    return state.replace(nets=nets), metrics

  def _read(self, state, variables, fake, embedding, batch, index, mask):
    """The losses of the frozen expert, which reads the clips with the drawn faces pasted in."""
    clips, count = index.shape
    faces = 255 * fake[..., ::-1].reshape(clips, count, *fake.shape[1:])
    boxes = jnp.take_along_axis(batch['boxes'], index[..., None], axis=1)
    hybrid = video_features.paste_faces(
      batch['frames'].astype(jnp.float32), faces, boxes, index, mask.reshape(clips, count)
    )
    reader = self._reader
    logits, seen = reader.module.apply(
      state.frozen['expert'],
      lip_expert.previous(batch['tokens']),
      None,
      reader.view(hybrid, batch['num_frames']),
      lips.padding_mask(batch),
      train=False,
    )
    seen = jnp.take_along_axis(seen, index[..., None], axis=1).reshape(clips * count, -1)
    heard = self.generator.apply(variables, embedding, method='contrast')
    negatives = losses.sample_negatives(
      jax.random.fold_in(state.step_key(self.axis_name), 1),
      len(heard),
      min(_MOST_NEGATIVES, len(heard) // 2),
    )
    return {
      'lip': losses.label_smoothed_cross_entropy(logits, batch['tokens'], axis_name=self.axis_name),
      'contrastive': losses.contrastive_loss(
        heard, seen, negatives, mask, axis_name=self.axis_name
      ),
    }

  def _judge(self, params, face):
    return self.discriminator.apply({'params': params}, face)

  def on_evaluation(self, state: base.State, results: dict[str, float]) -> base.State:
    """Counts evaluations without a better L1; one more than `patience` of them end the stage.

    The best score is never reset, as officially. With `stage_starts` the step alone decides.
    """
    if self.settings.stage_starts:
      return state.replace(stage=mouths.stage_at(int(state.step), self.settings.stage_starts))
    score = float(np.float32(results[self.score]))  # as precise as the one that is kept
    best, waited = float(state.schedule['best']), int(state.schedule['waited'])
    best, waited = (score, 0) if score < best else (best, waited + 1)
    stage = state.stage
    if waited > self.settings.patience:
      waited = 0
      stage += 1
      if stage == 1 and not self._hears_globally:
        stage = 2  # the local encoder learns from the start
    schedule = {'best': np.float32(best), 'waited': np.int32(waited)}
    return state.replace(schedule=schedule, stage=stage)

  def finished(self, state: base.State) -> bool:
    return state.stage >= 3

  # ------------------------------------------------------------------------------------------------
  # Use
  # ------------------------------------------------------------------------------------------------

  def eval_step(self, state: base.State, batch: base.Batch) -> base.Metrics:
    """Distances between the windows' faces and the real ones, (B,) each; see `mouths.rows`."""
    faces, mask = mouths.rows(self._painter(state), batch, self.face_size)
    return mouths.distances(faces, mask, len(batch['frames']))

  def summary(self, results: dict[str, float]) -> str:
    """Says what the numbers of `eval_step` mean."""
    return mouths.summary(results)

  def samples(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """Real and redrawn clips; see `mouths.samples`."""
    return mouths.samples(self._painter(state), batch, self.face_size)

  def videos(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """Whole clips for observers; see `mouths.videos`."""
    return mouths.videos(self._painter(state), batch, self.face_size)

  def generate(self, state: base.State, inputs: base.Batch) -> jax.Array:
    """Redraws face crops to speech; see `mouths.generate`."""
    return mouths.generate(self._painter(state), inputs)

  def _painter(self, state):
    return functools.partial(self._draw, state)

  def _draw(self, state, face, batch, times):
    """(N, S, S, 3) BGR faces in [0, 1] as a trained generator draws them."""
    variables = self._variables(state)
    rows = -(-batch['wav'].shape[1] // audio_features.SAMPLES_PER_ROW)
    embedding, _ = self._embed(
      variables, batch['wav'], batch['num_samples'], times, rows, train=False
    )
    return self.generator.apply(variables, face, embedding, train=False, method='render')
