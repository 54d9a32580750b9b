"""One clip as the bytes of a tf.train.Example, and back; `records` keeps them in shards.

The Example message is declared here rather than imported: TensorFlow is not needed to train, and
the copy that tensorflow-datasets ships costs two seconds of imports in every worker process. A
private descriptor pool keeps it apart from the one of TensorFlow where both are loaded.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from google.protobuf import (
  descriptor_pb2,
  descriptor_pool,
  message,
  message_factory,
  text_format,
)

from tfg_jax.errors import DataError

# tensorflow/core/example/{feature,example}.proto, as a FileDescriptorProto.
_EXAMPLE_PROTO = """
name: "tfg_jax/example.proto" package: "tensorflow" syntax: "proto3"
message_type { name: "BytesList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Int64List"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type { name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 oneof_index: 0 type_name: ".tensorflow.BytesList" }
  field { name: "float_list" number: 2 oneof_index: 0 type_name: ".tensorflow.FloatList" }
  field { name: "int64_list" number: 3 oneof_index: 0 type_name: ".tensorflow.Int64List" } }
message_type { name: "Features"
  nested_type { name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type_name: ".tensorflow.Feature" } }
  field { name: "feature" number: 1 label: LABEL_REPEATED
    type_name: ".tensorflow.Features.FeatureEntry" } }
message_type { name: "Example"
  field { name: "features" number: 1 type_name: ".tensorflow.Features" } }
