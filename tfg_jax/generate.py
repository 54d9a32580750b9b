r"""Draws with a trained run; what it draws, and from what, depends on the system of the run.

  talklip              --workdir=DIR --video=F --audio=F --output=OUT.mp4  (or --image for --video)
  davs                 --workdir=DIR --image=F --audio=F --output=OUT.mp4  (or --video for --audio)
  sdfa with a picture  --workdir=DIR --image=F --audio=F --output=OUT.mp4
  sdfa with a voice    --workdir=DIR --audio=F --output=OUT.mp4
  speech2video         --workdir=DIR --audio=F --output=OUT.mp4
  sf2f                 --workdir=DIR --audio=F --output=face.png           (and --strip=strip.png)

Flags and files are checked before the checkpoint is loaded. What is drawn is marked as synthetic in
the file and in OUTPUT.json beside it (see `tfg_jax.marks`); with --certificate and --key it is
signed, too. --inspect=F reads the marks of a file back; it needs no run.
"""

import dataclasses
import functools
import sys
from fractions import Fraction

import numpy as np
from absl import app, flags

from tfg_jax import (
  content_credentials,
  driven_face,
  errors,
  faces,
  host,
  lip_sync,
  marks,
  synthetic_video,
  talking_head,
)

WHERE = 'the command line'


@dataclasses.dataclass(frozen=True)
class Kind:
  """How the command serves systems with one value of `System.draws`."""

  means: str  # what such a run does, for messages
  needs: tuple[str, ...]  # flags besides --workdir
  may_have: tuple[str, ...]
  one_of: tuple[str, ...] = ()  # two flags of which exactly one is given


KINDS = {
  'mouth': Kind(
    'redraws mouths of a video or a picture to speech',
    ('audio', 'output'),
    ('length', 'gaps', 'region', 'detect_every', 'box', 'boxes'),
    ('video', 'image'),
  ),
  'face': Kind('draws from a picture and speech', ('image', 'audio', 'output'), ('region', 'box')),
  'driven_face': Kind(
    'draws from a picture, and from speech or another video',
    ('image', 'output'),
    ('region', 'box', 'boxes', 'detect_every'),
    ('audio', 'video'),
  ),
  'head': Kind('draws from speech alone', ('audio', 'output'), ()),
  'portrait': Kind('draws from a voice alone', ('audio', 'output'), ('strip',)),
}
_FLAGS = sorted({x for kind in KINDS.values() for x in kind.needs + kind.may_have + kind.one_of})
_OF_VIDEO = ('boxes', 'detect_every')  # without meaning where no video drives the face


def read_request(draws: str, system: str, values):
  """What the flags ask a run of `system` for, which draws what `draws` says.

  Returns:
    A `Request` of `lip_sync`, `driven_face`, `talking_head` or `portraits`.

  Raises:
    ConfigError: for a flag that such a run does not take, that is missing, or that cannot be.
  """
  _check_flags(draws, system, values)
  if draws == 'portrait':
    from tfg_jax import portraits  # imports JAX

    return portraits.Request(values.audio, values.output, values.strip)
  if draws == 'head':
    return talking_head.Request(values.audio, values.output)
  if draws == 'mouth':
    names = 'audio', 'output', 'video', 'image', 'length', 'gaps', 'detect_every', 'boxes'
    return lip_sync.Request(
      region=values.region or 'lower',
      box=_numbers(values.box),
      **{name: values[name].value for name in names},
    )
  face = dict(
    image=values.image,
    output=values.output,
    region=values.region or 'whole',
    box=_numbers(values.box),
  )
  if values.video:
    return driven_face.Request(
      video=values.video, boxes=values.boxes, detect_every=values.detect_every, **face
    )
  return lip_sync.Request(audio=values.audio, **face)


def read_credentials(values) -> content_credentials.Credentials | None:
  """What --certificate and --key name, tried out.

  Raises:
    ConfigError: only one of them is given, or they cannot sign.
    MissingDependencyError: they need the extra `provenance`.
  """
  if not (values.certificate or values.key):
    return None
  if not (values.certificate and values.key):
    raise errors.ConfigError(
      'give both --certificate and --key, or neither',
      where=WHERE,
      hint='the one is the public part of what signs, the other the private',
    )
  credentials = content_credentials.Credentials(values.certificate, values.key)
  credentials.check()
  return credentials


