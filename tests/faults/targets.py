"""The files that come from outside, one good example of each, and what reads them."""

import contextlib
import io
import pathlib
import pickle
import random
import struct
import sys
import zlib

import clips
import corpus
import cv2
import numpy as np
import soundfile
from absl import flags
from fuzzing import Target

from tfg_jax import configuration, errors, faces, main, media, systems, trained
from tfg_jax.data import clip_codec, pipeline, records
from tfg_jax.features import portrait
from tfg_jax.pytorch import converted, files

_INFO = records.DatasetInfo(
  corpus='toy',
  fps=25.0,
  height=corpus.SIZE,
  width=corpus.SIZE,
  sample_rate=corpus.RATE,
  licence='CC0',
  preparation={'seed': 1},
)


# Records.


def _make_records(folder):
  made = [clip_codec.encode(corpus.clip(number, frames=2)) for number in range(3)]
  folder.mkdir(parents=True)
  records.write_shard(records.shard_path(folder, 'toy', 'train', 0, 1), made)
  records.finish_dataset(folder, _INFO)


def _read_records(folder):
  source = records.RecordSource(folder, 'train')
  for number in range(len(source)):
    clip_codec.decode(source[number], where=source.locate(number))


def _read_shard_alone(folder):
  for index in folder.glob('*.index'):
    index.unlink()
  _read_records(folder)


def _make_example(folder):
  folder.mkdir(parents=True)
  (folder / 'example').write_bytes(clip_codec.encode(corpus.clip(0, frames=2)))


def _read_example(folder):
  clip = clip_codec.decode((folder / 'example').read_bytes())
  frames = np.zeros((len(clip.frames), corpus.SIZE, corpus.SIZE, 3), np.uint8)
  pipeline.decode_jpegs(clip.frames, frames, where='a clip')
  pipeline.cut(clip, 1, 5, 640)


def _make_jpeg(folder):
  folder.mkdir(parents=True)
  picture = corpus.clip(3, frames=1).frames[0]
  (folder / 'frame.jpg').write_bytes(picture)


def _read_jpeg(folder):
  file = (folder / 'frame.jpg').read_bytes()
  with contextlib.suppress(errors.DataError):
    portrait.read(file, 32)
  pipeline.decode_jpegs([file], np.zeros((1, corpus.SIZE, corpus.SIZE, 3), np.uint8), where='here')


# Media.


def _make_wav(folder):
  folder.mkdir(parents=True)
  soundfile.write(folder / 'a.wav', clips.tone(0.5, 44_100, 2), 44_100)


def _read_sound(folder):
  (path,) = folder.iterdir()
  media.check_sound(path)
  media.read_audio(path)


def _make_mp4(folder):
  folder.mkdir(parents=True)
  clips.write(folder / 'a.mp4', 12, audio=clips.tone(0.5), options={'g': '4'})


def _make_mkv(folder):
  folder.mkdir(parents=True)
  clips.write(folder / 'a.mkv', 12, audio=clips.tone(0.5), options={'g': '4'})


def _read_video(folder):
  (path,) = folder.iterdir()
  with media.VideoReader(path) as reader:
    count = min(len(reader), 40)
    _ = reader.rate
    for _ in reader.frames(count // 2, count):
      pass
  media.read_audio(path)


def _make_png(folder):
  folder.mkdir(parents=True)
  cv2.imwrite(str(folder / 'face.png'), clips.frame(5))


def _read_picture(folder):
  (path,) = folder.iterdir()
  media.check_pictures(path, still=True)
  media.read_image(path)


def _make_boxes(folder):
  folder.mkdir(parents=True)
  np.save(folder / 'boxes.npy', np.tile([1.0, 2, 30, 40], (12, 1)))


# Checkpoints of others.


def _arrays():
  rng = np.random.default_rng(0)
  return {f'layer.{i}.weight': rng.normal(size=(4, 6)).astype(np.float32) for i in range(4)}


def _make_pth(folder):
  folder.mkdir(parents=True)
  files.write(folder / 'x.pth', _arrays())


def _make_stream(folder):
  """The format of PyTorch before 1.6, without PyTorch: pickles, then the storages."""
  folder.mkdir(parents=True)
  parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)]
  parts += [pickle.dumps({'little_endian': True, 'protocol_version': 1001}, 2)]
  storage = b'(U\x07storagectorch\nFloatStorage\nU\x017U\x03cpuK\x06NtQ'
  tensor = b'ctorch._utils\n_rebuild_tensor_v2\n(' + storage + b'K\x01(K\x02t(K\x01t\x89NtR'
  parts += [b'\x80\x02}U\x08module.a' + tensor + b's.', b'\x80\x02]U\x017a.']
  parts += [struct.pack('<q', 6), np.arange(6, dtype=np.float32).tobytes()]
  (folder / 'x.pth').write_bytes(b''.join(parts))


def _make_safetensors(folder):
  folder.mkdir(parents=True)
  files.write(folder / 'x.safetensors', _arrays())


