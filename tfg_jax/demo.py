r"""A page to try trained runs in the browser; it is served to this machine alone.

  python -m tfg_jax.demo --workdir=DIR [--workdir=ANOTHER ...]

Pick a run, drop or record what it draws from, watch, play and download what it draws. It needs the
extra `web` (Gradio), and no network: fonts and scripts are the package's own, and nothing is
reported to anybody. Uploads and outputs lie in a temporary folder that goes when the command ends.
"""

import dataclasses
import functools
import html
import os
import pathlib
import signal
import socket
import tempfile
import threading
from collections.abc import Sequence

from absl import app, flags

from tfg_jax import errors, generate, host, marks, media, synthetic_video

_MEDIA = {'video': 'a video', 'image': 'a picture', 'audio': 'speech'}
_PUPPETS = 3
_KEPT = 3600  # seconds for which Gradio keeps what was uploaded


@dataclasses.dataclass(frozen=True)
class Choice:
  """A trained run that can be picked."""

  name: str  # tells it from the others
  workdir: str
  system: str
  draws: str  # `System.draws`

  @property
  def label(self) -> str:
    """What the page calls it."""
    return f'{self.name}: {self.system}, {generate.KINDS[self.draws].means}'

  @property
  def takes(self) -> tuple[str, ...]:
    """What it can draw from: of 'video', 'image' and 'audio'."""
    kind = generate.KINDS[self.draws]
    return tuple(name for name in _MEDIA if name in kind.needs + kind.one_of)

  @property
  def sees(self) -> bool:
    """Whether it draws from a face that is shown, not from a voice alone."""
    return 'video' in self.takes or 'image' in self.takes

  @property
  def ending(self) -> str:
    """Of the file that it draws."""
    return '.png' if self.draws == 'portrait' else '.mp4'


@dataclasses.dataclass(frozen=True)
class Given:
  """What was dropped on the page: paths, and options as the flags of `generate` have them."""

  video: str | None = None
  image: str | None = None
  audio: str | None = None
  box: str | None = None
  boxes: str | None = None


@dataclasses.dataclass(frozen=True)
class Drawn:
  """What came of it."""

  path: str
  sidecar: str
  said: str  # what was made
  marked: str  # its marks, read back


def open_runs(workdirs: Sequence[str]) -> list[Choice]:
  """The runs of the page.

  Raises:
    CheckpointError: a folder is no workdir, or its run draws nothing.
  """
  workdirs = list(dict.fromkeys(os.path.abspath(workdir) for workdir in workdirs))
  names = [os.path.basename(workdir) for workdir in workdirs]
  if len(set(names)) < len(names):
    names = workdirs
  return [
    Choice(name, workdir, *generate.what_draws(workdir))
    for name, workdir in zip(names, workdirs, strict=True)
  ]


def draw(
  choice: Choice,
  given: Given,
  folder: str,
  *,
  max_seconds: float,
  progress: synthetic_video.Progress,
) -> Drawn:
  """Draws with a run, into a new folder in `folder`.

  Args:
    choice: the run.
    given: what to draw from; what the run does not take is left aside.
    folder: for outputs.
    max_seconds: how long a file may last.
    progress: see `synthetic_video.Progress`.

  Raises:
    TfgError: something is missing, too long, or not what it should be; or the run is damaged.
  """
  given = dataclasses.replace(given, **{name: None for name in _MEDIA if name not in choice.takes})
  _check_given(choice, given, max_seconds)
  stem = pathlib.Path(given.video or given.image or given.audio).stem
  name = f'{stem}_{choice.system}{choice.ending}'
  output = os.path.join(tempfile.mkdtemp(dir=folder), name)
  said = []
  request = _request(choice, given, output)
  request.check()
  generate.make(request, _load(choice.workdir), say=said.append, progress=progress)
  paths = [path for path in (given.video, given.image, given.audio, output) if path]
  return Drawn(
    output,
    marks.sidecar_of(output),
    _without_folders('\n'.join(said), paths),
    _without_folders(str(marks.inspect(output)), paths),
  )


def _without_folders(text, paths):
  """Files as the page names them: where they lie is of no use to who looks at it."""
  for path in paths:
    text = text.replace(f'{os.path.dirname(path)}{os.sep}', '')
  return text