def make(request, run, *, credentials=None, say=print, progress=synthetic_video.progress):
  """Draws what `read_request` returned with a `trained.Trained`; errors are those of the modules.

  Args:
    request: of one of the modules.
    run: the `trained.Trained`.
    credentials: to sign the output with.
    say: is given lines about what is made.
    progress: see `synthetic_video.progress`.

  Returns:
    What the module returns: the numbers of what was made.
  """
  told = dict(say=say, progress=progress)
  if isinstance(request, lip_sync.Request):
    return lip_sync.lip_sync(request, generator_of(run, credentials), **told)
  if isinstance(request, driven_face.Request):
    return driven_face.drive(request, generator_of(run, credentials), **told)
  if isinstance(request, talking_head.Request):
    return talking_head.talk(request, talker_of(run, credentials), **told)
  from tfg_jax import portraits

  return portraits.draw(request, painter_of(run, credentials), say=say)


def _check_flags(draws, system, values):
  from tfg_jax.systems import base

  kind = KINDS[draws]
  known = (*kind.needs, *kind.one_of, *kind.may_have)
  hint = f'use {base.GENERATE_FLAGS[draws]}'
  if kind.one_of:
    hint += ', or --{1} for --{0}'.format(*kind.one_of)
  if kind.may_have:
    hint += f'; it also takes {", ".join(f"--{name}" for name in kind.may_have)}'

  def refuse(name, what=None):
    what = what or f'a run of {system} {kind.means}'
    raise errors.ConfigError(f'--{name}: {what}', where=WHERE, hint=hint)

  for name in _FLAGS:
    if values[name].present and name not in known:
      refuse(name)
  for name in kind.needs:
    if not values[name].value:
      raise errors.ConfigError(
        f'--{name} is missing: a run of {system} {kind.means}', where=WHERE, hint=hint
      )
  if kind.one_of and sum(bool(values[name].value) for name in kind.one_of) != 1:
    one, other = kind.one_of
    raise errors.ConfigError(f'give one of --{one} and --{other}', where=WHERE, hint=hint)
  if draws == 'driven_face' and not values.video:
    for name in _OF_VIDEO:
      if values[name].present:
        refuse(name, 'it is about the frames of the driving video, and there is no --video')


def _numbers(box):
  """The value of --box, which absl has split."""
  try:
    return None if box is None else [float(number) for number in box]
  except ValueError as error:
    raise errors.ConfigError(f'--box={",".join(box)} is not four numbers', where=WHERE) from error


def generator_of(run, credentials=None) -> lip_sync.Generator:
  """Draws faces with a `trained.Trained`, compiled for this machine's first device.

  A system with `adapt` is fitted to the picture by the first call: one generator for one clip.
  """
  system, adapt = run.system, run.jitted.get('adapt')
  state = None

  def draw(inputs):
    nonlocal state
    if state is None:
      state = run.state if adapt is None else adapt(run.state, inputs)
    return np.asarray(run.jitted['generate'](state, inputs))

  named = dict(maker=_maker(run, credentials), face_size=system.face_size, draw=draw)
  if system.draws == 'mouth':
    return lip_sync.Generator(**named)
  return lip_sync.Generator(**named, part='face', picture_rate=_rate(run))


def talker_of(run, credentials=None) -> talking_head.Talker:
  """Draws heads with a `trained.Trained`, compiled for this machine's first device."""
  system, data = run.system, run.run.data
  return talking_head.Talker(
    maker=_maker(run, credentials),
    face_size=system.face_size,
    rate=_rate(run),
    clip_samples=round(data.max_frames / data.fps * data.sample_rate),
    describe=lambda inputs: run.jitted['describe'](run.state, inputs),
    draw=lambda inputs: np.asarray(run.jitted['generate'](run.state, inputs)),
  )


def painter_of(run, credentials=None):
  """The `portraits.Painter` of a `trained.Trained`, compiled for this machine's first device."""
  from tfg_jax import portraits

  return portraits.Painter(
    maker=_maker(run, credentials),
    voice_activity=run.system.settings.voice_activity,
    draw=lambda inputs: np.asarray(run.jitted['generate'](run.state, inputs)),
  )


def _maker(run, credentials):
  return marks.Maker(run.run.system, run.step, run.weights, credentials)


