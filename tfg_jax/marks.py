"""Marks of what was drawn: that it is synthetic, what drew it, and from what.

Every output carries them, and there is no flag that leaves them out:

  in the file   tags of the MP4, texts of the PNG: `comment`, a sentence for people, and
                `description`, the JSON object of `Marks.said`
  beside it     OUT.mp4.json: the same, with the time, and SHA-256 of the file and of what it was
                made from
  and signed    a C2PA manifest, where the user has a certificate: see `content_credentials`

They are for honest people: whoever wants to can remove them, so a file without them may be
synthetic all the same. Re-encoding loses the signature, and many sites strip tags.
"""

import dataclasses
import datetime
import hashlib
import json
import os
from collections.abc import Iterable

from PIL import Image, PngImagePlugin

import tfg_jax
from tfg_jax import content_credentials, errors, media, storage

FOOTAGE = 'edit of footage'
STILL = 'creation from a still'
SOUND = 'creation from sound alone'
SAMPLE = 'sample of a training run'  # beside what it is to be like; marked inside alone
_PREFIX = 'Synthetic media: '


@dataclasses.dataclass(frozen=True)
class Maker:
  """Who draws. `weights` is `trained.weights_digest`; None where no checkpoint need have them."""

  system: str
  step: int | None  # of the training; None: several
  weights: str | None
  credentials: content_credentials.Credentials | None = None  # to sign with

  def __str__(self):
    step = '' if self.step is None else f', step {self.step}'
    return f'tfg_jax {tfg_jax.__version__} ({self.system}{step})'


@dataclasses.dataclass(frozen=True)
class Marks:
  """What is said of an output: 'the mouth was redrawn' by `maker` 'to match other speech'."""

  maker: Maker
  kind: str  # one of the above
  drawn: str
  how: str
  warning: str  # a sentence
  inputs: dict[str, str] = dataclasses.field(default_factory=dict)  # what it is -> path

  @property
  def sentence(self) -> str:
    """What the file says in a tag that people read."""
    return f'{_PREFIX}{self.drawn} by {self.maker} {self.how}. {self.warning}'

  @property
  def said(self) -> dict:
    """What the file itself and its sidecar both say."""
    return {
      'synthetic': True,
      'kind': self.kind,
      'tool': 'tfg_jax',
      'version': tfg_jax.__version__,
      'system': self.maker.system,
      'step': self.maker.step,
      'weights': self.maker.weights,
    }

  @property
  def tags(self) -> dict[str, str]:
    """For the metadata of a `media.VideoWriter`."""
    return {'comment': self.sentence, 'description': json.dumps(self.said)}

  @property
  def png(self) -> PngImagePlugin.PngInfo:
    """The same for Pillow."""
    info = PngImagePlugin.PngInfo()
    for name, text in self.tags.items():
      info.add_text(name.capitalize(), text)
    return info

  def finish(self, path: str, name: str):
    """Signs a whole file and writes its sidecar, before the file gets its name.

    Args:
      path: where the file is now.
      name: the path that it will have.

    Raises:
      ConfigError: the file cannot be signed.
      MediaError: the sidecar cannot be written.
    """
    if self.maker.credentials:
      self._sign(path, name)
    record = {
      **self.said,
      'note': self.sentence,
      'file': {'name': os.path.basename(name), 'sha256': digest(path)},
      'inputs': {
        what: {'name': os.path.basename(source), 'sha256': digest(source)}
        for what, source in self.inputs.items()
      },
      'made': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    }
    sidecar = sidecar_of(name)
    try:
      storage.write_whole(sidecar, [json.dumps(record, indent=2).encode(), b'\n'])
    except OSError as error:
      raise errors.MediaError(
        f'cannot write: {error.strerror}', where=sidecar, hint=errors.StorageError.next_step
      ) from error

  def _sign(self, path, name):
    is_edit = self.kind == FOOTAGE
    content_credentials.sign(
      path,
      self.maker.credentials,
      title=os.path.basename(name),
      edited=self.inputs['video'] if is_edit else None,
      heard_or_seen=[x for what, x in self.inputs.items() if not (is_edit and what == 'video')],
      agent={'name': 'tfg_jax', 'version': tfg_jax.__version__},
      description=f'{self.sentence} Weights: {self.maker.weights}',
    )


def of_samples(maker: Maker) -> Marks:
  """Of pictures and clips that a run leaves in its workdir."""
  return Marks(
    maker,
    SAMPLE,
    'samples were drawn',
    'in training, and are shown beside what they are to be like',
    'Nobody shown said or did this.',
  )


def sidecar_of(path: str) -> str:
  """The path of the marks beside a file."""
  return f'{path}.json'


