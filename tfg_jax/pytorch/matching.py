"""Finds a public network's tensors in a file: under which prefix, at which size, complete or not.

Official files wrap state_dicts in many ways ('state_dict', 'model', one entry per network) and hold
networks within networks ('encoder.w2v_model.'). There is no list of wrappers: the place is the
prefix under which the network's keys are found.
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from tfg_jax import networks
from tfg_jax.errors import ConversionError
from tfg_jax.pytorch import rules
from tfg_jax.pytorch.stored import StoredTensor
from tfg_jax.pytorch.tables import TABLES

_MAX_PLACES = 16  # prefixes that are looked at closely
_MAX_GUESSES = 6  # networks that a file is compared with closely when it does not fit
_MAX_GUESS_KEYS = 2000


class Expected(NamedTuple):
  """One tensor of an official state_dict."""

  shape: tuple[int, ...]
  dtype: np.dtype
  may_lack: bool


@functools.lru_cache
def official_tensors(network: str) -> dict[str, Expected]:
  """Returns the tensors of an official state_dict by key; computes shapes only."""
  found = {}
  for pair in rules.match_rows(TABLES[network], networks.official_shapes(network)):
    if pair.key is not None:
      tensor = pair.leaf.layout.to_torch(_stand_in(pair.value.shape, pair.value.dtype))
      found[pair.key] = Expected(tensor.shape, tensor.dtype, pair.leaf.may_lack)
  return found


def _stand_in(shape, dtype=np.float32):
  """An array of any size that takes no memory, to send through a layout."""
  return np.broadcast_to(np.zeros((), dtype), shape)


@dataclasses.dataclass(frozen=True)
class Match:
  """A network found in a file.

  Attributes:
    tensors: by official key, reading in the official dtype.
    like: shapes of the variables at the file's size, or None at the official one.
    inside: where in the file, e.g. 'state_dict'.
    notes: what a user should know, one sentence each.
  """

  tensors: dict[str, StoredTensor]
  like: Any
  inside: str
  notes: list[str]


@dataclasses.dataclass
class _Place:
  """The tensors under one prefix, compared with the ones of a network."""

  prefix: str
  present: dict[str, StoredTensor]
  dropped: list[str]
  missing: list[str]
  unknown: list[str]
  resized: list[str]

  @classmethod
  def compare(cls, prefix, dicts, expected):
    """A dict of the file that holds one of the tensors has to be the network's altogether."""
    present = {}
    for path, tensors in dicts.items():
      under = {
        name.removeprefix(prefix): tensor
        for name, tensor in _named(path, tensors)
        if name.startswith(prefix)
      }
      if under.keys() & expected.keys():
        present |= under
    # PyTorch from 0.4 on counts batches, the networks of older programs do not.
    uncounted = [
      key
      for key in present.keys() - expected.keys()
      if key.endswith('.num_batches_tracked')
      and f'{key.removesuffix("num_batches_tracked")}running_mean' in expected
    ]
    for key in uncounted:
      del present[key]
    return cls(
      prefix,
      present,
      uncounted,
      missing=[key for key, e in expected.items() if not e.may_lack and key not in present],
      unknown=[key for key in present if key not in expected],
      resized=[
        key for key, t in present.items() if key in expected and t.shape != expected[key].shape
      ],
    )

  @property
  def fits(self):
    return not self.missing and not self.unknown


def _named(path, tensors):
  return [(f'{path}.{key}' if path else key, tensor) for key, tensor in tensors.items()]


