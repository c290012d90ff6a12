"""TLS from TF Serving's ssl config file, for gRPC and for REST. With client_verify, clients need a certificate too.

The config file holds the texts of PEM files, not their paths. It is read once: a new certificate needs a new server.
tensorflow_model_server uses it only for gRPC and leaves REST in plain text; here REST uses it as well.

`ClientTls` is for a program that is itself a client of such a server.
"""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from bertline.errors import UserError
from bertline.serving.configuration import SSLConfig


def grpc_credentials(config: SSLConfig) -> grpc.ServerCredentials:
    """What `add_secure_port` of a gRPC server takes.

    Raises:
        UserError: a key, certificate or CA cannot be used; the message names the field and the reason.
    """
    _check(config)
    pair = (config.server_key.encode(), config.server_cert.encode())
    authority = config.custom_ca.encode() if config.client_verify else None
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=config.client_verify)


def ssl_context(config: SSLConfig) -> ssl.SSLContext:
    """The same for REST: `uvicorn.Config(..., ssl_context_factory=lambda config, default: context)`.

    Python's ssl reads a server's key only from a file. So the key is written into a file in the system's temporary
    folder that only this user can read, and that is removed before this function returns.

    Raises:
        UserError: a key, certificate or CA cannot be used; the message names the field and the reason.
    """
    _check(config)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # as gRPC's; older ones are withdrawn (RFC 8996)
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # mode 0600
        file.write(f"{config.server_key}\n{config.server_cert}\n".encode())
        file.flush()
        context.load_cert_chain(file.name)
    if config.client_verify:
        context.load_verify_locations(cadata=config.custom_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@dataclass(frozen=True)
class ClientTls:
    """How a program reaches a server that speaks TLS. All files are PEM.

    Args:
        authority: file of the certificates that signed the server's; None for the public authorities.
        certificate: file of the program's own certificate, for a server that asks for one.
        key: file of its key.
        server_name: a name in the server's certificate, where the address has another.

    Raises (on use):
        UserError: a file cannot be read or used; the message names it.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """For a gRPC channel."""
        self.context()  # gRPC finds a fault in a file only when it connects, and does not name it
        authority, key, certificate = (
            path.read_bytes() if path else None for path in (self.authority, self.key, self.certificate)
        )
        return grpc.ssl_channel_credentials(authority, key, certificate)

    def context(self) -> ssl.SSLContext:
        """For HTTPS."""
        context = ssl.create_default_context()
        with _fault_of(self.authority, "certificates"):
            if self.authority:
                context = ssl.create_default_context(cafile=self.authority)
        with _fault_of(self.certificate, f"a certificate whose key is in {self.key}"):
            if self.certificate:
                context.load_cert_chain(self.certificate, self.key)
        return context


@contextmanager
def _fault_of(file: Path | None, what: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:  # an OSError too
        raise UserError(f"{file}: not {what}, in PEM form ({error.reason or error})") from error
    except OSError as error:
        raise UserError(f"{error.filename or file} cannot be read: {error.strerror}") from error


def _check(config: SSLConfig) -> None:
    """Refuses in words what gRPC and OpenSSL refuse without words, or accept until the first client fails."""
    key = _private_key(config.server_key)
    chain = _certificates("server_cert", config.server_cert)
    if chain[0].public_key() != key.public_key():
        raise UserError(
            f"server_key: not the key of server_cert, {chain[0].subject.rfc4514_string()}; in server_cert the server's "
            "own certificate comes first, those that signed it after"
        )
    for certificate in chain:
        if fault := _not_in_force(certificate):
            raise UserError(f"server_cert: {fault}")
    if not config.client_verify:
        return
    if not config.custom_ca:
        raise UserError("custom_ca: empty, but client_verify needs the CA certificate that signed the clients'")
    faults = [_not_in_force(authority) for authority in _certificates("custom_ca", config.custom_ca)]
    if all(faults):  # an old one may stay in the bundle with a new one: no client can use it
        raise UserError(f"custom_ca: {faults[0]}")


def _private_key(pem: str) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(pem.encode(), password=None)
    except TypeError as error:
        raise UserError("server_key: encrypted; decrypt it (`openssl pkey -in KEY`) and paste that") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"server_key: {_not_pem(pem, 'private key')}") from error


def _certificates(field: str, pem: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise UserError(f"{field}: {_not_pem(pem, 'certificate')}") from error


def _not_pem(pem: str, what: str) -> str:
    if "-----BEGIN" not in pem:
        return f"holds no {what}; give the text of the PEM file, from -----BEGIN to END-----, not its path"
    return f"not a {what} in PEM form that can be read"


def _not_in_force(certificate: x509.Certificate) -> str | None:
    now, name = datetime.now(UTC), certificate.subject.rfc4514_string()
    if certificate.not_valid_after_utc < now:
        return f"the certificate {name} expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
    if certificate.not_valid_before_utc > now:
        return (
            f"the certificate {name} holds only from {certificate.not_valid_before_utc:%Y-%m-%d}; is this machine's "
            "clock right?"
        )
    return None
