"""Claims: jobs that run once and in order, differences that are more than chance, the study."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import fabricated
import hypothesis
import numpy as np
import pytest
from absl import flags
from hypothesis import strategies as st

from data_prep import puppet
from data_prep.puppets.clip import Settings
from tfg_jax import configuration, errors, main, systems
from tfg_jax.claims import comparison, davs, jobs, sf2f, speech2video, talklip
from tfg_jax.claims.comparison import Claim
from tfg_jax.claims.jobs import Job

ROOT = pathlib.Path(__file__).parents[1]

# --------------------------------------------------------------------------------------------------
# Jobs
# --------------------------------------------------------------------------------------------------

_SCRIPT = """
import pathlib, sys
folder, *needs = map(pathlib.Path, sys.argv[1:])
assert all(x.exists() for x in needs), needs
with folder.open('a') as file:
  file.write('ran ')
"""


@pytest.fixture
def workplace(tmp_path):
  """A folder whose module `touch` writes into its first argument if all others exist."""
  (tmp_path / 'touch.py').write_text(_SCRIPT)
  (tmp_path / 'fail.py').write_text("raise SystemExit('the disk is full')")
  return tmp_path


def touching(folder, name, *needs):
  files = (str(folder / f'{x}.txt') for x in (name, *needs))
  return Job(name, ('touch', *files), needs)


def test_jobs_run_after_what_they_need_and_only_once(workplace, capsys):
  workdir = workplace / 'work'
  todo = [touching(workplace, 'c', 'a', 'b'), *(touching(workplace, x) for x in 'ab')]
  finished = jobs.run(todo, workdir, at_once=2, folder=workplace)
  assert set(finished.seconds) == {'a', 'b', 'c'}
  said = capsys.readouterr().out
  assert said.index('c: started') > max(said.index(f'{x}: done') for x in 'ab')
  assert 'touch' in (workdir / 'a.log').read_text()
  jobs.run([*todo, touching(workplace, 'd', 'c')], workdir, at_once=1, folder=workplace)
  assert (workplace / 'a.txt').read_text() == 'ran '
  assert 'a: started' not in capsys.readouterr().out


def test_nothing_runs_beside_a_job_that_wants_to_be_alone(workplace, capsys):
  first = [touching(workplace, x) for x in 'ab']
  alone = dataclasses.replace(touching(workplace, 'c'), alone=True)
  last = [touching(workplace, x) for x in 'de']
  jobs.run([*first, alone, *last], workplace / 'work', at_once=2, folder=workplace)
  lines = [line.split()[1:3] for line in capsys.readouterr().out.splitlines()]
  place = lines.index(['c:', 'started;'])
  assert lines[place + 1] == ['c:', 'done']
  running = sum(1 if word == 'started;' else -1 for _, word in lines[:place])
  assert running == 0


def test_a_job_done_with_other_settings_is_named(workplace):
  workdir = workplace / 'work'
  jobs.run([touching(workplace, 'a')], workdir, at_once=1, folder=workplace)
  other = Job('a', ('touch', str(workplace / 'else.txt')))
  with pytest.raises(errors.ConfigError, match='a has been done with other settings: .*else.txt'):
    jobs.run([other], workdir, at_once=1, folder=workplace)


def test_a_job_that_fails_shows_the_end_of_its_log(workplace):
  with pytest.raises(errors.TrainingError, match='x ended with code 1:(.|\n)*the disk is full'):
    jobs.run([Job('x', ('fail',))], workplace / 'work', at_once=1, folder=workplace)
  assert not (workplace / 'work' / 'jobs.json').exists()


@pytest.mark.faults
def test_ctrl_c_asks_the_processes_to_save_and_waits_for_them(workplace):
  (workplace / 'slow.py').write_text(
    'import pathlib, signal, sys, time\n'
    'def end(*_):\n'
    '  pathlib.Path(sys.argv[1]).write_text("saved")\n'
    '  sys.exit(0)\n'
    'signal.signal(signal.SIGTERM, end)\n'
    'pathlib.Path(sys.argv[2]).touch()\n'
    'while True: time.sleep(0.05)\n'
  )
  saved, began = workplace / 'saved', workplace / 'began'
  program = (
    'import pathlib, signal\n'
    'from tfg_jax.claims import jobs\n'
    'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
    f'job = jobs.Job("x", ("slow", {str(saved)!r}, {str(began)!r}))\n'
    f'folder = pathlib.Path({str(workplace)!r})\n'
    'jobs.run([job], folder / "work", at_once=1, folder=folder)\n'
  )
  process = subprocess.Popen([sys.executable, '-c', program], cwd=ROOT, stderr=subprocess.PIPE)
  for _ in range(600):
    if began.exists():
      break
    time.sleep(0.1)
  process.send_signal(signal.SIGINT)
  _, told = process.communicate(timeout=60)
  assert b'KeyboardInterrupt' in told and saved.read_text() == 'saved'
  assert not (workplace / 'work' / 'jobs.json').exists()


def test_two_processes_have_cores_of_their_own():
  one, two = jobs._places(2)
  cores = set(one) | set(two)
  assert set(jobs._places(1)[0]) == cores
  assert len(cores) == 1 or not set(one) & set(two)


@pytest.mark.skipif(not hasattr(os, 'sched_getaffinity'), reason='cores are chosen on Linux alone')
def test_two_processes_share_the_core_where_there_is_but_one(workplace, monkeypatch):
  core = min(os.sched_getaffinity(0))
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {core})
  both = [touching(workplace, x) for x in 'ab']
  finished = jobs.run(both, workplace / 'work', at_once=2, folder=workplace)
  assert all(job in finished for job in both)


# --------------------------------------------------------------------------------------------------
# Differences
# --------------------------------------------------------------------------------------------------


def test_the_bounds_of_a_difference_are_those_of_its_standard_error():
  rng = np.random.default_rng(0)
  first = rng.normal(0, 5, 400)
  second = first + rng.normal(1, 2, 400)  # the clips' own spread of 5 does not matter
  found = comparison.Difference.between(first, second)
  error = 2 / np.sqrt(400)
  assert found.value == pytest.approx((second - first).mean())
  assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.03)
  assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.03)


_WORSE = np.full(50, 0.8) + np.linspace(-0.05, 0.05, 50)
_BETTER = np.full(50, 0.4) + np.linspace(-0.05, 0.05, 50)[::-1]
_LIKE_WORSE = _WORSE + np.tile([-0.3, 0.3], 25)


@pytest.mark.parametrize(
  ('better', 'by', 'relative', 'first', 'second', 'answer'),
  [
    ('lower', 0.0, False, _WORSE, _BETTER, 'holds'),
    ('lower', 0.2, True, _WORSE, _BETTER, 'holds'),
    ('lower', 0.7, True, _WORSE, _BETTER, 'does not hold'),
    ('lower', 0.0, False, _BETTER, _WORSE, 'does not hold'),
    ('lower', 0.0, False, _WORSE, _LIKE_WORSE, 'not decided'),
    ('higher', 0.0, False, _BETTER, _WORSE, 'holds'),
    ('higher', 0.0, False, _WORSE, _BETTER, 'does not hold'),
    ('not higher', 0.0, False, _WORSE, _LIKE_WORSE, 'holds'),
    ('not higher', 0.0, False, _BETTER, _WORSE, 'does not hold'),
    ('not lower', 0.0, False, _WORSE, _BETTER, 'does not hold'),
    ('close', 0.5, False, _WORSE, _BETTER, 'holds'),
    ('close', 0.3, False, _WORSE, _BETTER, 'does not hold'),
    ('close', 0.05, False, _WORSE, _LIKE_WORSE, 'not decided'),
  ],
)
def test_what_becomes_of_a_claim(better, by, relative, first, second, answer):
  claim = Claim('as it says', 'wer1', 'a', 'b', better, by, relative)
  verdict = claim.judge({'a': {'wer1': first}, 'b': {'wer1': second}})
  assert verdict.answer == answer
  assert (verdict.first, verdict.second) == (first.mean(), second.mean())


@hypothesis.given(st.integers(0, 1000), st.sampled_from(['lower', 'higher']))
def test_no_claim_holds_both_ways(seed, better):
  a, b = np.random.default_rng(seed).random((2, 12))
  numbers = {'a': {'x': a}, 'b': {'x': b}}
  there = Claim('', 'x', 'a', 'b', better).judge(numbers).answer
  back = Claim('', 'x', 'b', 'a', better).judge(numbers).answer
  assert {there, back} in ({'holds', 'does not hold'}, {'not decided'})


# --------------------------------------------------------------------------------------------------
# The study
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def config_of(monkeypatch):
  """`config_of(job)`: the config that a job's command loads, with its flags."""

  def load(job):
    argv = ['main', *(x.replace('configs/', f'{ROOT}/configs/') for x in job.arguments[1:])]
    monkeypatch.setattr(sys, 'argv', argv)  # where ml_collections looks for overrides
    values = flags.FlagValues()
    main.define_flags(values)
    values(argv)
    return values.config

  return load


