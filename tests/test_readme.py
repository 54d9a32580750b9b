"""The README: every command in it is run as it stands there, on small things instead of large ones.

A command runs in a folder of its own, in which what it names lies by that name. Instead of
`configs/NAME.py:VARIANT` it gets the small twin (see `twins.py`), and flags behind its own make it
shorter or tell it where faces are, which otherwise a detector would have to find. A command that no
test here knows fails `test_the_readme_has_no_other_commands`.
"""

import collections
import csv
import functools
import importlib
import json
import os
import pathlib
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import types
import urllib.request

import clips
import corpus
import fabricated
import numpy as np
import planted
import pytest
import runs
import setuptools
from PIL import Image

from configs import davs, sf2f, speech2video, sync_expert, talklip
from tfg_jax import convert, marks, media, pytorch
from tfg_jax.claims import jobs
from tfg_jax.data import clip_codec, records
from tfg_jax.pytorch import converted, files, matching

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')

# --------------------------------------------------------------------------------------------------
# What the README has
# --------------------------------------------------------------------------------------------------

_FENCED = re.compile(r'^```(\w*)\n(.*?)^```$', re.M | re.S)
_IN_LINE = re.compile(r'`([^`]+)`')
_COMMAND = re.compile(r'(python3?|pip|pytest|git|gcloud|bash|\.ci/\w+)( |$)|(-m|--) \S')
_INSTALLS = re.compile(r'pip install -e "\.\[(\w+)\]"')
_TESTS = re.compile(r'pytest|(?:pytest )?-m (\w+)')
_ELSEWHERE = {
  'gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all '
  '--command="python -m tfg_jax.main --multihost --config=CONFIG --workdir=DIR"': 'asks for a TPU '
  'slice',
  'xpk workload create --cluster=CLUSTER --workload=NAME --docker-image=IMAGE '
  '--tpu-type=v5litepod-64 '
  '--command="python -m tfg_jax.main --multihost --config=CONFIG --workdir=DIR"': 'asks for GKE',
  'srun --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 '
  'python -m tfg_jax.main --multihost --config=CONFIG --workdir=DIR': 'asks for Slurm; '
  'test_many_processes.py starts two processes with what it sets',
  '-- --runner=FlinkRunner --flink_master=HOST:8081': 'asks for a Flink cluster; test_prepare.py '
  'has another runner of Beam make the same records',
  'python -m tests.benchmarks.against_pytorch': 'test_benchmarks.py runs it on small networks',
  'python -m tests.benchmarks.training_step --config=configs/sf2f.py --config.dtype=bfloat16 '
  '--config.model.facenet_weights=sf2f_facenet --peak=989': 'the same',
  'python -m tests.benchmarks.data_rates --config=configs/talklip.py:no_lip '
  '--config.data.root=DIR --step_ms=200': 'the same',
  '.ci/run': 'runs this test, in an environment of its own',
}

_run_here = []


def readme(names, *rows, tier='end_to_end'):
  """Has a test run commands of the README: of each row those of its values that are commands.

  Args:
    names: of the test's arguments, as `pytest.mark.parametrize` has them.
    *rows: their values.
    tier: the marker of the test.
  """
  for row in rows:
    _run_here.extend(x for x in ([row] if isinstance(row, str) else row) if _COMMAND.match(x))

  def mark(test):
    return getattr(pytest.mark, tier)(pytest.mark.parametrize(names, rows)(test))

  return mark


def commands():
  """All commands of the README, each in one line: those of blocks, and those within the text."""
  found = []
  for language, block in _FENCED.findall(README):
    if language in ('', 'bash', 'sh'):
      lines = block.replace('\\\n', ' ').splitlines()
      found += [part for line in lines if line and line[0] != '#' for part in line.split(' && ')]
  found += filter(_COMMAND.match, _IN_LINE.findall(_FENCED.sub('', README)))
  return [' '.join(line.split()) for line in found]


