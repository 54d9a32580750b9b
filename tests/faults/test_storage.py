"""Full, read-only and damaged disks, and two runs in one workdir: the last good one stays."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forked import Forked, hold, train_on_a_small_disk

from tfg_jax import checkpoints, configuration, errors, reporting, storage, train, trained
from tfg_jax.systems import base

ROOT = pathlib.Path(__file__).parents[2]
SETTINGS = configuration.Checkpoint(keep=3, keep_best=0)


def state_at(step):
  """A state whose numbers follow from its step, with an expert that does not change."""
  weights = jax.random.normal(jax.random.key(step), (64, 64))
  net = base.Net(params={'w': weights, 'b': weights[0]}, stats={}, opt_state=(weights[1],))
  frozen = {'expert': {'w': jnp.arange(2000.0)}}
  state = base.State.create(jax.random.key(7), {'g': net}, frozen=frozen)
  return state.replace(step=jnp.int32(step))


def progress_at(step):
  rows = ((step, {'g/loss': step / 3}),)
  return checkpoints.Progress({'expert': 'there'}, {'batches': step}, rows)


def abstract():
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return checkpoints.abstract_state(lambda key: state_at(0), jax.random.key(0), sharding)


def save(workdir, steps):
  with checkpoints.Checkpoints(workdir, SETTINGS) as saved:
    for step in steps:
      saved.save(state_at(step), progress_at(step))


def restore(workdir):
  """The step that a run goes on from, whose numbers must be those that were saved."""
  with checkpoints.Checkpoints(workdir, SETTINGS) as saved:
    state, progress = saved.restore_newest(abstract())
  assert_is(state, progress)
  return int(state.step)


def assert_is(state, progress):
  expected = state_at(int(state.step))
  for tree, other in ((state.nets, expected.nets), (state.frozen, expected.frozen)):
    jax.tree.map(np.testing.assert_array_equal, tree, other)
  assert jax.random.key_data(state.key).tolist() == jax.random.key_data(expected.key).tolist()
  assert progress == progress_at(int(state.step))


@pytest.fixture(scope='module')
def pristine(tmp_path_factory):
  """A workdir with checkpoints of steps 1, 2 and 3."""
  workdir = tmp_path_factory.mktemp('pristine')
  save(workdir, (1, 2, 3))
  return workdir


@pytest.fixture
def workdir(pristine, tmp_path):
  shutil.copytree(pristine, tmp_path / 'run')
  return tmp_path / 'run'


def files_of(folder):
  return sorted(path for path in folder.rglob('*') if path.is_file())


def flip(path, offset):
  data = bytearray(path.read_bytes())
  data[offset] ^= 1 << offset % 8
  path.write_bytes(data)


def flip_somewhere(path):
  size = path.stat().st_size
  if size:
    flip(path, int(np.random.default_rng(size).integers(size)))


def cut(path):
  os.truncate(path, path.stat().st_size // 2)


DAMAGES = {'cut': cut, 'missing': pathlib.Path.unlink, 'flipped': flip_somewhere}
# Where an array is damaged, Orbax leaves its reads of the others to the garbage collector.
LEFT_BY_ORBAX = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


@pytest.mark.faults
@LEFT_BY_ORBAX
@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_checkpoint_is_never_gone_on_from_and_the_good_one_stays(
  pristine, tmp_path, damage
):
  places = [path.relative_to(pristine) for path in files_of(pristine / 'checkpoints' / f'{3:012d}')]
  assert len(places) > 8
  came_from = []
  for number, place in enumerate(places):
    workdir = tmp_path / str(number)
    shutil.copytree(pristine, workdir)
    DAMAGES[damage](workdir / place)
    good = {path: path.read_bytes() for path in files_of(workdir / 'checkpoints' / f'{2:012d}')}
    try:
      step = restore(workdir)
    except errors.CheckpointError:
      step = None  # e.g. a shape that is no more what it was
    came_from.append(step)
    assert all(path.read_bytes() == data for path, data in good.items())
    assert (workdir / 'set_aside' / f'{3:012d}').is_dir() == (step == 2)
  workdir = tmp_path / str(came_from.index(2))
  save(workdir, [3])  # what was lost is done again
  assert restore(workdir) == 3


def test_a_changed_number_is_found_wherever_orbax_looks_away(workdir):
  """One bit of an array or of the run's own record, which no reader of Orbax would miss."""
  (record,) = (workdir / 'checkpoints' / f'{3:012d}' / 'run').glob('metadata')
  text = record.read_text()
  record.write_text(text.replace('"batches": 3', '"batches": 9'))
  assert record.read_text() != text
  assert restore(workdir) == 2


@LEFT_BY_ORBAX
def test_nothing_is_touched_where_no_checkpoint_is_whole(workdir):
  for step in (1, 2, 3):
    for path in files_of(workdir / 'checkpoints' / f'{step:012d}' / 'state'):
      os.truncate(path, 0)
  before = files_of(workdir)
  with pytest.raises(errors.CheckpointError, match='none of the 3 checkpoints can be gone on from'):
    restore(workdir)
  assert files_of(workdir) == before


