import pathlib
import tracemalloc
import types
from fractions import Fraction

import av
import clips
import cv2
import hypothesis
import numpy as np
import pytest
import soundfile
from hypothesis import strategies as st

from tfg_jax import faces, lip_sync, media
from tfg_jax.errors import ConfigError, MediaError

SIZE = 16
BOX = [20, 14, 44, 46]  # in frames of 64x48


class Painter:
  """Paints each face in the loudness at its frame's time and keeps what it was given."""

  def __init__(self):
    self.calls = []

  def __call__(self, inputs):
    self.calls.append(inputs)
    faces_ = np.zeros((*inputs['times'].shape, SIZE, SIZE, 3), np.uint8)
    for place, time in enumerate(inputs['times']):
      sample = min(max(round(float(time) * 16_000), 0), int(inputs['num_samples']) - 1)
      faces_[place] = min(abs(int(inputs['wav'][sample])) // 128, 255)
    return faces_


def generator(painter=None):
  return lip_sync.Generator(clips.MAKER, SIZE, painter or Painter())


def detector(frames):
  return [np.array([BOX], np.float32) for _ in frames]


def make(tmp_path, *, painter=None, detector=detector, say=lambda _: None, chunk=7, **request):
  request = lip_sync.Request(output=str(tmp_path / 'out.mp4'), **request)
  made = lip_sync.lip_sync(
    request,
    generator(painter),
    load_detector=lambda: detector,
    say=say,
    chunk_frames=chunk,
  )
  return request.output, made


def numbers(path):
  with media.VideoReader(path) as reader:
    return [clips.number(frame) for frame in reader.scan()]


# The schedule.


def times_at(count, rate):
  return np.arange(count) / float(rate)


@pytest.mark.parametrize('rate', [Fraction(24), Fraction(1267, 50), Fraction(30_000, 1001)])
def test_a_constant_rate_is_copied_frame_by_frame(rate):
  times = np.round(times_at(200, rate), 3)  # as rough as Matroska
  np.testing.assert_array_equal(lip_sync.schedule(times, rate, None), np.arange(200))


def test_a_short_video_runs_forwards_and_backwards():
  order = lip_sync.schedule(times_at(4, 25), Fraction(25), 11 / 25)
  assert order.tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2]


def test_a_long_video_is_cut_and_a_picture_stays():
  assert lip_sync.schedule(times_at(50, 25), Fraction(25), 0.2).tolist() == [0, 1, 2, 3, 4]
  assert lip_sync.schedule(np.zeros(1), Fraction(25), 0.2).tolist() == [0] * 5
  assert lip_sync.schedule(np.zeros(1), Fraction(25), None).tolist() == [0]
  assert lip_sync.schedule(times_at(2, 25), Fraction(25), 0.2).tolist() == [0, 1, 0, 1, 0]


def test_an_edit_list_rate_is_kept_with_frames_in_their_places():
  """74 frames 40 ms apart in a file that says 25.34 fps: one is shown twice."""
  order = lip_sync.schedule(times_at(74, 25), Fraction(1875, 74), None)
  assert len(order) == 75 and set(order) == set(range(74))
  shown = np.arange(75) * 74 / 1875
  assert abs(shown - order / 25).max() <= 0.04


def test_a_variable_rate_is_held():
  times = np.array([0, 0.04, 0.20, 0.24])
  order = lip_sync.schedule(times, Fraction(25), None)
  assert order.tolist() == [0, 1, 1, 1, 1, 2, 3]


@hypothesis.given(
  st.integers(1, 400),
  st.fractions(1, 120, max_denominator=1001),
  st.floats(0.001, 60),
)
def test_the_length_is_that_of_the_sound(count, rate, seconds):
  order = lip_sync.schedule(times_at(count, rate), rate, seconds)
  assert order.min() >= 0 and order.max() < count
  assert len(order) == 1 or len(order) / rate - seconds <= 0.0400001
  assert seconds - len(order) / rate < 1 / rate
  steps = np.abs(np.diff(order))
  assert (steps == 1).all() or count == 1


# Drawing.


