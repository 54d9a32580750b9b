"""The page of a run: what it shows, that it stays small and whole, and what it makes of resumes."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfg_jax import curves, html_page, reporting, run_report


@pytest.fixture
def workdir(trained_workdir, tmp_path):
  """A copy of a trained run, without its checkpoints."""
  folder = tmp_path / 'run'
  shutil.copytree(trained_workdir, folder, ignore=shutil.ignore_patterns('checkpoints', 'frozen'))
  return folder


def page_of(workdir):
  run_report.refresh(workdir)
  return (workdir / run_report.REPORT_FILE).read_text()


def test_a_training_leaves_a_page_that_holds_everything(trained_workdir):
  page = (trained_workdir / 'report.html').read_text()
  assert '<script' not in page and 'http' not in page and '<link' not in page
  assert all(
    address.startswith('data:') for address in re.findall('(?:src|poster)="([^"]{5})', page)
  )
  assert '<title>talklip, step 4 of 4</title>' in page and 'Trained:</b> 4 of 4 steps' in page
  assert 'On clips it has not seen, the drawn mouths are' in page
  results = page[page.index('Results') : page.index('Samples')]
  assert results.index('ground truth') < results.index('generated')
  assert 'Means over 3 clips of split &#x27;valid&#x27; after step 4.' in results
  means = json.loads((trained_workdir / 'results.json').read_text())['means']
  assert f'{means["generated/mouth_l1"]:.4g}</td>' in results
  latest, earlier = page.split('<h2>Earlier samples')
  assert latest.count('<img') == 1 and latest.count('<video') == 2
  assert earlier.count('<img') == earlier.count('<video') == 1 and '>step 2<' in earlier
  last = json.loads((trained_workdir / 'metrics.jsonl').read_text().splitlines()[-2])
  assert f'g/l1 <b>{last["g/l1"]:.4g}</b>' in page
  assert '<td>licence</td><td>CC0</td>' in page
  assert 'learning_rate <b>' in page and '<h3>checkpoint</h3>' in page
  assert f'JAX {jax.__version__}' in page and '1 x cpu' in page
  assert not list(trained_workdir.glob('*.partial'))


def test_a_run_that_has_only_begun_has_a_page(workdir):
  for name in ('results.json', 'metrics.jsonl', 'sessions.json'):
    (workdir / name).unlink()
  shutil.rmtree(workdir / 'samples')
  page = page_of(workdir)
  assert '0 of 4 steps' in page and 'Not evaluated yet.' in page
  assert '<h2>Training' not in page and '<h2>Samples' not in page and '<svg' not in page


def test_what_files_say_is_text(workdir):
  results = json.loads((workdir / 'results.json').read_text())
  results |= {'summary': '<b>x', 'split': '<i>', 'means': {'<u>/<s>': 1.0}}
  (workdir / 'results.json').write_text(json.dumps(results))
  config = json.loads((workdir / 'config.json').read_text())
  config['data']['root'] = '/none/<em>'
  (workdir / 'config.json').write_text(json.dumps(config))
  page = page_of(workdir)
  assert not re.search('<(b>x|i>|u>|s>|em>)', page)
  assert 'The records are no longer in /none/&lt;em&gt;.' in page


# --------------------------------------------------------------------------------------------------
# Size
# --------------------------------------------------------------------------------------------------


def test_of_many_evaluations_some_are_shown_from_the_first_to_the_last(workdir):
  for step in (1, *range(5, 60)):
    for path in list((workdir / 'samples').glob('step_000000002*')):
      shutil.copy(path, path.with_name(path.name.replace('0000002', f'{step:07d}')))
  sessions = json.loads((workdir / 'sessions.json').read_text())
  sessions[-1]['to_step'] = 58  # a killed run did another evaluation
  (workdir / 'sessions.json').write_text(json.dumps(sessions))
  page = page_of(workdir)
  assert 'Samples <small>after step 58</small>' in page and 'after step 59' not in page
  steps = [int(step) for step in re.findall('<figcaption>step (\\d+)<', page)]
  assert len(steps) == 8 and steps[0] == 1 and steps[-1] == 57 and steps == sorted(steps)
  assert page.count('<video') == 2 + 8


def test_what_is_too_large_is_linked_and_the_latest_last(workdir, monkeypatch):
  whole = page_of(workdir)
  monkeypatch.setattr(run_report, '_MEDIA_BYTES', len(whole) * 3 // 4 // 3)
  page = page_of(workdir)
  links = re.findall('href="samples/([^"]+)"', page)
  assert links and len(page) < len(whole)
  assert all((workdir / 'samples' / name).exists() for name in links)
  assert 'src="data:image/jpeg' in page[: page.index('Earlier samples')]
  assert 'step_000000004.png' not in links and 'step_000000002_clip_0.mp4' in links


@settings(max_examples=30)
@given(
  values=st.lists(st.floats(-10, 10) | st.just(np.nan), min_size=1, max_size=2000),
  most=st.integers(1, 50),
)
def test_curves_have_few_points_and_lose_no_number(values, most):
  found = curves.Curves()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(curves, 'MOST_POINTS', most)
    for step, value in enumerate(values, 1):
      found.add(step, {'a': value})
  known = np.array([(step, x) for step, x in enumerate(values, 1) if np.isfinite(x)])
  assert found.not_finite('a') == len(values) - len(known)
  if not len(known):
    assert found.names == []
    return
  steps, means, lows, highs = found.curve('a')
  assert len(steps) <= most and (np.diff(steps) > 0).all()
  assert (lows <= means + 1e-9).all() and (means <= highs + 1e-9).all()
  assert lows.min() == known[:, 1].min() and highs.max() == known[:, 1].max()
  width = 2 ** int(np.ceil(np.log2(max(1, len(values) / most))))
  inside = (known[:, 0] - 1) // width == (len(values) - 1) // width
  if inside.any():
    np.testing.assert_allclose(means[-1], known[inside, 1].mean(), atol=1e-9)


def test_a_curve_on_a_large_range_has_a_logarithmic_scale_and_one_point_is_a_dot():
  steps = np.arange(1.0, 4)
  numbers = np.array([1.0, 10, 100])
  figure = html_page.lines([(steps, numbers, numbers, numbers)], 'loss', 'loss')
  assert 'points="0.0,118.0 165.0,60.0 330.0,2.0"' in figure and '(log scale)' in figure
  dot = html_page.lines([(steps[:1], numbers[:1], numbers[:1], numbers[:1])], 'loss', 'loss')
  assert '<circle' in dot and '<polyline' not in dot


# --------------------------------------------------------------------------------------------------
# Sessions, faults, processes
# --------------------------------------------------------------------------------------------------


def session(workdir, start, *updates):
  report = run_report.RunReport(workdir, start, jax.devices()[:1])
  for step in updates:
    report.update(step, *curves.read([]))
  return [(x['from_step'], x['to_step']) for x in sessions_of(workdir)]


def sessions_of(workdir):
  return json.loads((workdir / 'sessions.json').read_text())


def test_sessions_of_resumed_and_killed_runs_are_kept_and_not_doubled(workdir):
  (workdir / 'sessions.json').unlink()
  assert session(workdir, 0, 0, 1, 3) == [(0, 3)]
  assert session(workdir, 2, 2) == [(0, 2), (2, 2)]  # killed before it saved step 3
  assert session(workdir, 2, 2, 4) == [(0, 2), (2, 4)]  # that one got nowhere
  page = page_of(workdir)
  assert '4 of 4 steps' in page and 'in 2 sessions' in page


def test_results_of_a_step_that_is_done_again_are_not_shown(workdir):
  sessions = sessions_of(workdir)
  sessions[-1] |= {'to_step': 3, 'ended': False}
  (workdir / 'sessions.json').write_text(json.dumps(sessions))
  page = page_of(workdir)
  assert '3 of 4 steps' in page and 'Not evaluated yet.' in page and 'after step 2' in page


def test_the_curves_after_a_resume_are_those_of_the_file(trained_workdir, tmp_path):
  lines = (trained_workdir / 'metrics.jsonl').read_text().splitlines(keepends=True)
  training, evaluations = curves.read(lines)
  np.testing.assert_array_equal(training.curve('g/l1')[0], [1, 2, 3, 4])
  np.testing.assert_array_equal(evaluations.curve('generated/mouth_l1')[0], [2, 4])
  assert 'generated/mouth_l1' not in training.names
  (tmp_path / 'metrics.jsonl').write_text(''.join(lines))
  about = dict(num_steps=4, batch_size=2, log_every=1, waiting_share=lambda: 0.0)
  report = reporting.Reporter(tmp_path, start_step=2, **about)
  report.close()
  np.testing.assert_array_equal(report.training_curves.curve('g/l1')[0], [1, 2])
  np.testing.assert_array_equal(report.evaluation_curves.curve('generated/mouth_l1')[0], [2])


def test_a_page_that_cannot_be_written_is_said_and_stops_nothing(workdir, capsys, monkeypatch):
  report = run_report.RunReport(workdir, 4, jax.devices()[:1])
  before = (workdir / 'report.html').read_bytes()

  def full(source, target):
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(html_page.os, 'replace', full)
    report.update(5, *curves.read([]))
  assert capsys.readouterr().out == (
    'report.html was not written: OSError: [Errno 28] No space left on device\n'
  )
  assert (workdir / 'report.html').read_bytes() == before
  assert not list(workdir.glob('*.partial'))
  (workdir / 'sessions.json').write_text('{')
  report = run_report.RunReport(workdir, 4, jax.devices()[:1])
  report.update(5, *curves.read([]))
  assert 'report.html was not written: JSONDecodeError' in capsys.readouterr().out
  (workdir / 'sessions.json').unlink()
  report.update(5, *curves.read([]))
  assert capsys.readouterr().out == '' and b'5 of 4 steps' in (workdir / 'report.html').read_bytes()


def test_only_the_first_process_writes(workdir, monkeypatch):
  (workdir / 'report.html').unlink()
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  run_report.RunReport(workdir, 0, jax.devices()[:1]).update(1, *curves.read([]))
  assert not (workdir / 'report.html').exists()
