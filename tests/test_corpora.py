"""The adapters: what they list of fabricated folders; the records of CREMA-D and VoxCeleb2."""

import collections
import os

import clips
import numpy as np
import pytest

from data_prep import clip_maker, corpora, listing
from data_prep.corpora import crema_d, folder, grid, lrs2, lrs3, voxceleb2
from tfg_jax import errors
from tfg_jax.data import pipeline


def by_id(found):
  return {clip.clip_id: clip for clip in found.clips}


def touch(root, *names):
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).touch()
  return root


# --------------------------------------------------------------------------------------------------
# What adapters share
# --------------------------------------------------------------------------------------------------


def test_names_are_divided_by_their_checksums():
  names = [f'clip{i}' for i in range(200)]
  splits = listing.divide(names, {'valid': 0.1, 'test': 0.05})
  assert collections.Counter(splits.values()) == {'train': 170, 'valid': 20, 'test': 10}
  more = listing.divide([*names, 'another', 'and another'], {'valid': 0.1, 'test': 0.05})
  assert sum(splits[name] != more[name] for name in names) <= 2
  # Few names leave none of the splits empty, as long as there are enough.
  assert sorted(listing.divide('abc', {'valid': 0.1, 'test': 0.1}).values()) == [
    'test',
    'train',
    'valid',
  ]
  assert list(listing.divide('a', {'valid': 0.1}).values()) == ['train']
  with pytest.raises(errors.ConfigError, match='--valid_share=1.5; expected 0 or more'):
    listing.divide('abc', {'valid': 1.5})


def test_files_are_found_in_all_folders_and_the_others_counted(tmp_path):
  touch(tmp_path, 'b/x.MP4', 'a.mp4', 'a.txt', 'b/c/notes', '.hidden.mp4', '.trash/y.mp4')
  (tmp_path / 'b' / 'above').symlink_to(tmp_path)
  found, others = listing.find_files(tmp_path, ['.mp4'])
  assert found == [str(tmp_path / 'a.mp4'), str(tmp_path / 'b' / 'x.MP4')]
  assert others == {'.txt': 1, '': 1}


def test_ids_keep_the_ending_where_two_would_be_the_same():
  ids = listing.clip_ids(['/r/a.mp4', '/r/a.mov', '/r/b/a.mp4'], '/r')
  assert list(ids.values()) == ['a.mp4', 'a.mov', 'b/a']


def test_a_reason_is_a_message_without_its_numbers():
  drops = [
    listing.Drop('a', 'train', 'it has 5 frames instead of 29'),
    listing.Drop('b', 'train', 'it has 31 frames instead of 29'),
    listing.Drop('c', 'train', "the video is damaged after 0.52 s (Invalid data: 'x')\nmore"),
  ]
  assert drops[0].reason == drops[1].reason == 'it has … frames instead of …'
  assert drops[2].reason == 'the video is damaged after … s'


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'crop': 'round'}, '--crop=round; expected one of track, square, none, face, aligned'),
    ({'size': 9}, '--size=9; expected 32 to 512 pixels'),
    ({'size': 100, 'sizes': (64, 128)}, r'--size=100; expected one of \(64, 128\)'),
    ({'crop': 'aligned'}, r'--size=64; expected one of \(260,\)'),
    ({'fps': 0}, '--fps=0; expected more than 0'),
    ({'room': 0.5}, '--room=0.5; expected 1 to 4'),
    ({'min_seconds': 30}, '--min_seconds=30; expected 0 to --max_seconds'),
    ({'max_seconds': 500}, '--max_seconds=500; expected at most 120'),
  ],
)
def test_framings_that_cannot_be(changes, message):
  with pytest.raises(errors.ConfigError, match=message):
    listing.Framing(**{'crop': 'track', 'size': 64, **changes})


def test_every_corpus_says_what_it_needs():
  assert corpora.names() == [
    'crema_d', 'folder', 'grid', 'hq_voxceleb', 'lrs2', 'lrs3', 'lrw', 'named_faces', 'voxceleb2',
  ]  # fmt: skip
  for name in corpora.names():
    module = corpora.adapter(name)
    assert 'INPUT' in module.__doc__ and isinstance(module.FRAMING, listing.Framing)
  assert corpora.settings(crema_d) == {'split_by': 'clip', 'seed': 0}
  with pytest.raises(errors.ConfigError, match='--corpus=x is not known(?s:.)*crema_d, folder'):
    corpora.adapter('x')


