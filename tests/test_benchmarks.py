"""The benchmarks run, on small things; what they measure on large ones is in the README."""

import re

import pytest

from configs import talklip
from tests.benchmarks import data_rates, timing, training_step

pytestmark = pytest.mark.end_to_end


def test_things_are_measured_in_turn(monkeypatch):
  clock = iter([0, 1, 1, 3, 10, 12, 12, 14])
  monkeypatch.setattr(timing.time, 'perf_counter', lambda: next(clock))
  monkeypatch.setattr(timing, '_REST', 0)
  called = []
  calls = {name: lambda name=name: called.append(name) for name in 'ab'}
  seconds = timing.in_turn(calls, 2)
  assert called == ['a', 'b'] * 4 and seconds == {'a': [1, 2], 'b': [2, 2]}
  assert (
    timing.ratio(seconds, 'b', 'a') == 'b takes 1.50 times as long as a (1.00 to 2.00 in 2 rounds)'
  )


def test_a_step_and_a_clip_are_compared_with_pytorch(monkeypatch):
  """The numbers of both agree, or the comparison fails."""
  monkeypatch.setattr(timing, '_REST', 0)
  pytest.importorskip('torch', reason='needs the extra [torch]')
  from tests.benchmarks import against_pytorch

  config = talklip.get_test_config('no_lip')
  said = [compare(config, 1) for compare in against_pytorch.COMPARISONS]
  for what, line in zip(('step, 20', 'generate, 75'), said, strict=True):
    assert re.match(rf'{what} faces: tfg_jax .* s, pytorch .* s; tfg_jax takes [\d.]+ times', line)


def test_a_step_is_measured_on_the_devices_here(twin):
  said = training_step.measure(twin(), stage=1, steps=2, peak=0.001)
  assert 'talklip, stage 1, float32, 2 clips on 2 x cpu' in said
  assert re.search(r'step +[\d.]+ ms, median of 2; the first took [\d.]+ s', said)
  assert re.search(r'TFLOP per device, [\d.]+ TFLOP/s, [\d.]+% of peak', said)


@pytest.mark.parametrize('workers', [0, 1])
def test_rates_of_data_are_measured(twin, workers):
  said = data_rates.measure(twin(**{'data.workers': workers}), batches=8, step_ms=100)
  assert '8 clips of' in said and f'{workers} workers' in said
  assert re.search(r'clips +[\d.]+ per second, [\d.]+ per core\n', said)
  assert re.search(r'memory +\d+ MB at most in the first half, \d+ MB in the second', said)
  assert re.search(r'a step +of 100 ms takes 20 clips per second: [\d.]+ such cores', said)
