"""One clip from raw files to a record: odd media, several faces, given boxes, time and place."""

import av
import clips
import numpy as np
import pytest

from data_prep import clip_maker, listing, speakers
from tfg_jax import errors, faces
from tfg_jax.data import clip_codec, pipeline

TRACK = listing.Framing(crop='track', size=64)
WHOLE = listing.Framing(crop='face', size=48)


@pytest.fixture(autouse=True)
def one_face(monkeypatch):
  """A face in every frame, 24 by 30 pixels; tests replace it."""
  find(monkeypatch, lambda frame: [[20, 10, 44, 40]])


def find(monkeypatch, look):
  def detector(frames):
    return [np.array(look(frame), np.float32).reshape(-1, 4) for frame in frames]

  monkeypatch.setattr(clip_maker, 'face_detector', lambda: detector)


def raw(video, sound=None, **fields):
  sounds = (listing.Sound(str(sound or video)),)
  return listing.RawClip(**{'clip_id': 'x', 'split': 'train', 'video': str(video), 'sounds': sounds}
                         | fields)  # fmt: skip


def pictures_of(clip):
  frames = np.empty((len(clip.frames), clip.height, clip.width, 3), np.uint8)
  pipeline.decode_jpegs(clip.frames, frames, where='here')
  return frames


def numbers_of(clip):
  return [clips.number(picture) for picture in pictures_of(clip)]


def tone_of(clip):
  """Hz of the strongest tone."""
  spectrum = np.abs(np.fft.rfft(clip.wav * np.hanning(len(clip.wav))))
  return np.argmax(spectrum) * 16_000 / len(clip.wav)


# --------------------------------------------------------------------------------------------------
# Time
# --------------------------------------------------------------------------------------------------


def test_pictures_are_taken_by_their_time_at_a_variable_rate(tmp_path):
  times = np.cumsum([0, *[0.04] * 9, *[0.031] * 10, *[0.107] * 4])  # 25, 32 and 9 per second
  video = clips.write(
    tmp_path / 'a.mp4', 24, size=(80, 80), times=times, audio=clips.tone(1.2), options={'crf': '5'}
  )
  clip = clip_maker.make_clip(raw(video), listing.Framing(crop='face', size=80)).clip
  middles = (np.arange(len(clip.frames)) + 0.5) / 25
  assert numbers_of(clip) == (np.searchsorted(times, middles, 'right') - 1).tolist()
  assert len(clip.frames) == round(times[-1] * 25) + 1


@pytest.mark.parametrize('rate, count', [(47, 40), (29, 24), (11, 10)])
def test_any_constant_rate_becomes_25_with_the_sound_in_place(tmp_path, rate, count):
  sound = clips.tone(count / rate + 0.2)
  video = clips.write(
    tmp_path / 'a.mp4', count, rate=rate, size=(80, 80), audio=sound, options={'crf': '5'}
  )
  clip = clip_maker.make_clip(raw(video), listing.Framing(crop='face', size=80)).clip
  shown = np.floor((np.arange(len(clip.frames)) + 0.5) / 25 * rate)
  assert numbers_of(clip) == np.minimum(shown, count - 1).astype(int).tolist()
  assert len(clip.frames) == round((count - 1) / rate * 25) + 1
  assert len(clip.wav) == 640 * len(clip.frames)


def test_a_piece_of_a_long_video_has_its_pictures_and_its_sound(tmp_path):
  sound = np.concatenate([clips.tone(1, hertz=300), clips.tone(1, hertz=900)])
  video = clips.write(tmp_path / 'a.mp4', 50, size=(80, 80), audio=sound, options={'crf': '5'})
  source = raw(video, start=1.013, seconds=0.8, sounds=(listing.Sound(video, 1.013, 0.8),))
  clip = clip_maker.make_clip(source, listing.Framing(crop='face', size=80)).clip
  assert numbers_of(clip) == list(range(25, 45)) and len(clip.wav) == 20 * 640
  assert tone_of(clip) == pytest.approx(900, abs=5)