def test_the_readme_has_no_other_commands():
  """Those of pip and pytest are looked at below."""
  there = collections.Counter(
    x for x in commands() if not (_INSTALLS.fullmatch(x) or _TESTS.fullmatch(x))
  )
  known = collections.Counter([*_run_here, *_ELSEWHERE])
  new, gone = (list(x.elements()) for x in (there - known, known - there))
  assert not new, f'no test runs these commands of the README: {new}'
  assert not gone, f'these commands are in the README no more: {gone}'


def test_extras_that_the_readme_names_exist(monkeypatch):
  given = {}
  monkeypatch.setattr(setuptools, 'setup', given.update)
  runpy.run_path(str(ROOT / 'setup.py'))
  named = _INSTALLS.findall(README) + re.findall(r'extra\s+`(\w+)`', README)
  assert {'demo', 'test', 'tpu'} <= set(named) <= set(given['extras_require'])


def test_tiers_of_tests_that_the_readme_names_exist(pytestconfig):
  known = {line.split(':')[0] for line in pytestconfig.getini('markers')}
  named = {found[1] for x in commands() if (found := _TESTS.fullmatch(x)) and found[1]}
  assert {'parity', 'end_to_end'} <= named <= known


# --------------------------------------------------------------------------------------------------
# Where commands run
# --------------------------------------------------------------------------------------------------


class Place:
  """A folder in which commands run; a folder in /tmp lies here, too."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    for name in ('configs', 'tests'):
      (folder / name).symlink_to(ROOT / name)

  def __truediv__(self, name):
    return self.folder / name

  def put(self, things):
    """Copies files and folders here: name -> where it is."""
    for name, thing in things.items():
      if thing.is_dir():
        shutil.copytree(thing, self.folder / name)
      else:
        shutil.copy(thing, self.folder / name)

  def start(self, line, *more, **settings) -> subprocess.Popen:
    """Starts a command of the README with more flags behind it."""
    line = re.sub(r'configs/(\w+)\.py:', r'tests/twins.py:\1:', line.replace('/tmp/', ''))
    program, *arguments = shlex.split(line)
    assert program == 'python'
    return subprocess.Popen(
      [sys.executable, *arguments, *more],
      cwd=self.folder,
      env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1', 'PYTHONPATH': str(ROOT)},
      stdout=subprocess.PIPE,
      text=True,
      **settings,
    )

  def run(self, line, *more) -> str:
    """Runs a command to its end, which must be a good one; returns what it has printed."""
    with self.start(line, *more, stderr=subprocess.PIPE) as process:
      said, complaints = process.communicate()
    assert process.returncode == 0, f'{line}\n{said[-3000:]}\n{complaints[-3000:]}'
    return said


@pytest.fixture
def place(tmp_path):
  return Place(tmp_path)


_BOX = '--box=20,14,44,46'  # of the face in `me`
_FEW = ('--config.data.puppets.clips=4', '--config.data.puppets.eval_fraction=0.25')


@pytest.fixture(scope='module')
def me(tmp_path_factory):
  """Paths of a video, of a picture, of boxes of the video's faces, and of speech."""
  folder = tmp_path_factory.mktemp('me')
  boxes, noise = folder / 'boxes.npy', np.random.default_rng(0).normal(0, 6000, (32_000, 1))
  np.save(boxes, np.tile([20.0, 14, 44, 46], (25, 1)))
  sound = noise.astype(np.int16)
  return types.SimpleNamespace(
    video=pathlib.Path(clips.write(folder / 'me.mp4', 25, audio=clips.tone(1))),
    image=pathlib.Path(clips.write(folder / 'me.png', 1, codec='png', pixels='rgb24')),
    speech=pathlib.Path(clips.write(folder / 'me.wav', audio=sound, audio_codec='pcm_s16le')),
    boxes=boxes,
  )


_CONFIGS = {
  'talklip': lambda: talklip.get_test_config('no_lip'),
  'davs': davs.get_test_config,
  'sdfa': lambda: speech2video.get_test_config('crema_d+sdfa'),
  's2f_sdfa': lambda: speech2video.get_test_config('crema_d+s2f_sdfa'),
  'speech2video': speech2video.get_test_config,
  'sf2f': lambda: sf2f.get_test_config('64'),
  'faces': lambda: sf2f.get_test_config('faces'),
  'sync': sync_expert.get_test_config,
}


