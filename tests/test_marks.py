"""Marks on what was drawn: in the file, beside it, signed; and what is said of them afterwards."""

import dataclasses
import json
import shutil
import sys

import av
import clips
import jax
import numpy as np
import pytest
import runs
from absl import flags
from PIL import Image

import tfg_jax
from tfg_jax import (
  content_credentials,
  generate,
  marks,
  media,
  trained,
)
from tfg_jax.errors import ConfigError, MediaError, MissingDependencyError

WITHOUT_C2PA = "c2pa-python is not installed (pip install 'tfg_jax[provenance]')"


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
  """What the outputs of a test are made from."""
  root = tmp_path_factory.mktemp('inputs')
  return {
    'video': clips.write(root / 'me.mp4', 10, audio=clips.tone(0.4)),
    'image': clips_png(root / 'me.png'),
    'audio': clips.write_tone(root / 'speech.wav', 0.4),
  }


def clips_png(path):
  Image.fromarray(clips.frame(0)).save(path)
  return str(path)


def said(inputs, kind=marks.FOOTAGE, maker=clips.MAKER):
  names = {marks.FOOTAGE: ('video', 'audio'), marks.STILL: ('image', 'audio')}.get(kind, ('audio',))
  return marks.Marks(
    maker,
    kind,
    'the mouth was redrawn',
    'to match other speech',
    'The person shown did not say this.',
    {name: inputs[name] for name in names},
  )


def write_video(path, marks_):
  with media.VideoWriter(
    path, 64, 48, 25, audio=(clips.tone(0.4), 16_000), metadata=marks_.tags, finish=marks_.finish
  ) as writer:
    for index in range(10):
      writer.write(clips.frame(index))
  return str(path)


def write(path, marks_):
  if path.suffix == '.mp4':
    return write_video(path, marks_)
  marks.write_png(clips.frame(3), str(path), marks_)
  return str(path)


def command(*arguments):
  values = flags.FlagValues()
  generate.define_flags(values)
  values(['generate', *arguments])
  return generate.main(['generate'], values)


# In the file and beside it.


@pytest.mark.parametrize('name', ['out.mp4', 'out.png'])
def test_marks_come_back_and_agree(tmp_path, inputs, name):
  path = write(tmp_path / name, said(inputs))
  tags = media.read_tags(path)
  assert tags['comment'] == (
    f'Synthetic media: the mouth was redrawn by tfg_jax {tfg_jax.__version__} (fake, step 3) to '
    'match other speech. The person shown did not say this.'
  )
  expected = {
    'synthetic': True,
    'kind': 'edit of footage',
    'tool': 'tfg_jax',
    'version': tfg_jax.__version__,
    'system': 'fake',
    'step': 3,
    'weights': 'sha256:abc',
  }
  assert json.loads(tags['description']) == expected
  record = json.loads((tmp_path / f'{name}.json').read_text())
  assert expected.items() <= record.items() and record['note'] == tags['comment']
  assert record['file'] == {'name': name, 'sha256': marks.digest(path)}
  assert record['inputs'] == {
    what: {'name': inputs[what].split('/')[-1], 'sha256': marks.digest(inputs[what])}
    for what in ('video', 'audio')
  }
  found = marks.inspect(path)
  assert found.is_sound and 'The marks agree' in str(found)
  assert tags['comment'] in str(found) and 'edit of footage; weights sha256:abc' in str(found)
  assert f'from the video me.mp4, sha256 {marks.digest(inputs["video"])}' in str(found)
  assert sorted(x.name for x in tmp_path.iterdir()) == [name, f'{name}.json']


def test_a_file_without_marks(tmp_path, capsys):
  plain = clips.write(tmp_path / 'plain.mp4', 5)
  with pytest.raises(SystemExit) as stopped:
    command(f'--inspect={plain}')
  assert stopped.value.code == 1
  out = capsys.readouterr().out
  assert 'in the file: nothing' in out and 'beside it, in plain.mp4.json: nothing' in out
  assert 'That does not make it genuine' in out


def test_the_command_says_that_all_is_in_order(tmp_path, inputs, capsys):
  command(f'--inspect={write(tmp_path / "out.png", said(inputs))}')
  assert 'The marks agree, and the file is the one that they are of.' in capsys.readouterr().out
  with pytest.raises(ConfigError, match='--audio: with --inspect nothing is drawn'):
    command('--inspect=out.png', '--audio=speech.wav')
  with pytest.raises(MediaError, match='does not exist'):
    command(f'--inspect={tmp_path / "none.mp4"}')
  (tmp_path / 'text.mp4').write_text('no media')
  with pytest.raises(MediaError, match='not a media file'):
    command(f'--inspect={tmp_path / "text.mp4"}')


def test_a_changed_file_does_not_fit_its_sidecar(tmp_path, inputs):
  path = write(tmp_path / 'out.mp4', said(inputs))
  with open(path, 'r+b') as file:
    file.seek(-50, 2)
    file.write(bytes(8))
  found = marks.inspect(path)
  assert not found.is_sound
  assert (
    f'NOT IN ORDER: this is not the file that was written: its sha256 is {marks.digest(path)}'
    in str(found)
  )


