"""The lip-reading expert: AV-HuBERT with a decoder, fine-tuned to spell what lips say.

Input          the mouth alone, 25 frames a second
Loss           cross-entropy of the next token, labels smoothed by 0.1, summed over a sentence;
               `ctc` gives a share of it to CTC on the encoder, which needs far fewer clips to find
               out where in a sentence each letter is seen (Watanabe et al., 2017; not official)
Schedule       warm-up, then exponential decay; the encoder rests for the first `freeze` steps

TalkLip (Wang et al., CVPR 2023) freezes it and lets it judge drawn mouths. Numbers are those of the
official fine-tuning (facebookresearch/av_hubert, conf/finetune).

Departures     The best checkpoint is the one with the fewest word errors; officially, with the
               highest token accuracy.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tfg_jax import configuration, errors, light_random, losses, networks
from tfg_jax.data import vocabulary
from tfg_jax.data.vocabulary import BOS, EOS, PAD
from tfg_jax.metrics import text as text_metrics
from tfg_jax.networks.avhubert import AVHubertEncoder
from tfg_jax.networks.avhubert_seq2seq import AVHubertSeq2Seq, Decoder
from tfg_jax.networks.layers import Dense
from tfg_jax.pytorch import converted
from tfg_jax.systems import base, lips
from tfg_jax.systems.sources import Source

READERS = ('avhubert_base_seq2seq', 'avhubert_large_seq2seq')  # public networks of this kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The section `model` of a config."""

  encoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # AVHubertEncoder
  decoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # Decoder
  view: lips.View = lips.View()
  start: str = ''  # workdir or converted network whose encoder is fine-tuned; empty: from scratch
  characters: str = "abcdefghijklmnopqrstuvwxyz0123456789'"
  tokenizer: str = ''  # sentencepiece model; its pieces replace the characters
  max_tokens: int = 200  # of a sentence, with its end
  beam: int = 5  # live hypotheses in evaluation; officially 50
  smoothing: float = 0.1
  ctc: float = 0.0  # share of the loss, from 0 to below 1
  freeze: int = 0  # steps in which the encoder rests
  optimizer: str = 'adam'  # or 'muon'
  learning_rate: float = 1e-3
  warmup: int = 10_000  # steps from 1 % of the rate to all of it; then down to `final_rate`
  final_rate: float = 0.05  # of the learning rate, at num_steps


@dataclasses.dataclass(frozen=True)
class Reader:
  """A lip reader without its weights: how it sees, reads and spells."""

  module: AVHubertSeq2Seq
  vocabulary: vocabulary.Vocabulary
  view: lips.View

  @classmethod
  def from_settings(cls, settings: Settings, **shared) -> 'Reader':
    """Builds it from a config's section; `shared` are the fields `axis_name` and `dtype`.

    Raises:
      ConfigError: for fields that the networks do not have.
      DataError: if the tokenizer cannot be read.
    """
    words = (
      vocabulary.read_sentencepiece(settings.tokenizer)
      if settings.tokenizer
      else vocabulary.characters(settings.characters)
    )
    encoder = configuration.build_module(
      AVHubertEncoder, settings.encoder, 'model.encoder', **shared
    )
    decoder = configuration.build_module(
      Decoder,
      settings.decoder,
      'model.decoder',
      width=encoder.width,
      vocabulary=len(words),
      dtype=encoder.dtype,
    )
    return cls(AVHubertSeq2Seq(encoder, decoder), words, settings.view)

  def encode(self, variables, frames, num_frames):
    """What is seen in clips (B, T, H, W, 3), and where there is nothing.

    Returns:
      (B, T, width) and (B, T) bool, True behind the end of a clip.
    """
    padding = jnp.arange(frames.shape[1]) >= num_frames[:, None]
    video = self.view(frames, num_frames)
    seen = self.module.apply(
      variables, None, video, padding, train=False, method=lambda m, *x, **k: m.encoder(*x, **k)
    )
    return seen, padding

  def predict(self, variables, memory, padding, tokens):
    """Logits (B, L, vocabulary) of tokens (B, L), each one given those before it."""
    decoder = {'params': variables['params']['decoder']}
    return self.module.decoder.apply(decoder, previous(tokens), memory, padding, train=False)

  def spell(self, variables, memory, padding, *, beam: int, max_length: int | None = None):
    """The likeliest sentences (B, L) of token ids, by beam search; see `AVHubertSeq2Seq.spell`."""
    found = self.module.apply(
      variables, memory, padding, beam=beam, max_length=max_length, method='spell'
    )
    return found.tokens[:, 0]