def _make_numpy_pickle(folder):
  folder.mkdir(parents=True)
  (folder / 'x.pkl').write_bytes(pickle.dumps(_arrays(), 2))


def _read_tensors(folder):
  (path,) = folder.iterdir()
  size = path.stat().st_size
  for state in files.state_dicts(files.read(path)).values():
    assert sum(np.asarray(tensor).nbytes for tensor in state.values()) <= 64 * size


def _make_converted(folder):
  conversion = converted.Conversion('syncnet', 'x.pth', '0' * 64, notes=['a note'])
  folder.parent.mkdir(parents=True, exist_ok=True)
  converted.save(folder, {'params': {'a': np.arange(6.0)}}, conversion)


def _read_converted(folder):
  converted.load(folder)


# Checkpoints of our own.


def _make_checkpoint(folder):
  import test_storage

  test_storage.save(folder, (2, 3))


def _read_checkpoint(folder):
  """Each step is what was saved, or refused; the first refusal is that of all."""
  import test_storage

  from tfg_jax import checkpoints

  refusals = []
  with checkpoints.Checkpoints(folder, test_storage.SETTINGS, read_only=True) as saved:
    for step in (3, 2):
      try:
        state, progress = saved.restore(step, test_storage.abstract())
      except errors.CheckpointError as error:
        refusals.append(error)
      else:
        test_storage.assert_is(state, progress)
  if refusals:
    raise refusals[0]


# Settings.


def _make_config(folder):
  from configs import talklip

  folder.mkdir(parents=True)
  trained.save_config(folder, talklip.get_test_config('no_lip'))


def _read_config(folder):
  run = configuration.resolve(trained.read_config(folder))
  systems.build(run, axis_name=None)


_OVERRIDES = ['-1', '0', '1', '1e308', 'nan', 'inf', '[]', '{}', 'x', 'None', '9' * 40, '(1, 2)',
              '', 'True', "'a'", '1.5', '[1,', '\x00', '..', 'é' * 100]  # fmt: skip


def _make_overrides(folder):
  folder.mkdir(parents=True)
  (folder / 'seed').write_bytes(bytes(64))


def _read_overrides(folder):
  """The file is only where the choice of keys and values comes from."""
  from configs import demo

  seed = (folder / 'seed').read_bytes()
  draw = random.Random(zlib.crc32(seed))
  keys = sorted(_flat(demo.get_config().to_dict()))
  argv = ['main', f'--config={pathlib.Path(demo.__file__)}', '--workdir=w']
  for _ in range(draw.choice((1, 2)) if any(seed) else 0):
    key = draw.choice(keys)
    if draw.random() < 0.1:
      key = key[:-1] + draw.choice('x._[')
    argv.append(f'--config.{key}={draw.choice(_OVERRIDES)}')
  values = flags.FLAGS
  own = {flag.name for flag in values.flags_by_module_dict().get('tfg_jax.main', ())}
  for name in [name for name in values if name in own or name.startswith('config')]:
    delattr(values, name)
  main.define_flags()
  values.unparse_flags()
  sys.argv = argv  # where ml_collections looks for overrides
  try:
    with contextlib.redirect_stderr(io.StringIO()) as told:
      main.parse_flags(argv)
  except SystemExit as error:
    assert error.code == errors.EXIT_EXPECTED_FAILURE and 'ConfigError: ' in told.getvalue()
    raise errors.ConfigError('refused by the parser') from error
  systems.build(configuration.resolve(values.config), axis_name=None)


def _flat(settings, prefix=''):
  for key, value in settings.items():
    if isinstance(value, dict):
      yield from _flat(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}'


TARGETS = {
  'record': Target(_make_records, _read_records),
  'shard without index': Target(_make_records, _read_shard_alone, only='.tfrecord'),
  'index': Target(_make_records, _read_records, only='.index'),
  'dataset_info.json': Target(_make_records, _read_records, texts=True, only='.json'),
  'example': Target(_make_example, _read_example),
  'jpeg': Target(_make_jpeg, _read_jpeg),
  'png': Target(_make_png, _read_picture),
  'wav': Target(_make_wav, _read_sound),
  'mp4': Target(_make_mp4, _read_video),
  'mkv': Target(_make_mkv, _read_video),
  'boxes': Target(_make_boxes, lambda folder: faces.load_track(folder / 'boxes.npy')),
  'pth': Target(_make_pth, _read_tensors),
  'pth of old': Target(_make_stream, _read_tensors),
  'safetensors': Target(_make_safetensors, _read_tensors),
  'numpy pickle': Target(_make_numpy_pickle, _read_tensors),
  'converted network': Target(_make_converted, _read_converted),
  'checkpoint': Target(_make_checkpoint, _read_checkpoint),
  'config.json': Target(_make_config, _read_config, texts=True),
  'overrides': Target(_make_overrides, _read_overrides),
}