@pytest.mark.filterwarnings('ignore:the load_module')  # how ml_collections reads a file
@pytest.mark.parametrize('form', ['quick', 'full'])
@pytest.mark.parametrize(
  ('study', 'count', 'of_next_seed'),
  [
    (talklip, 22, {'observer', 'syncnet'}),
    (davs, 25, {f'{name}_again{job}' for name in davs.EMBEDDINGS for job in ('', '_judged')}),
    (sf2f, 7, {'judge'}),
    (speech2video, 9, {'syncnet'}),
  ],
)
def test_every_job_has_a_config_that_builds(study, count, of_next_seed, form, tmp_path, config_of):
  todo = study.jobs(tmp_path, form, seed=3, variability=0.5)
  names = [job.name for job in todo]
  assert len(set(names)) == len(names) == count
  for job in todo:
    assert set(job.needs) <= set(names[: names.index(job.name)])
    if job.arguments[0] == 'tfg_jax.main':
      run = configuration.resolve(config_of(job))
      system = systems.build(run, axis_name=None)
      assert run.seed == (4 if job.name in of_next_seed else 3)
      taken = [pathlib.Path(x) for x in system.sources.values()]
      assert all(x.parent == tmp_path for x in taken)
      assert '--mode=evaluate' in job.arguments or {x.name for x in taken} <= set(job.needs)


