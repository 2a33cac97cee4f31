"""Finds out why TLS with a server fails: gRPC does not report the reason, so Python's ssl repeats the handshake."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tritonkit.errors import InputError
from tritonkit.triton.connection import Connection

if TYPE_CHECKING:
    from cryptography import x509

_CONNECT_TIMEOUT_S = 3.0
_EXPIRED, _NOT_YET_VALID, _WRONG_NAME, _WRONG_IP = 10, 9, 62, 64
"""Verification codes of OpenSSL (x509_vfy.h); any other means that no trusted authority signed the certificate."""
SWAPPED = "--tls-cert holds a key and --tls-key a certificate: they are swapped"
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4" + bytes(5)
"""The preface and an empty SETTINGS frame (RFC 9113, 3.4)."""


def check_files(connection: Connection) -> None:
    """Check the PEM files of a connection before the first request. Raises InputError."""
    ca, certificate, key = connection.tls_ca, connection.tls_cert, connection.tls_key
    if (certificate is None) != (key is None):
        raise InputError("--tls-cert and --tls-key must be used together", code="tls.missing_pair")
    for option, path in (("--tls-ca", ca), ("--tls-cert", certificate), ("--tls-key", key)):
        if path is not None and not path.is_file():
            raise InputError(f"{option} {path}: no such file", code="tls.file_not_found")
    try:
        _context(connection)
    except OSError as error:  # ssl.SSLError among them
        if certificate is not None and "KEY_VALUES_MISMATCH" in str(error):
            raise InputError(f"--tls-key {key}: is not the key of {certificate}", code="tls.key_mismatch") from error
        if certificate is not None and key is not None and is_key_swapped(certificate, key):
            raise InputError(
                f"{SWAPPED} (--tls-cert {certificate}, --tls-key {key})", code="tls.swapped_files"
            ) from error
        files = ", ".join(str(path) for path in (ca, certificate, key) if path is not None)
        raise InputError(
            f"{files}: expected certificates and a key in PEM, without a password ({error})", code="tls.file_format"
        ) from error
    if certificate is not None and read_certificate(certificate).not_valid_after_utc < datetime.now(UTC):
        raise InputError(
            f"--tls-cert {certificate}: has expired; get a new one from the authority that issued it",
            code="tls.expired",
        )


def tls_problem(connection: Connection) -> str | None:
    """Return why TLS fails and what to do about it; None if TLS is not the reason."""
    address = connection.address
    socket_address = address.bare_host, address.port
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if not address.tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # no data is sent; this only tests whether the server speaks TLS
            with socket.create_connection(socket_address, _CONNECT_TIMEOUT_S) as plain, context.wrap_socket(plain):
                return f"it speaks TLS; use {address.protocol}s://{address.netloc}, with --tls-ca FILE"
        context = _context(connection)
        with (
            socket.create_connection(socket_address, _CONNECT_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=address.bare_host) as secure,
        ):
            # A server that requires another client certificate closes the connection after the handshake.
            secure.sendall(_HTTP2_HELLO)
            try:
                received = secure.recv(1)
            except (ssl.SSLError, ConnectionError):
                received = b""
        return None if received else _client_certificate_message(connection)
    except ssl.SSLError as error:
        return tls_reason(error, connection) if address.tls else None
    except OSError:
        return None


def tls_reason(error: ssl.SSLError, connection: Connection) -> str:
    """Return the meaning of an error of Python's ssl and what to do about it."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        if "ALERT" in (error.reason or ""):
            return _client_certificate_message(connection)
        return f"the TLS handshake failed ({error.reason or error}); check the port, and that the server uses TLS"
    match error.verify_code:
        case code if code == _EXPIRED:
            return "its certificate has expired; the operator of the server must renew it"
        case code if code == _NOT_YET_VALID:
            return "its certificate is not valid yet; compare the clocks of both machines"
        case code if code in (_WRONG_NAME, _WRONG_IP):
            host = connection.address.host
            return f"its certificate is not for {host} ({error.verify_message}); use the certificate's name in --url"
    reason = (
        f"{connection.tls_ca} did not sign it"
        if connection.tls_ca
        else "no authority that this machine trusts signed it"
    )
    return (
        f"its certificate is not trusted: {reason} ({error.verify_message}); "
        "pass the certificate of its authority with --tls-ca"
    )


def read_certificate(path: Path) -> x509.Certificate:
    """Read the first certificate of a PEM file. Raises InputError."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is not a certificate in PEM ({error})", code="tls.file_format") from error


def is_key_swapped(certificate: Path, key: Path) -> bool:
    """Whether certificate and key are swapped; False if one cannot be read."""
    try:
        begins = [path.read_bytes().partition(b"-----BEGIN ")[2].partition(b"-----")[0] for path in (certificate, key)]
    except OSError:
        return False
    return begins[0].endswith(b"PRIVATE KEY") and begins[1] == b"CERTIFICATE"


def _client_certificate_message(connection: Connection) -> str:
    if connection.tls_cert is None:
        return "it requires a client certificate; pass one with --tls-cert and --tls-key"
    return f"it does not accept the client certificate {connection.tls_cert}; ask its operator for a valid one"


def _context(connection: Connection) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=connection.tls_ca)
    if connection.tls_cert is not None:
        context.load_cert_chain(connection.tls_cert, connection.tls_key, password=_refuse_password)
    context.set_alpn_protocols(["h2"])
    return context


def _refuse_password() -> str:
    raise InputError("--tls-key: is protected by a password; pass a key without a password", code="tls.key_password")
