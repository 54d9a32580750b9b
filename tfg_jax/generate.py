r"""Makes a person in a video or a picture say what an audio file says, with a trained run.

  python -m tfg_jax.generate --workdir=DIR --video=F --audio=F --output=OUT.mp4
  python -m tfg_jax.generate --workdir=DIR --image=F --audio=F --output=OUT.mp4

The clip is read, redrawn and written in chunks: memory holds one chunk of frames, and per second of
clip 32 kB of speech and a few kB of times and boxes.
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

import cv2
import numpy as np
import tqdm
from absl import app, flags, logging

import tfg_jax
from tfg_jax import errors, faces, media

SPEECH_RATE = 16_000  # Hz, of every system
CONTEXT = 2.0  # seconds of speech that a chunk hears before and after its own
CHUNK_FRAMES = 64
CHUNK_BYTES = 256 << 20  # of source frames; 4K video gets shorter chunks
# Stretches of speech start at multiples of 0.2 s, which all hops of the features divide (10, 12.5
# and 40 ms): their rows fall where they would in the whole clip, so chunks do not show.
_GRID = 3200  # samples
_MAX_LATE = 0.04  # seconds that the last frame may outlast the sound
_GAPS_LISTED = 10


@dataclasses.dataclass(frozen=True)
class Generator:
  """A trained system, ready to draw.

  `draw` takes a dict of `faces` and `identity`, (N, S, S, 3) uint8 RGB, `wav` (L,) int16 at 16 kHz
  of which `num_samples` () int32 are sound, and `times` (N,) float32, seconds from the start of
  `wav`; it returns (N, S, S, 3) uint8 RGB. N and L are the same in every call for one clip.
  """

  name: str  # for the tags of the file
  face_size: int
  draw: Callable[[dict[str, np.ndarray]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Request:
  """What to make. Paths are files; see the command's flags for the choices."""

  audio: str
  output: str
  video: str | None = None
  image: str | None = None
  length: str = 'audio'
  gaps: str = 'keep'
  region: str = 'lower'
  detect_every: int = 3
  box: list[float] | None = None
  boxes: str | None = None

  @property
  def source(self) -> str:
    return self.video or self.image

  def check(self):
    """Finds what can be found in a second.

    Raises:
      ConfigError: choices that exclude each other.
      MediaError: an input is missing or not what its flag says, or the output cannot be written.
    """
    if bool(self.video) == bool(self.image):
      raise errors.ConfigError('give one of --video and --image', where='the command line')
    if self.box is not None and self.boxes is not None:
      raise errors.ConfigError('give one of --box and --boxes', where='the command line')
    if self.image and self.length == 'video':
      raise errors.ConfigError(
        'a still image has no length', where='the command line', hint='use --length=audio'
      )
    info = media.probe(self.source)
    if not info.has_video:
      raise errors.MediaError('the file has no video stream', where=self.source)
    if self.video and info.is_image:
      raise errors.MediaError('this is a still image', where=self.video, hint='use --image')
    if self.image and not info.is_image:
      raise errors.MediaError('this is a video', where=self.image, hint='use --video')
    if not media.probe(self.audio).has_audio:
      raise errors.MediaError('the file has no audio stream', where=self.audio)
    media.check_output(self.output)
    for path in (self.source, self.audio):
      if os.path.exists(self.output) and os.path.samefile(path, self.output):
        raise errors.MediaError('the output would replace an input', where=path)


@dataclasses.dataclass(frozen=True)
class Made:
  """What `lip_sync` wrote."""

  frames: int
  redrawn: int  # of them
  rate: Fraction  # frames per second
  seconds: float