def redraw_all(tmp_path, *, count=20, boxes=None, chunk=7, painter=None, order=None, **kwargs):
  path = tmp_path / 'clip.mp4'
  if not path.exists():
    clips.write(path, count)  # libx264 may code the same frames differently the next time
  boxes = np.tile(BOX, (count, 1)) if boxes is None else boxes
  wave = np.arange(count * 640, dtype=np.int16)
  with media.VideoReader(path) as reader:
    order = np.arange(count) if order is None else np.asarray(order)
    before = list(reader.scan())
    after = list(
      lip_sync.redraw(
        reader,
        order,
        boxes,
        wave,
        generator(painter),
        rate=reader.rate,
        chunk_frames=chunk,
        **kwargs,
      )
    )
  return [before[index] for index in order], after


@pytest.mark.parametrize('region', ['lower', 'whole'])
def test_pixels_outside_the_mask_are_not_touched(tmp_path, region):
  boxes = np.array([[i, 14, i + 24, 46] for i in range(20)])
  boxes[5:8] = 0
  before, after = redraw_all(tmp_path, boxes=boxes, region=region)
  for index, (old, new) in enumerate(zip(before, after, strict=True)):
    changed = (old != new).any(axis=2)
    if not boxes[index].any():
      assert not changed.any()
      continue
    x1, y1, x2, y2 = boxes[index]
    top = y1 + 1 if region == 'whole' else y1 + int(0.45 * (y2 - y1))
    assert changed[top : y2 - 1, x1 + 1 : x2 - 1].any()
    changed[top : y2 - 1, x1 + 1 : x2 - 1] = False
    assert not changed.any()


def test_the_middle_of_the_mask_is_the_drawn_face():
  picture = np.full((48, 64, 3), 50, np.uint8)
  face = np.full((SIZE, SIZE, 3), 200, np.uint8)
  result = lip_sync.paste(picture, face, np.array(BOX), 'lower')
  assert (result[38, 32] == 200).all() and (picture == 50).all()
  column = result[14:46, 32, 0].astype(int)
  assert np.abs(np.diff(column)).max() <= 80  # feathered: no hard edge of 150
  assert (column[:14] == 50).all()


@pytest.mark.parametrize('region', ['lower', 'whole'])
@pytest.mark.parametrize('size', [(8, 8), (33, 20), (200, 150)])
def test_the_mask_is_zero_on_the_border(size, region):
  mask = lip_sync.feather(*size, region)
  assert mask.shape == size and mask.min() == 0 and 0.9 < mask.max() <= 1
  edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
  assert not edge.any()


def test_chunks_do_not_show(tmp_path):
  _, whole = redraw_all(tmp_path, chunk=64)
  for chunk in (1, 3, 7):
    _, parts = redraw_all(tmp_path, chunk=chunk)
    np.testing.assert_array_equal(np.stack(parts), np.stack(whole))


def test_a_chunk_hears_the_speech_of_its_frames_and_two_seconds_around(tmp_path):
  painter = Painter()
  redraw_all(tmp_path, count=130, chunk=10, painter=painter)  # sample i is i modulo 2**16
  wave = np.arange(130 * 640, dtype=np.int16)
  shapes = {name: np.shape(value) for name, value in painter.calls[0].items()}
  assert shapes['faces'] == shapes['identity'] == (10, SIZE, SIZE, 3)
  for start, call in enumerate(painter.calls):
    assert {name: np.shape(value) for name, value in call.items()} == shapes  # compiles once
    begin = round((start * 10 / 25 - float(call['times'][0])) * 16_000)
    assert begin % 3200 == 0
    valid = int(call['num_samples'])
    np.testing.assert_array_equal(call['wav'][:valid], wave[begin : begin + valid])
    assert not call['wav'][valid:].any()
    np.testing.assert_allclose(call['times'], (start * 10 + np.arange(10)) / 25 - begin / 16_000)
    assert begin <= max(0, (start * 0.4 - 2) * 16_000)
    assert begin + valid >= min(len(wave), (start * 0.4 + 0.4 + 2) * 16_000)


def test_the_reference_is_the_first_face(tmp_path):
  painter = Painter()
  boxes = np.tile(BOX, (20, 1))
  boxes[:3] = 0
  before, _ = redraw_all(tmp_path, boxes=boxes, painter=painter)
  expected = lip_sync.crop(before[3], np.array(BOX), SIZE)
  for call in painter.calls:
    assert (call['identity'] == expected).all()


