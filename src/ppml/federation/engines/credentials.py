"""Certificates and keys of a deployment: a certificate authority for each service, and a key for each client.

An authority signs for one service alone, and its private key is never stored. So only the server has a certificate of
the server's authority, and no further one can be signed.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ppml.io.private_file import write_private

LIFETIME = datetime.timedelta(days=2)
LOCAL_NAMES = ("localhost", "127.0.0.1")
"""Names of a service for its own machine alone."""

AUTHORITY, CERTIFICATE, KEY = "server-authority.pem", "server.pem", "server.key"
"""Files of the certificate of the server's authority, and of the server's certificate and private key."""

HOLDER_AUTHORITY, PARTY, PARTY_KEY = "key-holder-authority.pem", "party.pem", "party.key"
"""The same for the key holder's authority, and for each site that connects to the key holder."""

Form = serialization.PrivateFormat


def client_key(folder: Path, client: int) -> Path:
    """Return the file of a client's private key; the public key has the same name with the suffix ``.pub``."""
    return folder / f"client{client}"


class Authority:
    """A certificate authority, whose private key exists as long as this object.

    It writes each certificate to the given file, and its private key, which only the owner can read, beside it with
    the suffix ``.key``.

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

    def issue_server_certificate(self, file: Path, subject: str, names: Sequence[str]) -> None:
        """Write a certificate for a service with the host names or addresses ``names``."""
        names_of_service = x509.SubjectAlternativeName([_name(one) for one in dict.fromkeys(names)])
        self._issue(file, subject, [names_of_service, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])])

    def issue_client_certificate(self, file: Path, subject: str) -> None:
        """Write a certificate that proves to a service that a client is ``subject``."""
        self._issue(file, subject, [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])])

    def _issue(self, file: Path, subject: str, extensions: Sequence[x509.ExtensionType]) -> None:
        key = _new_key()
        own = [x509.BasicConstraints(ca=False, path_length=None), *extensions]
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        file.write_bytes(self._sign(subject, key, [*own, signer]))
        write_private(file.with_suffix(".key"), _pem(key, Form.PKCS8))

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
) -> Path:
    """Write credentials for a server with the host names ``names`` and its clients to ``folder``; return ``folder``.

    The certificates are valid for two days or until ``expires``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority("authority of the server", expires)
    (folder / AUTHORITY).write_bytes(authority.certificate)
    authority.issue_server_certificate(folder / CERTIFICATE, "server", names)
    for client in range(clients):
        path, key = client_key(folder, client), _new_key()
        write_private(path, _pem(key, Form.OpenSSH))
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        path.with_suffix(".pub").write_bytes(public + b"\n")
    return folder


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