@pytest.fixture(scope='module')
def run_of(toy_records, tmp_path_factory):
  """`run_of(name)`: the workdir of a run on the toy records whose weights are noise."""

  @functools.cache
  def make(name):
    config, workdir = _CONFIGS[name](), tmp_path_factory.mktemp(name)
    config.data.root = str(toy_records)
    runs.noisy(config, workdir)
    return workdir

  return make


@pytest.fixture(scope='module')
def clean(tmp_path_factory):
  """Records without a fault, of clips that are long enough to have one."""
  return corpus.write(tmp_path_factory.mktemp('clean'), train=10, valid=2, frames=50)


def numbers_of(workdir):
  """The means of a run's evaluation, all of which must be numbers."""
  means = json.loads((workdir / 'results.json').read_text())['means']
  assert means and np.isfinite(list(means.values())).all()
  return means


def check_film(path, *, seconds, size):
  """That it plays to its end, and says that it is synthetic."""
  with media.VideoReader(path) as reader:
    frames = list(reader.scan())
    assert len(frames) == round(seconds * reader.rate)
  assert {frame.shape for frame in frames} == {(*size[::-1], 3)}
  assert len(media.read_audio(str(path))) == pytest.approx(seconds * 16_000, rel=0.03)
  assert marks.inspect(str(path)).is_sound


# --------------------------------------------------------------------------------------------------
# The demo, puppets, corpora and records
# --------------------------------------------------------------------------------------------------


@readme(
  'train, draw',
  (
    'python -m tfg_jax.main --config=configs/demo.py --workdir=/tmp/tfg',
    'python -m tfg_jax.generate --workdir=/tmp/tfg --video=me.mp4 --audio=speech.wav '
    '--output=out.mp4',
  ),
)
def test_the_demo_makes_puppets_trains_and_redraws_a_mouth(train, draw, place, me):
  pytest.importorskip('espeakng_loader', reason='the extra puppet is not installed')
  short = ('num_steps=2', 'data.batch_size=2', 'evaluation.every=2', 'evaluation.samples=1')
  said = place.run(train, *_FEW, *(f'--config.{x}' for x in short))
  assert 'No record set is named: 4 clips of talking puppets' in said
  assert 'On clips it has not seen, the drawn mouths are' in said
  assert 'talklip is trained: 2 steps' in said
  assert numbers_of(place / 'tfg')['ground_truth/mouth_l1'] == 0
  assert '<video' in (place / 'tfg' / 'report.html').read_text()
  place.put({'me.mp4': me.video, 'speech.wav': me.speech})
  assert 'Wrote out.mp4: 2.00 s, 50 frames of 64x48' in place.run(draw, _BOX)
  check_film(place / 'out.mp4', seconds=2, size=(64, 48))


@readme('line', 'python -m data_prep.puppet --output=DIR --clips=2000 --seed=0')
def test_puppets_are_made(line, place):
  pytest.importorskip('espeakng_loader', reason='the extra puppet is not installed')
  said = place.run(line, '--clips=4', '--eval_fraction=0.25', '--workers=1')
  assert said == 'DIR: test 1, train 2, valid 1 clips\n'
  clip = clip_codec.decode(records.RecordSource(place / 'DIR', 'train')[0])
  assert clip.text and len(clip.frames) == 75 and np.abs(clip.wav).max() > 1000
  assert {'phonemes', 'visemes', 'mouth', 'pose'} <= set(clip.extras)


def film(path, size, text):
  """Writes a video of a second, with what is said and the boxes of its faces."""
  path.parent.mkdir(parents=True, exist_ok=True)
  clips.write(path, 25, size=(size, size), audio=clips.tone(1))
  path.with_suffix('.txt').write_text(text)
  np.save(path.with_suffix('.npy'), np.tile([0.2, 0.2, 0.8, 0.8], (25, 1)) * size)


