"""The README's main command, shortened, and what follows from it."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tfg_jax import media

pytestmark = pytest.mark.end_to_end

ROOT = pathlib.Path(__file__).parents[1]


def run(*command):
  return subprocess.run(
    [sys.executable, '-m', *command],
    cwd=ROOT,
    env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1'},
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
  assert clip.duration == pytest.approx(3.0, abs=0.1)
  assert list((workdir / 'tensorboard').glob('events*'))


def test_evaluation_alone_gives_the_same_numbers(demo):
  workdir, _ = demo
  results = json.loads((workdir / 'results.json').read_text())
  done = run('tfg_jax.main', '--mode=evaluate', f'--workdir={workdir}')
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.index('ground truth') < done.stdout.index('generated')
  again = json.loads((workdir / 'results.json').read_text())
  assert again['step'] in (30, 60)  # the best
  if again['step'] == results['step']:
    assert again['means'] == pytest.approx(results['means'], rel=1e-4)


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
  assert made.duration == pytest.approx(3.0, abs=0.04)


def test_the_trained_networks_export_to_pytorch(demo, tmp_path):
  workdir, _ = demo
  for network in ('talklip_generator', 'talklip_discriminator'):
    output = tmp_path / f'{network}.safetensors'
    done = run(
      'tfg_jax.convert',
      'export',
      f'--network={network}',
      f'--input={workdir}',
      f'--output={output}',
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert output.stat().st_size > 10_000
