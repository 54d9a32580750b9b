"""Makes the person in a video or a picture say what an audio file says.

The clip is read, redrawn and written in chunks: memory holds one chunk of frames, and per second of
clip 32 kB of speech and a few kB of times and boxes.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from fractions import Fraction

import cv2
import numpy as np

from tfg_jax import errors, faces, marks, media, synthetic_video
from tfg_jax.synthetic_video import CHUNK_FRAMES, MAX_LATE, SPEECH_RATE

CHUNK_BYTES = 256 << 20  # of source frames; 4K video gets shorter chunks
_GAPS_LISTED = 10
NOT_SAID = 'The person shown did not say this.'


@dataclasses.dataclass(frozen=True)
class Generator:
  """A trained system, ready to draw.

  `draw` takes a dict of `faces` and `identity`, (N, S, S, 3) uint8 RGB, `wav` (L,) int16 at 16 kHz
  of which `num_samples` () int32 are sound, and `times` (N,) float32, seconds from the start of
  `wav`; it returns (N, S, S, 3) uint8 RGB. N and L are the same in every call for one clip.
  For a face that another video drives it takes `identity` and `driving`, (N, S, S, 3) uint8 RGB.
  """

  maker: marks.Maker
  face_size: int
  draw: Callable[[dict[str, np.ndarray]], np.ndarray]
  part: str = 'mouth'  # what it draws: the 'mouth', or all of the 'face'
  picture_rate: Fraction = Fraction(25)  # frames per second that a picture becomes


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
    """The path of what is redrawn."""
    return self.video or self.image

  def check(self):
    """Finds what can be found in a second.

    Raises:
      ConfigError: choices that exclude each other.
      MediaError: an input is missing or not what its flag says, the boxes are none, or the output
        cannot be written.
    """
    if bool(self.video) == bool(self.image):
      raise errors.ConfigError('give one of --video and --image', where='the command line')
    if self.box is not None and self.boxes is not None:
      raise errors.ConfigError('give one of --box and --boxes', where='the command line')
    if self.image and self.length == 'video':
      raise errors.ConfigError(
        'a still image has no length', where='the command line', hint='use --length=audio'
      )
    media.check_pictures(self.source, still=bool(self.image))
    media.check_sound(self.audio)
    media.check_output(self.output, inputs=(self.source, self.audio))
    check_boxes(self.box, self.boxes)


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
  progress: synthetic_video.Progress = synthetic_video.progress,
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
  said = _marks(request, generator)
  with media.VideoReader(request.source, seconds=needed) as reader:
    rate = generator.picture_rate if request.image else reader.rate
    track = find_face(
      reader,
      request.box,
      request.boxes,
      load_detector,
      every=request.detect_every,
      progress=progress,
    )
    source = schedule(reader.times, rate, sound if request.length == 'audio' else None)
    seconds = sound if request.length == 'audio' else float(len(source) / rate)
    is_given = request.box is not None or request.boxes is not None
    boxes = pixel_boxes(reader, track, request.gaps, as_given=is_given)
    redrawn = int(boxes[source].any(axis=1).sum())
    _say_plan(request, reader, track, source, sound, say)
    if not redrawn:
      raise no_face(request.source, len(np.unique(source)), as_given=is_given)
    speech = synthetic_video.fit(speech, round(seconds * SPEECH_RATE))
    frames = redraw(
      reader,
      source,
      boxes,
      speech,
      generator,
      rate=rate,
      region=request.region,
      chunk_frames=chunk_frames,
    )
    with media.VideoWriter(
      request.output,
      reader.width,
      reader.height,
      rate,
      audio=synthetic_video.sound_track(request.audio, seconds),
      pixel_aspect=reader.pixel_aspect,
      colour=reader.colour,
      metadata=said.tags,
      finish=said.finish,
    ) as writer:
      for frame in progress(frames, 'drawing', len(source)):
        writer.write(frame)
    made = Made(len(source), redrawn, rate, seconds)
  say(
    synthetic_video.written(
      request.output,
      seconds=seconds,
      frames=made.frames,
      size=(reader.width, reader.height),
      rate=rate,
      what=f'the {generator.part} redrawn in {redrawn}',
    )
  )
  return made


def schedule(times: np.ndarray, rate: Fraction, seconds: float | None) -> np.ndarray:
  """Chooses the source frame of each output frame, (T,) int: `media.on_screen`, fitted to a sound.

  Args:
    times: of the source frames, seconds.
    rate: of the output, frames per second.
    seconds: how long the output is; a shorter video runs forwards and backwards in turn, without
      showing its ends twice. None: as long as the video.
  """
  forwards = media.on_screen(times, rate)
  if seconds is None:
    return forwards
  once = len(forwards)
  count = synthetic_video.count_frames(seconds, rate)
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
  rate: Fraction,
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
    rate: of the output, frames per second.
    region: 'lower' or 'whole', see `paste`.
    chunk_frames: frames drawn at once.
  """
  size = generator.face_size
  chunk_frames = fitting_chunk(reader, chunk_frames)
  # One person, one reference: the first frame with a face, as in the paper's test (inf_test).
  first = int(np.argmax(boxes.any(axis=1)))
  (picture,) = reader.frames(first, first + 1)
  identity = np.broadcast_to(crop(picture, boxes[first], size), (chunk_frames, size, size, 3))
  for start in range(0, len(source), chunk_frames):
    indices = source[start : start + chunk_frames]
    pictures = read(reader, indices)
    crops = np.zeros((chunk_frames, size, size, 3), np.uint8)  # one shape, one compilation
    for place, index in enumerate(indices):
      if boxes[index].any():
        crops[place] = crop(pictures[index], boxes[index], size)
    if boxes[indices].any():
      hearing = synthetic_video.heard(speech, start, chunk_frames, rate)
      drawn = generator.draw({'faces': crops, 'identity': identity, **hearing})
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