def _rate(run):
  return Fraction(run.run.data.fps).limit_denominator(1001)


def define_flags(values=flags.FLAGS):
  """Defines the flags; other commands have an --output too, so importing this module does not."""
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  choice = functools.partial(flags.DEFINE_enum, flag_values=values)
  text('workdir', None, 'Folder of a trained run.')
  text(
    'video',
    None,
    'The video of a person, whose own sound is not used; for davs one whose lips drive the picture '
    'of --image, and whose sound is kept.',
  )
  text('image', None, 'A picture of a person: it becomes a video.')
  text('audio', None, 'The speech: an audio file, or a video with sound.')
  text('output', None, 'The .mp4 to write; for sf2f a .png.')
  text('strip', None, 'Another .png: portraits from more and more of the voice, side by side.')
  choice(
    'length',
    'audio',
    ['audio', 'video'],
    'How long the output is. audio: a shorter video runs forwards and backwards, a longer one is '
    'cut. video: the audio is cut or padded with silence.',
  )
  choice(
    'gaps',
    'keep',
    list(faces.GAP_POLICIES),
    'Frames without a face. keep: left as they are. hold: drawn in the last box before. '
    'interpolate: drawn between the boxes around them.',
  )
  choice(
    'region',
    None,
    ['lower', 'whole'],
    'What of a drawn face is pasted: its lower half (default of systems that redraw mouths), or '
    'all of it (of those that draw faces).',
  )
  flags.DEFINE_integer(
    'detect_every',
    3,
    'Look for the face in every n-th frame and between where it changes; 1: in all frames.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_list(
    'box',
    None,
    'x1,y1,x2,y2: where the face is in the picture, or in all frames, instead of looking for it.',
    flag_values=values,
  )
  text(
    'boxes',
    None,
    'A .npy of (T, 4) boxes, a row for each frame of the video (also of one that drives a picture);'
    ' NaN: no face.',
  )
  text(
    'certificate',
    None,
    'Signs the output (C2PA): a PEM file of your certificate and its chain. Needs the extra '
    'provenance, and --key.',
  )
  text('key', None, 'The private key of --certificate, a PEM file without a password.')
  text(
    'inspect',
    None,
    'An .mp4 or .png: says what marks of synthetic media are in it and beside it, whether they '
    'agree, and who signed it. Exit code 0: marked, and all in order; 1: not.',
  )


def what_draws(workdir: str) -> tuple[str, str]:
  """The name of a run's system and its `System.draws`, read from its config.

  Raises:
    CheckpointError: the folder is no workdir, or its system draws nothing.
  """
  from tfg_jax import configuration, systems, trained

  config = configuration.resolve(trained.read_config(workdir))
  draws = systems.build(config, axis_name=None).draws
  if not draws:
    raise errors.CheckpointError(
      f'this run of {config.system} draws nothing.',
      where=workdir,
      hint='name the workdir of a run that learned to draw: talklip, davs with a decoder, sdfa, '
      'speech2video or sf2f.',
    )
  return config.system, draws


def _inspect(values):
  """Prints what `marks.inspect` finds, and exits with 1 unless all is in order."""
  for name in ('workdir', *_FLAGS):
    if values[name].present:
      raise errors.ConfigError(
        f'--{name}: with --inspect nothing is drawn', where=WHERE, hint='use --inspect=F alone'
      )
  found = marks.inspect(values.inspect)
  print(found)
  if not found.is_sound:
    sys.exit(1)


def main(argv, values=flags.FLAGS):
  errors.check_arguments(argv, values)
  if values.inspect:
    _inspect(values)
    return
  errors.check_arguments(argv, values, 'workdir')
  host.keep_memory()
  host.prepare_jax()
  from tfg_jax import trained

  system, draws = what_draws(values.workdir)
  request = read_request(draws, system, values)
  request.check()  # before a checkpoint is loaded, which takes longer
  credentials = read_credentials(values)
  try:
    make(request, trained.load(values.workdir), credentials=credentials)
  except KeyboardInterrupt:
    print(f'\nInterrupted: {values.output} was not written.', file=sys.stderr)
    sys.exit(errors.EXIT_INTERRUPTED)


if __name__ == '__main__':
  define_flags()
  app.run(errors.exit_on_expected_failure(main), flags_parser=errors.parse_flags)
