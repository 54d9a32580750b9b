"""Observers: what judges whole videos, whoever drew them. Real videos stand before the same judges.

likeness       PSNR and SSIM of face crops, beside the real ones
sync           SyncNet: LSE-C, LSE-D and offset
reader         a lip reader writes down what it sees: WER1
speller        a lip reader, given the true text so far, says each next character: WER2
words          a lip reader names the one word of a clip: word accuracy

The official ones are converted networks: syncnet_v2, an avhubert_..._seq2seq fine-tuned on LRS2,
conformer_observer, mvm_lrw. Where they are not at hand, runs of sync_expert and lip_expert on the
same corpus do their part; their numbers cannot be compared with those of papers.

Source: the evaluation of Sxjdwang/TalkLip; `tfg_jax/metrics` has the definitions.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tfg_jax import configuration, errors, networks, pretrained
from tfg_jax.data import clip_codec, vocabulary
from tfg_jax.features import video as video_features
from tfg_jax.metrics import image as image_metrics
from tfg_jax.metrics import sync as sync_metrics
from tfg_jax.metrics import text as text_metrics
from tfg_jax.networks import conformer, mvm
from tfg_jax.pytorch import converted
from tfg_jax.systems import base, lip_expert, sync_expert

_FACE = 96  # pixels, of the crops that are compared
_MOST_TOKENS = 300  # of a clip's text
_SPELLER, _CLASSIFIER = 'conformer_observer', 'mvm_lrw'  # public networks

# (value, count) of every clip by metric; a clip weighs `count` in the mean.
Numbers = dict[str, tuple[np.ndarray, np.ndarray]]


class Observer(Protocol):
  """A judge; what it needs of texts and what it makes of its answers happens on the host."""

  variables: Any  # its weights, handed to `judge`, so that they are not compiled in

  def inputs(self, clips: Sequence[clip_codec.Clip]) -> dict[str, np.ndarray]:
    """What `judge` needs to know of the clips besides the batch, (B, ...) of fixed shapes.

    Raises:
      DataError: if it cannot judge one of them.
    """

  def judge(self, variables, video, real, batch: base.Batch) -> dict[str, jax.Array]:
    """Pure: answers (B, ...) about clips (B, T, H, W, 3) uint8 RGB.

    `real` are the same clips as they were filmed; `batch` holds their boxes, sound, lengths, and
    what `inputs` returned.
    """

  def numbers(self, answers: Mapping[str, np.ndarray], clips: Sequence[clip_codec.Clip]) -> Numbers:
    """What the answers are worth: {metric: (values (B,), what each counts (B,))}."""


@dataclasses.dataclass(frozen=True)
class Likeness:
  """Of all face crops with the real ones; in means every frame counts once.

  `psnr` in dB; `psnr_official`, which folds large errors, for comparison with TalkLip's table;
  `ssim`.
  """

  variables = ()

  def inputs(self, clips):
    return {}

  def judge(self, variables, video, real, batch):
    metrics = {
      'psnr': image_metrics.psnr,
      'psnr_official': image_metrics.psnr_official,
      'ssim': image_metrics.ssim,
    }

    def of_clip(clip):
      drawn, filmed, boxes = clip
      drawn, filmed = (video_features.crop_faces(x, boxes, _FACE) for x in (drawn, filmed))
      return {name: metric(drawn, filmed) for name, metric in metrics.items()}

    per_frame = jax.lax.map(of_clip, (video, real, batch['boxes']))
    return per_frame | {'frames': batch['num_frames']}

  def numbers(self, answers, clips):
    frames = answers['frames']
    shown = np.arange(answers['ssim'].shape[1]) < frames[:, None]
    return {
      name: ((answers[name] * shown).sum(1) / frames, frames)
      for name in ('psnr', 'psnr_official', 'ssim')
    }


@dataclasses.dataclass(frozen=True)
class Sync:
  """SyncNet's: `lse_c` (higher is better), `lse_d` (lower is better), `offset` in frames."""

  expert: sync_expert.SyncNet
  variables: Any

  @classmethod
  def load(cls, folder: str) -> 'Sync':
    """Of a run of `sync_expert` or a converted network; raises what `sync_expert.read` does."""
    expert = sync_expert.read(folder, 'syncnet')
    return cls(expert, sync_expert.variables(pretrained.load(folder)))

  def inputs(self, clips):
    return {}

  def judge(self, variables, video, real, batch):
    def score(clip):
      number = sync_metrics.num_windows(clip['num_frames'], clip['num_samples'])
      embedded = self.expert.embed_clip(variables, clip)
      scores = sync_metrics.sync_scores(*embedded, number)
      return {'lse_c': scores.confidence, 'lse_d': scores.distance, 'offset': scores.offset}

    names = 'wav', 'num_frames', 'num_samples'
    return jax.lax.map(score, {'frames': video} | {name: batch[name] for name in names})

  def numbers(self, answers, clips):
    return {name: (values, np.ones(len(values))) for name, values in answers.items()}


