"""AV-HuBERT (Shi et al., ICLR 2022): naming the clusters of hidden speech and lips.

Input          log filter banks and mouth, 25 rows a second, spans of both hidden         (3.1, 3.2)
Targets        clusters of MFCC in the first iteration, of an earlier model's features later  (3.1)
Loss           cross-entropy on hidden frames + 10 x mean square of the fused features        (3.3)
Dropout        of one modality for the whole batch, half of the time                          (3.2)

Targets are worked out in the step, by the nearest centroid: of MFCC that costs nothing; of a
teacher's features it costs the teacher's forward pass, about a third of a step, and spares label
files that have to be kept in step with the clips and the crops. The centroids are found before the
first step and are kept, with the teacher, in `frozen`.

Numbers are those of the official code (facebookresearch/av_hubert).

Departures     Every clip has its own number of hidden frames: fairseq cuts all rows of a batch to
               the smallest. Clusters are fitted on the rows that get labels, 25 a second.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tfg_jax import configuration, errors, light_random, losses
from tfg_jax.features import audio as audio_features
from tfg_jax.features import clusters, masking
from tfg_jax.networks.avhubert import AVHubertEncoder
from tfg_jax.systems import base, lips
from tfg_jax.systems.sources import Source

_SPECIALS = 4  # label ids begin behind fairseq's special symbols
_PENALTY = 10.0  # weight of the features' mean square


@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets:
  """`model.targets`."""

  clusters: int = 100
  clips: int = 2000  # that the clusters are found on; officially 10 % of the corpus
  teacher: str = ''  # workdir or converted encoder; empty: clusters of MFCC
  layer: int = 0  # of the teacher, counted from 1
  encoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields of the teacher


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The section `model` of a config."""

  encoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # AVHubertEncoder
  view: lips.View = lips.View()
  targets: Targets = Targets()
  audio_mask: float = 0.8  # share of the rows that spans would cover, did they not overlap
  audio_span: int = 10  # rows
  video_mask: float = 0.3  # only where the encoder masks its input
  video_span: int = 5
  unmasked_weight: float = 0.0  # of frames in plain sight; officially 1 for large models
  learning_rate: float = 5e-4
  warmup: int = 32_000  # steps; then linearly down to 0 at num_steps
  weight_decay: float = 0.01
  clip_norm: float = 10.0


