"""From an audio file to a portrait, and searching for people by their portraits."""

import json

import corpus
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from clips import MAKER, tone, write
from PIL import Image
from runs import noisy_state, untrained

from configs import sf2f as configs
from tfg_jax import configuration, errors, gallery, portraits, systems
from tfg_jax.claims import comparison
from tfg_jax.data import records
from tfg_jax.features import portrait, voice
from tfg_jax.metrics import likeness
from tfg_jax.networks.resnet import ResNet
from tfg_jax.pytorch import converted


@pytest.fixture
def painter():
  """Paints the number of frames that each portrait has heard."""

  def draw(inputs):
    assert inputs['voice'].dtype == np.int16 and inputs['num_samples'] <= len(inputs['voice'])
    levels = (inputs['lengths'] // 10).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (len(levels), 8, 8, 3))

  return portraits.Painter(MAKER, 'none', draw)


def test_a_portrait_and_a_strip(tmp_path, painter):
  sound = write(tmp_path / 'voice.wav', audio=tone(6.0), audio_codec='pcm_s16le')
  said = []
  request = portraits.Request(sound, str(tmp_path / 'face.png'), str(tmp_path / 'strip.png'))
  seconds = portraits.draw(request, painter, say=said.append)
  assert seconds == pytest.approx(6.0)
  with Image.open(tmp_path / 'face.png') as face:
    assert face.size == (8, 8) and face.getpixel((0, 0)) == (59,) * 3  # all 599 frames
    assert 'Synthetic media: the portrait was drawn by tfg_jax' in face.info['Comment']
  with Image.open(tmp_path / 'strip.png') as strip:
    pixels = np.asarray(strip)
  assert pixels.shape == (8, 32, 3)
  assert pixels[0, ::8, 0].tolist() == [12, 25, 50, 59]
  assert 'Wrote' in said[0] and '4 portraits' in said[1] and 'synthetic' in said[2]


def test_short_voices_are_repeated():
  made = portraits.growing(tone(0.5)[:, 0], (1.25,))
  assert made['lengths'].tolist() == [125, 126]
  np.testing.assert_array_equal(made['voice'][160:8160], made['voice'][8160:16160])


def test_what_cannot_be_drawn(tmp_path, painter):
  sound = write(tmp_path / 'quiet.wav', audio=0 * tone(1.0), audio_codec='pcm_s16le')
  listens = portraits.Painter(MAKER, 'energy', painter.draw)
  with pytest.raises(errors.DataError, match='no speech in 1.00 s of sound') as caught:
    portraits.draw(portraits.Request(sound, str(tmp_path / 'face.png')), listens)
  assert 'quiet.wav' in str(caught.value)
  (tmp_path / 'folder.png').mkdir()
  for name, message in (
    ('face.jpg', 'face.jpg does not end in .png'),
    ('none/face.png', 'the folder of the output does not exist'),
    ('folder.png', 'the output is a folder'),
  ):
    with pytest.raises(errors.MediaError, match=message):
      portraits.draw(portraits.Request(sound, str(tmp_path / name)), painter)
    with pytest.raises(errors.MediaError, match=message):
      portraits.Request(sound, str(tmp_path / 'face.png'), str(tmp_path / name)).check()
  with pytest.raises(errors.ConfigError, match='--strip and --output are the same file'):
    portraits.Request(sound, *2 * [str(tmp_path / 'face.png')]).check()


def test_the_gallery_needs_a_run_that_draws_portraits(trained_workdir):
  values = flags.FlagValues()
  gallery.define_flags(values)
  values(['x', f'--workdir={trained_workdir}'])
  with pytest.raises(errors.CheckpointError, match='a run of talklip draws no portraits'):
    gallery.main(['x'], values)


@pytest.mark.parametrize(
  ('rest', 'message'), [(['x', 'y'], 'unexpected arguments'), (['x'], '--workdir is missing')]
)
def test_flags_of_the_gallery(rest, message):
  values = flags.FlagValues()
  gallery.define_flags(values)
  values(['x'])
  with pytest.raises(errors.ConfigError, match=message):
    gallery.main(rest, values)


@pytest.mark.end_to_end
def test_the_gallery_of_a_small_system(tmp_path):
  root = corpus.write(tmp_path / 'people', valid=6, frames=60)
  config = configs.get_test_config('64+fuser')
  config.data.root, config.model.start = str(root), 'elsewhere'
  run = configuration.resolve(config)
  system = systems.build(run, axis_name=None)
  state = noisy_state(system)
  source = records.RecordSource(str(root), 'valid')
  numbers, people = gallery.search(system, state, source, crops=2)
  assert len(people) == 4 and people == sorted(people)
  assert all(np.shape(x) == (4,) for name, x in numbers['fused_5s'].items() if name != 'vfs')
  rows = gallery.means(numbers)
  assert set(rows) == {'ground_truth', 'generated_1.25s', 'generated_5s', 'fused_5s', 'chance'}
  assert rows['ground_truth']['cosine'] == pytest.approx(1, abs=1e-5)
  assert rows['ground_truth']['recall_1'] == 1
  assert rows['chance'] == {'recall_1': 0.25, 'recall_2': 0.5, 'recall_5': 1, 'recall_10': 1}
  assert rows['generated_1.25s']['seconds'] == 1.25
  assert rows['fused_5s']['seconds'] == 2.39  # all that there is
  again, _ = gallery.search(system, state, source, crops=2)
  assert gallery.means(again) == rows
  text = gallery.table(rows, len(people), 'valid', 'a test')
  assert '100.00' in text and 'fused 5s' in text and '4 people' in text


@pytest.mark.end_to_end
def test_a_judge_compares_and_everybodys_numbers_are_kept(tmp_path, vggface_folder, capsys):
  root = corpus.write(tmp_path / 'people', valid=6, frames=60)
  found = {}
  run = untrained(configs.get_test_config('64'), root, tmp_path / 'run')
  judge = untrained(configs.get_test_config('faces'), root, tmp_path / 'judge', seed=1)
  for name, rest in (('', []), (str(judge), [f'--judge={judge}', f'--vggface={vggface_folder}'])):
    values = flags.FlagValues()
    gallery.define_flags(values)
    values(['x', f'--workdir={run}', '--split=valid', *rest])
    gallery.main(['x'], values)
    found[name] = json.loads((run / 'gallery.json').read_text())
    whose = str(vggface_folder) if name else 'its own FaceNet'
    assert found[name]['judge'] == (name or whose) and found[name]['vfs_classes'] == whose
    out = capsys.readouterr().out
    assert "4 people of split 'valid'" in out and f'vfs: classes of {whose}\n' in out
    people = comparison.read_columns(run / 'people.csv')
    for column, numbers in people.items():
      row, metric = column.split('/')
      assert numbers.shape == (4,)
      assert numbers.mean() == pytest.approx(found[name]['rows'][row][metric], rel=1e-4, abs=1e-6)
    assert {'generated_5s/recall_5', 'generated_1.25s/cosine'} <= people.keys()
  own, judged = (x['rows']['generated_5s']['l1'] for x in found.values())
  assert own != pytest.approx(judged, rel=0.1)


@pytest.mark.end_to_end
def test_vggface_scores_what_was_drawn(tmp_path, vggface_folder, monkeypatch):
  monkeypatch.setattr(gallery, '_PARTS', 1)  # a part of one portrait has the score 1
  root = corpus.write(tmp_path / 'people', valid=6, frames=60)
  config = configs.get_test_config('64')
  config.data.root = str(root)
  system = systems.build(configuration.resolve(config), axis_name=None)
  state = noisy_state(system)
  source = records.RecordSource(str(root), 'valid')
  vggface, shown = gallery._read_vggface(str(vggface_folder)), []

  def sharpened(logits):  # portraits that nobody has trained hardly differ
    differences = logits - logits.mean(0)
    return differences / differences.std()

  def watched(pixels):
    shown.append((np.asarray(pixels), np.asarray(vggface(pixels))))
    return sharpened(shown[-1][1])

  scored, people = gallery.search(system, state, source, vggface=watched, crops=1)
  plain, _ = gallery.search(system, state, source, crops=1)
  rows = ('ground_truth', 'generated_1.25s', 'generated_5s')
  assert len(shown) == len(rows)  # one block each
  variables, _ = converted.load(vggface_folder)
  module = ResNet(stem=3, widths=(2, 3, 2, 3), classes=11)
  for row, (pixels, logits) in zip(rows, shown, strict=True):
    assert pixels.dtype == np.uint8 and pixels.shape[1:] == 2 * (system.face_size,) + (3,)
    image = portrait.vggface_input(pixels)
    expected = module.apply(jax.tree.map(jnp.asarray, variables), image, train=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    # The corpus has one portrait of each person.
    probabilities = np.asarray(jax.nn.softmax(sharpened(logits)))[: len(people)]
    shuffled = np.random.default_rng(0).permutation(probabilities)
    score = likeness.class_score(shuffled, 1).mean
    assert scored[row]['vfs'] == pytest.approx(score, rel=1e-5)
    assert score > 1.01 and plain[row]['vfs'] != pytest.approx(score, rel=1e-3)
    np.testing.assert_allclose(scored[row]['cosine'], plain[row]['cosine'], rtol=1e-5)


def test_vggface_is_the_converted_resnet(trained_workdir, tmp_path):
  with pytest.raises(errors.ConversionError, match='this is not a converted network'):
    gallery._read_vggface(str(trained_workdir))
  other = converted.Conversion('sf2f_facenet', 'x.pt', '0')
  converted.save(tmp_path / 'net', {'params': {'x': np.zeros(2)}}, other)
  with pytest.raises(errors.ConversionError, match='not vggface2_resnet50') as caught:
    gallery._read_vggface(str(tmp_path / 'net'))
  assert 'name a folder of vggface2_resnet50' in str(caught.value)


def test_a_judge_is_a_facenet(trained_workdir):
  with pytest.raises(errors.CheckpointError, match='a run of talklip has no FaceNet'):
    gallery._read_judge(str(trained_workdir))


def test_padding_and_windows_of_a_crop(tmp_path):
  wave = tone(2.0)[:, 0]
  (windows, samples, mask), heard = gallery._crops([[wave]], 5.0, True, np.random.default_rng(0))
  assert windows.shape == (1, 6, voice.window_samples(125))
  assert mask.tolist() == [[True, True, False, False, False, False]]
  assert heard.tolist() == pytest.approx([1.99])  # frames of 25 ms every 10 ms