@readme('line', 'python -m data_prep.prepare --corpus=lrs2 --input=mvlrs_v1 --output=RECORDS')
def test_lrs2_becomes_records(line, place):
  for number, name in enumerate(('train', 'val', 'test')):
    film(place / 'mvlrs_v1' / 'main' / '55' / f'0000{number}.mp4', 160, f'Text:  WORD {number}')
    (place / 'mvlrs_v1' / f'{name}.txt').write_text(f'55/0000{number} NF\n')
  said = place.run(line, '--boxes=mvlrs_v1/main', '--workers=1')
  assert said.startswith('lrs2: 3 clips in = 3 records + 0 drops\n')
  clip = clip_codec.decode(records.RecordSource(place / 'RECORDS', 'valid')[0])
  assert (clip.text, len(clip.frames), clip.width) == ('WORD 1', 25, 160)


@readme(
  'line',
  'python -m data_prep.prepare --corpus=folder --input=MY_VIDEOS --output=RECORDS '
  "--licence='my own'",
)
def test_a_folder_of_videos_becomes_records(line, place):
  for name in 'abcd':
    film(place / 'MY_VIDEOS' / f'{name}.mp4', 96, name)
  (place / 'MY_VIDEOS' / 'a.mp4').write_bytes(b'no video')
  said = place.run(line, '--workers=1')
  assert said.startswith('folder: 4 clips in = 3 records + 1 drops\n')
  with open(place / 'RECORDS' / 'drops.csv', newline='') as file:
    assert [row['clip'] for row in csv.DictReader(file)] == ['a']
  info = records.read_info(place / 'RECORDS')
  assert (info.licence, info.width, info.fps) == ('my own', 160, 25)


@readme('line', 'python -m data_prep.audit --data=RECORDS --sync=SYNC')
def test_the_audit_finds_a_fault(line, place, clean, run_of):
  truth = planted.plant(clean, place / 'RECORDS', share=0.5)
  place.put({'SYNC': run_of('sync')})
  said = place.run(line, '--looks=0')
  assert said.startswith('toy: 12 clips, ')
  with open(place / 'RECORDS_audit' / 'audit.csv', newline='') as file:
    found = {row['clip']: row['faults'] for row in csv.DictReader(file)}
  assert found.keys() == truth.keys()
  silent = {clip for clip, fault in truth.items() if fault == 'silent'}
  assert silent == {clip for clip in found if 'silent' in found[clip]}
  assert 'data:image/jpeg' in (place / 'RECORDS_audit' / 'audit.html').read_text()


@readme(
  'line', 'python -m data_prep.audit --data=RECORDS --sync=SYNC --fix=shift,drop --output=NEW'
)
def test_the_audit_mends_what_it_has_found(line, place, clean, run_of):
  truth = planted.plant(clean, place / 'RECORDS', share=0.5)
  place.put({'SYNC': run_of('sync')})
  said = place.run(line, '--looks=0')
  assert re.search(r'NEW: 12 clips in = \d+ kept \+ \d+ fixed \+ [1-9]\d* dropped\n$', said)
  source = records.RecordSource(place / 'NEW', 'train')
  assert not any(truth[clip_codec.decode(clip).clip_id] == 'silent' for clip in source)


@readme('line', 'python tests/planted.py --data=RECORDS --sync=SYNC --output=NEW')
def test_faults_are_planted_and_counted(line, place, clean, run_of):
  place.put({'RECORDS': clean, 'SYNC': run_of('sync')})
  said = place.run(line, '--looks=0')
  assert re.search(r'^\| silent \| 1 \| 1 \(100.0%\) \| 1 \(100.0%\) \|$', said, re.M)
  assert re.search(r'^\| nothing \| 6 \| - \| ', said, re.M)
  assert sum(records.read_info(place / 'NEW' / 'records').clips['train']) == 10


# --------------------------------------------------------------------------------------------------
# Training and evaluation
# --------------------------------------------------------------------------------------------------


