"""The Colab notebook, from top to bottom as a person runs it, with fewer steps in its form."""

import pathlib
import re

import pytest

nbformat = pytest.importorskip('nbformat')
nbclient = pytest.importorskip('nbclient')

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOK = ROOT / 'colab' / 'tfg_jax.ipynb'
# The training of tests/test_demo.py, whose compiled step can be had from the cache.
FORM = {'steps': 60, 'puppets': 48, 'pictures_every': 30}


@pytest.fixture(scope='module')
def notebook():
  return nbformat.read(NOTEBOOK, as_version=4)


def fill_in(notebook, values):
  """Sets fields of the forms: lines like `steps = 250  # @param ...`."""
  cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
  for name, value in values.items():
    pattern = re.compile(rf'^{name} = .*  (# @param .*)$', re.MULTILINE)
    (cell,) = [cell for cell in cells if pattern.search(cell.source)]
    cell.source = pattern.sub(rf'{name} = {value!r}  \1', cell.source)


def said(cell):
  """What a cell shows as text."""
  texts = [x.get('text') or x.data.get('text/markdown', '') for x in cell.outputs]
  return '\n'.join(texts)


def pictures(cell):
  return [x.data['image/jpeg'] for x in cell.outputs if 'image/jpeg' in x.get('data', {})]


def check(notebook):
  """What a whole run shows, here or as it is stored."""
  install, train, lip_sync, export = (x for x in notebook.cells if x.cell_type == 'code')
  assert 'On clips it has not seen, the drawn mouths are' in said(train)
  assert len(pictures(train)) == len(pictures(lip_sync)) == len(pictures(export)) == 1
  assert any('video/mp4' in x.data.get('text/html', '') for x in lip_sync.outputs)
  assert re.search(r'the last two differ by \de-0[4-9] at most', said(export))
  return install


def test_what_is_stored_reads_well(notebook):
  nbformat.validate(notebook)
  check(notebook)
  assert NOTEBOOK.stat().st_size < 1_000_000
  kinds = {x.output_type for cell in notebook.cells for x in cell.get('outputs', [])}
  assert kinds == {'display_data', 'stream'}
  text = '\n'.join(said(x) for x in notebook.cells if x.cell_type == 'code')
  assert len(text) < 1500 and not re.search(r'/(home|root|tmp|work)/', text)


@pytest.mark.end_to_end
def test_every_cell_runs_and_shows_what_it_should(notebook, tmp_path, monkeypatch):
  pytest.importorskip('torch', reason='needs the extra [torch]')
  changed = nbformat.from_dict(notebook)
  fill_in(changed, FORM)
  for cell in changed.cells:
    if cell.cell_type == 'code':
      cell.outputs = []
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  monkeypatch.setenv('XLA_FLAGS', '')  # its size is the demo's own: here the compiler's effort pays
  monkeypatch.setenv('JAX_NUM_CPU_DEVICES', '1')
  resources = {'metadata': {'path': str(tmp_path)}}
  nbclient.NotebookClient(changed, timeout=600, resources=resources).execute()
  install = check(changed)
  assert 'tfg_jax is here already: nothing is installed.' in said(install)
  run = tmp_path / 'talking_faces' / 'run_on_48_puppets'
  assert (run / 'report.html').exists()
  assert '60 steps' in '\n'.join(said(x) for x in changed.cells if x.cell_type == 'code')


def test_without_an_address_the_first_cell_says_what_to_do(notebook, tmp_path, monkeypatch):
  import importlib.util

  (install, *_) = (x for x in notebook.cells if x.cell_type == 'code')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(SystemExit, match='Put the address of the repository into the form'):
    exec(install.source, {})