@dataclasses.dataclass(frozen=True)
class Reader:
  """`wer1`, the word error rate of what a lip reader writes down; every word counts once."""

  reader: lip_expert.Reader
  variables: Any
  beam: int

  @classmethod
  def load(cls, folder: str, beam: int) -> 'Reader':
    """Of a run of `lip_expert` or a converted network; raises what `lip_expert.read` does."""
    return cls(lip_expert.read(folder), lip_expert.variables(pretrained.load(folder)), beam)

  def inputs(self, clips):
    return {}

  def judge(self, variables, video, real, batch):
    memory, padding = self.reader.encode(variables, video, batch['num_frames'])
    return {'tokens': self.reader.spell(variables, memory, padding, beam=self.beam)}

  def numbers(self, answers, clips):
    words = np.array([len(clip.text.split()) for clip in clips])
    rates = [
      text_metrics.word_error_rate([said], [clip.text.lower()])
      for said, clip in zip(self._said(answers), clips, strict=True)
    ]
    return {'wer1': (np.array(rates), words)}

  def _said(self, answers):
    return [self.reader.vocabulary.decode(tokens).lower() for tokens in answers['tokens']]


@dataclasses.dataclass(frozen=True)
class Speller:
  """`wer2` of a lip reader of this project, one that spells; every clip counts once."""

  reader: lip_expert.Reader
  variables: Any

  @classmethod
  def load(cls, folder: str) -> 'Speller':
    """Of a run of `lip_expert`.

    Raises:
      CheckpointError: if it writes pieces of words.
    """
    reader = lip_expert.read(folder)
    if max(map(len, reader.vocabulary.symbols[len(vocabulary.SPECIALS) :])) > 1:
      raise errors.CheckpointError(
        'this lip reader knows pieces of words, and WER2 is about characters.',
        where=folder,
        hint=f'name a lip_expert run with model.characters, or a converted {_SPELLER}.',
      )
    return cls(reader, lip_expert.variables(pretrained.load(folder)))

  def inputs(self, clips):
    tokens = [self.reader.vocabulary.encode(clip.text, _MOST_TOKENS) for clip in clips]
    return {'speller_tokens': np.stack(tokens)}

  def judge(self, variables, video, real, batch):
    memory, padding = self.reader.encode(variables, video, batch['num_frames'])
    logits = self.reader.predict(variables, memory, padding, batch['speller_tokens'])
    return {'tokens': logits.argmax(-1)}

  def numbers(self, answers, clips):
    words = self.reader.vocabulary
    # A sentence begins with the mark of its first word, which is no character of it.
    pairs = [
      (said[1:], words.ids(clip.text)[1:])
      for said, clip in zip(answers['tokens'], clips, strict=True)
    ]
    space = words.symbols.index(vocabulary.WORD_START)
    return _teacher_forced(pairs, space=space, eos=vocabulary.EOS)


@dataclasses.dataclass(frozen=True)
class Conformer:
  """`wer2` of TalkLip's observer; every clip counts once."""

  variables: Any
  module: conformer.ConformerLipReader = dataclasses.field(
    default_factory=networks.OFFICIAL[_SPELLER]
  )

  def inputs(self, clips):
    tokens = np.full((len(clips), _MOST_TOKENS), conformer.PADDING, np.int32)
    for row, clip in zip(tokens, clips, strict=True):
      spelled = conformer.characters_to_tokens(clip.text)
      if len(spelled) > _MOST_TOKENS:
        raise errors.DataError(
          f'the text {clip.text[:40]!r}... has {len(spelled)} characters; {_MOST_TOKENS} fit',
          where=clip.clip_id,
          hint='leave such clips out.',
        )
      row[: len(spelled)] = spelled
    return {'conformer_tokens': tokens}

  def judge(self, variables, video, real, batch):
    lengths, tokens = batch['num_frames'], batch['conformer_tokens']
    seen = video_features.conformer_view(video, lengths)
    logits, _ = self.module.apply(
      variables,
      seen,
      lengths,
      conformer.required_frames(lengths, tokens),
      tokens,
      frames=max(video.shape[1], 2 * _MOST_TOKENS),
      train=False,
    )
    return {'tokens': logits.argmax(-1)}

  def numbers(self, answers, clips):
    pairs = [
      (said, conformer.characters_to_tokens(clip.text))
      for said, clip in zip(answers['tokens'], clips, strict=True)
    ]
    return _teacher_forced(pairs, space=conformer.SPACE, eos=conformer.EOS)


