"""Which tensors of a file are a network's, and what is said when they are not.

The tensors are stand-ins with shapes and no numbers: matching reads none.
"""

import numpy as np
import pytest

from tfg_jax import networks
from tfg_jax.errors import ConversionError
from tfg_jax.pytorch import files, matching
from tfg_jax.pytorch.stored import StoredTensor

NETWORK = 'talklip_discriminator'
TWIN = 'wav2lip_quality_discriminator'  # the same keys and shapes
FIRST = 'face_encoder_blocks.0.0.conv_block.0.weight'


def stand_in(shape, dtype=np.float32):
  dtype = np.dtype(dtype)
  return StoredTensor(None, dtype, dtype, tuple(shape), (0,) * len(shape), 0)


def state(network=NETWORK, prefix='', *, without=(), **shapes):
  """The official tensors of a network as stand-ins, some of them left out or changed."""
  expected = matching.official_tensors(network)
  found = {prefix + key: stand_in(e.shape, e.dtype) for key, e in expected.items()}
  for key in without:
    del found[prefix + key]
  return found | shapes


def find(network, tree, **kwargs):
  return matching.find(network, files.state_dicts(tree), where='x.pth', **kwargs)


def message(network, tree, **kwargs):
  with pytest.raises(ConversionError) as caught:
    find(network, tree, **kwargs)
  assert 'x.pth' in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize(
  ('tree', 'inside'),
  [
    (lambda: state(), ''),
    (lambda: state(prefix='module.'), ''),
    (
      lambda: {'state_dict': state(), 'optimizer': {'state': {0: {}}}, 'global_step': 3},
      'state_dict',
    ),
    (lambda: {'model': {'d': state(prefix='module.')}, 'ema': {'x': stand_in([1])}}, 'model.d'),
    (lambda: {'netD': state(), 'netG': state('talklip_sync', 'module.'), 'step': 1}, 'netD'),
    (lambda: {'state_dict': state(prefix='judge.') | state('talklip_sync')}, 'state_dict.judge'),
  ],
  ids=['bare', 'parallel', 'state_dict', 'nested', 'several networks', 'prefix'],
)
def test_wrappers_and_prefixes(tree, inside):
  match = find(NETWORK, tree())
  assert match.tensors.keys() == matching.official_tensors(NETWORK).keys()
  assert (match.inside, match.like, match.notes) == (inside, None, [])


def test_an_encoder_within_a_fine_tuned_model():
  encoder = state('avhubert_base_encoder', without=['final_proj.weight', 'final_proj.bias'])
  tree = {
    'model': {f'encoder.w2v_model.{key}': tensor for key, tensor in encoder.items()}
    | {'decoder.layers.0.fc1.weight': stand_in([3072, 768])},
  }
  match = find('avhubert_base_encoder', tree)
  assert match.inside == 'model.encoder.w2v_model'
  assert match.notes == [
    'final_proj.bias, final_proj.weight are not in the file; zeros take the place.'
  ]


def test_a_part_without_a_prefix_of_its_own():
  match = find('talklip_local_audio_encoder', {'state_dict': state('wav2lip_generator')})
  assert match.tensors.keys() == matching.official_tensors('talklip_local_audio_encoder').keys()
  assert match.notes == ['It is a part of the wav2lip_generator in the file.']


def test_several_places_need_a_choice():
  tree = {'d_ac_state_0': state(), 'd_ac_state_1': state()}
  text = message(NETWORK, tree)
  assert 'is in the file 2 times: d_ac_state_0, d_ac_state_1' in text
  assert '--inside=d_ac_state_0' in text
  assert find(NETWORK, tree, inside='d_ac_state_1').inside == 'd_ac_state_1'
  assert 'none of the 56 tensors' in message(NETWORK, tree, inside='nowhere')


def test_the_official_size_goes_before_others():
  small = state(**{FIRST: stand_in([32, 1, 7, 7])})
  assert find(NETWORK, {'a': small, 'b': state()}).inside == 'b'


def test_another_size_is_noted_and_gives_its_shapes():
  tree = {'Linearaudio.weight': stand_in([6, 10]), 'Linearaudio.bias': stand_in([6])}
  match = find('talklip_sync', tree)
  assert match.notes == [
    'This is not the official size: 2 of 2 tensors have other shapes, '
    'e.g. Linearaudio.weight (6, 10), officially (768, 768).'
  ]
  shapes = match.like['params']['audio_projection']
  assert (shapes['kernel'].shape, shapes['bias'].shape) == ((10, 6), (6,))


