"""Long videos: memory does not grow with them, but by the speech that is held, 32 kB a second."""

import resource

import av
import clips
import numpy as np
import pytest
import runs
from forked import Forked

from tfg_jax import media

BOX = [8, 4, 56, 44]


def write_minutes(path, minutes):
  """A tiny video with sound, of which no more than a second is in memory."""
  count = round(minutes * 60 * 25)
  frames = [clips.frame(index) for index in range(50)]
  second = np.random.default_rng(0).integers(-2000, 2000, 16_000, np.int16)
  sound = (second for _ in range(round(minutes * 60)))
  with media.VideoWriter(path, 64, 48, 25, audio=(sound, 16_000)) as writer:
    for index in range(count):
      writer.write(frames[index % 50])
  return path


def redraw(workdir, video, output):
  """Prints the most memory that the process had, in MB."""
  from tfg_jax import generate, lip_sync, trained

  request = lip_sync.Request(audio=video, video=video, output=output, box=BOX, length='video')
  generate.make(request, trained.load(workdir))
  print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)


def peak(tmp_path, workdir, minutes):
  video = write_minutes(tmp_path / 'in.mp4', minutes)
  output = tmp_path / 'out.mp4'
  log = tmp_path / 'log'
  code, printed = Forked(log, redraw, str(workdir), str(video), str(output)).wait(7200)
  assert code == 0, printed[-3000:]
  with av.open(str(output)) as container:
    assert container.streams.video[0].frames == round(minutes * 1500)
  return float(printed.split()[-1])


@pytest.fixture
def workdir(twin, toy_records, tmp_path):
  return runs.untrained(twin(), toy_records, tmp_path / 'run')


@pytest.mark.faults
def test_memory_does_not_grow_with_a_video_but_by_its_speech(workdir, tmp_path):
  short, long = (peak(tmp_path, workdir, minutes) for minutes in (0.2, 1.2))
  assert long - short < 25


@pytest.mark.overnight
def test_an_hour(workdir, tmp_path):
  found = {minutes: peak(tmp_path, workdir, minutes) for minutes in (1, 10, 60)}
  print('peak memory in MB by minutes of video:', found)
  assert found[60] - found[1] < 60 * 60 * 32_000 / 1e6 * 1.5