def read(folder: str | pathlib.Path) -> Reader:
  """The lip reader of a workdir or of a converted network; its weights are not read.

  Raises:
    CheckpointError, ConversionError: if the folder holds no lip reader.
    DataError: if its tokenizer cannot be read.
  """
  from tfg_jax import trained  # which knows all systems, this one too

  if converted.is_converted(folder):
    network = converted.read_record(folder).network
    if network in READERS:
      words = vocabulary.sentencepiece(converted.tokenizer(folder), where=folder)
      return Reader(networks.OFFICIAL[network](), words, lips.View())
    name = f'a converted {network}'
  else:
    run = configuration.resolve(trained.read_config(folder))
    if run.system == 'lip_expert':
      return LipExpert.from_config(run).reader
    name = f'the workdir of a run of {run.system}'
  raise errors.CheckpointError(
    f'this is {name}, and no lip reader.',
    where=folder,
    hint=f'name the workdir of a lip_expert run, or a converted {" or ".join(READERS)}.',
  )


def variables(source: Source) -> dict[str, Any]:
  """The variables of the whole reader that `pretrained.load` read from such a folder.

  Raises:
    CheckpointError: if it has no decoder.
  """
  if 'decoder' not in source.nets:
    raise errors.CheckpointError(
      f'it holds {", ".join(source.nets)} and is no lip reader.',
      where=source.where,
      hint=f'name the workdir of a lip_expert run, or a converted {" or ".join(READERS)}.',
    )
  encoder, decoder = source.nets['encoder'], source.nets['decoder']
  return {
    'params': {'encoder': encoder['params'], 'decoder': decoder['params']},
    'batch_stats': {'encoder': encoder['batch_stats']},
  }