def test_chunks_without_a_face_are_not_drawn(tmp_path):
  painter = Painter()
  boxes = np.tile(BOX, (20, 1))
  boxes[10:] = 0
  redraw_all(tmp_path, boxes=boxes, painter=painter, chunk=5)
  assert len(painter.calls) == 2


def test_frames_are_read_backwards_and_held(tmp_path):
  order = [0, 1, 1, 5, 9, 10, 11, 10, 9, 8, 7, 6, 6, 5, 4, 3, 0, 0]
  before, after = redraw_all(tmp_path, order=order, chunk=4)
  assert [clips.number(frame) for frame in after] == order
  assert [clips.number(frame) for frame in before] == order


# Whole files.


@pytest.mark.parametrize(
  'rate', [Fraction(24), Fraction(25), Fraction(1267, 50), Fraction(30_000, 1001)]
)
@pytest.mark.parametrize('length', ['audio', 'video'])
def test_rate_size_and_length_are_kept(tmp_path, rate, length):
  video = clips.write(tmp_path / 'in.mp4', 40, rate=rate)
  audio = clips.write_tone(tmp_path / 'in.wav', 1.234)
  path, made = make(tmp_path, video=video, audio=audio, length=length)
  with av.open(path) as container:
    stream, sound = container.streams.video[0], container.streams.audio[0]
    assert stream.average_rate == rate and stream.codec_context.name == 'h264'
    assert sound.codec_context.name == 'aac' and (stream.width, stream.height) == (64, 48)
    expected = 1.234 if length == 'audio' else 40 / rate
    assert container.duration / 1e6 == pytest.approx(expected, abs=0.04)
    assert float(stream.duration * stream.time_base) == pytest.approx(expected, abs=0.04)
    assert float(sound.duration * sound.time_base) == pytest.approx(expected, abs=0.04)
    assert stream.frames == made.frames == made.redrawn
    assert 'Synthetic media' in container.metadata['comment']
  assert numbers(path) == list(range(made.frames))


def test_a_short_video_is_played_back_and_forth_in_the_file(tmp_path):
  video = clips.write(tmp_path / 'in.mp4', 10)
  path, _ = make(tmp_path, video=video, audio=clips.write_tone(tmp_path / 'in.wav', 1.2))
  forth = list(range(10))
  assert numbers(path) == (2 * (forth + forth[-2:0:-1]))[:30]


@pytest.mark.parametrize('slow', [5, 10])
def test_slow_videos_do_not_outlast_the_sound(tmp_path, slow):
  video = clips.write(tmp_path / 'in.mp4', 30, rate=slow)
  path, made = make(tmp_path, video=video, audio=clips.write_tone(tmp_path / 'in.wav', 1.18))
  assert media.probe(path).duration == pytest.approx(1.18, abs=0.04)


@pytest.mark.parametrize('size', [(63, 48), (64, 47), (63, 47)])
def test_odd_sizes(tmp_path, size):
  video = clips.write(tmp_path / 'in.mkv', 10, size=size, codec='ffv1', pixels='yuv444p')
  path, _ = make(tmp_path, video=video, audio=clips.write_tone(tmp_path / 'in.wav', 0.4))
  info = media.probe(path)
  assert (info.width, info.height) == size
  assert numbers(path) == list(range(10))


def test_a_variable_rate_becomes_its_mean_with_frames_at_their_times(tmp_path):
  times = np.cumsum([0.0] + [0.02, 0.06] * 20)
  video = clips.write(tmp_path / 'in.mkv', len(times), times=times, rate=1000)
  path, made = make(
    tmp_path, video=video, audio=clips.write_tone(tmp_path / 'in.wav', 1), length='video'
  )
  assert float(made.rate) == pytest.approx(25, rel=1e-3)
  shown = times[numbers(path)] - np.arange(made.frames) / 25
  assert abs(shown).max() <= 0.041