def find(
  network: str, dicts: Mapping[str, Mapping[str, StoredTensor]], *, inside: str = '', where=''
) -> Match:
  """Finds a network among the tensors of a file.

  Args:
    network: its name in `TABLES`.
    dicts: the file's dicts of tensors by path, as `files.state_dicts` returns them.
    inside: a path in the file, e.g. 'd_ac_state_1', to choose among several fitting places.
    where: the file, for messages.

  Raises:
    ConversionError: if no place holds the network's keys and no others, or several do; if sizes
      contradict each other, or are exactly those of another network.
  """
  expected = official_tensors(network)
  places = _places(expected, dicts, inside)
  if not places:
    raise ConversionError(
      f'none of the {sum(map(len, dicts.values()))} tensors of the file has a key of {network}',
      where=f'{where}, {inside}' if inside else where,
      hint=_guess_hint(dicts),
    )
  fitting = [place for place in places if place.fits]
  exact = [place for place in fitting if not place.resized]
  chosen = exact or fitting
  if len(chosen) > 1:
    names = ', '.join(place.prefix.rstrip('.') or 'the top' for place in chosen)
    raise ConversionError(
      f'{network} is in the file {len(chosen)} times: {names}',
      where=where,
      hint=f'choose one, e.g. --inside={chosen[0].prefix.rstrip(".")}',
    )
  whole = None
  if not chosen and not places[0].missing:
    # A part of a network without a prefix of its own, e.g. Wav2Lip's audio encoder.
    place = places[0]
    guesses = _guess({'': place.present})
    whole = next((name for name in guesses if _is_whole(name, place)), None)
    if whole:
      place.present = {key: place.present[key] for key in place.present if key in expected}
      chosen = [place]
  if not chosen:
    raise _mismatch(network, places[0], dicts, where)
  (place,) = chosen
  return _match(network, place, expected, whole, where)


def _places(expected, dicts, inside):
  """Returns the prefixes with keys of the network, most keys first."""
  start = f'{inside}.' if inside else ''
  matches = collections.Counter()
  for path, tensors in dicts.items():
    for name, _ in _named(path, tensors):
      cuts = [0, *(dot.end() for dot in re.finditer(r'\.', name))]
      matches.update(
        name[:cut] for cut in cuts if name[cut:] in expected and name[:cut].startswith(start)
      )
  return [_Place.compare(prefix, dicts, expected) for prefix, _ in matches.most_common(_MAX_PLACES)]


def _match(network, place, expected, whole, where):
  """Checks sizes and dtypes of the chosen place and writes the notes."""
  notes, like = [], None
  if whole:
    notes.append(f'It is a part of the {whole} in the file.')
  if place.dropped:
    notes.append(f'{len(place.dropped)} batch counts were left out: the official network has none.')
  lacking = [key for key in expected if key not in place.present]
  if lacking:
    notes.append(f'{_listed(lacking)} {_are(lacking)} not in the file; zeros take the place.')
  if place.resized:
    alone = {'': place.present}
    same = [name for name in _guess(alone) if _is_exact(name, alone)]
    if same:
      raise ConversionError(
        f'the tensors have the keys of {network} but exactly the sizes of {" or ".join(same)}',
        where=where,
        hint=f'use --network={same[0]}',
      )
    like = _resized(network, place, where)
    key = place.resized[0]
    notes.append(
      f'This is not the official size: {len(place.resized)} of {len(expected)} tensors have other '
      f'shapes, e.g. {key} {place.present[key].shape}, officially {expected[key].shape}.'
    )
  tensors, casts = {}, collections.Counter()
  for key, tensor in place.present.items():
    dtype = expected[key].dtype
    if not np.can_cast(tensor.dtype, dtype, 'same_kind'):
      raise ConversionError(f'{key} has dtype {tensor.dtype} instead of {dtype}', where=where)
    if tensor.dtype != dtype:
      casts[f'{tensor.dtype} to {dtype}'] += 1
    tensors[key] = tensor.astype(dtype)
  notes += [f'{number} tensors were converted from {cast}.' for cast, number in casts.items()]
  return Match(tensors, like, place.prefix.rstrip('.'), notes)


