"""Signed C2PA manifests ("content credentials"), with a certificate that the user has.

Terms are those of the C2PA specification 2.2 (actions, ingredients) and of IPTC's digital source
types. Nothing here asks the network: no time stamp is fetched, so a signature is accepted for as
long as its certificate is valid, and manifests elsewhere that a file points to are not fetched.
"""

import contextlib
import dataclasses
import io
import mimetypes
import os
from collections.abc import Sequence
from typing import Any

from PIL import Image

from tfg_jax import errors

_SOURCE_TYPES = 'http://cv.iptc.org/newscodes/digitalsourcetype/'
COMPOSITE = _SOURCE_TYPES + 'compositeWithTrainedAlgorithmicMedia'
GENERATED = _SOURCE_TYPES + 'trainedAlgorithmicMedia'
_LOCAL = {
  'verify': {'remote_manifest_fetch': False, 'ocsp_fetch': False},
  'builder': {'thumbnail': {'enabled': False}},
}
_TRUST = {
  'Trusted': 'the signature is valid and its certificate is on the trust list',
  'Valid': 'the signature is valid; nobody vouches for its certificate',
  'Invalid': 'it does not fit the file, or its signature is not valid',
}


@dataclasses.dataclass(frozen=True)
class Credentials:
  """What to sign with: PEM files of a certificate with its chain, and of its private key."""

  certificate: str
  key: str

  def check(self):
    """Signs a picture of one pixel: to be tried before hours of work.

    Raises:
      ConfigError: a file cannot be read, is no such PEM, the key is not the certificate's, or the
        certificate has expired or is not meant for this.
      MissingDependencyError: the extra `provenance` is not installed.
    """
    c2pa = _c2pa()
    picture = io.BytesIO()
    Image.new('RGB', (1, 1)).save(picture, 'PNG')
    with self.signing(c2pa) as signer, c2pa.Builder({}, _context(c2pa)) as builder:
      builder.set_intent(
        c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.TRAINED_ALGORITHMIC_MEDIA
      )
      builder.sign(signer, 'image/png', picture, io.BytesIO())

  @contextlib.contextmanager
  def signing(self, c2pa):
    """Gives a `c2pa.Signer`; what it cannot sign is a ConfigError."""
    certificate, key, algorithm = self._read()
    try:
      with c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, certificate, key, None)) as signer:
        yield signer
    except c2pa.C2paError as error:
      raise errors.ConfigError(
        f'this certificate cannot sign: {error}',
        where=self.certificate,
        hint='C2PA asks for a certificate that is valid today, with its chain, for digital '
        'signatures (key usage) of documents or e-mail (extended key usage)',
      ) from error

  def _read(self):
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    texts = {}
    for flag, path in (('certificate', self.certificate), ('key', self.key)):
      try:
        with open(path, 'rb') as file:
          texts[flag] = file.read()
      except OSError as error:
        raise errors.ConfigError(
          f'--{flag} cannot be read: {error.strerror}', where=path
        ) from error
    try:
      leaf = x509.load_pem_x509_certificate(texts['certificate'])
    except ValueError as error:
      raise errors.ConfigError(
        '--certificate is not a certificate in PEM form', where=self.certificate
      ) from error
    try:
      key = serialization.load_pem_private_key(texts['key'], password=None)
    except (ValueError, TypeError) as error:
      raise errors.ConfigError(
        '--key is not a private key in PEM form without a password', where=self.key
      ) from error
    if key.public_key() != leaf.public_key():
      raise errors.ConfigError(
        f'--key is not that of the certificate {self.certificate}', where=self.key
      )
    return texts['certificate'], texts['key'], _algorithm(key, self.key)


def _algorithm(key, where):
  """C2PA's name of the signature that a private key makes."""
  from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

  if isinstance(key, ed25519.Ed25519PrivateKey):
    return 'ed25519'
  if isinstance(key, rsa.RSAPrivateKey):
    return 'ps256'
  if isinstance(key, ec.EllipticCurvePrivateKey):
    curves = {'secp256r1': 'es256', 'secp384r1': 'es384', 'secp521r1': 'es512'}
    if key.curve.name in curves:
      return curves[key.curve.name]
  raise errors.ConfigError(
    f'C2PA does not know signatures by this key ({type(key).__name__})',
    where=where,
    hint='use a key of P-256, P-384, P-521, RSA or Ed25519',
  )


