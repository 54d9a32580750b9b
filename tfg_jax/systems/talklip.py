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
from tfg_jax.systems import base, lip_expert, lips

# Stage 1 on, these layers of the audio encoder learn; the rest of it never does.
_TUNED_LAYERS = 3
_EVALUATION_FRAMES = 5  # per window
_MOST_NEGATIVES = 100  # of the contrastive loss, per face
_OPTIMIZERS = {'adam': optax.adam, 'muon': base.muon}
_FPS = 25  # the rate of TalkLip's video, and of the global encoder's rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossWeights:
  """`model.loss`; what they leave to 1 (but for the contrastive one) is the weight of L1."""

  adversarial: float = 0.07
  lip: float = 1e-5
  contrastive: float = 1e-3

  @property
  def l1(self) -> float:
    return 1 - self.adversarial - self.lip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The section `model` of a config. Sections of networks hold the fields of their modules."""

  audio: str  # 'local': 0.2 s of mel around the frame; 'global': AV-HuBERT on the utterance
  # Workdir of a lip_expert run, or a converted avhubert_..._seq2seq. The lip and contrastive losses
  # come from it, and the weights that the global audio encoder starts with.
  expert: str = ''
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
    if settings.optimizer not in _OPTIMIZERS:
      raise errors.ConfigError(
        f'model.optimizer is {settings.optimizer!r}.',
        where='config',
        hint=f'use one of {", ".join(map(repr, _OPTIMIZERS))}.',
      )
    discriminator = configuration.build_module(
      QualityDiscriminator, settings.discriminator, 'model.discriminator', dtype=dtype
    )
    if len(discriminator.widths) != len(face.encoder):
      raise errors.ConfigError(
        f'model.discriminator.widths has {len(discriminator.widths)} sizes, model.face.encoder '
        f'has {len(face.encoder)}.',
        where='config',
        hint='give both one width per size, from the face size down to 3 pixels.',
      )
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
    return base.State.create(key, nets, frozen=frozen, schedule=schedule)

  @property
  def face_size(self) -> int:
    """S, the side of a face crop in pixels."""
    return self.generator.image.image_size

  @property
  def _hears_globally(self) -> bool:
    return self.settings.audio == 'global'

  def _optimizer(self, player: str) -> optax.GradientTransformation:
    settings = self.settings
    optimizer, rate = _OPTIMIZERS[settings.optimizer], settings.learning_rate
    if player == 'discriminator':
      optimizer, rate = optax.adam, settings.discriminator_learning_rate
    rate = optax.cosine_decay_schedule(rate, self.num_steps, alpha=settings.final_rate)
    return optimizer(rate, settings.b1, settings.b2)

  @property
  def _reads_lips(self) -> bool:
    return bool(self.settings.loss.lip or self.settings.loss.contrastive)

  @functools.cached_property
  def _reader(self) -> lip_expert.Reader:
    reader = lip_expert.read(self.settings.expert)
    encoder = reader.module.encoder.clone(feature_grad_mult=self.settings.feature_grad_mult)
    return dataclasses.replace(reader, module=reader.module.clone(encoder=encoder))

  @property
  def sources(self) -> dict[str, str]:
    """Folders of networks that `start` takes over."""
    return {'expert': self.settings.expert} if self._reads_lips or self._hears_globally else {}

  def start(self, state: base.State, sources: dict, batches: Iterable[dict]) -> base.State:
    """On the host, before the first step: takes over the lip expert and its audio encoder.

    Args:
      state: fresh.
      sources: what `pretrained.load` made of each of `self.sources`.
      batches: of training clips; not needed here.

    Raises:
      CheckpointError: if the expert is no lip reader or does not fit.
    """
    del batches
    if not sources:
      return state
    expert = sources['expert']
    nets, frozen = dict(state.nets), dict(state.frozen)
    if self._hears_globally:
      fresh = self._variables(state)
      fresh = {name: tree['audio_encoder'] for name, tree in fresh.items()}
      taken = lips.take_encoder(fresh, expert)
      tuned, frozen['audio'] = self._split_audio(taken)
      nets['audio'] = nets['audio'].replace(params=tuned)
    if self._reads_lips:
      frozen['expert'] = lip_expert.variables(expert)
      width = self._reader.module.encoder.width
      if width != self.settings.contrastive_features:
        raise errors.ConfigError(
          f'model.contrastive_features is {self.settings.contrastive_features} and the expert has '
          f'{width}.',
          where='config',
          hint=f'use {width}.',
        )
    return state.replace(nets=nets, frozen=frozen)

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
      indices = _frame_indices(drawn, self.settings.window_frames)
      drawn['frame_index'] = np.concatenate(indices)
    return drawn

  def sample_evaluation(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Windows spread over the clip; the identity reference is its first frame."""
    return windows.validation_windows(
      len(clip.frames), self.settings.evaluation_windows, _EVALUATION_FRAMES
    )

  def _window_inputs(self, batch: base.Batch, length: int):
    """The faces of a batch's windows of `length` frames, and where they stand.

    Returns:
      (target, pose and identity, frame index, mask): (N, S, S, 3) and (N, S, S, 6) in [0, 1], BGR
      as the official weights have it, (B, n) and (N,), where N = B * n = B * windows * length.
    """
    index, identity_index = _frame_indices(batch, length)
    rows = index, identity_index
    if 'frame_index' in batch:  # these alone are in the batch
      everyone = jnp.broadcast_to(jnp.arange(2 * index.shape[1]), batch['frame_index'].shape)
      rows = jnp.split(everyone, 2, axis=1)
    target, identity = (self._crop(batch, x) for x in rows)
    mask = jnp.repeat(batch['window_mask'].reshape(-1), length)
    return target, _pose_and_identity(target, identity), index, mask

  def _crop(self, batch, index):
    """(N, S, S, 3) BGR faces in [0, 1] of the frames (B, n) of a batch."""
    frames = jnp.take_along_axis(batch['frames'], index[..., None, None, None], axis=1)
    boxes = jnp.take_along_axis(batch['boxes'], index[..., None], axis=1)
    size = self.face_size
    faces = video_features.crop_faces(frames, boxes, size)
    return faces.reshape(-1, size, size, 3)[..., ::-1] / 255

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
      row = jnp.clip(jnp.floor(times * _FPS + 1e-3).astype(jnp.int32), 0, rows - 1)
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
    """Updates the generator, then the discriminator, on one forward pass of the fakes."""
    weights = self.settings.loss
    target, face, index, mask = self._window_inputs(batch, self.settings.window_frames)
    tunes_audio = state.stage >= 1 and 'audio' in state.nets
    players = ['generator', 'audio'] if tunes_audio else ['generator']
    discriminator = state.nets['discriminator']

    def generator_loss(trained):
      variables = self._variables(state, trained)
      embedding, audio_stats = self._embed(
        variables,
        batch['wav'],
        batch['num_samples'],
        index / _FPS,
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
      terms = {
        'l1': losses.masked_l1(fake, target, mask, axis_name=self.axis_name),
        'adversarial': losses.generator_loss(
          self._judge(discriminator.params, fake), mask, axis_name=self.axis_name
        ),
      }
      total = weights.l1 * terms['l1'] + weights.adversarial * terms['adversarial']
      if state.stage >= 2 and self._reads_lips:
        terms |= self._read(state, variables, fake, embedding, batch, index, mask)
        total += weights.lip * terms['lip'] + weights.contrastive * terms['contrastive']
      return total, (terms, stats, fake)

    trained = {name: state.nets[name].params for name in players}
    gradient = jax.value_and_grad(generator_loss, has_aux=True)
    (total, (terms, stats, fake)), g_grads = gradient(trained)

    def discriminator_loss(params):
      real = losses.real_loss(self._judge(params, target), mask, axis_name=self.axis_name)
      false = losses.fake_loss(
        self._judge(params, jax.lax.stop_gradient(fake)), mask, axis_name=self.axis_name
      )
      return real + false, {'real': real, 'fake': false}

    d_grads, d_terms = jax.grad(discriminator_loss, has_aux=True)(discriminator.params)
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

    The best score is never reset, as officially.
    """
    score = float(np.float32(results[self.score]))  # as precise as the one that is kept
    best, waited = float(state.schedule['best']), int(state.schedule['waited'])
    best, waited = (score, 0) if score < best else (best, waited + 1)
    stage = state.stage
    if waited > self.settings.patience:
      waited = 0
      stage += 1
      if stage == 1 and not self._hears_globally:
        stage = 2  # the local encoder learns from the start
    schedule = {
      'best': _like(state.schedule['best'], best),
      'waited': _like(state.schedule['waited'], waited),
    }
    return state.replace(schedule=schedule, stage=stage)

  def finished(self, state: base.State) -> bool:
    return state.stage >= 3

  # ------------------------------------------------------------------------------------------------
  # Use
  # ------------------------------------------------------------------------------------------------

  def eval_step(self, state: base.State, batch: base.Batch) -> base.Metrics:
    """Distances between the windows' faces and the real ones, (B,) each.

    Rows: 'ground_truth', 'identity_mouth' (the identity reference's lower half pasted under the
    real upper half) and 'generated'. `l1` is over the whole face and `mouth_l1` over its mouth
    region, rows S/2 to S and columns S/4 to 3S/4, both in [0, 1]; `psnr` in dB over the whole face.
    """
    target, face, index, mask = self._window_inputs(batch, _EVALUATION_FRAMES)
    generated = self._draw(state, face, batch, index / _FPS)
    half = target.shape[1] // 2
    pasted = jnp.concatenate([target[:, :half], face[:, half:, :, 3:]], axis=1)
    numbers = {}
    rows = {'ground_truth': target, 'identity_mouth': pasted, 'generated': generated}
    for name, image in rows.items():
      for metric, value in _distances(image, target).items():
        numbers[f'{name}/{metric}'] = _mean_per_clip(value, mask, len(index))
    return numbers

  def summary(self, results: dict[str, float]) -> str:
    """Says what the numbers of `eval_step` mean."""
    drawn, pasted = results['generated/mouth_l1'], results['identity_mouth/mouth_l1']
    change = 1 - drawn / pasted
    return (
      f'On clips it has not seen, the drawn mouths are {abs(change):.0%} '
      f'{"nearer to" if change > 0 else "further from"} the real ones than the mouth of the '
      f'identity reference, pasted in: L1 {drawn:.4f} against {pasted:.4f}.'
    )

  def samples(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """Real (left or above) and generated clips (right or below), whole frames."""
    frames, boxes = batch['frames'], batch['boxes']
    clips, length = frames.shape[:2]
    index = jnp.broadcast_to(jnp.arange(length), (clips, length))
    target = self._crop(batch, index)
    identity = jnp.repeat(self._crop(batch, index[:, :1]), length, axis=0)
    face = _pose_and_identity(target, identity)
    generated = self._draw(state, face, batch, index / _FPS)[..., ::-1] * 255
    generated = generated.reshape(clips, length, *generated.shape[1:])
    pasted = video_features.paste_faces(frames.astype(jnp.float32), generated, boxes)
    pasted = pasted.round().astype(jnp.uint8)
    videos = jnp.concatenate([frames, pasted], axis=3)
    # Eight frames from the middle of the clip, where people speak, 80 ms apart.
    shown = batch['num_frames'][:, None] // 2 + 2 * jnp.arange(-4, 4)
    shown = jnp.clip(shown, 0, batch['num_frames'][:, None] - 1)[..., None, None, None]

    def strip(video):  # (B, T, H, W, 3) -> (B, H, 8 W, 3)
      picked = jnp.take_along_axis(video, shown, axis=1).swapaxes(1, 2)
      return picked.reshape(clips, picked.shape[1], -1, 3)

    return {'strips': jnp.concatenate([strip(frames), strip(pasted)], axis=1), 'videos': videos}

  def generate(self, state: base.State, inputs: base.Batch) -> jax.Array:
    """Redraws face crops to speech.

    Args:
      state: trained.
      inputs: `faces` and `identity`, (N, S, S, 3) uint8 RGB crops; `wav` (L,) int16, a stretch of
        speech at 16 kHz with `num_samples` () valid samples; `times` (N,) float32, seconds from the
        stretch's start to each frame.

    Returns:
      (N, S, S, 3) uint8 RGB faces.
    """
    target, identity = (inputs[name][..., ::-1] / 255 for name in ('faces', 'identity'))
    batch = {'wav': inputs['wav'][None], 'num_samples': inputs['num_samples'][None]}
    face = _pose_and_identity(target, identity)
    drawn = self._draw(state, face, batch, inputs['times'][None])
    return (drawn[..., ::-1] * 255).round().astype(jnp.uint8)

  def _draw(self, state, face, batch, times):
    """(N, S, S, 3) BGR faces in [0, 1] as a trained generator draws them."""
    variables = self._variables(state)
    rows = -(-batch['wav'].shape[1] // audio_features.SAMPLES_PER_ROW)
    embedding, _ = self._embed(
      variables, batch['wav'], batch['num_samples'], times, rows, train=False
    )
    return self.generator.apply(variables, face, embedding, train=False, method='render')


def _frame_indices(drawn, length):
  """(..., n) int32 frames of windows of `length`, and those of their identity references."""
  steps = np.arange(length, dtype=np.int32)
  index = drawn['window_starts'][..., None] + steps
  identity = drawn['identity_starts'][..., None] + drawn['identity_step'][..., None] * steps
  return tuple(x.reshape(*x.shape[:-2], -1) for x in (index, identity))


def _pose_and_identity(target, identity):
  """(N, S, S, 6): the target with its lower half blackened, then the identity reference."""
  half = target.shape[1] // 2
  return jnp.concatenate([target.at[:, half:].set(0), identity], axis=-1)


def _distances(image, target):
  """(N,) numbers per face."""
  size = target.shape[1]
  error = jnp.abs(image - target)
  mouth = error[:, size // 2 :, size // 4 : size - size // 4]
  mean_square = jnp.square(error).mean((1, 2, 3))
  return {
    'l1': error.mean((1, 2, 3)),
    'mouth_l1': mouth.mean((1, 2, 3)),
    # 100 dB for identical pictures, as in the official evaluation.
    'psnr': jnp.where(mean_square == 0, 100.0, -10 * jnp.log10(mean_square)),
  }


def _mean_per_clip(values, mask, clips):
  """(N,) to (B,), over the windows that count."""
  values, mask = values.reshape(clips, -1), mask.reshape(clips, -1)
  return (values * mask).sum(1) / mask.sum(1)


def _like(array, value):
  """A new scalar where the old one lives."""
  return jax.device_put(jnp.asarray(value, array.dtype), array.sharding)