@pytest.mark.parametrize('study', [talklip, davs, sf2f, speech2video])
@pytest.mark.parametrize('form', ['quick', 'full'])
def test_the_corpus_is_one_that_can_be_made(study, form, tmp_path):
  corpus = study.jobs(tmp_path, form, seed=3, variability=0.5)[0]
  values = flags.FlagValues()
  puppet.define_flags(values)
  values(list(corpus.arguments))
  names = [field.name for field in dataclasses.fields(Settings) if field.name != 'words']
  made = Settings(words=(), **{name: values[name].value for name in names})
  assert (made.seed, made.variability) == (3, 0.5)


@pytest.mark.filterwarnings('ignore:the load_module')  # how ml_collections reads a file
@pytest.mark.parametrize('form', talklip.FORMS)
def test_variants_have_the_same_budget_and_clips(form, tmp_path, config_of):
  todo = {job.name: job for job in talklip.jobs(tmp_path, form, seed=0, variability=0)}
  runs = {name: configuration.resolve(config_of(todo[name])) for name in talklip.VARIANTS}
  wav2lip = configuration.resolve(config_of(todo['wav2lip']))
  assert len({run.num_steps for run in (*runs.values(), wav2lip)}) == 1
  assert all(run.data == runs['g+c'].data for run in runs.values())
  assert form == 'full' or wav2lip.data == runs['g+c'].data
  for name, run in runs.items():
    loss = run.model['loss']
    assert (loss['lip'] > 0) == (name not in ('no_lip', 'no_lip_no_gan'))
    assert (loss['contrastive'] > 0) == name.endswith('+c')
    assert (loss['adversarial'] > 0) == (name != 'no_lip_no_gan')
    assert run.model['audio'] == ('global' if name[0] == 'g' else 'local')
    assert run.model['stage_starts'] == (0, 0)
    base = 'base_g' if name[0] == 'g' else 'base_l'
    assert run.model['start'] == str(tmp_path / base) and base in todo[name].needs
  assert wav2lip.model['start'] == str(tmp_path / 'base_l')
  assert wav2lip.model['stage_starts'] == (0,)


