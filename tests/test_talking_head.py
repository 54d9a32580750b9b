"""A talking head from speech alone, with painters in place of networks."""

import tracemalloc
from fractions import Fraction

import av
import clips
import numpy as np
import pytest
import soundfile

from tfg_jax import talking_head
from tfg_jax.errors import MediaError

SIZE = 16


class Painter:
  """Paints sample numbers: the speech of a test counts its samples, modulo 2**15."""

  def __init__(self):
    self.described, self.calls = [], []

  def describe(self, inputs):
    self.described.append(inputs)
    return {'identity': np.full(3, 7.0, np.float32)}

  def draw(self, inputs):
    assert inputs['identity'].tolist() == [7, 7, 7]
    self.calls.append({name: np.shape(value) for name, value in inputs.items()})
    frames = np.zeros((len(inputs['times']), SIZE, SIZE, 3), np.uint8)
    for place, time in enumerate(inputs['times']):
      # Half a second of what was said before and after.
      near = round(float(time) * 16_000) + np.arange(-8000, 8001, 4000)
      number = inputs['wav'][np.clip(near, 0, inputs['num_samples'] - 1)]
      frames[place, 0, : len(near)] = np.stack([number // 128, number % 128, 0 * number], axis=-1)
    return frames


def talker(painter, rate=25, clip_samples=16_000):
  return talking_head.Talker(
    clips.MAKER, SIZE, Fraction(rate), clip_samples, painter.describe, painter.draw
  )


def counting(seconds):
  """(N,) int16 speech that says where it is."""
  return (np.arange(round(seconds * 16_000)) % 2**15).astype(np.int16)


def drawn(speech, count, chunk, rate=25):
  frames = talking_head.draw(speech, count, talker(Painter(), rate), chunk_frames=chunk)
  return np.stack(list(frames))


@pytest.mark.parametrize('rate', [25, 30, Fraction(24)])
def test_chunks_do_not_show(rate):
  speech = counting(9)
  count = int(9 * rate)
  whole = drawn(speech, count, 300, rate)
  assert len(whole) == count and len(np.unique(whole[:, 0, 2], axis=0)) > count / 2
  for chunk in (1, 7, 64):
    np.testing.assert_array_equal(drawn(speech, count, chunk, rate), whole)


def test_each_frame_sees_the_speech_of_its_time():
  frames = drawn(counting(5), 125, 16).astype(int)
  heard = frames[:, 0, 2, 0] * 128 + frames[:, 0, 2, 1]
  np.testing.assert_allclose(heard, np.arange(125) * 640 % 2**15, atol=1)


def test_chunks_have_one_shape():
  painter = Painter()
  frames = list(talking_head.draw(counting(5), 125, talker(painter), chunk_frames=16))
  assert len(frames) == 125 and len(painter.calls) == 8
  assert all(call == painter.calls[0] for call in painter.calls)


@pytest.mark.parametrize('seconds, count', [(1.0, 1), (1.9, 1), (2.5, 2), (10.0, 10), (40.0, 16)])
def test_who_speaks_is_heard_in_stretches_spread_over_the_speech(seconds, count):
  speech = counting(seconds)
  heard = talking_head.stretches(speech, 16_000)
  assert heard['wav'].shape == (count, 16_000) and heard['wav'].dtype == np.int16
  assert heard['num_samples'].tolist() == [16_000] * count
  starts = np.linspace(0, len(speech) - 16_000, count).round().astype(int)
  assert starts[0] == 0 and (np.diff(starts) >= 16_000).all()
  assert count == 1 or starts[-1] + 16_000 == len(speech)
  for row, start in zip(heard['wav'], starts, strict=True):
    np.testing.assert_array_equal(row, speech[start : start + 16_000])


def test_short_speech_is_one_padded_stretch():
  heard = talking_head.stretches(counting(0.25) + 1, 16_000)
  assert heard['num_samples'].tolist() == [4000]
  np.testing.assert_array_equal(heard['wav'][0, :4000], np.arange(4000) + 1)
  assert not heard['wav'][0, 4000:].any()


def make(tmp_path, audio, painter, rate=25, **settings):
  request = talking_head.Request(audio, str(tmp_path / 'out.mp4'))
  made = talking_head.talk(request, talker(painter, rate), **settings)
  return request.output, made


@pytest.mark.parametrize('rate', [25, 30])
@pytest.mark.parametrize('seconds', [0.01, 0.5, 1.234, 3.999])
def test_rate_size_and_duration(tmp_path, rate, seconds):
  painter, said = Painter(), []
  audio = clips.write_tone(tmp_path / 'in.wav', seconds, 44_100, 2)
  path, made = make(tmp_path, audio, painter, rate, say=said.append, chunk_frames=16)
  assert len(painter.described) == 1
  with av.open(path) as container:
    stream, sound = container.streams.video[0], container.streams.audio[0]
    assert (stream.width, stream.height, stream.average_rate) == (SIZE, SIZE, rate)
    assert stream.frames == made.frames
    assert float(stream.duration * stream.time_base) == pytest.approx(seconds, abs=0.04)
    assert float(sound.duration * sound.time_base) == pytest.approx(seconds, abs=0.04)
    assert (sound.rate, sound.channels) == (44_100, 2)
    comment = container.metadata['comment']
  assert comment.startswith('Synthetic media: the head was drawn by tfg_jax')
  assert '(fake, step 3) from speech alone. It is no picture of the speaker.' in comment
  assert f'Wrote {path}' in said[-1] and 'synthetic' in said[-1]


def test_long_speech_needs_no_more_memory_than_its_samples(tmp_path):
  def peak(seconds):
    audio = clips.write_tone(tmp_path / f'{seconds}.wav', seconds)
    tracemalloc.start()
    make(tmp_path, audio, Painter(), say=lambda _: None, chunk_frames=16)
    _, top = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return top

  peak(1)  # what is imported and cached
  short, long = peak(20), peak(60)
  # 40 s more are 1.28 MB of speech, held twice while it is read.
  assert long - short < 3e6


def test_what_cannot_be(tmp_path):
  audio = clips.write_tone(tmp_path / 'in.wav', 0.2)
  silent = clips.write(tmp_path / 'silent.mp4', 5)
  for request, message in (
    (talking_head.Request(silent, str(tmp_path / 'out.mp4')), 'no audio stream'),
    (talking_head.Request(str(tmp_path / 'none.wav'), str(tmp_path / 'o.mp4')), 'does not exist'),
    (talking_head.Request(audio, str(tmp_path / 'out.png')), 'does not end in .mp4'),
    (talking_head.Request(audio, '/nowhere/out.mp4'), 'folder of the output does not exist'),
  ):
    with pytest.raises(MediaError, match=message):
      request.check()
  spoken = clips.write(tmp_path / 'spoken.mp4', 5, audio=clips.tone(0.2))
  with pytest.raises(MediaError, match='the output would replace an input'):
    talking_head.Request(spoken, spoken).check()
  soundfile.write(tmp_path / 'empty.wav', np.zeros(0, np.int16), 16_000)
  with pytest.raises(MediaError, match='no samples'):
    make(tmp_path, str(tmp_path / 'empty.wav'), Painter())
