"""Public names say what they do, take, return and raise; networks say where they come from."""

import ast
import pathlib
import re

import pytest

from tfg_jax import errors

ROOT = pathlib.Path(__file__).parents[1]
MODULES = sorted(
  path.relative_to(ROOT).as_posix()
  for package in ('tfg_jax', 'data_prep')
  for path in (ROOT / package).rglob('*.py')
)
# Where functions take arrays: their shapes are part of what they do.
NUMERIC = [
  name
  for name in MODULES
  if name.startswith(('tfg_jax/networks/', 'tfg_jax/features/', 'tfg_jax/metrics/'))
  or name == 'tfg_jax/losses.py'
]
NETWORKS = [x for x in NUMERIC if '/networks/' in x and not x.endswith('__init__.py')]
OWN_ERRORS = {
  name
  for name, value in vars(errors).items()
  if isinstance(value, type) and issubclass(value, errors.TfgError)
}
# Said once, in the docstring of the module or of the interface that a method belongs to.
COMMANDS = {'main', 'define_flags'}
INTERFACES = {
  'tfg_jax/systems/base.py': ('System',),
  'tfg_jax/observers.py': ('Observer',),
}
# (B, T, ...), (N,), (..., H, W, 3), (...)
_SHAPE = re.compile(r'\(\.\.\.\)|\((\.\.\.|\*?\w[\w /*+.-]*),[^()]*\)')
_NO_ARRAYS = re.compile(r'int|float|str|bool|bytes|Sequence|Mapping|tuple|Path|Callable')
_SOURCE = re.compile(r'et al|[A-Za-z]\w+, \d{4}|\(\w[\w ]*,? \d{4}\)|\w+/\w+|PyTorch')


def parsed(module):
  return ast.parse((ROOT / module).read_text(encoding='utf-8'))


def functions(module):
  """(name, function, class or None) of all public functions and methods of a module."""
  for node in parsed(module).body:
    if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
      yield node.name, node, None
    elif isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
      for item in node.body:
        if isinstance(item, ast.FunctionDef) and (
          not item.name.startswith('_') or item.name == '__call__'
        ):
          yield f'{node.name}.{item.name}', item, node


def inherited():
  """Methods that an interface documents, with its docstring of each."""
  found = {}
  for module, classes in INTERFACES.items():
    for node in parsed(module).body:
      if isinstance(node, ast.ClassDef) and node.name in classes:
        methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
        found |= {item.name: ast.get_docstring(item) or '' for item in methods}
  return found


INHERITED = inherited()


def said(function, owner):
  """Everything that is said of a function: docstring, comments of its head, the interface's."""
  text = ast.get_docstring(function) or ''
  if owner is not None:
    text += INHERITED.get(function.name, '')
    if function.name == '__call__':
      text += ast.get_docstring(owner) or ''
  return text


@pytest.mark.parametrize('module', MODULES)
def test_everything_public_says_what_it_is(module):
  tree = parsed(module)
  silent = [] if ast.get_docstring(tree) or not tree.body else ['the module itself']
  for node in tree.body:
    if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
      silent += [] if ast.get_docstring(node) else [node.name]
  for name, function, owner in functions(module):
    known = function.name in COMMANDS or function.name in ('setup', '__call__')
    if not known and not said(function, owner).strip():
      silent.append(name)
  assert not silent


@pytest.mark.parametrize('module', MODULES)
def test_errors_that_are_raised_are_documented(module):
  silent = []
  for name, function, owner in functions(module):
    if function.name in COMMANDS:
      continue
    text = said(function, owner)
    for node in ast.walk(function):
      if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        error = ast.unparse(node.exc.func).split('.')[-1]
        if error in OWN_ERRORS and error not in text and 'raises what' not in text.lower():
          silent.append(f'{name}: {error}')
  assert not silent


@pytest.mark.parametrize('module', NUMERIC)
def test_functions_of_arrays_say_their_shapes(module):
  lines = (ROOT / module).read_text(encoding='utf-8').split('\n')
  silent = []
  for name, function, owner in functions(module):
    arrays = [
      x.arg
      for x in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
      if x.arg not in ('self', 'cls', 'train', 'axis_name')
      and not (x.annotation and _NO_ARRAYS.search(ast.unparse(x.annotation)))
    ]
    head = ' '.join(lines[function.lineno - 1 : function.body[0].lineno])
    comments = ' '.join(re.findall(r'#.*', head))
    if arrays and not _SHAPE.search(said(function, owner) + comments):
      silent.append(name)
  assert not silent


@pytest.mark.parametrize('module', NETWORKS)
def test_networks_name_their_source(module):
  assert _SOURCE.search(ast.get_docstring(parsed(module)))
