"""The face of a picture, driven by the lips of a video, with painters in place of networks."""

from fractions import Fraction

import av
import clips
import cv2
import numpy as np
import pytest

from tfg_jax import driven_face, lip_sync, media
from tfg_jax.errors import MediaError

SIZE = 48
FACE = [10, 20, 50, 60]  # in the picture of 64x80
WHOLE = [0, 0, 64, 48]  # of a driving frame: its number is at the top


class Painter:
  """Paints each face in four times the number of its driving frame and keeps what it was given."""

  def __init__(self):
    self.calls = []

  def __call__(self, inputs):
    assert set(inputs) == {'identity', 'driving'}
    self.calls.append(inputs)
    large = (cv2.resize(x, (64, 48), interpolation=cv2.INTER_LINEAR) for x in inputs['driving'])
    numbers = np.array([clips.number(x) for x in large])
    return np.broadcast_to(4 * numbers[:, None, None, None], (len(numbers), SIZE, SIZE, 3)).astype(
      np.uint8
    )


def detector(frames):
  """The face of the picture, and all of a driving frame but those numbered 5 to 7."""
  return [
    np.array(
      [FACE] if frame.shape[0] == 80 else [] if 5 <= clips.number(frame) < 8 else [WHOLE],
      np.float32,
    ).reshape(-1, 4)
    for frame in frames
  ]


@pytest.fixture
def picture(tmp_path):
  path = tmp_path / 'face.png'
  cv2.imwrite(str(path), np.full((80, 64, 3), 200, np.uint8))
  return str(path)


def given_boxes(tmp_path, count, missing=()):
  boxes = np.tile(np.array(WHOLE, float), (count, 1))
  boxes[list(missing)] = np.nan
  np.save(tmp_path / 'boxes.npy', boxes)
  return str(tmp_path / 'boxes.npy')


def make(tmp_path, picture, video, *, painter=None, say=lambda _: None, chunk=7, **request):
  request = driven_face.Request(picture, video, str(tmp_path / 'out.mp4'), **request)
  generator = lip_sync.Generator(clips.MAKER, SIZE, painter or Painter(), part='face')
  made = driven_face.drive(
    request, generator, load_detector=lambda: detector, say=say, chunk_frames=chunk
  )
  return request.output, made


def middles(path):
  """What is painted on the middle of the face in each frame."""
  with media.VideoReader(path) as reader:
    return [float(frame[38:42, 28:32].mean()) for frame in reader.scan()]


@pytest.mark.parametrize('rate', [Fraction(25), Fraction(30_000, 1001)])
@pytest.mark.parametrize('chunk', [1, 7, 64])
def test_frames_reach_the_painter_in_step(tmp_path, picture, rate, chunk):
  video = clips.write(tmp_path / 'in.mp4', 40, rate=rate)
  path, made = make(
    tmp_path, picture, video, box=FACE, boxes=given_boxes(tmp_path, 40), chunk=chunk
  )
  with av.open(path) as container:
    stream = container.streams.video[0]
    assert stream.average_rate == rate and (stream.width, stream.height) == (64, 80)
    assert stream.frames == made.frames == 40
    assert float(stream.duration * stream.time_base) == pytest.approx(40 / rate, abs=1e-3)
    comment = container.metadata['comment']
  np.testing.assert_allclose(middles(path), 4 * np.arange(40), atol=2)
  assert 'the face was drawn by tfg_jax' in comment and 'the lips of another video' in comment


def test_the_picture_stays_around_the_face(tmp_path, picture):
  video = clips.write(tmp_path / 'in.mp4', 5)
  path, _ = make(tmp_path, picture, video, box=FACE, boxes=given_boxes(tmp_path, 5))
  with media.VideoReader(path) as reader:
    last = list(reader.scan())[-1].astype(int)
  outside = np.ones((80, 64), bool)
  outside[18:62, 8:52] = False
  assert abs(last[outside] - 200).max() < 8 and abs(last[~outside] - 200).max() > 150


def test_the_identity_is_the_face_of_the_picture(tmp_path, picture):
  image = np.full((80, 64, 3), 200, np.uint8)
  image[20:60, 10:50] = np.arange(40)[:, None, None]
  cv2.imwrite(picture, image)
  painter = Painter()
  video = clips.write(tmp_path / 'in.mp4', 10)
  make(tmp_path, picture, video, painter=painter, box=FACE, boxes=given_boxes(tmp_path, 10))
  expected = lip_sync.crop(image, np.array(FACE), SIZE)
  assert [call['identity'].shape for call in painter.calls] == [(7, SIZE, SIZE, 3)] * 2
  assert [call['driving'].shape for call in painter.calls] == [(7, SIZE, SIZE, 3)] * 2
  for call in painter.calls:
    np.testing.assert_array_equal(call['identity'], np.broadcast_to(expected, (7, *expected.shape)))


