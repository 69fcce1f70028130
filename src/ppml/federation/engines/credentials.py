"""Certificates and keys of a deployment, made on the spot: an authority, a certificate for each service, keys for all.

An authority signs for one service alone, and its own key is kept nowhere: a certificate of the server's authority is
that of the server, and nobody can have another one signed.
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
HERE = ("localhost", "127.0.0.1")
"""The names of a service that its own machine alone reaches."""

Form = serialization.PrivateFormat


@dataclass(frozen=True)
class Credentials:
    """Where credentials lie, each private key readable by its owner alone.

    Parameters
    ----------
    authority : Path
        Certificate that all sites trust.
    certificate, key : Path
        Of the server.
    clients : list of Path
        Private key of each client; the public one beside it ends in ``.pub``.
    """

    authority: Path
    certificate: Path
    key: Path
    clients: list[Path]


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both in PEM."""

    certificate: bytes
    key: bytes

    def write(self, certificate: Path, key: Path) -> None:
        """Write both, the key for its owner alone."""
        certificate.write_bytes(self.certificate)
        write_private(key, self.key)


class Authority:
    """Signs certificates as long as this object lives.

    Parameters
    ----------
    name : str
        What it is called.
    expires : datetime or None
        When its certificates end; None: two days from now.
    """

    def __init__(self, name: str, expires: datetime.datetime | None = None) -> None:
        self._name, self._key = name, _key()
        self._expires = expires or datetime.datetime.now(datetime.UTC) + LIFETIME
        self.certificate = self._signed(name, self._key, [x509.BasicConstraints(ca=True, path_length=0)])

    def of_a_service(self, subject: str, names: Sequence[str]) -> Pair:
        """Return a certificate for a service that is reached under ``names``: host names or addresses."""
        known = x509.SubjectAlternativeName([_name(one) for one in dict.fromkeys(names)])
        return self._pair(subject, [known, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])])

    def of_a_party(self, subject: str) -> Pair:
        """Return a certificate with which a party shows to a service that it is ``subject``."""
        return self._pair(subject, [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])])

    def _pair(self, subject: str, extensions: Sequence[x509.ExtensionType]) -> Pair:
        key = _key()
        own = [x509.BasicConstraints(ca=False, path_length=None), *extensions]
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return Pair(self._signed(subject, key, [*own, signer]), _pem(key, Form.PKCS8))

    def _signed(self, subject: str, key: ec.EllipticCurvePrivateKey, extensions: Sequence[x509.ExtensionType]) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            # Clocks of other machines may be behind.
            .not_valid_before(self._expires - 2 * LIFETIME)
            .not_valid_after(self._expires)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def make_credentials(
    folder: Path, clients: int, *, names: Sequence[str] = HERE, expires: datetime.datetime | None = None
) -> Credentials:
    """Write new credentials into ``folder`` for a server and its clients, for two days or until ``expires``.

    Parameters
    ----------
    folder : Path
        Gets the files.
    clients : int
        How many clients there are.
    names : sequence of str
        Host names and addresses under which the server is reached.
    expires : datetime or None
        When the certificates end.
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
    authority.of_a_service("server", names).write(found.certificate, found.key)
    for path in found.clients:
        own = _key()
        write_private(path, _pem(own, Form.OpenSSH))
        public = own.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        path.with_suffix(".pub").write_bytes(public + b"\n")
    return found


def expiry(certificate: Path) -> datetime.datetime:
    """Return when a certificate ends."""
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def _key() -> ec.EllipticCurvePrivateKey:
    # The curve that Flower takes for the authentication of clients.
    return ec.generate_private_key(ec.SECP384R1())


def _pem(key: ec.EllipticCurvePrivateKey, form: Form) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
