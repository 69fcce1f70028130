"""Certificates and keys of a deployment, made on the spot: an authority of its own, a server, a key for each client."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LIFETIME = datetime.timedelta(days=2)


@dataclass(frozen=True)
class Credentials:
    """Where they lie, each private key readable by its owner alone.

    Parameters
    ----------
    authority : Path
        Certificate that everybody trusts.
    certificate, key : Path
        Of the server.
    clients : list of Path
        Private key of each client; the public one beside it ends in ``.pub``.
    """

    authority: Path
    certificate: Path
    key: Path
    clients: list[Path]


def make_credentials(folder: Path, clients: int, *, expires: datetime.datetime | None = None) -> Credentials:
    """Write new credentials into ``folder`` for a server on this machine, for two days or until ``expires``."""
    folder.mkdir(parents=True, exist_ok=True)
    authority_key, server_key = _key(), _key()
    end = expires or datetime.datetime.now(datetime.UTC) + LIFETIME
    authority = _certificate("authority", authority_key, authority_key, "authority", end, authority=True)
    server = _certificate("localhost", server_key, authority_key, "authority", end, authority=False)
    found = Credentials(
        folder / "authority.pem",
        folder / "server.pem",
        folder / "server.key",
        [folder / f"client{number}" for number in range(clients)],
    )
    found.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    found.certificate.write_bytes(server.public_bytes(serialization.Encoding.PEM))
    _write_private(found.key, server_key, serialization.PrivateFormat.TraditionalOpenSSL)
    for path in found.clients:
        own = _key()
        _write_private(path, own, serialization.PrivateFormat.OpenSSH)
        public = own.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        path.with_suffix(".pub").write_bytes(public + b"\n")
    return found


def _key() -> ec.EllipticCurvePrivateKey:
    # What Flower takes for the authentication of clients.
    return ec.generate_private_key(ec.SECP384R1())


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> None:
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    issuer: str,
    expires: datetime.datetime,
    *,
    authority: bool,
) -> x509.Certificate:
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(expires - 2 * LIFETIME)
        .not_valid_after(expires)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if not authority:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    return builder.sign(signer, hashes.SHA256())
