"""The command that draws: which flags each system takes, and what comes out of it."""

import subprocess
import sys
import types
from fractions import Fraction

import av
import clips
import cv2
import jax
import numpy as np
import pytest
import runs
from absl import flags
from PIL import Image

from configs import davs, lip_expert, sf2f, speech2video, talklip
from tfg_jax import configuration, errors, generate, lip_sync, media, systems, trained
from tfg_jax.errors import CheckpointError, ConfigError, MediaError
from tfg_jax.systems import base

CONFIGS = {
  'talklip': lambda: talklip.get_test_config('no_lip'),
  'davs': davs.get_test_config,
  'sdfa': lambda: speech2video.get_test_config('crema_d+sdfa'),
  's2f_sdfa': lambda: speech2video.get_test_config('crema_d+s2f_sdfa'),
  'speech2video': speech2video.get_test_config,
  'sf2f': sf2f.get_test_config,
  'words': lambda: davs.get_test_config('words'),
  'lip_expert': lambda: lip_expert.get_test_config('puppets_finetune'),
  'avhubert': lambda: lip_expert.get_test_config('puppets_pretrain'),
}
FACE = [10, 20, 50, 60]  # in the picture of 64x80


@pytest.fixture(scope='module')
def workdirs(tmp_path_factory):
  """A folder for each config, with nothing else in it: enough to refuse flags."""
  root = tmp_path_factory.mktemp('runs')
  for name, config in CONFIGS.items():
    trained.save_config(root / name, config())
  return root


@pytest.fixture(scope='module')
def given(tmp_path_factory):
  """Paths of media that could be used, and of what could be made."""
  root = tmp_path_factory.mktemp('given')
  picture = np.tile(np.arange(64, dtype=np.uint8)[:, None] * 3, (80, 1, 3))
  cv2.imwrite(str(root / 'face.png'), picture)
  # Speech that is not the same everywhere: of growing loudness, with noise.
  wave = (
    np.random.default_rng(0).normal(0, 6000, (40_000, 1)) * np.linspace(0.2, 1, 40_000)[:, None]
  )
  np.save(root / 'boxes.npy', np.tile([0.0, 0, 64, 48], (30, 1)))
  sound = wave.astype(np.int16)
  return types.SimpleNamespace(
    image=str(root / 'face.png'),
    video=clips.write(root / 'in.mp4', 30, rate=30, audio=clips.tone(1)),
    boxes=str(root / 'boxes.npy'),
    audio=clips.write(root / 'in.wav', audio=sound, audio_codec='pcm_s16le'),
    output=str(root / 'out.mp4'),
    face=str(root / 'out.png'),
    strip=str(root / 'strip.png'),
  )


def run(*arguments):
  """The command in this process."""
  values = flags.FlagValues()
  generate.define_flags(values)
  values(['generate', *arguments])
  return generate.main(['generate'], values)


def run_with(workdirs, given, name, chosen):
  """The command on the run `name`, with `chosen` flags, in which {video} is the path of one."""
  texts = [f'--{flag}={value}'.format(**vars(given)) for flag, value in chosen.items()]
  return run(f'--workdir={workdirs / name}', *texts)


MOUTH = dict(video='{video}', audio='{audio}', output='{output}')
PICTURE = dict(image='{image}', audio='{audio}', output='{output}')
DRIVEN = dict(image='{image}', video='{video}', output='{output}')
HEAD = dict(audio='{audio}', output='{output}')
PORTRAIT = dict(audio='{audio}', output='{face}')


# Flags.


