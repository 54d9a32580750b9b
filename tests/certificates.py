"""Certificates that tests sign with: a root that nobody trusts, and one that it has signed."""

import datetime
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tfg_jax.content_credentials import Credentials

_UNUSED = dict.fromkeys(
  ('content_commitment', 'data_encipherment', 'key_agreement', 'encipher_only', 'decipher_only'),
  False,
)


def write(folder: pathlib.Path, key=None, days: float = 30) -> Credentials:
  """Writes chain and key; `key` is of the leaf, which is valid from yesterday for `days` days."""
  folder.mkdir(parents=True, exist_ok=True)
  root_key = ec.generate_private_key(ec.SECP256R1())
  key = key or ec.generate_private_key(ec.SECP256R1())
  root = _certificate('A root', root_key.public_key(), 'A root', root_key, 30, is_root=True)
  leaf = _certificate('A tester', key.public_key(), 'A root', root_key, days, is_root=False)
  pem = serialization.Encoding.PEM
  (folder / 'chain.pem').write_bytes(leaf.public_bytes(pem) + root.public_bytes(pem))
  private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
  (folder / 'key.pem').write_bytes(private)
  return Credentials(str(folder / 'chain.pem'), str(folder / 'key.pem'))


def other_keys():
  """Keys of the other kinds that C2PA knows, quick to make."""
  return ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()


def _certificate(name, public, issuer, issuer_key, days, *, is_root):
  start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
  usage = x509.KeyUsage(
    digital_signature=not is_root,
    key_cert_sign=is_root,
    crl_sign=is_root,
    key_encipherment=False,
    **_UNUSED,
  )
  builder = (
    x509.CertificateBuilder()
    .subject_name(_name(name))
    .issuer_name(_name(issuer))
    .public_key(public)
    .serial_number(x509.random_serial_number())
    .not_valid_before(start)
    .not_valid_after(start + datetime.timedelta(days=days))
    .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
    .add_extension(usage, critical=True)
    .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    .add_extension(
      x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
    )
  )
  if not is_root:
    builder = builder.add_extension(
      x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
    )
  return builder.sign(issuer_key, hashes.SHA256())


def _name(text):
  return x509.Name(
    [
      x509.NameAttribute(NameOID.COMMON_NAME, text),
      x509.NameAttribute(NameOID.ORGANIZATION_NAME, 'Tests'),
    ]
  )
