"""The sync experts: do these five frames and this 0.2 s of sound belong together?

color          lower halves of face crops and log-mel; the cosine of the embeddings is the
               probability of sync (Prajwal et al., ACM MM 2020). Wav2Lip learns from it.
               It learns from pairs, half of them in sync; of the others some are shifted by a few
               frames (near), which is hard, and some by more (far), always within the same clip.
syncnet        whole frames and MFCC; the distance of the embeddings is small in sync (Chung and
               Zisserman, ACCV workshop 2016). LSE-C and LSE-D are measured with it. It learns to
               match each of some windows of a clip with its own sound among theirs (Chung, Chung
               and Kang, ICASSP 2019).

Numbers are those of Rudrabha/Wav2Lip `color_syncnet_train.py`.

Departures     There, any shift is as likely as any other: `near=0`. SyncNet's training code is not
               public. The loss of its paper, of pairs with a margin, did not learn on puppets:
               the streams first move apart as a whole, and stay there. Matching does.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tfg_jax import configuration, errors, light_random, losses, networks
from tfg_jax.features import audio as audio_features
from tfg_jax.metrics import sync as sync_metrics
from tfg_jax.networks import syncnet
from tfg_jax.networks.mel_encoder import MelEncoder
from tfg_jax.pytorch import converted
from tfg_jax.systems import base, mouths
from tfg_jax.systems.sources import Source

WINDOW_FRAMES = sync_metrics.WINDOW_FRAMES  # of both judges
_PUBLIC = {'color_syncnet': 'color', 'syncnet_v2': 'syncnet'}  # network -> judge
_TELLING = 0.02  # a judge whose loss is as near to that of guessing has learnt nothing
_WINDOWS_AT_ONCE = 20  # of whole clips, as officially with SyncNet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The section `model` of a config."""

  judge: str  # 'color' or 'syncnet'
  size: int  # of the face crops (color), or that whole frames are scaled to (syncnet); pixels
  lips: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields of the lip stream
  speech: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  windows: int = 8  # per clip and step: pairs of color, or those that syncnet matches
  near: int = 5  # frames; most of a near shift
  near_share: float = 0.0  # of color's pairs out of sync; syncnet draws none
  evaluation_windows: int = 24  # per clip
  optimizer: str = 'adam'  # or 'muon'
  learning_rate: float = 1e-4

  def __post_init__(self):
    for name, true, hint in (
      ('judge', self.judge in _JUDGES, f'use one of {", ".join(map(repr, _JUDGES))}'),
      ('near', self.near >= 0, 'use 0 or more'),
      (
        'near_share',
        0 <= self.near_share <= (self.judge == 'color'),
        'use 0 to 1 with color, 0 with syncnet',
      ),
      (
        'windows',
        self.windows > 1 or self.judge == 'color',
        'one cannot be matched; use 2 or more',
      ),
      ('evaluation_windows', self.evaluation_windows > 1, 'use 2 or more'),
    ):
      if not true:
        raise errors.ConfigError(
          f'model.{name} is {getattr(self, name)!r}.', where='config', hint=f'{hint}.'
        )


