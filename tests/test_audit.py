"""The audit: what it measures, what it calls a fault, what it writes, and what it mends."""

import collections
import csv
import dataclasses
import functools
import math
import re

import corpus
import jax
import numpy as np
import planted
import pytest
import runs
from absl import flags

from configs import sync_expert as sync_configs
from data_prep import audit
from data_prep.audits import faults, listening, measures, page, repair
from tfg_jax import errors, faces
from tfg_jax.data import clip_codec, records
from tfg_jax.metrics import sync as sync_metrics
from tfg_jax.systems import sync_expert

RNG = np.random.default_rng(0)
AGREEMENT = jax.jit(sync_metrics.agreement)


def call(*arguments):
  values = flags.FlagValues()
  audit.define_flags(values)
  audit.main(values(['audit', *map(str, arguments)]), values)


def row(**changes):
  """Measures of a clip in which nothing is wrong."""
  fine = dict(
    number=0, clip='a', split='train', speaker='x', text='ba', seconds=3.0, sound_seconds=3.0,
    fps=25.0, source_fps=25.0, distinct_fps=25.0, face_height=60.0, face_share=0.3, jitter=0.5,
    level=-20.0, silence=0.3, clipping=0.0, still=0.04, sound_hash='s', pictures_hash='p',
  )  # fmt: skip
  return measures.Measures(**{**fine, **changes})


def faults_of(threshold=listening.UNKNOWN, **changes):
  (finding,) = faults.judge([row(**changes)], threshold)
  return finding.faults


def remarks_of(**changes):
  (finding,) = faults.judge([row(**changes)])
  return finding.remarks


def rows_of(folder):
  with open(folder / page.TABLE_FILE, encoding='utf-8', newline='') as file:
    return {row['clip']: row for row in csv.DictReader(file)}


# --------------------------------------------------------------------------------------------------
# Measures
# --------------------------------------------------------------------------------------------------


def test_levels_are_those_of_a_sine():
  sine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
  half = np.where(np.arange(16_000) < 8000, sine, 0)
  level, silence = measures.sound_level((half * 32768).astype(np.int16), 16_000)
  assert level == pytest.approx(20 * np.log10(0.5 / 2**0.5), abs=0.05) and silence == 0.48
  assert measures.sound_level(np.zeros(0, np.int16), 16_000) == (-100, 1)


def test_only_what_stands_flat_at_an_extreme_is_clipped():
  sine = np.sin(2 * np.pi * 100 * np.arange(16_000) / 16_000)
  assert measures.clipping((0.999 * sine * 32767).astype(np.int16)) < 0.03
  cut = (np.clip(1.5 * sine, -1, 1) * 32767).astype(np.int16)
  share = 1 - 2 * np.arcsin(1 / 1.5) / np.pi
  assert measures.clipping(cut) == pytest.approx(share, abs=0.02)
  assert measures.clipping((0.1 * cut).astype(np.int16)) == 0  # not loud
  assert measures.clipping(np.zeros(100, np.int16)) == 0


def test_trembling_is_measured_in_shares_of_the_face():
  boxes = np.tile([10, 10, 30, 30], (6, 1))
  assert measures.box_jitter(boxes) == 0
  assert measures.box_jitter(boxes + 3 * np.arange(6)[:, None]) == 0  # goes steadily
  boxes[1::2, [0, 2]] += 1
  assert measures.box_jitter(boxes) == pytest.approx(100 * 2 / 20)
  assert measures.box_jitter(boxes[:2]) == 0


def test_the_longest_run():
  assert measures.longest(np.array([1, 1, 0, 1, 1, 1], bool)) == 3
  assert measures.longest(np.zeros(0, bool)) == 0


