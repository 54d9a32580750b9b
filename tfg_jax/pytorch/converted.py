"""A converted network on disk: its variables, and where they came from.

DIR/variables              Orbax checkpoint of {'params': ..., 'batch_stats': ...}
DIR/conversion.json        network, its checksum, source file and its SHA-256, notes, fairseq's
                           symbols and config
DIR/sentencepiece.model    the tokenizer, where the source had one
"""

import dataclasses
import json
import os
import pathlib
import shutil
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from tfg_jax import storage
from tfg_jax.errors import ConversionError

_RECORD = 'conversion.json'
_VARIABLES = 'variables'
_TOKENIZER = 'sentencepiece.model'


@dataclasses.dataclass(frozen=True)
class Conversion:
  """How a network came out of its file.

  Attributes:
    network: its public name.
    source: name of the file.
    sha256: of the file.
    inside: where in the file the tensors were, e.g. 'state_dict'.
    notes: what was said when it was imported.
    symbols: the target dictionary of a fairseq checkpoint, in the order of token ids.
    config: the sections 'model' and 'criterion' of a fairseq checkpoint's config.
    checksum: CRC-32 of all variables; None in folders of releases that had none.
  """

  network: str
  source: str
  sha256: str
  inside: str = ''
  notes: list[str] = dataclasses.field(default_factory=list)
  symbols: list[str] = dataclasses.field(default_factory=list)
  config: dict[str, Any] = dataclasses.field(default_factory=dict)
  checksum: int | None = None


def is_converted(directory) -> bool:
  """Whether a folder was written by `save`."""
  return (pathlib.Path(directory) / _RECORD).is_file()


def save(directory, variables: Mapping, conversion: Conversion, *, tokenizer: bytes = b''):
  """Writes a converted network; the folder appears under its name only when it is complete.

  Raises:
    ConversionError: if there is something under the name already, or it cannot be written.
  """
  directory = pathlib.Path(directory).absolute()
  check_free(directory)
  partial = directory.with_name(f'.{directory.name}.{os.getpid()}')
  try:
    partial.mkdir()
    # Weights hardly compress, and compressing them takes another copy of all.
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=False)) as checkpointer:
      checkpointer.save(partial / _VARIABLES, args=ocp.args.PyTreeSave(dict(variables)))
    save_record(partial, dataclasses.replace(conversion, checksum=_checksum(variables)), tokenizer)
    if directory.is_dir():
      directory.rmdir()
    partial.rename(directory)
  except OSError as error:
    raise ConversionError(
      f'the folder cannot be written: {error.strerror}', where=directory
    ) from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def save_record(directory: pathlib.Path, conversion: Conversion, tokenizer: bytes = b''):
  """Writes all of a converted network but its variables into a folder, which may be a new one."""
  directory.mkdir(exist_ok=True)
  if tokenizer:
    (directory / _TOKENIZER).write_bytes(tokenizer)
  record = json.dumps(dataclasses.asdict(conversion), indent=2, allow_nan=False)
  (directory / _RECORD).write_text(record + '\n')


def check_free(directory):
  """Raises ConversionError unless `directory` can become a new folder."""
  directory = pathlib.Path(directory).absolute()
  empty = os.path.isdir(directory) and not os.listdir(directory)
  if os.path.lexists(directory) and not empty:
    raise ConversionError(
      'the output exists already', where=directory, hint='remove it or choose another folder'
    )
  if not os.path.isdir(directory.parent):
    raise ConversionError(
      'the folder of the output does not exist', where=directory.parent, hint='create it'
    )


def read_record(directory) -> Conversion:
  """Returns the history of a converted network alone.

  Raises:
    ConversionError: if the folder is no converted network, or its history is damaged.
  """
  directory = pathlib.Path(directory).absolute()
  try:
    return Conversion(**json.loads((directory / _RECORD).read_text()))
  except FileNotFoundError as error:
    raise ConversionError(
      'this is not a converted network',
      where=directory,
      hint='python -m tfg_jax.convert import --network=NAME --input=FILE --output=DIR makes one',
    ) from error
  except (ValueError, TypeError) as error:
    raise ConversionError(f'{_RECORD} is damaged: {error}', where=directory) from error


def load(directory, network: str | None = None) -> tuple[dict[str, Any], Conversion]:
  """Returns the variables, as numpy arrays, and their history.

  Args:
    directory: what `save` wrote.
    network: the public name that it has to be; any if None.

  Raises:
    ConversionError: if the folder is no converted network, is another one, or is damaged.
  """
  directory = pathlib.Path(directory).absolute()
  conversion = read_record(directory)
  if network not in (None, conversion.network):
    raise ConversionError(
      f'the folder holds {conversion.network} and not {network}',
      where=directory,
      hint=f'name a folder of {network}, or ask for {conversion.network}',
    )
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      saved = checkpointer.metadata(directory / _VARIABLES).item_metadata.tree
      as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
      args = ocp.args.PyTreeRestore(restore_args=as_numpy)
      variables = checkpointer.restore(directory / _VARIABLES, args=args)
    if conversion.checksum not in (None, _checksum(variables)):
      raise ValueError('its checksum is another one')
    return variables, conversion
  except (OSError, ValueError, KeyError, AttributeError) as error:
    raise ConversionError(
      f'the checkpoint is damaged: {str(error).splitlines()[0][:200]}',
      where=directory / _VARIABLES,
      hint='import the file again',
    ) from error


def tokenizer(directory) -> bytes:
  """Returns the serialised sentencepiece model of a converted network; empty if it has none."""
  path = pathlib.Path(directory) / _TOKENIZER
  return path.read_bytes() if path.is_file() else b''


def _checksum(variables) -> int:
  """One number for the bytes of all arrays and their names."""
  return zlib.crc32(json.dumps(storage.checksums(variables), sort_keys=True).encode())
