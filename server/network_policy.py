"""Checks, before the start, what a server exposes to other machines and whether its certificates are usable."""

from __future__ import annotations

import os
import ssl
import stat
from datetime import UTC, datetime
from pathlib import Path

from server.options import Options
from tritonkit.errors import InputError, Problem
from tritonkit.triton.connection import TOKEN_VARIABLE, RequestTokens
from tritonkit.triton.tls import SWAPPED, is_key_swapped, read_certificate

_TLS_CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""Elliptic curves that TLS clients accept in a certificate (RFC 8446, 4.2.3)."""
_KEY_MISMATCH_REASONS = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""OpenSSL's reasons for a key that does not belong to the certificate."""


def check_network_options(options: Options) -> None:
    """Check that address, exposure and TLS options fit together, and the TLS files. Raises InputError."""
    security = options.security
    certificate, key, ca = security.tls_certificate, security.tls_key, security.tls_ca
    if (certificate is None) != (key is None):
        raise InputError("--tls-cert and --tls-key need each other; add the missing option", code="option.tls_pair")
    if ca is not None:
        if certificate is None:
            raise InputError(
                "--tls-ca (mutual TLS) needs --tls-cert and --tls-key, the certificate of the server",
                code="option.tls_ca_alone",
            )
        _check_authority(ca)
    if certificate is not None and key is not None:
        _check_certificate_and_key(certificate, key)
    if security.expose and not options.is_exposed:
        raise InputError(
            f"--expose needs a --host that other machines can reach, such as 0.0.0.0; got {options.host}",
            code="option.expose_loopback",
        )
    if options.is_exposed and not security.expose:
        raise InputError(
            f"--host {options.host}: other machines can reach this address; add --expose to allow it",
            code="option.needs_expose",
        )
    if security.plaintext and not security.expose:
        raise InputError(
            "--insecure lets other machines connect without TLS; it needs --expose", code="option.insecure_alone"
        )
    if options.is_exposed and not (security.has_tls or security.plaintext):
        raise InputError(
            f"--expose without TLS: anyone who can reach {options.host} could use every model, and read images, "
            "responses and tokens on the network. Add --tls-cert FILE and --tls-key FILE, or --insecure to accept this",
            code="option.expose_without_tls",
        )


def exposure_notes(options: Options, tokens: RequestTokens) -> list[str]:
    """Return sentences that say what other machines can reach and what they need; none on loopback."""
    if not options.is_exposed:
        return []
    address = f"{options.host}:{options.grpc_port}"
    audience = f"anyone with the token of ${TOKEN_VARIABLE}" if tokens.use else "anyone who can reach it"
    if not options.security.has_tls:
        ports = f"{options.http_port} (HTTP) and {options.metrics_port} (metrics)"
        return [
            f"exposed without encryption: gRPC {address}, and on the same address {ports}; {audience} can use every "
            "model. Images, responses and tokens can be read on the network.",
        ]
    client = f" and a certificate signed by {options.security.tls_ca}" if options.security.tls_ca else ""
    return [
        f"exposed with TLS: gRPC {address}; {audience}{client} can use every model.",
        f"HTTP and metrics listen on {options.http_host} only: Triton has no TLS for them.",
    ]


def security_warnings(options: Options) -> list[Problem]:
    """Return warnings about an unsafe setup that still works."""
    warnings = []
    if os.geteuid() == 0 and options.runtime == "pip":
        message = "Triton runs as root; run it as a separate user who may only read the model repository"
        warnings.append(Problem("server.runs_as_root", message))
    key = options.security.tls_key
    if key is not None and key.is_file() and key.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        warnings.append(Problem("tls.readable_key", f"{key}: other users can read this key; run: chmod 600 {key}"))
    return warnings


def _check_authority(path: Path) -> None:
    from cryptography import x509

    def is_authority(certificate: x509.Certificate) -> bool:
        try:
            return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            return certificate.version is x509.Version.v1  # it has no extensions

    try:
        certificates = x509.load_pem_x509_certificates(_read(path, "--tls-ca"))
    except ValueError as error:
        raise InputError(f"--tls-ca {path}: contains no PEM certificate", code="tls.ca_not_pem") from error
    expiries = [certificate.not_valid_after_utc for certificate in certificates if is_authority(certificate)]
    if not expiries:
        raise InputError(
            f"--tls-ca {path}: contains no CA certificate (CA:TRUE), so no client could connect", code="tls.not_a_ca"
        )
    if max(expiries) < datetime.now(UTC):
        raise InputError(f"--tls-ca {path}: has expired; get a new one from its issuer", code="tls.expired_ca")


def _check_certificate_and_key(certificate: Path, key: Path) -> None:
    """Load both files as a server does, and check what OpenSSL would refuse only in the first connection."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    _read(certificate, "--tls-cert")
    _read(key, "--tls-key")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_refuse_password)
    except ssl.SSLError as error:
        if error.reason in _KEY_MISMATCH_REASONS:
            raise InputError(f"--tls-key {key}: is not the key of {certificate}", code="tls.wrong_key") from error
        if is_key_swapped(certificate, key):
            raise InputError(f"{SWAPPED} (--tls-cert {certificate}, --tls-key {key})", code="tls.swapped") from error
        if error.reason:  # OpenSSL read the file and refused it: short key, weak hash
            raise _unusable_certificate(certificate, error.reason.replace("_", " ").lower()) from error
        raise InputError(
            f"--tls-cert {certificate}, --tls-key {key}: expected a certificate and its key in PEM", code="tls.not_pem"
        ) from error
    loaded, now, problem = read_certificate(certificate), datetime.now(UTC), ""
    usages = [entry.value for entry in loaded.extensions if isinstance(entry.value, x509.ExtendedKeyUsage)]
    if loaded.not_valid_after_utc < now:
        problem = "certificate has expired"
    elif loaded.not_valid_before_utc > now:
        problem = "certificate is not yet valid"
    elif usages and ExtendedKeyUsageOID.SERVER_AUTH not in usages[0]:
        problem = "certificate is not for servers"
    if problem:
        raise InputError(f"--tls-cert {certificate}: {problem}; get a new one from its issuer", code="tls.invalid")
    public_key = loaded.public_key()
    if isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.curve.name not in _TLS_CURVES:
        raise _unusable_certificate(certificate, f"curve {public_key.curve.name}")


def _unusable_certificate(certificate: Path, reason: str) -> InputError:
    return InputError(
        f"--tls-cert {certificate}: cannot be used for TLS ({reason}); create one with a P-256 key, or with an RSA key "
        "of 2048 bits",
        code="tls.unusable",
    )


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{option} {path}: {error.strerror}", code="tls.unreadable") from error


def _refuse_password() -> str:
    raise InputError(
        "--tls-key: is encrypted with a password, which Triton cannot ask for; give a key without one",
        code="tls.encrypted_key",
    )
