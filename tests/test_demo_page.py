"""The page to try runs on: what it asks for, what it refuses, and a way through it in a browser."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import types
import urllib.request

import clips
import numpy as np
import pytest
import runs
from absl import flags

from configs import davs, lip_expert, sf2f, speech2video, talklip
from data_prep import puppet
from tfg_jax import demo, example_puppets, marks, media, trained
from tfg_jax.errors import CheckpointError, ConfigError, MediaError, MissingDependencyError

WITHOUT_GRADIO = "gradio is not installed (pip install 'tfg_jax[web]')"
CONFIGS = {
  'mouth': lambda: talklip.get_test_config('no_lip'),
  'driven_face': davs.get_test_config,
  'face': lambda: speech2video.get_test_config('crema_d+sdfa'),
  'head': speech2video.get_test_config,
  'portrait': sf2f.get_test_config,
}


@pytest.fixture(scope='module')
def choices(tmp_path_factory):
  """What the page says of a run of each kind; the runs have no weights."""
  root = tmp_path_factory.mktemp('runs')
  for name, config in CONFIGS.items():
    trained.save_config(root / name, config())
  found = demo.open_runs([str(root / name) for name in CONFIGS])
  return dict(zip(CONFIGS, found, strict=True))


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """What may be dropped on the page."""
  root = tmp_path_factory.mktemp('files')
  return demo.Given(
    video=clips.write(root / 'me.mp4', 30, rate=30, audio=clips.tone(1)),
    image=clips.write(root / 'me.png', 1, codec='png', pixels='rgb24'),
    audio=clips.write_tone(root / 'speech.wav', 1),
  )


def given(files, *names, **more):
  return demo.Given(**{name: getattr(files, name) for name in names}, **more)


def test_runs_say_what_they_take(choices):
  assert {name: choice.takes for name, choice in choices.items()} == {
    'mouth': ('video', 'image', 'audio'),
    'driven_face': ('video', 'image', 'audio'),
    'face': ('image', 'audio'),
    'head': ('audio',),
    'portrait': ('audio',),
  }
  assert [choice.draws for choice in choices.values()] == list(CONFIGS)
  assert (
    choices['mouth'].label == 'mouth: talklip, redraws mouths of a video or a picture to speech'
  )
  assert [choice.ending for choice in choices.values()] == 4 * ['.mp4'] + ['.png']


def test_runs_of_the_same_name_are_told_apart(choices, tmp_path):
  twin = tmp_path / 'head'
  trained.save_config(twin, CONFIGS['head']())
  workdirs = [choices['head'].workdir, str(twin), str(twin)]
  assert [choice.name for choice in demo.open_runs(workdirs)] == workdirs[:2]


def test_runs_that_draw_nothing_are_refused(tmp_path):
  trained.save_config(tmp_path, lip_expert.get_test_config('puppets_finetune'))
  with pytest.raises(CheckpointError, match='this run of lip_expert draws nothing'):
    demo.open_runs([str(tmp_path)])
  with pytest.raises(CheckpointError, match='is not the workdir of a run'):
    demo.open_runs([str(tmp_path / 'none')])


@pytest.mark.parametrize(
  'name, names, message',
  [
    ('mouth', ('video',), 'speech is missing: this run redraws mouths of a video'),
    ('mouth', ('audio',), 'give a video or a picture: this run redraws mouths'),
    ('mouth', ('audio', 'video', 'image'), 'give a video or a picture, not both'),
    ('driven_face', ('audio',), 'a picture is missing: this run draws from a picture, and from sp'),
    ('driven_face', ('image',), 'give speech or a video: this run draws from a picture, and from'),
    ('head', ('image',), 'speech is missing: this run draws from speech alone'),
    ('portrait', (), 'speech is missing: this run draws from a voice alone'),
  ],
)
def test_what_is_missing_is_asked_for(choices, files, tmp_path, name, names, message):
  with pytest.raises(ConfigError, match=re.escape(message)) as caught:
    demo.draw(choices[name], given(files, *names), str(tmp_path), max_seconds=10, progress=follow)
  assert '--' not in caught.value.what + caught.value.hint


def follow(items, what, total):
  yield from items


@pytest.mark.parametrize('name, names', [('mouth', ('video', 'audio')), ('head', ('audio',))])
def test_what_is_too_long_is_refused(choices, files, tmp_path, name, names):
  what = r'(?s)it lasts more than 0.5 s.*(me.mp4|speech.wav)'
  with pytest.raises(MediaError, match=what) as caught:
    demo.draw(choices[name], given(files, *names), str(tmp_path), max_seconds=0.5, progress=follow)
  assert '--max_seconds' in caught.value.hint
  assert not list(tmp_path.iterdir())


def test_only_what_a_run_takes_reaches_it(choices, files):
  box, boxes = '1, 2,\t9, 10', 'boxes.npy'
  request = demo._request(choices['mouth'], given(files, 'video', 'audio', boxes=boxes), 'o.mp4')
  assert (request.video, request.boxes, request.box) == (files.video, boxes, None)
  everything = given(files, 'video', 'audio', box=box, boxes=boxes)
  request = demo._request(choices['mouth'], everything, 'o.mp4')  # what was typed counts
  assert (request.boxes, request.box) == (None, [1, 2, 9, 10])
  driven = given(files, 'image', 'video', box=box, boxes=boxes)
  request = demo._request(choices['driven_face'], driven, 'o.mp4')
  assert (request.boxes, request.box) == (boxes, [1, 2, 9, 10])
  assert demo._request(choices['face'], given(files, 'image', 'audio', boxes=boxes), 'o.mp4')
  assert demo._request(choices['head'], given(files, 'audio', box=box), 'o.mp4').output == 'o.mp4'
  with pytest.raises(ConfigError, match='--box=1,x is not four numbers'):
    demo._request(choices['face'], given(files, 'image', 'audio', box='1,x'), 'o.mp4')
  with pytest.raises(ConfigError, match='this cannot be used'):
    demo._request(choices['face'], given(files, 'image', 'audio', box='1,"2'), 'o.mp4')


@pytest.fixture
def grey(monkeypatch):
  """The run that is loaded draws grey mouths; gives the workdirs that were loaded."""
  system = types.SimpleNamespace(
    draws='mouth', face_size=16, generate=lambda state, inputs: state + 0 * inputs['faces']
  )
  loaded = []

  def load(workdir):
    loaded.append(workdir)
    return runs.pretended(system)

  monkeypatch.setattr(trained, 'load', load)
  demo._load.cache_clear()
  yield loaded
  demo._load.cache_clear()


def test_a_video_is_drawn_marked_and_explained(choices, files, tmp_path, grey):
  watched = []

  def watch(items, what, total):
    watched.append((what, total))
    yield from items

  wanted = given(files, 'video', 'audio', box='20,14,44,46')
  for _ in range(2):
    drawn = demo.draw(choices['mouth'], wanted, str(tmp_path), max_seconds=2, progress=watch)
  assert grey == [choices['mouth'].workdir]  # once
  assert watched == 2 * [('drawing', 30)]
  assert os.path.basename(drawn.path) == 'me_talklip.mp4'
  assert marks.inspect(drawn.path).is_sound
  assert json.loads(pathlib.Path(drawn.sidecar).read_text())['synthetic'] is True
  assert 'Wrote me_talklip.mp4: 1.00 s, 30 frames of 64x48' in drawn.said
  assert 'in the file and in me_talklip.mp4.json: Synthetic media' in drawn.marked
  assert 'The marks agree' in drawn.marked
  assert str(tmp_path) not in drawn.said + drawn.marked
  assert os.path.dirname(files.video) not in drawn.said + drawn.marked


def test_errors_are_shown_as_text():
  error = MediaError('<b> is no video', where='/tmp/a/b.mp4', hint='use another')
  assert demo.explain(error) == '&lt;b&gt; is no video<br>(b.mp4)<br>use another'
  assert demo.explain(ConfigError('no', where='the command line')) == 'no'


# Puppets.


def test_puppets_are_those_of_the_records(toy_records, tmp_path, monkeypatch):
  monkeypatch.setattr(puppet, 'CORPUS', 'toy')
  found = example_puppets.find(str(toy_records), 3)
  assert [clip.clip_id for clip in found] == ['clip0008', 'clip0009', 'clip0010']  # held out
  made = example_puppets.write(found[0], tmp_path, 'puppet_1')
  info = media.probe(made.video)
  assert info.has_audio and (info.width, info.height, info.rate) == (48, 48, 25)
  np.testing.assert_array_equal(np.load(made.boxes), found[0].boxes)
  np.testing.assert_array_equal(media.read_audio(made.audio), found[0].wav)
  assert media.read_image(made.image).shape == (48, 48, 3) and made.box == '6,4,42,46'


def test_others_are_made(toy_records):
  pytest.importorskip('espeakng_loader', reason='the extra puppet is not installed')
  (clip,) = example_puppets.find(str(toy_records), 1)
  assert clip.width == 192 and clip.clip_id.startswith('puppet')
  (same,) = example_puppets.find('', 1)
  assert same.frames == clip.frames


def test_a_puppet_says_what_the_next_one_says(choices):
  puppets = [
    example_puppets.Puppet(*(f'{name}{i}' for name in ('video', 'image', 'audio', 'boxes', 'box')))
    for i in range(3)
  ]
  assert demo.example(choices['mouth'], puppets, 2) == demo.Given(
    video='video2', audio='audio0', boxes='boxes2'
  )
  for name in ('face', 'driven_face'):
    expected = demo.Given(image='image0', audio='audio1', box='box0')
    assert demo.example(choices[name], puppets, 0) == expected
  for name in ('head', 'portrait'):
    assert demo.example(choices[name], puppets, 1) == demo.Given(audio='audio1')


# The command.


def command(*arguments):
  values = flags.FlagValues()
  demo.define_flags(values)
  values(['demo', *arguments])
  return demo.main(['demo'], values)


def test_the_command_says_what_it_needs(choices, monkeypatch):
  with pytest.raises(ConfigError, match='--workdir is missing'):
    command()
  monkeypatch.setitem(sys.modules, 'gradio', None)
  with pytest.raises(MissingDependencyError, match='the page needs the package gradio') as caught:
    command(f'--workdir={choices["head"].workdir}')
  assert caught.value.hint == "pip install 'tfg_jax[web]'"


def test_a_port_that_is_taken(choices):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
    with pytest.raises(ConfigError, match=f'cannot be served at 127.0.0.1, port {port}: Addr') as e:
      command(f'--workdir={choices["head"].workdir}', f'--port={port}')
  assert e.value.hint == 'name another --port; 0 takes any that is free'
  assert demo._free_port('127.0.0.1', 0) > 1024


def test_it_is_served_to_this_machine_alone():
  values = flags.FlagValues()
  demo.define_flags(values)
  values(['demo'])
  assert (values.host, values.max_megabytes, values.max_seconds) == ('127.0.0.1', 200, 60)


# In a browser.

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')  # with H.264, unlike Playwright's own
# Runs the page, and notes whom else it would have asked.
WATCHED = """
import runpy, sys
log, sys.argv = sys.argv[1], sys.argv[1:]
NEAR = ('127.0.0.1', 'localhost', '::1', '0.0.0.0', '', None)
def note(event, arguments):
  if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'):
    place = arguments[0] if event == 'socket.getaddrinfo' else arguments[1]
    host = place[0] if isinstance(place, tuple) else place
    if host not in NEAR and not str(host).startswith('/'):
      with open(log, 'a') as file:
        print(event, host, file=file)
