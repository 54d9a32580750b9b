"""The convert command: PyTorch file to Orbax checkpoint and back, and what it says if it cannot."""

import collections
import dataclasses
import functools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags

from tfg_jax import convert, errors
from tfg_jax.errors import ConversionError
from tfg_jax.pytorch import converted, fairseq, files
from tfg_jax.pytorch.pickles import Record

torch = pytest.importorskip('torch', reason='needs the extra [torch]')

NETWORK = 'talklip_sync'  # the smallest public network: one linear layer


@pytest.fixture
def state():
  generator = torch.Generator().manual_seed(0)
  return collections.OrderedDict(
    {
      'Linearaudio.weight': torch.randn(768, 768, generator=generator),
      'Linearaudio.bias': torch.randn(768, generator=generator),
    }
  )


def command(*argv):
  """Runs the command in this process."""
  values = flags.FlagValues()
  convert.define_flags(values)
  rest = values(['convert', *map(str, argv)])
  errors.exit_on_expected_failure(functools.partial(convert.main, values=values))(rest)


def failure(capsys, *argv):
  """Runs a command that fails as expected and returns its message."""
  with pytest.raises(SystemExit) as exited:
    command(*argv)
  assert exited.value.code == 2
  captured = capsys.readouterr()
  assert captured.out == ''
  return captured.err


def importing(path, directory, network=NETWORK):
  return ['import', f'--network={network}', f'--input={path}', f'--output={directory}']


def exporting(directory, path, network=NETWORK):
  return ['export', f'--network={network}', f'--input={directory}', f'--output={path}']


@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.safetensors'])
def test_import_then_export_gives_the_same_bits(tmp_path, capsys, state, suffix):
  torch.save({'state_dict': state, 'global_step': 7}, tmp_path / 'x.pth')
  command(*importing(tmp_path / 'x.pth', tmp_path / 'net'))
  output = tmp_path / f'y{suffix}'
  command(*exporting(tmp_path / 'net', output))
  back = files.read(output)
  assert set(back) == set(state)
  for key, tensor in state.items():
    np.testing.assert_array_equal(np.asarray(back[key]), tensor.numpy())
  assert capsys.readouterr().out.splitlines() == [
    'talklip_sync from x.pth (state_dict)',
    f'written: {tmp_path / "net"}',
    'talklip_sync: 2 tensors',
    f'written: {output}',
  ]
  assert sorted(path.name for path in tmp_path.iterdir()) == ['net', 'x.pth', output.name]


def test_a_converted_network_knows_where_it_came_from(tmp_path, capsys, state):
  path = tmp_path / 'x.pth'
  torch.save({key: tensor.half() for key, tensor in state.items()}, path)
  command(*importing(path, tmp_path / 'net'))
  assert 'note: 2 tensors were converted from float16 to float32.' in capsys.readouterr().out
  variables, conversion = converted.load(tmp_path / 'net', NETWORK)
  kernel = variables['params']['audio_projection']['kernel']
  assert type(kernel) is np.ndarray and kernel.dtype == np.float32
  np.testing.assert_array_equal(kernel, state['Linearaudio.weight'].half().float().numpy().T)
  digest = subprocess.run(['sha256sum', path], capture_output=True, text=True, check=True).stdout
  history = dataclasses.asdict(conversion)
  assert isinstance(history.pop('checksum'), int)
  assert history == {
    'network': NETWORK,
    'source': 'x.pth',
    'sha256': digest.split()[0],
    'inside': '',
    'notes': ['2 tensors were converted from float16 to float32.'],
    'symbols': [],
    'config': {},
  }
  assert converted.tokenizer(tmp_path / 'net') == b''


def test_another_size_goes_both_ways(tmp_path, capsys):
  state = {'Linearaudio.weight': torch.rand(6, 10), 'Linearaudio.bias': torch.rand(6)}
  torch.save(state, tmp_path / 'x.pth')
  command(*importing(tmp_path / 'x.pth', tmp_path / 'net'))
  assert 'note: This is not the official size' in capsys.readouterr().out
  command(*exporting(tmp_path / 'net', tmp_path / 'y.pth'))
  back = torch.load(tmp_path / 'y.pth', weights_only=True)
  assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


def test_a_place_in_the_file_can_be_chosen(tmp_path, capsys, state):
  other = {key: tensor + 1 for key, tensor in state.items()}
  torch.save({'a': state, 'b': other}, tmp_path / 'x.pth')
  arguments = importing(tmp_path / 'x.pth', tmp_path / 'net')
  assert 'choose one, e.g. --inside=a' in failure(capsys, *arguments)
  command(*arguments, '--inside=b')
  variables, conversion = converted.load(tmp_path / 'net')
  bias = variables['params']['audio_projection']['bias']
  np.testing.assert_array_equal(bias, other['Linearaudio.bias'])
  assert conversion.inside == 'b'


