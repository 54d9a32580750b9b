"""What the text of a compiled program tells, by hand and against the compiler's own counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfg_jax import hlo
from tfg_jax.hlo import Collective

EXCHANGES = """
%moved (p: f32[2,3]) -> f32[6] {
  %p = f32[2,3]{1,0} parameter(0)
  %p.2 = f32[3,2]{1,0} copy(%p)
  ROOT %p.3 = f32[6]{0} bitcast(%p.2), metadata={op_name="jit(step)/transpose(jvp(net))/transpose"}
}

ENTRY %main (a: f32[8,8]) -> pred[6] {
  %x = f32[8,8]{1,0:T(8,128)} add(%a, %b), metadata={op_name="jit(step)/all-reduce"}
  %r.1 = (f32[64]{0:T(128)S(1)}, bf16[3,3,4]{2,1,0:T(4)(2,1)}) all-reduce(%p, %q), \
channel_id=1, metadata={op_name="jit(step)/(jvp(norm)/sum:transpose(jvp(net))/conv)"}
  %r.2 = f32[] all-reduce(%r), channel_id=2, to_apply=%add
  %g = (f32[2,8]{1,0}, f32[4,8]{1,0}) all-gather-start(%s), channel_id=3, dimensions={0}
  %d = f32[4,8]{1,0} all-gather-done(%g)
  %r.9 = f32[] all-reduce(%r), channel_id=2, to_apply=%add.1
  %k = f32[2,3]{1,0} fusion(%t), calls=%body, \
metadata={op_name="jit(step)/transpose(jvp(net))/dot_general"}
  %k.1 = f32[3,2]{1,0} bitcast(%k)
  %r.3 = (f32[2,3]{1,0}, f32[5]{0}) all-reduce(%k.1, %u), channel_id=4, \
metadata={op_name="jit(step)/(transpose(jvp(net))/dot_gen"}
  %k.2 = f32[6]{0} fusion(%k), calls=%moved, \
metadata={op_name="jit(step)/transpose(jvp(net))/transpose"}
  %k.3 = f32[3,2]{1,0} fusion(%k, %u), calls=%body, metadata={op_name="jit(step)/add"}
  %r.4 = (f32[6]{0}, f32[3,2]{1,0}) all-reduce(%k.2, %k.3), channel_id=5
  ROOT %p.1 = pred[6]{0} collective-permute(%t), source_target_pairs={{0,1}}
}