def test_marks_that_disagree_are_named(tmp_path, inputs):
  path = write(tmp_path / 'out.png', said(inputs))
  sidecar = tmp_path / 'out.png.json'
  record = json.loads(sidecar.read_text())
  sidecar.write_text(json.dumps(record | {'system': 'other', 'weights': 'sha256:def'}))
  found = marks.inspect(path)
  assert not found.is_sound
  assert "system is 'fake' in the file and 'other' beside it" in str(found)
  assert "weights is 'sha256:abc' in the file and 'sha256:def' beside it" in str(found)


def test_marks_in_one_place_only(tmp_path, inputs):
  path = write(tmp_path / 'out.mp4', said(inputs))
  sidecar = tmp_path / 'out.mp4.json'
  shutil.move(sidecar, tmp_path / 'kept.json')
  found = marks.inspect(path)
  assert not found.is_sound and 'in out.mp4.json: nothing' in str(found)
  assert 'in the file: Synthetic media' in str(found)
  shutil.move(tmp_path / 'kept.json', sidecar)
  with av.open(path) as old, av.open(tmp_path / 'stripped.mp4', 'w') as new:
    stream = new.add_stream_from_template(old.streams.video[0])
    for packet in old.demux(video=0):
      if packet.dts is not None:
        packet.stream = stream
        new.mux(packet)
  shutil.move(tmp_path / 'stripped.mp4', path)
  found = marks.inspect(path)
  assert not found.is_sound and 'in the file: nothing' in str(found)
  assert 'this is not the file that was written' in str(found)
  for text, message in (
    ('{', 'cannot be read'),
    ('[1]', 'holds no marks'),
    ('{"synthetic": true, "inputs": 3, "file": []}', 'the sidecar says None'),
  ):
    sidecar.write_text(text)
    found = marks.inspect(path)
    assert not found.is_sound and message in str(found)


def test_nothing_is_left_of_what_could_not_be_finished(tmp_path, inputs):
  (tmp_path / 'out.mp4.json').mkdir()
  (tmp_path / 'out.png.json').mkdir()
  for name in ('out.mp4', 'out.png'):
    with pytest.raises(MediaError, match='cannot write: Is a directory'):
      write(tmp_path / name, said(inputs))
    assert not (tmp_path / name).exists() and not list(tmp_path.glob('*.partial'))


# The weights.


@pytest.fixture(scope='module')
def state(twin):
  _, system = runs.build(twin())
  return runs.noisy_state(system)


def test_the_digest_is_of_the_weights_alone(state):
  digest = trained.weights_digest(state)
  assert digest.startswith('sha256:') and len(digest) == 7 + 64
  on_device = jax.device_put(state)
  assert trained.weights_digest(on_device) == digest
  later = state.replace(
    step=np.int32(9),
    nets={name: net.replace(opt_state=None) for name, net in reversed(state.nets.items())},
  )
  assert trained.weights_digest(later) == digest
  name = next(name for name, net in state.nets.items() if jax.tree.leaves(net.stats))
  for part in ('params', 'stats'):
    leaves, tree = jax.tree.flatten(getattr(state.nets[name], part))
    leaves[-1] = leaves[-1] + np.float32(1e-3)
    net = state.nets[name].replace(**{part: jax.tree.unflatten(tree, leaves)})
    assert trained.weights_digest(state.replace(nets=state.nets | {name: net})) != digest


def test_the_digest_is_that_of_what_was_saved(twin, tmp_path):
  state = runs.noisy(twin(), tmp_path)
  assert trained.load(tmp_path).weights == trained.weights_digest(state)


# Signed.


@pytest.fixture(scope='module')
def credentials(tmp_path_factory):
  pytest.importorskip('c2pa', reason=WITHOUT_C2PA)
  import certificates

  return certificates.write(tmp_path_factory.mktemp('credentials'))


def active_manifest(path):
  import c2pa

  with c2pa.Reader(path) as reader:
    return reader.get_active_manifest()


def actions(manifest):
  (found,) = (x for x in manifest['assertions'] if x['label'].startswith('c2pa.actions'))
  return {x['action']: x for x in found['data']['actions']}