@pytest.mark.parametrize(
  'name, chosen, flag, message',
  [
    (
      'talklip',
      MOUTH,
      dict(strip='{strip}'),
      '--strip: a run of talklip redraws mouths of a video',
    ),
    ('davs', PICTURE, dict(gaps='keep'), '--gaps: a run of davs draws from a picture, and from'),
    ('davs', PICTURE, dict(length='audio'), '--length: a run of davs draws from a picture'),
    (
      'davs',
      PICTURE,
      dict(boxes='{boxes}'),
      '--boxes: it is about the frames of the driving video',
    ),
    ('davs', PICTURE, dict(detect_every='2'), '--detect_every: it is about the frames of the dri'),
    ('sdfa', PICTURE, dict(video='{video}'), '--video: a run of sdfa draws from a picture and spe'),
    ('sdfa', PICTURE, dict(boxes='{boxes}'), '--boxes: a run of sdfa draws from a picture and spe'),
    ('s2f_sdfa', HEAD, dict(image='{image}'), '--image: a run of sdfa draws from speech alone'),
    (
      'speech2video',
      HEAD,
      dict(image='{image}'),
      '--image: a run of speech2video draws from speec',
    ),
    ('speech2video', HEAD, dict(box='1,2,9,9'), '--box: a run of speech2video draws from speech'),
    ('speech2video', HEAD, dict(region='whole'), '--region: a run of speech2video draws from spee'),
    ('sf2f', PORTRAIT, dict(video='{video}'), '--video: a run of sf2f draws from a voice alone'),
    ('sf2f', PORTRAIT, dict(gaps='hold'), '--gaps: a run of sf2f draws from a voice alone'),
  ],
)
def test_flags_that_a_system_does_not_take(workdirs, given, name, chosen, flag, message):
  with pytest.raises(ConfigError) as caught:
    run_with(workdirs, given, name, chosen | flag)
  assert caught.value.what.startswith(message)
  draws = systems.build(configuration.resolve(CONFIGS[name]()), axis_name=None).draws
  assert caught.value.hint.startswith(f'use {base.GENERATE_FLAGS[draws]}')
  assert caught.value.where == 'the command line'


@pytest.mark.parametrize(
  'name, chosen, message',
  [
    ('talklip', HEAD, 'give one of --video and --image'),
    ('talklip', MOUTH | PICTURE, 'give one of --video and --image'),
    ('davs', DRIVEN | PICTURE, 'give one of --audio and --video'),
    ('davs', dict(image='{image}', output='{output}'), 'give one of --audio and --video'),
    ('davs', HEAD, '--image is missing: a run of davs draws from a picture, and from speech or'),
    ('sdfa', HEAD, '--image is missing: a run of sdfa draws from a picture and speech'),
    ('speech2video', dict(output='{output}'), '--audio is missing: a run of speech2video draws'),
    ('sf2f', dict(audio='{audio}'), '--output is missing: a run of sf2f draws from a voice alone'),
    ('talklip', MOUTH | dict(box='1,2,x,4'), '--box=1,2,x,4 is not four numbers'),
    ('talklip', MOUTH | dict(box='1,2,9,9', boxes='{boxes}'), 'give one of --box and --boxes'),
    ('sf2f', PORTRAIT | dict(strip='{face}'), '--strip and --output are the same file'),
  ],
)
def test_flags_that_are_missing_or_exclude_each_other(workdirs, given, name, chosen, message):
  with pytest.raises(ConfigError) as caught:
    run_with(workdirs, given, name, chosen)
  assert caught.value.what.startswith(message)


@pytest.mark.parametrize(
  'name, chosen, message',
  [
    ('talklip', MOUTH | dict(video='{image}'), 'this is a still image'),
    ('davs', PICTURE | dict(image='{video}'), 'this is a video'),
    ('davs', DRIVEN | dict(video='{image}'), 'this is a still image'),
    ('davs', DRIVEN | dict(box='9,9,1,1'), 'x1 < x2'),
    ('sdfa', PICTURE | dict(audio='{image}'), 'no audio stream'),
    ('sdfa', PICTURE | dict(output='{face}'), 'does not end in .mp4'),
    ('speech2video', HEAD | dict(audio='/nowhere.wav'), 'does not exist'),
    ('s2f_sdfa', HEAD | dict(output='/nowhere/out.mp4'), 'folder of the output does not exist'),
    ('sf2f', PORTRAIT | dict(output='{output}'), 'does not end in .png'),
    ('sf2f', PORTRAIT | dict(strip='/nowhere/strip.png'), 'folder of the output does not exist'),
    ('sf2f', PORTRAIT | dict(audio='{image}'), 'no audio stream'),
  ],
)
def test_files_are_checked_before_the_checkpoint_is_loaded(
  workdirs, given, monkeypatch, name, chosen, message
):
  def load(_):
    raise AssertionError('loaded')

  monkeypatch.setattr(trained, 'load', load)
  with pytest.raises(MediaError, match=message):
    run_with(workdirs, given, name, chosen)