@readme(
  'line',
  'python -m tfg_jax.main --config=configs/talklip.py:no_lip --workdir=DIR '
  '--config.data.root=RECORDS',
  'python -m tfg_jax.main --config=configs/talklip.py:g+c --workdir=DIR '
  '--config.data.root=RECORDS --config.model.expert=EXPERT',
)
def test_talklip_trains_on_records(line, place, toy_records, expert_workdir):
  place.put({'RECORDS': toy_records, 'EXPERT': expert_workdir})
  assert 'talklip is trained: 4 steps' in place.run(line)
  assert numbers_of(place / 'DIR')['generated/mouth_l1'] > 0
  assert media.probe(next((place / 'DIR' / 'samples').glob('*.mp4'))).has_audio


@readme(
  'line', 'python -m tfg_jax.main --config=configs/lip_expert.py:puppets_finetune --workdir=READER'
)
def test_a_lip_reader_makes_puppets_and_trains(line, place):
  pytest.importorskip('espeakng_loader', reason='the extra puppet is not installed')
  fitting = ('data.puppets.size=48', 'data.max_frames=75', 'model.max_tokens=40')
  said = place.run(line, *_FEW, *(f'--config.{x}' for x in fitting))
  assert 'lip_expert is trained: 4 steps' in said
  assert numbers_of(place / 'READER')
  assert sum(records.read_info(place / 'READER' / 'puppets').clips['train']) == 2


@readme(
  'line, workdir',
  (
    'python -m tfg_jax.main --config=configs/sync_expert.py:puppets_color --workdir=SYNC '
    '--config.data.root=READER/puppets',
    'SYNC',
  ),
  (
    'python -m tfg_jax.main --config=configs/sync_expert.py:puppets_syncnet --workdir=SYNCNET '
    '--config.data.root=READER/puppets',
    'SYNCNET',
  ),
)
def test_sync_experts_train_on_its_puppets(line, workdir, place, toy_records):
  shutil.copytree(toy_records, place / 'READER' / 'puppets')
  assert 'sync_expert is trained: 4 steps' in place.run(line)
  assert numbers_of(place / workdir)


@readme('line', 'python -m tfg_jax.main --mode=evaluate --workdir=DIR')
def test_a_run_is_evaluated(line, place, run_of):
  place.put({'DIR': run_of('talklip')})
  said = place.run(line)
  assert said.index('ground truth') < said.index('generated')
  means = numbers_of(place / 'DIR')
  assert means['generated/psnr'] < means['ground_truth/psnr']
  assert 'psnr_official' in (place / 'DIR' / 'report.html').read_text()


@readme(
  'line',
  'python -m tfg_jax.main --mode=plan --topology=v5e:4x4 --config=configs/talklip.py:g+c '
  '--config.data.batch_size=64 --config.model.expert=avhubert_base_seq2seq',
  tier='tpu_compile',
)
def test_a_slice_that_is_not_here_is_planned_for(line, place):
  pytest.importorskip('libtpu', reason='libtpu is not installed: pip install .[tpu]')
  reader = '--config.model.expert=tests/twins.py:lip_expert:puppets_finetune'
  said = place.run(line, reader, '--config.model.audio_encoder.depth=1', '--compiles=0')
  assert 'talklip, stage 2, jit, float32, for v5e:4x4: 16 x TPU v5 lite' in said
  assert 'ms at best, bound by' in said


# --------------------------------------------------------------------------------------------------
# Drawing
# --------------------------------------------------------------------------------------------------

_PICTURE = 'python -m tfg_jax.generate --workdir=DIR --image=me.png --audio=speech.wav '


@readme(
  'name, line',
  (
    'talklip',
    'python -m tfg_jax.generate --workdir=DIR --video=me.mp4 --audio=speech.wav --output=out.mp4',
  ),
  ('davs', f'{_PICTURE}--output=out.mp4'),
  ('sdfa', f'{_PICTURE}--output=out.mp4'),
)
def test_somebody_says_something_else(name, line, place, me, run_of):
  place.put({'DIR': run_of(name), 'me.mp4': me.video, 'me.png': me.image, 'speech.wav': me.speech})
  assert 'Wrote out.mp4: 2.00 s, 50 frames of 64x48 at 25' in place.run(line, _BOX)
  check_film(place / 'out.mp4', seconds=2, size=(64, 48))


