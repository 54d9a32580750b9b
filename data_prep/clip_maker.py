"""One record of one raw clip: the steps that all corpora share.

sound       16 kHz mono, from the first picture on
pictures    decoded by their timestamps, held or skipped to a constant rate
faces       found, followed and smoothed, or given by the corpus
cut         a square around the face, as the corpus' `Framing` says
record      JPEGs, boxes in them, labels
"""

import dataclasses
import functools
import math
import os
from collections.abc import Iterator

import cv2
import numpy as np

from data_prep import landmarks, speakers
from data_prep.listing import Framing, RawClip
from tfg_jax import alignment, faces, media
from tfg_jax.data import clip_codec
from tfg_jax.errors import DataError

RATE = 16_000  # Hz of the sound in records
_KEPT_BYTES = 512 << 20  # pictures up to this size are kept; those of larger videos decoded again
_EDGE = 2  # pixels between an aligned face and the crop that networks see
_APART = 30  # pixels between the pupils of a portrait at least (Bai et al., 2020, section 3)
_HOLD = 0.4  # seconds at either end of a clip through which a face that is not seen is held
# Seconds over which the square that goes with a face is averaged: the head still moves in it.
_PATH_WINDOWS = dict(centre_window=1.2, size_window=2.4)

face_detector = functools.cache(faces.mtcnn_detector)  # one a process
landmark_detector = functools.cache(landmarks.mtcnn_landmarks)


@dataclasses.dataclass(frozen=True)
class Made:
  """A clip, and what happened to it that people should know of."""

  clip: clip_codec.Clip
  notes: dict[str, int]  # what -> how often


def make_clip(raw: RawClip, framing: Framing) -> Made:
  """Makes the record of a raw clip.

  Raises:
    DataError, MediaError: if it cannot be used; the message says why.
    MissingDependencyError: if faces have to be found and the detector is not installed.
  """
  # Pieces begin with a picture of the constant rate.
  shift = round(raw.start * framing.fps) / framing.fps - raw.start
  wav, ends = _read_sounds(raw.sounds, shift)
  if raw.portraits:
    return _portrait_clip(raw, framing, wav, ends)
  notes = {}
  with _Pictures(raw, framing, len(wav) / RATE if raw.sounds else None) as pictures:
    if pictures.was_cut:
      notes['clips cut to --max_seconds'] = 1
    if pictures.silent_seconds > 0.5:
      notes['clips cut where their sound ends'] = 1
    _check_length(len(pictures), framing, where=raw.video)
    frames, boxes, first = _CUTS[framing.crop](pictures, wav, raw, framing, notes)
  text, extras = raw.text, _arrays(raw.extras)
  start = round(first / framing.fps * RATE)
  if first or len(frames) < len(pictures):
    _check_length(len(frames), framing, where=raw.video)
  lost = (len(pictures) - len(frames)) / framing.fps > 0.5 or pictures.was_cut
  if text and lost:
    text = ''
    notes['transcripts left out, as the clip is only a part'] = 1
  if first or lost:
    extras.pop('word_times', None)
  extras['source_fps'] = np.array([pictures.source_fps])  # for the audit
  clip = clip_codec.Clip(
    clip_id=raw.clip_id,
    frames=clip_codec.encode_jpegs(frames),
    height=framing.size,
    width=framing.size,
    fps=framing.fps,
    boxes=boxes,
    wav=wav[start : start + round(len(frames) * RATE / framing.fps)],
    sample_rate=RATE,
    speaker=raw.speaker,
    text=text,
    word=raw.word,
    emotion=raw.emotion,
    split=raw.split,
    extras=extras,
  )
  return Made(clip, {what: count for what, count in notes.items() if count})


def needs_faces(framing: Framing) -> bool:
  """Whether faces have to be found in the pictures (unless the corpus has boxes)."""
  return framing.crop != 'face'


def _arrays(extras):
  return {
    name: list(value) if value and isinstance(value[0], bytes) else np.array(value)
    for name, value in extras.items()
  }


# --------------------------------------------------------------------------------------------------
# Sound
# --------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)  # neighbours are often pieces of one file
def _read_audio(path, _modified):
  return media.read_audio(path, RATE)


def _read_sounds(sounds, shift):
  """Sound as int16 (N,) and where each piece ends in it."""
  waves = []
  for sound in sounds:
    wav = _read_audio(sound.path, os.path.exists(sound.path) and os.path.getmtime(sound.path))
    start = round((sound.start + shift) * RATE)
    stop = None if sound.seconds is None else start + round(sound.seconds * RATE)
    waves.append(wav[start:stop])
  wav = np.concatenate([np.zeros(0, np.int16), *waves])
  return wav, np.cumsum([len(wave) for wave in waves], dtype=int)


