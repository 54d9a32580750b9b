import sys

import clips
import numpy as np
import pytest

from tfg_jax import faces, media
from tfg_jax.errors import MediaError, MissingDependencyError

BOX = np.array([20.0, 10, 60, 70])


class Detector:
  """Finds what `truth` {frame: boxes} says, by the number drawn on each frame; counts its looks."""

  def __init__(self, truth):
    self.truth, self.looked = truth, []

  def __call__(self, frames):
    numbers = [clips.number(frame) for frame in frames]
    self.looked += numbers
    return [np.array(self.truth(n), np.float32).reshape(-1, 4) for n in numbers]


def video(count, offset=0):
  return (clips.frame(index + offset, 100, 80) for index in range(count))


def track(boxes, cuts=()):
  boxes = np.array(boxes, float)
  starts = np.zeros(len(boxes), bool)
  starts[[0, *cuts]] = True
  return faces.FaceTrack(boxes, ~np.isnan(boxes[:, 0]), starts)


def row(value):
  return [value, value, value + 40, value + 40]


NONE = [np.nan] * 4


# Looking.


def test_a_face_that_stays_is_looked_at_every_third_frame():
  detector = Detector(lambda _: [BOX])
  sightings = faces.look_for_faces(video(31), detector, every=3, batch=2)
  assert sorted(detector.looked) == list(range(0, 31, 3))
  result = faces.follow_face(sightings, np.arange(31) / 25)
  assert result.found.all() and not result.gaps()
  np.testing.assert_allclose(result.boxes, np.tile(BOX, (31, 1)))
  np.testing.assert_array_equal(np.flatnonzero(result.cuts), [0])


@pytest.mark.parametrize('every', [1, 2, 3, 5])
@pytest.mark.parametrize('batch', [1, 4])
@pytest.mark.parametrize('gap', [(7, 15), (0, 2), (27, 29)])
def test_the_ends_of_a_gap_are_found_to_the_frame(every, batch, gap):
  detector = Detector(lambda n: [] if gap[0] <= n < gap[1] else [BOX])
  sightings = faces.look_for_faces(video(29), detector, every=every, batch=batch)
  result = faces.follow_face(sightings, np.arange(29) / 25)
  assert result.gaps() == [gap]
  assert len(detector.looked) == len(set(detector.looked))  # nothing twice


def test_frames_between_looks_are_interpolated_by_time():
  detector = Detector(lambda n: [BOX + n])
  times = np.array([0.0, 0.01, 0.03, 0.04])
  result = faces.follow_face(faces.look_for_faces(video(4), detector, every=3), times)
  np.testing.assert_allclose(result.boxes[1], BOX + 3 * 0.01 / 0.04, rtol=1e-6)
  np.testing.assert_allclose(result.boxes[2], BOX + 3 * 0.03 / 0.04, rtol=1e-6)


def test_an_empty_video():
  sightings = faces.look_for_faces([], Detector(lambda _: []))
  result = faces.follow_face(sightings, np.zeros(0))
  assert result.boxes.shape == (0, 4) and result.gaps() == []
  assert faces.smooth_boxes(result.boxes, np.zeros(0), result.cuts).shape == (0, 4)


def test_large_frames_are_shrunk_and_boxes_are_in_the_pixels_of_the_frame():
  sizes = []

  def detector(frames):
    sizes.extend(frame.shape for frame in frames)
    return [np.array([[10, 20, 30, 40]], np.float32) for _ in frames]

  big = [np.zeros((1440, 1600, 3), np.uint8)]
  sightings = faces.look_for_faces(big, detector)
  assert sizes == [(720, 800, 3)]
  np.testing.assert_allclose(sightings.faces[0], [[20, 40, 60, 80]])


def test_a_cut_is_seen_and_the_frames_around_it_are_looked_at():
  frames = [np.full((80, 100, 3), 20 if index < 10 else 200, np.uint8) for index in range(20)]
  looks = []

  def detector(batch):
    looks.extend(frame[0, 0, 0] for frame in batch)
    return [BOX[None] if frame[0, 0, 0] < 100 else BOX[None] + [30, 0, 30, 0] for frame in batch]

  sightings = faces.look_for_faces(frames, detector, every=5)
  assert np.flatnonzero(sightings.cuts).tolist() == [0, 10]
  result = faces.follow_face(sightings, np.arange(20) / 25)
  np.testing.assert_allclose(result.boxes[:10], np.tile(BOX, (10, 1)))
  np.testing.assert_allclose(result.boxes[10:, 0], 50)


# Following one person.


