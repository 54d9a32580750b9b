"""What the project takes from others: declared packages with a floor, and nothing at run time."""

import ast
import importlib.metadata
import json
import pathlib
import re
import sys
from unittest import mock

import clips
import pytest
import setuptools
from forked import Forked
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[2]
OWN = {'tfg_jax', 'data_prep', 'configs'}
# Declared for another, which imports it without saying so; and what only tests and users import.
INDIRECT = {'importlib-resources', 'librosa'}
ALSO_CALLED = {'cv2': 'opencv-python-headless', 'PIL': 'pillow', 'sklearn': 'scikit-learn'}


def requirements():
  """(install_requires, {extra: requirements}) as setup.py says them."""
  with mock.patch.object(setuptools, 'setup') as setup:
    path = ROOT / 'setup.py'
    exec(compile(path.read_text(), str(path), 'exec'), {'__file__': str(path), '__name__': 'x'})
  said = setup.call_args.kwargs
  base = [Requirement(line) for line in said['install_requires']]
  return base, {name: [*map(Requirement, lines)] for name, lines in said['extras_require'].items()}


def key(name):
  return re.sub(r'[-_.]+', '-', name).lower()


def imported():
  """{package: a file that imports it} of all that the project imports, at any depth."""
  found = {}
  for folder in sorted(OWN):
    for path in sorted((ROOT / folder).rglob('*.py')):
      for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
          names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
          names = [node.module]
        for name in names:
          found.setdefault(name.split('.')[0], str(path.relative_to(ROOT)))
  return {x: path for x, path in found.items() if x not in OWN | sys.stdlib_module_names}


def distributions(package):
  """The names under which a package may be declared."""
  if package in ALSO_CALLED:
    return {ALSO_CALLED[package]}
  return {key(x) for x in importlib.metadata.packages_distributions().get(package, [package])}


def test_every_import_is_declared_and_every_declaration_imported():
  base, extras = requirements()
  declared = {key(x.name) for x in [*base, *(x for part in extras.values() for x in part)]}
  needed = {}
  for package, path in imported().items():
    names = distributions(package) | {key(package)}
    assert names & declared, f'{path} imports {package}, which setup.py does not declare'
    needed |= dict.fromkeys(names)
  unused = {key(x.name) for x in base} - needed.keys() - INDIRECT
  assert not unused, f'setup.py declares {unused}, which nothing imports'


def test_every_dependency_has_a_floor_and_no_ceiling():
  base, extras = requirements()
  for requirement in [*base, *(x for part in extras.values() for x in part)]:
    kinds = {specifier.operator for specifier in requirement.specifier}
    assert kinds == {'>='}, requirement


# --------------------------------------------------------------------------------------------------
# Networks of the other kind
# --------------------------------------------------------------------------------------------------


def without_network(config_json: str, workdir: str, video: str, output: str):
  """Trains, evaluates and draws; whatever reaches for the network ends it."""
  import socket

  def hook(event, arguments):
    if event in ('socket.getaddrinfo', 'socket.gethostbyname', 'urllib.Request'):
      raise AssertionError(f'{event} {arguments}')
    if event in ('socket.connect', 'socket.sendto', 'socket.bind'):
      assert arguments[0].family == socket.AF_UNIX, f'{event} {arguments}'

  sys.addaudithook(hook)
  import forked
  import ml_collections

  from tfg_jax import evaluate, generate, lip_sync, trained

  forked.train(config_json, workdir)
  config = ml_collections.ConfigDict(json.loads(config_json))
  evaluate.evaluate_workdir(pathlib.Path(workdir), config)
  request = lip_sync.Request(audio=video, video=video, output=output, box=[8, 4, 56, 44])
  generate.make(request, trained.load(workdir))
  try:
    socket.create_connection(('127.0.0.1', 9))
  except AssertionError:
    print('all done, and the hook works')


@pytest.mark.faults
def test_training_evaluating_and_drawing_need_no_network(twin, tmp_path):
  video = clips.write(tmp_path / 'in.mp4', 10, audio=clips.tone(0.4))
  config, output = json.dumps(twin().to_dict()), str(tmp_path / 'out.mp4')
  run = Forked(tmp_path / 'log', without_network, config, str(tmp_path / 'run'), video, output)
  code, printed = run.wait(900)
  assert code == 0 and printed.strip().endswith('all done, and the hook works'), printed[-3000:]
  assert pathlib.Path(output).exists()
