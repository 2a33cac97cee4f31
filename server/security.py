"""Access rules of a server: tokens, TLS, and exposure beyond the loopback address."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

from tritonkit.options import CommandLine, Options, UserPath
from tritonkit.system.env_file import setting
from tritonkit.triton import connection
from tritonkit.triton.connection import RequestTokens

_ADMIN_APIS = ("model-repository", "trace", "logging")
_USE_APIS = ("inference", "metadata", "model-config", "statistics")
_SHARED_MEMORY = ("shared-memory",)


class Security(Options):
    """Exposure and TLS of a server. Tokens are kept apart: they are not options."""

    tls_certificate: Annotated[UserPath | None, CommandLine("--tls-cert")] = None
    """TLS for gRPC: the server's certificate (PEM)."""
    tls_key: UserPath | None = None
    """The key of --tls-cert (PEM)."""
    tls_ca: UserPath | None = None
    """Mutual TLS: accept only clients with a certificate of this CA (PEM)."""
    expose: bool = False
    """Allow a --host that other machines can reach."""
    plaintext: Annotated[bool, CommandLine("--insecure")] = False
    """With --expose: allow it without TLS."""

    def files(self) -> dict[str, Path]:
        """Return the TLS files that are set, by field."""
        paths = {"tls_certificate": self.tls_certificate, "tls_key": self.tls_key, "tls_ca": self.tls_ca}
        return {name: path for name, path in paths.items() if path is not None}

    @property
    def has_tls(self) -> bool:
        """Whether gRPC uses TLS."""
        return self.tls_certificate is not None


def load_server_tokens(repository: Path) -> RequestTokens:
    """Read `TRITONKIT_ADMIN_TOKEN` (default: random) and `TRITONKIT_TOKEN` from the environment or `.env`.

    repository: the folder to serve; `.env` is searched next to it.
    Raises TokenError for an invalid token, InputError for an unreadable `.env`.
    """
    environment = connection.tokens_from_environment()
    admin = environment.admin or _token_from_settings(connection.ADMIN_TOKEN_VARIABLE, repository)
    use = environment.use or _token_from_settings(connection.TOKEN_VARIABLE, repository)
    return RequestTokens(admin=admin or secrets.token_urlsafe(24), use=use)


def _token_from_settings(variable: str, repository: Path) -> str | None:
    return connection.validate_token(setting(variable, repository), f"{variable} of .env")


def security_arguments(security: Security, tokens: RequestTokens, shared_memory_is_admin: bool) -> list[str]:
    """Return the arguments of `tritonserver` for TLS on gRPC and for APIs that require a token.

    shared_memory_is_admin: shared memory needs the admin token over gRPC too, because no client shares memory with the
    server. Over HTTP it always does: a web page in a browser can send HTTP to this machine.
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


def _restriction_options(option: str, tokens: RequestTokens, shared_memory_is_admin: bool) -> list[str]:
    admin, use = (_SHARED_MEMORY, ()) if shared_memory_is_admin else ((), _SHARED_MEMORY)
    rules = [((*_ADMIN_APIS, *admin), tokens.admin), ((*_USE_APIS, *use), tokens.use)]
    return [
        f"{option}={','.join(apis)}:{connection.TOKEN_HEADER}={token}" for apis, token in rules if token is not None
    ]