def test_the_largest_face_is_followed_though_another_one_becomes_larger():
  sightings = faces.Sightings(
    {i: np.array([[0, 0, 40 - i, 40 - i], [60, 0, 80 + 2 * i, 20 + 2 * i]]) for i in range(20)},
    np.eye(1, 20, dtype=bool)[0],
  )
  result = faces.follow_face(sightings, np.arange(20) / 25)
  np.testing.assert_allclose(result.boxes[:, 2], 40 - np.arange(20))


def test_another_person_is_not_taken_for_one_who_is_away_for_a_moment():
  one, other = [0, 0, 40, 40], [60, 0, 80, 20]
  seen = {i: np.array([other] if 5 <= i < 10 else [one, other]) for i in range(20)}
  sightings = faces.Sightings(seen, np.eye(1, 20, dtype=bool)[0])
  assert faces.follow_face(sightings, np.arange(20) / 25).gaps() == [(5, 10)]
  # After a second the other one is taken.
  result = faces.follow_face(sightings, np.arange(20) / 2)
  assert result.gaps() == [(5, 7)]
  np.testing.assert_allclose(result.boxes[9], other)


# Gaps.


def test_gaps_are_reported_as_stretches():
  assert track([NONE, row(0), NONE, NONE, row(1), NONE]).gaps() == [(0, 1), (2, 4), (5, 6)]


@pytest.mark.parametrize(
  'policy, expected',
  [
    ('keep', [None, 0, None, None, 9, None]),
    ('hold', [0, 0, 0, 0, 9, 9]),
    ('interpolate', [0, 0, 1, 3, 9, 9]),
  ],
)
def test_gap_policies(policy, expected):
  times = np.array([0, 1.0, 2, 4, 10, 11])
  filled = faces.fill_gaps(track([NONE, row(0), NONE, NONE, row(9), NONE]), times, policy)
  np.testing.assert_allclose(filled, [NONE if e is None else row(e) for e in expected])


@pytest.mark.parametrize('policy', ['hold', 'interpolate'])
def test_no_gap_is_filled_over_a_cut(policy):
  given = track([row(0), NONE, NONE, row(8), NONE], cuts=[2, 4])
  filled = faces.fill_gaps(given, np.arange(5.0), policy)
  np.testing.assert_allclose(filled, [row(0), row(0), row(8), row(8), NONE])


def test_an_unknown_policy_is_a_programming_error():
  with pytest.raises(ValueError, match='policy='):
    faces.fill_gaps(track([row(0)]), np.zeros(1), 'guess')


# Smoothing.


def test_smoothing_removes_trembling_and_keeps_motion():
  rng = np.random.default_rng(0)
  times = np.cumsum(rng.uniform(0.02, 0.06, 200))
  clean = np.stack([30 * times, 5 * times, 30 * times + 80, 5 * times + 100], 1)
  noisy = clean + rng.normal(0, 1, clean.shape)
  smooth = faces.smooth_boxes(noisy, times, np.zeros(200, bool))
  assert abs(smooth - clean)[10:-10].mean() < 0.45 * abs(noisy - clean)[10:-10].mean()
  centred = faces.smooth_boxes(clean, times, np.zeros(200, bool))
  np.testing.assert_allclose(centred[10:-10], clean[10:-10], atol=0.6)  # no lag


def test_the_window_is_in_seconds_not_in_frames():
  """The same head at 25 and at 50 frames per second is smoothed alike."""

  def smooth(rate):
    times = np.arange(2 * rate + 1) / rate
    x = 10 * np.sin(2 * np.pi * 2 * times)
    boxes = np.stack([x, x, x + 80, x + 80], 1)
    return faces.smooth_boxes(boxes, times, np.zeros(len(times), bool))

  np.testing.assert_allclose(smooth(50)[::2][5:-5], smooth(25)[5:-5], atol=0.15)


def test_smoothing_does_not_reach_over_cuts_jumps_and_gaps():
  boxes = np.array([row(0)] * 5 + [row(5)] * 5 + [row(100)] * 5 + [NONE] * 2 + [row(90)] * 5)
  cuts = np.zeros(len(boxes), bool)
  cuts[5] = True
  smooth = faces.smooth_boxes(boxes, np.arange(len(boxes)) / 25, cuts)
  np.testing.assert_allclose(smooth, boxes, atol=1e-9)


# Pixels.


def test_boxes_gain_a_chin_and_end_at_the_frame():
  boxes = np.array([[10, 10, 60, 60], [-20, 50, 40, 95], NONE, [96, 0, 120, 40]])
  np.testing.assert_array_equal(
    faces.whole_face_boxes(boxes, 100, 96),
    [[10, 10, 60, 63], [0, 50, 40, 96], [0, 0, 0, 0], [0, 0, 0, 0]],
  )