def test_the_sound_of_the_video_is_kept(tmp_path, picture):
  sound = clips.tone(0.8, 44_100, 2)
  sound[: 44_100 // 5 * 2] = 0
  video = clips.write(tmp_path / 'in.mp4', 20, audio=sound, audio_rate=44_100)
  said = []
  path, _ = make(
    tmp_path, picture, video, box=FACE, boxes=given_boxes(tmp_path, 20), say=said.append
  )
  info = media.probe(path)
  assert (info.audio_rate, info.audio_channels) == (44_100, 2)
  assert info.duration == pytest.approx(0.8, abs=0.04)
  wave = media.read_audio(path).astype(int)
  assert abs(wave[:5000]).max() < 500 and abs(wave[7500:12_000]).max() > 14_000
  assert 'its sound is kept' in '\n'.join(said)


def test_a_silent_video_makes_a_silent_file(tmp_path, picture):
  video, said = clips.write(tmp_path / 'in.mp4', 20), []
  path, _ = make(
    tmp_path, picture, video, box=FACE, boxes=given_boxes(tmp_path, 20), say=said.append
  )
  info = media.probe(path)
  assert not info.has_audio and info.duration == pytest.approx(0.8, abs=1e-3)
  assert 'it has no sound, nor will the output' in '\n'.join(said)


def test_sound_that_is_longer_or_shorter_takes_the_length_of_the_video(tmp_path, picture):
  for seconds in (0.3, 1.5):
    video = clips.write(tmp_path / f'{seconds}.mp4', 20, audio=clips.tone(seconds))
    path, _ = make(tmp_path, picture, video, box=FACE, boxes=given_boxes(tmp_path, 20))
    assert media.probe(path).duration == pytest.approx(0.8, abs=0.04)
    assert len(media.read_audio(path)) == pytest.approx(0.8 * 16_000, abs=640)


def test_missing_driving_frames_are_interpolated_and_reported(tmp_path, picture):
  said, painter = [], Painter()
  video = clips.write(tmp_path / 'in.mp4', 20)
  path, made = make(tmp_path, picture, video, painter=painter, detect_every=1, say=said.append)
  text = '\n'.join(said)
  assert 'not found in 3 of 20 frames; boxes are interpolated' in text
  assert '0:00.20 to 0:00.28: frames 5 to 7' in text
  assert made.frames == 20
  np.testing.assert_allclose(middles(path), 4 * np.arange(20), atol=2)


def test_shots_without_a_face_keep_the_mouth_still(tmp_path, picture):
  boxes = np.tile(np.array(WHOLE, float), (12, 1))
  boxes[:3] = [70, 70, 90, 90]  # beside the frame
  boxes[8:10] = [70, 70, 90, 90]
  np.save(tmp_path / 'boxes.npy', boxes)
  said = []
  path, _ = make(
    tmp_path,
    picture,
    clips.write(tmp_path / 'in.mp4', 12),
    box=FACE,
    boxes=str(tmp_path / 'boxes.npy'),
    say=said.append,
  )
  shown = [3, 3, 3, 3, 4, 5, 6, 7, 7, 7, 10, 11]
  np.testing.assert_allclose(middles(path), 4 * np.array(shown), atol=2)
  assert '5 frames have no face around them in their shot; the mouth keeps still' in '\n'.join(said)


def test_a_region_can_be_chosen(tmp_path, picture):
  video = clips.write(tmp_path / 'in.mp4', 5)
  tops = {}
  for region in ('whole', 'lower'):
    path, _ = make(
      tmp_path, picture, video, box=FACE, boxes=given_boxes(tmp_path, 5), region=region
    )
    with media.VideoReader(path) as reader:
      tops[region] = float(next(reader.frames(0, 1))[28:32, 28:32].mean())
  assert tops['whole'] < 10 and tops['lower'] == pytest.approx(200, abs=5)


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(image='{video}'), r'this is a video[\s\S]*use --video'),
    (dict(video='{image}'), r'this is a still image[\s\S]*use --image'),
    (dict(video='{audio}'), 'no video stream'),
    (dict(video='/nowhere/in.mp4'), 'does not exist'),
    (dict(output='{video}'), 'would replace an input'),
    (dict(output='out.png'), 'does not end in .mp4'),
    (dict(box=[5, 5, 1, 9]), 'x1 < x2'),
    (dict(boxes='/nowhere/boxes.npy'), 'the boxes cannot be read'),
  ],
)
def test_requests_that_cannot_be(tmp_path, picture, change, message):
  paths = dict(
    image=picture,
    video=clips.write(tmp_path / 'in.mp4', 5),
    audio=clips.write_tone(tmp_path / 'in.wav', 0.2),
  )
  chosen = dict(image=picture, video=paths['video'], output=str(tmp_path / 'out.mp4')) | change
  chosen = {
    name: value.format(**paths) if isinstance(value, str) else value
    for name, value in chosen.items()
  }
  with pytest.raises(MediaError, match=message):
    driven_face.Request(**chosen).check()


def test_no_face_says_which_flag_gives_one(tmp_path, picture):
  video = clips.write(tmp_path / 'in.mp4', 5)
  boxes = given_boxes(tmp_path, 5, missing=range(5))
  with pytest.raises(MediaError, match=r'no box shows 8 pixels[\s\S]*in.mp4[\s\S]*--boxes=F.npy'):
    make(tmp_path, picture, video, box=FACE, boxes=boxes)
  boxes = given_boxes(tmp_path, 5)
  with pytest.raises(MediaError, match=r'no box shows[\s\S]*face.png[\s\S]*--box=x1,y1,x2,y2$'):
    make(tmp_path, picture, video, box=[100, 100, 140, 140], boxes=boxes)
  cv2.imwrite(picture, np.zeros((48, 64, 3), np.uint8))
  blind = driven_face.Request(picture, video, str(tmp_path / 'out.mp4'), boxes=boxes)
  generator = lip_sync.Generator(clips.MAKER, SIZE, Painter(), part='face')
  with pytest.raises(MediaError, match=r'no face was found[\s\S]*give the place with --box=x1'):
    driven_face.drive(
      blind,
      generator,
      load_detector=lambda: lambda frames: [np.zeros((0, 4), np.float32) for _ in frames],
      say=lambda _: None,
    )
  assert not (tmp_path / 'out.mp4').exists()