def lip_sync(
  request: Request,
  generator: Generator,
  *,
  load_detector: Callable[[], faces.Detector] = faces.mtcnn_detector,
  say: Callable[[str], None] = print,
  chunk_frames: int = CHUNK_FRAMES,
) -> Made:
  """Writes `request.output`. What will be made, and which frames have no face, is said first.

  Raises:
    MediaError: see `Request.check`; and damaged media, or no face in the frames used.
    MissingDependencyError: faces are to be found without the packages for it.
  """
  request.check()
  speech = media.read_audio(request.audio, SPEECH_RATE)
  sound = len(speech) / SPEECH_RATE
  # Of a longer video no more is read than the speech needs, and a second for the smoothing.
  needed = sound + 1 if request.length == 'audio' and request.boxes is None else None
  with media.VideoReader(request.source, seconds=needed) as reader:
    track = _find_faces(request, reader, load_detector)
    source = schedule(reader.times, reader.rate, sound if request.length == 'audio' else None)
    seconds = sound if request.length == 'audio' else float(len(source) / reader.rate)
    boxes = _boxes(request, reader, track)
    redrawn = int(boxes[source].any(axis=1).sum())
    _say_plan(request, reader, track, source, sound, say)
    if not redrawn:
      raise _no_face(request, len(np.unique(source)))
    speech = _fit(speech, round(seconds * SPEECH_RATE))
    frames = redraw(
      reader, source, boxes, speech, generator, region=request.region, chunk_frames=chunk_frames
    )
    with media.VideoWriter(
      request.output,
      reader.width,
      reader.height,
      reader.rate,
      audio=_track_of_output(request.audio, seconds),
      pixel_aspect=reader.pixel_aspect,
      colour=reader.colour,
      metadata=_tags(generator),
    ) as writer:
      for frame in _progress(frames, 'drawing', len(source)):
        writer.write(frame)
    made = Made(len(source), redrawn, reader.rate, seconds)
  say(
    f'Wrote {request.output}: {made.seconds:.2f} s, {made.frames} frames of {reader.width}x'
    f'{reader.height} at {float(made.rate):.6g} per second, the mouth redrawn in {made.redrawn}.\n'
    'It is synthetic; a comment in the file says so. Say so too where you show it.'
  )
  return made


def schedule(times: np.ndarray, rate: Fraction, seconds: float | None) -> np.ndarray:
  """Chooses the source frame of each output frame, (T,) int.

  Output frame k shows from k / rate to (k + 1) / rate; it is the source frame on screen in the
  middle of that time, so a constant rate is copied frame by frame and a variable one is held.

  Args:
    times: of the source frames, seconds.
    rate: of the output, frames per second.
    seconds: how long the output is; a shorter video runs forwards and backwards in turn, without
      showing its ends twice. None: as long as the video.
  """
  once = round(float(times[-1] * rate)) + 1
  middles = (np.arange(once) + 0.5) / float(rate)
  forwards = np.searchsorted(times, middles, 'right') - 1
  if seconds is None:
    return forwards
  # Rounded, but never more than `_MAX_LATE` longer than the sound.
  count = max(1, int(seconds * rate + min(0.5, _MAX_LATE * rate)))
  period = max(1, 2 * (once - 1))
  position = np.arange(count) % period
  return forwards[np.minimum(position, period - position) if once > 1 else position]


