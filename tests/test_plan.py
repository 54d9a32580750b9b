"""Plans: what a step costs on a slice that need not exist, and what they say where it cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from configs import davs, lip_expert, sf2f, speech2video, sync_expert, talklip
from tfg_jax import errors, partition, plan, pretrained, slices
from tfg_jax.hlo import Collective
from tfg_jax.networks import layers
from tfg_jax.plan import Cost, NoMemoryError
from tfg_jax.systems import lip_expert as lip_systems

GIB = 2**30


def cost(batch=4, total=0, flops=0.0, traffic=0.0, reduced=0):
  exchanged = (Collective('all-reduce', reduced // 4, reduced, ''),)
  return Cost(batch, 0, 0, total, flops, traffic, exchanged)


def small_slice(topology='v5e:2x4'):
  """A slice of as many devices as its name says, none of which is asked anything."""
  chip, shape = slices.parse(topology)
  return slices.Slice([None] * int(np.prod(shape)), chip, shape)


# Slices


def test_a_topology_is_a_chip_and_a_shape():
  chip, shape = slices.parse('v5e:4x8')
  assert chip is slices.CHIPS['v5e'] and shape == (4, 8)
  assert slices.parse('v4:2x2x1')[1] == (2, 2, 1)


@pytest.mark.parametrize(
  ('topology', 'message'),
  [
    ('v9:2x2', "there is no topology 'v9:2x2'"),
    ('', "there is no topology ''"),
    ('v5e', "v5e has no slices of shape ''"),
    ('v5e:3x5', "v5e has no slices of shape '3x5'"),
    ('v4:4x4', "v4 has no slices of shape '4x4'"),
  ],
)
def test_a_slice_that_does_not_exist_is_named(topology, message):
  with pytest.raises(errors.ConfigError, match=message) as caught:
    slices.find(topology)
  assert caught.value.where == '--topology' and caught.value.hint


def test_without_libtpu_the_message_says_what_to_install(monkeypatch):
  def missing(*args, **kwargs):
    raise RuntimeError('JAX TPU support not installed; cannot generate TPU topology.')

  monkeypatch.setattr(slices.topologies, 'get_topology_desc', missing)
  with pytest.raises(errors.MissingDependencyError, match='TPU support not installed') as caught:
    slices.find('v5e:2x2')
  assert 'tfg_jax[tpu]' in caught.value.hint


@pytest.mark.parametrize(
  ('topology', 'links'),
  [
    ('v5e:1x1', 0),
    ('v5e:2x4', 2),  # a corner of a mesh
    ('v5e:8x16', 3),  # one axis is closed
    ('v6e:16x16', 4),
    ('v4:2x2x1', 2),
    ('v4:2x4x4', 3),
    ('v5p:4x4x8', 6),
  ],
)
def test_the_outlet_is_that_of_the_chip_with_the_fewest_neighbours(topology, links):
  chip, shape = slices.parse(topology)
  assert slices.Slice((), chip, shape).outlet == links * chip.link


# The roofline


def test_each_resource_takes_its_work_over_its_peak():
  seconds = cost(flops=197e12, traffic=8.19e11, reduced=10**11).seconds(small_slice())
  assert seconds['compute'] == pytest.approx(1)
  assert seconds['memory'] == pytest.approx(1)
  # Each of 8 chips sends 7/8 of the bytes twice, through two links of 50 GB/s.
  assert seconds['network'] == pytest.approx(2 * 7 / 8)


def test_one_chip_has_no_network_and_unknown_devices_have_no_times():
  assert cost().seconds(small_slice('v5e:1x1'))['network'] == 0
  assert cost().seconds(slices.Slice([None])) == {}


@pytest.mark.parametrize(('fixed', 'per_clip'), [(2 * GIB, GIB), (GIB, 3 * 10**6)])
@pytest.mark.parametrize('asked', [1, 8, 64])
def test_the_search_for_the_largest_batch_ends_at_it(fixed, per_clip, asked):
  memory, largest = 16 * GIB, (16 * GIB - fixed) // per_clip

  def compiled(batch):
    total = fixed + batch * per_clip
    return cost(batch, total) if total <= memory else NoMemoryError(total, memory)

  tried = {asked: compiled(asked)}
  while (batch := plan.next_batch(tried, fixed, memory)) is not None:
    assert batch not in tried
    tried[batch] = compiled(batch)
  fits, fails = plan.bounds(tried)
  assert fits <= largest < fails <= fits + max(1, fits // 20)
  assert len(tried) <= 4


@pytest.mark.parametrize(
  ('message', 'total', 'limit'),
  [
    ('Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.', 20.5, 15.75),
    (
      'Ran out of memory on HBM, the total memory required for HLO temporaries (46.76G) exceeds '
      'available HBM (15.75G). HLO module: jit_step.',
      46.76,
      15.75,
    ),
  ],
)
def test_what_the_compiler_says_of_too_large_a_batch_is_understood(
  twin, monkeypatch, message, total, limit
):
  class Lowered:
    def compile(self):
      raise jax.errors.JaxRuntimeError(f'RESOURCE_EXHAUSTED: {message}')

  monkeypatch.setattr(partition.Partition, 'lower', lambda *args: Lowered())
  step = plan.Step.of(runs.build(twin())[0], slices.find('local'), None)
  with pytest.raises(NoMemoryError) as caught:
    step.compile(1)
  assert (caught.value.total, caught.value.limit) == (total * GIB, limit * GIB)


def test_where_not_one_clip_fits_the_search_says_so():
  tried = {4: NoMemoryError(40 * GIB, 16 * GIB)}
  while (batch := plan.next_batch(tried, 10 * GIB, 16 * GIB)) is not None:
    tried[batch] = NoMemoryError((10 + 8 * batch) * GIB, 16 * GIB)
  assert plan.bounds(tried) == (0, 1)


# Shapes without records and weights


@pytest.mark.parametrize(
  ('module', 'variant'),
  [
    (davs, 'paper'),
    (lip_expert, 'puppets_pretrain'),
    (lip_expert, 'puppets_finetune'),
    (sf2f, 'puppets'),
    (speech2video, 'crema_d'),
    (speech2video, 'crema_d+sdfa'),
    (sync_expert, 'color'),
    (talklip, 'no_lip'),
  ],
)
def test_made_up_rows_have_the_shapes_of_real_ones(module, variant, toy_records):
  config = module.get_test_config(variant)
  config.data.root = str(toy_records)
  run, system = runs.build(config)
  real = runs.first_batch(run, system.sample, seed=0)
  made_up = plan.made_up_batch(run, system)
  assert {name: (x.shape[1:], x.dtype) for name, x in made_up.items()} == {
    name: (x.shape[1:], x.dtype) for name, x in real.items()
  }


@pytest.fixture
def expert_file(tmp_path):
  """The config file of the tiny lip expert, as deep as the twin's audio encoder."""
  path = tmp_path / 'expert.py'
  path.write_text(
    'from configs import lip_expert\n'
    'def get_config(depth=1):\n'
    "  c = lip_expert.get_test_config('puppets_finetune')\n"
    '  c.model.encoder.depth = int(depth)\n'
    '  return c\n'
  )
  return f'{path}:4'


