"""What a file holds, without reading all of it."""

import dataclasses
from fractions import Fraction

import av
from PIL import Image

from tfg_jax.errors import MediaError
from tfg_jax.media import containers


@dataclasses.dataclass(frozen=True)
class Colour:
  """How a video codes RGB as YUV, in the numbers of ITU-T H.273 (2: not specified)."""

  matrix: int = 2
  primaries: int = 2
  transfer: int = 2


@dataclasses.dataclass(frozen=True)
class MediaInfo:
  """What a file holds, from its headers and its first picture.

  `width` and `height` are as shown, after rotation; `rate` is frames per second as declared;
  `duration` is in seconds and None where the container does not say. Fields of an absent stream are
  zero.
  """

  path: str
  is_image: bool
  has_video: bool
  has_audio: bool
  duration: float | None
  width: int = 0
  height: int = 0
  rate: Fraction = Fraction(0)
  pixel_aspect: Fraction = Fraction(1)  # width of a pixel over its height
  colour: Colour = Colour()
  audio_rate: int = 0
  audio_channels: int = 0


def probe(path) -> MediaInfo:
  """Looks into a media file; decodes one picture at most.

  Raises:
    MediaError: the file is missing, empty, not media, damaged at the start, has neither sound nor
      pictures, or declares pictures beyond `containers.MAX_SIDE`.
  """
  with containers.open_container(path) as container:
    video, audio = containers.video_stream(container), containers.audio_stream(container)
    if video is None and audio is None:
      raise MediaError('the file has neither a video nor an audio stream', where=path)
    fields = {}
    if video is not None:
      containers.check_size(path, video.codec_context.width, video.codec_context.height)
      frame = next(containers.decode_pictures(path, container, video), None)
      if frame is None:
        raise MediaError('the video has no frames', where=path)
      context = video.codec_context
      size, aspect = (frame.width, frame.height), context.sample_aspect_ratio or Fraction(1)
      if containers.quarter_turns(frame) % 2:
        size, aspect = size[::-1], 1 / aspect
      fields = dict(
        width=size[0],
        height=size[1],
        rate=video.average_rate or video.guessed_rate or Fraction(0),
        pixel_aspect=aspect,
        colour=Colour(context.colorspace, context.color_primaries, context.color_trc),
      )
    if audio is not None:
      context = audio.codec_context
      fields.update(audio_rate=context.sample_rate, audio_channels=context.layout.nb_channels)
    return MediaInfo(
      path=str(path),
      is_image=containers.is_image(container),
      has_video=video is not None,
      has_audio=audio is not None,
      duration=container.duration / av.time_base if container.duration else None,
      **fields,
    )


def seconds_up_to(path, most: float) -> float:
  """How long the sound or the pictures of a file last, whichever is longer, by its packets.

  Files may not declare it (recordings of browsers) or declare anything. Nothing is decoded, and no
  more is read than it takes to know that it is longer than `most`.

  Raises:
    MediaError: the file is missing, empty, not media or damaged.
  """
  with containers.open_container(path) as container:
    if containers.is_image(container):
      return 0.0
    starts, ends, longest = {}, {}, 0.0
    try:
      for packet in container.demux():
        if packet.stream.type not in ('audio', 'video'):
          continue
        stream, unit = packet.stream.index, float(packet.time_base or 0)
        # Without timestamps (a raw stream) each packet follows the one before.
        start = ends.get(stream, 0.0) if packet.pts is None else packet.pts * unit
        ends[stream] = start + (packet.duration or 0) * unit
        longest = max(longest, ends[stream] - starts.setdefault(stream, start))
        if longest > most:
          break
    except av.error.FFmpegError as error:
      raise MediaError(f'the file is damaged ({error.strerror})', where=path) from error
  return longest


def read_tags(path) -> dict[str, str]:
  """What a file says of itself, by names in lower case: tags of a container, texts of a PNG.

  Raises:
    MediaError: the file is missing, empty or not media.
  """
  with containers.open_container(path) as container:
    if container.format.name != 'png_pipe':
      return {name.lower(): text for name, text in containers.texts(container).items()}
  try:
    with Image.open(path) as picture:  # FFmpeg does not give the texts of a PNG
      return {name.lower(): text for name, text in picture.info.items() if isinstance(text, str)}
  except (OSError, ValueError, Image.DecompressionBombError) as error:
    raise MediaError(f'the PNG cannot be read: {error}', where=path) from error


def check_pictures(path, *, still: bool):
  """Raises MediaError unless the file is a picture (`still`), or a video (not `still`)."""
  info = probe(path)
  if not info.has_video:
    raise MediaError('the file has no video stream', where=path)
  if info.is_image != still:
    what, flag = ('a still image', '--image') if info.is_image else ('a video', '--video')
    raise MediaError(f'this is {what}', where=path, hint=f'use {flag}')


def check_sound(path):
  """Raises MediaError unless the file has an audio stream."""
  if not probe(path).has_audio:
    raise MediaError('the file has no audio stream', where=path)
