"""Any folder of videos, e.g. one's own recordings.

INPUT is searched with all folders below it. Beside NAME.mp4 (or .mov, .mkv, ...) may lie

    NAME.txt   what is said, in UTF-8; such a video is one clip
    NAME.npy   the face in each frame, x1, y1, x2, y2 in pixels, (T, 4)
    NAME.wav   its sound, in place of that in the video

Videos without a transcript that are longer than --max_seconds are cut into clips of that length.

Folders train, valid and test in INPUT are the splits. Without them --valid_share and --test_share
of the videos are held out, chosen by the checksums of their names. The folder that a video is in,
below its split, names its speaker; --split_by=speaker then keeps people apart.
"""

import dataclasses
import math
import os

from data_prep.listing import (
  VIDEO_ENDINGS,
  Drop,
  Framing,
  Listing,
  RawClip,
  Sound,
  clip_ids,
  divide,
  find_files,
)
from tfg_jax.errors import ConfigError, DataError, MediaError

LICENCE = ''  # --licence says it
FRAMING = Framing(crop='track', size=160)
_SPLITS = ('train', 'valid', 'test')
_BESIDE = ('.txt', '.npy', '.wav')


def list_clips(
  directory,
  *,
  split_by: str = 'clip',
  valid_share: float = 0.05,
  test_share: float = 0.05,
  max_seconds: float = FRAMING.max_seconds,
) -> Listing:
  """Lists the clips; reads the headers of videos without transcripts, for their length.

  Args:
    directory: see above.
    split_by: 'clip' (a video counts as one) or 'speaker'.
    valid_share, test_share: of the videos or speakers, where no folders say it.
    max_seconds: of a clip.

  Raises:
    ConfigError: for settings that cannot be.
    DataError: if there is no video.
  """
  if split_by not in ('clip', 'speaker'):
    raise ConfigError(f'--split_by={split_by}; expected clip or speaker')
  videos, ignored = find_files(directory, VIDEO_ENDINGS)
  if not videos:
    raise DataError(
      'there are no videos', where=directory, hint=f'endings: {" ".join(sorted(VIDEO_ENDINGS))}'
    )
  ids = clip_ids(videos, directory)
  has_splits = os.path.isdir(os.path.join(directory, 'train'))
  folders = {path: ids[path].split('/')[:-1] for path in videos}
  if has_splits:
    folders = {path: parts[1:] for path, parts in folders.items()}
  speakers = {path: '/'.join(parts) for path, parts in folders.items()}
  keys = {path: ids[path] if split_by == 'clip' else speakers[path] for path in videos}
  shares = divide(keys.values(), {'valid': valid_share, 'test': test_share})
  clips, drops = [], []
  for path in videos:
    if os.fsencode(path).decode(errors='replace') != path:
      name = os.fsencode(ids[path]).decode(errors='replace')
      drops.append(Drop(name, '', 'its name is not UTF-8', directory))
      continue
    split = ids[path].split('/')[0] if has_splits else shares[keys[path]]
    if split not in _SPLITS:
      drops.append(Drop(ids[path], '', 'it is in none of the folders train, valid and test', path))
      continue
    beside = {kind: os.path.splitext(path)[0] + kind for kind in _BESIDE}
    beside = {kind: other for kind, other in beside.items() if os.path.exists(other)}
    for kind in beside:
      ignored[kind] = ignored.get(kind, 0) - 1
    clip = RawClip(
      clip_id=ids[path],
      split=split,
      video=path,
      sounds=(Sound(beside.get('.wav', path)),),
      speaker=speakers[path],
      boxes=beside.get('.npy', ''),
    )
    try:
      if '.txt' in beside:
        clips.append(dataclasses.replace(clip, text=_read_text(beside['.txt'])))
      else:
        clips += _pieces(clip, max_seconds)
    except (DataError, MediaError) as error:
      drops.append(Drop(ids[path], split, error.what, error.where))
  return Listing(clips, drops, {kind: count for kind, count in ignored.items() if count > 0})


def _read_text(path):
  try:
    with open(path, encoding='utf-8-sig') as file:
      return ' '.join(file.read().split())
  except UnicodeDecodeError as error:
    raise DataError('the transcript is not UTF-8', where=path) from error


def _pieces(clip, length):
  """Cuts a long clip into equal ones of `length` seconds at most."""
  from tfg_jax import media

  seconds = media.probe(clip.video).duration or 0.0
  count = math.ceil(seconds / length - 1e-6)
  if count <= 1:
    return [clip]
  step = seconds / count
  return [
    dataclasses.replace(
      clip,
      clip_id=f'{clip.clip_id}/{number:05d}',
      start=number * step,
      seconds=step,
      sounds=(dataclasses.replace(clip.sounds[0], start=number * step, seconds=step),),
    )
    for number in range(count)
  ]
