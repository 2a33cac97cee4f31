"""The connection to a server: address, TLS, tokens, timeouts and retries."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, field_validator

from tritonkit.errors import InputError, TokenError
from tritonkit.spec import Frozen
from tritonkit.system.local_servers import recorded_server_at

TOKEN_VARIABLE = "TRITONKIT_TOKEN"  # noqa: S105 - its name
ADMIN_TOKEN_VARIABLE = "TRITONKIT_ADMIN_TOKEN"  # noqa: S105 - its name
TOKEN_HEADER = "tritonkit-token"  # noqa: S105 - its name
GRPC_TOKEN_HEADER = f"triton-grpc-protocol-{TOKEN_HEADER}"
"""On gRPC, Triton adds its own prefix to the header of a restricted protocol."""

Protocol = Literal["grpc", "http"]

_SCHEMES: dict[str, tuple[Protocol, bool]] = {
    "": ("grpc", False),
    "grpc": ("grpc", False),
    "grpcs": ("grpc", True),
    "http": ("http", False),
    "https": ("http", True),
}
_EXPECTED = "expected HOST:PORT, grpc://HOST:PORT or http://HOST:PORT, and grpcs:// or https:// with TLS"
_NETLOC = re.compile(r"(?P<host>\[[^\]]*\]|[^\[\]:]*):(?P<port>.+)")
_USER = re.compile(r"^((?:[^/?#]*://)?)[^/?#]*@")
_TOKEN = re.compile(r"[A-Za-z0-9._~-]+")
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|\[::1\]")


class Address(NamedTuple):
    """The address of a server: protocol, host and port."""

    protocol: Protocol
    tls: bool
    host: str
    """A name or an IP address; brackets around IPv6."""
    port: int

    @property
    def netloc(self) -> str:
        """Return HOST:PORT."""
        return f"{self.host}:{self.port}"

    @property
    def bare_host(self) -> str:
        """Return the host for a socket: IPv6 without brackets."""
        return self.host.strip("[]")

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine."""
        return _LOOPBACK.fullmatch(self.host) is not None


def _address_problem(scheme: str, separator: str, netloc: str) -> str:
    """Return why an address is not one of Triton, or an empty string."""
    if scheme not in _SCHEMES or bool(scheme) != bool(separator):
        return f"Triton does not speak {scheme!r}" if scheme else "the scheme is missing before ://"
    default_port = 8000 if scheme.startswith("http") else 8001
    if re.search(r"[\s\x00-\x1f\x7f]", netloc):
        return "an address cannot contain spaces or control characters"
    if "@" in netloc:
        return f"an address cannot contain a user and password; set a token in ${TOKEN_VARIABLE}"
    if re.search(r"[/?#\\]", netloc):
        return "an address cannot contain a path; the client adds Triton's paths"
    if netloc.count(":") > 1 and "[" not in netloc:
        return f"an IPv6 address needs brackets, as in [::1]:{default_port}"
    parts = _NETLOC.fullmatch(netloc)
    if parts is None:
        return f"the port is missing; Triton's default is {default_port}"
    host, port = parts["host"], parts["port"]
    if not host:
        return "the host is missing"
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return f"{host} is not an IPv6 address"
    is_valid = port.isascii() and port.isdecimal() and 0 < int(port) <= 0xFFFF
    return "" if is_valid else f"port {port} is not in 1..65535"


class Connection(Frozen):
    """Settings of a connection to a server: address, TLS files, timeouts."""

    url: str
    """HOST:PORT or grpc://HOST:PORT, grpcs:// with TLS; or http://, https:// with TLS, such as a proxy."""
    tls_ca: Path | None = None
    """PEM file of the authority that signed the server's certificate; None uses the public authorities."""
    tls_cert: Path | None = None
    """PEM file of the client certificate."""
    tls_key: Path | None = None
    deadline_s: float = 60.0
    """Timeout of one request."""
    patience_s: float = 0.0
    """How long a request that is safe to repeat is retried, counted from its first failure."""
    wait_s: float = 0.0
    """How long to wait at the start for a server that is starting or a model that is loading."""
    shared_memory: bool = False
    """Whether images may be sent through memory that is shared with a server on this machine."""

    @field_validator("url")
    @classmethod
    def _normalize_url(cls, url: str) -> str:
        """Convert host and scheme to lower case and remove a slash at the end."""
        return url if "@" in url or url.endswith("://") else url.lower().removesuffix("/")

    @property
    def address(self) -> Address:
        """Return the parts of `url`. Raises InputError."""
        scheme, separator, netloc = self.url.rpartition("://")
        if problem := _address_problem(scheme, separator, netloc):
            url = _USER.sub(r"\1…@", self.url)  # hides a password
            raise InputError(f"{url}: {problem}; {_EXPECTED}", code="connection.address")
        host, _, port = netloc.rpartition(":")
        protocol, tls = _SCHEMES[scheme]
        if self.tls_ca or self.tls_cert or self.tls_key:
            if scheme not in ("", "grpcs", "https"):
                raise InputError(
                    f"{self.url}: is an address without TLS; use grpcs:// or https:// with certificates",
                    code="tls.unused_certificate",
                )
            tls = True
        return Address(protocol, tls, host, int(port))


class RequestTokens(Frozen):
    """The tokens of the header `tritonkit-token`. For None a client sends no header, a server requires none."""

    admin: str | None = Field(default=None, repr=False)
    """For the repository, trace and logging APIs, and for shared memory over HTTP."""
    use: str | None = Field(default=None, repr=False)
    """For inference, metadata, configurations, statistics, and shared memory over gRPC."""

    def variable(self, admin: bool = False) -> str:
        """Return the environment variable of a request's token, or an empty string without a token."""
        return ADMIN_TOKEN_VARIABLE if admin and self.admin else TOKEN_VARIABLE if self.use else ""

    def headers(self, protocol: Protocol, admin: bool = False) -> dict[str, str] | None:
        """Return the token header of a request, None without a token."""
        token = (self.admin if admin else None) or self.use
        return {TOKEN_HEADER if protocol == "http" else GRPC_TOKEN_HEADER: token} if token else None


def tokens_from_environment() -> RequestTokens:
    """Read the tokens of `$TRITONKIT_TOKEN` and `$TRITONKIT_ADMIN_TOKEN`. Raises TokenError for an invalid one."""
    names = {"use": TOKEN_VARIABLE, "admin": ADMIN_TOKEN_VARIABLE}
    return RequestTokens(**{kind: validate_token(os.environ.get(name), f"${name}") for kind, name in names.items()})


def recorded_tokens(url: str) -> RequestTokens | None:
    """Return the tokens of a server that `server up` started here; None: those of the environment."""
    address = Connection(url=url).address
    local = recorded_server_at(address.port) if address.is_loopback else None
    return None if local is None else RequestTokens.model_validate(local.tokens)


def validate_token(token: str | None, origin: str) -> str | None:
    """Return a valid token, None for an empty one. origin: where it was set. Raises TokenError for an invalid one."""
    if token and not _TOKEN.fullmatch(token):
        raise TokenError(f"{origin}: a token holds letters, digits and . _ ~ - only")
    return token or None