def _resized(network, place, where):
  """Returns the shapes of the variables at the file's size."""
  tree = {}
  for pair in rules.match_rows(TABLES[network], networks.official_shapes(network)):
    shape = pair.value.shape
    if pair.key in place.present:
      found = place.present[pair.key].shape
      try:
        shape = pair.leaf.layout.to_flax(_stand_in(found)).shape
      except ValueError as error:
        raise ConversionError(
          f'{pair.key} has shape {found}, which no size of {network} gives', where=where
        ) from error
      if len(shape) != len(pair.value.shape):
        raise ConversionError(
          f'{pair.key} has shape {found}, which no size of {network} gives', where=where
        )
    node = tree.setdefault(pair.collection, {})
    for name in pair.path[:-1]:
      node = node.setdefault(name, {})
    node[pair.path[-1]] = jax.ShapeDtypeStruct(shape, pair.value.dtype)
  for pair in rules.match_rows(TABLES[network], tree):
    _check_width(pair, tree, network, where)
  return tree


def _check_width(pair, tree, network, where):
  """A bias or scale is as wide as the kernel beside it has outputs."""
  node = tree['params']
  for name in pair.path[:-1]:
    node = node.get(name, {})
  kernel = node.get('kernel')
  if kernel is not None and len(pair.value.shape) == 1 and pair.value.shape[0] != kernel.shape[-1]:
    raise ConversionError(
      f'{pair.key} has shape {pair.value.shape}; its weight has {kernel.shape[-1]} outputs',
      where=where,
      hint=f'the file is no {network} of any size',
    )


# --- What the file may be instead -------------------------------------------------------------


def _mismatch(network, place, dicts, where):
  parts = [
    f'{len(keys)} {what} ({_listed(keys)})'
    for keys, what in ((place.missing, 'missing'), (place.unknown, 'unknown'))
    if keys
  ]
  inside = place.prefix.rstrip('.')
  return ConversionError(
    f'the tensors are not those of {network}: {" and ".join(parts)}',
    where=f'{where}, {inside}' if inside else where,
    hint=_guess_hint(dicts),
  )


def _listed(keys):
  return f'{", ".join(keys[:3])}{", ..." if len(keys) > 3 else ""}'


def _are(keys):
  return 'is' if len(keys) == 1 else 'are'


def _guess_hint(dicts):
  names = _guess(dicts)
  if names:
    return f'the file looks like {" or ".join(names)}'
  return 'the file looks like none of the networks that tfg_jax knows'


def _guess(dicts) -> list[str]:
  """Returns the networks that share most keys and shapes with a file, if that is half or more."""
  names = [name for path, tensors in dicts.items() for name, _ in _named(path, tensors)]
  names = names[:_MAX_GUESS_KEYS]
  covered = {network: len(list(filter(_covers(network), names))) for network in TABLES}
  likely = sorted(TABLES, key=lambda network: -covered[network])[:_MAX_GUESSES]
  scores = {network: _likeness(network, dicts) for network in likely}
  best = max(scores.values())
  return sorted(network for network in likely if scores[network] == best and best > (0.5, 0))


@functools.lru_cache
def _covers(network):
  """Returns a predicate: does a name end in one of the keys of the network's table?"""
  keys = [
    '.'.join(filter(None, (key, leaf.torch)))
    for _, key, kind in TABLES[network]
    for leaf in kind
    if leaf.torch
  ]
  patterns = [re.sub(r'\\\{\w+\\\}', r'\\d+', re.escape(key)) for key in keys]
  return re.compile(rf'(?:.*\.)?(?:{"|".join(patterns)})').fullmatch


def _likeness(network, dicts):
  """Returns the shares (keys, shapes) that the file's best place has in common with a network."""
  expected = official_tensors(network)
  places = _places(expected, dicts, '')
  if not places:
    return 0.0, 0.0
  shares = []
  for place in places:
    common = [key for key in place.present if key in expected]
    alike = len(common) - len(place.resized)
    all_keys = len(expected) + len(place.unknown)
    shares.append((len(common) / all_keys, alike / all_keys))
  return max(shares)


def _is_exact(network, dicts):
  places = _places(official_tensors(network), dicts, '')
  return any(place.fits and not place.resized for place in places)


def _is_whole(network, place):
  """Whether a place holds all keys of a network and no others."""
  expected = official_tensors(network)
  return all(key in expected for key in place.present) and all(
    expected[key].may_lack or key in place.present for key in expected
  )
