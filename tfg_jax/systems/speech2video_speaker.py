"""What a trained Speech2Video does: it hears speech, draws who speaks, and is measured."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tfg_jax import errors
from tfg_jax.features import speech
from tfg_jax.networks.speech2video import FrameDecoder
from tfg_jax.systems import base, drawn_faces
from tfg_jax.systems.speech2video_players import COMPOSITION, Settings
from tfg_jax.systems.speech_experts import PUBLIC, Experts


@dataclasses.dataclass(frozen=True)
class Speaker:
  """Everything of Speech2Video but its training.

  Attributes:
    settings: the section `model` of the config.
    fps: of the corpus, and of what is drawn.
    experts: read speech and faces; some of them learn in stage 0.
    networks: students, decoder and discriminators by player.
    axis_name: the pmap axis, or None under jit.
  """

  settings: Settings
  fps: float
  experts: Experts
  networks: Mapping[str, nn.Module]
  axis_name: str | None = None

  score = 'generated/l1'
  draws = 'head'
  last_stage = COMPOSITION

  @property
  def face_size(self) -> int:
    """S, the side of a face in pixels."""
    return self.decoder.image_size

  @property
  def decoder(self) -> FrameDecoder:
    """F."""
    return self.networks['decoder']

  @property
  def sources(self) -> dict[str, str]:
    """Where weights are taken from: expert -> folder."""
    return self.experts.sources

  def export(self, state: base.State, network: str):
    """The variables of one public network (a name of `tfg_jax.networks.OFFICIAL`)."""
    for expert, name in PUBLIC.items():
      if name == network:
        return self.experts.variables(state, expert)
    raise errors.ConversionError(
      f'a Speech2Video run holds no {network!r}.', hint=f'it holds {", ".join(PUBLIC.values())}.'
    )

  # ------------------------------------------------------------------------------------------------
  # Inputs
  # ------------------------------------------------------------------------------------------------

  def sample(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Frames to draw, and for each another one whose speech is out of sync with it."""
    total, count = len(clip.frames), self.settings.frames
    index = rng.choice(total, count, replace=total < count)
    apart = np.abs(np.arange(total) - index[:, None])
    # As far apart as asked for, else as far as the clip allows.
    allowed = apart >= np.minimum(self.settings.out_of_sync, apart.max(1, keepdims=True))
    shifted = [rng.choice(np.flatnonzero(row)) for row in allowed]
    return self.experts.sample(clip, rng) | {
      'drawn_frames': np.array(index, np.int32),
      'shifted_index': np.array(shifted, np.int32),
    }

  def sample_evaluation(self, clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Frames spread over the clip."""
    return self.experts.sample_evaluation(clip, rng, self.settings.evaluation_frames)

  def _faces(self, batch, index):
    """(B * n, S, S, 3) faces in [-1, 1] of frames (B, n)."""
    faces = drawn_faces.to_signed(self.experts.faces(batch, index, self.face_size))
    return faces.reshape(-1, *faces.shape[2:])

  def _apply(self, state, name, *inputs, params=None, **settings):
    params = state.nets[name].params if params is None else params
    stats = state.nets[name].stats
    variables = {'params': params, **({'batch_stats': stats} if stats else {})}
    return self.networks[name].apply(variables, *inputs, **settings)

  def _listen(self, state, wav, num_samples):
    """Contexts (B, N, D), identities nu (B, D) and emotions mu (B, 8) of clips."""
    context, omega = self.experts.hear_whole(state, wav, num_samples)
    omega = standardised(omega, state.schedule)
    identity, emotion = (
      self._apply(state, name, omega) for name in ('identity_student', 'emotion_student')
    )
    return context, identity, emotion

  # ------------------------------------------------------------------------------------------------
  # Use
  # ------------------------------------------------------------------------------------------------

  def eval_step(self, state: base.State, batch: base.Batch) -> base.Metrics:
    """Numbers per clip, means over its evaluation frames, (B,) each.

    Rows: 'ground_truth'; 'average_face', the mean of the training faces; 'generated'. `l1` in
    [0, 1], `ssim`, `psnr` in dB. Where the corpus has labels, `right_person`, `right_emotion` and
    `right_traits`: whether the observer, which is neither teacher, sees them. Where both teachers
    learned here, too: 'teacher', what they see in the real frames, and 'speech', what stage 1
    hears: in nu, as the identity teacher names it, and in mu.
    """
    index = batch['drawn_frames']
    clips, each = index.shape
    real = self._faces(batch, index)
    context, identity, emotion = self._listen(state, batch['wav'], batch['num_samples'])
    maps = self._apply(state, 'decoder', identity, train=False, method='inflate')
    times = (index + 1) / self.fps
    drawn = self._draw(state, context, emotion, maps, times)
    average = jnp.broadcast_to(state.schedule['average_face'], real.shape)
    numbers = {}
    for row, image in (('ground_truth', real), ('average_face', average), ('generated', drawn)):
      numbers |= drawn_faces.distances(row, image, real, clips)
      if self.experts.observer is not None:
        numbers |= drawn_faces.recognised(row, batch, self.experts.observe(state, image))
    if {'identity_teacher', 'emotion_teacher'} <= set(state.nets):
      size = self.experts.settings.teacher_size
      faces = self.experts.faces(batch, index, size).reshape(-1, size, size, 3)
      for row, description, mood in (
        ('teacher', self.experts.describe(state, faces), self.experts.feel(state, faces)),
        ('speech', jax.nn.relu(identity), emotion),
      ):
        said = {'identity': self.experts.name(state, description), 'emotion': mood}
        numbers |= drawn_faces.recognised(row, batch, said)
    return numbers

  def summary(self, results: dict[str, float]) -> str:
    """Says what the numbers of `eval_step` mean, and which experts were at hand."""
    text = (
      f'From the voices of clips it has not seen it draws faces of SSIM '
      f'{results["generated/ssim"]:.3f}; the average training face has '
      f'{results["average_face/ssim"]:.3f}.'
    )
    if 'generated/right_person' in results:
      drawn, real = (
        [results[f'{row}/right_{what}'] for what in ('person', 'emotion')]
        for row in ('generated', 'ground_truth')
      )
      text += (
        f' An observer knows {drawn[0]:.0%} of the speakers and {drawn[1]:.0%} of the emotions in '
        f'them, against {real[0]:.0%} and {real[1]:.0%} in the real videos; guessing gives '
        f'{1 / self.experts.observer.identities:.0%} of the speakers.'
      )
    learned = [name.replace('_', ' ') for name in self.experts.learned if name in PUBLIC]
    if learned:
      text += (
        f' No weights were given for {", ".join(learned)}, so they learned from this corpus alone; '
        "the paper's are public ones (model.experts.weights)."
      )
    return text

  def samples(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """Real faces (left or above) and those drawn from the speech (right or below)."""
    clips, length = batch['frames'].shape[:2]
    index = jnp.broadcast_to(jnp.arange(length), (clips, length))
    real = self._faces(batch, index)
    context, identity, emotion = self._listen(state, batch['wav'], batch['num_samples'])
    maps = self._apply(state, 'decoder', identity, train=False, method='inflate')
    drawn = self._draw(state, context, emotion, maps, (index + 1) / self.fps)
    real, drawn = (x.reshape(clips, length, *x.shape[1:]) for x in (real, drawn))
    return drawn_faces.pictures(real, drawn, batch['num_frames'])

  def videos(self, state: base.State, batch: base.Batch) -> dict[str, jax.Array]:
    """Whole clips for observers, (B, T, H, W, 3) uint8 RGB: real, and with drawn faces."""

    def draw(clip):
      context, identity, emotion = self._listen(state, clip['wav'], clip['num_samples'])
      maps = self._apply(state, 'decoder', identity, train=False, method='inflate')
      times = (jnp.arange(clip['frames'].shape[1])[None] + 1) / self.fps
      return self._draw(state, context, emotion, maps, times)

    return {'ground_truth': batch['frames'], 'generated': drawn_faces.redraw(draw, batch)}

  def describe(self, state: base.State, inputs: base.Batch) -> base.Batch:
    """Who speaks, and in which mood: what `generate` draws in all chunks of one speech.

    Args:
      state: trained.
      inputs: `wav` (M, L) int16, stretches of the speech at 16 kHz about as long as training clips,
        of which `num_samples` (M,) are sound.

    Returns:
      `identity` (D,) and `emotion` (8,), means over the stretches.
    """
    _, identity, emotion = self._listen(state, inputs['wav'], inputs['num_samples'])
    return {'identity': identity.mean(0), 'emotion': emotion.mean(0)}

  def generate(self, state: base.State, inputs: base.Batch) -> jax.Array:
    """Draws the frames of a stretch of speech.

    Args:
      state: trained.
      inputs: `wav` (L,) int16, speech at 16 kHz; `times` (N,) float32, seconds from its start to
        each frame; `identity` and `emotion` from `describe`. Frames should have heard a second or
        two: `wav` begins that much earlier.

    Returns:
      (N, S, S, 3) uint8 RGB faces, at `fps`.
    """
    context = self.experts.hear(state, inputs['wav'][None])
    identity, emotion = inputs['identity'][None], inputs['emotion'][None]
    maps = self._apply(state, 'decoder', identity, train=False, method='inflate')
    times = inputs['times'][None] + 1 / self.fps
    return drawn_faces.to_uint8(self._draw(state, context, emotion, maps, times))

  def _draw(self, state, context, emotion, maps, times):
    """(B * n, S, S, 3) in [-1, 1]: frames that end at `times` (B, n) in seconds."""
    each = times.shape[1]
    step = speech.steps_at(times, context.shape[1])
    heard = jnp.take_along_axis(context, step[..., None], axis=1)
    frames = self._apply(
      state,
      'decoder',
      heard.reshape(-1, heard.shape[-1]),
      jnp.repeat(emotion, each, axis=0),
      [jnp.repeat(x, each, axis=0) for x in maps],
      train=False,
      method='draw',
    )
    return jnp.clip(frames, -1, 1)


def standardised(omega, schedule):
  """omega (B, D) over the deviations that clips have in it: who speaks shows in a small part of it,
  which the students would find late or never."""
  variance = schedule['omega_square'] - jnp.square(schedule['omega'])
  return (omega - schedule['omega']) * jax.lax.rsqrt(jnp.maximum(variance, 0) + 1e-6)
