"""Files changed at random: a result or the project's own error, in bounded memory and time."""

import json

import pytest
from forked import Forked
from fuzzing import read_all

CASES = {
  'record': 150,
  'shard without index': 100,
  'index': 150,
  'dataset_info.json': 200,
  'example': 200,
  'jpeg': 200,
  'png': 100,
  'wav': 150,
  'mp4': 120,
  'mkv': 80,
  'boxes': 100,
  'pth': 150,
  'pth of old': 100,
  'safetensors': 150,
  'numpy pickle': 100,
  'converted network': 30,
  'checkpoint': 60,
  'config.json': 200,
  'overrides': 100,
}


def test_there_are_enough_of_them():
  assert sum(CASES.values()) >= 2000


def read_or_refused(tmp_path, name, first, count):
  process = Forked(tmp_path / 'log', read_all, name, first, count, str(tmp_path))
  code, printed = process.wait(timeout=1200)
  at = (tmp_path / 'at').read_text() if (tmp_path / 'at').exists() else 'the good file'
  assert code == 0, f'{name}, case {at}: ended with {code}. {printed[-2000:]}'
  found = [json.loads(line) for line in (tmp_path / 'findings.jsonl').read_text().splitlines()]
  assert not found, '\n'.join(map(str, found))
  counts = json.loads((tmp_path / 'counts.json').read_text())
  assert counts['refused'] > count / 20, counts
  return counts


@pytest.mark.faults
@pytest.mark.parametrize('name', CASES)
def test_changed_files_are_read_or_refused(tmp_path, name):
  read_or_refused(tmp_path, name, 0, CASES[name])


@pytest.mark.overnight
@pytest.mark.parametrize('name', CASES)
def test_many_more_changed_files_are_read_or_refused(tmp_path, name):
  read_or_refused(tmp_path, name, 1_000_000, 20 * CASES[name])