def _check_given(choice, given, max_seconds):
  kind = generate.KINDS[choice.draws]
  one_of = [name for name in kind.one_of if getattr(given, name)]
  for name in _MEDIA:
    if name in kind.needs and not getattr(given, name):
      raise errors.ConfigError(f'{_MEDIA[name]} is missing: this run {kind.means}')
  if kind.one_of and len(one_of) != 1:
    first, second = (_MEDIA[name] for name in kind.one_of)
    what = f'give {first} or {second}'
    raise errors.ConfigError(f'{what}, not both' if one_of else f'{what}: this run {kind.means}')
  for name in choice.takes:
    path = getattr(given, name)
    if path and media.seconds_up_to(path, max_seconds) > max_seconds:
      raise errors.MediaError(
        f'it lasts more than {max_seconds:g} s',
        where=path,
        hint='cut it, or start the page with a larger --max_seconds',
      )


def _request(choice, given, output):
  """The request of `generate` for what is given."""
  box = given.box and ''.join(given.box.split())
  wanted = dataclasses.asdict(given) | {'output': output, 'box': box}
  # Boxes are of the frames of a video. A box is of the picture; without one it is of that video.
  if not given.video or (box and not given.image):
    wanted['boxes'] = None
  kind = generate.KINDS[choice.draws]
  known = (*kind.needs, *kind.one_of, *kind.may_have)
  values = flags.FlagValues()
  generate.define_flags(values)
  try:
    values(['demo', *(f'--{name}={x}' for name, x in wanted.items() if x and name in known)])
  except flags.Error as error:
    raise errors.ConfigError(f'this cannot be used: {error}') from error
  return generate.read_request(choice.draws, choice.system, values)


@functools.lru_cache(maxsize=1)  # the run in use; several would fill the memory
def _load(workdir):
  from tfg_jax import trained

  return trained.load(workdir)


def find_puppets(choices: Sequence[Choice], folder: pathlib.Path) -> list:
  """A few `example_puppets.Puppet`: of the first run's puppets where it learned from any.

  Raises:
    MissingDependencyError: there are no records of puppets, nor the means to make any.
  """
  from tfg_jax import example_puppets, trained

  root = trained.read_config(choices[0].workdir).data.root
  clips = example_puppets.find(root, _PUPPETS)
  return [example_puppets.write(clip, folder, f'puppet_{i + 1}') for i, clip in enumerate(clips)]


def example(choice: Choice, puppets: Sequence, number: int) -> Given:
  """What the page is filled with when a puppet is clicked: it is to say what the next one says."""
  puppet, other = puppets[number], puppets[(number + 1) % len(puppets)]
  if choice.draws == 'mouth':
    return Given(video=puppet.video, audio=other.audio, boxes=puppet.boxes)
  if choice.draws in ('face', 'driven_face'):
    return Given(image=puppet.image, audio=other.audio, box=puppet.box)
  return Given(audio=puppet.audio)


def explain(error: errors.TfgError) -> str:
  """An error as the page shows it, HTML."""
  lines = [error.what]
  if error.where and error.where != generate.WHERE:
    lines.append(f'({os.path.basename(error.where)})')
  if error.hint:
    lines.append(error.hint)
  return '<br>'.join(html.escape(line) for line in lines)


# The page.