@pytest.mark.parametrize(
  'rate, channels, subtype, out',
  [
    (8_000, 1, 'PCM_16', 8_000),
    (44_100, 2, 'PCM_16', 44_100),
    (48_000, 1, 'FLOAT', 48_000),
    (96_000, 2, 'PCM_24', 48_000),
    (16_000, 6, 'PCM_16', 16_000),
  ],
)
def test_the_sound_stays_as_good_as_it_came(tmp_path, rate, channels, subtype, out):
  video = clips.write(tmp_path / 'in.mp4', 10)
  audio = clips.write_tone(tmp_path / 'in.wav', 0.5, rate, channels, subtype)
  path, _ = make(tmp_path, video=video, audio=audio)
  info = media.probe(path)
  assert (info.audio_rate, info.audio_channels) == (out, min(channels, 2) if channels < 3 else 1)
  assert info.duration == pytest.approx(0.5, abs=0.04)
  middle = media.read_audio(path)[2000:6000]
  assert abs(middle).max() == pytest.approx(16384, rel=0.15)


def test_the_sound_of_a_video_file_drives_the_mouth(tmp_path):
  video = clips.write(tmp_path / 'in.mp4', 10)
  audio = clips.write(tmp_path / 'other.mp4', 25, audio=clips.tone(1, 44_100, 2), audio_rate=44_100)
  painter = Painter()
  path, made = make(tmp_path, video=video, audio=audio, painter=painter)
  assert media.probe(path).duration == pytest.approx(1, abs=0.04)
  assert max(abs(call['wav'].astype(int)).max() for call in painter.calls) > 10_000


def test_length_of_the_video_pads_the_sound_with_silence(tmp_path):
  video = clips.write(tmp_path / 'in.mp4', 50)
  painter = Painter()
  path, _ = make(
    tmp_path,
    video=video,
    audio=clips.write_tone(tmp_path / 'in.wav', 0.8),
    length='video',
    painter=painter,
    chunk=64,
  )
  wave = media.read_audio(path)
  assert len(wave) == pytest.approx(32_000, abs=640)
  assert abs(wave[2000:12_000]).max() > 10_000 and abs(wave[15_000:]).max() < 200
  assert painter.calls[0]['num_samples'] == 32_000  # the network hears the silence too


def test_a_picture_speaks(tmp_path):
  cv2.imwrite(str(tmp_path / 'face.png'), clips.frame(9, 63, 47)[..., ::-1])
  path, made = make(
    tmp_path, image=str(tmp_path / 'face.png'), audio=clips.write_tone(tmp_path / 'in.wav', 0.48)
  )
  assert made.rate == 25 and made.frames == 12 and numbers(path) == [9] * 12
  assert (media.probe(path).width, media.probe(path).height) == (63, 47)


def test_a_face_is_drawn_at_the_rate_of_its_system(tmp_path):
  cv2.imwrite(str(tmp_path / 'face.png'), clips.frame(9)[..., ::-1])
  request = lip_sync.Request(
    image=str(tmp_path / 'face.png'),
    audio=clips.write_tone(tmp_path / 'in.wav', 0.5),
    output=str(tmp_path / 'out.mp4'),
    region='whole',
    box=BOX,
  )
  painter, said = Painter(), []
  drawn = lip_sync.Generator(clips.MAKER, SIZE, painter, part='face', picture_rate=Fraction(30))
  made = lip_sync.lip_sync(request, drawn, say=said.append)
  assert made.rate == 30 and made.frames == 15
  np.testing.assert_allclose(painter.calls[0]['times'][:15], np.arange(15) / 30, atol=1e-6)
  with av.open(request.output) as container:
    assert container.streams.video[0].average_rate == 30
    assert 'the face was drawn by tfg_jax' in container.metadata['comment']
  assert 'the face redrawn in 15' in said[-1]


def test_a_rotated_video_is_written_upright(tmp_path):
  video = clips.write(tmp_path / 'in.mp4', 10, rotation=90)
  path, _ = make(tmp_path, video=video, audio=clips.write_tone(tmp_path / 'in.wav', 0.4))
  assert (media.probe(path).width, media.probe(path).height) == (48, 64)
  with media.VideoReader(path) as out, media.VideoReader(video) as source:
    upright = next(out.frames(3, 4)).astype(int)
    outside = np.ones(upright.shape[:2], bool)
    outside[14:46, 20:44] = False
    assert abs(upright - next(source.frames(3, 4)))[outside].mean() < 4