# --------------------------------------------------------------------------------------------------
# CREMA-D
# --------------------------------------------------------------------------------------------------


def detector(frames):
  """Finds the fabricated face: always the same place, 20 by 24 pixels."""
  return [np.array([[20, 12, 40, 36]], np.float32) for _ in frames]


@pytest.fixture(scope='module')
def crema(tmp_path_factory):
  root = tmp_path_factory.mktemp('crema')
  for name in ('VideoFlash', 'AudioWAV'):
    (root / name).mkdir()
  names = [f'{actor}_DFA_{mood}_XX' for actor in (1001, 1002, 1003) for mood in ('ANG', 'NEU')]
  for name in [*names, '1076_MTI_SAD_XX']:
    clips.write(root / 'VideoFlash' / f'{name}.flv', 8, rate=30, codec='flv1', container='flv')
    clips.write_tone(root / 'AudioWAV' / f'{name}.wav', 0.24)
  touch(root, 'AudioWAV/1004_DFA_ANG_XX.wav')
  return root


def test_a_clip_of_crema_d_is_a_square_around_the_face(crema, monkeypatch):
  monkeypatch.setattr(clip_maker, 'face_detector', lambda: detector)
  raw = by_id(crema_d.list_clips(crema))['1002_DFA_ANG_XX']
  framing = listing.Framing(crop='square', size=48, fps=30.0)
  clip = clip_maker.make_clip(raw, framing).clip
  assert (clip.speaker, clip.emotion) == ('1002', 'angry')
  assert clip.text == "Don't forget a jacket"
  assert clip.extras['identity'].tolist() == [1] and clip.extras['level'] == [b'XX']
  assert clip.fps == 30 and len(clip.frames) == 7  # 0.24 s of sound
  assert len(clip.wav) == round(7 * 16_000 / 30)
  # A side of 1.6 * 24 = 38.4 pixels becomes 48: the face is 25 by 30, with room for the chin.
  widths = clip.boxes[:, 2:] - clip.boxes[:, :2]
  np.testing.assert_allclose(widths, np.tile([25, 32], (7, 1)), atol=1)  # rounded corners
  np.testing.assert_allclose((clip.boxes[0, 0] + clip.boxes[0, 2]) / 2, 24, atol=1)
  frames = np.empty((7, 48, 48, 3), np.uint8)
  pipeline.decode_jpegs(clip.frames, frames, where='here')
  assert abs(int(frames[0, 24, 24, 0]) - 100) < 12  # the fabricated grey


def test_clips_of_crema_d_that_are_no_use_are_named(crema):
  found = crema_d.list_clips(crema)
  assert len(found.clips) == 6 and found.facts == {'actors': 3}
  assert {drop.clip_id: drop.message for drop in found.drops} == {
    '1076_MTI_SAD_XX': 'it is broken by the notes of the corpus',
    '1004_DFA_ANG_XX': 'it is in AudioWAV only',
  }


def all_names():
  """As many clips as the corpus has of each actor and emotion: about 82 an actor."""
  moods = {'ANG': 14, 'DIS': 14, 'FEA': 14, 'HAP': 14, 'NEU': 12, 'SAD': 14}
  sentences = sorted(crema_d.SENTENCES)
  return [
    f'{actor}_{sentences[i % 12]}_{mood}_{"XX" if i < 12 else "HI"}'
    for actor in range(1001, 1021)
    for mood, count in moods.items()
    for i in range(count)
  ]


def test_clips_are_divided_70_15_15_for_every_actor_and_emotion():
  names = all_names()
  divided = crema_d.divide(names, by='clip', seed=3)
  assert sorted(sum(divided.values(), [])) == sorted(names)
  shares = [len(divided[split]) / len(names) for split in crema_d.SPLITS]
  np.testing.assert_allclose(shares, [0.7, 0.15, 0.15], atol=0.01)
  for split in ('valid', 'test'):
    cells = collections.Counter((name[:4], name.split('_')[2]) for name in divided[split])
    assert len(cells) == 20 * 6 and max(cells.values()) <= 4
  assert divided == crema_d.divide(names, by='clip', seed=3)
  assert divided != crema_d.divide(names, by='clip', seed=4)


