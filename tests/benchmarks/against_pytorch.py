r"""TalkLip here and in eager PyTorch, on the same cores, in turn, with the same weights.

  python -m tests.benchmarks.against_pytorch

step       a training step of generator and discriminator, without the expert (configs/talklip.py:
           no_lip), 20 faces of 4 clips
generate   all faces of a clip of 3 s drawn to speech; PyTorch is given its log-mels

Both in float32, in one process that keeps its memory as tfg_jax's commands do. Losses and faces of
both are compared: the work is the same.
"""

from tfg_jax import host

host.keep_memory()  # before others start threads

import dataclasses
import os

import jax
import numpy as np
import torch
from absl import app, flags
from torch.nn import functional

from configs import talklip
from tests import runs
from tests.benchmarks import inputs, timing
from tests.torch_twins import talklip as twins
from tfg_jax import partition, pytorch, train, trained
from tfg_jax.features import audio
from tfg_jax.systems import mouths

CLIPS, SECONDS = 4, 3


@dataclasses.dataclass(frozen=True)
class Twins:
  """TalkLip's players in PyTorch, with the numbers of a state of ours."""

  generator: torch.nn.Module
  discriminator: torch.nn.Module
  optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer]
  weights: tuple[float, float]  # of L1 and the adversarial loss

  @classmethod
  def of(cls, system, state) -> 'Twins':
    settings = system.settings
    face = {
      **settings.face,
      'audio': settings.audio_encoder,
      'features': settings.contrastive_features,
    }
    players = []
    for build, section, network in (
      (twins.TalkLip, face, 'talklip_generator'),
      (twins.TalkLipDiscQual, settings.discriminator, 'talklip_discriminator'),
    ):
      tensors = pytorch.to_torch(network, system.export(state, network))
      player = build(**section)
      player.load_state_dict({key: torch.tensor(np.asarray(x)) for key, x in tensors.items()})
      players.append(player)
    rate, betas = settings.learning_rate, (settings.b1, settings.b2)
    optimizers = tuple(torch.optim.Adam(x.parameters(), rate, betas) for x in players)
    return cls(*players, optimizers, (settings.loss.l1, settings.loss.adversarial))

  def step(self, face, mel, target) -> dict[str, float]:
    """Updates both players on faces (N, 6, S, S), log-mels and real faces (N, 3, S, S)."""
    l1, adversarial = self.weights
    g_optimizer, d_optimizer = self.optimizers
    self.discriminator.requires_grad_(False)
    fake = self.generator(face, mel)
    terms = {'g/l1': functional.l1_loss(fake, target), 'g/adversarial': self._judge(fake, 1)}
    g_optimizer.zero_grad()
    (l1 * terms['g/l1'] + adversarial * terms['g/adversarial']).backward()
    g_optimizer.step()
    self.discriminator.requires_grad_(True)
    terms |= {'d/real': self._judge(target, 1), 'd/fake': self._judge(fake.detach(), 0)}
    d_optimizer.zero_grad()
    (terms['d/real'] + terms['d/fake']).backward()
    d_optimizer.step()
    return {name: x.item() for name, x in terms.items()}

  def _judge(self, faces, label):
    real = self.discriminator(faces)
    return functional.binary_cross_entropy(real, torch.full_like(real, label))

  def draw(self, face, mel):
    """(N, 3, S, S) faces as a trained generator draws them."""
    with torch.no_grad():
      return self.generator.eval()(face, mel)


def nchw(x):
  """(N, H, W, C) as PyTorch has it."""
  return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2).copy())


def log_mels(wav, num_samples, times):
  """(N, 80, 16, 1) of the frames at `times` (B, n) s."""
  mel = audio.mel_windows(wav, num_samples, times)
  return mel.reshape(-1, *mel.shape[2:])[..., None]


def training_step(config, rounds: int) -> str:
  """Compares a step of `config`; says how they compare.

  Raises:
    AssertionError: if the losses of the two differ.
  """
  run, system = runs.build(config)
  batch = inputs.noisy_batch(run, system, run.data.batch_size)
  state = runs.noisy_state(system)
  target, face, index, _ = mouths.window_inputs(
    batch, system.settings.window_frames, system.face_size
  )
  mel = log_mels(batch['wav'], batch['num_samples'], index / mouths.FPS)
  theirs, given = Twins.of(system, state), [nchw(x) for x in (face, mel, target)]

  place = partition.build('jit', batch_size=run.data.batch_size, devices=jax.devices()[:1])
  step = place.train(train.skip_bad_steps(system.train_step))
  held, batch = place.replicate(state), place.put(batch)
  terms = []

  def ours():
    nonlocal held
    held, metrics = step(held, batch)
    terms.append({name: float(x) for name, x in metrics.items()})

  calls = {'tfg_jax': ours, 'pytorch': lambda: terms.append(theirs.step(*given))}
  seconds = timing.in_turn(calls, rounds)
  for name, value in terms[1].items():
    np.testing.assert_allclose(terms[0][name], value, rtol=1e-3, err_msg=name)
  return report('step', len(target), seconds)


def whole_clip(config, rounds: int) -> str:
  """Compares the drawing of a clip with a generator of `config`; says how they compare.

  Raises:
    AssertionError: if the faces of the two differ.
  """
  _, system = runs.build(config)
  rng = np.random.default_rng(0)
  state = runs.noisy_state(system)
  count, size = mouths.FPS * SECONDS, system.face_size
  pictures = rng.integers(0, 256, (2, count, size, size, 3), np.uint8)
  wav = rng.integers(-20_000, 20_000, SECONDS * audio.SAMPLE_RATE, np.int16)
  clip = {
    'faces': pictures[0],
    'identity': pictures[1],
    'wav': wav,
    'num_samples': np.int32(len(wav)),
    'times': np.arange(count, dtype=np.float32) / mouths.FPS,
  }
  target, identity = (x[..., ::-1] / np.float32(255) for x in pictures)
  face = mouths.pose_and_identity(jax.numpy.asarray(target), identity)
  mel = log_mels(wav[None], np.int32([len(wav)]), clip['times'][None])
  theirs, given = Twins.of(system, state), [nchw(x) for x in (face, mel)]
  draw, held = trained.jitted(system)['generate'], jax.device_put(state)
  faces = {}
  calls = {
    'tfg_jax': lambda: faces.update(ours=np.asarray(draw(held, clip))),
    'pytorch': lambda: faces.update(theirs=theirs.draw(*given)),
  }
  seconds = timing.in_turn(calls, rounds)
  expected = 255 * faces['theirs'].numpy().transpose(0, 2, 3, 1)[..., ::-1]
  np.testing.assert_allclose(faces['ours'], expected, atol=0.6)  # ours are rounded
  return report('generate', count, seconds)


def report(what: str, faces: int, seconds) -> str:
  """The table of one comparison."""
  times = ', '.join(f'{name} {min(x):.3f} s' for name, x in seconds.items())
  return f'{what}, {faces} faces: {times}; {timing.ratio(seconds, "tfg_jax", "pytorch")}'


COMPARISONS = (training_step, whole_clip)


def main(_):
  host.prepare_jax()
  print(f'{len(os.sched_getaffinity(0))} cores, JAX {jax.__version__}, PyTorch {torch.__version__}')
  config = talklip.get_config('no_lip')
  config.data.batch_size, config.model.windows = CLIPS, 1
  for compare in COMPARISONS:
    print(compare(config, _ROUNDS.value), flush=True)


if __name__ == '__main__':
  _ROUNDS = flags.DEFINE_integer('rounds', 5, 'How often each is measured.', lower_bound=1)
  app.run(main)