# --------------------------------------------------------------------------------------------------
# Pictures
# --------------------------------------------------------------------------------------------------


class _Pictures:
  """The pictures of a raw clip at a constant rate; to be gone through as often as needed.

  Attributes:
    source: (T,) int, which frame of the video each of them is.
    times: (T,) seconds from the first.
    source_fps: frames per second of the video, on average.
    width, height, aspect: of the video; the last is the width of a pixel over its height.
    was_cut: whether there is more than `max_seconds`.
    silent_seconds: at the end, left out because the sound is over.
  """

  def __init__(self, raw, framing, sound_seconds):
    whole = raw.start == 0 and raw.seconds is None
    if whole:
      self._reader = media.VideoReader(raw.video, seconds=framing.max_seconds + 1)
    else:
      self._reader = _open_for_pieces(raw.video)
    self._kept = None
    self.width, self.height = self._reader.width, self._reader.height
    self.aspect = float(self._reader.pixel_aspect)
    fps, given = framing.fps, self._reader.times
    self.source_fps = (len(given) - 1) / given[-1] if len(given) > 1 else fps
    first = round(raw.start * fps)
    chosen = media.on_screen(self._reader.times, fps)[first:]
    if raw.seconds is not None:
      chosen = chosen[: round(raw.seconds * fps)]
    count = len(chosen)
    if sound_seconds is not None:
      count = min(count, max(1, round(sound_seconds * fps)))
    self.silent_seconds = (len(chosen) - count) / fps
    longest = round(framing.max_seconds * fps)
    self.was_cut = count > longest
    self.source = chosen[: min(count, longest)]
    self.times = np.arange(len(self.source)) / fps

  def __len__(self):
    return len(self.source)

  def __iter__(self) -> Iterator[np.ndarray]:
    if self._kept is not None:
      yield from self._kept
      return
    kept = [] if len(self) * self.width * self.height * 3 <= _KEPT_BYTES else None
    start, position = int(self.source[0]), None
    decoded = self._reader.frames(start, int(self.source[-1]) + 1)
    for index in self.source:
      while position is None or position < index:
        picture = next(decoded)
        position = start if position is None else position + 1
      if kept is not None:
        kept.append(picture)
      yield picture
    self._kept = kept

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._kept = None
    self._reader.close()  # it opens again where another piece needs it


@functools.lru_cache(maxsize=1)
def _open_for_pieces(path):
  """Pieces of one video follow each other: its times are read once for them."""
  return media.VideoReader(path)


def _check_length(count, framing, *, where):
  seconds = count / framing.fps
  if framing.frames is not None and count != framing.frames:
    raise DataError(f'it has {count} frames instead of {framing.frames}', where=where)
  if not count or seconds < framing.min_seconds:
    raise DataError(
      f'it lasts {seconds:.2f} s; at least {framing.min_seconds} s are needed',
      where=where,
      hint='--min_seconds=0 keeps all',
    )


# --------------------------------------------------------------------------------------------------
# Cuts: (pictures, wav, raw, framing, notes) -> frames (T, size, size, 3), boxes, first picture used
# --------------------------------------------------------------------------------------------------


def _cut_nothing(pictures, wav, raw, framing, notes):
  """The picture as it is, scaled; the face is sought in it."""
  del wav
  boxes = _face_of_all(pictures, raw)
  frames = _scaled(pictures, framing.size, raw.video)
  scale = framing.size / pictures.width
  return frames, _pixel_boxes(boxes * scale, framing.size, given=bool(raw.boxes)), 0


def _cut_face(pictures, wav, raw, framing, notes):
  """The picture is the face."""
  del wav, notes
  frames = _scaled(pictures, framing.size, raw.video)
  box = np.array([0, 0, framing.size, framing.size], np.int64)
  return frames, np.tile(box, (len(frames), 1)), 0


def _cut_square(pictures, wav, raw, framing, notes):
  """One square for all frames, around where the face is in the middle of its ways."""
  del wav, notes
  boxes = _upright(_face_of_all(pictures, raw), pictures.aspect)
  middle = np.median((boxes[:, :2] + boxes[:, 2:]) / 2, axis=0)
  side = framing.room * np.median(_sides(boxes))
  count = len(boxes)
  squares = np.tile(middle, (count, 1)), np.full(count, side)
  frames = _squares(pictures, squares, pictures.aspect, framing.size)
  moved = _moved(boxes, squares, framing.size)
  return frames, _pixel_boxes(moved, framing.size, given=bool(raw.boxes)), 0