%body (t: f32[8,128]) -> f32[8,128] {
  %t = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %m = f32[8,128]{1,0:T(8,128)} multiply(%t, %t)
}
"""


def test_what_collectives_exchange_is_listed_once():
  assert hlo.collectives(EXCHANGES) == (
    Collective('all-reduce', 64, 64 * 4, 'jit(step)/jvp(norm)/sum'),
    Collective('all-reduce', 36, 36 * 2, 'jit(step)/transpose(jvp(net))/conv'),
    Collective('all-reduce', 1, 4, ''),
    Collective('all-gather', 32, 128, ''),
    Collective('all-reduce', 6, 24, 'jit(step)/transpose(jvp(net))/dot_general'),
    Collective('all-reduce', 5, 20, 'jit(step)/(transpose(jvp(net))/dot_gen'),
    Collective('all-reduce', 6, 24, 'jit(step)/transpose(jvp(net))/dot_general'),
    Collective('all-reduce', 6, 24, 'jit(step)/add'),
    Collective('collective-permute', 6, 6, ''),
  )


def program(*lines, before=''):
  """A program whose entry has a matrix `%a` in memory, `%b` on the chip, and these lines."""
  body = '\n'.join(f'  {line}' for line in lines)
  return f"""HloModule jit_step
{before}
ENTRY %main (a: f32[8,128], b: f32[8,128]) -> f32[8,128] {{
  %a = f32[8,128]{{1,0:T(8,128)}} parameter(0)
  %b = f32[8,128]{{1,0:T(8,128)S(1)}} parameter(1)
{body}
}}
"""


MATRIX = 4 * 8 * 128
FUSED = """
%fused (p: f32[8,128], q: f32[1,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  %q = f32[1,128]{1,0:T(1,128)} parameter(1)
  ROOT %u = f32[8,128]{1,0:T(8,128)} dynamic-update-slice(%p, %q, %i)
}

%cut (r: f32[8,128]) -> f32[2,128] {
  %r = f32[8,128]{1,0:T(8,128)} parameter(0)
  %s = f32[2,128]{1,0:T(2,128)} slice(%r), slice={[0:2], [0:128]}
  ROOT %n = f32[2,128]{1,0:T(2,128)} negate(%s)
}

%body (t: f32[8,128]) -> f32[8,128] {
  %t = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %m = f32[8,128]{1,0:T(8,128)} multiply(%t, %t)
}

%beside (v: f32[8,128], w: f32[8,128], x: f32[64,128]) -> (f32[8,128], f32[8,128], f32[64,128]) {
  %v = f32[8,128]{1,0:T(8,128)} parameter(0)
  %w = f32[8,128]{1,0:T(8,128)} parameter(1)
  %x = f32[64,128]{1,0:T(8,128)} parameter(2)
  %y = f32[8,128]{1,0:T(8,128)} multiply(%v, %v)
  %g = f32[64,128]{1,0:T(8,128)} all-gather(%w), channel_id=1, dimensions={0}
  ROOT %z = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}, f32[64,128]{1,0:T(8,128)}, \
f32[64,128]{1,0:T(8,128)}) tuple(%y, %w, %x, %g)
}
"""


@pytest.mark.parametrize(
  ('lines', 'moved'),
  [
    (['ROOT %c = f32[8,128]{1,0:T(8,128)} add(%a, %a)'], 2 * MATRIX),  # read once
    (['ROOT %c = f32[8,128]{1,0:T(8,128)} add(%a, %b)'], 2 * MATRIX),  # b is at hand
    (['ROOT %c = f32[8,128]{1,0:T(8,128)S(1)} add(%b, %b)'], 0),
    (['ROOT %c = bf16[4,130]{1,0:T(8,128)(2,1)} convert(%b)'], 2 * 8 * 256),  # whole tiles
    (
      [
        '%s = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]) copy-start(%a)',
        'ROOT %c = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%s)',
      ],
      MATRIX,
    ),
    (
      [
        '%s = ((f32[8,128]{1,0:T(8,128)}), f32[2,128]{1,0:T(2,128)S(1)}, s32[]) slice-start(%a)',
        'ROOT %c = f32[2,128]{1,0:T(2,128)S(1)} slice-done(%s)',
      ],
      MATRIX // 4,
    ),
    (['ROOT %c = f32[2,128]{1,0:T(2,128)} fusion(%a), kind=kLoop, calls=%cut'], MATRIX // 2),
    (
      ['ROOT %c = f32[8,128]{1,0:T(8,128)} fusion(%a, %b), kind=kLoop, calls=%fused'],
      2 * MATRIX // 8,
    ),
    (
      [
        'ROOT %c = f32[8,128]{1,0:T(8,128)} while(%a), condition=%cut, body=%body, '
        'backend_config={"known_trip_count":{"n":"5"}}'
      ],
      5 * 3 * MATRIX,
    ),
    (  # a step of a gathering, taken beside a product
      [
        'ROOT %c = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}, f32[64,128]{1,0:T(8,128)}, '
        'f32[64,128]{1,0:T(8,128)}) fusion(%a, %d, %e), kind=kOutput, calls=%beside'
      ],
      2 * MATRIX,
    ),
  ],
)
def test_traffic_is_what_goes_between_chip_and_memory(lines, moved):
  assert hlo.traffic(program(*lines, before=FUSED)) == moved


def test_without_memory_on_the_chip_traffic_is_what_the_compiler_counts():
  x, y = np.zeros((256, 128), np.float32), np.zeros((128, 64), np.float32)
  compiled = jax.jit(lambda x, y: jnp.tanh(x @ y)).lower(x, y).compile()
  assert hlo.traffic(compiled.as_text()) == compiled.cost_analysis()['bytes accessed']