@pytest.mark.parametrize('name', ['out.mp4', 'out.png'])
@pytest.mark.parametrize('kind', [marks.FOOTAGE, marks.STILL, marks.SOUND])
def test_a_signed_manifest_says_how_it_was_made(tmp_path, inputs, credentials, name, kind):
  maker = dataclasses.replace(clips.MAKER, credentials=credentials)
  path = write(tmp_path / name, said(inputs, kind, maker))
  manifest = active_manifest(path)
  done = actions(manifest)
  relations = {x['title']: x['relationship'] for x in manifest['ingredients']}
  if kind == marks.FOOTAGE:
    assert list(done) == ['c2pa.opened', 'c2pa.edited']
    drawn, source = done['c2pa.edited'], 'compositeWithTrainedAlgorithmicMedia'
    assert relations == {'me.mp4': 'parentOf', 'speech.wav': 'inputTo'}
  else:
    assert list(done) == ['c2pa.created']
    drawn, source = done['c2pa.created'], 'trainedAlgorithmicMedia'
    picture = {'me.png': 'inputTo'} if kind == marks.STILL else {}
    assert relations == {'speech.wav': 'inputTo', **picture}
  assert drawn['digitalSourceType'] == f'http://cv.iptc.org/newscodes/digitalsourcetype/{source}'
  assert drawn['softwareAgent'] == {'name': 'tfg_jax', 'version': tfg_jax.__version__}
  assert drawn['description'].endswith('did not say this. Weights: sha256:abc')
  assert manifest['title'] == name
  found = marks.inspect(path)
  assert found.is_sound, str(found)
  assert 'signed by A tester (Tests); the signature is valid; nobody vouches' in str(found)
  assert f'{drawn["action"]}, {source}: Synthetic media: the mouth' in str(found)
  assert sorted(x.name for x in tmp_path.iterdir()) == [name, f'{name}.json']


def test_all_kinds_of_keys_sign(tmp_path, inputs, credentials):
  import certificates

  for index, key in enumerate(certificates.other_keys()):
    maker = dataclasses.replace(
      clips.MAKER, credentials=certificates.write(tmp_path / str(index), key)
    )
    path = write(tmp_path / f'{index}.png', said(inputs, maker=maker))
    assert marks.inspect(path).is_sound


def test_a_signed_file_that_was_changed_is_invalid(tmp_path, inputs, credentials):
  maker = dataclasses.replace(clips.MAKER, credentials=credentials)
  path = write(tmp_path / 'out.mp4', said(inputs, maker=maker))
  content = bytearray((tmp_path / 'out.mp4').read_bytes())
  place = content.index(b'mdat') + 200
  content[place] ^= 255
  (tmp_path / 'out.mp4').write_bytes(content)
  found = marks.inspect(path)
  assert not found.is_sound
  assert 'NOT IN ORDER: the C2PA manifest is invalid: assertion.bmffHash.mismatch' in str(found)


def test_credentials_that_cannot_sign(tmp_path, credentials):
  import certificates
  from cryptography.hazmat.primitives.asymmetric import ec

  other = certificates.write(tmp_path / 'other')
  text = tmp_path / 'text.pem'
  text.write_text('nothing')
  chain, key = credentials.certificate, credentials.key
  curve = certificates.write(tmp_path / 'curve', ec.generate_private_key(ec.SECP256K1()))
  for certificate, private, message in (
    ('/nowhere.pem', key, '--certificate cannot be read: No such file'),
    (chain, '/nowhere.pem', '--key cannot be read: No such file'),
    (str(text), key, '--certificate is not a certificate in PEM form'),
    (chain, str(text), '--key is not a private key in PEM form without a password'),
    (chain, other.key, '--key is not that of the certificate'),
    (curve.certificate, curve.key, 'C2PA does not know signatures by this key'),
  ):
    with pytest.raises(ConfigError, match=message):
      content_credentials.Credentials(certificate, private).check()


def test_a_certificate_that_has_expired_signs_nothing(tmp_path, inputs, credentials):
  import certificates

  old = certificates.write(tmp_path / 'old', days=0.5)
  with pytest.raises(ConfigError, match='this certificate cannot sign') as caught:
    old.check()
  assert caught.value.where == old.certificate and 'valid today' in caught.value.hint
  maker = dataclasses.replace(clips.MAKER, credentials=old)
  with pytest.raises(ConfigError, match='this certificate cannot sign'):
    write(tmp_path / 'out.mp4', said(inputs, maker=maker))
  assert [x.name for x in tmp_path.iterdir()] == ['old']


def test_flags_of_credentials_come_together_and_are_tried_first(tmp_path, credentials):
  def read(*arguments):
    values = flags.FlagValues()
    generate.define_flags(values)
    values(['generate', *arguments])
    return generate.read_credentials(values)

  assert read() is None
  both = f'--certificate={credentials.certificate}', f'--key={credentials.key}'
  assert read(*both) == credentials
  for one in both:
    with pytest.raises(ConfigError, match='give both --certificate and --key'):
      read(one)
  with pytest.raises(ConfigError, match='--key is not a private key'):
    read(both[0], f'--key={credentials.certificate}')


def test_without_the_extra_nothing_is_signed_and_inspection_says_so(tmp_path, inputs, monkeypatch):
  monkeypatch.setitem(sys.modules, 'c2pa', None)
  with pytest.raises(
    MissingDependencyError, match='C2PA manifests need the package c2pa'
  ) as caught:
    content_credentials.Credentials('chain.pem', 'key.pem').check()
  assert caught.value.hint == "pip install 'tfg_jax[provenance]'"
  found = marks.inspect(write(tmp_path / 'out.png', said(inputs)))
  assert found.is_sound and 'C2PA manifest: not looked for, C2PA manifests need' in str(found)
