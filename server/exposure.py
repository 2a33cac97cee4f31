"""What a server opens to other machines, and whether the certificates for it can be used: asked before the start."""

from __future__ import annotations

import os
import ssl
import stat
import time
from pathlib import Path

from model.connection import TOKEN_VARIABLE
from model.errors import InputError
from model.tls import SWAPPED, are_swapped
from server.options import Options
from server.security import Security, ServerTokens

_KEY_MISMATCH_REASONS = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""OpenSSL's words for the key of another certificate: of the same kind, of another kind."""


def check_exposure(options: Options) -> None:
    """Refuse an address or certificates that were not asked for in full. Raises InputError."""
    security = options.security
    check_certificates(security)
    if security.expose and not options.is_exposed:
        raise InputError("--expose opens the address of --host; give one that others can reach, such as 0.0.0.0")
    if options.is_exposed and not security.expose:
        raise InputError(f"--host {options.host} can be reached from other machines; say --expose if it is to be")
    if security.plaintext and not security.expose:
        raise InputError("--insecure lets other machines ask without TLS; it goes with --expose")
    if options.is_exposed and not (security.has_tls or security.plaintext):
        raise InputError(
            f"--expose without TLS: whoever reaches {options.host} could ask every model, and pictures, answers and "
            "tokens could be read on the way. Give --tls-cert FILE and --tls-key FILE, or --insecure to do so all "
            "the same"
        )


def check_certificates(security: Security) -> None:
    """Find out before the start what would fail every connection after it. Raises InputError."""
    certificate, key, ca = security.tls_certificate, security.tls_key, security.tls_ca
    if (certificate is None) != (key is None):
        raise InputError("--tls-cert and --tls-key are given together")
    if ca is not None:
        if certificate is None:
            raise InputError("--tls-ca asks clients for certificates, and needs --tls-cert and --tls-key for its own")
        _check_authority(ca)
    if certificate is not None and key is not None:
        _check_certificate_and_key(certificate, key)


def exposure_notes(options: Options, tokens: ServerTokens) -> list[str]:
    """Sentences that say what other machines can reach, and what they need; none on the loopback address."""
    if not options.is_exposed:
        return []
    address = f"{options.host}:{options.grpc_port}"
    audience = f"whoever shows the token of ${TOKEN_VARIABLE}" if tokens.use else "whoever reaches it"
    if not options.security.has_tls:
        ports = f"{options.http_port} (HTTP) and {options.metrics_port} (metrics)"
        return [
            f"open without encryption: gRPC {address}, and on the same address {ports}; {audience} can ask every model. "
            "Pictures, answers and tokens can be read on the way.",
        ]
    client = f" and a certificate of {options.security.tls_ca}" if options.security.tls_ca else ""
    return [
        f"open with TLS: gRPC {address}; {audience}{client} can ask every model.",
        f"HTTP and metrics stay on {options.http_host}: Triton has no TLS for them.",
    ]


def security_warnings(options: Options) -> list[str]:
    """What works and is not wise."""
    messages = []
    if os.geteuid() == 0 and options.runtime == "pip":
        messages.append("Triton runs as root: run it as a user of its own, who may only read the model repository")
    key = options.security.tls_key
    if key is not None and key.is_file() and key.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        messages.append(f"{key}: others can read this key; chmod 600 it")
    return messages


def _check_authority(path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _check_readable(path, "--tls-ca")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise InputError(f"--tls-ca {path}: holds no certificate in PEM") from error
    expiries = [ssl.cert_time_to_seconds(str(found["notAfter"])) for found in context.get_ca_certs()]
    if not expiries:
        raise InputError(
            f"--tls-ca {path}: holds no certificate of an authority (CA:TRUE), so no client could be let in"
        )
    if max(expiries) < time.time():
        raise InputError(f"--tls-ca {path}: has expired; get a new one from who made it")


def _check_certificate_and_key(certificate: Path, key: Path) -> None:
    """Load both as a server would, and shake hands with ourselves: that finds an expired certificate too."""
    _check_readable(certificate, "--tls-cert")
    _check_readable(key, "--tls-key")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(certificate, key, password=_refuse_password)
    except ssl.SSLError as error:
        if error.reason in _KEY_MISMATCH_REASONS:
            raise InputError(f"--tls-key {key}: is not the key of {certificate}") from error
        if are_swapped(certificate, key):
            raise InputError(f"{SWAPPED} (--tls-cert {certificate}, --tls-key {key})") from error
        if error.reason:  # it was read, and is not taken: too short a key, too weak a hash
            raise InputError(_unusable_certificate(certificate, error)) from error
        raise InputError(
            f"--tls-cert {certificate}, --tls-key {key}: expected a certificate and its key in PEM"
        ) from error
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # trust this very certificate, whoever signed it
    client.load_verify_locations(certificate)
    try:
        _handshake(server, client)
    except ssl.SSLCertVerificationError as error:
        raise InputError(f"--tls-cert {certificate}: {error.verify_message}; get a new one from who made it") from error
    except ssl.SSLError as error:
        raise InputError(_unusable_certificate(certificate, error)) from error


def _unusable_certificate(certificate: Path, error: ssl.SSLError) -> str:
    reason = (error.reason or str(error)).replace("_", " ").lower()
    advice = "make one with a P-256 key, or an RSA key of 2048 bits"
    return f"--tls-cert {certificate}: cannot be used for TLS ({reason}); {advice}"


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """In memory. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    peers = [
        client.wrap_bio(to_client, to_server, server_side=False),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while peers:
        for peer in tuple(peers):
            try:
                peer.do_handshake()
            except ssl.SSLWantReadError:
                continue
            peers.remove(peer)


def _check_readable(path: Path, option: str) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise InputError(f"{option} {path}: {error.strerror}") from error


def _refuse_password() -> str:
    raise InputError("--tls-key: is locked with a password, which Triton cannot ask for; give it without one")
