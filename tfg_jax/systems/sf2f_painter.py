"""What a trained SF2F does: it hears a voice, draws portraits, and is measured."""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tfg_jax import errors
from tfg_jax.data import voices
from tfg_jax.features import audio as audio_features
from tfg_jax.features import portrait, voice
from tfg_jax.networks.facenet import FaceFeatures, FaceNet
from tfg_jax.networks.sf2f import VoiceToFace
from tfg_jax.systems import base
from tfg_jax.systems.sf2f_players import FACES, FUSION, LONGEST, PORTRAITS, SETTLING, Settings

_NO_FRAMES = np.zeros(0, np.int32)  # of the video: portraits stand for it


@dataclasses.dataclass(frozen=True)
class Painter:
  """Everything of SF2F but its training.

  Attributes:
    settings: the section `model` of the config.
    fps: of the videos that `samples` makes of portraits.
    generator: draws, with the fuser in it where there is one.
    judges: the discriminators that exist, by player and size.
    facenet: learns from the corpus, or is given.
    axis_name: the pmap axis, or None under jit.
  """

  settings: Settings
  fps: float
  generator: VoiceToFace
  judges: Mapping[str, Mapping[int, nn.Module]]
  facenet: FaceNet
  axis_name: str | None = None

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
  def _fuses(self) -> bool:
    return self.generator.fuser is not None

  @property
  def last_stage(self) -> int:
    """The fuser's, where there is one; FaceNet's, where nothing else learns."""
    if not (self.settings.start or self.settings.portrait_steps):
      return FACES
    if self._fuses:
      return FUSION
    return SETTLING if self.settings.settling_steps else PORTRAITS

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
    for name in self.judges:
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
      **voices.random_crop(wav, LONGEST, rng),
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

  def _noise(self, key, count: int):
    if not self.settings.noise:
      return None
    return jax.random.normal(key, (count, self.generator.encoder.features))

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