@readme(
  'line',
  'python -m tfg_jax.generate --workdir=DIR --image=me.png --video=other.mp4 --output=out.mp4',
)
def test_a_picture_moves_its_lips_as_a_video_does(line, place, me, run_of):
  place.put(
    {'DIR': run_of('davs'), 'me.png': me.image, 'other.mp4': me.video, 'boxes.npy': me.boxes}
  )
  place.run(line, _BOX, '--boxes=boxes.npy')
  check_film(place / 'out.mp4', seconds=1, size=(64, 48))


@readme('line', 'python -m tfg_jax.generate --workdir=DIR --audio=speech.wav --output=out.mp4')
@pytest.mark.parametrize('name', ['speech2video', 's2f_sdfa'])
def test_a_head_talks(name, line, place, me, run_of):
  place.put({'DIR': run_of(name), 'speech.wav': me.speech})
  place.run(line)
  check_film(place / 'out.mp4', seconds=2, size=(32, 32))


@readme(
  'line',
  'python -m tfg_jax.generate --workdir=DIR --audio=speech.wav --output=face.png --strip=strip.png',
)
def test_a_voice_has_a_face(line, place, me, run_of):
  place.put({'DIR': run_of('sf2f'), 'speech.wav': me.speech})
  assert 'Wrote face.png' in place.run(line)
  with Image.open(place / 'face.png') as face, Image.open(place / 'strip.png') as strip:
    assert face.size == (16, 16) and strip.size == (32, 16)  # from 1.25 s, and from all 2 s
    np.testing.assert_array_equal(np.asarray(strip)[:, 16:], face)
  assert marks.inspect(str(place / 'face.png')).is_sound


@readme(
  'draw, read',
  (
    'python -m tfg_jax.generate ... --output=out.mp4 --certificate=chain.pem --key=key.pem',
    'python -m tfg_jax.generate --inspect=out.mp4',
  ),
)
def test_what_is_signed_can_be_read_back(draw, read, place, me, run_of):
  pytest.importorskip('c2pa', reason="c2pa-python is not installed (pip install '.[provenance]')")
  import certificates

  place.put({'DIR': run_of('talklip'), 'me.mp4': me.video, 'speech.wav': me.speech})
  certificates.write(place / 'own')
  place.put({'chain.pem': place / 'own' / 'chain.pem', 'key.pem': place / 'own' / 'key.pem'})
  place.run(draw.replace('...', '--workdir=DIR --video=me.mp4 --audio=speech.wav'), _BOX)
  check_film(place / 'out.mp4', seconds=2, size=(64, 48))
  assert 'signed by A tester (Tests); the signature is valid' in place.run(read)


@readme('line', 'python -m tfg_jax.demo --workdir=DIR --workdir=ANOTHER')
def test_the_page_opens(line, place, run_of):
  pytest.importorskip('gradio', reason="gradio is not installed (pip install '.[web]')")
  place.put({'DIR': run_of('talklip'), 'ANOTHER': run_of('sf2f')})
  with (
    open(place / 'complaints', 'w') as complaints,
    place.start(line, '--port=0', stderr=complaints) as process,
  ):
    try:
      said = next((x for x in process.stdout if x.startswith('The page is at ')), '')
      assert said, (place / 'complaints').read_text()[-3000:]
      with urllib.request.urlopen(f'{said.split()[4]}config') as answer:
        shown = {x['props'].get('label'): x['props'] for x in json.load(answer)['components']}
      labels = [label for label, _ in shown['Run']['choices']]
      assert labels == [
        'DIR: talklip, redraws mouths of a video or a picture to speech',
        'ANOTHER: sf2f, draws from a voice alone',
      ]
      process.send_signal(signal.SIGINT)
      assert process.wait(timeout=60) == 0
    finally:
      process.kill()