def test_the_study_reads_judges_and_shows(tmp_path, toy_records):
  rates = {'ground_truth': 0.1, 'no_lip': 0.8, 'l': 0.4, 'l+c': 0.41, 'g': 0.6, 'g+c': 0.3}
  fabricated.of_talklip(tmp_path, rates)
  (tmp_path / 'puppets').symlink_to(toy_records)
  numbers = talklip.read(tmp_path)
  assert list(numbers)[:3] == ['ground_truth', 'identity_mouth', 'wav2lip']
  shown = talklip.table(numbers)
  line = next(x for x in shown.splitlines() if x.startswith('| TalkLip (g+c)'))
  assert line.endswith('30.5% (23.4%) | 30.6% (35.1%) |')
  assert '| ground truth | 5.01 (-) |' in shown
  answers = {
    (v.claim.metric, v.claim.first, v.claim.second): v.answer
    for v in (claim.judge(numbers) for claim in talklip.CLAIMS)
  }
  assert answers['wer1', 'no_lip', 'l'] == answers['wer2', 'no_lip', 'l'] == 'holds'
  assert answers['wer1', 'l', 'g'] == 'does not hold'
  assert answers['wer1', 'l', 'l+c'] == 'does not hold'  # surely worse, by 0.01
  assert answers['wer1', 'g', 'g+c'] == 'holds'
  assert answers['psnr', 'no_lip', 'l'] == 'holds'
  strip = np.asarray(talklip.strip(tmp_path))
  assert strip.shape == (2 * (4 * 16 + 14), 150 + 64, 3)
  column = strip[14:78:16, -1, 0]  # filmed, without lip loss, l+c, g+c
  np.testing.assert_array_equal(column, [60, 60, 120, 180])


@pytest.mark.filterwarnings('ignore:the load_module')  # how ml_collections reads a file
@pytest.mark.parametrize('form', davs.FORMS)
def test_supervisions_and_generators_of_davs_differ_in_what_they_are_named_for(
  form, tmp_path, config_of
):
  todo = {job.name: job for job in davs.jobs(tmp_path, form, seed=0, variability=0)}
  embeddings = [name + again for name in davs.EMBEDDINGS for again in ('', '_again')]
  for names in (embeddings, davs.GENERATORS):
    runs = {name: configuration.resolve(config_of(todo[name])) for name in names}
    assert len({run.num_steps for run in runs.values()}) == 1
    assert all(run.data == runs[name].data for run in runs.values() for name in names)
    for name, run in runs.items():
      built = systems.build(run, axis_name=None)
      settings = built.settings
      if names is embeddings:
        name, again, _ = name.partition('_again')
        assert run.seed == bool(again)
        assert built.last_stage == 1 and settings.word_steps == run.num_steps
        assert settings.shared_classifier == (name in ('words', 'words_c+shared'))
        assert ('domain_classifier' in built.networks) == (name in ('words', 'words_c+adv'))
      else:
        assert built.last_stage == 2 and settings.word_steps == settings.identity_steps == 0
        assert ('sequence_discriminator' in built.networks) == (name != 'l1')
        assert ('identity_word_classifier' in built.networks) == (name != 'tangled')
        assert settings.sources['base'] == str(tmp_path / 'base') and 'base' in todo[name].needs