@dataclasses.dataclass(frozen=True)
class LipExpert(base.Expert):
  """See the module; `from_config` builds it."""

  settings: Settings
  reader: Reader
  num_steps: int
  axis_name: str | None = None

  score = 'expert/word_error_rate'
  called = 'the lip expert'

  @classmethod
  def from_config(cls, run: configuration.Run, *, axis_name: str | None = None) -> 'LipExpert':
    """Builds networks and settings from `run.model`.

    Raises:
      ConfigError: for unknown keys or values that cannot be.
      DataError: if the tokenizer cannot be read.
    """
    settings = lips.read_settings(Settings, run)
    lips.check_warmup(settings.warmup, run.num_steps)
    base.optimizer(settings.optimizer)  # refused here if there is no such
    if not 0 <= settings.ctc < 1:
      raise errors.ConfigError(
        f'model.ctc is {settings.ctc:g}.', where='config', hint='use a share from 0 to below 1.'
      )
    reader = Reader.from_settings(settings, axis_name=axis_name, dtype=jnp.dtype(run.dtype))
    return cls(settings, reader, run.num_steps, axis_name)

  # ------------------------------------------------------------------------------------------------
  # State
  # ------------------------------------------------------------------------------------------------

  def init(self, key: jax.Array) -> base.State:
    """Fresh networks 'encoder' and 'decoder', and with CTC its 'aligner', a layer on the encoder;
    `start` may replace the encoder."""
    encoder = self.reader.module.encoder
    tokens, audio = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, encoder.audio_features))
    reader_key, aligner_key = jax.random.split(light_random.from_key(key))
    variables = self.reader.module.init(reader_key, tokens, audio, train=False)
    params, stats = variables['params'], variables['batch_stats']
    optimizer = self._optimizer
    nets = {
      'encoder': base.Net.create(params['encoder'], stats['encoder'], optimizer),
      'decoder': base.Net.create(params['decoder'], {}, optimizer),
    }
    if self.settings.ctc:
      aligner = self._aligner.init(aligner_key, jnp.zeros((1, 1, encoder.width)))
      nets['aligner'] = base.Net.create(aligner['params'], {}, optimizer)
    return base.State.create(key, nets)

  @property
  def _aligner(self) -> Dense:
    return Dense(len(self.reader.vocabulary))

  @property
  def sources(self) -> dict[str, str]:
    """Folders of networks that `start` takes over."""
    return {'encoder': self.settings.start} if self.settings.start else {}

  def start(
    self, state: base.State, sources: Mapping[str, Source], batches: Iterable[dict]
  ) -> base.State:
    """On the host, before the first step: takes over a pre-trained encoder.

    Args:
      state: fresh.
      sources: the networks that `self.sources` names.
      batches: of training clips; not needed here.

    Raises:
      CheckpointError: if the encoder does not fit.
    """
    del batches
    if not sources:
      return state
    net = state.nets['encoder']
    fresh = {'params': net.params, 'batch_stats': net.stats}
    taken = lips.take_encoder(fresh, sources['encoder'])
    net = net.replace(params=taken['params'], stats=taken['batch_stats'])
    return state.replace(nets={**state.nets, 'encoder': net})

  @property
  def _optimizer(self) -> optax.GradientTransformation:
    settings = self.settings
    peak = settings.learning_rate
    decay = optax.exponential_decay(peak, self.num_steps - settings.warmup, settings.final_rate)
    warmup = optax.linear_schedule(0.01 * peak, peak, settings.warmup)
    rate = optax.join_schedules([warmup, decay], [settings.warmup])
    return base.optimizer(settings.optimizer)(rate, b1=0.9, b2=0.98)

  def _variables(self, state: base.State):
    """The whole reader's variables."""
    return {
      'params': {name: state.nets[name].params for name in ('encoder', 'decoder')},
      'batch_stats': {'encoder': state.nets['encoder'].stats},
    }

  def export(self, state: base.State, network: str):
    """The variables of one public network (a name of `tfg_jax.networks.OFFICIAL`)."""
    if network in READERS:
      return self._variables(state)
    raise errors.ConversionError(
      f'a lip_expert run holds no {network!r}.',
      hint=f'it holds {" or ".join(READERS)}, by its size.',
    )

  # ------------------------------------------------------------------------------------------------
  # Training
  # ------------------------------------------------------------------------------------------------

  def sample(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The tokens of the text, and how the mouth is cut out."""
    return {**self.sample_evaluation(clip, rng), **self.settings.view.sample(rng)}

  def sample_evaluation(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """`tokens` (max_tokens,) int32."""
    del rng
    return {'tokens': self.reader.vocabulary.encode(clip.text, self.settings.max_tokens)}

  def train_step(self, state: base.State, batch: base.Batch) -> tuple[base.State, base.Metrics]:
    """One update of the decoder, the aligner if any and, from step `freeze` on, the encoder."""
    encoder, settings = state.nets['encoder'], self.settings
    video, padding, tokens = (
      self.settings.view.augmented(batch),
      lips.padding_mask(batch),
      batch['tokens'],
    )
    keys = jax.random.split(lips.dropout_key(state, self.axis_name))

    def encode(params):
      memory, updated = self.reader.module.encoder.apply(
        {'params': params, 'batch_stats': encoder.stats},
        None,
        video,
        padding,
        train=True,
        rngs={'dropout': keys[0]},
        mutable=['batch_stats'],
      )
      return memory, updated['batch_stats']

    def loss(params, memory):
      logits = self.reader.module.decoder.apply(
        {'params': params['decoder']},
        previous(tokens),
        memory,
        padding,
        train=True,
        rngs={'dropout': keys[1]},
      )
      clips = len(tokens)
      if self.axis_name is not None:
        clips *= jax.lax.axis_size(self.axis_name)
      spelling = losses.label_smoothed_cross_entropy(
        logits, tokens, smoothing=settings.smoothing, pad=PAD, axis_name=self.axis_name
      )
      terms = {'decoder/loss': spelling / clips}
      total = (1 - settings.ctc) * terms['decoder/loss']
      if settings.ctc:
        aligned = self._aligner.apply({'params': params['aligner']}, memory)
        # `BOS`, which no text contains, is CTC's blank.
        behind = (tokens == PAD) | (tokens == EOS)
        terms['aligner/loss'] = optax.ctc_loss(
          aligned, padding, tokens, behind, blank_id=BOS
        ).mean()
        total += settings.ctc * terms['aligner/loss']
      return total, terms | {'decoder/token_accuracy': _token_accuracy(logits, tokens).mean()}

    memory, pull_back, stats = jax.vjp(encode, encoder.params, has_aux=True)
    params = {name: net.params for name, net in state.nets.items() if name != 'encoder'}
    (grads, memory_grads), metrics = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, memory)
    grads['encoder'] = self._unless_frozen(state, lambda: pull_back(memory_grads)[0])
    metrics, stats, grads = base.mean_over_devices((metrics, stats, grads), self.axis_name)
    metrics |= {f'{name}/grad_norm': base.global_norm(x) for name, x in grads.items()}
    optimizer = self._optimizer
    nets = {
      name: net.update(grads[name], optimizer, stats=stats if name == 'encoder' else None)
      for name, net in state.nets.items()
    }
    return state.replace(nets=nets), metrics

  def _unless_frozen(self, state, gradient):
    """The encoder's gradient; while it rests, zeros at no cost. Its optimiser sees these."""
    if not self.settings.freeze:
      # Not in a branch: there, XLA on CPU takes some 60 times as long for the gradient of a kernel.
      return gradient()
    resting = state.step < self.settings.freeze
    zeros = jax.tree.map(jnp.zeros_like, state.nets['encoder'].params)
    return jax.lax.cond(resting, lambda: zeros, gradient)

  # ------------------------------------------------------------------------------------------------
  # Use
  # ------------------------------------------------------------------------------------------------

  def eval_step(self, state: base.State, batch: base.Batch) -> base.Metrics:
    """How well sentences are read, (B,) each.

    `loss` (label-smoothed, per token) and `token_accuracy` are teacher-forced; `word_error_rate` is
    that of beam search. Row 'expert' sees the clip; 'other_lips' sees those of the clip before it
    in the batch, and tells how much is guessed without looking.
    """
    reader, variables, tokens = self.reader, self._variables(state), batch['tokens']
    memory, padding = reader.encode(variables, batch['frames'], batch['num_frames'])
    numbers = {}
    for name, seen, hidden in (
      ('expert', memory, padding),
      ('other_lips', jnp.roll(memory, 1, axis=0), jnp.roll(padding, 1, axis=0)),
    ):
      logits = reader.predict(variables, seen, hidden, tokens)
      per_clip = jax.vmap(
        lambda x, y: losses.label_smoothed_cross_entropy(
          x[None], y[None], smoothing=self.settings.smoothing, pad=PAD
        )
      )(logits, tokens)
      numbers[f'{name}/loss'] = per_clip / (tokens != PAD).sum(1)
      numbers[f'{name}/token_accuracy'] = _token_accuracy(logits, tokens)
    said = reader.spell(
      variables,
      memory,
      padding,
      beam=self.settings.beam,
      max_length=self.settings.max_tokens - 1,
    )
    edits, words = text_metrics.word_edits(said, tokens, self.reader.vocabulary.symbols)
    numbers['expert/word_error_rate'] = edits / words
    return numbers

  def summary(self, results: dict[str, float]) -> str:
    """Says what the numbers of `eval_step` mean."""
    return (
      f'On clips it has not seen, {results["expert/word_error_rate"]:.1%} of the words are read '
      f'wrongly; of the letters or pieces, given those before, '
      f'{results["expert/token_accuracy"]:.1%} are right, and '
      f'{results["other_lips/token_accuracy"]:.1%} where it is shown other lips.'
    )

  def samples(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """The mouths as the expert sees them."""
    del state
    return lips.show(self.settings.view(batch['frames'], batch['num_frames']), batch['num_frames'])


def previous(tokens: jax.Array) -> jax.Array:
  """What the decoder reads to predict tokens (B, L): `EOS`, then the sentence, then `PAD`."""
  shifted = jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=EOS)[:, :-1]
  return jnp.where(tokens == PAD, PAD, shifted)


def _token_accuracy(logits, tokens):
  """(B,) share of the tokens, with the end, that are the likeliest ones."""
  real = tokens != PAD
  return ((logits.argmax(-1) == tokens) & real).sum(1) / real.sum(1)
