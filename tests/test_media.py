import os
import pathlib
from fractions import Fraction

import av
import clips
import cv2
import numpy as np
import pytest
import soundfile
from PIL import Image, PngImagePlugin

from tfg_jax import media
from tfg_jax.errors import MediaError
from tfg_jax.media import containers, sound

CONTAINERS = {
  'one_key_frame.mp4': {},
  'b_frames.mkv': dict(options={'g': '12', 'bf': '3'}),
  'open_gop.mp4': dict(options={'x264-params': 'open-gop=1:keyint=12:bframes=3'}),
  'transport.ts': dict(options={'g': '10'}, container='mpegts'),
  'shifted_timestamps.mpg': dict(codec='mpeg1video', container='mpeg', options={'bf': '2'}),
  'mpeg4.avi': dict(codec='mpeg4', options={'g': '10'}),
  'vp8.webm': dict(codec='libvpx', options={'g': '10'}),
  'no_timestamps.h264': dict(container='h264', options={'g': '10'}),
  'every_frame_a_key.mov': dict(codec='mjpeg', pixels='yuvj420p'),
}


def numbers(frames):
  return [clips.number(frame) for frame in frames]


# Reading video.


@pytest.mark.parametrize('name', CONTAINERS)
def test_frames_at_random_are_the_frames_in_order(tmp_path, name):
  path = clips.write(tmp_path / name, 40, **CONTAINERS[name])
  with media.VideoReader(path) as reader:
    straight = list(reader.scan())
    assert numbers(straight) == list(range(40))
    for start, stop in [(30, 34), (33, 36), (36, 40), (5, 9), (8, 8), (14, 16), (39, 40), (0, 40)]:
      part = list(reader.frames(start, stop))
      assert len(part) == stop - start
      for ours, expected in zip(part, straight[start:stop], strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(
  'rate', [Fraction(24), Fraction(25), Fraction(1267, 50), Fraction(30_000, 1001), Fraction(5)]
)
@pytest.mark.parametrize('suffix', ['.mp4', '.mkv'])
def test_times_and_rate_of_a_constant_rate(tmp_path, rate, suffix):
  path = clips.write(tmp_path / f'clip{suffix}', 30, rate=rate)
  with media.VideoReader(path) as reader:
    np.testing.assert_allclose(reader.times, np.arange(30) / float(rate), atol=1e-3)
    assert float(reader.rate) == pytest.approx(float(rate), rel=2e-3)
    assert len(reader) == 30


def test_times_of_a_variable_rate_are_kept_and_the_rate_is_measured(tmp_path):
  times = np.cumsum([0.0] + [0.02, 0.1, 0.04] * 9)
  path = clips.write(tmp_path / 'phone.mkv', len(times), times=times, rate=1000)
  with media.VideoReader(path) as reader:
    np.testing.assert_allclose(reader.times, times, atol=1.5e-3)
    assert float(reader.rate) == pytest.approx((len(times) - 1) / times[-1], rel=1e-3)
    assert numbers(reader.frames(3, 9)) == [3, 4, 5, 6, 7, 8]


def test_a_declared_rate_near_the_measured_one_is_kept(tmp_path, monkeypatch):
  path = clips.write(tmp_path / 'clip.mp4', 75)
  with media.VideoReader(path) as reader:
    monkeypatch.setattr(reader, '_declared_rate', Fraction(1875, 74))  # an edit list: 25.34
    assert reader.rate == Fraction(1875, 74)
    monkeypatch.setattr(reader, '_declared_rate', Fraction(1000))
    assert reader.rate == 25


@pytest.mark.parametrize('degrees', [90, 180, 270])
def test_rotation_is_applied(tmp_path, degrees):
  plain = clips.write(tmp_path / 'plain.mp4', 2, size=(64, 32))
  turned = clips.write(tmp_path / 'turned.mp4', 2, size=(64, 32), rotation=degrees)
  with media.VideoReader(plain) as reader:
    expected = np.rot90(next(reader.frames(1, 2)), degrees // 90)
  with media.VideoReader(turned) as reader:
    assert (reader.height, reader.width) == expected.shape[:2]
    np.testing.assert_array_equal(next(reader.frames(1, 2)), expected)
  assert media.probe(turned).height == expected.shape[0]


def test_an_image_is_a_video_of_one_frame(tmp_path):
  path = str(tmp_path / 'face.png')
  cv2.imwrite(path, clips.frame(5, 63, 47)[..., ::-1])
  info = media.probe(path)
  assert info.is_image and info.has_video and not info.has_audio
  np.testing.assert_array_equal(media.read_image(path), clips.frame(5, 63, 47))
  with media.VideoReader(path) as reader:
    assert len(reader) == 1 and reader.rate == 25


@pytest.mark.parametrize('orientation, turns', [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_photograph_is_turned_as_its_exif_says(tmp_path, orientation, turns):
  jpeg = cv2.imencode('.jpg', clips.frame(5, 64, 32)[..., ::-1])[1].tobytes()
  entry = b'\x01\x12\0\x03\0\0\0\x01' + bytes([0, orientation, 0, 0])  # one SHORT, tag 0x0112
  exif = b'Exif\0\0MM\0*\0\0\0\x08' + b'\0\x01' + entry + bytes(4)
  path = tmp_path / 'photo.jpg'
  path.write_bytes(jpeg[:2] + b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif + jpeg[2:])
  expected = np.rot90(clips.frame(5, 64, 32), turns).astype(int)
  np.testing.assert_allclose(media.read_image(path).mean(), expected.mean(), atol=2)
  assert abs(media.read_image(path) - expected).mean() < 8


def test_only_the_seconds_asked_for_are_read(tmp_path):
  path = clips.write(tmp_path / 'clip.mp4', 50)
  with media.VideoReader(path, seconds=0.5) as reader:
    assert len(reader) == 13 and numbers(reader.scan()) == list(range(13))
    assert numbers(reader.frames(4, 6)) == [4, 5]


def test_frames_beyond_the_end_are_refused(tmp_path):
  path = clips.write(tmp_path / 'clip.mp4', 3)
  with media.VideoReader(path) as reader, pytest.raises(IndexError, match='frames 2..4 of 3'):
    next(reader.frames(2, 4))


def test_probe_reports_both_streams(tmp_path):
  path = clips.write(
    tmp_path / 'clip.mp4', 50, audio=clips.tone(2, 44_100, 2), audio_rate=44_100, size=(80, 48)
  )
  info = media.probe(path)
  assert (info.width, info.height, info.rate) == (80, 48, 25)
  assert (info.audio_rate, info.audio_channels) == (44_100, 2)
  assert info.duration == pytest.approx(2, abs=0.03)
  assert info.has_video and info.has_audio and not info.is_image


# Reading audio.


def test_16_bit_mono_at_the_asked_rate_is_read_bit_for_bit(tmp_path):
  wave = np.random.default_rng(0).integers(-32768, 32768, 5000, dtype=np.int16)
  soundfile.write(tmp_path / 'a.wav', wave, 16_000, subtype='PCM_16')
  read = media.read_audio(tmp_path / 'a.wav')
  assert read.dtype == np.int16
  np.testing.assert_array_equal(read, wave)


@pytest.mark.parametrize('rate', [8_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize('channels', [1, 2])
def test_other_rates_are_resampled_in_place(tmp_path, rate, channels):
  soundfile.write(tmp_path / 'a.wav', clips.tone(1.5, rate, channels), rate)
  read = media.read_audio(tmp_path / 'a.wav')
  expected = clips.tone(1.5)[:, 0]
  assert abs(len(read) - len(expected)) <= 1
  middle = slice(1000, 23_000)  # away from the ends, where the filter rings
  np.testing.assert_allclose(read[middle], expected[middle], atol=40)


@pytest.mark.parametrize('subtype', ['PCM_U8', 'PCM_16', 'PCM_24', 'PCM_32', 'FLOAT', 'DOUBLE'])
def test_sample_formats(tmp_path, subtype):
  wave = clips.tone(0.5)[:, 0] / 32768
  soundfile.write(tmp_path / 'a.wav', wave, 16_000, subtype=subtype)
  atol = 300 if subtype == 'PCM_U8' else 1
  np.testing.assert_allclose(media.read_audio(tmp_path / 'a.wav'), wave * 32768, atol=atol)


def test_loud_float_audio_is_clipped_not_wrapped(tmp_path):
  soundfile.write(tmp_path / 'a.wav', np.full(500, 2.5), 16_000, subtype='FLOAT')
  assert (media.read_audio(tmp_path / 'a.wav') == 32767).all()


def test_stereo_is_averaged(tmp_path):
  both = np.stack([np.full(800, 1000), np.full(800, -400)], 1).astype(np.int16)
  soundfile.write(tmp_path / 'a.wav', both, 16_000)
  assert (media.read_audio(tmp_path / 'a.wav') == 300).all()
  np.testing.assert_array_equal(
    np.concatenate(list(media.stream_audio(tmp_path / 'a.wav', mono=False))), both
  )


def test_surround_becomes_one_channel(tmp_path):
  soundfile.write(tmp_path / 'a.wav', clips.tone(0.2, channels=6), 16_000)
  blocks = list(media.stream_audio(tmp_path / 'a.wav', mono=False))
  assert {block.shape[1] for block in blocks} == {1}


@pytest.mark.parametrize('start', [0.0, 0.5])
def test_sound_of_a_video_keeps_its_place(tmp_path, start):
  path = clips.write(
    tmp_path / 'clip.mkv', 50, audio=clips.tone(1), audio_start=start, audio_codec='pcm_s16le'
  )
  wave = media.read_audio(path)
  first = np.flatnonzero(abs(wave) > 1000)[0]
  assert first / 16_000 == pytest.approx(start, abs=2e-3)
  assert len(wave) / 16_000 == pytest.approx(start + 1, abs=2e-3)


def test_sound_before_the_first_picture_is_cut(tmp_path):
  path = clips.write(
    tmp_path / 'clip.mkv',
    25,
    times=np.arange(25) / 25 + 0.4,
    audio=clips.tone(1),
    audio_codec='pcm_s16le',
  )
  assert len(media.read_audio(path)) / 16_000 == pytest.approx(0.6, abs=2e-3)


@pytest.mark.parametrize(
  'second, silence, dropped',
  [(1.5, 8000, 0), (1.02, 0, 0), (0.8, 0, 3200)],
  ids=['lost sound', 'rounding', 'sound twice'],
)
def test_sound_is_put_where_its_timestamps_say(tmp_path, second, silence, dropped):
  path = tmp_path / 'gap.mkv'
  with av.open(str(path), 'w') as output:
    sound = output.add_stream('pcm_s16le', rate=16_000, layout='mono')
    for start in (0.0, second):
      block = np.full((1, 16_000), 5000, np.int16)
      piece = av.AudioFrame.from_ndarray(block, format='s16', layout='mono')
      piece.sample_rate, piece.pts = 16_000, round(start * 16_000)
      piece.time_base = Fraction(1, 16_000)
      output.mux(sound.encode(piece))
    output.mux(sound.encode(None))
  wave = media.read_audio(path)
  assert len(wave) == 32_000 + silence - dropped
  assert (wave == 5000).sum() == 32_000 - dropped
  assert not wave[16_000 : 16_000 + silence].any()


def test_a_clock_that_is_set_back_loses_no_sound(tmp_path):
  """Transport streams may be joined: the second begins at its own time."""
  parts = [
    clips.write(
      tmp_path / f'{start}.ts', audio=clips.tone(2), audio_start=start, container='mpegts'
    )
    for start in (30.0, 0.0)
  ]
  both = tmp_path / 'both.ts'
  both.write_bytes(b''.join(pathlib.Path(part).read_bytes() for part in parts))
  wave = media.read_audio(both)
  assert len(wave) == pytest.approx(4 * 16_000, abs=4 * 1024)  # priming and padding of AAC
  assert abs(wave[-8000:-2000]).max() > 10_000


def test_a_damaged_stretch_of_sound_is_silence_and_said(tmp_path, caplog):
  path = clips.write(tmp_path / 'a.mkv', audio=clips.tone(3), audio_codec='flac')
  with av.open(path) as container:
    packets = [(p.pos, p.size) for p in container.demux(audio=0) if p.size]
  position, size = packets[4]
  with open(path, 'r+b') as file:
    file.seek(position + 8)
    file.write(bytes(size - 8))
  with caplog.at_level('WARNING', logger='absl'):
    wave = media.read_audio(path)
  assert '1 audio packets could not be decoded' in caplog.text
  assert len(wave) == pytest.approx(48_000, abs=100)
  lost = slice(4 * 1152 + 100, 5 * 1152 - 100)  # packets of 1152 samples
  assert not wave[lost].any() and abs(wave[5 * 1152 :]).max() > 10_000


def test_the_cover_of_a_song_is_not_a_video(tmp_path):
  song = clips.write(tmp_path / 'song.mp3', audio=clips.tone(1), audio_codec='libmp3lame')
  picture = cv2.imencode('.jpg', clips.frame(0))[1].tobytes()
  content = b'\0image/jpeg\0\x03\0' + picture  # an ID3v2.3 APIC frame: text coding, type, cover
  tag = b'APIC' + len(content).to_bytes(4, 'big') + b'\0\0' + content
  size = bytes(len(tag) >> shift & 127 for shift in (21, 14, 7, 0))
  path = tmp_path / 'cover.mp3'
  path.write_bytes(b'ID3\x03\0\0' + size + tag + pathlib.Path(song).read_bytes())
  with av.open(str(path)) as container:
    assert len(container.streams.video) == 1
  assert not media.probe(path).has_video
  with pytest.raises(MediaError, match='no video stream'):
    media.VideoReader(path)
  assert len(media.read_audio(path)) == pytest.approx(16_000, abs=2500)


# Bad input.


def test_a_missing_file(tmp_path):
  with pytest.raises(MediaError, match='does not exist'):
    media.probe(tmp_path / 'nothing.mp4')


def test_a_folder(tmp_path):
  with pytest.raises(MediaError, match='a folder, not a media file'):
    media.probe(tmp_path)


def test_an_empty_file(tmp_path):
  (tmp_path / 'a.mp4').touch()
  with pytest.raises(MediaError, match=r'empty \(0 bytes\)'):
    media.probe(tmp_path / 'a.mp4')


def test_a_file_that_is_not_media(tmp_path):
  (tmp_path / 'a.mp4').write_bytes(bytes(range(256)) * 20)
  with pytest.raises(MediaError, match='not a media file that FFmpeg can read'):
    media.probe(tmp_path / 'a.mp4')


def test_a_text_file(tmp_path):
  (tmp_path / 'a.txt').write_text('hello, this is a letter\n' * 100)
  with pytest.raises(MediaError, match='text file'):
    media.probe(tmp_path / 'a.txt')


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise PermissionError(13, 'Permission denied')

  (tmp_path / 'a.mp4').write_bytes(b'x')
  monkeypatch.setattr(av, 'open', refuse)
  with pytest.raises(MediaError, match='permission denied'):
    media.probe(tmp_path / 'a.mp4')


def test_subtitles_have_neither_sound_nor_pictures(tmp_path):
  (tmp_path / 'a.srt').write_text('1\n00:00:01,000 --> 00:00:02,000\nHello\n\n')
  with pytest.raises(MediaError, match='neither a video nor an audio stream'):
    media.probe(tmp_path / 'a.srt')


def test_a_video_without_sound(tmp_path):
  with pytest.raises(MediaError, match='no audio stream'):
    media.read_audio(clips.write(tmp_path / 'clip.mp4', 3))


def test_audio_without_samples(tmp_path):
  soundfile.write(tmp_path / 'a.wav', np.zeros(0, np.int16), 16_000)
  with pytest.raises(MediaError, match='no samples'):
    media.read_audio(tmp_path / 'a.wav')


def test_audio_that_is_not_a_number(tmp_path):
  soundfile.write(tmp_path / 'a.wav', np.full(100, np.nan), 16_000, subtype='FLOAT')
  with pytest.raises(MediaError, match='not finite numbers'):
    media.read_audio(tmp_path / 'a.wav')


def test_audio_beyond_the_limit(tmp_path, monkeypatch):
  monkeypatch.setattr(sound, 'MAX_AUDIO_HOURS', 1 / 3600)
  soundfile.write(tmp_path / 'a.wav', clips.tone(1.5), 16_000)
  with pytest.raises(MediaError, match='longer than'):
    media.read_audio(tmp_path / 'a.wav')


def test_audio_that_jumps_beyond_the_limit(tmp_path, monkeypatch):
  monkeypatch.setattr(sound, 'MAX_AUDIO_HOURS', 1 / 3600)
  path = clips.write(
    tmp_path / 'a.mkv', 3, audio=clips.tone(0.5), audio_start=30, audio_codec='pcm_s16le'
  )
  with pytest.raises(MediaError, match='jumps ahead by 30 s'):
    media.read_audio(path)


def test_audio_that_changes_its_rate(tmp_path):
  """Two MPEG layer II streams of different rates, one after the other, as radio recordings have."""
  first = clips.write(
    tmp_path / '1.mp2', audio=clips.tone(0.5, 32_000), audio_rate=32_000, audio_codec='mp2'
  )
  second = clips.write(
    tmp_path / '2.mp2', audio=clips.tone(0.5, 48_000), audio_rate=48_000, audio_codec='mp2'
  )
  both = tmp_path / 'both.mp2'
  both.write_bytes(pathlib.Path(first).read_bytes() + pathlib.Path(second).read_bytes())
  with pytest.raises(MediaError, match='changes from .* Hz, 1 channels to'):
    media.read_audio(both)


def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
  path = str(tmp_path / 'huge.png')
  cv2.imwrite(path, np.zeros((100, 200, 3), np.uint8))
  monkeypatch.setattr(containers, 'MAX_SIDE', 64)
  with pytest.raises(MediaError, match='at most 64x64 pixels'):
    media.probe(path)
  clip = clips.write(tmp_path / 'clip.mp4', 2, size=(96, 32))
  with pytest.raises(MediaError, match='is declared 96x32'):
    media.probe(clip)


def test_a_truncated_video_is_found_on_the_first_pass(tmp_path):
  path = clips.write(tmp_path / 'clip.mp4', 60, options={'crf': '0', 'g': '5'}, size=(320, 240))
  with av.open(path) as container:
    packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
  position, size = packets[30]
  with open(path, 'r+b') as file:  # the header at the end stays
    file.seek(position)
    file.write(b'\xff' * size)
  with media.VideoReader(path) as reader, pytest.raises(MediaError, match='damaged after 1.'):
    reader.times  # noqa: B018


def test_a_picture_that_changes_its_size(tmp_path):
  parts = [
    clips.write(tmp_path / f'{width}.h264', 5, size=(width, 48), container='h264')
    for width in (64, 96)
  ]
  both = tmp_path / 'both.h264'
  both.write_bytes(b''.join(pathlib.Path(part).read_bytes() for part in parts))
  with media.VideoReader(both) as reader, pytest.raises(MediaError, match='from 64x48 to 96x48'):
    list(reader.scan())


def test_timestamps_too_close_to_be_true(tmp_path):
  path = clips.write(tmp_path / 'a.mkv', 20, times=np.arange(20) / 1000, rate=1000)
  with media.VideoReader(path) as reader, pytest.raises(MediaError, match='1000 frames per second'):
    reader.rate  # noqa: B018


def test_a_file_that_changes_between_passes(tmp_path):
  path = clips.write(tmp_path / 'a.mp4', 20)
  with media.VideoReader(path) as reader:
    assert len(reader) == 20
    clips.write(path, 10)
    with pytest.raises(MediaError, match='decodes differently the second time'):
      list(reader.frames(12, 14))


# Writing.


def read_back(path):
  with av.open(str(path)) as container:
    video = container.streams.video[0]
    audio = container.streams.audio[0] if container.streams.audio else None
    return dict(
      duration=container.duration / 1e6,
      rate=video.average_rate,
      frames=video.frames,
      size=(video.width, video.height),
      codec=video.codec_context.name,
      pixels=video.codec_context.pix_fmt,
      aspect=video.sample_aspect_ratio,
      comment=container.metadata.get('comment'),
      audio=audio and (audio.codec_context.name, audio.rate, audio.channels),
      audio_duration=audio and float(audio.duration * audio.time_base),
    )


@pytest.mark.parametrize(
  'rate',
  [Fraction(24), Fraction(25), Fraction(1267, 50), Fraction(1875, 74), Fraction(30_000, 1001)],
)
def test_what_is_written_is_read_back(tmp_path, rate):
  path = tmp_path / 'out.mp4'
  sound = clips.tone(50 / rate, 44_100, 2)
  with media.VideoWriter(
    path, 64, 48, rate, audio=(sound, 44_100), metadata={'comment': 'synthetic'}
  ) as writer:
    for index in range(50):
      writer.write(clips.frame(index))
  info = read_back(path)
  assert info['rate'] == rate and info['frames'] == 50 and info['size'] == (64, 48)
  assert info['codec'] == 'h264' and info['pixels'] == 'yuv420p'
  assert info['audio'] == ('aac', 44_100, 2) and info['comment'] == 'synthetic'
  assert info['duration'] == pytest.approx(50 / rate, abs=2e-3)
  assert info['audio_duration'] == pytest.approx(50 / rate, abs=2e-3)
  with media.VideoReader(path) as reader:
    frames = list(reader.scan())
  assert numbers(frames) == list(range(50))
  assert np.mean([abs(f - clips.frame(i).astype(float)) for i, f in enumerate(frames)]) < 2
  assert [entry.name for entry in tmp_path.iterdir()] == ['out.mp4']
  data = path.read_bytes()
  assert data.index(b'moov') < data.index(b'mdat')  # playable while it loads


def test_training_samples_16_khz_mono(tmp_path):
  path = tmp_path / 'sample.mp4'
  wave = np.cumsum(np.random.default_rng(0).normal(0, 300, 16_000) * 0.98).astype(np.int16)
  with media.VideoWriter(path, 64, 48, Fraction(25), audio=(wave, 16_000)) as writer:
    for index in range(25):
      writer.write(clips.frame(index))
  read = media.read_audio(path)
  assert len(read) == len(wave)
  best = np.argmax(np.correlate(read[1000:9000].astype(float), wave[1500:8500].astype(float)))
  assert abs(best - 500) <= 1  # in its place to the sample
  assert abs(read[2000:14_000] - wave[2000:14_000].astype(float)).mean() < 600


@pytest.mark.parametrize('size', [(63, 48), (64, 47), (63, 47)])
def test_odd_sizes_are_kept(tmp_path, size):
  path = tmp_path / 'odd.mp4'
  with media.VideoWriter(path, *size, Fraction(25)) as writer:
    for index in range(3):
      writer.write(clips.frame(index, *size))
  info = read_back(path)
  assert info['size'] == size and info['pixels'] == 'yuv444p'
  with media.VideoReader(path) as reader:
    assert numbers(reader.scan()) == [0, 1, 2]


@pytest.mark.parametrize('matrix', [1, 2, 5, 6, 9])
def test_colours_come_back_in_every_coding(tmp_path, matrix):
  frame = np.zeros((48, 64, 3), np.uint8)
  frame[...] = (200, 60, 90)
  colour = media.Colour(matrix, matrix, matrix if matrix != 9 else 14)
  path = tmp_path / 'colour.mp4'
  with media.VideoWriter(path, 64, 48, Fraction(25), colour=colour, quality=1) as writer:
    writer.write(frame)
  assert media.probe(path).colour == colour
  np.testing.assert_allclose(media.read_image(path).astype(int), frame, atol=4)


def test_pixel_aspect_is_kept(tmp_path):
  path = tmp_path / 'wide.mp4'
  with media.VideoWriter(path, 64, 48, Fraction(25), pixel_aspect=Fraction(16, 15)) as writer:
    writer.write(clips.frame(0))
  assert media.probe(path).pixel_aspect == Fraction(16, 15)


def test_audio_in_blocks_is_written_whole(tmp_path):
  path = tmp_path / 'blocks.mp4'
  blocks = np.array_split(clips.tone(2, channels=2), 13)
  with media.VideoWriter(path, 64, 48, Fraction(25), audio=(iter(blocks), 16_000)) as writer:
    for index in range(25):
      writer.write(clips.frame(index))
  assert read_back(path)['audio_duration'] == pytest.approx(2, abs=1e-3)


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
  path = tmp_path / 'out.mp4'
  path.write_bytes(b'old')
  with (
    pytest.raises(KeyboardInterrupt),
    media.VideoWriter(path, 64, 48, Fraction(25)) as writer,
  ):
    writer.write(clips.frame(0))
    raise KeyboardInterrupt
  assert path.read_bytes() == b'old' and len(list(tmp_path.iterdir())) == 1


def test_a_video_of_no_frames_is_not_written(tmp_path):
  with (
    pytest.raises(MediaError, match='no frame was written'),
    media.VideoWriter(tmp_path / 'out.mp4', 64, 48, Fraction(25)),
  ):
    pass
  assert not list(tmp_path.iterdir())


def test_a_frame_of_another_size_is_a_programming_error(tmp_path):
  with (
    pytest.raises(ValueError, match='not uint8'),
    media.VideoWriter(tmp_path / 'out.mp4', 64, 48, Fraction(25)) as writer,
  ):
    writer.write(np.zeros((48, 62, 3), np.uint8))


@pytest.mark.parametrize(
  'audio, message',
  [
    ((np.zeros(100, np.int16), 12_345), 'no sample rate of 12345 Hz'),
    ((np.zeros(0, np.int16), 16_000), 'audio to write has no samples'),
  ],
)
def test_audio_that_cannot_be_written(tmp_path, audio, message):
  with pytest.raises(MediaError, match=message):
    media.VideoWriter(tmp_path / 'out.mp4', 64, 48, Fraction(25), audio=audio)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'name, message',
  [
    ('out.avi', 'does not end in .mp4'),
    ('there_is_none/out.mp4', 'folder of the output does not exist'),
    ('folder.mp4', 'the output is a folder'),
  ],
)
def test_outputs_that_cannot_be(tmp_path, name, message):
  (tmp_path / 'folder.mp4').mkdir()
  with pytest.raises(MediaError, match=message):
    media.check_output(tmp_path / name)


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
  monkeypatch.setattr(os, 'access', lambda *_: False)  # root may write everywhere
  with pytest.raises(MediaError, match='cannot be written to'):
    media.check_output(tmp_path / 'out.mp4')


def test_a_full_disk_is_reported(tmp_path):
  class Full:
    def mux(self, packet):
      raise OSError(28, 'No space left on device')

    def close(self):
      pass

  writer = media.VideoWriter(tmp_path / 'out.mp4', 64, 48, Fraction(25))
  writer._container.close()
  writer._container = Full()
  with pytest.raises(MediaError, match='cannot write: No space left'), writer:
    for index in range(200):
      writer.write(clips.frame(index))
  assert not list(tmp_path.iterdir())


# How long a file is, and what it says of itself.


def test_how_long_files_last(tmp_path):
  video = clips.write(tmp_path / 'in.mp4', 50, audio=clips.tone(3.0))
  assert media.seconds_up_to(video, 60) == pytest.approx(3.0, abs=0.1)  # the sound is longer
  assert media.seconds_up_to(video, 1) == pytest.approx(1.0, abs=0.1)  # no more was read
  sound = clips.write_tone(tmp_path / 'in.wav', 1.5)
  assert media.seconds_up_to(sound, 60) == pytest.approx(1.5, abs=0.01)
  raw = clips.write(tmp_path / 'in.h264', 50, container='h264', options={'g': '10'})
  assert media.seconds_up_to(raw, 60) == pytest.approx(2.0, abs=0.1)  # it has no timestamps
  picture = clips.write(tmp_path / 'in.png', 1, codec='png', pixels='rgb24')
  assert media.seconds_up_to(picture, 1) == 0
  (tmp_path / 'text.mp4').write_text('no media')
  with pytest.raises(MediaError, match='not a media file'):
    media.seconds_up_to(tmp_path / 'text.mp4', 1)


def test_a_recording_that_does_not_say_how_long_it_is(tmp_path):
  path = tmp_path / 'live.mkv'
  with av.open(str(path), 'w', options={'live': '1'}) as output:  # as browsers record
    stream = output.add_stream('libx264', rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
    for index in range(50):
      picture = av.VideoFrame.from_ndarray(clips.frame(index), format='rgb24')
      output.mux(stream.encode(picture))
    output.mux(stream.encode(None))
  assert media.probe(path).duration is None
  assert media.seconds_up_to(path, 60) == pytest.approx(2.0, abs=0.1)


def test_tags_of_a_video_and_texts_of_a_picture(tmp_path):
  path = tmp_path / 'out.mp4'
  with media.VideoWriter(path, 64, 48, 25, metadata={'comment': 'a', 'description': 'b'}) as writer:
    writer.write(clips.frame(0))
  tags = media.read_tags(path)
  assert tags['comment'] == 'a' and tags['description'] == 'b'
  path.write_bytes(path.read_bytes().replace(b'Lavf', b'L\xe4vf'))  # Latin-1, as of old programs
  assert media.read_tags(path)['encoder'].startswith('L\ufffdvf')
  texts = PngImagePlugin.PngInfo()
  texts.add_text('Comment', 'c')
  Image.fromarray(clips.frame(0)).save(tmp_path / 'out.png', pnginfo=texts)
  assert media.read_tags(tmp_path / 'out.png') == {'comment': 'c'}
  content = (tmp_path / 'out.png').read_bytes()
  (tmp_path / 'cut.png').write_bytes(content[:20])
  with pytest.raises(MediaError, match='cut.png'):
    media.read_tags(tmp_path / 'cut.png')
  with pytest.raises(MediaError, match='does not exist'):
    media.read_tags(tmp_path / 'none.mp4')


def test_a_video_is_finished_before_it_has_its_name(tmp_path):
  path, seen = tmp_path / 'out.mp4', []

  def finish(partial, name):
    seen.append((name, os.path.exists(name), media.probe(partial).has_video))

  with media.VideoWriter(path, 64, 48, 25, finish=finish) as writer:
    writer.write(clips.frame(0))
  assert seen == [(str(path), False, True)] and path.exists()