def test_a_trained_run_is_exported(tmp_path, monkeypatch, state):
  from tfg_jax import trained

  variables = {
    'params': {
      'audio_projection': {
        'kernel': jax.numpy.asarray(state['Linearaudio.weight'].numpy().T),
        'bias': jax.numpy.asarray(state['Linearaudio.bias'].numpy()),
      }
    }
  }

  class System:
    def export(self, state, network):
      assert (state, network) == ('the state', NETWORK)
      return variables

  def load(workdir):
    assert workdir == str(tmp_path)
    return trained.Trained(None, System(), 'the state', 3)

  monkeypatch.setattr(trained, 'load', load)
  command(*exporting(tmp_path, tmp_path / 'x.pth'))
  back = torch.load(tmp_path / 'x.pth', weights_only=True)
  assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


# --- fairseq ------------------------------------------------------------------------------------


def node(content):
  return Record('omegaconf.dictconfig.DictConfig', state={'_content': content, '_parent': None})


def leaf(value):
  return Record('omegaconf.nodes.AnyNode', state={'_val': value})


def fairseq_tree():
  model = node({'w2v_args': node({'model': {'dropout': leaf(0.1)}}), 'layers': leaf(12)})
  dictionary = Record('fairseq.data.dictionary.Dictionary', state={'symbols': ['<s>', 'a']})
  processor = Record('sentencepiece.SentencePieceProcessor', state=b'proto')
  tokenizer = Record('fairseq.data.encoders.SentencepieceBPE', state={'sp': processor})
  return {
    'args': None,
    'cfg': node({'model': model, 'criterion': {'label_smoothing': 0.1}, 'common': {'seed': 1}}),
    'task_state': {'target_dictionary': dictionary, 's2s_tokenizer': tokenizer},
  }


def test_fairseq_extras():
  extras = fairseq.extras(fairseq_tree())
  assert extras.symbols == ['<s>', 'a'] and extras.tokenizer == b'proto'
  assert extras.config == {
    'model': {'w2v_args': {'model': {'dropout': 0.1}}, 'layers': 12},
    'criterion': {'label_smoothing': 0.1},
  }
  # TalkLip's task_state.pt is the task state alone.
  assert fairseq.extras(fairseq_tree()['task_state']).symbols == ['<s>', 'a']
  arguments = Record('argparse.Namespace', state={'width': 3, 'x': float('nan'), 'l': (1, True)})
  config = fairseq.extras({'cfg': {'model': arguments}}).config
  assert config == {'model': {'width': 3, 'x': None, 'l': [1, True]}}


def test_fairseq_extras_of_hostile_trees():
  loop = {}
  loop['model'] = loop
  wide = {'model': {f'k{i}': {f'j{j}': 0 for j in range(200)} for i in range(200)}}
  deep = {}
  for _ in range(100_000):
    deep = {'model': deep}
  for cfg in (
    loop,
    wide,
    deep,
    [],
    3,
    {'model': {'x': 'a' * 100_000, 'y': b'b', 'z': Record('q')}},
  ):
    config = fairseq.extras({'cfg': cfg}).config
    assert len(json.dumps(config)) < 200_000
  for task in (3, {'target_dictionary': 3}, {'target_dictionary': Record('d', state=[1])}):
    assert fairseq.extras({'task_state': task}) == fairseq.Extras([], b'', {})
  wrong = Record('d', state={'symbols': [1]})
  assert fairseq.extras({'task_state': {'target_dictionary': wrong}}).symbols == []
  assert fairseq.extras([]) == fairseq.Extras([], b'', {})


def test_fairseq_extras_are_kept_with_the_network(tmp_path, monkeypatch, state):
  torch.save(state, tmp_path / 'x.pth')
  tree = fairseq_tree() | {'model': files.read(tmp_path / 'x.pth')}
  monkeypatch.setattr(files, 'read', lambda path: tree)
  command(*importing(tmp_path / 'x.pth', tmp_path / 'net'))
  _, conversion = converted.load(tmp_path / 'net')
  assert conversion.symbols == ['<s>', 'a'] and conversion.inside == 'model'
  assert conversion.config['criterion'] == {'label_smoothing': 0.1}
  assert converted.tokenizer(tmp_path / 'net') == b'proto'
  assert (tmp_path / 'net' / 'sentencepiece.model').read_bytes() == b'proto'


# --- Failures -----------------------------------------------------------------------------------


def test_bad_commands(tmp_path, capsys):
  assert 'the command is missing' in failure(capsys)
  assert 'the command is exprot' in failure(capsys, 'exprot')
  assert '--output is missing' in failure(capsys, 'import', '--network=a', '--input=b')
  message = failure(capsys, *importing('x.pth', tmp_path / 'net', 'talklip'))
  assert "there is no network 'talklip'" in message and 'talklip_generator' in message
  assert "no network 'x'" in failure(capsys, *exporting(tmp_path, 'x.pth', 'x'))