def test_an_expert_without_weights_shapes_the_state_as_one_with(
  twin, expert_workdir, expert_file, tmp_path
):
  def shapes(expert):
    config = plan.without_weights(twin('g+c', **{'model.expert': str(expert)}), tmp_path)
    return plan.state_shapes(runs.build(config)[1])

  with_weights = shapes(expert_workdir)
  assert 'expert' in with_weights.frozen
  assert shapes(expert_file) == with_weights


def test_a_public_network_stands_in_by_its_name(tmp_path):
  config = plan.without_weights(talklip.get_config('g+c'), tmp_path)
  assert config.model.expert == ''
  config.model.expert = 'avhubert_base_seq2seq'
  folder = plan.without_weights(config, tmp_path).model.expert
  reader = lip_systems.read(folder)
  assert len(reader.vocabulary) == reader.module.decoder.vocabulary == 1000
  assert pretrained.shapes(folder).nets.keys() == {'encoder', 'decoder'}


@pytest.mark.parametrize(
  ('value', 'message'), [('none.py', 'No such file'), ('configs/demo.py:x', 'takes 0 positional')]
)
def test_a_file_that_is_no_config_is_named(twin, tmp_path, value, message):
  with pytest.raises(errors.ConfigError, match=message):
    plan.without_weights(twin(**{'model.expert': value}), tmp_path)


# Compiled


def test_the_devices_here_can_be_planned_for(twin, capsys):
  found = plan.plan(twin(), 'local')
  said = capsys.readouterr().out
  assert found.batch == 1 and found.total > found.temporaries > 0
  assert 'peak unknown' in said and 'of the slice' not in said
  # Before JAX 0.12 XLA does not split an FFT, which the CPU has.
  gathered = [x for x in found.collectives if x.kind == 'all-gather']
  assert all(x.source.endswith('/fft') for x in gathered)
  assert said.count('  all-gather of') == len(gathered)