def sign(
  path: str,
  credentials: Credentials,
  *,
  title: str,
  edited: str | None,
  heard_or_seen: Sequence[str],
  agent: dict[str, str],
  description: str,
):
  """Puts a signed manifest into an MP4 or PNG.

  Args:
    path: the file; it is replaced.
    credentials: to sign with.
    title: the name that the file will have.
    edited: the footage that was edited; None: what is in the file was never filmed.
    heard_or_seen: other files that it was made from.
    agent: `name` and `version` of what drew.
    description: a sentence.

  Raises:
    ConfigError: see `Credentials.check`.
    MissingDependencyError: the extra `provenance` is not installed.
  """
  c2pa = _c2pa()
  signed = f'{path}.signed'
  kind = 'image/png' if title.lower().endswith('.png') else 'video/mp4'
  try:
    with (
      credentials.signing(c2pa) as signer,
      c2pa.Builder({'title': title, 'claim_generator_info': [agent]}, _context(c2pa)) as builder,
    ):
      if edited:
        # The intent adds the action c2pa.opened for the parent.
        builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
        _add(builder, edited, 'parentOf')
      for other in heard_or_seen:
        _add(builder, other, 'inputTo')
      builder.add_action(
        {
          'action': 'c2pa.edited' if edited else 'c2pa.created',
          'digitalSourceType': COMPOSITE if edited else GENERATED,
          'softwareAgent': agent,
          'description': description,
        }
      )
      with open(path, 'rb') as source, open(signed, 'w+b') as target:
        builder.sign(signer, kind, source, target)
    os.replace(signed, path)
  finally:
    if os.path.exists(signed):
      os.remove(signed)


def _add(builder, path, relationship):
  kind = mimetypes.guess_type(path)[0] or 'application/octet-stream'
  with open(path, 'rb') as file:
    builder.add_ingredient(
      {'title': os.path.basename(path), 'relationship': relationship}, kind, file
    )


@dataclasses.dataclass(frozen=True)
class Manifest:
  """The active manifest of a file, as read back."""

  signer: str
  trust: str  # a sentence
  actions: tuple[str, ...]  # e.g. 'c2pa.edited, compositeWithTrainedAlgorithmicMedia: ...'
  faults: tuple[str, ...]  # empty if the signature is valid and the file is what was signed


def read(path: str) -> Manifest | None:
  """The manifest inside a file; None if there is none.

  Raises:
    MissingDependencyError: the extra `provenance` is not installed.
  """
  c2pa = _c2pa()
  try:
    reader = c2pa.Reader.try_create(path, context=_context(c2pa))
    if reader is None:
      return None
    with reader:
      state, results = reader.get_validation_state(), reader.get_validation_results()
      active = reader.get_active_manifest()
  except c2pa.C2paError as error:
    return Manifest('an unknown signer', _TRUST['Invalid'], (), (str(error),))
  signature = active.get('signature_info', {})
  failures = results['activeManifest']['failure'] if state == 'Invalid' else []
  return Manifest(
    signer=f'{signature.get("common_name")} ({signature.get("issuer")})',
    trust=_TRUST[state],
    actions=tuple(_actions(active)),
    faults=tuple(dict.fromkeys(f'{x["code"]}, {x["explanation"]}' for x in failures)),
  )


def _actions(manifest: dict[str, Any]):
  for assertion in manifest.get('assertions', ()):
    if assertion['label'].startswith('c2pa.actions'):
      for action in assertion['data']['actions']:
        source = action.get('digitalSourceType', '').removeprefix(_SOURCE_TYPES)
        text = ', '.join(filter(None, (action['action'], source)))
        yield ': '.join(filter(None, (text, action.get('description'))))
  for ingredient in manifest.get('ingredients', ()):
    yield f'{ingredient["relationship"]}: {ingredient.get("title")}'


def _context(c2pa):
  return c2pa.Context.from_dict(_LOCAL)


def _c2pa():
  try:
    import c2pa
  except ImportError as error:
    raise errors.MissingDependencyError(
      f'C2PA manifests need the package {error.name}', hint="pip install 'tfg_jax[provenance]'"
    ) from error
  return c2pa
