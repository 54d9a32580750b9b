"""The README's main command, shortened, and what follows from it."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from tfg_jax import media, trained

pytestmark = pytest.mark.end_to_end

ROOT = pathlib.Path(__file__).parents[1]


def run(*command):
  return subprocess.run(
    [sys.executable, '-m', *command],
    cwd=ROOT,
    # Its size is the demo's own: here the compiler's effort pays.
    env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1', 'XLA_FLAGS': ''},
    capture_output=True,
    text=True,
  )


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('demo')
  done = run(
    'tfg_jax.main',
    '--config=configs/demo.py',
    f'--workdir={workdir}',
    '--config.data.puppets.clips=48',
    '--config.num_steps=60',
    '--config.evaluation.every=30',
    '--config.evaluation.samples=2',
    '--config.log_every=10',
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return workdir, done.stdout


def test_the_demo_learns_and_says_what_it_made(demo):
  workdir, said = demo
  assert 'No record set is named: 48 clips of talking puppets' in said
  assert 'steps/s' in said and 'left  waiting for data' in said
  assert 'On clips it has not seen, the drawn mouths are' in said
  assert 'talklip is trained: 60 steps' in said
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  l1 = [row['g/l1'] for row in rows if 'g/l1' in row]
  assert len(l1) == 60
  assert sum(l1[-10:]) < 0.75 * sum(l1[:10])
  results = json.loads((workdir / 'results.json').read_text())
  assert results['clips'] >= 2
  assert results['means']['ground_truth/mouth_l1'] == 0


def test_its_samples_have_pictures_and_sound(demo):
  workdir, _ = demo
  clip = media.probe(str(workdir / 'samples' / 'step_000000060_clip_0.mp4'))
  assert clip.has_audio
  assert (clip.width, clip.height) == (192, 96)  # real and generated, side by side
  assert clip.duration == pytest.approx(2.0, abs=0.1)
  assert list((workdir / 'tensorboard').glob('events*'))


def test_evaluation_alone_gives_the_same_numbers(demo):
  workdir, _ = demo
  results = json.loads((workdir / 'results.json').read_text())
  config = '--config=configs/demo.py'  # which names no records: those of the run
  done = run('tfg_jax.main', '--mode=evaluate', config, f'--workdir={workdir}')
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.index('ground truth') < done.stdout.index('generated')
  assert 'psnr_official' in (workdir / 'report.html').read_text()
  again = json.loads((workdir / 'results.json').read_text())
  assert again['step'] in (30, 60)  # the best
  if again['step'] == results['step']:
    # Evaluation alone also measures whole videos.
    assert {'generated/psnr', 'generated/ssim'} <= again['means'].keys() - results['means'].keys()
    same = {name: again['means'][name] for name in results['means']}
    assert same == pytest.approx(results['means'], rel=1e-4)


def test_generate_with_the_trained_run(demo, tmp_path):
  workdir, _ = demo
  clip = workdir / 'samples' / 'step_000000060_clip_0.mp4'
  output = tmp_path / 'out.mp4'
  done = run(
    'tfg_jax.generate',
    f'--workdir={workdir}',
    f'--video={clip}',
    f'--audio={workdir / "samples" / "step_000000060_clip_1.mp4"}',
    '--box=16,10,80,90',
    f'--output={output}',
  )
  assert done.returncode == 0, done.stderr[-3000:]
  made = media.probe(str(output))
  assert made.has_audio
  assert (made.width, made.height, made.rate) == (192, 96, 25)
  assert made.duration == pytest.approx(2.0, abs=0.04)


@pytest.fixture(scope='module')
def exported(demo, tmp_path_factory):
  """The trained networks as tensors that PyTorch has read, by name."""
  torch = pytest.importorskip('torch', reason='needs the extra [torch]')
  workdir, _ = demo
  folder = tmp_path_factory.mktemp('exported')
  tensors = {}
  for network in ('talklip_generator', 'talklip_discriminator'):
    path = folder / f'{network}.pth'
    flags = f'--network={network}', f'--input={workdir}', f'--output={path}'
    done = run('tfg_jax.convert', 'export', *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    tensors[network] = torch.load(path, weights_only=True)
  return tensors


def test_the_trained_networks_draw_and_judge_the_same_in_pytorch(demo, exported):
  torch = pytest.importorskip('torch', reason='needs the extra [torch]')
  twins = pytest.importorskip('torch_twins.talklip')
  run = trained.load(demo[0])
  model, size = run.run.model, run.system.face_size
  generator = twins.TalkLip(
    **model['face'], audio=model['audio_encoder'], features=run.system.settings.contrastive_features
  )
  generator.load_state_dict(exported['talklip_generator'], strict=True)
  judge = twins.TalkLipDiscQual(**model['discriminator'])
  judge.load_state_dict(exported['talklip_discriminator'], strict=True)

  rng = np.random.default_rng(0)
  face = rng.random((2, size, size, 6), np.float32)
  mel = rng.uniform(-4, 4, (2, 80, 16, 1)).astype(np.float32)
  variables = run.system.export(run.state, 'talklip_generator')
  drawn, _ = run.system.generator.apply(variables, face, mel, train=False)
  params = run.state.nets['discriminator'].params
  said = jax.nn.sigmoid(run.system.discriminator.apply({'params': params}, face[..., :3]))
  with torch.no_grad():
    face, mel = (torch.from_numpy(x.transpose(0, 3, 1, 2).copy()) for x in (face, mel))
    np.testing.assert_allclose(generator.eval()(face, mel).permute(0, 2, 3, 1), drawn, atol=1e-4)
    np.testing.assert_allclose(judge.eval()(face[:, :3]), said, atol=1e-4)
  assert np.ptp(drawn) > 0.1
