"""Certificates and keys of a deployment: a certificate authority for each service, and a key for each client.

An authority signs for one service alone, and its private key is never stored. So only the server has a certificate of
the server's authority, and no further one can be signed.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ppml.io.private_file import write_private

LIFETIME = datetime.timedelta(days=2)
LOCAL_NAMES = ("localhost", "127.0.0.1")
"""Names of a service for its own machine alone."""

Form = serialization.PrivateFormat


@dataclass(frozen=True)
class Credentials:
    """Files of credentials; only the owner can read a private key.

    Parameters
    ----------
    authority : Path
        Certificate of the authority that all sites trust.
    certificate, key : Path
        Certificate and private key of the server.
    clients : list of Path
        Private key of each client; the public key has the same name with the suffix ``.pub``.
    """

    authority: Path
    certificate: Path
    key: Path
    clients: list[Path]


@dataclass(frozen=True)
class CertificateAndKey:
    """A certificate and its private key, both in PEM."""

    certificate: bytes
    key: bytes

    def write(self, certificate: Path, key: Path) -> None:
        """Write both; only the owner can read the key."""
        certificate.write_bytes(self.certificate)
        write_private(key, self.key)


class Authority:
    """A certificate authority, whose private key exists as long as this object.

    Parameters
    ----------
    name : str
        Name in its certificates.
    expires : datetime or None
        End of its certificates; None: two days from now.
    """

    def __init__(self, name: str, expires: datetime.datetime | None = None) -> None:
        self._name, self._key = name, _new_key()
        self._expires = expires or datetime.datetime.now(datetime.UTC) + LIFETIME
        self.certificate = self._sign(name, self._key, [x509.BasicConstraints(ca=True, path_length=0)])

    def issue_server_certificate(self, subject: str, names: Sequence[str]) -> CertificateAndKey:
        """Return a certificate for a service with the host names or addresses ``names``."""
        names_of_service = x509.SubjectAlternativeName([_name(one) for one in dict.fromkeys(names)])
        return self._pair(subject, [names_of_service, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])])

    def issue_client_certificate(self, subject: str) -> CertificateAndKey:
        """Return a certificate that proves to a service that a client is ``subject``."""
        return self._pair(subject, [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])])

    def _pair(self, subject: str, extensions: Sequence[x509.ExtensionType]) -> CertificateAndKey:
        key = _new_key()
        own = [x509.BasicConstraints(ca=False, path_length=None), *extensions]
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return CertificateAndKey(self._sign(subject, key, [*own, signer]), _pem(key, Form.PKCS8))

    def _sign(self, subject: str, key: ec.EllipticCurvePrivateKey, extensions: Sequence[x509.ExtensionType]) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            # Clocks of other machines may be slow.
            .not_valid_before(self._expires - 2 * LIFETIME)
            .not_valid_after(self._expires)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def make_credentials(
    folder: Path, clients: int, *, names: Sequence[str] = LOCAL_NAMES, expires: datetime.datetime | None = None
) -> Credentials:
    """Write new credentials for a server and its clients, valid for two days or until ``expires``.

    Parameters
    ----------
    folder : Path
        Folder for the files.
    clients : int
        Number of clients.
    names : sequence of str
        Host names and addresses of the server.
    expires : datetime or None
        End of the certificates.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority("authority of the server", expires)
    found = Credentials(
        folder / "authority.pem",
        folder / "server.pem",
        folder / "server.key",
        [folder / f"client{number}" for number in range(clients)],
    )
    found.authority.write_bytes(authority.certificate)
    authority.issue_server_certificate("server", names).write(found.certificate, found.key)
    for path in found.clients:
        key = _new_key()
        write_private(path, _pem(key, Form.OpenSSH))
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        path.with_suffix(".pub").write_bytes(public + b"\n")
    return found


def expiry(certificate: Path) -> datetime.datetime:
    """Return the end of a certificate."""
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def _new_key() -> ec.EllipticCurvePrivateKey:
    # Flower's curve for the authentication of clients.
    return ec.generate_private_key(ec.SECP384R1())


def _pem(key: ec.EllipticCurvePrivateKey, form: Form) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