sys.addaudithook(note)
runpy.run_module('tfg_jax.demo', run_name='__main__', alter_sys=True)
"""


@pytest.fixture(scope='module')
def browser():
  playwright = pytest.importorskip(
    'playwright.sync_api', reason='playwright, which drives the browser, is not installed'
  )
  path = next(filter(None, map(shutil.which, BROWSERS)), None)
  if path is None:
    pytest.skip(f'there is no browser here that plays H.264 ({", ".join(BROWSERS)})')
  with playwright.sync_playwright() as driver:
    opened = driver.chromium.launch(
      executable_path=path,
      args=['--no-sandbox', '--autoplay-policy=no-user-gesture-required', '--disable-gpu'],
    )
    yield opened
    opened.close()


@pytest.fixture(scope='module')
def served(tmp_path_factory):
  """Address and folder of a page of two untrained runs; at its end, what it must not have done."""
  if importlib.util.find_spec('gradio') is None:
    pytest.skip(WITHOUT_GRADIO)
  folder = tmp_path_factory.mktemp('served')
  for name in ('mouth', 'portrait'):
    runs.noisy(CONFIGS[name](), folder / name)
  with open(folder / 'stderr', 'w') as complaints:
    process = subprocess.Popen(
      [sys.executable, '-c', WATCHED, str(folder / 'asked'), '--port=0', '--max_megabytes=1']
      + [f'--workdir={folder / name}' for name in ('mouth', 'portrait')],
      cwd=pathlib.Path(__file__).parents[1],
      env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1', 'TMPDIR': str(folder)},
      stdout=subprocess.PIPE,
      stderr=complaints,
      text=True,
    )
    try:
      line = process.stdout.readline()
      found = re.search(r'The page is at (http://127\.0\.0\.1:\d+)', line)
      assert found, line + (folder / 'stderr').read_text()[-3000:]
      yield types.SimpleNamespace(address=found[1], folder=folder)
      process.send_signal(signal.SIGINT)
      assert process.wait(timeout=60) == 0
    finally:
      process.kill()
      process.wait()
      process.stdout.close()
  assert not (folder / 'asked').exists(), (folder / 'asked').read_text()
  assert not list(folder.glob('tfg_jax_*')), 'uploads are left behind'
  assert 'Traceback' not in (folder / 'stderr').read_text()


@pytest.fixture
def tab(browser, served):
  """A fresh tab with the page; nothing on it may be asked for elsewhere."""
  page = browser.new_page(viewport={'width': 1280, 'height': 1200})
  page.set_default_timeout(120_000)
  asked = []
  page.on('request', lambda request: asked.append(request.url))
  page.goto(served.address)
  page.get_by_role('button', name='Draw', exact=True).wait_for()
  yield page
  page.close()
  assert [url for url in asked if not url.startswith((served.address, 'data:', 'blob:'))] == []


def drop(tab, kind, path):
  """Drops a file on the field of a kind, and waits for it to be there."""
  with tab.expect_response(lambda response: '/upload' in response.url):
    tab.locator(f'input[type=file][accept*={kind}]').set_input_files(path)
  if kind == 'image':
    tab.locator(f'img[src*="{os.path.basename(path)}"]').first.wait_for(state='attached')
  else:
    tab.locator(f'input[type=file][accept*={kind}]').wait_for(state='detached')


@pytest.mark.end_to_end
def test_the_page_shows_what_the_first_run_takes_and_reports_to_nobody(served):
  with urllib.request.urlopen(f'{served.address}/config') as answer:
    config = json.load(answer)
  assert config['analytics_enabled'] is False
  assert not [x for x in config['stylesheets'] if '//' in x]
  fields = {x['props'].get('label'): x['props'] for x in config['components']}
  assert [label for label, _ in fields['Run']['choices']] == [
    'mouth: talklip, redraws mouths of a video or a picture to speech',
    'portrait: sf2f, draws from a voice alone',
  ]
  assert all(fields[label]['visible'] for label in ('Video', 'Picture', 'Speech'))
  assert any('(up to 60 s)' in str(x['props'].get('value')) for x in config['components'])


@pytest.mark.end_to_end
def test_from_upload_to_a_playing_video(tab, files, tmp_path):
  drop(tab, 'video', files.video)
  drop(tab, 'audio', files.audio)
  tab.get_by_label('Where the face is').fill('20, 14, 44, 46')
  tab.get_by_role('button', name='Draw', exact=True).click()
  alert = tab.get_by_role('alert')
  tab.get_by_text('me_talklip').or_(alert).first.wait_for()
  assert not alert.count(), alert.inner_text()
  tab.wait_for_function(
    "[...document.querySelectorAll('video')].some("
    "v => v.src.includes('me_talklip') && v.currentTime > 0.2 && v.videoWidth == 64)"
  )
  tab.screenshot(path=tmp_path / 'page.png', full_page=True)
  for name in ('me_talklip.mp4', 'me_talklip.mp4.json'):
    link = tab.locator(f'a[download="{name}"]').first.get_attribute('href')
    (tmp_path / name).write_bytes(tab.request.get(link).body())
  found = marks.inspect(str(tmp_path / 'me_talklip.mp4'))
  assert found.is_sound, str(found)
  assert media.probe(tmp_path / 'me_talklip.mp4').duration == pytest.approx(1, abs=0.05)
  assert 'edit of footage' in tab.get_by_label('Its marks, read back').input_value()


@pytest.mark.end_to_end
def test_a_place_is_forgotten_with_its_video_without_asking_the_server(tab, files):
  tab.route('**/queue/**', lambda route: route.abort())
  place = tab.get_by_label('Where the face is')
  place.fill('1, 2, 3, 4')
  drop(tab, 'video', files.video)
  tab.wait_for_function("document.querySelector('[placeholder^=x1]').value == ''")


@pytest.mark.end_to_end
def test_a_puppet_fills_the_page_of_each_run(tab):
  tab.locator('button.thumbnail-item').nth(1).click()
  tab.wait_for_function("document.querySelectorAll('video[src*=puppet_2]').length == 1")
  tab.get_by_label('Run').click()
  tab.get_by_role('option', name='portrait').click()
  tab.locator('input[type=file][accept*=image]').wait_for(state='detached')
  tab.locator('button.thumbnail-item').first.click()
  tab.get_by_text('0:03').wait_for()  # its speech is loaded
  tab.get_by_role('button', name='Draw', exact=True).click()
  tab.wait_for_function(
    "[...document.querySelectorAll('#portrait img')].some("
    "i => i.src.includes('puppet_1_sf2f.png') && i.naturalWidth == 16)"
  )


@pytest.mark.end_to_end
def test_failures_are_messages(tab, files, tmp_path):
  draw = tab.get_by_role('button', name='Draw', exact=True)
  alert = tab.get_by_role('alert')
  draw.click()
  alert.get_by_text('speech is missing').wait_for()
  for name in ('big.mp4', 'text.png'):
    (tmp_path / name).write_bytes(b'no media' * (1 << 18 if name == 'big.mp4' else 1))
  tab.locator('input[type=file][accept*=video]').set_input_files(tmp_path / 'big.mp4')
  tab.get_by_text('exceed the maximum allowed size of 1.0 Mb').wait_for()
  drop(tab, 'image', tmp_path / 'text.png')
  drop(tab, 'audio', files.audio)
  draw.click()
  alert.get_by_text('(text.png)').wait_for()
  assert 'the picture has no size that can be read' in alert.inner_text()