"""


def _example_class():
  pool = descriptor_pool.DescriptorPool()
  pool.Add(text_format.Parse(_EXAMPLE_PROTO, descriptor_pb2.FileDescriptorProto()))
  return message_factory.GetMessageClass(pool.FindMessageTypeByName('tensorflow.Example'))


_Example = _example_class()
_TEXT_FIELDS = ('clip_id', 'speaker', 'text', 'word', 'emotion', 'split')
_INT_FIELDS = ('height', 'width', 'sample_rate')
_FIELDS = frozenset((*_TEXT_FIELDS, *_INT_FIELDS, 'fps', 'frames', 'boxes', 'wav'))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Clip:
  """One clip: a face track, its speech and what the corpus says about it.

  Attributes:
    clip_id: unique within the corpus.
    frames: T JPEG files of height x width RGB pictures; `encode_jpegs` makes them.
    height, width: in pixels.
    fps: video frames per second, need not be an integer.
    boxes: (T, 4) int64, the face in each frame as x1, y1, x2, y2 in pixels, end-exclusive.
    wav: (N,) int16 mono PCM; starts with the first frame, need not end with the last.
    sample_rate: Hz.
    speaker, text, word, emotion, split: '' where the corpus has none.
    extras: what only some corpora have (landmarks, phoneme times, an identity picture): name ->
      (N,) float array (kept as float32), (N,) integer array (kept as int64) or list of bytes.
  """

  clip_id: str
  frames: Sequence[bytes]
  height: int
  width: int
  fps: float
  boxes: np.ndarray
  wav: np.ndarray
  sample_rate: int
  speaker: str = ''
  text: str = ''
  word: str = ''
  emotion: str = ''
  split: str = ''
  extras: dict[str, Any] = dataclasses.field(default_factory=dict)


def encode_jpegs(images, *, quality=95):
  """Encodes (T, H, W, 3) uint8 RGB pictures as T JPEG files (list of bytes)."""
  settings = (cv2.IMWRITE_JPEG_QUALITY, quality)
  return [
    cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)[1].tobytes()
    for image in images
  ]


def encode_pngs(images):
  """Encodes (N, H, W, 3) uint8 RGB pictures as N PNG files (list of bytes): nothing is lost."""
  return [
    cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes() for image in images
  ]


def jpeg_size(file: bytes) -> tuple[int, int] | None:
  """(height, width) that a JPEG file declares, of which nothing is decoded; None if it is none.

  Source: ITU-T T.81, B.1.1.4 and B.2.2.
  """
  if not file.startswith(b'\xff\xd8'):
    return None
  place = 2
  while place + 9 <= len(file) and file[place] == 0xFF:
    marker = file[place + 1]
    if marker == 0xFF:  # a fill byte
      place += 1
      continue
    if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of a frame
      return tuple(int.from_bytes(file[at : at + 2], 'big') for at in (place + 5, place + 7))
    place += 2 + int.from_bytes(file[place + 2 : place + 4], 'big')
  return None


def encode(clip):
  """Serialises a clip as a tf.train.Example; the same clip gives the same bytes.

  Raises:
    DataError: if the fields do not fit together or an extra has a type that an Example cannot hold.
  """
  where = f'clip {clip.clip_id}'
  boxes, wav = np.asarray(clip.boxes), np.asarray(clip.wav)
  if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in 'iu':
    raise DataError(
      f'boxes are {boxes.dtype} of shape {boxes.shape}; expected integers of shape (frames, 4)',
      where=where,
    )
  if wav.ndim != 1 or wav.dtype != np.int16:
    raise DataError(
      f'wav is {wav.dtype} of shape {wav.shape}; expected int16 of shape (samples,)',
      where=where,
    )
  _check_clip(clip, where)
  example = _Example()
  feature = example.features.feature
  for name in _TEXT_FIELDS:
    feature[name].bytes_list.value.append(getattr(clip, name).encode())
  for name in _INT_FIELDS:
    feature[name].int64_list.value.append(getattr(clip, name))
  feature['fps'].float_list.value.append(clip.fps)
  feature['frames'].bytes_list.value.extend(clip.frames)
  feature['boxes'].int64_list.value.extend(boxes.ravel().tolist())
  feature['wav'].bytes_list.value.append(wav.astype('<i2').tobytes())
  for name, value in clip.extras.items():
    if name in _FIELDS:
      raise DataError(f'extra {name!r} has the name of a field', where=where, hint='Rename it.')
    _set_extra(feature[name], name, value, where)
  return example.SerializeToString(deterministic=True)


def _set_extra(feature, name, value, where):
  if isinstance(value, (list, tuple)) and all(isinstance(item, bytes) for item in value):
    feature.bytes_list.SetInParent()  # keeps the kind of an empty list
    feature.bytes_list.value.extend(value)
    return
  values = np.asarray(value)
  if values.ndim == 1 and values.dtype.kind == 'f':
    feature.float_list.SetInParent()
    feature.float_list.value.extend(values.tolist())
  elif values.ndim == 1 and values.dtype.kind in 'iu':
    feature.int64_list.SetInParent()
    feature.int64_list.value.extend(values.tolist())
  else:
    raise DataError(
      f'extra {name!r} is {values.dtype} of shape {values.shape}; '
      'expected one dimension of floats or integers, or a list of bytes',
      where=where,
    )


def decode(data, *, where='a record'):
  """Reads what `encode` wrote.

  Args:
    data: bytes of the record.
    where: what to call the record in errors, e.g. `RecordSource.locate(i)`.

  Raises:
    DataError: if the bytes are no Example, or a field is missing, of the wrong kind or does not fit
      the others.
  """
  try:
    feature = _Example.FromString(data).features.feature
  except message.DecodeError as error:
    raise DataError('record is not a tf.train.Example', where=where) from error

  def values(name, kind):
    if name not in feature or feature[name].WhichOneof('kind') != kind:
      raise DataError(
        f'record has no {kind} named {name!r}', where=where, hint='Was it written by tfg_jax?'
      )
    return getattr(feature[name], kind).value

  def single(name, kind):
    found = values(name, kind)
    if len(found) != 1:
      raise DataError(f'field {name!r} has {len(found)} values; expected 1', where=where)
    return found[0]

  boxes = np.array(values('boxes', 'int64_list'), np.int64)
  if boxes.size % 4:
    raise DataError(f'boxes hold {boxes.size} numbers; expected 4 for each frame', where=where)
  wav = single('wav', 'bytes_list')
  if len(wav) % 2:
    raise DataError(f'wav is {len(wav)} bytes; 16-bit samples need an even number', where=where)
  try:
    texts = {name: single(name, 'bytes_list').decode() for name in _TEXT_FIELDS}
  except UnicodeDecodeError as error:
    raise DataError(f'text is not UTF-8: {error.object!r}', where=where) from error
  clip = Clip(
    **texts,
    **{name: single(name, 'int64_list') for name in _INT_FIELDS},
    fps=single('fps', 'float_list'),
    frames=list(values('frames', 'bytes_list')),
    boxes=boxes.reshape(-1, 4),
    wav=np.frombuffer(wav, '<i2').astype(np.int16, copy=False),
    extras={name: _extra(feature[name]) for name in feature if name not in _FIELDS},
  )
  _check_clip(clip, where)
  return clip


def _extra(feature):
  match feature.WhichOneof('kind'):
    case 'float_list':
      return np.array(feature.float_list.value, np.float32)
    case 'int64_list':
      return np.array(feature.int64_list.value, np.int64)
    case _:  # a feature without a kind is an empty list as well
      return list(feature.bytes_list.value)


def _check_clip(clip, where):
  if not clip.frames:
    raise DataError('clip has no frames', where=where)
  if len(clip.frames) != len(clip.boxes):
    raise DataError(
      f'clip has {len(clip.frames)} frames but {len(clip.boxes)} face boxes', where=where
    )
  for name in ('height', 'width', 'sample_rate', 'fps'):
    value = getattr(clip, name)
    if not (0 < value < math.inf):
      raise DataError(f'{name} is {value}; expected a positive number', where=where)