@pytest.mark.end_to_end
def test_with_the_expert_two_things_more_are_exchanged(twin, expert_workdir):
  """Negatives are from all clips; and XLA does not split a convolution in groups, nor an FFT."""
  found = plan.plan(twin('g+c', **{'model.expert': str(expert_workdir)}), 'local', compiles=0)
  others = [x for x in found.collectives if x.kind != 'all-reduce']
  grouped = [x for x in others if 'pos_conv' in x.source]
  assert len(grouped) == 3  # the audio encoder's, the expert's, and its gradient
  rest = [x for x in others if x not in grouped and not x.source.endswith('/fft')]
  faces, width = 2 * 2 * 5, 16
  assert all(x.count in (faces, faces * width) for x in rest)
  assert len(rest) == 3


@pytest.mark.end_to_end
@pytest.mark.parametrize('system', [davs, sf2f])
def test_devices_keep_their_pictures(system, capsys):
  found = plan.plan(system.get_test_config(), 'local', compiles=0)
  others = [x for x in found.collectives if x.kind != 'all-reduce' and '/fft' not in x.source]
  # Of DAVS the embeddings, whose negatives are from all clips.
  assert sum(x.size for x in others) < 1000
  assert 'all-reduce of' not in capsys.readouterr().out  # all are gradients or statistics


def test_pmap_exchanges_the_same_numbers(twin, capsys):
  jit, pmap = (plan.plan(twin(partition=kind), 'local') for kind in ('jit', 'pmap'))
  assert pmap.reduced > 0 and jit.reduced > 0


@pytest.mark.parametrize(
  ('changes', 'stage', 'message'),
  [
    ({}, 3, 'talklip has no stage 3'),
    ({'data.batch_size': 3}, None, 'a batch of 3 does not divide over 2 devices'),
  ],
)
def test_a_plan_that_cannot_be_says_why(twin, changes, stage, message):
  with pytest.raises(errors.ConfigError, match=message):
    plan.plan(twin(**changes), 'local', stage=stage)


def matmul_flops(devices):
  """What the compiler counts of (256, 128) x (128, 64), split by rows over the devices."""
  place = partition.build('jit', batch_size=256, devices=devices)
  x, y = jax.ShapeDtypeStruct((256, 128), np.float32), jax.ShapeDtypeStruct((128, 64), np.float32)
  multiply = jax.jit(jax.numpy.matmul, in_shardings=(place.split, place.whole))
  return multiply.lower(x, y).compile().cost_analysis()['flops']


def test_flops_are_counted_per_device():
  assert matmul_flops(jax.devices()) == 2 * 256 * 128 * 64 / len(jax.devices())


@pytest.mark.tpu_compile
def test_flops_are_counted_per_chip():
  pytest.importorskip('libtpu', reason='libtpu is not installed: pip install .[tpu]')
  devices = slices.find('v5e:2x2').devices
  assert len(devices) == 4
  assert matmul_flops(devices) == pytest.approx(2 * 256 * 128 * 64 / 4, rel=0.01)


@pytest.mark.tpu_compile
def test_a_step_compiles_for_a_slice_that_is_not_there(twin, capsys):
  pytest.importorskip('libtpu', reason='libtpu is not installed: pip install .[tpu]')
  found = plan.plan(twin(**{'data.batch_size': 4}), 'v5e:2x2', compiles=0)
  said = capsys.readouterr().out
  assert found.batch == 1 and 0 < found.total < slices.CHIPS['v5e'].memory
  assert 'talklip, stage 2, jit, float32, for v5e:2x2: 4 x TPU v5 lite' in said
  assert 'ms at best, bound by' in said
  assert {x.kind for x in found.collectives} == {'all-reduce'}


@pytest.mark.tpu_compile
def test_what_suits_a_cpu_is_not_compiled_for_a_slice():
  """A TPU skips the holes of a transposed convolution itself."""
  pytest.importorskip('libtpu', reason='libtpu is not installed: pip install .[tpu]')
  up = layers.ConvTranspose(8, (3, 3), 2, 1, 1)
  x = jnp.zeros((4, 8, 8, 16))
  params = up.init(jax.random.key(0), x)

  def lowered(devices):
    place = partition.build('jit', batch_size=4, devices=devices)
    return place.lower(lambda params, x: (params, up.apply(params, x)), params, x)

  holes = 'lhs_dilate = [2, 2]'
  assert holes in lowered(slices.find('v5e:2x2').devices).as_text()
  assert holes not in lowered(jax.devices('cpu')[:1]).as_text()
