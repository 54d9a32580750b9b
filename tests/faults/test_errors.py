"""All that the project raises: one family for users, and few others for programmers."""

import ast
import pathlib
import pickle

import pytest

from tfg_jax import errors

ROOT = pathlib.Path(__file__).parents[2]
FAMILY = {
  name: kind
  for name, kind in vars(errors).items()
  if isinstance(kind, type) and issubclass(kind, errors.TfgError)
}
# Mistakes of a caller in Python, an interruption, and signals that never leave their package.
OTHERS = {'ValueError', 'IndexError', 'KeyboardInterrupt'}
INTERNAL = {'Damaged': 'tfg_jax/pytorch', 'BadZipFile': 'tfg_jax/pytorch', 'NoMemoryError': 'plan'}
KNOW_THEIR_FILE = {'MediaError', 'StorageError', 'DamagedCheckpointError'}


def last_name(node):
  return node.attr if isinstance(node, ast.Attribute) else getattr(node, 'id', '')


def sources():
  for folder in ('tfg_jax', 'data_prep', 'configs'):
    for path in sorted((ROOT / folder).rglob('*.py')):
      yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def makers():
  """Functions and properties of the project that return an error of the family."""
  for _, tree in sources():
    for node in ast.walk(tree):
      if isinstance(node, ast.FunctionDef):
        returned = [x.value for x in ast.walk(node) if isinstance(x, ast.Return) and x.value]
        calls = [x for x in returned if isinstance(x, ast.Call)]
        if any(last_name(call.func) in FAMILY for call in calls):
          yield node.name


def test_everything_raised_is_of_the_family_or_a_programming_error():
  known, odd = set(makers()), []
  for path, tree in sources():
    for node in ast.walk(tree):
      if not isinstance(node, ast.Raise) or node.exc is None:
        continue
      if isinstance(node.exc, ast.Call):
        name = last_name(node.exc.func)
      elif last_name(node.exc) in OTHERS | known:
        name = last_name(node.exc)
      else:
        continue  # a variable: what was caught or made above
      if name in INTERNAL and INTERNAL[name] in path:
        continue
      if name not in FAMILY.keys() | OTHERS | known:
        odd.append(f'{path}:{node.lineno} raises {name}')
  assert not odd, '\n'.join(odd)


def family_calls():
  for path, tree in sources():
    for node in ast.walk(tree):
      if isinstance(node, ast.Call) and last_name(node.func) in FAMILY:
        yield f'{path}:{node.lineno}', last_name(node.func), node


def test_every_error_says_what_and_errors_about_files_say_where():
  seen, odd = set(), []
  for place, name, call in family_calls():
    seen.add(name)
    given = {keyword.arg for keyword in call.keywords}
    if len(call.args) != 1 or not given <= {'where', 'hint'}:
      odd.append(f'{place}: {name} takes one sentence, where= and hint=')
    if name in KNOW_THEIR_FILE and 'where' not in given:
      odd.append(f'{place}: {name} without where=')
  assert not odd, '\n'.join(odd)
  assert seen == FAMILY.keys() - {'TfgError'}  # each kind is raised somewhere


@pytest.mark.parametrize('name', sorted(FAMILY.keys() - {'TfgError'}))
def test_every_kind_has_a_next_step_and_survives_a_process(name):
  error = FAMILY[name]('the value is 3.', where='a/file')
  assert error.next_step and FAMILY[name].__doc__
  assert str(error) == f'{name}: the value is 3.\n  where: a/file\n  next:  {error.next_step}'
  again = pickle.loads(pickle.dumps(error))
  assert type(again) is FAMILY[name] and str(again) == str(error)
  assert FAMILY[name]('x', hint='do this').hint == 'do this'