def redraw(
  reader,
  source: np.ndarray,
  boxes: np.ndarray,
  speech: np.ndarray,
  generator: Generator,
  *,
  region: str = 'lower',
  chunk_frames: int = CHUNK_FRAMES,
) -> Iterator[np.ndarray]:
  """Yields the output frames, RGB uint8 (H, W, 3); what is outside the boxes is not touched.

  Args:
    reader: a `media.VideoReader`.
    source: (T,) the source frame of each output frame.
    boxes: (S, 4) int, the face in each source frame; zeros where it is to stay as it is.
    speech: (L,) int16 at 16 kHz, as long as the output.
    generator: draws the faces.
    region: 'lower' or 'whole', see `paste`.
    chunk_frames: frames drawn at once.
  """
  size = generator.face_size
  chunk_frames = min(chunk_frames, max(1, CHUNK_BYTES // (reader.width * reader.height * 3)))
  span = float(chunk_frames / reader.rate)
  stretch = (int((span + 2 * CONTEXT) * SPEECH_RATE) // _GRID + 2) * _GRID
  # One person, one reference: the first frame with a face, as in the paper's test (inf_test).
  first = int(np.argmax(boxes.any(axis=1)))
  (picture,) = reader.frames(first, first + 1)
  identity = np.broadcast_to(crop(picture, boxes[first], size), (chunk_frames, size, size, 3))
  for start in range(0, len(source), chunk_frames):
    indices = source[start : start + chunk_frames]
    pictures = _read(reader, indices)
    crops = np.zeros((chunk_frames, size, size, 3), np.uint8)  # one shape, one compilation
    for place, index in enumerate(indices):
      if boxes[index].any():
        crops[place] = crop(pictures[index], boxes[index], size)
    if boxes[indices].any():
      time = start / float(reader.rate)
      begin = max(0, int((time - CONTEXT) * SPEECH_RATE)) // _GRID * _GRID
      heard = speech[begin : begin + stretch]
      times = (start + np.arange(chunk_frames)) / float(reader.rate) - begin / SPEECH_RATE
      drawn = generator.draw(
        {
          'faces': crops,
          'identity': identity,
          'wav': _fit(heard, stretch),
          'num_samples': np.int32(len(heard)),
          'times': times.astype(np.float32),
        }
      )
    for place, index in enumerate(indices):
      if boxes[index].any():
        yield paste(pictures[index], drawn[place], boxes[index], region)
      else:
        yield pictures[index]


def crop(picture: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
  """A face, (size, size, 3) uint8, cut out as in training: bilinear, of the whole box."""
  x1, y1, x2, y2 = box
  return cv2.resize(picture[y1:y2, x1:x2], (size, size), interpolation=cv2.INTER_LINEAR)


def paste(picture: np.ndarray, face: np.ndarray, box: np.ndarray, region: str) -> np.ndarray:
  """Returns a copy of the picture with a drawn face blended into its box.

  The mask is 0 on the border of the box. For 'lower' it rises around the middle, where the networks
  that redraw the mouth begin, so that eyes and brows stay as sharp as they are; 'whole' is for
  networks that draw the whole head.
  """
  x1, y1, x2, y2 = box
  width, height = x2 - x1, y2 - y1
  how = cv2.INTER_CUBIC if width > face.shape[1] else cv2.INTER_AREA
  face = cv2.resize(face, (int(width), int(height)), interpolation=how).astype(np.float32)
  result = picture.copy()
  before = picture[y1:y2, x1:x2].astype(np.float32)
  blended = before + feather(int(height), int(width), region)[..., None] * (face - before)
  result[y1:y2, x1:x2] = np.rint(blended).astype(np.uint8)
  return result


@functools.lru_cache(maxsize=256)
def feather(height: int, width: int, region: str) -> np.ndarray:
  """(height, width) weights in [0, 1] of a drawn face, smooth and 0 on the border."""
  rows, columns = ((np.arange(n) / (n - 1)) for n in (height, width))
  top = _rise((rows - 0.45) / 0.15) if region == 'lower' else _rise(rows / 0.12)
  down = top * _rise((1 - rows) / 0.12)
  across = _rise(columns / 0.12) * _rise((1 - columns) / 0.12)
  return (down[:, None] * across).astype(np.float32)


def _rise(x):
  """0 for x <= 0, 1 for x >= 1, smooth between."""
  x = np.clip(x, 0, 1)
  return x * x * (3 - 2 * x)


def _find_faces(request, reader, load_detector):
  if request.box is not None:
    return faces.fixed_track(request.box, len(reader), where='--box')
  if request.boxes is not None:
    return faces.load_track(request.boxes, len(reader))
  frames = _progress(reader.scan(), 'finding the face', None)
  sightings = faces.look_for_faces(frames, load_detector(), every=request.detect_every)
  return faces.follow_face(sightings, reader.times)


def _boxes(request, reader, track):
  """(S, 4) int boxes of the source frames; those from the user are taken as they are."""
  boxes = faces.fill_gaps(track, reader.times, request.gaps)
  if request.box is not None or request.boxes is not None:
    return faces.pixel_boxes(boxes, reader.width, reader.height)
  boxes = faces.smooth_boxes(boxes, reader.times, track.cuts)
  return faces.whole_face_boxes(boxes, reader.width, reader.height)


def _read(reader, indices):
  """{source frame: picture} of one chunk; the frames lie together, forwards or backwards."""
  wanted = set(indices.tolist())
  low, high = min(wanted), max(wanted)
  frames = enumerate(reader.frames(low, high + 1), low)
  return {index: picture for index, picture in frames if index in wanted}


def _fit(samples, count):
  """Cuts, or pads with silence, to `count` samples."""
  if len(samples) >= count:
    return samples[:count]
  return np.concatenate([samples, np.zeros(count - len(samples), samples.dtype)])


def _track_of_output(path, seconds):
  """The sound for the output: as good as it came, cut or padded to `seconds`, in blocks."""
  own = media.probe(path).audio_rate
  rate = own if own in media.AAC_RATES else max(media.AAC_RATES)

  def blocks():
    left = round(seconds * rate)
    for block in media.stream_audio(path, rate, mono=False):
      yield block[:left]
      left -= len(block)
      if left <= 0:
        return
    while left > 0:  # after the sound: silence
      yield np.zeros((min(left, rate), block.shape[1]), np.int16)
      left -= rate

  return blocks(), rate


def _tags(generator):
  text = (
    f'Synthetic media: the mouth was redrawn by tfg_jax {tfg_jax.__version__} ({generator.name}) '
    'to match other speech. The person shown did not say this.'
  )
  return {'comment': text, 'description': text}


def _no_face(request, count):
  if request.box is not None or request.boxes is not None:
    return errors.MediaError(
      'no box shows 8 pixels or more of a frame',
      where=request.source,
      hint='check --box or --boxes',
    )
  return errors.MediaError(
    f'no face was found in the {count} frames used',
    where=request.source,
    hint='drawn faces, profiles and faces under 20 pixels are not found: give the place with '
    '--box=x1,y1,x2,y2 or --boxes=F.npy',
  )


def _say_plan(request, reader, track, source, sound, say):
  count, rate = len(reader), float(reader.rate)
  picture = f'{request.source}: {reader.width}x{reader.height}'
  if request.video:
    picture += f' at {rate:.6g} frames per second'
    video = float(reader.times[-1]) + 1 / rate
    if request.length == 'video' or abs(video - sound) <= _MAX_LATE:
      picture += f', {video:.2f} s'
    elif video < sound:
      picture += f', {video:.2f} s, played forwards and backwards'
    else:
      picture += ', cut where the speech ends'
  say(picture)
  speech = f'{request.audio}: {sound:.2f} s'
  if request.length == 'video':
    speech += f', cut or padded with silence to {len(source) / rate:.2f} s'
  say(speech)
  missing = track.gaps()
  if not missing:
    say(f'face: in all {count} frames')
    return
  how = {
    'keep': 'these frames stay as they are',
    'hold': 'the box before is held',
    'interpolate': 'boxes are interpolated',
  }[request.gaps]
  say(f'face: not found in {(~track.found).sum()} of {count} frames; {how} (--gaps={request.gaps})')
  for start, stop in missing[:_GAPS_LISTED]:
    first, last = reader.times[start], reader.times[stop - 1]
    say(f'  {_clock(first)} to {_clock(last)}: frames {start} to {stop - 1}')
  if len(missing) > _GAPS_LISTED:
    say(f'  and {len(missing) - _GAPS_LISTED} more')


def _clock(seconds):
  minutes, seconds = divmod(float(seconds), 60)
  return f'{int(minutes)}:{seconds:05.2f}'


def _progress(items: Iterable, what: str, total: int | None) -> Iterable:
  interval = 0.5 if sys.stderr.isatty() else 30  # a log gets two lines a minute
  return tqdm.tqdm(items, what, total, unit=' frames', mininterval=interval, file=sys.stderr)


def load_generator(workdir: str) -> Generator:
  """The generator of a run's best checkpoint, compiled for this machine's first device.

  Raises:
    CheckpointError: the workdir has none.
  """
  import jax

  from tfg_jax import trained

  run = trained.load(workdir)
  draw = jax.jit(run.system.generate)
  return Generator(
    name=f'{run.run.system}, step {run.step}',
    face_size=run.system.face_size,
    draw=lambda inputs: np.asarray(draw(run.state, inputs)),
  )


def define_flags(values=flags.FLAGS):
  """Defines the flags; other commands have an --output too, so importing this module does not."""
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  choice = functools.partial(flags.DEFINE_enum, flag_values=values)
  text('workdir', None, 'Folder of a trained run.')
  text('video', None, 'The video of a person; its own sound is not used.')
  text('image', None, 'Or a picture of a person: it becomes a video of 25 frames per second.')
  text('audio', None, 'The speech: an audio file, or a video with sound.')
  text('output', None, 'The .mp4 to write.')
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
    'lower',
    ['lower', 'whole'],
    'What of a drawn face is pasted: its lower half, or all of it (for systems that draw heads).',
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
    'x1,y1,x2,y2: where the face is in all frames, instead of looking for it.',
    flag_values=values,
  )
  text('boxes', None, 'A .npy of (T, 4) boxes, a row for each frame of the video; NaN: no face.')


def request_from_flags(values) -> Request:
  """Raises ConfigError for a flag that cannot be."""
  box = values.box
  if box is not None:
    try:
      box = [float(number) for number in box]
    except ValueError as error:
      raise errors.ConfigError(f'--box={",".join(box)} is not four numbers') from error
  names = [field.name for field in dataclasses.fields(Request) if field.name != 'box']
  return Request(box=box, **{name: values[name].value for name in names})


def main(argv, values=flags.FLAGS):
  errors.check_arguments(argv, values, 'workdir', 'audio', 'output')
  request = request_from_flags(values)
  request.check()  # before a checkpoint is loaded, which takes longer
  logging.set_verbosity(logging.WARNING)  # Orbax reports each of its steps
  try:
    lip_sync(request, load_generator(values.workdir))
  except KeyboardInterrupt:
    print(f'\nInterrupted: {request.output} was not written.', file=sys.stderr)
    sys.exit(errors.EXIT_INTERRUPTED)


if __name__ == '__main__':
  define_flags()
  app.run(errors.exit_on_expected_failure(main), flags_parser=errors.parse_flags)