def test_actors_can_be_kept_apart():
  divided = crema_d.divide(all_names(), by='speaker')
  people = [{name[:4] for name in divided[split]} for split in crema_d.SPLITS]
  assert [len(own) for own in people] == [14, 3, 3]
  assert not people[0] & people[1] and not people[0] & people[2] and not people[1] & people[2]


@pytest.mark.parametrize(
  ('names', 'settings', 'message'),
  [
    (['VideoFlash/x.flv'], {}, 'there is no folder AudioWAV'),
    (['VideoFlash/x', 'AudioWAV/x'], {}, 'there are no clips'),
    (
      ['VideoFlash/1001_XXX_ANG_XX.flv', 'AudioWAV/x'],
      {},
      "'1001_XXX_ANG_XX' is not ACTOR_SENTENCE_EMOTION_LEVEL",
    ),
    ([], {'split_by': 'word'}, '--split_by=word; expected clip or speaker'),
  ],
)
def test_what_is_no_crema_d_is_refused(tmp_path, names, settings, message):
  touch(tmp_path, *names)
  with pytest.raises(errors.TfgError, match=message):
    crema_d.list_clips(tmp_path, **settings)


# --------------------------------------------------------------------------------------------------
# VoxCeleb2
# --------------------------------------------------------------------------------------------------


def test_voxceleb2_keeps_its_test_and_holds_videos_out(tmp_path):
  names = [f'dev/mp4/id{i % 3:05d}/v{i}/00001.mp4' for i in range(12)]
  touch(tmp_path, *names, 'test/mp4/id00017/d/00001.mp4')
  found = by_id(voxceleb2.list_clips(tmp_path, valid_share=0.4))
  splits = collections.Counter(clip.split for clip in found.values())
  assert splits['test'] == 1 and splits['train'] + splits['valid'] == 12 and splits['valid'] >= 2
  clip = found['id00001/v4/00001']
  assert clip.speaker == 'id00001' and clip.extras == {'identity': [1]}
  assert clip.sounds[0].path == str(tmp_path / 'dev/aac/id00001/v4/00001.m4a')
  # More utterances move no other one.
  touch(tmp_path, 'dev/mp4/id00000/v99/00001.mp4')
  again = by_id(voxceleb2.list_clips(tmp_path, valid_share=0.4))
  assert all(again[name].split == clip.split for name, clip in found.items())


def test_a_clip_of_voxceleb2_is_the_face(tmp_path):
  video = clips.write(tmp_path / 'a.mp4', 9, size=(64, 64))
  sound = clips.write(tmp_path / 'a.m4a', audio=clips.tone(0.4))
  raw = listing.RawClip(clip_id='a', split='train', video=video, sounds=(listing.Sound(sound),))
  framing = listing.Framing(crop='face', size=32, max_seconds=0.24)
  made = clip_maker.make_clip(raw, framing)
  assert len(made.clip.frames) == 6 and len(made.clip.wav) == 6 * 640
  assert made.notes == {'clips cut to --max_seconds': 1}
  np.testing.assert_array_equal(made.clip.boxes, np.tile([0, 0, 32, 32], (6, 1)))


def test_what_is_no_voxceleb2_is_refused(tmp_path):
  with pytest.raises(errors.DataError, match='there is no PERSON/VIDEO/UTTERANCE.mp4'):
    voxceleb2.list_clips(tmp_path)
  with pytest.raises(errors.ConfigError, match='--valid_share=0; expected above 0'):
    voxceleb2.list_clips(tmp_path, valid_share=0)


# --------------------------------------------------------------------------------------------------
# GRID
# --------------------------------------------------------------------------------------------------


