"""Makes the face of a picture say what the lips of another video say.

The driving video is read, drawn from and written in chunks: memory holds one chunk of its frames,
and a few kB of times and boxes per second. The output has its rate, its length and its sound.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from tfg_jax import faces, lip_sync, marks, media, synthetic_video


@dataclasses.dataclass(frozen=True)
class Request:
  """What to make. Paths are files; see the command's flags for the choices."""

  image: str
  video: str  # whose lips drive the face
  output: str
  region: str = 'whole'
  detect_every: int = 3
  box: list[float] | None = None  # of the face in the picture
  boxes: str | None = None  # a .npy, of the faces in the frames of the video

  def check(self):
    """Finds what can be found in a second.

    Raises:
      MediaError: an input is missing or not what its flag says, the boxes are none, or the output
        cannot be written.
    """
    media.check_pictures(self.image, still=True)
    media.check_pictures(self.video, still=False)
    media.check_output(self.output, inputs=(self.image, self.video))
    lip_sync.check_boxes(self.box, self.boxes)


def drive(
  request: Request,
  generator: lip_sync.Generator,
  *,
  load_detector: Callable[[], faces.Detector] = faces.mtcnn_detector,
  say: Callable[[str], None] = print,
  progress: synthetic_video.Progress = synthetic_video.progress,
  chunk_frames: int = synthetic_video.CHUNK_FRAMES,
) -> lip_sync.Made:
  """Writes `request.output`. What will be made, and which frames have no face, is said first.

  Boxes of driving frames without a face are interpolated; in shots without any the mouth keeps
  still.

  Raises:
    MediaError: see `Request.check`; and damaged media, or no face in the picture or the video.
    MissingDependencyError: faces are to be found without the packages for it.
  """
  request.check()
  with media.VideoReader(request.image) as still, media.VideoReader(request.video) as reader:
    (picture,) = still.frames(0, 1)
    box = _face_of_picture(request, still, load_detector)
    track = lip_sync.find_face(
      reader,
      None,
      request.boxes,
      load_detector,
      every=request.detect_every,
      progress=progress,
    )
    is_given = request.boxes is not None
    boxes = lip_sync.pixel_boxes(reader, track, 'interpolate', as_given=is_given)
    order = media.on_screen(reader.times, reader.rate)
    seconds = float(len(order) / reader.rate)
    audio = None
    if media.probe(request.video).has_audio:
      audio = synthetic_video.sound_track(request.video, seconds)
    _say_plan(request, still, reader, track, boxes, audio, say)
    if not boxes.any():
      raise lip_sync.no_face(request.video, len(boxes), as_given=is_given, by='--boxes=F.npy')
    said = marks.Marks(
      generator.maker,
      marks.STILL,
      'the face was drawn',
      'from a picture and the lips of another video',
      lip_sync.NOT_SAID,
      {'image': request.image, 'video': request.video},
    )
    drawn = _draw(
      reader,
      order,
      boxes,
      lip_sync.crop(picture, box, generator.face_size),
      generator,
      chunk_frames,
    )
    with media.VideoWriter(
      request.output,
      still.width,
      still.height,
      reader.rate,
      audio=audio,
      pixel_aspect=still.pixel_aspect,
      colour=still.colour,
      metadata=said.tags,
      finish=said.finish,
    ) as writer:
      for face in progress(drawn, 'drawing', len(order)):
        writer.write(lip_sync.paste(picture, face, box, request.region))
    made = lip_sync.Made(len(order), len(order), reader.rate, seconds)
  say(
    synthetic_video.written(
      request.output,
      seconds=seconds,
      frames=made.frames,
      size=(still.width, still.height),
      rate=made.rate,
      what='the face drawn in all of them',
    )
  )
  return made


def _face_of_picture(request, still, load_detector):
  """(4,) int."""
  track = lip_sync.find_face(still, request.box, None, load_detector)
  is_given = request.box is not None
  (box,) = lip_sync.pixel_boxes(still, track, 'keep', as_given=is_given)
  if not box.any():
    raise lip_sync.no_face(request.image, 1, as_given=is_given, by='--box=x1,y1,x2,y2')
  return box


def _draw(reader, order, boxes, face, generator, chunk_frames) -> Iterator[np.ndarray]:
  """Yields a face, RGB uint8 (S, S, 3), for each driving frame of `order`."""
  size = generator.face_size
  chunk_frames = lip_sync.fitting_chunk(reader, chunk_frames)
  identity = np.broadcast_to(face, (chunk_frames, size, size, 3))
  order = _with_faces(boxes)[order]
  for start in range(0, len(order), chunk_frames):
    indices = order[start : start + chunk_frames]
    pictures = lip_sync.read(reader, indices)
    driving = np.zeros((chunk_frames, size, size, 3), np.uint8)  # one shape, one compilation
    for place, index in enumerate(indices):
      driving[place] = lip_sync.crop(pictures[index], boxes[index], size)
    yield from generator.draw({'identity': identity, 'driving': driving})[: len(indices)]


def _with_faces(boxes):
  """(S,) int: for each frame itself, or the frame before it that has a face; else the first one."""
  has_face = boxes.any(axis=1)
  last = np.maximum.accumulate(np.where(has_face, np.arange(len(boxes)), -1))
  return np.where(last < 0, np.argmax(has_face), last)


def _say_plan(request, still, reader, track, boxes, audio, say):
  say(f'{request.image}: {still.width}x{still.height}')
  rate = float(reader.rate)
  sound = 'its sound is kept' if audio else 'it has no sound, nor will the output'
  say(
    f'{request.video}: {float(reader.times[-1]) + 1 / rate:.2f} s at {rate:.6g} frames per second; '
    f'{sound}'
  )
  lip_sync.say_missing(reader, track, 'boxes are interpolated', say)
  without = int((~boxes.any(axis=1)).sum())
  if without:
    say(f'face: {without} frames have no face around them in their shot; the mouth keeps still')
