"""Media files in and out: video frames by timestamp, audio as PCM, H.264 with AAC.

Everything goes through PyAV, whose wheel carries FFmpeg with libx264: no program is needed beside
it. Frames are RGB uint8 (H, W, 3) as a viewer sees them (rotation applied), times are seconds from
the first frame, audio is int16. Memory does not grow with the length of a video beyond its table of
timestamps (16 bytes a frame); `read_audio` keeps a whole track, 115 MB for an hour at 16 kHz.
"""

from tfg_jax.media.probing import (
  Colour,
  MediaInfo,
  check_pictures,
  check_sound,
  probe,
  read_tags,
  seconds_up_to,
)
from tfg_jax.media.reading import VideoReader, on_screen, read_image
from tfg_jax.media.sound import read_audio, stream_audio
from tfg_jax.media.writing import AAC_RATES, VideoWriter, check_output

__all__ = [
  'AAC_RATES',
  'Colour',
  'MediaInfo',
  'VideoReader',
  'VideoWriter',
  'check_output',
  'check_pictures',
  'check_sound',
  'on_screen',
  'probe',
  'read_audio',
  'read_image',
  'read_tags',
  'seconds_up_to',
  'stream_audio',
]