def _cut_track(pictures, wav, raw, framing, notes):
  """A square that goes with the face of the one who speaks."""
  if raw.boxes:
    boxes, first = _given_boxes(raw, pictures), 0
  else:
    boxes, first = _speaker(pictures, wav, raw, framing, notes)
  boxes = _upright(boxes, pictures.aspect)
  times = pictures.times[first : first + len(boxes)]
  path = faces.smooth_boxes(boxes, times, np.zeros(len(boxes), bool), **_PATH_WINDOWS)
  squares = (path[:, :2] + path[:, 2:]) / 2, framing.room * _sides(path)
  frames = _squares(pictures, squares, pictures.aspect, framing.size, first)
  moved = _moved(boxes, squares, framing.size)
  return frames, _pixel_boxes(moved, framing.size, given=bool(raw.boxes)), first


def _cut_aligned(pictures, wav, raw, framing, notes):
  """Eyes and mouth brought to their places."""
  del wav, notes
  try:
    detector = landmark_detector()
    frames = landmarks.aligned_faces(pictures, detector, eyes_twice=framing.eyes_twice)
  except DataError as error:
    raise DataError(error.what, where=raw.video) from error
  size = alignment.SIZE
  box = np.array([_EDGE, _EDGE, size - _EDGE, size - _EDGE], np.int64)
  return frames, np.tile(box, (len(frames), 1)), 0


_CUTS = {
  'none': _cut_nothing,
  'face': _cut_face,
  'square': _cut_square,
  'track': _cut_track,
  'aligned': _cut_aligned,
}


def _scaled(pictures, size, where):
  if abs(pictures.width * pictures.aspect / pictures.height - 1) > 0.01:
    raise DataError(
      f'its picture of {pictures.width}x{pictures.height} is not square',
      where=where,
      hint='--crop=track or --crop=square cuts the face out',
    )
  how = cv2.INTER_AREA if pictures.width > size else cv2.INTER_LINEAR
  return np.stack([cv2.resize(x, (size, size), interpolation=how) for x in pictures])


def _squares(pictures, squares, aspect, size, first=0):
  """Cuts squares out, (T, size, size, 3); black beyond the picture.

  Args:
    pictures: RGB uint8 (H, W, 3).
    squares: (T, 2) centres and (T,) sides, in pixels that are as wide as high.
    aspect: width of a pixel of the pictures over its height.
    size: of the result.
    first: number of the picture that the first square is for.
  """
  frames = np.empty((len(squares[1]), size, size, 3), np.uint8)
  for number, picture in enumerate(pictures):
    index = number - first
    if 0 <= index < len(frames):
      centre, side = squares[0][index], squares[1][index]
      # Linear interpolation would skip pixels where it shrinks: draw larger, then average.
      drawn = size * math.ceil(side / size)
      scale = drawn / side
      # Pixel centres stand at whole numbers for OpenCV, half a pixel beside our corners.
      shift = (0.5 * np.array([aspect, 1]) - centre + side / 2) * scale - 0.5
      matrix = np.array([[scale * aspect, 0, shift[0]], [0, scale, shift[1]]])
      square = cv2.warpAffine(picture, matrix, (drawn, drawn))
      frames[index] = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
  return frames


def _sides(boxes):
  return np.maximum(*(boxes[:, 2:] - boxes[:, :2]).T)


def _upright(boxes, aspect):
  """Boxes in pixels of the video to pixels that are as wide as high."""
  return boxes * [aspect, 1, aspect, 1]


def _moved(boxes, squares, size):
  """Boxes (T, 4) as they are in the frames that `_squares` cuts."""
  centres, sides = squares
  corners = np.tile(centres - sides[:, None] / 2, 2)
  return (boxes - corners) * (size / sides)[:, None]


def _pixel_boxes(boxes, size, *, given):
  """(T, 4) int64; boxes that the corpus gives are rounded only, found ones get room for a chin."""
  whole = faces.pixel_boxes if given else faces.whole_face_boxes
  return whole(boxes, size, size).astype(np.int64)


# --------------------------------------------------------------------------------------------------
# Faces
# --------------------------------------------------------------------------------------------------