# Boxes from the user.


def test_a_fixed_box_and_boxes_from_a_file(tmp_path):
  given = faces.fixed_track([1, 2, 30, 40], 3)
  np.testing.assert_array_equal(given.boxes, np.tile([1, 2, 30, 40], (3, 1)))
  np.save(tmp_path / 'boxes.npy', np.array([row(1), NONE, row(3)]))
  loaded = faces.load_track(tmp_path / 'boxes.npy', 3)
  assert loaded.found.tolist() == [True, False, True]
  np.save(tmp_path / 'ints.npy', np.array([[1, 2, 30, 40]]))
  assert faces.load_track(tmp_path / 'ints.npy', 1).found.all()


@pytest.mark.parametrize('box', [[1, 2, 3], [5, 0, 5, 9], [0, 9, 5, 8], [0, 0, np.inf, 3]])
def test_a_box_that_is_none(box):
  with pytest.raises(MediaError, match='is not a box'):
    faces.fixed_track(box, 3, where='--box')


@pytest.mark.parametrize(
  'boxes, message',
  [
    (np.zeros((3, 5)), r'shape \(3, 5\), not \(T, 4\)'),
    (np.zeros((2, 4)), '2 boxes for a video of 3 frames'),
    (np.array([row(1), row(2), [9, 9, 5, 12]]), 'row 2 is'),
    (np.array([row(1), [1, 2, 3, np.nan], row(2)]), 'row 1 is'),
    (np.array([['a'] * 4] * 3), 'not numbers'),
    (np.array([[None] * 4] * 3, object), 'cannot be read'),
  ],
)
def test_boxes_that_do_not_fit(tmp_path, boxes, message):
  np.save(tmp_path / 'boxes.npy', boxes)
  with pytest.raises(MediaError, match=message):
    faces.load_track(tmp_path / 'boxes.npy', 3)


def test_boxes_that_are_not_there(tmp_path):
  with pytest.raises(MediaError, match='cannot be read'):
    faces.load_track(tmp_path / 'none.npy', 3)
  (tmp_path / 'text.npy').write_text('hello')
  with pytest.raises(MediaError, match='cannot be read'):
    faces.load_track(tmp_path / 'text.npy', 3)


# MTCNN.


def test_without_the_package_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'mtcnn', None)
  monkeypatch.setitem(sys.modules, 'tensorflow', type(sys)('tensorflow'))
  with pytest.raises(MissingDependencyError, match=r'finding faces needs.*mtcnn[\s\S]*\[demo\]'):
    faces.mtcnn_detector()


@pytest.mark.end_to_end
def test_mtcnn_finds_a_real_face_at_any_size():
  skimage_data = pytest.importorskip('skimage.data')
  picture = skimage_data.astronaut()  # inside the wheel
  truth = np.array([180, 62, 270, 175])  # by eye
  detect = faces.mtcnn_detector()
  found, nothing = detect([picture, np.zeros_like(picture)])
  assert len(found) == 1 and len(nothing) == 0
  assert faces.overlap(found[0], truth) > 0.7
  # A face of 1/24 of the frame is found by the second, finer look.
  wide = np.full((1080, 1440, 3), 90, np.uint8)
  wide[400:656, 500:756] = picture[::2, ::2]
  (small,) = detect([wide])
  assert faces.overlap(small[0], truth / 2 + [500, 400, 500, 400]) > 0.6
  assert len(detect([picture[:40, :40]])[0]) == 0  # smaller than MTCNN can take


@pytest.mark.end_to_end
def test_a_real_face_is_followed_through_a_clip(tmp_path):
  skimage_data = pytest.importorskip('skimage.data')
  picture = skimage_data.astronaut()
  path = tmp_path / 'clip.mp4'
  with media.VideoWriter(path, 320, 240, 25) as writer:
    for index in range(30):
      x = 100 - 2 * index
      frame = picture[20:260, x : x + 320] if not 10 <= index < 16 else np.zeros_like(picture)
      writer.write(frame[:240, :320])
  with media.VideoReader(path) as reader:
    sightings = faces.look_for_faces(reader.scan(), faces.mtcnn_detector())
    result = faces.follow_face(sightings, reader.times)
  assert result.gaps() == [(10, 16)]
  drift = np.diff(result.boxes[:10, 0]).mean()
  assert drift == pytest.approx(2, abs=0.5)
