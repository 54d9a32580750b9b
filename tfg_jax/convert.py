r"""Converts public networks between PyTorch files and Orbax checkpoints, both ways bit for bit.

  python -m tfg_jax.convert import --network=talklip_generator --input=X.pth --output=DIR
  python -m tfg_jax.convert export --network=talklip_generator --input=DIR --output=X.pth

Reads .pth, .pt and .safetensors, also inside the wrappers of official files, and pickled dicts of
numpy arrays (.pkl); nothing in a file is executed. The input of an export is a converted network or
the workdir of a trained run.
"""

import hashlib
import pathlib

from absl import app, flags

from tfg_jax import errors

_HASH_CHUNK_BYTES = 1 << 20


def define_flags(values=flags.FLAGS):
  """Defines the flags; other commands have an --output too, so importing this module does not."""
  flags.DEFINE_string(
    'network', None, 'Public network, e.g. talklip_generator.', flag_values=values
  )
  flags.DEFINE_string(
    'input',
    None,
    'Import: a PyTorch, safetensors or pickle file. Export: a folder.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'output', None, 'Import: a new folder. Export: .pth, .pt or .safetensors.', flag_values=values
  )
  flags.DEFINE_string(
    'inside',
    '',
    'Import: where in the file, e.g. d_ac_state_1, if it holds the network several times.',
    flag_values=values,
  )


def import_network(network, path, directory, *, inside=''):
  """Writes a converted network from a PyTorch file and returns its `converted.Conversion`.

  Args:
    network: a public name, e.g. 'talklip_generator'.
    path: the file.
    directory: a folder that does not exist yet.
    inside: where in the file, if it holds the network several times.

  Raises:
    ConversionError: if the file cannot be read safely or does not fit the network.
  """
  from tfg_jax import pytorch
  from tfg_jax.pytorch import converted, fairseq, files, matching

  _check_network(network)
  converted.check_free(directory)
  tree = files.read(path)
  dicts = files.state_dicts(tree, where=path)
  match = matching.find(network, dicts, inside=inside, where=path)
  extras = fairseq.extras(tree)
  conversion = converted.Conversion(
    network=network,
    source=pathlib.Path(path).name,
    sha256=_sha256(path),
    inside=match.inside,
    notes=match.notes,
    symbols=extras.symbols,
    config=extras.config,
  )
  variables = pytorch.from_torch(network, match.tensors, match.like)
  converted.save(directory, variables, conversion, tokenizer=extras.tokenizer)
  return conversion


def export_network(network, directory, path):
  """Writes the PyTorch file of a network and returns the number of its tensors.

  Args:
    network: a public name.
    directory: a converted network, or the workdir of a trained run that holds the network.
    path: the file; .pth, .pt or .safetensors.

  Raises:
    ConversionError: if the folder does not hold the network or the file cannot be written.
    CheckpointError: if the folder is neither.
  """
  from tfg_jax import pytorch
  from tfg_jax.pytorch import converted, files

  _check_network(network)
  files.check_output(path)
  if converted.is_converted(directory):
    variables, _ = converted.load(directory, network)
  else:
    from tfg_jax import trained

    run = trained.load(directory)
    variables = run.system.export(run.state, network)
  tensors = pytorch.to_torch(network, variables)
  files.write(path, tensors)
  return len(tensors)


def _check_network(network):
  from tfg_jax.pytorch.tables import TABLES

  if network not in TABLES:
    raise errors.ConversionError(
      f'there is no network {network!r}', hint=f'choose one of {", ".join(sorted(TABLES))}'
    )


def _sha256(path):
  digest = hashlib.sha256()
  with open(path, 'rb') as file:
    while chunk := file.read(_HASH_CHUNK_BYTES):
      digest.update(chunk)
  return digest.hexdigest()


def main(argv, values=flags.FLAGS):
  if argv[1:] not in (['import'], ['export']):
    raise errors.ConfigError(
      f'the command is {" ".join(argv[1:]) or "missing"}', hint='give import or export; see --help'
    )
  errors.check_arguments(argv[1:], values, 'network', 'input', 'output')
  if argv[1] == 'import':
    conversion = import_network(values.network, values.input, values.output, inside=values.inside)
    print(f'{values.network} from {conversion.source} ({conversion.inside or "top"})')
    for note in conversion.notes:
      print(f'note: {note}')
    print(f'written: {values.output}')
  else:
    number = export_network(values.network, values.input, values.output)
    print(f'{values.network}: {number} tensors\nwritten: {values.output}')


if __name__ == '__main__':
  define_flags()
  app.run(errors.exit_on_expected_failure(main), flags_parser=errors.parse_flags)