def test_pictures_that_repeat_are_counted():
  clip = corpus.clip(0)
  doubled = dataclasses.replace(clip, frames=[clip.frames[i // 4 * 4] for i in range(16)])
  got = measures.measure(doubled, measures.decode(doubled, ''), 7)
  assert (got.number, got.seconds, got.sound_seconds, got.fps) == (7, 0.64, 0.64, 25)
  assert got.distinct_fps == 25 * 4 / 16 and got.still == 4 / 25
  assert math.isnan(got.source_fps) and got.face_height == 42
  known = dataclasses.replace(clip, extras={'source_fps': np.array([29.97])})
  assert measures.measure(known, measures.decode(known, ''), 0).source_fps == 29.97


@pytest.mark.parametrize('box', [(10, 10, 30, 30), (0, 0, 90, 40)])
def test_a_face_beside_is_one_that_does_not_overlap_the_own(box):
  """Also where the box is the whole picture."""
  seen = iter([[(5, 10, 35, 30)], [(5, 10, 35, 30), (60, 10, 70, 30)], []])
  looked = audit.look(
    np.zeros((8, 9, 9, 3), np.uint8),
    np.tile(box, (8, 1)),
    lambda frames: [np.array(next(seen), float).reshape(-1, 4) for _ in frames],
    3,
  )
  if box[0]:
    assert looked['faces_found'] == pytest.approx(2 / 3)
  assert looked['faces_beside'] == pytest.approx(1 / 3)


# --------------------------------------------------------------------------------------------------
# Lips and sound
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('late', [-3, 0, 3])
def test_agreement_finds_the_shift_that_mends_it(late):
  """Rows from `number` on are padding, and must not matter."""
  features = RNG.standard_normal((80, 16)).astype(np.float32)
  lips, speech = features[10:60], features[10 - late : 60 - late]  # speech[i + late] fits lips[i]
  found = AGREEMENT(lips @ speech.T, 40)
  lips, speech = lips.copy(), speech.copy()
  lips[40:], speech[40:] = 100, -100
  padded = AGREEMENT(lips @ speech.T, 40)
  assert int(found.offset) == -late and found.match > 2 and found.confidence > 2
  np.testing.assert_allclose(padded.matches, found.matches, rtol=1e-3, atol=1e-4)
  alone = AGREEMENT((lips @ speech.T)[:40, :40], 40)
  np.testing.assert_allclose(padded.matches, alone.matches, rtol=1e-3, atol=1e-4)


def test_agreement_by_hand():
  similarity = RNG.standard_normal((6, 6)).astype(np.float32)
  z = similarity - similarity.mean(0) - similarity.mean(1, keepdims=True) + similarity.mean()
  z /= z.std()
  expected = {late: np.diagonal(z, late).mean() for late in range(-3, 4)}
  found = AGREEMENT(similarity, 6)
  matches = dict(zip(range(-15, 16), np.asarray(found.matches), strict=True))
  assert {late for late, value in matches.items() if not math.isnan(value)} == set(expected)
  for late, value in expected.items():
    assert matches[late] == pytest.approx(value, abs=1e-5)
  assert found.confidence == pytest.approx(
    max(expected.values()) - np.median(list(expected.values())), abs=1e-5
  )


def test_agreement_of_windows_that_are_all_alike_is_nothing():
  assert float(AGREEMENT(np.ones((9, 9), np.float32), 9).match) == 0


@pytest.fixture(scope='module', params=['color', 'syncnet'])
def expert(request, toy_records, tmp_path_factory):
  """(kind, workdir) of a judge that has learnt nothing."""
  config = sync_configs.get_test_config(request.param)
  workdir = tmp_path_factory.mktemp(request.param)
  return request.param, runs.untrained(config, toy_records, workdir)


def test_both_judges_embed_whole_clips_as_they_embed_windows(expert, toy_records):
  listener = listening.Listener(expert[1], records.read_info(toy_records))
  clip = corpus.clip(1, 20)
  frames = measures.decode(clip, '')
  heard = listener.hear(clip, frames)
  assert heard.number == 15 and len(heard.lips) == 59
  starts = np.array([0, 4, 14])
  batch = {
    'frames': frames[None],
    'boxes': clip.boxes[None],
    'wav': clip.wav[None],
    'num_samples': np.array([len(clip.wav)]),
  }
  index = (starts[:, None] + np.arange(5)).reshape(1, -1)
  judge = listener._judge
  apply = jax.jit(functools.partial(judge.module.apply, train=False))
  lips, speech = apply(listener._variables, *judge.inputs(batch, index, starts[None] / 25))
  np.testing.assert_allclose(heard.lips[starts], lips, atol=4e-4 * np.abs(lips).max())
  np.testing.assert_allclose(heard.speech[starts], speech, atol=4e-4 * np.abs(speech).max())
  expected = [[float(judge.similarity(a[None], b[None])[0, 0]) for b in speech] for a in lips]
  scale = np.abs(expected).max()
  np.testing.assert_allclose(judge.similarity(lips, speech), expected, atol=2e-3 * scale)


def test_any_judge_of_sync_is_read(expert, expert_workdir):
  kind, workdir = expert
  assert sync_expert.read(workdir) == sync_expert.read(workdir, kind)
  message = 'a run of lip_expert, and no color or syncnet judge of sync'
  with pytest.raises(errors.CheckpointError, match=message):
    sync_expert.read(expert_workdir)


# --------------------------------------------------------------------------------------------------
# Faults
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('changes', 'expected'),
  [
    ({}, ()),
    ({'silence': 0.96}, ('silent',)),
    ({'still': 1.0}, ('frozen',)),
    ({'still': 0.7}, ()),
    ({'still': 0.7, 'seconds': 1.2}, ('frozen',)),
    ({'faces_beside': 0.4}, ('two faces',)),
    ({'faces_beside': 0.2}, ()),
    ({'match': 2.0, 'offset': 1.0}, ()),
    ({'match': 2.0, 'offset': -2.0}, ('shifted',)),
    ({'match': 0.9, 'offset': 1.0}, ()),
    ({'match': 0.9, 'offset': 2.0}, ('other sound',)),
    ({'match': 0.7, 'offset': -1.0}, ('other sound',)),
    ({'match': 0.5, 'silence': 1.0}, ('silent',)),
    ({'match': 0.5, 'still': 2.0}, ('frozen',)),
  ],
)
def test_what_is_a_fault(changes, expected):
  assert faults_of(listening.Threshold(0.8, 1.0), **changes) == expected


def test_without_a_threshold_nobody_is_accused_of_bad_sync():
  assert faults_of(match=0.1, offset=9.0) == ()


@pytest.mark.parametrize(
  ('changes', 'expected'),
  [
    ({}, ()),
    ({'clipping': 0.002}, ('clipped',)),
    ({'jitter': 6.0}, ('box trembles',)),
    ({'faces_found': 0.0}, ('face not found',)),
    ({'sound_seconds': 2.5}, ('sound ends early',)),
    ({'distinct_fps': 20.0}, ('repeated pictures',)),
    ({'distinct_fps': 5.0, 'still': 2.0}, ()),
  ],
)
def test_what_is_a_remark(changes, expected):
  assert remarks_of(**changes) == expected


def test_of_copies_the_one_to_be_judged_on_is_kept():
  clips = [
    row(number=0, split='train', sound_hash='1', pictures_hash='1'),
    row(number=1, split='train', sound_hash='2', pictures_hash='2'),
    row(number=0, split='test', sound_hash='3', pictures_hash='1'),
    row(number=0, split='valid', sound_hash='2', pictures_hash='4'),
    row(number=2, split='train', sound_hash='5', pictures_hash='5'),
    row(number=3, split='train', sound_hash='5', pictures_hash='6'),  # within a split: a remake
    row(number=4, split='train', sound_hash='7', pictures_hash='7', silence=1.0),
    row(number=1, split='test', sound_hash='7', pictures_hash='8', silence=1.0),
  ]
  assert faults.copied(clips) == {('train', 0), ('train', 1)}


# --------------------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------------------


class Ear:
  """Stands in for a sync expert: measures how far the mouth of a toy clip is open, and its sound.

  As reliable as an expert that is right about most windows: its embeddings are noisy.
  """

  def __init__(self, folder, info):
    del folder, info
    self.rng = np.random.default_rng(0)

  def hear(self, clip, frames):
    number = len(frames) - sync_metrics.WINDOW_FRAMES
    opened = (frames[..., 0] < 40).mean((1, 2))
    loud = np.abs(clip.wav.reshape(-1, 640).astype(float)).mean(1)
    lips, speech = (
      np.stack([signal[i : i + 5] / (signal.std() + 1e-9) for i in range(number)])
      + 0.3 * self.rng.standard_normal((number, 5))
      for signal in (opened - opened.mean(), loud - loud.mean())
    )
    return listening.Heard(lips, speech, number)

  def agreement(self, lips, speech):
    number = min(lips.number, speech.number)
    apart = np.linalg.norm(lips.lips[:number, None] - speech.speech[:number], axis=-1)
    return AGREEMENT(-apart, number)


def detector(frames):
  """Finds the faces of toy clips by their mouths, which alone are dark."""
  found = []
  for frame in frames:
    dark = np.convolve((frame[:, :, 0] < 35).any(0), np.ones(5), 'same') > 0
    edges = np.flatnonzero(np.diff(np.r_[False, dark, False].astype(int)))
    mouths = zip(edges[::2], edges[1::2], strict=True)
    boxes = [(a - 0.4 * (b - a), 4, b + 0.4 * (b - a), 46) for a, b in mouths]
    found.append(np.array(boxes).reshape(-1, 4))
  return found


@pytest.fixture(scope='module')
def clean(tmp_path_factory):
  return corpus.write(tmp_path_factory.mktemp('clean'), train=60, valid=10, frames=50)


@pytest.fixture(scope='module')
def faulty(clean, tmp_path_factory):
  """(records, clip id -> fault)."""
  folder = tmp_path_factory.mktemp('faulty')
  return folder, planted.plant(clean, folder, seed=1)


@pytest.fixture
def quick(monkeypatch):
  monkeypatch.setattr(listening, 'Listener', Ear)
  monkeypatch.setattr(faces, 'mtcnn_detector', lambda: detector)


def test_planted_faults_are_found_and_clean_clips_are_not_accused(faulty, quick, tmp_path, capsys):
  folder, truth = faulty
  call(f'--data={folder}', '--sync=EAR', f'--report={tmp_path}')
  # Two heads side by side may also be called a clip with the sound of another.
  found = {clip: row['faults'].split('; ') for clip, row in rows_of(tmp_path).items()}
  planted_in = [clip for clip in truth if truth[clip]]
  clean = [clip for clip in truth if not truth[clip]]
  assert len(planted_in) == len(clean) == 35
  assert np.mean([truth[clip] in found[clip] for clip in planted_in]) >= 0.95
  assert np.mean([found[clip] != [''] for clip in clean]) <= 0.02
  said = capsys.readouterr().out
  assert said.startswith('toy: 70 clips, 0.04 hours, 4 speakers; 34 with a fault\n  licence: CC0\n')
  assert 'faults: silent 7, frozen 7, two faces 7, shifted 7, other sound ' in said
  assert 'split valid: 10 clips' in said and 'speakers that are in train too: 4,' in said


def test_what_the_audit_finds_can_be_measured_on_any_records(clean, quick, tmp_path, capsys):
  values = flags.FlagValues()
  planted.define_flags(values)
  arguments = [f'--data={clean}', '--sync=EAR', f'--output={tmp_path}', '--seed=1']
  planted.main(values(['planted', *arguments]), values)
  lines = capsys.readouterr().out.splitlines()[-7:]
  counts = {cells[0]: cells[1:] for cells in (re.split(r' *\| *', x.strip('| ')) for x in lines)}
  assert counts['silent'] == counts['frozen'] == ['7', '7 (100.0%)', '7 (100.0%)']
  assert counts['nothing'] == ['35', '-', '0 (0.0%)']
  accused = [re.match(r'\d+', counts[name][2])[0] for name in (*planted.FAULTS, 'any of these')]
  assert sum(map(int, accused[:-1])) == int(accused[-1]) >= 34 and counts['any of these'][0] == '35'
  assert (tmp_path / 'report' / page.PAGE_FILE).exists()


def test_clips_without_sound_do_not_make_the_expert_a_bad_one(clean, quick, tmp_path):
  source, rng = records.RecordSource(clean, 'train'), np.random.default_rng(0)
  truth, made = {}, []
  for number, clip in enumerate(map(clip_codec.decode, source)):
    fault = 'silent' if number < 40 else 'shifted' if number < 44 else ''
    truth[clip.clip_id] = fault
    made.append(clip_codec.encode(planted.with_fault(clip, fault, clip, rng)))
  records.write_shard(records.shard_path(tmp_path, 'toy', 'train', 0, 1), made)
  records.finish_dataset(tmp_path, records.read_info(clean))
  call(f'--data={tmp_path}', '--sync=EAR', f'--report={tmp_path}/report', '--looks=0')
  assert {clip: row['faults'] for clip, row in rows_of(tmp_path / 'report').items()} == truth


def test_the_page_stands_alone_and_shows_every_finding(faulty, quick, tmp_path):
  folder, _ = faulty
  call(f'--data={folder}', '--sync=EAR', f'--report={tmp_path}')
  text = (tmp_path / page.PAGE_FILE).read_text()
  said = [
    row['faults'].split('; ') + row['remarks'].split('; ') for row in rows_of(tmp_path).values()
  ]
  kinds = collections.Counter(name for names in said for name in names if name)
  fine = sum(not any(names) for names in said)
  assert kinds['frozen'] == 7
  assert text.count('data:image/jpeg;base64,') == sum(min(12, x) for x in (*kinds.values(), fine))
  assert not re.search(r'(src|href)="(?!data:|#)', text)
  linked = set(re.findall(r'href="#([^"]+)"', text))
  assert linked == {name.replace(' ', '-') for name in kinds}
  assert all(text.count(f'id="{name}"') == 1 for name in linked)
  listed = text[text.index('All findings') :]
  places = [listed.index(f'<span class="bad">{name}') for name in faults.FAULTS if name in kinds]
  assert places == sorted(places)
  assert all(clip in listed for clip, row in rows_of(tmp_path).items() if row['faults'])
  assert 'offset: frames by which' in text and 'length, seconds: <b>2</b> in every clip' in text
  about = dict(re.findall(r'<figcaption>(?:train|valid)/(\w+)<br>([^<]+)<', text))
  rows = rows_of(tmp_path)
  silent = {clip for clip in about if 'silent' in rows[clip]['faults']}
  frozen = {clip for clip in about if 'frozen' in rows[clip]['faults']}
  assert silent | frozen == {clip for clip in about if 'match' not in about[clip]}
  assert frozen == {clip for clip in about if 'one picture for' in about[clip]}


def test_what_records_say_is_no_html(clean, quick, tmp_path):
  source = records.RecordSource(clean, 'valid')
  clip = clip_codec.decode(source[0])
  odd = dataclasses.replace(clip, clip_id='<b>x', wav=np.zeros_like(clip.wav))
  path = records.shard_path(tmp_path, 'toy', 'valid', 0, 1)
  records.write_shard(path, [clip_codec.encode(odd)])
  records.finish_dataset(tmp_path, records.read_info(clean))
  call(f'--data={tmp_path}', f'--report={tmp_path}/report')
  text = (tmp_path / 'report' / page.PAGE_FILE).read_text()
  assert '&lt;b&gt;x' in text and '<b>x' not in text


def test_without_an_expert_its_columns_are_empty_and_the_report_says_how_to_get_one(
  clean, quick, tmp_path, capsys
):
  call(f'--data={clean}', f'--report={tmp_path}', '--looks=0')
  assert all(row['match'] == row['offset'] == '' for row in rows_of(tmp_path).values())
  said = capsys.readouterr().out
  assert '--config=configs/sync_expert.py' in said and 'faces: not sought' in said
  assert 'faults: none' in said
  assert 'No sync expert was asked' in (tmp_path / page.PAGE_FILE).read_text()


def test_an_expert_that_cannot_tell_accuses_nobody(expert, toy_records, tmp_path):
  _, workdir = expert
  call(f'--data={toy_records}', f'--sync={workdir}', f'--report={tmp_path}', '--looks=0')
  rows = rows_of(tmp_path).values()
  assert all(row['match'] and row['faults'] == '' for row in rows)
  assert 'cannot tell these clips' in (tmp_path / page.PAGE_FILE).read_text()


# --------------------------------------------------------------------------------------------------
# Repair
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('late', [-3, 3])
def test_moved_sound_is_where_it_was(late):
  clip = corpus.clip(3, 50)
  clip = dataclasses.replace(clip, extras={'word_times': np.array([0.5, 1.0], np.float32)})
  shifted = repair.moved(clip, late)
  np.testing.assert_allclose(shifted.extras['word_times'], np.array([0.5, 1.0]) + late / 25)
  back = repair.moved(shifted, -late)
  inner = slice(3 * 640, -3 * 640)
  np.testing.assert_array_equal(back.wav[inner], clip.wav[inner])
  assert len(shifted.wav) == len(clip.wav)


def test_shifted_clips_are_mended_and_others_dropped(faulty, clean, quick, tmp_path, capsys):
  folder, truth = faulty
  before = {path.name: path.read_bytes() for path in folder.iterdir()}
  fixed = tmp_path / 'fixed'
  call(
    f'--data={folder}', '--sync=EAR', f'--report={tmp_path}/report', '--fix=shift,drop',
    f'--output={fixed}',
  )  # fmt: skip
  named = [set(row['faults'].split('; ')) for row in rows_of(tmp_path / 'report').values()]
  kept, mended = named.count({''}), named.count({'shifted'})
  counts = f'70 clips in = {kept} kept + {mended} fixed + {70 - kept - mended} dropped\n'
  assert mended == 7 and capsys.readouterr().out.endswith(f'fixed: {counts}')
  assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
  assert records.read_info(fixed).preparation == {'audit': 'drop,shift'}
  for split in ('train', 'valid'):
    originals = records.RecordSource(clean, split)
    wanted = {clip.clip_id: clip for clip in map(clip_codec.decode, originals)}
    for clip in map(clip_codec.decode, records.RecordSource(fixed, split)):
      if truth[clip.clip_id] not in ('', 'shifted'):
        continue  # the one that is not found
      inner = slice(6 * 640, -6 * 640)
      np.testing.assert_array_equal(clip.wav[inner], wanted[clip.clip_id].wav[inner])
      assert clip.frames == wanted[clip.clip_id].frames
  call(f'--data={fixed}', '--sync=EAR', f'--report={tmp_path}/again')
  assert not any(row['faults'] for row in rows_of(tmp_path / 'again').values())


def test_a_split_that_was_empty_stays_so(clean, quick, tmp_path):
  folder, fixed = tmp_path / 'records', tmp_path / 'fixed'
  folder.mkdir()
  clips = [records.RecordSource(clean, 'train')[i] for i in range(3)]
  records.write_shard(records.shard_path(folder, 'toy', 'train', 0, 1), clips)
  records.write_shard(records.shard_path(folder, 'toy', 'test', 0, 1), [])
  records.finish_dataset(folder, records.read_info(clean))
  call(f'--data={folder}', '--looks=0', '--fix=drop', f'--output={fixed}')
  assert records.read_info(fixed).clips == {'train': (3,), 'test': (0,)}


@pytest.mark.parametrize(
  ('ways', 'expected'),
  [
    (['shift'], {'shifted': 'fixed', 'silent': 'kept', 'both': 'fixed', '': 'kept'}),
    (['drop'], {'shifted': 'dropped', 'silent': 'dropped', 'both': 'dropped', '': 'kept'}),
    (['shift', 'drop'], {'shifted': 'fixed', 'silent': 'dropped', 'both': 'dropped', '': 'kept'}),
  ],
)
def test_what_becomes_of_a_clip(ways, expected):
  kinds = {'shifted': ('shifted',), 'silent': ('silent',), 'both': ('two faces', 'shifted'), '': ()}
  ends = {
    name: repair.fate(faults.Finding(row(), named, ('clipped',)), ways)
    for name, named in kinds.items()
  }
  assert ends == expected


def test_a_split_is_not_left_empty(clean, tmp_path):
  findings = [
    faults.Finding(row(number=i, split=split), ('silent',) if split == 'valid' else (), ())
    for split, count in (('train', 60), ('valid', 10))
    for i in range(count)
  ]
  with pytest.raises(errors.DataError, match="every clip of split 'valid' would be dropped"):
    repair.write(clean, tmp_path / 'new', findings, ['drop'])
  assert not (tmp_path / 'new').exists()


# --------------------------------------------------------------------------------------------------
# What cannot be
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], '--data is missing'),
    (['--data=DIR', 'x'], r"unexpected arguments \['x'\]"),
    (['--data=DIR', '--looks=-1'], '--looks=-1; expected 0 or more'),
    (['--data=DIR', '--fix=drop'], '--output is missing beside --fix'),
    (['--data=DIR', '--output=new'], '--fix is missing beside --output'),
    (['--data=DIR', '--fix=shift', '--output=new'], '--fix=shift needs --sync'),
    (['--data=DIR', '--fix=mend', '--output=new'], '--fix=mend; expected shift, drop or'),
    (['--data=DIR', '--fix=drop', '--output=DIR'], r'--output=.* is not empty'),
    (['--data=DIR', '--report=DIR'], r'--report=.* is the folder of the records'),
    (['--data=DIR', '--report=DIR/dataset_info.json'], r'--report=.* cannot be made'),
    (['--data=DIR', '--sync=/none', '--report=TMP'], 'is not the workdir of a run'),
    (['--data=/none', '--report=TMP'], 'there is no dataset_info.json'),
  ],
)
def test_flags_that_cannot_be(toy_records, tmp_path, arguments, message):
  given = [x.replace('DIR', str(toy_records)).replace('TMP', str(tmp_path)) for x in arguments]
  with pytest.raises(errors.TfgError, match=message):
    call(*given)


def test_records_of_another_rate_are_not_for_the_expert(expert, toy_records):
  info = dataclasses.replace(records.read_info(toy_records), fps=30.0)
  message = 'the records have 30 frames per second, sync experts know 25'
  with pytest.raises(errors.ConfigError, match=message):
    listening.Listener(expert[1], info)


def test_damaged_records_are_named(clean, quick, tmp_path):
  source = records.RecordSource(clean, 'valid')
  clip = dataclasses.replace(clip_codec.decode(source[0]), frames=[b'no picture'] * 50)
  path = records.shard_path(tmp_path, 'toy', 'valid', 0, 1)
  records.write_shard(path, [clip_codec.encode(clip)])
  records.finish_dataset(tmp_path, records.read_info(clean))
  with pytest.raises(errors.DataError, match='(?s)frame 0 is not a JPEG picture.*record 0'):
    call(f'--data={tmp_path}', f'--report={tmp_path}/report')
