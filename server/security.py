"""Who may ask a Triton for what: tokens, TLS, and what leaves the loopback address."""

from __future__ import annotations

import secrets
from pathlib import Path

from pydantic import Field

from model import connection
from model.env_file import setting
from model.spec import Frozen

_ADMIN_APIS = ("model-repository", "trace", "logging")
_USE_APIS = ("inference", "metadata", "model-config", "statistics")


class Security(Frozen):
    """What may leave the loopback address, and the PEM files that guard gRPC. Tokens are not among the options."""

    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    """Certificates of those who sign clients' certificates: mutual TLS."""
    expose: bool = False
    """Consent to an address that others can reach."""
    plaintext: bool = False
    """Consent to answer others without TLS."""

    @property
    def tls(self) -> bool:
        """Whether gRPC is encrypted."""
        return self.tls_certificate is not None


class Tokens(Frozen):
    """What Triton asks for in the header `tritonkit-token`. Kept in the state file, which only its owner can read."""

    admin: str = Field(repr=False)
    """For the repository, tracing and logging."""
    use: str | None = Field(default=None, repr=False)
    """For inference, metadata, configurations and statistics; None leaves these open."""

    @property
    def shown(self) -> connection.Tokens:
        """The same for one who asks."""
        return connection.Tokens(use=self.use, admin=self.admin)


def server_tokens(env_file_of: Path | None = None) -> Tokens:
    """The tokens of `$TRITONKIT_ADMIN_TOKEN`, or a random one, and `$TRITONKIT_TOKEN`.

    env_file_of: the repository whose `.env` is read where the environment has none; None reads the environment alone.
    Raises TokenError for what can be none, InputError for an `.env` that cannot be read.
    """
    given = connection.tokens_from_environment()
    admin, use = given.admin, given.use
    if env_file_of is not None:
        admin = admin or _token(connection.ADMIN_TOKEN_VARIABLE, env_file_of)
        use = use or _token(connection.TOKEN_VARIABLE, env_file_of)
    return Tokens(admin=admin or secrets.token_urlsafe(24), use=use)


def _token(variable: str, repository: Path) -> str | None:
    return connection.checked_token(setting(variable, repository), f"{variable} of .env")


def security_arguments(security: Security, tokens: Tokens, shared_memory_is_admin: bool) -> list[str]:
    """The options of `tritonserver` for TLS on gRPC and for APIs that ask for a token, on both protocols."""
    guarded = [((*_ADMIN_APIS, *(["shared-memory"] if shared_memory_is_admin else [])), tokens.admin)]
    if tokens.use is not None:
        guarded.append((_USE_APIS, tokens.use))
    arguments = []
    for apis, token in guarded:
        rule = f"{','.join(apis)}:{connection.TOKEN_HEADER}={token}"
        arguments += [f"--http-restricted-api={rule}", f"--grpc-restricted-protocol={rule}"]
    if security.tls:
        arguments += [
            "--grpc-use-ssl=true",
            f"--grpc-server-cert={security.tls_certificate}",
            f"--grpc-server-key={security.tls_key}",
        ]
    if security.tls_ca is not None:
        arguments += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={security.tls_ca}"]
    return arguments
