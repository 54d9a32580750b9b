"""How a Flax variable tree and a PyTorch state_dict name and lay out the same numbers.

A table is a tuple of rows `(Flax module path, PyTorch key prefix, kind)`. Paths are joined with
'/', keys with '.'; `{i}`, `{j}`, ... stand for integers that both sides share; an empty string is
the root. A kind lists the leaves of one layer. Rows are matched against the Flax tree and the
first one that fits gives the key, so one table serves both directions.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfg_jax.errors import ConversionError


class Layout(NamedTuple):
  """Two inverse array transformations."""

  to_flax: Callable[[np.ndarray], np.ndarray]
  to_torch: Callable[[np.ndarray], np.ndarray]


def _flip_window(kernel):
  """Turns (a, b, *window) around in the window axes."""
  return np.flip(kernel, tuple(range(2, kernel.ndim)))


AS_IS = Layout(lambda x: x, lambda x: x)
# (out, in, *window) <-> (*window, in, out); a dense weight is the case without a window.
KERNEL = Layout(
  lambda w: np.moveaxis(w, (0, 1), (-1, -2)),
  lambda w: np.moveaxis(w, (-1, -2), (0, 1)),
)
# (in, out, *window) <-> (*window, in, out), turned around: see `layers.ConvTranspose`.
TRANSPOSED_KERNEL = Layout(
  lambda w: np.moveaxis(_flip_window(w), (0, 1), (-2, -1)),
  lambda w: _flip_window(np.moveaxis(w, (-2, -1), (0, 1))),
)


def stacked_kernel(frames: int) -> Layout:
  """(out, in, frames, h, w) <-> (h, w, frames * in, out): a 3-D kernel over channels of frames."""

  def to_flax(w):
    return np.transpose(w, (3, 4, 2, 1, 0)).reshape(*w.shape[3:], -1, w.shape[0])

  def to_torch(w):
    height, width, inputs, outputs = w.shape
    split = w.reshape(height, width, frames, inputs // frames, outputs)
    return np.transpose(split, (4, 3, 2, 0, 1))

  return Layout(to_flax, to_torch)


COUNT = Layout(lambda n: n.astype(np.int32), lambda n: n.astype(np.int64))


class Leaf(NamedTuple):
  """One array of a layer.

  `torch` is None where PyTorch has no such tensor: imported as zeros, not exported. With
  `may_lack`, files written before PyTorch had the tensor are accepted too, as PyTorch accepts
  them, with zeros.
  """

  collection: str
  flax: str
  torch: str | None
  layout: Layout = AS_IS
  may_lack: bool = False


def _join(separator: str, *parts: str) -> str:
  return separator.join(part for part in parts if part)


Kind = tuple[Leaf, ...]
Row = tuple[str, str, Kind]

BIAS = Leaf('params', 'bias', 'bias')
CONV: Kind = (Leaf('params', 'kernel', 'weight', KERNEL), BIAS)
CONV_TRANSPOSE: Kind = (Leaf('params', 'kernel', 'weight', TRANSPOSED_KERNEL), BIAS)
DENSE: Kind = CONV
EMBED: Kind = (Leaf('params', 'embedding', 'weight'),)
LAYER_NORM: Kind = (Leaf('params', 'scale', 'weight'), BIAS)
PRELU: Kind = (Leaf('params', 'alpha', 'weight'),)
_RUNNING: Kind = (
  Leaf('batch_stats', 'mean', 'running_mean'),
  Leaf('batch_stats', 'var', 'running_var'),
)
BATCH_NORM: Kind = (
  *LAYER_NORM,
  *_RUNNING,
  Leaf('batch_stats', 'count', 'num_batches_tracked', COUNT, may_lack=True),
)
# PyTorch before 0.4 did not count batches.
BATCH_NORM_UNCOUNTED: Kind = (*LAYER_NORM, *_RUNNING, Leaf('batch_stats', 'count', None))


def nested(flax: str, torch: str, kind: Kind) -> Kind:
  """A layer inside another one, e.g. the convolution `conv` of a block, under the key '.0'."""
  return tuple(
    leaf._replace(
      flax=_join('/', flax, leaf.flax),
      torch=None if leaf.torch is None else _join('.', torch, leaf.torch),
    )
    for leaf in kind
  )


def may_lack(kind: Kind) -> Kind:
  """A layer that some official files do not have."""
  return tuple(leaf._replace(may_lack=True) for leaf in kind)


CONV_BLOCK: Kind = (*nested('conv', '0', CONV), *nested('norm', '1', BATCH_NORM))
CONV_TRANSPOSE_BLOCK: Kind = (
  *nested('conv', '0', CONV_TRANSPOSE),
  *nested('norm', '1', BATCH_NORM),
)


def stacked_conv(frames: int) -> Kind:
  """A 3-D convolution that spans its `frames`, written as a 2-D one with frames as channels."""
  return (Leaf('params', 'kernel', 'weight', stacked_kernel(frames)), BIAS)


def raw(leaf: str, torch: str | None = None) -> Kind:
  """A parameter with the same layout on both sides; `torch` is its key where the name differs."""
  return (Leaf('params', leaf, torch or leaf),)


def under(flax: str, torch: str, rows: Sequence[Row]) -> tuple[Row, ...]:
  """The table of a network that is a part of another one."""
  return tuple((_join('/', flax, path), _join('.', torch, key), kind) for path, key, kind in rows)


class Pair(NamedTuple):
  """An array of a variable tree and its state_dict key; None if it has none."""

  collection: str
  path: tuple[str, ...]
  key: str | None
  leaf: Leaf
  value: Any


def _flatten(tree: Mapping, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from _flatten(value, (*path, name))
    else:
      yield (*path, name), value


def match_rows(rows: Sequence[Row], variables: Mapping) -> list[Pair]:
  """Matches every array of a variable tree with its state_dict key.

  Raises:
    ConversionError: for arrays without a row.
  """
  patterns = []
  for path, key, kind in rows:
    for leaf in kind:
      pattern = re.escape(_join('/', leaf.collection, path, leaf.flax))
      pattern = re.sub(r'\\\{(\w+)\\\}', r'(?P<\1>\\d+)', pattern)
      patterns.append((re.compile(pattern), key, leaf))

  pairs = []
  for (collection, *path), value in _flatten(variables):
    name = '/'.join((collection, *path))
    for pattern, prefix, leaf in patterns:
      if match := pattern.fullmatch(name):
        key = leaf.torch and _join('.', prefix, leaf.torch).format(**match.groupdict())
        pairs.append(Pair(collection, tuple(path), key, leaf, value))
        break
    else:
      raise ConversionError(
        f'no row of the table covers the variable {name}',
        hint='add a row to tfg_jax/pytorch/tables.py',
      )
  return pairs


def to_torch(rows: Sequence[Row], variables: Mapping) -> dict[str, np.ndarray]:
  """Returns a state_dict of numpy arrays from a tree {'params': ..., 'batch_stats': ...}.

  Raises:
    ConversionError: if the table has no row for a variable.
  """
  return {
    pair.key: np.asarray(pair.leaf.layout.to_torch(np.asarray(pair.value)), order='C')
    for pair in match_rows(rows, variables)
    if pair.key is not None
  }


def from_torch(
  rows: Sequence[Row], tensors: Mapping[str, np.ndarray], like: Mapping
) -> dict[str, Any]:
  """Returns the tree {'params': ..., 'batch_stats': ...} of numpy arrays from a state_dict.

  Args:
    rows: the network's table.
    tensors: arrays by state_dict key.
    like: the network's variables, or their shapes from `jax.eval_shape`.

  Raises:
    ConversionError: if keys are missing or left over, or a shape differs.
  """
  pairs = match_rows(rows, like)
  expected = {pair.key for pair in pairs if pair.key is not None}
  lacking = {pair.key for pair in pairs if pair.leaf.may_lack and pair.key not in tensors}
  _check_keys(expected - lacking, tensors.keys())

  tree: dict[str, Any] = {}
  for pair in pairs:
    shape = tuple(pair.value.shape)
    if pair.key is None or pair.key in lacking:
      array = np.zeros(shape, pair.value.dtype)
    else:
      array = pair.leaf.layout.to_flax(np.asarray(tensors[pair.key]))
      if array.shape != shape:
        wanted = pair.leaf.layout.to_torch(np.empty(shape)).shape
        raise ConversionError(
          f'the tensor {pair.key} has shape {tensors[pair.key].shape}; the network needs {wanted}',
          hint='check that the file holds this network, at this size',
        )
    node = tree.setdefault(pair.collection, {})
    for name in pair.path[:-1]:
      node = node.setdefault(name, {})
    node[pair.path[-1]] = np.asarray(array, order='C')
  return tree


def _check_keys(expected, present):
  missing = sorted(expected - present)
  unknown = sorted(present - expected)
  if not missing and not unknown:
    return
  parts = [
    f'{len(keys)} {word}: {", ".join(keys[:3])}{", ..." if len(keys) > 3 else ""}'
    for keys, word in ((missing, 'missing'), (unknown, 'unknown'))
    if keys
  ]
  raise ConversionError(
    f'the tensors do not fit the network ({"; ".join(parts)})',
    hint='check the network name; keys must be as the official checkpoint has them, without prefix',
  )