def test_grid_is_found_however_it_is_sorted(tmp_path):
  touch(
    tmp_path, 's1/bbaf2n.mpg', 's2/video/mpg_6000/lgwz1s.mpg', 's3_prik9a.mpg', 'odd_swby5p.mp4',
    'holiday.mp4', 'readme.md',
  )  # fmt: skip
  (tmp_path / 'align' / 's1').mkdir(parents=True)
  lines = ['0 12500 sil', '12500 25000 bin', '25000 30000 blue', '30000 30500 sp', '30500 40000 at']
  (tmp_path / 'align' / 's1' / 'bbaf2n.align').write_text('\n'.join(lines))
  found = grid.list_clips(tmp_path)
  assert [drop.message for drop in found.drops] == [
    "'holiday' does not end in the code of a sentence"
  ]
  assert found.ignored == {'.md': 1}
  clips_there = by_id(found)
  assert {name: (clip.speaker, clip.text) for name, clip in clips_there.items()} == {
    's1/bbaf2n': ('s1', 'bin blue at'),  # as the .align file has it
    's2/video/mpg_6000/lgwz1s': ('s2', 'lay green with z one soon'),
    's3_prik9a': ('s3', 'place red in k nine again'),
    'odd_swby5p': ('', 'set white by y five please'),
  }
  times = clips_there['s1/bbaf2n'].extras['word_times']
  np.testing.assert_allclose(times, [0.5, 1.0, 1.0, 1.2, 1.22, 1.6])
  assert collections.Counter(clip.split for clip in found.clips) == {
    'train': 2,
    'valid': 1,
    'test': 1,
  }


def test_an_alignment_without_a_speaker_is_used_for_the_only_clip_of_its_sentence(tmp_path):
  touch(tmp_path, 's1_bbaf2n.mpg', 's2_bbaf2n.mpg', 's1_bbaf3s.mpg')
  for code in ('bbaf2n', 'bbaf3s'):
    (tmp_path / f'{code}.align').write_text('0 25000 bin')
  found = by_id(grid.list_clips(tmp_path))
  assert {name for name, clip in found.items() if clip.extras} == {'s1_bbaf3s'}


def test_speakers_of_grid_can_be_kept_apart(tmp_path):
  touch(tmp_path, *(f's{i}/{code}.mpg' for i in range(1, 7) for code in ('bbaf2n', 'lgwz1s')))
  found = grid.list_clips(tmp_path, split_by='speaker')
  splits = collections.defaultdict(set)
  for clip in found.clips:
    splits[clip.speaker].add(clip.split)
  assert all(len(own) == 1 for own in splits.values())
  touch(tmp_path, 'odd_bbaf2n.mpg')
  with pytest.raises(errors.DataError, match='the speaker is not known'):
    grid.list_clips(tmp_path, split_by='speaker')


def test_what_is_no_grid_is_refused(tmp_path):
  with pytest.raises(errors.DataError, match='there are no videos'):
    grid.list_clips(tmp_path)
  with pytest.raises(errors.ConfigError, match='--split_by=word; expected clip or speaker'):
    grid.list_clips(tmp_path, split_by='word')


# --------------------------------------------------------------------------------------------------
# LRS2 and LRS3
# --------------------------------------------------------------------------------------------------


def test_lrs2_is_listed_by_its_official_lists(tmp_path):
  for name, line in (('train', '5535/00001'), ('val', '5535/00002'), ('test', '6330/00001 NF')):
    (tmp_path / f'{name}.txt').write_text(f'{line}\n')
    text = tmp_path / 'main' / f'{line.split()[0]}.txt'
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text('Text:  WHEN WE ARE DONE\nConf:  5\n')
  (tmp_path / 'val.txt').write_text('5535/00002\n5535/00009\n')
  found = lrs2.list_clips(tmp_path, boxes='/boxes')
  assert {name: (clip.split, clip.text) for name, clip in by_id(found).items()} == {
    '5535/00001': ('train', 'WHEN WE ARE DONE'),
    '5535/00002': ('valid', 'WHEN WE ARE DONE'),
    '6330/00001': ('test', 'WHEN WE ARE DONE'),
  }
  assert found.clips[0].boxes == '/boxes/5535/00001.npy'
  assert [(drop.clip_id, drop.message) for drop in found.drops] == [
    ('5535/00009', 'it has no transcript that begins with "Text:"')
  ]
  (tmp_path / 'val.txt').write_text('\n')
  with pytest.raises(errors.DataError, match='the list val.txt is empty'):
    lrs2.list_clips(tmp_path)
  (tmp_path / 'val.txt').unlink()
  with pytest.raises(errors.DataError, match='the list val.txt cannot be read: No such file'):
    lrs2.list_clips(tmp_path)