@dataclasses.dataclass(frozen=True)
class WordReader(Reader):
  """`word_accuracy` of a lip reader of this project: what it writes down is the text, or not."""

  def numbers(self, answers, clips):
    right = [
      said == clip.text.lower() for said, clip in zip(self._said(answers), clips, strict=True)
    ]
    return {'word_accuracy': (np.array(right, float), np.ones(len(right)))}


@dataclasses.dataclass(frozen=True)
class WordClassifier:
  """`word_accuracy` of TalkLip's observer on LRW, whose words are numbered by the alphabet."""

  variables: Any
  module: mvm.MVM = dataclasses.field(default_factory=networks.OFFICIAL[_CLASSIFIER])

  def inputs(self, clips):
    for clip in clips:
      if 'word_label' not in clip.extras or len(clip.frames) > mvm.FRAMES:
        raise errors.DataError(
          f'a clip of {len(clip.frames)} frames '
          f'{"with" if "word_label" in clip.extras else "without"} a word_label; '
          f'{_CLASSIFIER} knows the {mvm.FRAMES} frames of LRW and its numbered words',
          where=clip.clip_id,
          hint='evaluate on records of --corpus=lrw, or leave evaluation.observers.words empty.',
        )
    return {}

  def judge(self, variables, video, real, batch):
    video = video[:, : mvm.FRAMES]
    missing = mvm.FRAMES - video.shape[1]
    video = jnp.pad(video, ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0)))
    seen = video_features.mvm_view(video, batch['num_frames'])
    logits = mvm.flipped_too(lambda x: self.module.apply(variables, x, train=False), seen)
    return {'label': logits.argmax(-1)}

  def numbers(self, answers, clips):
    labels = np.array([int(np.asarray(clip.extras['word_label']).item()) for clip in clips])
    return {'word_accuracy': ((answers['label'] == labels).astype(float), np.ones(len(labels)))}


def _teacher_forced(pairs, *, space: int, eos: int) -> Numbers:
  rates = [
    text_metrics.teacher_forced_errors(*pair, space=space, eos=eos).word_error_rate
    for pair in pairs
  ]
  return {'wer2': (np.array(rates), np.ones(len(rates)))}


def load(
  settings: configuration.Observers, teachers: Iterable[str], *, fps: float
) -> dict[str, Observer]:
  """The observers that a config names.

  Args:
    settings: `evaluation.observers`.
    teachers: folders of the networks that the judged system learnt from.
    fps: of the videos.

  Raises:
    ConfigError: if an observer is one of the teachers, which would judge its own pupil, or if the
      videos are not as fast as those that observers know.
    CheckpointError, ConversionError: if a folder holds no such network.
  """
  teachers = {str(pathlib.Path(folder).resolve()) for folder in teachers}
  for name in ('sync', 'reader', 'speller', 'words'):
    folder = getattr(settings, name)
    if folder and fps != sync_metrics.FPS:
      raise errors.ConfigError(
        f'evaluation.observers.{name} sees {sync_metrics.FPS} frames per second, and data.fps is '
        f'{fps:g}.',
        where='config',
        hint='prepare the records with --fps=25, or leave this observer out.',
      )
    if folder and str(pathlib.Path(folder).resolve()) in teachers:
      raise errors.ConfigError(
        f'evaluation.observers.{name} is what the run has learnt from.',
        where=folder,
        hint='an observer has to be another network: train one with another --config.seed.',
      )
  found: dict[str, Observer] = {}
  if settings.sync:
    found['sync'] = Sync.load(settings.sync)
  if settings.reader:
    found['reader'] = Reader.load(settings.reader, settings.beam)
  if settings.speller:
    if _is(settings.speller, _SPELLER):
      found['speller'] = Conformer(converted.load(settings.speller)[0])
    else:
      found['speller'] = Speller.load(settings.speller)
  if settings.words:
    if _is(settings.words, _CLASSIFIER):
      found['words'] = WordClassifier(converted.load(settings.words)[0])
    else:
      found['words'] = WordReader.load(settings.words, settings.beam)
  return found


def _is(folder: str, network: str) -> bool:
  return converted.is_converted(folder) and converted.read_record(folder).network == network


def credits(settings: configuration.Observers) -> str:
  """Says who judged, and how far their numbers may be compared."""
  said = []
  for name, public in (
    ('sync', 'syncnet_v2'),
    ('reader', 'avhubert_large_seq2seq'),
    ('speller', _SPELLER),
    ('words', _CLASSIFIER),
  ):
    folder = getattr(settings, name)
    if not folder:
      said.append(f'  {name:8} none: --config.evaluation.observers.{name}=DIR names one')
    elif converted.is_converted(folder):
      said.append(f'  {name:8} {converted.read_record(folder).network}, {folder}')
    else:
      said.append(
        f'  {name:8} a run of this project, {folder}: not comparable with papers, whose judge is '
        f'{public}'
      )
  return '\n'.join(['Observers of whole videos:', *said])