@LEFT_BY_ORBAX
def test_damage_of_what_is_frozen_is_found(workdir):
  large = max(files_of(workdir / 'frozen'), key=lambda path: path.stat().st_size)
  flip(large, large.stat().st_size // 2)
  with pytest.raises(errors.CheckpointError, match='what the run keeps frozen cannot be restored'):
    restore(workdir)
  assert len(list((workdir / 'checkpoints').glob('0*'))) == 3


def test_what_was_saved_without_checksums_is_read(workdir):
  (record,) = (workdir / 'checkpoints' / f'{3:012d}' / 'run').glob('metadata')
  run = json.loads(record.read_text())
  del run['checksum'], run['checksums'], run['roll_backs']
  record.write_text(json.dumps(run))
  assert restore(workdir) == 3


@LEFT_BY_ORBAX
def test_a_checkpoint_is_set_aside_beside_an_earlier_one_of_its_step(workdir):
  for _ in range(2):
    for path in files_of(workdir / 'checkpoints' / f'{3:012d}' / 'state'):
      os.truncate(path, 0)
    assert restore(workdir) == 2
    save(workdir, [3])
  names = {path.name for path in (workdir / 'set_aside').iterdir()}
  assert names == {f'{3:012d}', f'{3:012d}.1'}


def test_steps_that_are_not_good_are_set_aside_too(workdir, capsys):
  with checkpoints.Checkpoints(workdir, SETTINGS) as saved:
    state, _ = saved.restore_newest(abstract(), is_good=lambda state: int(state.step) < 2)
    assert int(state.step) == 1 and saved.latest_step == 1
  assert 'step 3 belongs to what is done again.\nIt is set aside in' in capsys.readouterr().out
  with (
    checkpoints.Checkpoints(workdir, SETTINGS) as saved,
    pytest.raises(errors.CheckpointError, match='their last steps were not applied'),
  ):
    saved.restore_newest(abstract(), is_good=lambda state: False)


@pytest.mark.faults
@LEFT_BY_ORBAX
def test_a_run_goes_on_from_the_step_before_a_damaged_one(twin, trained_workdir, tmp_path, capsys):
  workdir = tmp_path / 'run'
  shutil.copytree(trained_workdir, workdir)
  (newest,) = (workdir / 'checkpoints').glob(f'{4:012d}')
  for path in files_of(newest / 'state'):
    os.truncate(path, path.stat().st_size // 2)
  assert train.train_and_evaluate(twin(), workdir, devices=jax.devices()[:1])
  printed = capsys.readouterr().out
  assert 'step 4 is damaged: ' in printed and 'Going on after step 2 of 4' in printed
  lines = [(d / 'metrics.jsonl').read_text() for d in (workdir, trained_workdir)]
  assert lines[0] == lines[1]
  nets = [trained.load(d, step=4).state.nets for d in (workdir, trained_workdir)]
  jax.tree.map(np.testing.assert_array_equal, *nets)


# --------------------------------------------------------------------------------------------------
# Disks that refuse
# --------------------------------------------------------------------------------------------------


def test_a_refusal_names_its_reason_and_place(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(errors.StorageError, match='could not be: (Not a directory|File exists)'):
    trained.save_config(tmp_path / 'file' / 'run', None)
  place = 'RESOURCE_EXHAUSTED: Error writing local file "/w/d/_sharding": Failed writing: '
  for words in (
    '"/w/_sharding.__lock" [OS error 28: ENOSPC No space left on device] [source locations=...]',
    '"/w/_sharding.__lock": Failed to write 572 bytes: No space left on device '
    "[os_error_code='28']",
  ):
    told = str(storage.failure(ValueError(place + words), '/w'))
    assert 'could not be: No space left on device.' in told and 'where: /w' in told
  told = str(storage.failure(ValueError('UNAVAILABLE: no answer\nmore'), '/w'))
  assert 'could not be: UNAVAILABLE: no answer.' in told


@pytest.mark.faults
def test_files_that_may_not_grow_stop_the_run_with_a_message(twin, tmp_path):
  """As a quota does; needs no rights."""
  config = json.dumps(twin(num_steps=8, **{'checkpoint.every': 2}).to_dict())
  log = tmp_path / 'log'
  code, printed = Forked(log, train_on_a_small_disk, config, str(tmp_path / 'run'), 100_000).wait()
  assert code == 0, printed
  assert 'StorageError: what was to be written could not be: ' in printed
  assert 'File too large' in printed and 'checkpoints' in printed
  names = [path.name for path in (tmp_path / 'run' / 'checkpoints').iterdir()]
  assert not [name for name in names if name.isdigit()], names


SMALL_DISK = """
import json, os, pathlib, sys
import jax, ml_collections
from tfg_jax import errors, train
config = ml_collections.ConfigDict(json.loads(sys.argv[1]))
workdir = pathlib.Path(sys.argv[2]) / 'run'

def attempt(workdir=workdir):
  try:
    return train.train_and_evaluate(config, workdir, devices=jax.devices()[:1])
  except errors.StorageError as error:
    print(error)
    return error.what

def whole():
  folder = workdir / 'checkpoints'
  return sorted(int(x.name) for x in folder.glob('*') if x.name.isdigit())

full = attempt(), whole()
assert not os.system(f'mount -o remount,size=100m {sys.argv[2]}')
assert not os.system(f'mount -o remount,ro {sys.argv[2]}')
read_only = attempt(), whole()
assert not os.system(f'mount -o remount,rw {sys.argv[2]}')
done = attempt(), whole()
roomy = pathlib.Path(sys.argv[3])
attempt(roomy)
lines = [(folder / 'metrics.jsonl').read_text() for folder in (workdir, roomy)]
print(json.dumps([full, read_only, done, lines]))
"""


@pytest.mark.faults
def test_a_full_and_a_read_only_disk_lose_nothing(twin, tmp_path):
  """A disk of its own in a namespace of its own: there even root meets its limits."""
  own = ['unshare', '--map-root-user', '--mount', 'sh', '-c']
  disk = tmp_path / 'disk'
  disk.mkdir()
  mount = f'mount -t tmpfs -o size=1500k none {disk}'
  if subprocess.run([*own, mount], capture_output=True).returncode:
    pytest.skip('this machine lets nobody mount a disk of their own')
  config = json.dumps(twin(**{'checkpoint.every': 1}).to_dict())
  done = subprocess.run(
    [*own, f'{mount} && exec "$0" -c "$@"', sys.executable, SMALL_DISK, config]
    + [str(disk), str(tmp_path / 'roomy')],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  assert done.returncode == 0, done.stderr
  full, read_only, end, lines = json.loads(done.stdout.splitlines()[-1])
  assert 'No space left on device' in full[0] and full[1]
  assert 'Read-only file system' in read_only[0] and read_only[1] == full[1]
  assert end[0] is True and end[1][-1] == 4
  assert lines[0] == lines[1]


# --------------------------------------------------------------------------------------------------
# Two runs
# --------------------------------------------------------------------------------------------------


@pytest.mark.faults
def test_the_second_run_in_a_workdir_is_refused_until_the_first_has_died(twin, tmp_path):
  first = Forked(tmp_path / 'log', hold, str(tmp_path / 'run'))
  while 'held' not in first.printed:
    assert first.is_alive(), first.printed
  with pytest.raises(errors.StorageError, match='another process writes to this folder'):
    train.train_and_evaluate(twin(), tmp_path / 'run', devices=jax.devices()[:1])
  assert not (tmp_path / 'run' / trained.CONFIG_FILE).exists()
  first.send(signal.SIGKILL)
  first.wait()
  save(tmp_path / 'run', [1])


def test_reading_needs_no_claim(workdir):
  with (
    checkpoints.Checkpoints(workdir, SETTINGS),
    checkpoints.Checkpoints(workdir, SETTINGS, read_only=True) as saved,
  ):
    assert saved.latest_step == 3


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
  def refuse(*_):
    raise OSError(9, 'Bad file descriptor')

  monkeypatch.setattr(storage.fcntl, 'flock', refuse)
  with caplog.at_level('WARNING', logger='absl'), storage.only_writer(tmp_path):
    pass
  assert 'cannot be locked (Bad file descriptor): start no second run there' in caplog.text


# --------------------------------------------------------------------------------------------------
# Files beside the checkpoints
# --------------------------------------------------------------------------------------------------


def test_a_file_is_as_it_was_after_any_interruption(tmp_path):
  def interrupted():
    yield b'new'
    raise KeyboardInterrupt

  path = tmp_path / 'file'
  assert storage.write_whole(path, [b'old', b'er']) == 5
  with pytest.raises(KeyboardInterrupt):
    storage.write_whole(path, interrupted())
  assert path.read_bytes() == b'older' and list(tmp_path.iterdir()) == [path]


def test_metrics_are_cut_where_steps_will_be_done_again(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  lines = [json.dumps({'step': step, 'g/l1': 0.5}) + '\n' for step in (1, 2, 2, 3)]
  path.write_text(''.join(lines) + '{"step": 4, "g/')
  file, kept = reporting._open_metrics(path, keep_until=9)
  assert [json.loads(line)['step'] for line in kept] == [1, 2, 2, 3]
  with file:
    file.write(lines[3])
  assert path.read_text() == ''.join(lines) + lines[3]
  file, kept = reporting._open_metrics(path, keep_until=2)
  file.close()
  assert len(kept) == 3
  assert path.read_text() == ''.join(lines[:3])
  path.write_text('{"step": 1}\n{"stop": 2}\n')
  with pytest.raises(errors.CheckpointError, match='line 2 of the metrics is damaged'):
    reporting._open_metrics(path, keep_until=9)
