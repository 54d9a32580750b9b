"""What a trained DAVS does: it reads clips, is measured, and lets a photo speak."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from tfg_jax import errors
from tfg_jax.features import audio as audio_features
from tfg_jax.features import video as video_features
from tfg_jax.metrics import image as image_metrics
from tfg_jax.metrics import probe, retrieval
from tfg_jax.systems import base
from tfg_jax.systems.davs_losses import Inputs, mouth, pick
from tfg_jax.systems.davs_players import FPS, Settings, has_modes, opponents

# int16 units: below the rounding noise of any recording, so only digital silence is changed.
_QUIETEST = 1.0
# Heads of the public `davs_classifiers`, and the players that they are.
HEADS = {
  'words': 'word_classifier',
  'domain': 'domain_classifier',
  'identity_words': 'identity_word_classifier',
  'persons': 'person_classifier',
}


@dataclasses.dataclass(frozen=True)
class Speaker:
  """Everything of DAVS but its training.

  Attributes:
    settings: the section `model` of the config.
    networks: the players of this run.
    last_stage: of the run.
    axis_name: the pmap axis, or None under jit.
  """

  settings: Settings
  networks: Mapping[str, nn.Module]
  last_stage: int
  axis_name: str | None = None

  @property
  def draws(self) -> str:
    """Nothing in the runs that end before the decoder learns."""
    return 'driven_face' if 'decoder' in self.networks else ''

  @property
  def face_size(self) -> int:
    """S, the side of a face crop in pixels."""
    return self.settings.face_size

  @property
  def score(self) -> str:
    """What the run's last stage is about."""
    return ('portrait/person_error', 'seen/word_error', 'from_audio/l1')[self.last_stage]

  def _optimizer(self, name: str) -> optax.GradientTransformation:
    s = self.settings
    pictures = 'identity_encoder', 'lip_encoder', 'decoder'
    kind = s.optimizer if name in pictures else 'adam'
    rate = s.opponents_learning_rate if name in opponents(s) else s.learning_rate
    return base.optimizer(kind)(rate, b1=s.b1, b2=s.b2)

  def export(self, state: base.State, network: str):
    """The variables of one public network (a name of `tfg_jax.networks.OFFICIAL`)."""
    if network == 'davs_classifiers':
      held = {head: name for head, name in HEADS.items() if name in state.nets}
      if self.settings.identity_source == 'pooled' and 'identity_words' in held:
        del held['identity_words']  # another network than the public one
      return {'params': {head: state.nets[name].params for head, name in held.items()}}
    name = network.removeprefix('davs_')
    if not network.startswith('davs_') or name not in state.nets:
      held = [f'davs_{name}' for name in state.nets if name not in HEADS.values()]
      raise errors.ConversionError(
        f'this DAVS run holds no {network!r}.',
        hint=f'it holds {", ".join(held)} and davs_classifiers.',
      )
    net = state.nets[name]
    return {'params': net.params, 'batch_stats': net.stats}

  # ------------------------------------------------------------------------------------------------
  # Inputs
  # ------------------------------------------------------------------------------------------------

  def sample(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Frames of a clip for every purpose, its labels, and how its crops are shifted and flipped."""
    s = self.settings
    start = self._block_start(clip, rng)
    chosen = {
      'block_start': start,
      'portrait': rng.integers(s.block_frames),
      'kept_start': rng.integers(max(1, s.block_frames - s.identity_frames)),
      'word_start': rng.integers(max(1, s.block_frames - 2 * s.word_frames + 1)),
      'drawn_start': rng.integers(s.word_frames - s.drawn_frames + 1),
      'shift': rng.integers(-s.jitter, s.jitter + 1, 2),
      'flip': s.flip and rng.integers(2),
      **self._labels(clip),
    }
    return {name: np.asarray(value, np.int32) for name, value in chosen.items()}

  def sample_evaluation(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The middle of the clip; the portrait is a random frame of it."""
    s = self.settings
    chosen = {
      'block_start': self._block_start(clip, None),
      'portrait': rng.integers(s.block_frames),
      'kept_start': 0,
      'word_start': 0,
      'drawn_start': 0,
      'shift': (0, 0),
      'flip': 0,
      **self._labels(clip),
    }
    return {name: np.asarray(value, np.int32) for name, value in chosen.items()}

  def _block_start(self, clip, rng):
    s = self.settings
    spare = len(clip.frames) - s.block_frames - 2 * s.margin_frames
    if spare < 0:
      raise errors.DataError(
        f'clip {clip.clip_id} has {len(clip.frames)} frames; {s.block_frames} and '
        f'{s.margin_frames} at each end are needed',
        hint='prepare longer clips, or lower model.block_frames.',
      )
    return s.margin_frames + (spare // 2 if rng is None else rng.integers(spare + 1))

  def _labels(self, clip):
    labels = {}
    for name, extra, classes in (
      ('word', 'word_label', self.settings.words),
      ('person', 'identity', self.settings.persons),
    ):
      label = int(clip.extras[extra][0]) if extra in clip.extras else -1
      if classes and not 0 <= label < classes:
        said = f'{extra} {label}' if extra in clip.extras else f'no {extra}'
        raise errors.DataError(
          f'clip {clip.clip_id} has {said}; model.{name}s={classes} needs 0 to {classes - 1}',
          hint=f'set model.{name}s to the number of classes of the corpus (0: it has none).',
        )
      labels[name] = max(label, 0)
    return labels

  def _faces(self, batch, index):
    """(B, n, S, S, 3) RGB faces in [0, 1] of the frames (B, n) of a batch's blocks."""
    frame = batch['block_start'][:, None] + index
    frames = jnp.take_along_axis(batch['frames'], frame[..., None, None, None], axis=1)
    boxes = jnp.take_along_axis(batch['boxes'], frame[..., None], axis=1)
    boxes = boxes + jnp.tile(batch['shift'], 2)[:, None]
    faces = video_features.crop_faces(frames, boxes, self.face_size) / 255
    flipped = batch['flip'][:, None, None, None, None] > 0
    return jnp.where(flipped, faces[..., ::-1, :], faces)

  def _sounds(self, batch, index):
    """(B, n, 20, 12) cepstra around the frames (B, n) of a batch's blocks."""
    times = (batch['block_start'][:, None] + index) / FPS
    return audio_features.mfcc_windows(batch['wav'], batch['num_samples'], times, floor=_QUIETEST)

  def _inputs(self, batch) -> Inputs:
    s = self.settings
    block = self._faces(batch, self._every_frame(batch))
    word = batch['word_start'][:, None] + 2 * jnp.arange(s.word_frames)
    return Inputs(
      portrait=pick(block, batch['portrait'][:, None])[:, 0],
      kept=pick(block, batch['kept_start'][:, None] + jnp.arange(s.identity_frames)),
      seen=pick(block, word),
      heard=self._sounds(batch, word),
      drawn=batch['drawn_start'][:, None] + jnp.arange(s.drawn_frames),
      word=batch['word'],
      person=batch['person'],
    )

  # ------------------------------------------------------------------------------------------------
  # Evaluation
  # ------------------------------------------------------------------------------------------------

  def eval_step(self, state: base.State, batch: base.Batch) -> base.Metrics:
    """Numbers per clip, (B,) each, of what the run has networks for.

    'from_audio' and 'from_video' are drawn from the portrait, a random frame, beside which 'still'
    repeats it: `l1` and `mouth_l1` in [0, 1], `psnr` in dB, `ssim`. `word_error` is 1 where the
    word is not recognised in what is 'seen', 'heard', or in the sum of both; `person_error`
    likewise.
    """
    inputs, numbers = self._inputs(batch), {}
    if 'decoder' in self.networks:
      index = self._evaluation_index(batch)
      target = self._faces(batch, index)
      drawn = self._drawn(state, inputs.portrait, target, self._sounds(batch, index))
      still = jnp.broadcast_to(inputs.portrait[:, None], target.shape)
      rows = {'ground_truth': target, 'still': still, **drawn}
      for name, video in rows.items():
        numbers |= {f'{name}/{metric}': x for metric, x in self._distances(video, target).items()}
    if 'word_classifier' in self.networks:
      seen, heard = self._embeddings(state, inputs)
      seen_words = self._apply(state, self._lip_classifier, seen)
      heard_words = self._apply(state, 'word_classifier', heard)
      said = {'seen': seen_words, 'heard': heard_words, 'both': seen_words + heard_words}
      for name, logits in said.items():
        numbers[f'{name}/word_error'] = 1 - retrieval.correct(logits, inputs.word)
    if 'person_classifier' in self.networks:
      vector = self._apply(state, 'identity_encoder', inputs.portrait).vector
      logits = self._apply(state, 'person_classifier', vector)
      numbers['portrait/person_error'] = 1 - retrieval.correct(logits, inputs.person)
    return numbers

  def features(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """What `compare` needs of every clip of a split: (B, D) arrays and (B,) labels."""
    inputs, features = self._inputs(batch), {}
    if 'word_classifier' in self.networks:
      features['seen'], features['heard'] = self._embeddings(state, inputs)
    if 'decoder' in self.networks:
      drawn = self._drawn(state, inputs.portrait, inputs.seen, inputs.heard)
      drawn['still'] = jnp.broadcast_to(inputs.portrait[:, None], inputs.seen.shape)
      features |= {name: self._apply(state, 'lip_encoder', video) for name, video in drawn.items()}
    rows = {name: x.reshape(len(inputs.word), -1) for name, x in features.items()}
    return rows | {'word': inputs.word} | self._person(state, inputs)

  def lessons(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """What tells the word of a training clip, if persons do; else {}."""
    inputs = self._inputs(batch)
    if person := self._person(state, inputs):
      return person | {'word': inputs.word}
    return {}

  def _person(self, state, inputs):
    """{'person'}: (B, 20 D), who the clip's consecutive frames show, where E_p and words are."""
    if not ('identity_encoder' in self.networks and self.settings.words):
      return {}
    faces = inputs.kept.reshape(-1, *inputs.kept.shape[2:])
    vectors = self._apply(state, 'identity_encoder', faces).vector
    return {'person': vectors.reshape(len(inputs.word), -1)}

  def compare(
    self, features: Mapping[str, np.ndarray], lessons: Mapping[str, np.ndarray]
  ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Numbers of clips among all of a split, (clips,) each, and of the split as a whole.

    'video_to_audio', 'audio_to_video': the rank from 1 on at which a clip's other sense is found,
    recalls in percent. 'from_audio', 'from_video', 'still': the same of a drawn clip's original, by
    E_w (paper, Table 4). 'person/word_read': 1 where a linear SVM, taught with the lessons, reads
    the word from the identity's vectors, which should not tell it.
    """
    numbers, whole = {}, {}
    pairs = {'video_to_audio': ('seen', 'heard'), 'audio_to_video': ('heard', 'seen')}
    pairs |= {name: (name, 'seen') for name in ('from_audio', 'from_video', 'still')}
    for name, (query, gallery) in pairs.items():
      if query in features and gallery in features:
        found, _ = retrieval.ranks(features[query], features[gallery])
        numbers[f'{name}/rank'] = np.asarray(found) + 1.0
        summary = retrieval.recalls(found)
        del summary['mean_rank']  # that of the ranks above
        whole |= {f'{name}/{key}': x for key, x in summary.items()}
    if 'person' in features:
      taught = lessons['person'], lessons['word']
      numbers['person/word_read'] = probe.read(*taught, features['person'], features['word'])
    return numbers, whole

  def summary(self, results: dict[str, float]) -> str:
    """Says what the numbers of `eval_step` mean."""
    said = []
    if 'from_audio/mouth_l1' in results:
      still, parts = results['still/mouth_l1'], []
      for sense in ('audio', 'video'):
        share = 1 - results[f'from_{sense}/mouth_l1'] / still
        where = 'nearer to' if share > 0 else 'further from'
        parts.append(f'{abs(share):.0%} {where} the real ones when drawn from {sense}')
      said.append(f'Against the unmoved photo, mouths are {" and ".join(parts)}.')
    if 'seen/word_error' in results:
      right = {name: 1 - results[f'{name}/word_error'] for name in ('seen', 'heard', 'both')}
      said.append(
        f'Words are recognised in {right["seen"]:.0%} of the clips when seen, {right["heard"]:.0%} '
        f'when heard, {right["both"]:.0%} with both.'
      )
    if 'portrait/person_error' in results:
      said.append(f'{1 - results["portrait/person_error"]:.0%} of the persons are recognised.')
    return ' '.join(said)

  def samples(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """Real, drawn from audio and drawn from video: below each other, and side by side in videos."""
    inputs = self._inputs(batch)
    index = self._every_frame(batch)
    videos = [self._faces(batch, index)]
    if 'decoder' in self.networks:
      drawn = self._drawn(state, inputs.portrait, videos[0], self._sounds(batch, index))
      videos += drawn.values()
    videos = [_bytes(video) for video in videos]
    # Whole clips, so that picture and sound begin together.
    length = batch['frames'].shape[1]
    place = jnp.clip(jnp.arange(length) - batch['block_start'][:, None], 0, index.shape[1] - 1)
    beside = pick(jnp.concatenate(videos, axis=3), place)
    shown = self._evaluation_index(batch)[:, :8]

    def strip(video):  # (B, T, S, S, 3) -> (B, S, 8 S, 3)
      picked = pick(video, shown).swapaxes(1, 2)
      return picked.reshape(len(picked), picked.shape[1], -1, 3)

    return {'strips': jnp.concatenate([strip(video) for video in videos], axis=1), 'videos': beside}

  def _every_frame(self, batch):
    """(B, 25): the frames of the blocks."""
    frames = jnp.arange(self.settings.block_frames)
    return jnp.broadcast_to(frames, (len(batch['portrait']), len(frames)))

  def _evaluation_index(self, batch):
    """(B, n): frames spread over the blocks."""
    count = min(self.settings.evaluation_frames, self.settings.block_frames)
    spread = np.linspace(0, self.settings.block_frames - 1, count).round().astype(int)
    return self._every_frame(batch)[:, spread]

  def _apply(self, state, name, *inputs):
    """A network as it is used, with its running statistics."""
    net, module = state.nets[name], self.networks[name]
    settings = {'train': False} if has_modes(module) else {}
    return module.apply({'params': net.params, 'batch_stats': net.stats}, *inputs, **settings)

  @property
  def _lip_classifier(self):
    return 'word_classifier' if self.settings.shared_classifier else 'lip_word_classifier'

  def _embeddings(self, state, inputs):
    """(B, 12, D) of what is seen and of what is heard."""
    return (
      self._apply(state, 'lip_encoder', inputs.seen),
      self._apply(state, 'mfcc_encoder', inputs.heard),
    )

  def _drawn(self, state, portrait, video, sounds):
    """{'from_audio', 'from_video'}: (B, n, S, S, 3) in [0, 1], without the gains of `generate`."""
    who = self._apply(state, 'identity_encoder', portrait)
    moments = {
      'from_audio': self._apply(state, 'mfcc_encoder', sounds),
      'from_video': self._apply(state, 'lip_encoder', video),
    }
    return {name: self._draw(state, who, words) for name, words in moments.items()}

  def _draw(self, state, who, words):
    """(B, n, D) moments of speech of B persons to (B, n, S, S, 3)."""
    return self._apply(state, 'decoder', who.vector, who.net2, words)

  def _distances(self, video, target):
    """(B,) numbers, means over the frames."""
    top, bottom, left, right = self.settings.mouth_box
    error = jnp.abs(video - target)
    grey = (x.reshape(-1, *x.shape[2:]) * 255 for x in (video, target))
    image, reference = (jnp.round(x) for x in grey)

    def per_clip(values):
      return values.reshape(len(video), -1).mean(1)

    return {
      'l1': error.mean((1, 2, 3, 4)),
      'mouth_l1': error[:, :, top:bottom, left:right].mean((1, 2, 3, 4)),
      'psnr': per_clip(image_metrics.psnr(image, reference)),
      'ssim': per_clip(image_metrics.ssim(image, reference)),
    }

  # ------------------------------------------------------------------------------------------------
  # Use
  # ------------------------------------------------------------------------------------------------

  def generate(self, state: base.State, inputs: base.Batch) -> jax.Array:
    """Lets a person speak.

    Args:
      state: trained.
      inputs: `identity`, (N, S, S, 3) uint8 RGB, of which the first picture is the person; and
        either `driving`, (N, S, S, 3) uint8 RGB face crops of whoever speaks, or `wav` (L,) int16,
        a stretch of speech at 16 kHz with `num_samples` () valid samples, and `times` (N,) float32,
        seconds from the stretch's start to each frame.

    Returns:
      (N, S, S, 3) uint8 RGB faces, the whole face drawn.
    """
    who = self._apply(state, 'identity_encoder', inputs['identity'][:1] / 255)
    return _bytes(self._draw(state, who, self._moments(state, inputs, gain=True))[0])

  def adapt(self, state: base.State, inputs: base.Batch) -> base.State:
    """Fits E_p and G to one picture before `generate`, as the released scripts do; for one clip.

    Takes what `generate` takes. With `adaptation_steps` 0 the state stays as it is. The mouth
    hardly counts (0.001), as the picture's own mouth says something else.
    """
    s = self.settings
    picture = inputs['identity'][:1] / 255
    if 'driving' in inputs:
      moments = jnp.repeat(self._apply(state, 'lip_encoder', picture[None]), s.adaptation_steps, 1)
    else:
      moments = self._moments(state, inputs, gain=False)
    weight = 1 - 0.999 * mouth(s)[..., None]
    names = ('identity_encoder', 'decoder')
    for step in range(min(s.adaptation_steps, moments.shape[1])):

      def loss(params, state=state, step=step):
        nets = {name: state.nets[name].replace(params=params[name]) for name in names}
        fitted = state.replace(nets=state.nets | nets)
        who = self._apply(fitted, 'identity_encoder', picture)
        drawn = self._draw(fitted, who, moments[:, step : step + 1])[:, 0]
        return 4 * jnp.abs(weight * (drawn - picture)).mean()

      grads = jax.grad(loss)({name: state.nets[name].params for name in names})
      nets = {}
      for name in names:
        # The optimiser is made anew for every step, so no momentum builds up.
        fresh = base.Net.create(
          state.nets[name].params, state.nets[name].stats, self._optimizer(name)
        )
        nets[name] = state.nets[name].replace(
          params=fresh.update(grads[name], self._optimizer(name)).params
        )
      state = state.replace(nets=state.nets | nets)
    return state

  def _moments(self, state, inputs, *, gain):
    """(1, N, D): what the driving video or the sound says."""
    s = self.settings
    if 'driving' in inputs:
      words = self._apply(state, 'lip_encoder', inputs['driving'][None] / 255)
      return words * (s.video_gain if gain else 1)
    windows = audio_features.mfcc_windows(
      inputs['wav'][None], inputs['num_samples'][None], inputs['times'][None], floor=_QUIETEST
    )
    return self._apply(state, 'mfcc_encoder', windows) * (s.audio_gain if gain else 1)


def _bytes(image):
  return (image * 255).round().astype(jnp.uint8)