def _given_boxes(raw, pictures):
  """The boxes that the corpus has, of the pictures chosen."""
  track = faces.load_track(raw.boxes)
  if len(track.boxes) <= pictures.source[-1]:
    raise DataError(
      f'{len(track.boxes)} boxes for a video of {pictures.source[-1] + 1} frames or more',
      where=raw.boxes,
    )
  if not track.found.any():
    raise DataError('the boxes given are all empty', where=raw.boxes)
  times = np.arange(len(track.boxes), dtype=float)
  return faces.fill_gaps(track, times, 'interpolate')[pictures.source]


def _face_of_all(pictures, raw):
  """The face that a clip is known to show, in every frame: (T, 4) float."""
  if raw.boxes:
    return _given_boxes(raw, pictures)
  sightings = faces.look_for_faces(iter(pictures), face_detector())
  track = faces.follow_face(sightings, pictures.times)
  if not track.found.any():
    raise DataError('no face was found', where=raw.video)
  boxes = faces.fill_gaps(track, pictures.times, 'interpolate')
  boxes = faces.smooth_boxes(boxes, pictures.times, track.cuts)
  if np.isnan(boxes).any():
    raise DataError('a shot of it shows no face', where=raw.video)
  return boxes


def _speaker(pictures, wav, raw, framing, notes):
  """The face of the one who speaks, while it is seen: (N, 4) float, and its first picture."""
  times = pictures.times
  sightings = faces.look_for_faces(iter(pictures), face_detector())
  tracks = speakers.face_tracks(sightings, times)
  if not tracks:
    raise DataError('no face was found', where=raw.video)
  shortest = max(1, round(framing.min_seconds * framing.fps))
  tracks = [track for track in tracks if track.stop - track.start >= shortest]
  if not tracks:
    raise DataError(f'no face is seen for {framing.min_seconds} s on end', where=raw.video)
  track = tracks[speakers.choose(tracks, pictures, wav, times)]
  notes['faces and shots beside the one kept'] = len(tracks) - 1
  shot = np.cumsum(sightings.cuts)
  own = np.flatnonzero(shot == shot[track.start])
  hold = round(_HOLD * framing.fps)
  start = own[0] if track.start - own[0] <= hold else track.start
  stop = own[-1] + 1 if own[-1] + 1 - track.stop <= hold else track.stop
  if stop - start < len(times):
    notes['clips cut to where that face is'] = 1
  boxes = np.pad(track.boxes, ((track.start - start, stop - track.stop), (0, 0)), 'edge')
  cuts = np.zeros(len(boxes), bool)
  return faces.smooth_boxes(boxes, times[start:stop], cuts), int(start)


# --------------------------------------------------------------------------------------------------
# Portraits
# --------------------------------------------------------------------------------------------------


def _portrait_clip(raw, framing, wav, ends):
  """A record of one frame that lasts as long as the speech, with all portraits."""
  found = [_portrait(path, framing) for path in raw.portraits]
  pictures = [picture for picture in found if picture is not None]
  if not pictures:
    raise DataError(
      f'in none of {len(found)} portraits a face was found whose pupils are {_APART} pixels apart',
      where=os.path.dirname(raw.portraits[0]),
    )
  notes = {}
  if lost := len(found) - len(pictures):
    notes['portraits left out, as no face with pupils far enough apart was found'] = lost
  pictures = clip_codec.encode_pngs(pictures)
  wav = wav[: round(framing.max_seconds * RATE)]
  ends = np.minimum(ends, len(wav))
  starts = np.concatenate([[0], ends[:-1]])
  size = framing.size
  clip = clip_codec.Clip(
    clip_id=raw.clip_id,
    frames=pictures[:1],
    height=size,
    width=size,
    fps=framing.fps,
    boxes=np.array([[0, 0, size, size]], np.int64),
    wav=wav,
    sample_rate=RATE,
    speaker=raw.speaker,
    split=raw.split,
    extras={
      **_arrays(raw.extras),
      'portrait': pictures,
      'utterances': np.stack([starts, ends], 1).ravel(),
    },
  )
  return Made(clip, notes)


def _portrait(path, framing):
  """(S, S, 3) uint8 as `framing` says; None if it has to be aligned and that cannot be done."""
  from tfg_jax.features import portrait

  with open(path, 'rb') as file:
    picture = portrait.decode(file.read(), where=path)
  if framing.crop == 'aligned':
    (points,) = landmark_detector()([picture])
    if points is None or np.linalg.norm(points[0] - points[1]) < _APART:
      return None
    picture = alignment.align_portrait(picture, *points[:2], framing.size)
  return portrait.resize(picture, framing.size)