def test_no_more_of_a_long_video_is_read_than_the_speech_needs(tmp_path):
  looked = []

  def counting(frames):
    looked.extend(frames)
    return detector(frames)

  video = clips.write(tmp_path / 'in.mp4', 200)
  make(tmp_path, video=video, audio=clips.write_tone(tmp_path / 'in.wav', 0.4), detector=counting)
  assert len(looked) <= 13  # 1.4 s, every third frame


def test_memory_does_not_grow_with_the_clip(tmp_path):
  video = clips.write(tmp_path / 'in.mp4', 75, size=(96, 96), options={'g': '25'})

  def peak(seconds):
    audio = clips.write_tone(tmp_path / f'{seconds}.wav', seconds)
    tracemalloc.start()
    make(tmp_path, video=video, audio=audio, box=[20, 20, 60, 70], chunk=32)
    _, top = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return top

  make(tmp_path, video=video, audio=clips.write_tone(tmp_path / 'in.wav', 1), box=[20, 20, 60, 70])
  short, long = peak(4), peak(24)
  # 20 s more are 14 MB of frames; their speech is 0.6 MB as 16-bit samples.
  assert long - short < 1.5e6


# What is said.


def test_frames_without_a_face_are_reported_before_anything_is_drawn(tmp_path):
  said = []
  painter = Painter()

  def say(line):
    said.append((line, len(painter.calls)))

  def gappy(frames):
    return [
      np.array([] if 5 <= clips.number(frame) < 8 else [BOX], np.float32).reshape(-1, 4)
      for frame in frames
    ]

  video = clips.write(tmp_path / 'in.mp4', 20)
  audio = clips.write_tone(tmp_path / 'in.wav', 0.8)
  _, made = make(tmp_path, video=video, audio=audio, detector=gappy, painter=painter, say=say)
  text = '\n'.join(line for line, calls in said if not calls)
  assert 'not found in 3 of 20 frames' in text and 'stay as they are (--gaps=keep)' in text
  assert '0:00.20 to 0:00.28: frames 5 to 7' in text
  assert made.redrawn == 17
  assert 'Wrote' in said[-1][0] and 'synthetic' in said[-1][0]
  for gaps in ('hold', 'interpolate'):
    _, made = make(tmp_path, video=video, audio=audio, detector=gappy, gaps=gaps)
    assert made.redrawn == 20


def test_many_gaps_are_summed_up(tmp_path):
  said = []

  def gappy(frames):
    return [
      np.array([] if clips.number(frame) % 2 else [BOX], np.float32).reshape(-1, 4)
      for frame in frames
    ]

  make(
    tmp_path,
    video=clips.write(tmp_path / 'in.mp4', 30),
    audio=clips.write_tone(tmp_path / 'in.wav', 1.2),
    detector=gappy,
    detect_every=1,
    say=said.append,
  )
  assert '  and 5 more' in said


@pytest.mark.parametrize(
  'seconds, length, words',
  [
    (1.2, 'audio', '0.40 s, played forwards and backwards'),
    (0.2, 'audio', 'cut where the speech ends'),
    (0.4, 'audio', '25 frames per second, 0.40 s'),
    (0.2, 'video', 'cut or padded with silence to 0.40 s'),
  ],
)
def test_what_happens_to_the_lengths_is_said(tmp_path, seconds, length, words):
  said = []
  make(
    tmp_path,
    video=clips.write(tmp_path / 'in.mp4', 10),
    audio=clips.write_tone(tmp_path / 'in.wav', seconds),
    length=length,
    say=said.append,
  )
  assert words in '\n'.join(said)


# Boxes from the user.


def test_boxes_from_the_user_are_used_as_they_are(tmp_path):
  painter = Painter()
  video = clips.write(tmp_path / 'in.mp4', 10)
  audio = clips.write_tone(tmp_path / 'in.wav', 0.4)
  boxes = np.array([[i, 10, i + 20, 40] for i in range(10)], float)
  boxes[4] = np.nan
  np.save(tmp_path / 'boxes.npy', boxes)
  _, made = make(
    tmp_path, video=video, audio=audio, boxes=str(tmp_path / 'boxes.npy'), painter=painter
  )
  assert made.redrawn == 9
  with media.VideoReader(video) as reader:
    expected = lip_sync.crop(next(reader.frames(6, 7)), boxes[6].astype(int), SIZE)
  np.testing.assert_array_equal(painter.calls[0]['faces'][6], expected)
  _, made = make(tmp_path, video=video, audio=audio, box=[10, 10, 40, 40])
  assert made.redrawn == 10