def test_lrs3_holds_talks_out(tmp_path):
  for name in [f'trainval/talk{i}/0000{j}' for i in range(6) for j in (1, 2)] + [
    'test/other/00001'
  ]:
    touch(tmp_path, f'{name}.mp4')
    (tmp_path / f'{name}.txt').write_text('Text:  AND SO\n')
  found = lrs3.list_clips(tmp_path, valid_share=0.2)
  splits = collections.defaultdict(set)
  for clip in found.clips:
    splits[clip.split].add(clip.clip_id.split('/')[0])
  assert len(found.clips) == 13 and splits['test'] == {'other'}
  assert len(splits['valid']) == 1 and len(splits['train']) == 5
  (tmp_path / 'trainval' / 'talk1' / '00001.txt').unlink()
  assert [drop.clip_id for drop in lrs3.list_clips(tmp_path).drops] == ['talk1/00001']
  with pytest.raises(errors.DataError, match='there is no TALK/NUMBER.mp4'):
    lrs3.list_clips(tmp_path / 'test')


# --------------------------------------------------------------------------------------------------
# A folder
# --------------------------------------------------------------------------------------------------


def test_a_folder_takes_what_lies_beside_a_video(tmp_path):
  for name in ('Ada/näh.mp4', 'Ada/b.mov', 'Bob/c.mp4'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    clips.write(tmp_path / name, 5)
  (tmp_path / 'Ada' / 'näh.txt').write_text('Grüß dich,\n  Welt', encoding='utf-8')
  clips.write_tone(tmp_path / 'Bob' / 'c.wav', 0.2)
  touch(tmp_path, 'Bob/c.npy', 'notes.pdf', 'Bob/other.txt')
  found = folder.list_clips(tmp_path)
  there = by_id(found)
  assert {name: (clip.speaker, clip.text) for name, clip in there.items()} == {
    'Ada/b': ('Ada', ''),
    'Ada/näh': ('Ada', 'Grüß dich, Welt'),
    'Bob/c': ('Bob', ''),
  }
  assert there['Bob/c'].boxes.endswith('c.npy') and there['Bob/c'].sounds[0].path.endswith('c.wav')
  assert found.ignored == {'.pdf': 1, '.txt': 1}
  assert sorted(clip.split for clip in found.clips) == ['test', 'train', 'valid']


def test_folders_can_say_the_split(tmp_path):
  for name in ('train/Ada/a', 'test/b', 'c'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    clips.write(tmp_path / f'{name}.mp4', 5)
  found = folder.list_clips(tmp_path)
  assert {name: (clip.split, clip.speaker) for name, clip in by_id(found).items()} == {
    'train/Ada/a': ('train', 'Ada'),
    'test/b': ('test', ''),
  }
  assert [drop.message for drop in found.drops] == [
    'it is in none of the folders train, valid and test'
  ]


def test_long_videos_without_a_transcript_are_cut_into_pieces(tmp_path):
  clips.write(tmp_path / 'long.mp4', 100)  # 4 s
  found = folder.list_clips(tmp_path, max_seconds=1.5)
  assert [(clip.clip_id, clip.start, clip.seconds) for clip in found.clips] == [
    (f'long/{i:05d}', pytest.approx(i * 4 / 3, abs=0.02), pytest.approx(4 / 3, abs=0.02))
    for i in range(3)
  ]
  assert len({clip.split for clip in found.clips}) == 1
  (tmp_path / 'long.txt').write_text('one two')
  (clip,) = folder.list_clips(tmp_path, max_seconds=1.5).clips
  assert clip.seconds is None and clip.text == 'one two'


def test_what_is_wrong_in_a_folder_is_a_drop_or_an_error(tmp_path):
  with pytest.raises(errors.DataError, match='there are no videos'):
    folder.list_clips(tmp_path)
  with pytest.raises(errors.ConfigError, match='--split_by=x; expected clip or speaker'):
    folder.list_clips(tmp_path, split_by='x')
  clips.write(tmp_path / 'a.mp4', 5)
  (tmp_path / 'a.txt').write_bytes(b'\xff\xfe\x00')
  touch(tmp_path, 'b.mp4')
  (tmp_path / os.fsdecode(b'c\xff.mp4')).touch()
  found = folder.list_clips(tmp_path)
  assert not found.clips
  assert {drop.clip_id: drop.message for drop in found.drops} == {
    'a': 'the transcript is not UTF-8',
    'b': 'the file is empty (0 bytes)',
    'c\ufffd': 'its name is not UTF-8',
  }