def test_the_study_of_davs_reads_judges_and_shows(tmp_path, toy_records):
  levels = {
    ('words_c', 'both/word_error'): 0.9,
    ('words', 'both/word_error'): 0.0,
    ('words', 'seen/word_error'): 0.0,
    ('words_again', 'seen/word_error'): 1.0,
    ('words', 'video_to_audio/rank'): 1.0,
    ('tangled', 'person/word_read'): 0.9,
    ('full', 'person/word_read'): 0.1,
    ('full', 'from_audio/psnr'): 0.7,
    ('full', 'from_audio/ssim'): 0.3,
  }
  fabricated.of_davs(tmp_path, levels)
  (tmp_path / 'puppets').symlink_to(toy_records)
  numbers = davs.read(tmp_path)
  shown = davs.table(numbers).splitlines()
  line = next(x for x in shown if x.startswith('| all three'))
  assert line.startswith('| all three | 50.0% (67.5%) |')  # the mean of two seeds
  assert '100.0% (95.2%) | 100.0% (64.2%) | 100.0% (84.7%) | 1 (1) |' in line
  assert any(x.startswith('| the photo, unmoved | 0.5 (-) | 0.50') for x in shown)
  answers = {
    (v.claim.metric, v.claim.first, v.claim.second): v.answer
    for v in (claim.judge(numbers) for claim in davs.CLAIMS)
  }
  assert answers['both', 'words_c', 'words_c+shared'] == 'holds'
  assert answers['both', 'words_c+adv', 'words'] == 'holds'
  assert answers['video_to_audio_1', 'words_c+adv', 'words'] == 'holds'
  assert answers['word_read', 'tangled', 'full'] == 'holds'
  assert answers['from_audio_psnr', 'l1', 'full'] == 'holds'
  assert answers['from_audio_ssim', 'l1', 'full'] == 'does not hold'
  strip = davs.strip(tmp_path)
  assert strip.size == (150 + 64, 2 * (5 * 16 + 14))


@pytest.mark.filterwarnings('ignore:the load_module')  # how ml_collections reads a file
@pytest.mark.parametrize('form', ['quick', 'full'])
def test_portraits_are_drawn_in_equal_budgets_and_learn_from_one_facenet(form, tmp_path, config_of):
  todo = {job.name: job for job in sf2f.jobs(tmp_path, form, seed=0, variability=0)}
  ours, baseline = (configuration.resolve(config_of(todo[name])) for name in ('sf2f', 'voice2face'))
  assert ours.data == baseline.data
  assert ours.model['facenet_weights'] == baseline.model['facenet_weights']
  assert ours.model['facenet_weights'].endswith('/faces')
  steps = {name: ours.model[name] for name in ('portrait_steps', 'settling_steps')}
  assert ours.num_steps > sum(steps.values())  # the rest is the fuser's
  assert ours.num_steps >= baseline.num_steps == baseline.model['portrait_steps']
  assert baseline.model['decoder'] == 'deconvolution' and ours.model['windows'] > 1


def test_the_study_of_portraits_reads_judges_and_shows(tmp_path):
  recalls = {
    ('sf2f', 'ground_truth'): 1.0,
    ('sf2f', 'generated_1.25s'): 0.5,
    ('sf2f', 'generated_5s'): 0.6,
    ('sf2f', 'fused_5s'): 0.6,
    ('voice2face', 'generated_1.25s'): 0.2,
    ('voice2face', 'generated_5s'): 0.2,
  }
  fabricated.of_sf2f(tmp_path, recalls)
  numbers = sf2f.read(tmp_path)
  shown = sf2f.table(numbers).splitlines()
  assert shown[2].startswith('| chance | - (-) | - (-) | 2.5% (1.0%) |')
  assert shown[-1].startswith('| SF2F, 5 s | 0.60') and shown[-1].endswith('| 2.50 (19.49) |')
  answers = {
    (v.claim.metric, v.claim.first, v.claim.second): v.answer
    for v in (claim.judge(numbers) for claim in sf2f.CLAIMS)
  }
  assert answers['recall_5', 'chance', 'single_1.25s'] == 'holds'
  assert answers['recall_5', 'voice2face_1.25s', 'single_1.25s'] == 'holds'
  assert answers['cosine', 'voice2face_5s', 'fused_5s'] == 'holds'
  assert answers['recall_5', 'single_5s', 'fused_5s'] == 'not decided'
  strip = np.asarray(sf2f.strip(tmp_path))
  assert strip.shape == (4 * 8, 150 + 2 * 8, 3)
  np.testing.assert_array_equal(strip[4::8, -1, 0], [0, 50, 50, 100])