def find_face(
  reader,
  box,
  boxes,
  load_detector: Callable[[], faces.Detector],
  *,
  every: int = 3,
  progress: synthetic_video.Progress = synthetic_video.progress,
) -> faces.FaceTrack:
  """The face in each frame of a `media.VideoReader`: as the user gave it, else looked for.

  Args:
    reader: the frames.
    box: x1, y1, x2, y2 of all of them, or None.
    boxes: a .npy of one row for each, or None.
    load_detector: called where neither is given.
    every: see `faces.look_for_faces`.
    progress: is shown what is looked through.
  """
  if box is not None:
    return faces.fixed_track(box, len(reader), where='--box')
  if boxes is not None:
    return faces.load_track(boxes, len(reader))
  frames = progress(reader.scan(), 'finding the face', None)
  sightings = faces.look_for_faces(frames, load_detector(), every=every)
  return faces.follow_face(sightings, reader.times)


def pixel_boxes(reader, track: faces.FaceTrack, gaps: str, *, as_given: bool) -> np.ndarray:
  """(S, 4) int boxes of the frames; those from the user are taken as they are."""
  boxes = faces.fill_gaps(track, reader.times, gaps)
  if as_given:
    return faces.pixel_boxes(boxes, reader.width, reader.height)
  boxes = faces.smooth_boxes(boxes, reader.times, track.cuts)
  return faces.whole_face_boxes(boxes, reader.width, reader.height)


def check_boxes(box: list[float] | None, boxes: str | None):
  """Raises MediaError unless what the user gave can be boxes; `boxes` is a .npy."""
  if box is not None:
    faces.fixed_track(box, 1, where='--box')
  if boxes is not None:
    faces.load_track(boxes)


def fitting_chunk(reader, chunk_frames: int) -> int:
  """How many frames to hold at once: `chunk_frames`, or as many as `CHUNK_BYTES` can be."""
  return min(chunk_frames, max(1, CHUNK_BYTES // (reader.width * reader.height * 3)))


def read(reader, indices: np.ndarray) -> dict[int, np.ndarray]:
  """{source frame: picture} of one chunk; the frames lie together, forwards or backwards."""
  wanted = set(indices.tolist())
  low, high = min(wanted), max(wanted)
  frames = enumerate(reader.frames(low, high + 1), low)
  return {index: picture for index, picture in frames if index in wanted}


def _marks(request, generator):
  done = {
    'mouth': ('the mouth was redrawn', 'to match other speech'),
    'face': ('the face was drawn', 'from a picture and speech'),
  }
  drawn, how = done[generator.part]
  kind, source = (marks.FOOTAGE, 'video') if request.video else (marks.STILL, 'image')
  inputs = {source: request.source, 'audio': request.audio}
  return marks.Marks(generator.maker, kind, drawn, how, NOT_SAID, inputs)


def no_face(
  path: str, count: int, *, as_given: bool, by: str = '--box=x1,y1,x2,y2 or --boxes=F.npy'
) -> errors.MediaError:
  """The error of `count` frames without a face that can be used; `by` are flags that give one."""
  if as_given:
    return errors.MediaError(
      'no box shows 8 pixels or more of a frame', where=path, hint=f'check {by}'
    )
  return errors.MediaError(
    f'no face was found in the {count} frames used',
    where=path,
    hint=f'drawn faces, profiles and faces under 20 pixels are not found: give the place with {by}',
  )


def _say_plan(request, reader, track, source, sound, say):
  rate = float(reader.rate)
  picture = f'{request.source}: {reader.width}x{reader.height}'
  if request.video:
    picture += f' at {rate:.6g} frames per second'
    video = float(reader.times[-1]) + 1 / rate
    if request.length == 'video' or abs(video - sound) <= MAX_LATE:
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
  how = {
    'keep': 'these frames stay as they are',
    'hold': 'the box before is held',
    'interpolate': 'boxes are interpolated',
  }[request.gaps]
  say_missing(reader, track, f'{how} (--gaps={request.gaps})', say)


def say_missing(reader, track: faces.FaceTrack, how: str, say: Callable[[str], None]):
  """Lists the times without a face, and `how` they are dealt with."""
  missing = track.gaps()
  if not missing:
    say(f'face: in all {len(reader)} frames')
    return
  say(f'face: not found in {(~track.found).sum()} of {len(reader)} frames; {how}')
  for start, stop in missing[:_GAPS_LISTED]:
    first, last = reader.times[start], reader.times[stop - 1]
    say(f'  {_clock(first)} to {_clock(last)}: frames {start} to {stop - 1}')
  if len(missing) > _GAPS_LISTED:
    say(f'  and {len(missing) - _GAPS_LISTED} more')


def _clock(seconds):
  minutes, seconds = divmod(float(seconds), 60)
  return f'{int(minutes)}:{seconds:05.2f}'