_STYLE = """
.gradio-container {max-width: 1120px !important; margin: 0 auto !important}
#portrait img {width: 100%; height: 100%; object-fit: contain}
.error {border-left: 4px solid #c0392b; background: #c0392b1a; padding: 10px 14px}
"""
_INTRODUCTION = """
# Talking faces

Pick a trained run, drop or record what it draws from (up to {max_seconds:g} s), and press **Draw**.
Let people say only what they agreed to. What is made here says that it is synthetic: in the file,
and in a JSON file beside it.
"""
_CAMERA = {'width': {'ideal': 640}, 'height': {'ideal': 480}, 'frameRate': {'ideal': 25}}
_FONTS = dict(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'])  # local


def page(choices: Sequence[Choice], puppets: Sequence, folder: str, *, max_seconds: float):
  """The `gradio.Blocks` of the runs; nothing is served yet.

  Args:
    choices: the runs.
    puppets: `example_puppets.Puppet`s; if empty, the page has no examples.
    folder: for outputs.
    max_seconds: how long a file may last.
  """
  import gradio as gr

  labels = {choice.label: choice for choice in choices}
  empty = gr.update(value=None, visible=False)

  def canvases(choice, path=None):
    """The film and the portrait, of which one is shown."""
    is_film = choice.ending == '.mp4'
    return [
      gr.update(value=path if shown else None, visible=shown) for shown in (is_film, not is_film)
    ]

  def pick(label):
    choice = labels[label]
    fields = [gr.update(visible=name in choice.takes, value=None) for name in _MEDIA]
    return *fields, gr.update(visible=choice.sees, value=''), None, *canvases(choice), *4 * [empty]

  def fill(label, event: gr.SelectData):
    given = example(labels[label], puppets, event.index)
    return given.video, given.image, given.audio, given.box or '', given.boxes

  def press(label, video, image, audio, box, boxes, progress=gr.Progress()):  # noqa: B008
    def watch(items, what, total):
      for count, item in enumerate(items):
        progress((count, total), desc=what, unit='frames')
        yield item

    progress(0, desc='opening the run')
    choice, given = labels[label], Given(video, image, audio, box, boxes)
    try:
      drawn = draw(choice, given, folder, max_seconds=max_seconds, progress=watch)
    except errors.TfgError as error:
      text = f'<div class="error" role="alert">{explain(error)}</div>'
      return *canvases(choice), *3 * [empty], gr.update(value=text, visible=True)
    return (
      *canvases(choice, drawn.path),
      gr.update(value=[drawn.path, drawn.sidecar], visible=True),
      gr.update(value=drawn.said, visible=True),
      gr.update(value=drawn.marked, visible=True),
      empty,
    )

  first = choices[0]
  with gr.Blocks(title='tfg_jax', analytics_enabled=False, delete_cache=(600, _KEPT)) as blocks:
    gr.Markdown(_INTRODUCTION.format(max_seconds=max_seconds))
    with gr.Row():
      with gr.Column():
        run = gr.Dropdown(list(labels), value=first.label, label='Run', interactive=True)
        if puppets:
          gr.Markdown('Try it with a puppet:')
          gallery = gr.Gallery(
            [puppet.image for puppet in puppets],
            show_label=False,
            columns=len(puppets),
            rows=1,
            height=180,
            object_fit='contain',
            allow_preview=False,
            interactive=False,
            buttons=[],
          )
        # Not mirrored: the file is what the camera saw. Left alone, browsers film as large as they
        # can, at a few frames per second.
        camera = gr.WebcamOptions(mirror=False, constraints={'video': _CAMERA})
        with gr.Row():
          video = gr.Video(
            label='Video',
            include_audio=True,
            webcam_options=camera,
            buttons=[],
            min_width=200,
            visible='video' in first.takes,
          )
          image = gr.Image(
            label='Picture',
            type='filepath',
            image_mode=None,
            sources=['upload', 'webcam'],
            webcam_options=camera,
            buttons=[],
            min_width=200,
            visible='image' in first.takes,
          )
        # The file as it was dropped: Gradio's own would open it, and fail with a trace.
        image.preprocess = lambda payload: payload and payload.path
        audio = gr.Audio(
          label='Speech',
          type='filepath',
          sources=['upload', 'microphone'],
          buttons=[],
          visible='audio' in first.takes,
        )
        box = gr.Textbox(
          label='Where the face is (--box), if it is not found',
          placeholder='x1,y1,x2,y2 in pixels; empty: it is looked for',
          visible=first.sees,
        )
        boxes = gr.State()  # of a puppet's video
        button = gr.Button('Draw', variant='primary')
      with gr.Column():
        problem = gr.HTML(visible=False)
        is_film = first.ending == '.mp4'
        film = gr.Video(
          label='Drawn', interactive=False, autoplay=True, height=420, buttons=[], visible=is_film
        )
        portrait = gr.Image(
          label='Drawn',
          elem_id='portrait',
          type='filepath',
          interactive=False,
          height=420,
          buttons=[],
          visible=not is_film,
        )
        files = gr.File(label='Download: the file and its marks', interactive=False, visible=False)
        said = gr.Textbox(label='What was made', lines=3, max_lines=20, visible=False)
        marked = gr.Textbox(label='Its marks, read back', lines=3, max_lines=30, visible=False)
    inputs = [video, image, audio, box, boxes]
    outputs = [film, portrait, files, said, marked, problem]
    if puppets:
      gallery.select(fill, run, inputs, api_visibility='private')
    run.change(pick, run, inputs + outputs, api_visibility='private')
    # What is known of a puppet's face is not of another's.
    others = [video.upload, video.clear, video.stop_recording]
    others += [image.upload, image.clear, image.input]
    # The place is cleared in the browser, at once: a late answer would clear what was typed since.
    gr.on(others, js="() => ''", outputs=box, api_visibility='private')
    gr.on(others, lambda: None, outputs=boxes, api_visibility='private')
    button.click(press, [run, *inputs], outputs, api_visibility='private')
  return blocks


def define_flags(values=flags.FLAGS):
  flags.DEFINE_multi_string(
    'workdir', None, 'Folder of a trained run; give it again for more.', flag_values=values
  )
  flags.DEFINE_string(
    'host',
    '127.0.0.1',
    'The address to serve at. Any other than this lets other machines use the page.',
    flag_values=values,
  )
  flags.DEFINE_integer('port', 7860, 'The port; 0: any that is free.', 0, 65535, flag_values=values)
  flags.DEFINE_integer(
    'max_megabytes', 200, 'Larger files are refused.', lower_bound=1, flag_values=values
  )
  flags.DEFINE_float(
    'max_seconds', 60.0, 'Longer sounds and videos are refused.', lower_bound=1, flag_values=values
  )


def main(argv, values=flags.FLAGS):
  errors.check_arguments(argv, values, 'workdir')
  host.keep_memory()
  host.prepare_jax()
  choices = open_runs(values.workdir)
  port = _free_port(values.host, values.port)
  with tempfile.TemporaryDirectory(prefix='tfg_jax_') as folder:
    # Read when Gradio is imported: where uploads go, and that nobody is told of them.
    os.environ.update(
      GRADIO_TEMP_DIR=os.path.join(folder, 'uploads'),
      GRADIO_ANALYTICS_ENABLED='False',
      HF_HUB_OFFLINE='1',
      HF_HUB_DISABLE_TELEMETRY='1',
    )
    try:
      import gradio as gr
    except ImportError as error:
      raise errors.MissingDependencyError(
        f'the page needs the package {error.name}', hint="pip install 'tfg_jax[web]'"
      ) from error
    try:
      puppets = find_puppets(choices, pathlib.Path(folder) / 'puppets')
    except errors.MissingDependencyError as error:
      print(f'The page has no examples: {error.what}; {error.hint}')
      puppets = []
    blocks = page(choices, puppets, folder, max_seconds=values.max_seconds)
    _, address, _ = blocks.launch(
      server_name=values.host,
      server_port=port,
      max_file_size=values.max_megabytes << 20,
      allowed_paths=[folder],
      theme=gr.themes.Default(**_FONTS),
      css=_STYLE,
      footer_links=[],
      share=False,
      ssr_mode=False,
      quiet=True,
      prevent_thread_lock=True,
    )
    print(f'The page is at {address} (stop it with Ctrl-C)', flush=True)
    _wait_for_the_end()
    blocks.close()


def _free_port(host, port):
  """`port`, or any that is free for 0."""
  try:
    with socket.create_server((host, port)) as server:
      return server.getsockname()[1]
  except OSError as error:
    raise errors.ConfigError(
      f'the page cannot be served at {host}, port {port}: {error.strerror}',
      hint='name another --port; 0 takes any that is free',
    ) from error


def _wait_for_the_end():
  """Until Ctrl-C, or a request to stop."""
  stop = threading.Event()
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stop.set())
  stop.wait()


if __name__ == '__main__':
  define_flags()
  app.run(errors.exit_on_expected_failure(main), flags_parser=errors.parse_flags)
