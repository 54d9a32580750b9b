"""Containers opened with PyAV: their streams, their pictures as they come, limits on both."""

import os

import av
import av.stream

from tfg_jax.errors import MediaError

MAX_SIDE = 8192  # pixels; larger declared sizes are refused before anything is allocated for them
# Titles and the like that are not UTF-8 are no reason to refuse a file. PyAV 19 has no other way.
_NOT_UTF8 = 'surrogateescape'
_OPTIONS = {'metadata_errors': _NOT_UTF8} if int(av.__version__.split('.')[0]) < 19 else {}
_TEXT_AS_VIDEO = ('tty',)  # FFmpeg renders any .txt as ANSI art


def open_container(path):
  """Opens a media file for reading.

  Raises:
    MediaError: the file is missing, empty, a folder, not readable or not media.
  """
  path = os.fspath(path)
  if not os.path.exists(path):
    raise MediaError('the file does not exist', where=path, hint='correct the path')
  if os.path.isdir(path):
    raise MediaError('this is a folder, not a media file', where=path, hint='name a file in it')
  if not os.path.getsize(path):
    raise MediaError('the file is empty (0 bytes)', where=path)
  try:
    container = av.open(path, options={'max_pixels': str(MAX_SIDE**2)}, **_OPTIONS)
  except PermissionError as error:
    raise MediaError(
      'the file cannot be read: permission denied', where=path, hint='allow reading it'
    ) from error
  except av.error.FFmpegError as error:
    raise MediaError(
      f'this is not a media file that FFmpeg can read ({error.strerror})', where=path
    ) from error
  if container.format.name in _TEXT_AS_VIDEO:
    container.close()
    raise MediaError('this is a text file, not a media file', where=path)
  return container


def texts(container) -> dict[str, str]:
  """Its metadata; bytes that are not UTF-8 show as U+FFFD."""

  def readable(text):
    return text.encode('utf-8', _NOT_UTF8).decode('utf-8', 'replace')

  return {readable(name): readable(text) for name, text in container.metadata.items()}


def is_image(container) -> bool:
  """Whether it holds a still picture."""
  return container.format.name == 'image2' or container.format.name.endswith('_pipe')


def video_stream(container):
  """The first stream of moving pictures, or None; the cover of a music file is not one."""
  cover = av.stream.Disposition.attached_pic
  streams = (s for s in container.streams.video if not s.disposition & cover)
  return next((s for s in streams if _has_decoder(s)), None)


def audio_stream(container):
  """The first stream of sound that FFmpeg knows, or None."""
  return next((s for s in container.streams.audio if _has_decoder(s)), None)


def _has_decoder(stream):
  return stream.codec_context is not None  # None where FFmpeg does not know the codec


def check_size(path, width: int, height: int):
  """Raises MediaError if a picture declares no size, or one beyond `MAX_SIDE`."""
  # FFmpeg's own limit (max_pixels, see `open_container`) leaves a picture that exceeds it without
  # a size.
  if not width or max(width, height) > MAX_SIDE:
    declared = f'is declared {width}x{height}' if width else 'has no size that can be read'
    raise MediaError(
      f'the picture {declared}; at most {MAX_SIDE}x{MAX_SIDE} pixels are read',
      where=path,
      hint='scale it down first, e.g. with ffmpeg -i IN -vf scale=1280:-2 OUT.mp4',
    )


def decode_pictures(path, container, stream):
  """Yields a stream's frames.

  Raises:
    MediaError: on damage, with the time of it, or for pictures beyond `MAX_SIDE`.
  """
  stream.thread_type = 'AUTO'
  stream.codec_context.options = {'max_pixels': str(MAX_SIDE**2)}
  time = 0.0
  try:
    for frame in container.decode(stream):
      check_size(path, frame.width, frame.height)
      time = frame.time or time
      yield frame
  except av.error.FFmpegError as error:
    raise MediaError(
      f'the video is damaged after {time:.2f} s ({error.strerror})',
      where=path,
      hint='repair it, e.g. with ffmpeg -i IN -c:v libx264 OUT.mp4',
    ) from error


def quarter_turns(frame) -> int:
  """Counter-clockwise quarter turns that show the frame upright."""
  return round(frame.rotation / 90) % 4