def test_another_size_beside_another_network():
  """As SF2F's checkpoints: an official generator, a discriminator for the identities at hand."""
  small = {'Linearaudio.weight': stand_in([6, 10]), 'Linearaudio.bias': stand_in([6])}
  assert find('talklip_sync', {'model_state': state(), 'head': small}).inside == 'head'


def test_sizes_that_contradict_each_other():
  tree = {'Linearaudio.weight': stand_in([6, 10]), 'Linearaudio.bias': stand_in([7])}
  assert 'Linearaudio.bias has shape (7,); its weight has 6 outputs' in message(
    'talklip_sync', tree
  )
  for shape in ([6], [6, 10, 1]):
    tree = {'Linearaudio.weight': stand_in(shape), 'Linearaudio.bias': stand_in([6])}
    assert 'which no size of talklip_sync gives' in message('talklip_sync', tree)


def test_another_network_of_exactly_this_size(monkeypatch):
  """As DAVS's two discriminators, which differ in the channels of the first layer."""
  wider = dict(matching.official_tensors(NETWORK))
  wider[FIRST] = wider[FIRST]._replace(shape=(32, 18, 7, 7))
  official = matching.official_tensors
  monkeypatch.setattr(
    matching, 'official_tensors', lambda name: wider if name == NETWORK else official(name)
  )
  text = message(NETWORK, state(TWIN))
  assert f'the keys of {NETWORK} but exactly the sizes of {TWIN}' in text


def test_other_dtypes_are_converted_or_refused():
  half = {key: stand_in(t.shape, np.float16) for key, t in state('talklip_sync').items()}
  match = find('talklip_sync', half)
  assert match.notes == ['2 tensors were converted from float16 to float32.']
  assert {t.dtype for t in match.tensors.values()} == {np.dtype(np.float32)}
  odd = half | {'Linearaudio.bias': stand_in([768], np.complex64)}
  assert 'Linearaudio.bias has dtype complex64 instead of float32' in message('talklip_sync', odd)


def test_missing_and_unknown_keys_are_listed_and_the_file_is_recognised():
  keys = list(matching.official_tensors(NETWORK))
  text = message(NETWORK, {'state_dict': state(without=keys[:4], surplus=stand_in([1]))})
  assert f'not those of {NETWORK}: 4 missing ({keys[0]}, {keys[1]}, {keys[2]}, ...)' in text
  assert 'and 1 unknown (surplus)' in text
  assert 'x.pth, state_dict' in text
  assert f'the file looks like {NETWORK} or {TWIN}' in text

  text = message('talklip_generator', {'state_dict': state('wav2lip_generator')})
  assert 'the file looks like wav2lip_generator' in text


def test_files_without_any_key_of_the_network():
  text = message('talklip_sync', {'a': {'b.c': stand_in([3])}})
  assert 'none of the 1 tensors of the file has a key of talklip_sync' in text
  assert 'looks like none of the networks' in text
  assert 'looks like talklip_sync' in message(NETWORK, state('talklip_sync'))


def test_batch_counts(monkeypatch):
  """Old files lack them; files that a newer PyTorch saved again have them where ours has none."""
  name = 'talklip_local_audio_encoder'
  counts = [key for key in matching.official_tensors(name) if key.endswith('num_batches_tracked')]
  match = find(name, state(name, without=counts))
  assert len(counts) == 13
  assert match.notes == [f'{", ".join(counts[:3])}, ... are not in the file; zeros take the place.']
  uncounted = {k: e for k, e in matching.official_tensors(name).items() if k not in counts}
  tree = state(name)
  monkeypatch.setattr(matching, 'official_tensors', lambda network: uncounted)
  match = find(name, tree)
  assert match.tensors.keys() == uncounted.keys()
  assert match.notes == ['13 batch counts were left out: the official network has none.']


def test_hostile_names_take_little_time():
  """Every name ends in a key of the network, each under another prefix."""
  tree = {f'x{i}.' + 'a.' * 50 + FIRST: stand_in([1]) for i in range(5000)}
  assert 'not those of' in message(NETWORK, tree)


def test_expected_shapes_need_no_memory():
  """The stand-ins for 137.6 million parameters share one number."""
  expected = matching.official_tensors('talklip_generator')
  assert sum(int(np.prod(e.shape)) for e in expected.values()) > 137e6
  assert networks.OFFICIAL.keys() == matching.TABLES.keys()