def digest(path: str) -> str:
  """SHA-256 of a file, in hex."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


@dataclasses.dataclass(frozen=True)
class Inspection:
  """What was found of marks on a file.

  `is_sound`: there are marks in the file and beside it, and whatever was found fits together.
  """

  lines: tuple[str, ...]
  is_sound: bool

  def __str__(self):
    return '\n'.join(self.lines)


def inspect(path: str) -> Inspection:
  """Reads all marks of an MP4 or PNG back and compares them.

  Raises:
    MediaError: the file is no media file.
  """
  inside = _marks_in(media.read_tags(path))
  beside, faults = _read_sidecar(path)
  lines = [path]
  sidecar = os.path.basename(sidecar_of(path))
  if inside is not None and beside is not None and not _differences(inside, beside):
    lines += _describe(f'in the file and in {sidecar}', inside)
  else:
    lines += _describe('in the file', inside)
    lines += _describe(f'beside it, in {sidecar}', beside)
  if beside is not None:
    lines += _describe_inputs(beside)
    faults += _differences(inside or {}, beside) + _misfit(path, beside)
  manifest, faults_of_manifest = _read_manifest(path)
  lines += manifest
  faults += faults_of_manifest
  if inside is None and beside is None:
    lines.append('No marks of tfg_jax. That does not make it genuine: marks can be removed.')
  lines += [f'NOT IN ORDER: {fault}' for fault in faults]
  is_whole = inside is not None and beside is not None
  if is_whole and not faults:
    lines.append('The marks agree, and the file is the one that they are of.')
  return Inspection(tuple(lines), is_whole and not faults)


def _marks_in(tags):
  try:
    said = json.loads(tags.get('description', ''))
  except ValueError:
    return None
  if not isinstance(said, dict) or said.get('synthetic') is not True:
    return None
  return said | {'note': tags.get('comment', '')}


def _read_sidecar(path):
  """The object, or None, and what is wrong with it."""
  try:
    with open(sidecar_of(path)) as file:
      record = json.load(file)
  except FileNotFoundError:
    return None, []
  except (OSError, ValueError) as error:
    return None, [f'{sidecar_of(path)} cannot be read: {error}']
  if not isinstance(record, dict) or 'synthetic' not in record:
    return None, [f'{sidecar_of(path)} holds no marks']
  return record, []


def _describe(where, marks) -> Iterable[str]:
  if marks is None:
    yield f'{where}: nothing'
    return
  yield f'{where}: {marks.get("note")}'
  yield f'  {marks.get("kind")}; weights {marks.get("weights")}'


def _describe_inputs(record) -> Iterable[str]:
  yield f'  made {record.get("made")}'
  inputs = record.get('inputs')
  for what, source in inputs.items() if isinstance(inputs, dict) else ():
    if isinstance(source, dict):
      yield f'  from the {what} {source.get("name")}, sha256 {source.get("sha256")}'


def _differences(inside, beside) -> list[str]:
  return [
    f'{name} is {inside[name]!r} in the file and {beside.get(name)!r} beside it'
    for name in inside
    if inside[name] != beside.get(name)
  ]


def _misfit(path, beside) -> list[str]:
  file, found = beside.get('file'), digest(path)
  expected = file.get('sha256') if isinstance(file, dict) else None
  if expected == found:
    return []
  return [
    f'this is not the file that was written: its sha256 is {found}, the sidecar says {expected}'
  ]


def _read_manifest(path):
  """Lines about the C2PA manifest, and what is wrong with it."""
  try:
    manifest = content_credentials.read(path)
  except errors.MissingDependencyError as error:
    return [f'C2PA manifest: not looked for, {error.what}; {error.hint}'], []
  if manifest is None:
    return ['C2PA manifest: none'], []
  lines = [f'C2PA manifest: signed by {manifest.signer}; {manifest.trust}']
  lines += [f'  {action}' for action in manifest.actions]
  return lines, [f'the C2PA manifest is invalid: {fault}' for fault in manifest.faults]


def write_png(picture, path: str, marks: Marks):
  """Writes (H, W, 3) uint8 RGB, marked, into a file that appears when it is complete.

  Raises:
    ConfigError, MediaError: see `Marks.finish`; and the file cannot be written.
  """
  partial = f'{path}.{os.getpid()}.partial'
  try:
    Image.fromarray(picture).save(partial, format='PNG', pnginfo=marks.png)
    marks.finish(partial, path)
    os.replace(partial, path)
  except OSError as error:
    raise errors.MediaError(
      f'cannot write: {error.strerror}', where=path, hint=errors.StorageError.next_step
    ) from error
  finally:
    if os.path.exists(partial):
      os.remove(partial)