@pytest.mark.parametrize('name', ['lip_expert', 'avhubert', 'words'])
def test_runs_that_draw_nothing_say_so(workdirs, given, name):
  system = {'words': 'davs'}.get(name, name)
  with pytest.raises(CheckpointError, match=f'this run of {system} draws nothing') as caught:
    run_with(workdirs, given, name, PICTURE)
  assert 'speech2video or sf2f' in caught.value.hint and str(workdirs / name) in caught.value.where


def test_what_training_says_at_its_end_is_what_the_command_takes():
  assert set(generate.KINDS) == set(base.GENERATE_FLAGS)
  for draws, text in base.GENERATE_FLAGS.items():
    values = flags.FlagValues()
    generate.define_flags(values)
    values(['generate', *text.split()])
    request = generate.read_request(draws, 'any', values)
    assert request.audio == 'F' and request.output == values.output


def test_the_region_follows_the_system():
  regions = {}
  for draws, chosen in (
    ('mouth', ['--video=F', '--audio=F']),
    ('face', ['--image=F', '--audio=F']),
    ('driven_face', ['--image=F', '--audio=F']),
    ('driven_face', ['--image=F', '--video=F']),
  ):
    for region in (None, 'lower', 'whole'):
      values = flags.FlagValues()
      generate.define_flags(values)
      values(['generate', '--output=F', *chosen, *([f'--region={region}'] if region else [])])
      regions.setdefault(region, []).append(generate.read_request(draws, 'any', values).region)
  assert regions[None] == ['lower', 'whole', 'whole', 'whole']
  assert regions['lower'] == ['lower'] * 4 and regions['whole'] == ['whole'] * 4


def test_workdirs_that_are_none(tmp_path, given):
  with pytest.raises(ConfigError, match='--workdir is missing'):
    run('--audio=F')
  with pytest.raises(CheckpointError, match='is not the workdir of a run'):
    run(f'--workdir={tmp_path}', '--audio=F')
  with pytest.raises(ConfigError, match='unexpected arguments'):
    generate.main(['generate', 'in.mp4'])


def test_a_workdir_without_a_checkpoint(workdirs, given):
  with pytest.raises(CheckpointError, match='the run has no checkpoint yet'):
    run_with(workdirs, given, 'speech2video', HEAD)


# Drawing.


@pytest.fixture
def grey(monkeypatch):
  """The run that is loaded draws grey mouths."""
  system = types.SimpleNamespace(
    draws='mouth', face_size=16, generate=lambda state, inputs: state + 0 * inputs['faces']
  )
  monkeypatch.setattr(trained, 'load', lambda workdir: runs.pretended(system))


def test_the_command_writes_a_file(workdirs, given, grey, capsys):
  run_with(workdirs, given, 'talklip', MOUTH | dict(box='20,14,44,46', region='whole'))
  assert f'Wrote {given.output}: 2.50 s, 75 frames of 64x48 at 30' in capsys.readouterr().out
  with media.VideoReader(given.output) as reader:
    assert abs(next(reader.frames(5, 6))[30, 32].astype(int) - 77).max() < 5
  with av.open(given.output) as container:
    comment = container.metadata['comment']
  assert 'the mouth was redrawn by tfg_jax' in comment and '(talklip, step 500)' in comment