def test_inputs_and_outputs_that_cannot_be(tmp_path, capsys, state):
  path = tmp_path / 'x.pth'
  assert 'there is no such file' in failure(capsys, *importing(path, tmp_path / 'net'))
  torch.save(state, path)
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'file').touch()
  for output, message in (
    (tmp_path / 'full', 'the output exists already'),
    (path, 'the output exists already'),
    (tmp_path / 'no' / 'net', 'the folder of the output does not exist'),
    (tmp_path / ('a' * 300), 'the folder cannot be written: File name too long'),
  ):
    assert message in failure(capsys, *importing(path, output))
  command(*importing(path, tmp_path / 'net'))
  capsys.readouterr()
  assert "ends in '.bin'" in failure(capsys, *exporting(tmp_path / 'net', tmp_path / 'y.bin'))
  other = exporting(tmp_path / 'net', tmp_path / 'y.pth', 'talklip_discriminator')
  assert 'holds talklip_sync and not talklip_discriminator' in failure(capsys, *other)
  text = failure(capsys, *exporting(tmp_path, tmp_path / 'y.pth'))
  assert text.startswith('CheckpointError') and str(tmp_path) in text
  assert sorted(item.name for item in tmp_path.iterdir()) == ['full', 'net', 'x.pth']


def test_a_refused_file_leaves_nothing_behind(tmp_path, capsys, state):
  torch.save(torch.nn.Linear(2, 2), tmp_path / 'x.pth')
  text = failure(capsys, *importing(tmp_path / 'x.pth', tmp_path / 'net'))
  assert "names 'torch.nn.modules.linear.Linear'" in text
  torch.save({'surplus': torch.ones(1), **state}, tmp_path / 'x.pth')
  text = failure(capsys, *importing(tmp_path / 'x.pth', tmp_path / 'net'))
  assert '1 unknown (surplus)' in text and 'looks like talklip_sync' in text
  assert [item.name for item in tmp_path.iterdir()] == ['x.pth']


def test_numbers_that_turn_out_to_be_damaged_leave_nothing_behind(tmp_path, capsys, state):
  path = tmp_path / 'x.pth'
  torch.save(state, path)
  data = bytearray(path.read_bytes())
  data[files.read(path)['Linearaudio.weight'].storage.offset + 8] ^= 1
  path.write_bytes(data)
  assert 'checksum' in failure(capsys, *importing(path, tmp_path / 'net'))
  assert [item.name for item in tmp_path.iterdir()] == ['x.pth']


def test_damaged_converted_networks(tmp_path, state):
  with pytest.raises(ConversionError, match='this is not a converted network'):
    converted.load(tmp_path)
  torch.save(state, tmp_path / 'x.pth')
  net = tmp_path / 'net'
  command(*importing(tmp_path / 'x.pth', net))
  record = (net / 'conversion.json').read_text()
  for text in ('{', '[]', '{"network": "a"}'):
    (net / 'conversion.json').write_text(text)
    with pytest.raises(ConversionError, match=r'conversion\.json is damaged'):
      converted.load(net)
  (net / 'conversion.json').write_text(record)
  largest = max((x for x in (net / 'variables').rglob('*') if x.is_file()), key=os.path.getsize)
  whole = largest.read_bytes()
  for place in (len(whole) // 4, len(whole) // 2, 3 * len(whole) // 4):
    changed = bytearray(whole)
    changed[place] ^= 4
    largest.write_bytes(changed)
    with pytest.raises(ConversionError, match='the checkpoint is damaged: its checksum'):
      converted.load(net)
  largest.write_bytes(whole)
  converted.load(net)
  for file in (net / 'variables').rglob('*'):
    if file.is_file():
      file.write_bytes(file.read_bytes()[:7])
  with pytest.raises(ConversionError, match='the checkpoint is damaged'):
    converted.load(net)


def test_help_and_bad_flags_do_not_import_jax():
  script = (
    'import runpy, sys\n'
    'try: runpy.run_module("tfg_jax.convert", run_name="__main__", alter_sys=True)\n'
    'finally: assert not {"jax", "tensorflow", "torch", "orbax"} & set(sys.modules)'
  )
  run = functools.partial(subprocess.run, capture_output=True, text=True)
  shown = run([sys.executable, '-c', script, '--help'])
  assert '--network' in shown.stdout and 'tfg_jax.convert import' in shown.stdout
  assert 'AssertionError' not in shown.stderr
  refused = run([sys.executable, '-c', script, 'import', '--netwrok=a'])
  assert refused.returncode == 2
  assert 'ConfigError: Unknown command line flag' in refused.stderr
  assert 'AssertionError' not in refused.stderr and 'Traceback' not in refused.stderr