def test_clips_end_with_their_sound_and_this_is_noted(tmp_path):
  video = clips.write(tmp_path / 'a.mp4', 50, size=(64, 64))
  sound = clips.write_tone(tmp_path / 'a.wav', 1.0)
  made = clip_maker.make_clip(raw(video, sound), WHOLE)
  assert len(made.clip.frames) == 25
  assert made.notes == {'clips cut where their sound ends': 1}


def test_clips_longer_than_allowed_lose_their_text(tmp_path):
  video = clips.write(tmp_path / 'a.mp4', 60, size=(64, 64), audio=clips.tone(2.4))
  framing = listing.Framing(crop='face', size=48, max_seconds=1.0)
  made = clip_maker.make_clip(
    raw(video, text='one two', extras={'word_times': [0.1, 2.0]}), framing
  )
  assert len(made.clip.frames) == 25 and made.clip.text == ''
  assert made.clip.extras == {'source_fps': [25]}
  assert made.notes == {
    'clips cut to --max_seconds': 1,
    'transcripts left out, as the clip is only a part': 1,
  }


@pytest.mark.parametrize(
  ('framing', 'message'),
  [
    (listing.Framing(crop='face', size=48, min_seconds=1.0), r'it lasts 0.40 s; at least 1.0 s'),
    (listing.Framing(crop='face', size=48, frames=29), 'it has 10 frames instead of 29'),
  ],
)
def test_clips_of_the_wrong_length_are_refused(tmp_path, framing, message):
  video = clips.write(tmp_path / 'a.mp4', 10, size=(64, 64), audio=clips.tone(0.4))
  with pytest.raises(errors.DataError, match=message):
    clip_maker.make_clip(raw(video), framing)


# --------------------------------------------------------------------------------------------------
# Odd files
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('subtype', ['PCM_U8', 'FLOAT', 'PCM_24', 'DOUBLE'])
@pytest.mark.parametrize('channels', [1, 2])
def test_wav_of_any_sample_format_is_the_same_sound(tmp_path, subtype, channels):
  video = clips.write(tmp_path / 'a.mp4', 25, size=(64, 64))
  sound = clips.write_tone(tmp_path / 'a.wav', 1.0, 22_050, channels, subtype)
  clip = clip_maker.make_clip(raw(video, sound), WHOLE).clip
  assert clip.wav.dtype == np.int16 and len(clip.wav) == 16_000
  middle = clip.wav[2000:-2000].astype(float)
  np.testing.assert_allclose(np.sqrt(np.mean(middle**2)), 16384 / np.sqrt(2), rtol=0.01)
  assert tone_of(clip) == pytest.approx(440, abs=2)


def test_six_channels_become_one(tmp_path):
  video = clips.write(
    tmp_path / 'a.mp4', 25, size=(64, 64), audio=clips.tone(1.0, 48_000, 6), audio_rate=48_000
  )
  clip = clip_maker.make_clip(raw(video), WHOLE).clip
  assert len(clip.wav) == 16_000 and tone_of(clip) == pytest.approx(440, abs=2)


def test_a_video_held_upright_is_turned(tmp_path, monkeypatch):
  seen = []
  find(monkeypatch, lambda frame: seen.append(frame.shape) or [[10, 20, 30, 44]])
  video = clips.write(
    tmp_path / 'a.mp4', 10, size=(96, 64), rotation=90, audio=clips.tone(0.4), container='mp4'
  )
  clip = clip_maker.make_clip(raw(video), TRACK).clip
  assert set(seen) == {(96, 64, 3)} and len(clip.frames) == 10