@pytest.mark.filterwarnings('ignore:the load_module')  # how ml_collections reads a file
@pytest.mark.parametrize('form', speech2video.FORMS)
def test_heads_are_drawn_in_equal_budgets(form, tmp_path, config_of):
  todo = {job.name: job for job in speech2video.jobs(tmp_path, form, seed=0, variability=0)}
  runs = {
    name: configuration.resolve(config_of(todo[name]))
    for name in ('speech2video', 'sdfa', 's2f_sdfa')
  }
  prepared = {
    'speech2video': ('expert_steps', 'distillation_steps'),
    'sdfa': ('expert_steps',),
    's2f_sdfa': ('expert_steps', 'voice_steps'),
  }
  drawing = {
    run.num_steps - sum(run.model[name] for name in prepared[system])
    for system, run in runs.items()
  }
  assert len(drawing) == 1 and drawing.pop() > 0
  assert all(run.data == runs['sdfa'].data for run in runs.values())
  cast = dict(x.removeprefix('--').split('=') for x in todo['puppets'].arguments[1:])
  seen = int(cast['identities']) - int(cast['unseen_identities'])
  assert all(run.model['experts']['identities'] == seen for run in runs.values())
  assert all(run.model['experts']['traits'] == 2 for run in runs.values())


def test_the_study_of_heads_reads_judges_and_shows(tmp_path, toy_records):
  levels = {
    ('sdfa', 'ssim'): 0.7,
    ('speech2video', 'right_person'): 1.1,
    ('speech2video', 'right_emotion'): 0.3,
    ('unseen', 'right_traits'): 0.8,
    ('s2f_sdfa', 'lse_c'): 0.4,
  }
  fabricated.of_speech2video(tmp_path, levels)
  (tmp_path / 'puppets').symlink_to(toy_records)
  numbers = speech2video.read(tmp_path)
  shown = speech2video.table(numbers).splitlines()
  assert any(x.startswith('| SDFA, sees the face | 0.') and '(0.705) |' in x for x in shown)
  assert 'lse_c' not in numbers['average_face']
  answers = {
    (v.claim.metric, v.claim.first, v.claim.second): v.answer
    for v in (claim.judge(numbers) for claim in speech2video.CLAIMS)
  }
  assert answers['ssim', 'speech2video', 'sdfa'] == 'holds'
  assert answers['lse_c', 's2f_sdfa', 'speech2video'] == 'holds'
  assert answers['right_person', 'average_face', 'speech2video'] == 'holds'
  assert answers['right_emotion', 'average_face', 'speech2video'] == 'does not hold'
  assert answers['right_traits', 'unseen_average', 'unseen'] == 'holds'
  strip = np.asarray(speech2video.strip(tmp_path, clips=2))
  assert strip.shape == (2 * (4 * 16 + 14), 150 + 64, 3)
  np.testing.assert_array_equal(strip[14:78:16, -1, 0], [10, 50, 100, 150])


def test_what_the_command_cannot_do(tmp_path):
  told = subprocess.run(
    [sys.executable, '-m', 'tfg_jax.claims', '--paper=wav2lip', f'--workdir={tmp_path}'],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  assert told.returncode == errors.EXIT_EXPECTED_FAILURE
  assert (
    'should be one of <talklip|davs|sf2f|speech2video>' in told.stderr
    and 'Traceback' not in told.stderr
  )