@dataclasses.dataclass(frozen=True)
class AVHubert(base.Expert):
  """See the module; `from_config` builds it."""

  settings: Settings
  encoder: AVHubertEncoder
  teacher: AVHubertEncoder | None
  frames: int  # T of a batch
  num_steps: int
  axis_name: str | None = None

  score = 'video/masked_error'
  called = 'AV-HuBERT'

  @classmethod
  def from_config(cls, run: configuration.Run, *, axis_name: str | None = None) -> 'AVHubert':
    """Builds networks and settings from `run.model`.

    Raises:
      ConfigError: for unknown keys or values that cannot be.
    """
    settings = lips.read_settings(Settings, run)
    targets = settings.targets
    shared = dict(axis_name=axis_name, dtype=jnp.dtype(run.dtype))
    encoder = configuration.build_module(
      AVHubertEncoder, settings.encoder, 'model.encoder', prediction_head=True, **shared
    )
    if encoder.classes != targets.clusters + _SPECIALS:
      raise errors.ConfigError(
        f'model.encoder.classes is {encoder.classes} for {targets.clusters} clusters.',
        where='config',
        hint=f'{_SPECIALS} label ids are special: use {targets.clusters + _SPECIALS}.',
      )
    teacher = None
    if targets.teacher:
      teacher = configuration.build_module(
        AVHubertEncoder,
        targets.encoder or settings.encoder,
        'model.targets.encoder',
        prediction_head=False,
        **shared,
      )
      if not 1 <= targets.layer <= teacher.depth:
        raise errors.ConfigError(
          f'model.targets.layer is {targets.layer}.',
          where='config',
          hint=f'use a layer of the teacher, 1 to {teacher.depth}.',
        )
    elif targets.layer:
      raise errors.ConfigError(
        f'model.targets asks for layer {targets.layer} of no teacher.',
        where='config',
        hint='name the run of the iteration before: --config.model.targets.teacher=DIR',
      )
    lips.check_warmup(settings.warmup, run.num_steps)
    return cls(settings, encoder, teacher, run.data.max_frames, run.num_steps, axis_name)

  # ------------------------------------------------------------------------------------------------
  # State
  # ------------------------------------------------------------------------------------------------

  def init(self, key: jax.Array) -> base.State:
    """A fresh 'encoder'; in `frozen` 'clusters' and 'teacher', which `start` fills."""
    example = jnp.zeros((1, 1, self.encoder.audio_features))
    key_encoder, key_teacher = jax.random.split(light_random.from_key(key))
    variables = self.encoder.init(key_encoder, example, train=False)
    net = base.Net.create(variables['params'], variables['batch_stats'], self._optimizer)
    frozen, width = {}, clusters.MFCC_FEATURES
    if self.teacher is not None:
      frozen['teacher'] = self.teacher.init(key_teacher, example, train=False)
      width = self.teacher.width
    frozen['clusters'] = {'centroids': jnp.zeros((self.settings.targets.clusters, width))}
    return base.State.create(key, {'encoder': net}, frozen=frozen)

  @property
  def sources(self) -> dict[str, str]:
    """Folders of networks that `start` takes over."""
    teacher = self.settings.targets.teacher
    return {'teacher': teacher} if teacher else {}

  def start(
    self, state: base.State, sources: Mapping[str, Source], batches: Iterable[dict]
  ) -> base.State:
    """On the host, before the first step: takes over the teacher and finds the clusters.

    Args:
      state: fresh.
      sources: the networks that `self.sources` names.
      batches: of training clips.

    Raises:
      CheckpointError: if the teacher does not fit.
      DataError: if the clips have fewer frames than there are clusters.
    """
    frozen = dict(state.frozen)
    if self.teacher is not None:
      frozen['teacher'] = lips.take_encoder(frozen['teacher'], sources['teacher'])
    describe = jax.jit(self._describe)
    features, clips = [], 0
    targets = self.settings.targets
    for batch in batches:
      rows = jax.device_get(describe(frozen, batch))
      valid = np.arange(self.frames) < batch['num_frames'][:, None]
      features.append(rows[valid])
      clips += len(valid)
      if clips >= targets.clips:
        break
    try:
      centroids = clusters.fit(np.concatenate(features), targets.clusters)
    except ValueError as error:
      raise errors.DataError(
        f'{error}.', where='model.targets', hint='cluster more clips, or into fewer clusters.'
      ) from error
    frozen['clusters'] = {'centroids': centroids}
    return state.replace(frozen=frozen)

  @property
  def _optimizer(self) -> optax.GradientTransformation:
    settings = self.settings
    rate = optax.join_schedules(
      [
        optax.linear_schedule(0.0, settings.learning_rate, settings.warmup),
        optax.linear_schedule(settings.learning_rate, 0.0, self.num_steps - settings.warmup),
      ],
      [settings.warmup],
    )
    return optax.chain(
      optax.clip_by_global_norm(settings.clip_norm),
      optax.adamw(rate, b1=0.9, b2=0.98, eps=1e-6, weight_decay=settings.weight_decay),
    )

  def export(self, state: base.State, network: str):
    """The variables of one public network (a name of `tfg_jax.networks.OFFICIAL`)."""
    if network in ('avhubert_base_encoder', 'avhubert_large_encoder'):
      net = state.nets['encoder']
      return {'params': net.params, 'batch_stats': net.stats}
    raise errors.ConversionError(
      f'an AV-HuBERT run holds no {network!r}.',
      hint='it holds avhubert_base_encoder or avhubert_large_encoder, by its size.',
    )

  # ------------------------------------------------------------------------------------------------
  # Inputs
  # ------------------------------------------------------------------------------------------------

  def sample(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Which frames are hidden, and how the mouth is cut out."""
    return {
      **self.settings.view.sample(rng),
      **self._sample_masks(len(clip.frames), np.random.RandomState(rng.integers(2**32))),
    }

  def sample_evaluation(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Hidden frames that depend on the clip alone."""
    return self._sample_masks(len(clip.frames), np.random.RandomState(rng.integers(2**32)))

  def _sample_masks(self, count, rng):
    """`audio_mask`, `video_mask` (T,) bool and `video_source` (T,) int32 of a clip."""
    settings = self.settings

    def draw(probability, span):
      mask, _ = masking.span_mask(
        rng, (1, self.frames), [count], probability=probability, span=span, min_spans=2
      )
      return mask

    if self.encoder.mask_input:
      video = draw(settings.video_mask, settings.video_span)  # officially drawn first
      source = masking.substitute_frames(rng, video[:, :count])[0]
      source = np.append(source, np.arange(count, self.frames, dtype=np.int32))
    else:
      video, source = np.zeros((1, self.frames), bool), np.arange(self.frames, dtype=np.int32)
    heard = draw(settings.audio_mask, settings.audio_span)
    return {'audio_mask': heard[0], 'video_mask': video[0], 'video_source': source}

  def _inputs(self, batch, *, augment: bool):
    """Filter banks (B, T, 104), mouth (B, T, S, S, 1) and padding mask (B, T) of a batch."""
    view = self.settings.view
    video = view.augmented(batch) if augment else view(batch['frames'], batch['num_frames'])
    audio = audio_features.log_filterbank(batch['wav'], batch['num_samples'], video.shape[1])
    padding = lips.padding_mask(batch)
    return jnp.where(padding[..., None], 0, audio), video, padding

  def _describe(self, frozen, batch):
    """(B, T, D) features whose clusters are the targets."""
    if self.teacher is None:
      frames = batch['frames'].shape[1]
      return clusters.mfcc_with_deltas(batch['wav'], batch['num_samples'], frames)
    audio, video, padding = self._inputs(batch, augment=False)
    layer = self.settings.targets.layer
    return self.teacher.apply(frozen['teacher'], audio, video, padding, train=False, layer=layer)

  def _targets(self, frozen, batch):
    """(B, T) int32 label ids."""
    features = self._describe(frozen, batch).astype(jnp.float32)
    return clusters.nearest(features, frozen['clusters']['centroids']) + _SPECIALS

  # ------------------------------------------------------------------------------------------------
  # Training and evaluation
  # ------------------------------------------------------------------------------------------------

  def train_step(self, state: base.State, batch: base.Batch) -> tuple[base.State, base.Metrics]:
    """One update from the clusters of hidden frames."""
    net = state.nets['encoder']
    audio, video, padding = self._inputs(batch, augment=True)
    video = masking.replace_frames(video, batch['video_source'])
    targets = self._targets(state.frozen, batch)
    hidden = batch['audio_mask'] | batch['video_mask']

    def loss(params):
      out, updated = self.encoder.apply(
        {'params': params, 'batch_stats': net.stats},
        audio,
        video,
        padding,
        mask=batch['audio_mask'],
        train=True,
        method='pretrain',
        rngs={'dropout': lips.dropout_key(state, self.axis_name)},
        mutable=['batch_stats'],
      )
      prediction = losses.masked_prediction_loss(
        out['logits'],
        targets,
        hidden,
        padding,
        unmasked_weight=self.settings.unmasked_weight,
        axis_name=self.axis_name,
      )
      hits = (out['logits'].argmax(-1) == targets) & hidden & ~padding
      terms = {
        'prediction': prediction,
        'penalty': out['penalty'],
        'masked_accuracy': hits.sum() / jnp.maximum((hidden & ~padding).sum(), 1),
      }
      return prediction + _PENALTY * out['penalty'], (terms, updated['batch_stats'])

    (total, (terms, stats)), grads = jax.value_and_grad(loss, has_aux=True)(net.params)
    total, terms, stats, grads = base.mean_over_devices(
      (total, terms, stats, grads), self.axis_name
    )
    metrics = {
      'encoder/total': total,
      **{f'encoder/{name}': value for name, value in terms.items()},
      'encoder/grad_norm': base.global_norm(grads),
    }
    new = net.update(grads, self._optimizer, stats=stats)
    return state.replace(nets={'encoder': new}), metrics

  def eval_step(self, state: base.State, batch: base.Batch) -> base.Metrics:
    """How well hidden frames are predicted, (B,) each, in [0, 1].

    Rows: 'audio_video', 'audio' and 'video', by what the encoder is given, and 'commonest_cluster'
    of the clip's hidden frames, which knows the answer. `masked_error` is 1 - `masked_accuracy`.
    """
    audio, video, padding = self._inputs(batch, augment=False)
    video = masking.replace_frames(video, batch['video_source'])
    targets = self._targets(state.frozen, batch)
    hidden = (batch['audio_mask'] | batch['video_mask']) & ~padding
    net = state.nets['encoder']
    variables = {'params': net.params, 'batch_stats': net.stats}
    mask = batch['audio_mask']
    count = jnp.maximum(hidden.sum(1), 1)
    numbers = {}
    for name, heard, seen in (
      ('audio_video', audio, video),
      ('audio', audio, None),
      ('video', None, video),
    ):
      out = self.encoder.apply(
        variables, heard, seen, padding, mask=mask, train=False, method='pretrain'
      )
      accuracy = ((out['logits'].argmax(-1) == targets) & hidden).sum(1) / count
      numbers |= {f'{name}/masked_accuracy': accuracy, f'{name}/masked_error': 1 - accuracy}
    votes = (jax.nn.one_hot(targets, self.encoder.classes) * hidden[..., None]).sum(1)
    accuracy = votes.max(-1) / count
    numbers |= {
      'commonest_cluster/masked_accuracy': accuracy,
      'commonest_cluster/masked_error': 1 - accuracy,
    }
    return numbers

  def summary(self, results: dict[str, float]) -> str:
    """Says what the numbers of `eval_step` mean."""
    video, both, commonest = (
      results[f'{name}/masked_accuracy'] for name in ('video', 'audio_video', 'commonest_cluster')
    )
    return (
      f'Of frames hidden in clips it has not seen, it names the cluster of {video:.0%} from lips '
      f'alone and of {both:.0%} with speech; the commonest cluster of each clip would be right in '
      f'{commonest:.0%}.'
    )

  def samples(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """The mouths as the encoder sees them, with replaced frames."""
    del state
    video = self.settings.view(batch['frames'], batch['num_frames'])
    return lips.show(masking.replace_frames(video, batch['video_source']), batch['num_frames'])