def test_an_interruption_writes_nothing_and_has_its_own_code(
  workdirs, given, grey, monkeypatch, capsys, tmp_path
):
  def interrupt(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr(lip_sync, 'paste', interrupt)
  chosen = MOUTH | dict(box='20,14,44,46', output=str(tmp_path / 'out.mp4'))
  with pytest.raises(SystemExit) as stopped:
    run_with(workdirs, given, 'talklip', chosen)
  assert stopped.value.code == errors.EXIT_INTERRUPTED
  assert 'was not written' in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_a_system_is_fitted_to_the_picture_once_by_the_first_chunk():
  system = types.SimpleNamespace(
    draws='driven_face',
    face_size=4,
    adapt=lambda state, inputs: state + inputs['driving'][0, 0, 0, 0],
    generate=lambda state, inputs: state + 0 * inputs['driving'],
  )
  generator = generate.generator_of(runs.pretended(system, 'davs', state=3))
  assert (generator.part, generator.picture_rate, generator.maker.step) == ('face', 30, 500)
  for level in (10, 20, 30):
    drawn = generator.draw({'driving': np.full((2, 4, 4, 3), level, np.uint8)})
    assert (drawn == 13).all()


def test_a_talker_knows_the_length_of_training_clips():
  system = types.SimpleNamespace(
    draws='head',
    face_size=4,
    describe=lambda state, inputs: {'identity': state + inputs['wav'].mean()},
    generate=lambda state, inputs: state + inputs['identity'],
  )
  talker = generate.talker_of(runs.pretended(system, state=3))
  assert talker.clip_samples == 8000 and talker.rate == Fraction(30)
  assert talker.describe({'wav': np.ones(4)})['identity'] == 4
  assert talker.draw({'identity': np.float32(4)}) == 7


def test_an_expected_failure_is_one_message_and_exit_code_2(workdirs):
  result = subprocess.run(
    [sys.executable, '-m', 'tfg_jax.generate', f'--workdir={workdirs / "talklip"}']
    + ['--video=none.mp4', '--audio=none.wav', '--output=out.mp4'],
    capture_output=True,
    text=True,
  )
  assert result.returncode == errors.EXIT_EXPECTED_FAILURE
  assert result.stderr.startswith('MediaError: the file does not exist')
  assert 'Traceback' not in result.stderr


def test_importing_the_command_does_not_import_jax_or_tensorflow():
  code = 'import sys, tfg_jax.generate; print({"jax", "tensorflow"} & set(sys.modules))'
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert result.stdout.strip() == 'set()'


# Small systems with random weights, from the flags to the file.

# Of the weights: narrow networks lose what they are shown if it is lower, and saturate if higher.
GAINS = {'davs': 2, 'sdfa': 4, 's2f_sdfa': 5, 'speech2video': 5, 'sf2f': 2}


def lively(system, gain):
  """A fresh state whose players answer to what they see and hear."""
  rng = np.random.default_rng(0)

  def louder(leaf):
    if leaf.ndim < 2:
      return leaf
    scale = gain / np.sqrt(np.prod(leaf.shape[:-1]))
    return rng.normal(0, scale, leaf.shape).astype(leaf.dtype)

  state = runs.noisy_state(system)
  nets = {
    name: net if name == 'voice' else net.replace(params=jax.tree.map(louder, net.params))
    for name, net in state.nets.items()
  }
  return state.replace(nets=nets)


@pytest.fixture
def draw(workdirs, given, monkeypatch, tmp_path):
  """`draw(name, flags)`: frames before coding, (T, H, W, 3) int, and the file's path."""
  frames = []
  write = media.VideoWriter.write

  def keep(writer, frame):
    frames.append(frame.astype(int))
    write(writer, frame)

  def load(workdir):
    run_ = configuration.resolve(trained.read_config(workdir))
    system = systems.build(run_, axis_name=None)
    return trained.Trained(run_, system, lively(system, GAINS[workdir.split('/')[-1]]), 7)

  def make(name, chosen):
    path = str(tmp_path / 'out.mp4')
    frames.clear()
    run_with(workdirs, given, name, chosen | dict(output=path))
    return np.stack(frames), path

  monkeypatch.setattr(media.VideoWriter, 'write', keep)
  monkeypatch.setattr(trained, 'load', load)
  return make


def check_file(path, *, rate, size, seconds, frames, comment):
  with av.open(path) as container:
    stream, sound = container.streams.video[0], container.streams.audio[0]
    assert stream.average_rate == rate and (stream.width, stream.height) == size
    assert stream.frames == frames
    assert float(stream.duration * stream.time_base) == pytest.approx(seconds, abs=0.04)
    assert float(sound.duration * sound.time_base) == pytest.approx(seconds, abs=0.04)
    assert comment in container.metadata['comment']


def quiet(given, tmp_path):
  """The same speech without its second half."""
  wave = media.read_audio(given.audio).copy()
  wave[20_000:] = 0
  return clips.write(tmp_path / 'quiet.wav', audio=wave[:, None], audio_codec='pcm_s16le')


@pytest.mark.end_to_end
@pytest.mark.parametrize('name', ['sdfa', 'davs'])
def test_a_picture_speaks(draw, given, tmp_path, name):
  chosen = PICTURE | dict(box='10,20,50,60')
  frames, path = draw(name, chosen)
  check_file(
    path, rate=25, size=(64, 80), seconds=2.5, frames=63, comment='from a picture and speech'
  )
  other, _ = draw(name, chosen | dict(audio=quiet(given, tmp_path)))
  x1, y1, x2, y2 = FACE
  difference = abs(frames - other)[:, y1:y2, x1:x2].max((1, 2, 3))
  assert difference[:25].max() == 0 and difference[40:].min() > 20
  picture = media.read_image(given.image).astype(int)
  outside = np.ones((80, 64), bool)
  outside[y1:y2, x1:x2] = False
  assert abs(frames - picture)[:, outside].max() == 0
  assert abs(frames - picture)[:, y1:y2, x1:x2].mean() > 12


@pytest.mark.end_to_end
def test_a_picture_follows_a_video(draw, given, tmp_path):
  chosen = DRIVEN | dict(box='10,20,50,60', boxes='{boxes}')
  frames, path = draw('davs', chosen)
  check_file(
    path, rate=30, size=(64, 80), seconds=1, frames=30, comment='the lips of another video'
  )
  # The same video, in which somebody else's lips are looked at from the middle on.
  boxes = np.load(given.boxes)
  boxes[15:] = [0, 24, 64, 48]
  np.save(tmp_path / 'boxes.npy', boxes)
  other, _ = draw('davs', chosen | dict(boxes=tmp_path / 'boxes.npy'))
  difference = abs(frames - other).max((1, 2, 3))
  assert difference[:15].max() == 0 and difference[15:].min() > 20


@pytest.mark.end_to_end
@pytest.mark.parametrize('name', ['speech2video', 's2f_sdfa'])
def test_a_head_talks(draw, given, tmp_path, name):
  frames, path = draw(name, HEAD)
  check_file(path, rate=25, size=(32, 32), seconds=2.5, frames=63, comment='from speech alone')
  # It moves while it speaks, and much less in the silence behind (1.25 s of each); all but the
  # largest steps are compared, as random recurrent networks still jump now and then.
  frames, _ = draw(name, HEAD | dict(audio=quiet(given, tmp_path)))
  motion = abs(np.diff(frames, axis=0)).max((1, 2, 3))
  assert np.quantile(motion[:25], 0.7) > 3 * max(1, np.quantile(motion[-12:], 0.7))


@pytest.mark.end_to_end
@pytest.mark.usefixtures('draw')
def test_a_voice_has_a_face(workdirs, given, tmp_path):
  def portrait(audio):
    chosen = dict(audio=audio, output='{face}', strip='{strip}')
    run_with(workdirs, given, 'sf2f', chosen)
    with Image.open(given.face) as face, Image.open(given.strip) as strip:
      assert 'the portrait was drawn' in face.info['Comment']
      assert 'the portrait was drawn' in strip.info['Comment']
      return np.asarray(face).astype(int), np.asarray(strip).astype(int)

  face, strip = portrait(given.audio)
  assert face.shape == (16, 16, 3) and strip.shape == (16, 32, 3)  # 1.25 s, and all 2.5 s
  np.testing.assert_array_equal(strip[:, 16:], face)
  assert abs(strip[:, :16] - face).max() > 0
  other, _ = portrait(quiet(given, tmp_path))
  assert abs(other - face).max() > 0