def test_names_need_not_be_ascii(tmp_path):
  video = clips.write(tmp_path / 'ä 中文 🎬.mp4', 10, size=(64, 64), audio=clips.tone(0.4))
  clip = clip_maker.make_clip(raw(video, clip_id='ä 中文 🎬', speaker='Zoë'), WHOLE).clip
  again = clip_codec.decode(clip_codec.encode(clip))
  assert (again.clip_id, again.speaker) == ('ä 中文 🎬', 'Zoë')


def broken(kind, path):
  if kind == 'missing':
    return path
  if kind == 'empty':
    path.touch()
  elif kind == 'text':
    path.write_text('this is no video')
  elif kind == 'silent':
    clips.write(path, 10, size=(64, 64))
  elif kind == 'blind':
    clips.write(path, audio=clips.tone(0.4))
  elif kind == 'zero length':
    with av.open(str(path), 'w') as output:
      stream = output.add_stream('libx264', rate=25)
      stream.width = stream.height = 64
      output.add_stream('aac', rate=16_000, layout='mono')
      output.start_encoding()
  else:
    clips.write(path, 60, size=(64, 64), audio=clips.tone(2.4), options={'g': '10'})
    data = bytearray(path.read_bytes())
    if kind == 'cut off':
      path.write_bytes(data[: len(data) // 2])
    else:  # the index at the end stays whole
      start = data.index(b'mdat')
      noise = np.random.default_rng(0).integers(0, 256, 3000, np.uint8).tobytes()
      data[start + 500 : start + 500 + len(noise)] = noise
      path.write_bytes(data)
  return path


@pytest.mark.parametrize(
  ('kind', 'message'),
  [
    ('missing', 'the file does not exist'),
    ('empty', 'the file is empty'),
    ('text', 'this is not a media file'),
    ('silent', 'the file has no audio stream'),
    ('blind', 'the file has no video stream'),
    ('zero length', 'no (frames|samples|audio stream)|not a media file'),
    ('cut off', 'this is not a media file'),
    ('damaged', 'damaged after|decodes differently|no samples'),
  ],
)
def test_broken_files_say_what_is_wrong(tmp_path, kind, message):
  path = broken(kind, tmp_path / 'a.mp4')
  with pytest.raises(errors.MediaError, match=message):
    clip_maker.make_clip(raw(path), WHOLE)


def test_pictures_that_are_not_square_are_not_squeezed(tmp_path):
  video = clips.write(tmp_path / 'a.mp4', 10, size=(96, 64), audio=clips.tone(0.4))
  with pytest.raises(errors.DataError, match='its picture of 96x64 is not square(?s:.)*--crop'):
    clip_maker.make_clip(raw(video), WHOLE)


# --------------------------------------------------------------------------------------------------
# Faces
# --------------------------------------------------------------------------------------------------


def film(path, pictures, sound, aspect=1):
  """Writes RGB uint8 (H, W, 3) pictures at 25 per second with int16 (N, 1) sound at 16 kHz."""
  with av.open(str(path), 'w') as output:
    stream = output.add_stream('libx264', rate=25, options={'crf': '5'})
    stream.height, stream.width = pictures[0].shape[:2]
    stream.codec_context.sample_aspect_ratio = aspect
    track = output.add_stream('aac', rate=16_000, layout='mono')
    for picture in pictures:
      output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
    frame = av.AudioFrame.from_ndarray(sound.reshape(1, -1), format='s16', layout='mono')
    frame.sample_rate = 16_000
    output.mux(track.encode(frame))
    output.mux(track.encode(None))
    output.mux(stream.encode(None))
  return str(path)


def dot_video(path, places, aspect=1):
  """A white dot of 6 pixels on grey at each of `places`, (x, y) of its centre."""
  pictures = []
  for x, y in places:
    picture = np.full((96, 128, 3), 90, np.uint8)
    picture[y - 3 : y + 3, x - 3 : x + 3] = 255
    pictures.append(picture)
  return film(path, pictures, clips.tone(len(places) / 25), aspect)


def around(places):
  """A detector that knows the dot: a face of 24 by 32 pixels around it."""

  def look(frame):
    rows, columns = np.nonzero(frame[..., 1] > 180)
    x, y = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
    return [[x - 12, y - 16, x + 12, y + 16]]

  return look


def test_the_square_goes_with_the_face(tmp_path, monkeypatch):
  places = [(40 + i, 48) for i in range(40)]
  find(monkeypatch, around(places))
  clip = clip_maker.make_clip(raw(dot_video(tmp_path / 'a.mp4', places)), TRACK).clip
  # A side of 1.6 * 32 = 51.2 pixels becomes 64: the face is 30 by 40 and stays in the middle.
  centres = (clip.boxes[:, :2] + clip.boxes[:, 2:]) / 2
  np.testing.assert_allclose(centres[15:25, 0], 32, atol=1)
  np.testing.assert_allclose(clip.boxes[15:25, 1], 12, atol=1)
  widths = clip.boxes[:, 2:] - clip.boxes[:, :2]
  np.testing.assert_allclose(widths[20], [30, 40 * 1.06], atol=1)
  for picture, box in zip(pictures_of(clip)[::5], clip.boxes[::5], strict=True):
    rows, columns = np.nonzero(picture[..., 1] > 180)
    assert abs(columns.mean() + 0.5 - (box[0] + box[2]) / 2) < 1
    assert abs(rows.mean() + 0.5 - (box[1] + (box[3] - box[1]) / 2.12)) < 1.5


def test_pixels_that_are_not_square_are_evened_out(tmp_path, monkeypatch):
  places = [(64, 48)] * 10
  find(monkeypatch, around(places))
  path = dot_video(tmp_path / 'a.mp4', places, aspect=2)
  picture = pictures_of(clip_maker.make_clip(raw(path), TRACK).clip)[5]
  rows, columns = np.nonzero(picture[..., 1] > 180)
  # The face of 48 by 32 upright pixels: 76.8 become 64, so the dot of 12 by 6 is 10 by 5.
  assert abs(np.ptp(columns) + 1 - 10) <= 1 and abs(np.ptp(rows) + 1 - 5) <= 1


def test_one_square_can_stand_still(tmp_path, monkeypatch):
  places = [(50 + i % 3, 48) for i in range(20)]
  find(monkeypatch, around(places))
  framing = listing.Framing(crop='square', size=64)
  clip = clip_maker.make_clip(raw(dot_video(tmp_path / 'a.mp4', places)), framing).clip
  dots = [np.nonzero(picture[..., 1] > 180)[1].mean() for picture in pictures_of(clip)]
  assert np.ptp(dots) > 1.5


def test_boxes_of_the_corpus_are_used_as_they_are(tmp_path, monkeypatch):
  find(monkeypatch, lambda frame: pytest.fail('faces were sought'))
  video = clips.write(tmp_path / 'a.mp4', 10, size=(64, 64), audio=clips.tone(0.4))
  boxes = np.array([[10 + i, 12, 40 + i, 50] for i in range(10)])
  np.save(tmp_path / 'a.npy', boxes)
  framing = listing.Framing(crop='none', size=64)
  clip = clip_maker.make_clip(raw(video, boxes=str(tmp_path / 'a.npy')), framing).clip
  np.testing.assert_array_equal(clip.boxes, boxes)
  assert numbers_of(clip) == list(range(10))
  half = clip_maker.make_clip(
    raw(video, boxes=str(tmp_path / 'a.npy')), listing.Framing(crop='none', size=32)
  )
  np.testing.assert_allclose(half.clip.boxes, boxes / 2, atol=0.5)
  track = clip_maker.make_clip(raw(video, boxes=str(tmp_path / 'a.npy')), TRACK).clip
  np.testing.assert_allclose(track.boxes[:, 3] - track.boxes[:, 1], 40, atol=1)  # 64 / 1.6


@pytest.mark.parametrize(
  ('boxes', 'message'),
  [
    (np.ones((3, 4)) * [0, 0, 9, 9], '3 boxes for a video of 10 frames or more'),
    (np.full((10, 4), np.nan), 'the boxes given are all empty'),
  ],
)
def test_boxes_that_do_not_fit_are_refused(tmp_path, boxes, message):
  video = clips.write(tmp_path / 'a.mp4', 10, size=(64, 64), audio=clips.tone(0.4))
  np.save(tmp_path / 'a.npy', boxes)
  with pytest.raises(errors.DataError, match=message):
    clip_maker.make_clip(raw(video, boxes=str(tmp_path / 'a.npy')), TRACK)


def test_a_clip_without_a_face_says_so(tmp_path, monkeypatch):
  find(monkeypatch, lambda frame: [])
  video = clips.write(tmp_path / 'a.mp4', 10, size=(64, 64), audio=clips.tone(0.4))
  for crop in ('track', 'square', 'none'):
    with pytest.raises(errors.DataError, match='no face was found'):
      clip_maker.make_clip(raw(video), listing.Framing(crop=crop, size=64))
  find(monkeypatch, lambda frame: [[20, 10, 44, 40]] if clips.number(frame) in (3, 4) else [])
  with pytest.raises(errors.DataError, match='no face is seen for 0.2 s on end'):
    clip_maker.make_clip(raw(video), TRACK)


def test_a_shot_without_a_face_is_no_use_where_the_corpus_promises_one(tmp_path, monkeypatch):
  find(monkeypatch, lambda frame: [[20, 10, 44, 40]] if frame.mean() < 120 else [])
  pictures = [np.full((64, 64, 3), grey, np.uint8) for grey in [60] * 10 + [200] * 10]
  path = film(tmp_path / 'a.mp4', pictures, clips.tone(0.8))
  for crop in ('square', 'none'):
    with pytest.raises(errors.DataError, match='a shot of it shows no face'):
      clip_maker.make_clip(raw(path), listing.Framing(crop=crop, size=64))
  made = clip_maker.make_clip(raw(path), TRACK)
  assert len(made.clip.frames) == 10 and made.notes == {'clips cut to where that face is': 1}


def test_a_clip_is_cut_to_where_the_face_is(tmp_path, monkeypatch):
  seen = range(20, 50)
  find(monkeypatch, lambda frame: [[20, 10, 44, 40]] if clips.number(frame) in seen else [])
  sound = np.concatenate([clips.tone(0.8, hertz=300), clips.tone(1.2, hertz=900)])
  video = clips.write(tmp_path / 'a.mp4', 50, size=(64, 64), audio=sound, options={'crf': '5'})
  made = clip_maker.make_clip(raw(video, text='ab'), TRACK)
  assert len(made.clip.frames) == 30 and made.clip.text == ''
  assert tone_of(made.clip) == pytest.approx(900, abs=5)
  assert made.notes == {
    'clips cut to where that face is': 1,
    'transcripts left out, as the clip is only a part': 1,
  }


def test_of_two_faces_the_one_that_moves_with_the_sound_is_kept(tmp_path, monkeypatch):
  two = talkers(tmp_path / 'a.mp4', speaks=1)
  find(monkeypatch, lambda frame: [[10, 20, 58, 80], [80, 20, 120, 70]])  # the listener is larger
  made = clip_maker.make_clip(raw(two), listing.Framing(crop='track', size=64))
  assert made.notes == {'faces and shots beside the one kept': 1}
  assert np.mean(pictures_of(made.clip)[..., 2]) > np.mean(pictures_of(made.clip)[..., 0])  # blue
  two = talkers(tmp_path / 'b.mp4', speaks=0)
  made = clip_maker.make_clip(raw(two), listing.Framing(crop='track', size=64))
  assert np.mean(pictures_of(made.clip)[..., 2]) < np.mean(pictures_of(made.clip)[..., 0])  # red


def talkers(path, speaks, count=50):
  """A red face on the left and a blue one on the right; one moves its mouth with the sound."""
  rng = np.random.default_rng(5)
  loud, idle = np.repeat(rng.random((2, count // 5)), 5, axis=1)
  faces_there = [((10, 20, 58, 80), (200, 60, 60)), ((80, 20, 120, 70), (60, 60, 200))]
  pictures = []
  for i in range(count):
    picture = np.full((96, 128, 3), 90, np.uint8)
    for number, ((x1, y1, x2, y2), skin) in enumerate(faces_there):
      picture[y1:y2, x1:x2] = skin
      strength = loud[i] if number == speaks else idle[i]
      half = 1 + round(6 * strength * abs(np.sin(i * 1.3)))
      y, x = y1 + int(0.8 * (y2 - y1)), (x1 + x2) // 2
      picture[y - half : y + half, x - 8 : x + 8] = 20
    pictures.append(picture)
  sound = clips.tone(count / 25)[:, 0] * np.repeat(loud, 640)
  return film(path, pictures, sound.astype(np.int16))


# --------------------------------------------------------------------------------------------------
# Tracks and speakers
# --------------------------------------------------------------------------------------------------


def sightings(seen, count, cuts=()):
  starts = np.zeros(count, bool)
  starts[[0, *cuts]] = True
  boxes = {i: np.array(faces, np.float32).reshape(-1, 4) for i, faces in seen.items()}
  return faces.Sightings(boxes, starts)


def test_faces_that_pass_each_other_keep_their_tracks():
  seen = {i: [[i, 0, 20 + i, 20], [60 - i, 30, 80 - i, 50]] for i in range(0, 31, 3)}
  tracks = speakers.face_tracks(sightings(seen, 31), np.arange(31) / 25)
  assert [(track.start, track.stop) for track in tracks] == [(0, 31), (0, 31)]
  np.testing.assert_allclose(tracks[0].boxes[:, 0], np.arange(31), atol=1e-4)
  np.testing.assert_allclose(tracks[1].boxes[:, 0], 60 - np.arange(31), atol=1e-4)


def test_tracks_end_at_cuts_and_after_a_second_without_the_face():
  box = [[0, 0, 20, 20]]
  seen = {i: box for i in range(0, 20)} | {i: [] for i in range(20, 40)}
  seen |= {i: box for i in range(40, 60)}  # away for 0.8 s
  times = np.arange(60) / 25
  spans = [(t.start, t.stop) for t in speakers.face_tracks(sightings(seen, 60), times)]
  assert spans == [(0, 60)]
  spans = [(t.start, t.stop) for t in speakers.face_tracks(sightings(seen, 60), times * 2)]
  assert spans == [(0, 20), (40, 60)]
  spans = [(t.start, t.stop) for t in speakers.face_tracks(sightings(seen, 60, (10,)), times)]
  assert spans == [(0, 10), (10, 60)]


def test_agreement_is_surer_the_longer_it_lasts_and_allows_a_shift():
  rng = np.random.default_rng(0)
  sound = rng.random(200)
  assert speakers.agreement(sound[2:], sound[:-2]) > 100
  noisy = sound + rng.random(200)
  assert speakers.agreement(noisy, sound) > 1.5 * speakers.agreement(noisy[:50], sound[:50])
  assert speakers.agreement(rng.random(200), sound) < 4
  assert speakers.agreement(np.zeros(9), np.ones(9)) == 0


def test_the_level_of_sound_is_that_during_each_frame():
  wav = np.repeat([0, 10_000, 0, 0, 0, 0, 0, 0], 640).astype(np.int16)
  level = speakers.sound_level(wav, np.arange(10) / 25)
  # The moving average over five frames, three at the ends; beyond the sound it is silent.
  np.testing.assert_allclose(level[:5], np.array([1 / 3, 1 / 4, 1 / 5, 1 / 5, 0]) * 100)
  assert level.shape == (10,) and not level[4:].any()
