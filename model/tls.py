"""Why TLS with a server fails: gRPC tells only that nobody answers, so Python's ssl shakes hands once more."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from model.connection import Address, Connection
from model.errors import InputError

_CONNECT_TIMEOUT_S = 3.0
_EXPIRED, _NOT_YET_VALID, _WRONG_NAME, _WRONG_IP = 10, 9, 62, 64
"""Verify codes of OpenSSL (x509_vfy.h); any other means that nobody who is trusted signed it."""
SWAPPED = "--tls-cert holds a key and --tls-key a certificate: they are swapped"
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4" + bytes(5)
"""The preface and an empty SETTINGS frame (RFC 9113, 3.4)."""


def check_files(connection: Connection) -> None:
    """Find out before the first request what its PEM files are good for. Raises InputError."""
    ca, certificate, key = connection.tls_ca, connection.tls_cert, connection.tls_key
    if (certificate is None) != (key is None):
        raise InputError("--tls-cert and --tls-key are given together")
    for option, path in (("--tls-ca", ca), ("--tls-cert", certificate), ("--tls-key", key)):
        if path is not None and not path.is_file():
            raise InputError(f"{option} {path}: no such file")
    try:
        _context(connection)
    except OSError as error:  # ssl.SSLError among them
        if certificate is not None and "KEY_VALUES_MISMATCH" in str(error):
            raise InputError(f"--tls-key {key}: is not the key of {certificate}") from error
        if certificate is not None and key is not None and are_swapped(certificate, key):
            raise InputError(f"{SWAPPED} (--tls-cert {certificate}, --tls-key {key})") from error
        files = ", ".join(str(path) for path in (ca, certificate, key) if path is not None)
        raise InputError(f"{files}: expected certificates and a key in PEM, without a password ({error})") from error
    if certificate is not None and key is not None and _has_expired(certificate, key):
        raise InputError(f"--tls-cert {certificate}: has expired; get a new one from who made it")


def tls_problem(connection: Connection) -> str | None:
    """What keeps both sides from talking, and what to do about it; None when TLS is not to blame."""
    address = connection.address
    try:
        if not address.tls:
            return _speaks_tls(address)
        return _handshake_problem(connection, address)
    except ssl.SSLCertVerificationError as error:
        return _certificate_message(error, connection)
    except ssl.SSLError as error:
        return f"it does not speak TLS as asked ({error.reason or error}); is it the right port, and TLS on?"
    except OSError:
        return None


def tls_reason(error: ssl.SSLError, connection: Connection) -> str:
    """What an error of Python's ssl means, and what to do about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate_message(error, connection)
    if "ALERT" in (error.reason or ""):
        return _client_certificate_message(connection)
    return f"TLS failed ({error.reason or error}); is it the right port, and TLS on?"


def _certificate_message(error: ssl.SSLCertVerificationError, connection: Connection) -> str:
    match error.verify_code:
        case code if code == _EXPIRED:
            return "its certificate has expired; whoever runs the server has to renew it"
        case code if code == _NOT_YET_VALID:
            return "its certificate is not valid yet; compare the clocks of both machines"
        case code if code in (_WRONG_NAME, _WRONG_IP):
            host = connection.address.host
            return f"its certificate is not for {host} ({error.verify_message}); use the name it was made for in --url"
    who = f"{connection.tls_ca} did not sign it" if connection.tls_ca else "nobody whom this machine trusts signed it"
    return (
        f"its certificate is not trusted: {who} ({error.verify_message}); "
        "give the certificate of who signed it with --tls-ca"
    )


def are_swapped(certificate: Path, key: Path) -> bool:
    """Whether two PEM files are each what the other should be; False where one cannot be read."""
    try:
        begins = [path.read_bytes().partition(b"-----BEGIN ")[2].partition(b"-----")[0] for path in (certificate, key)]
    except OSError:
        return False
    return begins[0].endswith(b"PRIVATE KEY") and begins[1] == b"CERTIFICATE"


def _client_certificate_message(connection: Connection) -> str:
    if connection.tls_cert is None:
        return "it asks for a certificate of ours; show one with --tls-cert and --tls-key"
    return f"it does not accept our certificate {connection.tls_cert}; ask its keeper for one of its own authority"


def _context(connection: Connection) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=connection.tls_ca)
    if connection.tls_cert is not None:
        context.load_cert_chain(connection.tls_cert, connection.tls_key, password=_refuse_password)
    context.set_alpn_protocols(["h2"])
    return context


def _handshake_problem(connection: Connection, address: Address) -> str | None:
    """A server that wants another certificate shakes hands first, and then ends the connection."""
    with (
        socket.create_connection((address.bare_host, address.port), _CONNECT_TIMEOUT_S) as plain,
        _context(connection).wrap_socket(plain, server_hostname=address.bare_host) as secure,
    ):
        secure.sendall(_HTTP2_HELLO)
        try:
            heard = secure.recv(1)
        except (ssl.SSLError, ConnectionError):
            heard = b""
    return None if heard else _client_certificate_message(connection)


def _speaks_tls(address: Address) -> str | None:
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE  # nothing is sent: it is asked only whether it would encrypt
    try:
        with (
            socket.create_connection((address.bare_host, address.port), _CONNECT_TIMEOUT_S) as plain,
            blind.wrap_socket(plain),
        ):
            return f"it speaks TLS; ask it as {address.protocol}s://{address.netloc}, with --tls-ca FILE"
    except OSError:
        return None


def _has_expired(certificate: Path, key: Path) -> bool:
    """Show it in memory to a server that trusts the certificate itself."""
    client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    for context in (client, server):
        context.load_cert_chain(certificate, key)
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    server.load_verify_locations(certificate)
    to_ours, to_theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_ours, to_theirs)
    answering = server.wrap_bio(to_theirs, to_ours, server_side=True)
    try:
        for side in (asking, answering, asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLCertVerificationError as error:
        return error.verify_code == _EXPIRED
    return False


def _refuse_password() -> str:
    raise InputError("--tls-key: is locked with a password; give it without one")