@dataclasses.dataclass(frozen=True)
class Color:
  """Wav2Lip's expert."""

  module: syncnet.ColorSyncNet
  size: int

  @classmethod
  def from_settings(cls, settings: Settings, **shared) -> 'Color':
    """Builds both networks; raises ConfigError for sizes that do not fit each other."""
    face = configuration.build_module(
      syncnet.FaceHalfEncoder, settings.lips, 'model.lips', **shared
    )
    speech = configuration.build_module(MelEncoder, settings.speech, 'model.speech', **shared)
    sizes = len(face.widths)
    if settings.size != 3 * 2 ** (sizes - 1) or sizes < 4:
      raise errors.ConfigError(
        f'model.size is {settings.size} and model.lips.widths has {sizes} sizes.',
        where='config',
        hint='four sizes see 24 px, five 48, six 96, and so on.',
      )
    if face.widths[-1] != speech.widths[-1]:
      raise errors.ConfigError(
        f'the last of model.lips.widths is {face.widths[-1]}, of model.speech.widths '
        f'{speech.widths[-1]}.',
        where='config',
        hint='both streams need embeddings of one size.',
      )
    return cls(syncnet.ColorSyncNet(face, speech), settings.size)

  def inputs(self, batch: base.Batch, index, times):
    """What the network reads of windows.

    Args:
      batch: of clips.
      index: (B, n) places in `batch['frames']`, five to a window.
      times: (B, n / 5) where the sound of each window begins, seconds.

    Returns:
      (N, S/2, S, 15) and (N, 80, 16, 1).
    """
    faces = mouths.crop(batch, index, self.size)
    return self.halves(faces), self.mel(batch, times)

  def halves(self, faces):
    """(5 N, S, S, 3) faces, window by window, to (N, S/2, S, 15) lower halves."""
    lower = faces[:, self.size // 2 :]
    return self._stacked(lower.reshape(-1, WINDOW_FRAMES, *lower.shape[1:]))

  def _stacked(self, windows):
    """(N, 5, S/2, S, 3) to (N, S/2, S, 15)."""
    return jnp.moveaxis(windows, 1, 3).reshape(len(windows), *windows.shape[2:4], -1)

  def mel(self, batch: base.Batch, times):
    """(N, 80, 16, 1) windows of log-mel that begin at `times`."""
    mel = audio_features.mel_windows(batch['wav'], batch['num_samples'], times, lead=0.0)
    return mel.reshape(-1, *mel.shape[2:])[..., None]

  def embed_clip(self, variables, clip: base.Batch):
    """Embeddings (T - 5, D) of the lips and the sound of all windows of one clip.

    Args:
      variables: of the network.
      clip: `frames` (T, H, W, 3) uint8 RGB at 25 per second, `boxes` (T, 4), `wav` (S,) int16 at
        16 kHz and `num_samples` (), padded as batches are.
    """
    length, half = len(clip['frames']), self.size // 2
    frames, boxes = clip['frames'][None], clip['boxes'][None]
    lower = mouths.crop({'frames': frames, 'boxes': boxes}, jnp.arange(length)[None], self.size)
    lower = lower[:, half:]

    def see(start):
      window = jax.lax.dynamic_slice_in_dim(lower, start, WINDOW_FRAMES)
      return self._stacked(window[None])[0]

    starts = _starts(length)
    embed = functools.partial(self.module.apply, variables, train=False)
    lips = _by_windows(lambda start: embed(see(start)[None], method='embed_face')[0], starts)
    heard = {'wav': clip['wav'][None], 'num_samples': clip['num_samples'][None]}
    return lips, embed(self.mel(heard, starts[None] / mouths.FPS), method='embed_audio')

  def draw(self, rng, last: int, settings: Settings):
    """Starts (K,) of lip windows, 0 to `last`, and of the sound that is paired with each."""
    starts = rng.integers(last + 1, size=settings.windows)
    together = rng.random(settings.windows) < 0.5
    near = rng.random(settings.windows) < settings.near_share
    heard = [
      start if same else _elsewhere(rng, start, last, settings.near, is_near)
      for start, same, is_near in zip(starts, together, near, strict=True)
    ]
    return starts, np.asarray(heard)

  def loss(self, lips, speech, apart, *, axis_name: str | None = None):
    """Of the pairs of embeddings (B, K, D); and the share of right answers. See `SyncExpert`."""
    label = jnp.diagonal(apart, axis1=1, axis2=2).reshape(-1) == 0
    lips, speech = (x.reshape(len(label), -1) for x in (lips, speech))
    right = ((lips * speech).sum(-1) > 0.5) == label
    return losses.cosine_bce(speech, lips, label, axis_name=axis_name), right.mean()

  def similarity(self, lips, speech):
    """(..., N, M) cosines of lips (..., N, D) with sounds (..., M, D)."""
    return lips @ jnp.swapaxes(speech, -1, -2)

  def evaluate(self, similarity, own):
    """(B,) losses of a clip's windows, as many in sync as out of sync; `own` where they are."""
    loss = -jnp.log(jnp.maximum(jnp.where(own, similarity, 1 - similarity), 1e-7))
    return (_mean(loss, own) + _mean(loss, ~own)) / 2

  def guessing(self, windows: int) -> float:
    """The loss of somebody who always says 50 %."""
    del windows
    return float(np.log(2))


@dataclasses.dataclass(frozen=True)
class SyncNet:
  """The judge of LSE-C and LSE-D."""

  module: syncnet.SyncNetV2
  size: int

  @classmethod
  def from_settings(cls, settings: Settings, **shared) -> 'SyncNet':
    """Builds both streams; raises ConfigError for unknown keys."""

    def stream(make, values, name, **fixed):
      known = {'widths', 'hidden', 'features'}
      for key in values:
        if key not in known:
          raise errors.ConfigError(
            f'unknown key {name}.{key}.', where='config', hint=f'known: {", ".join(sorted(known))}.'
          )
      try:
        return make(**values, **fixed, **shared)
      except ValueError as error:
        raise errors.ConfigError(f'{error}.', where='config', hint='raise model.size.') from error

    lips = stream(syncnet.lip_stream, settings.lips, 'model.lips', size=settings.size)
    speech = stream(syncnet.speech_stream, settings.speech, 'model.speech')
    return cls(syncnet.SyncNetV2(lips, speech), settings.size)

  def inputs(self, batch: base.Batch, index, times):
    """What the network reads, (N, 5, S, S, 3) and (N, 13, 20, 1); see `Color.inputs`."""
    frames = jnp.take_along_axis(batch['frames'], index[..., None, None, None], axis=1)
    frames = frames.reshape(-1, *frames.shape[2:])
    starts = WINDOW_FRAMES * jnp.arange(len(frames) // WINDOW_FRAMES)
    lips = sync_metrics.lip_windows(frames, starts, self.size)
    speech = jax.vmap(sync_metrics.speech_windows)(
      batch['wav'], batch['num_samples'], jnp.round(times * mouths.FPS).astype(jnp.int32)
    )
    return lips, speech.reshape(-1, *speech.shape[2:])

  def embed_clip(self, variables, clip: base.Batch):
    """Embeddings (T - 5, D) of lips and sound; see `Color.embed_clip`. `boxes` are not needed."""
    starts = _starts(len(clip['frames']))
    embed = functools.partial(self.module.apply, variables, train=False)

    def see(start):
      window = jax.lax.dynamic_slice_in_dim(clip['frames'], start, WINDOW_FRAMES)
      seen = sync_metrics.lip_windows(window, jnp.zeros(1, jnp.int32), self.size)
      return embed(seen, method='embed_lips')[0]

    speech = sync_metrics.speech_windows(clip['wav'], clip['num_samples'], starts)
    return _by_windows(see, starts), embed(speech, method='embed_speech')

  def draw(self, rng, last: int, settings: Settings):
    """Starts (K,) of different windows, 0 to `last`, and of their own sound."""
    starts = _different(rng, last, settings.windows)
    return starts, starts

  def loss(self, lips, speech, apart, *, axis_name: str | None = None):
    """Of embeddings (B, K, D); and the share of windows that find their sound."""
    similarity, own = self.similarity(lips, speech), apart == 0
    found = jnp.take_along_axis(own, similarity.argmax(2)[..., None], axis=2)
    return losses.masked_mean(self.evaluate(similarity, own), axis_name=axis_name), found.mean()

  def similarity(self, lips, speech):
    """(..., N, M) distances, negative, of lips (..., N, D) from sounds (..., M, D)."""
    square = jnp.square(lips[..., :, None, :] - speech[..., None, :, :]).sum(-1)
    return -jnp.sqrt(jnp.maximum(square, 1e-12))  # the root has no gradient at 0

  def evaluate(self, similarity, own):
    """(B,) losses of matching a clip's windows with their sounds, and these with those."""
    right = jax.nn.log_softmax(similarity, 1) + jax.nn.log_softmax(similarity, 2)
    return -_mean(right, own) / 2

  def guessing(self, windows: int) -> float:
    """The loss of somebody for whom all of a clip's windows are alike."""
    return float(np.log(windows))


def _mean(values, mask):
  """(B, K, K) to (B,), over those that count."""
  return (values * mask).sum((1, 2)) / jnp.maximum(mask.sum((1, 2)), 1)


Judge = Color | SyncNet
_JUDGES = {'color': Color, 'syncnet': SyncNet}


def _starts(frames: int):
  """Where the windows of a clip begin: one fewer than would fit, see `sync_metrics`."""
  return jnp.arange(max(frames - WINDOW_FRAMES, 1))


def _by_windows(embed, starts):
  """`embed(start)` of all starts, a few at a time: they fill memory otherwise."""
  return jax.lax.map(embed, starts, batch_size=_WINDOWS_AT_ONCE)


def read(folder: str | pathlib.Path, kind: str = '') -> Judge:
  """The judge of a workdir or of a converted network; its weights are not read.

  Args:
    folder: of a run of sync_expert, or of a converted color_syncnet or syncnet_v2.
    kind: 'color' or 'syncnet', the one that is needed; '': either.

  Raises:
    CheckpointError, ConversionError: if the folder holds no such judge.
  """
  from tfg_jax import trained  # which knows all systems, this one too

  if converted.is_converted(folder):
    name = converted.read_record(folder).network
    if name in _PUBLIC and kind in ('', _PUBLIC[name]):
      size = 96 if _PUBLIC[name] == 'color' else sync_metrics.FRAME_SIZE
      return _JUDGES[_PUBLIC[name]](networks.OFFICIAL[name](), size)
    name = f'a converted {name}'
  else:
    run = configuration.resolve(trained.read_config(folder))
    name = f'the workdir of a run of {run.system}'
    if run.system == 'sync_expert':
      expert = SyncExpert.from_config(run)
      if kind in ('', expert.settings.judge):
        return expert.judge
      name += f', judge {expert.settings.judge}'
  kinds = {network: judge for network, judge in _PUBLIC.items() if kind in ('', judge)}
  raise errors.CheckpointError(
    f'this is {name}, and no {kind or "color or syncnet"} judge of sync.',
    where=folder,
    hint=f'name the workdir of a sync_expert run with model.judge={" or ".join(kinds.values())}, '
    f'or a converted {" or ".join(kinds)}.',
  )


def variables(source: Source) -> dict[str, Any]:
  """The variables of the judge that `pretrained.load` read from such a folder."""
  return source.called('expert').nets['expert']


@dataclasses.dataclass(frozen=True)
class SyncExpert(base.Expert):
  """See the module; `from_config` builds it."""

  settings: Settings
  judge: Judge
  axis_name: str | None = None

  score = 'expert/loss'
  called = 'the sync expert'
  sources = {}

  @classmethod
  def from_config(cls, run: configuration.Run, *, axis_name: str | None = None) -> 'SyncExpert':
    """Builds the judge and its settings from `run.model`.

    Raises:
      ConfigError: for unknown keys or values that cannot be.
    """
    settings = configuration.read_section(Settings, run.model, 'model')
    base.optimizer(settings.optimizer)  # refused here if there is no such
    judge = _JUDGES[settings.judge].from_settings(
      settings, axis_name=axis_name, dtype=jnp.dtype(run.dtype)
    )
    return cls(settings, judge, axis_name)

  # ------------------------------------------------------------------------------------------------
  # State
  # ------------------------------------------------------------------------------------------------

  def init(self, key: jax.Array) -> base.State:
    """A fresh network, 'expert'."""
    batch = {
      'frames': jnp.zeros((1, WINDOW_FRAMES, self.judge.size, self.judge.size, 3), jnp.uint8),
      'boxes': jnp.broadcast_to(
        jnp.array([0, 0, self.judge.size, self.judge.size]), (1, WINDOW_FRAMES, 4)
      ),
      'wav': jnp.zeros((1, 4000), jnp.int16),
      'num_samples': jnp.full(1, 4000),
    }
    lips, speech = self.judge.inputs(batch, jnp.arange(WINDOW_FRAMES)[None], jnp.zeros((1, 1)))
    variables = self.judge.module.init(light_random.from_key(key), lips, speech, train=False)
    net = base.Net.create(variables['params'], variables['batch_stats'], self._optimizer)
    return base.State.create(key, {'expert': net})

  @property
  def _optimizer(self) -> optax.GradientTransformation:
    return base.optimizer(self.settings.optimizer)(self.settings.learning_rate, b1=0.9, b2=0.999)

  def start(self, state: base.State, sources: dict, batches: Iterable[dict]) -> base.State:
    """A judge of sync starts from nothing."""
    del sources, batches
    return state

  def export(self, state: base.State, network: str):
    """The variables of one public network (a name of `tfg_jax.networks.OFFICIAL`)."""
    if _PUBLIC.get(network) == self.settings.judge:
      net = state.nets['expert']
      return {'params': net.params, 'batch_stats': net.stats}
    raise errors.ConversionError(
      f'this run holds no {network!r}.',
      hint=f'it holds {next(x for x, judge in _PUBLIC.items() if judge == self.settings.judge)}.',
    )

  # ------------------------------------------------------------------------------------------------
  # Training
  # ------------------------------------------------------------------------------------------------

  def sample(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """`starts` (K,) of lip windows and `heard` (K,) of their sound, frames; and those frames."""
    return _windows(*self.judge.draw(rng, _last_start(clip), self.settings))

  def sample_evaluation(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The same, of different windows and their own sound."""
    starts = _different(rng, _last_start(clip), self.settings.evaluation_windows)
    return _windows(starts, starts)

  def train_step(self, state: base.State, batch: base.Batch) -> tuple[base.State, base.Metrics]:
    """One update on the batch's windows."""
    net = state.nets['expert']
    inputs, apart = self._inputs(batch), _apart(batch)

    def loss(params):
      variables = {'params': params, 'batch_stats': net.stats}
      embedded, updated = self.judge.module.apply(
        variables, *inputs, train=True, mutable=['batch_stats']
      )
      embedded = [x.reshape(*batch['starts'].shape, -1) for x in embedded]
      value, right = self.judge.loss(*embedded, apart, axis_name=self.axis_name)
      return value, ({'loss': value, 'accuracy': right}, updated['batch_stats'])

    grads, (metrics, stats) = jax.grad(loss, has_aux=True)(net.params)
    grads, metrics = base.mean_over_devices((grads, metrics), self.axis_name)
    metrics['grad_norm'] = base.global_norm(grads)
    net = net.update(grads, self._optimizer, stats=stats)
    return state.replace(nets={'expert': net}), metrics

  def _inputs(self, batch):
    index = jnp.arange(batch['frames'].shape[1])
    index = jnp.broadcast_to(index, batch['frames'].shape[:2])
    return self.judge.inputs(batch, index, batch['heard'] / mouths.FPS)

  # ------------------------------------------------------------------------------------------------
  # Use
  # ------------------------------------------------------------------------------------------------

  def eval_step(self, state: base.State, batch: base.Batch) -> base.Metrics:
    """How well windows and sounds are told apart, (B,) each.

    `loss` is that of the judge. Of all pairs of a window and another one's sound, `accuracy` is the
    share in which its own fits better; `near` and `far` are that of sounds up to `near` frames off
    and further off. 0.5 is guessing.
    """
    net = state.nets['expert']
    embedded = self.judge.module.apply(
      {'params': net.params, 'batch_stats': net.stats}, *self._inputs(batch), train=False
    )
    similarity = self.judge.similarity(*(x.reshape(*batch['starts'].shape, -1) for x in embedded))
    apart = _apart(batch)
    preferred = jnp.diagonal(similarity, axis1=1, axis2=2)[..., None] > similarity
    near = abs(apart) <= self.settings.near
    return {
      'expert/loss': self.judge.evaluate(similarity, apart == 0),
      'expert/accuracy': _mean(preferred, apart != 0),
      'expert/near': _mean(preferred, (apart != 0) & near),
      'expert/far': _mean(preferred, ~near),
    }

  def summary(self, results: dict[str, float]) -> str:
    """Says what the numbers of `eval_step` mean."""
    loss = results['expert/loss']
    guessing = self.judge.guessing(self.settings.evaluation_windows)
    if loss > (1 - _TELLING) * guessing:
      return (
        f'It cannot tell what is in sync from what is not: its loss of {loss:.3f} is no better '
        f'than that of guessing ({guessing:.3f}). It may need more steps, more clips, or clips '
        'whose sound and lips do belong together; as an expert it is of no use yet.'
      )
    return (
      'On clips it has not seen, it prefers the sound that belongs to the lips to one that is 1 '
      f'to {self.settings.near} frames off in {results["expert/near"]:.0%} and to one further off '
      f'in {results["expert/far"]:.0%} of the cases.'
    )

  def samples(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """The windows that it is asked about, one after the other."""
    del state
    frames = batch['frames']
    strips = base.strip(frames, jnp.full(len(frames), frames.shape[1]))
    return {'strips': strips, 'videos': frames}


def _last_start(clip) -> int:
  """Of a window that frames and sound suffice for."""
  heard = len(clip.wav) * mouths.FPS // clip.sample_rate
  last = min(len(clip.frames), heard) - WINDOW_FRAMES
  if last < 1:
    raise errors.DataError(
      f'the clip has {len(clip.frames)} frames and sound for {heard}; two windows need '
      f'{WINDOW_FRAMES + 1}.',
      where=clip.clip_id,
      hint='leave shorter clips out when the corpus is prepared.',
    )
  return last


def _elsewhere(rng, start: int, last: int, near: int, is_near: bool) -> int:
  """Another window than that at `start`, up to `near` frames away or further, if there is one."""
  others = np.delete(np.arange(last + 1), start)
  wanted = others[(abs(others - start) <= near) == is_near]
  return rng.choice(wanted if len(wanted) else others)


def _different(rng, last: int, count: int):
  """(count,) starts in order, all different as far as there are so many."""
  return np.sort(rng.choice(last + 1, count, replace=count > last + 1))


def _windows(starts, heard):
  return {
    'starts': np.asarray(starts, np.int32),
    'heard': np.asarray(heard, np.int32),
    'frame_index': (starts[:, None] + np.arange(WINDOW_FRAMES)).reshape(-1).astype(np.int32),
  }


def _apart(batch: base.Batch):
  """(B, K, K) frames from lip windows to the sounds of their clip; 0 where they are in sync."""
  return batch['heard'][:, None] - batch['starts'][:, :, None]
