"""PyTorch checkpoints and safetensors as data, in and out, without PyTorch; pickled arrays, in.

A file is never executed: its pickle is read by `pickles`, which calls nothing that the file names.
Names and shapes come first and numbers only when a tensor is asked for, so a reader needs memory
for one tensor and not for the file; pickled numpy arrays are the exception.
"""

import contextlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfg_jax.errors import ConversionError
from tfg_jax.pytorch import numpy_pickle, safetensors, torch_save
from tfg_jax.pytorch.stored import StoredTensor

MAX_DEPTH = 16  # dicts within dicts
MAX_KEY_CHARACTERS = 1000

_WRITERS = {
  '.pth': torch_save.write,
  '.pt': torch_save.write,
  '.safetensors': safetensors.write,
}


def read(path) -> Any:
  """Returns what a PyTorch, safetensors or pickle file holds, with its tensors as `StoredTensor`.

  Args:
    path: a file of `torch.save` (zip, or the stream of PyTorch before 1.6), safetensors, or a
      pickled dict of numpy arrays. The content decides and not the suffix: official files end in
      .pth, .pt, .model, .pth.tar, .pkl.

  Returns:
    Usually a nested dict; safetensors give a flat one. Objects of known foreign classes, e.g.
    fairseq's, are `pickles.Record`.

  Raises:
    ConversionError: if the file is none of these, is damaged, or names code.
  """
  path = pathlib.Path(path)
  try:
    if not path.is_file():
      raise ConversionError('there is no such file', where=path, hint='check the path')
    with open(path, 'rb') as file:
      head = file.read(32)
  except OSError as error:
    raise ConversionError(f'the file cannot be read: {error.strerror}', where=path) from error
  if head.startswith(b'PK\x03\x04'):
    return torch_save.read_zip(path)
  if head[8:9] == b'{':
    return safetensors.read(path)
  if head.startswith(b'\x80'):
    is_stream = torch_save.STREAM_MAGIC_BYTES in head
    return torch_save.read_stream(path) if is_stream else numpy_pickle.read(path)
  raise ConversionError(
    f'this is neither a PyTorch nor a safetensors file, nor a pickle: it starts with {head[:8]!r}',
    where=path,
    hint='a failed download often leaves a web page or a Git LFS pointer; look at it in an editor',
  )


def state_dicts(tree, *, where='') -> dict[str, dict[str, StoredTensor]]:
  """Returns the dicts of a file that hold tensors by path: keys joined with dots, '' at the top.

  A 'module.' in front of all tensors of a dict (DataParallel) is dropped. Lists, e.g. those of an
  optimizer, are left out.

  Raises:
    ConversionError: if `tree` is not a dict, or two tensors have the same path.
  """
  if not isinstance(tree, dict):
    raise ConversionError(
      f'the file holds a {type(tree).__name__} and not a dict of tensors',
      where=where,
      hint='save the state_dict() of the module',
    )
  found, names, seen, queue = {}, set(), set(), [((), tree)]
  while queue:
    path, node = queue.pop()
    if id(node) in seen or len(path) > MAX_DEPTH:
      continue
    seen.add(id(node))  # a dict may be shared or contain itself
    items = {key: value for key, value in node.items() if _is_name(key)}
    tensors = {key: value for key, value in items.items() if isinstance(value, StoredTensor)}
    if tensors and all(key.startswith('module.') for key in tensors):
      tensors = {key.removeprefix('module.'): value for key, value in tensors.items()}
    for key in tensors:
      name = '.'.join((*path, key))
      if name in names:
        raise ConversionError(f'two tensors of the file have the key {name!r}', where=where)
      names.add(name)
    if tensors:
      found['.'.join(path)] = found.get('.'.join(path), {}) | tensors
    below = [((*path, key), value) for key, value in items.items() if isinstance(value, dict)]
    queue.extend(reversed(below))
  return found


def _is_name(key):
  return isinstance(key, str) and len(key) <= MAX_KEY_CHARACTERS


def write(path, arrays: Mapping[str, np.ndarray]):
  """Writes a state_dict; the suffix (.pth, .pt or .safetensors) chooses the format.

  The same arrays give the same bytes. The file appears under its name only when it is complete.

  Args:
    path: the output file, replaced if it exists; its folder must exist.
    arrays: numpy arrays by state_dict key, in the order in which PyTorch lists them.

  Raises:
    ConversionError: for another suffix, a path that cannot be written to, or a dtype that the
      format does not have.
  """
  path = check_output(path)
  partial = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    with open(partial, 'xb') as file:
      _WRITERS[path.suffix](file, arrays, where=path)
    os.replace(partial, path)
  except OSError as error:
    raise ConversionError(f'the file cannot be written: {error.strerror}', where=path) from error
  finally:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)


def check_output(path) -> pathlib.Path:
  """Returns the path if `write` can write to it; raises ConversionError if not."""
  path = pathlib.Path(path)
  if path.suffix not in _WRITERS:
    raise ConversionError(
      f'cannot write a file that ends in {path.suffix!r}',
      where=path,
      hint=f'choose one of {", ".join(_WRITERS)}',
    )
  if not os.path.isdir(path.parent):
    raise ConversionError('the folder of the output does not exist', where=path, hint='create it')
  if os.path.isdir(path):
    raise ConversionError('the output is a folder', where=path, hint='name a file')
  return path