@readme('line', 'python -m tfg_jax.gallery --workdir=RUN --judge=FACENET --vggface=DIR')
def test_people_are_searched_by_their_portraits(line, place, run_of, vggface_folder):
  place.put({'RUN': run_of('sf2f'), 'FACENET': run_of('faces'), 'DIR': vggface_folder})
  said = place.run(line)
  assert 'vfs: classes of DIR\n' in said
  found = json.loads((place / 'RUN' / 'gallery.json').read_text())
  assert (found['judge'], found['vfs_classes']) == ('FACENET', 'DIR')
  assert np.isfinite(list(found['rows']['generated_5s'].values())).all()


# --------------------------------------------------------------------------------------------------
# Claims and conversion
# --------------------------------------------------------------------------------------------------


@readme(
  'paper, line',
  ('talklip', 'python -m tfg_jax.claims --paper=talklip --workdir=DIR'),
  ('davs', 'python -m tfg_jax.claims --paper=davs --workdir=DIR'),
  ('sf2f', 'python -m tfg_jax.claims --paper=sf2f --workdir=DIR'),
  ('speech2video', 'python -m tfg_jax.claims --paper=speech2video --workdir=DIR'),
)
def test_claims_are_judged_when_all_jobs_are_done(paper, line, place, toy_records):
  """Their jobs take an hour: results are made up, and every job is said to have been done."""
  study = importlib.import_module(f'tfg_jax.claims.{paper}')
  workdir = place / 'DIR'
  getattr(fabricated, f'of_{paper}')(workdir, {})
  (workdir / 'puppets').symlink_to(toy_records)
  finished = jobs.Finished(workdir)
  for job in study.jobs(workdir, 'quick', seed=0, variability=0.0):
    finished.add(job, 60)
  said = place.run(line)
  assert f'\n{paper}, form quick: puppets of variability 0, ' in said
  assert 'the paper says' in said and (workdir / 'claims.md').read_text() in said
  judged = json.loads((workdir / 'claims.json').read_text())['claims']
  assert [x['claim'] for x in judged] == [claim.sentence for claim in study.CLAIMS]
  assert {x['answer'] for x in judged} <= {'holds', 'does not hold', 'not decided'}
  with Image.open(workdir / 'strip.png') as strip:
    assert strip.height > 0 and 'Synthetic media' in strip.info['Comment']


@pytest.fixture(scope='module')
def torch_file(tmp_path_factory):
  """All tensors of TalkLip's generator as PyTorch has them, but four numbers wide."""
  rng, tensors = np.random.default_rng(0), {}
  for name, tensor in matching.official_tensors('talklip_generator').items():
    noise = 5 * rng.standard_normal([min(4, size) for size in tensor.shape])
    tensors[name] = noise.astype(tensor.dtype)
  path = tmp_path_factory.mktemp('torch') / 'X.pth'
  files.write(path, tensors)
  return path


def check_tensors(found, path):
  expected = files.read(path)
  assert found.keys() == expected.keys() and expected
  for name, tensor in expected.items():
    np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(tensor))


@readme(
  'line',
  'python -m tfg_jax.convert import --network=talklip_generator --input=X.pth --output=DIR',
)
def test_a_checkpoint_of_pytorch_is_imported(line, place, torch_file):
  place.put({'X.pth': torch_file})
  said = place.run(line)
  assert 'note: This is not the official size' in said and said.endswith('\nwritten: DIR\n')
  variables, _ = converted.load(place / 'DIR', 'talklip_generator')
  check_tensors(pytorch.to_torch('talklip_generator', variables), torch_file)


@readme(
  'line',
  'python -m tfg_jax.convert export --network=talklip_generator --input=DIR --output=X.safetensors',
)
def test_a_checkpoint_goes_back_to_pytorch(line, place, torch_file):
  convert.import_network('talklip_generator', torch_file, place / 'DIR')
  assert place.run(line).endswith(' tensors\nwritten: X.safetensors\n')
  check_tensors(files.read(place / 'X.safetensors'), torch_file)
