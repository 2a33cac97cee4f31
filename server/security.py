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
_SHARED_MEMORY = ("shared-memory",)


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
    def has_tls(self) -> bool:
        """Whether gRPC is encrypted."""
        return self.tls_certificate is not None


class ServerTokens(Frozen):
    """What Triton asks for in the header `tritonkit-token`. Kept in the state file, which only its owner can read."""

    admin: str = Field(repr=False)
    """For the repository, tracing and logging, and over HTTP for shared memory."""
    use: str | None = Field(default=None, repr=False)
    """For inference, metadata, configurations, statistics, and over gRPC shared memory; None leaves these open."""

    @property
    def client_tokens(self) -> connection.Tokens:
        """The same for one who asks."""
        return connection.Tokens(use=self.use, admin=self.admin)


def load_server_tokens(repository: Path) -> ServerTokens:
    """The tokens of `$TRITONKIT_ADMIN_TOKEN`, or a random one, and `$TRITONKIT_TOKEN`, both also of `.env`.

    repository: the one to be served, which tells where `.env` is looked for.
    Raises TokenError for what can be none, InputError for an `.env` that cannot be read.
    """
    environment = connection.tokens_from_environment()
    admin = environment.admin or _token_from_settings(connection.ADMIN_TOKEN_VARIABLE, repository)
    use = environment.use or _token_from_settings(connection.TOKEN_VARIABLE, repository)
    return ServerTokens(admin=admin or secrets.token_urlsafe(24), use=use)


def _token_from_settings(variable: str, repository: Path) -> str | None:
    return connection.checked_token(setting(variable, repository), f"{variable} of .env")


def security_arguments(security: Security, tokens: ServerTokens, shared_memory_is_admin: bool) -> list[str]:
    """The options of `tritonserver` for TLS on gRPC and for APIs that ask for a token, on both protocols.

    shared_memory_is_admin: over gRPC too, where no client shares this machine's memory with the server. Over HTTP it
    always is: a page in a browser can send HTTP to this machine, and no client of ours uses it so.
    """
    arguments = [
        *_restriction_options("--http-restricted-api", tokens, shared_memory_is_admin=True),
        *_restriction_options("--grpc-restricted-protocol", tokens, shared_memory_is_admin),
    ]
    if security.has_tls:
        arguments += [
            "--grpc-use-ssl=true",
            f"--grpc-server-cert={security.tls_certificate}",
            f"--grpc-server-key={security.tls_key}",
        ]
    if security.tls_ca is not None:
        arguments += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={security.tls_ca}"]
    return arguments


def _restriction_options(option: str, tokens: ServerTokens, shared_memory_is_admin: bool) -> list[str]:
    admin, use = (_SHARED_MEMORY, ()) if shared_memory_is_admin else ((), _SHARED_MEMORY)
    rules = [((*_ADMIN_APIS, *admin), tokens.admin), ((*_USE_APIS, *use), tokens.use)]
    return [
        f"{option}={','.join(apis)}:{connection.TOKEN_HEADER}={token}" for apis, token in rules if token is not None
    ]