# Bad input.


@pytest.fixture
def good(tmp_path):
  """Paths of a video, a sound and a picture that could be used."""
  cv2.imwrite(str(tmp_path / 'face.png'), clips.frame(9)[..., ::-1])
  return types.SimpleNamespace(
    video=clips.write(tmp_path / 'in.mp4', 10),
    audio=clips.write_tone(tmp_path / 'in.wav', 0.4),
    image=str(tmp_path / 'face.png'),
    output=str(tmp_path / 'out.mp4'),
    folder=str(tmp_path),
  )


@pytest.mark.parametrize(
  'change, error, message',
  [
    (dict(video=None), ConfigError, 'one of --video and --image'),
    (dict(image='{image}'), ConfigError, 'one of --video and --image'),
    (dict(box=[1, 2, 3, 4], boxes='b.npy'), ConfigError, 'one of --box and --boxes'),
    (dict(video=None, image='{image}', length='video'), ConfigError, 'still image has no length'),
    (dict(video='{image}'), MediaError, r'still image[\s\S]*use --image'),
    (dict(video=None, image='{video}'), MediaError, r'this is a video[\s\S]*use --video'),
    (dict(video='{audio}'), MediaError, 'no video stream'),
    (dict(audio='{video}'), MediaError, 'no audio stream'),
    (dict(audio='/nowhere/in.wav'), MediaError, 'does not exist'),
    (dict(output='{video}'), MediaError, 'would replace an input'),
    (dict(output='/nowhere/out.mp4'), MediaError, 'folder of the output does not exist'),
    (dict(output='out.avi'), MediaError, 'does not end in .mp4'),
    (dict(box=[5, 5, 1, 9]), MediaError, r'x1 < x2 and y1 < y2\n  where: --box'),
    (dict(boxes='{folder}/none.npy'), MediaError, 'the boxes cannot be read'),
  ],
)
def test_requests_that_cannot_be(good, change, error, message):
  chosen = dict(video=good.video, audio=good.audio, output=good.output) | change
  chosen = {
    name: value.format(**vars(good)) if isinstance(value, str) else value
    for name, value in chosen.items()
  }
  request = lip_sync.Request(**chosen)
  with pytest.raises(error, match=message):
    request.check()


def test_a_video_without_a_face(tmp_path, good):
  def blind(frames):
    return [np.zeros((0, 4), np.float32) for _ in frames]

  with pytest.raises(MediaError, match=r'no face was found in the 10 frames[\s\S]*--box'):
    make(tmp_path, video=good.video, audio=good.audio, detector=blind)
  assert not pathlib.Path(good.output).exists()


def test_a_box_beside_the_frame(tmp_path, good):
  with pytest.raises(MediaError, match='no box shows 8 pixels'):
    make(tmp_path, video=good.video, audio=good.audio, box=[100, 100, 140, 140])


def test_sound_without_samples(tmp_path, good):
  soundfile.write(tmp_path / 'empty.wav', np.zeros(0, np.int16), 16_000)
  with pytest.raises(MediaError, match='no samples'):
    make(tmp_path, video=good.video, audio=str(tmp_path / 'empty.wav'))


@pytest.mark.end_to_end
def test_a_real_face_is_redrawn_where_it_is(tmp_path):
  skimage_data = pytest.importorskip('skimage.data')
  picture = str(tmp_path / 'astronaut.png')
  cv2.imwrite(picture, skimage_data.astronaut()[..., ::-1])
  request = lip_sync.Request(
    image=picture, audio=clips.write_tone(tmp_path / 'in.wav', 1), output=str(tmp_path / 'out.mp4')
  )
  made = lip_sync.lip_sync(request, generator(), load_detector=faces.mtcnn_detector)
  assert made.frames == made.redrawn == 25
  with media.VideoReader(request.output) as reader:
    difference = abs(next(reader.frames(5, 6)).astype(int) - skimage_data.astronaut()).max(axis=2)
  changed = difference > 60  # coding alone changes few pixels by as much
  assert changed[115:180, 180:272].sum() > 0.97 * changed.sum() > 500
