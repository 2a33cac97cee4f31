"""How a server is reached: its address, TLS, tokens, and for how long one bears with it."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import field_validator

from model.errors import InputError, TokenError
from model.spec import Frozen

TOKEN_VARIABLE = "TRITONKIT_TOKEN"  # noqa: S105 - its name
ADMIN_TOKEN_VARIABLE = "TRITONKIT_ADMIN_TOKEN"  # noqa: S105 - its name
TOKEN_HEADER = "tritonkit-token"  # noqa: S105 - its name
GRPC_TOKEN_HEADER = f"triton-grpc-protocol-{TOKEN_HEADER}"
"""Triton puts its own prefix before a restricted protocol's key on gRPC."""

Protocol = Literal["grpc", "http"]

_SCHEMES: dict[str, tuple[Protocol, bool]] = {
    "": ("grpc", False),
    "grpc": ("grpc", False),
    "grpcs": ("grpc", True),
    "http": ("http", False),
    "https": ("http", True),
}
_EXPECTED = "expected HOST:PORT, grpc://HOST:PORT or http://HOST:PORT, and grpcs:// or https:// with TLS"
_NETLOC = re.compile(r"(?P<host>\[[^\]]*\]|[^\[\]:]*):(?P<port>.*)")
_USER = re.compile(r"^((?:[^/?#]*://)?)[^/?#]*@")
_TOKEN = re.compile(r"[A-Za-z0-9._~-]+")
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|\[::1\]")


class Address(NamedTuple):
    """Where a server listens."""

    protocol: Protocol
    tls: bool
    host: str
    """A name or an IP address; brackets around IPv6."""
    port: int

    @property
    def netloc(self) -> str:
        """HOST:PORT."""
        return f"{self.host}:{self.port}"

    @property
    def bare_host(self) -> str:
        """The host as sockets take it: IPv6 without brackets."""
        return self.host.strip("[]")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can be meant."""
        return _LOOPBACK.fullmatch(self.host) is not None


def _scheme_problem(scheme: str, separator: str) -> str:
    """Why requests cannot be made by a scheme; empty where they can."""
    if scheme in _SCHEMES and bool(scheme) == bool(separator):
        return ""
    return f"Triton does not speak {scheme!r}" if scheme else "the scheme is missing before ://"


def _netloc_problem(netloc: str, scheme: str) -> str:
    """Why what stands behind the scheme is no HOST:PORT; empty where it is."""
    if re.search(r"[\s\x00-\x1f\x7f]", netloc):
        return "an address holds no spaces or control characters"
    if "@" in netloc:
        return f"user and password are not taken; a token is set by ${TOKEN_VARIABLE}"
    if re.search(r"[/?#\\]", netloc):
        return "a path is not taken, the client knows Triton's"
    if netloc.count(":") > 1 and "[" not in netloc:
        return f"an IPv6 address stands in brackets, as in [::1]:{_usual_port(scheme)}"
    parts = _NETLOC.fullmatch(netloc)
    if parts is None:
        return f"the port is missing; Triton's own is {_usual_port(scheme)}"
    return _host_problem(parts["host"]) or _port_problem(parts["port"], scheme)


def _usual_port(scheme: str) -> int:
    return 8000 if scheme.startswith("http") else 8001


def _host_problem(host: str) -> str:
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return f"{host} is no IPv6 address"
    return "" if host else "the host is missing"


def _port_problem(port: str, scheme: str) -> str:
    if not port:
        return f"the port is missing; Triton's own is {_usual_port(scheme)}"
    known = port.isascii() and port.isdecimal() and 0 < int(port) <= 0xFFFF
    return "" if known else f"port {port} is not in 1..65535"


class Connection(Frozen):
    """An address and the terms on which it is asked."""

    url: str
    """HOST:PORT or grpc://HOST:PORT, grpcs:// with TLS; http:// or https://, the latter through a proxy."""
    tls_ca: Path | None = None
    """PEM file of who signed the server's certificate; where None, authorities that all the world trusts."""
    tls_cert: Path | None = None
    """PEM file of the certificate to show."""
    tls_key: Path | None = None
    deadline_s: float = 60.0
    """How long one request may take."""
    patience_s: float = 0.0
    """For how long a request that is safe to repeat is repeated, counted from its first failure."""
    wait_s: float = 0.0
    """How long to wait at first, for a server that is starting or a model that is loading."""
    shared_memory: bool = False
    """Whether pictures may go through memory that is shared with a server on this machine."""

    @field_validator("url")
    @classmethod
    def _as_curl_takes_it(cls, url: str) -> str:
        """In lower case, as host and scheme are the same in either, and without a bare slash at the end."""
        return url if "@" in url or url.endswith("://") else url.lower().removesuffix("/")

    @property
    def address(self) -> Address:
        """The parts of `url`. Raises InputError."""
        scheme, separator, netloc = self.url.rpartition("://")
        problem = _scheme_problem(scheme, separator) or _netloc_problem(netloc, scheme)
        if problem:
            shown = _USER.sub(r"\1…@", self.url)  # a password is shown to nobody
            raise InputError(f"{shown}: {problem}; {_EXPECTED}")
        host, _, port = netloc.rpartition(":")
        protocol, tls = _SCHEMES[scheme]
        if self.tls_ca or self.tls_cert or self.tls_key:
            if scheme not in ("", "grpcs", "https"):
                raise InputError(f"{self.url}: is an address without TLS; certificates go with grpcs:// or https://")
            tls = True
        return Address(protocol, tls, host, int(port))


class Tokens(NamedTuple):
    """What is shown in the header `tritonkit-token`; None shows nothing."""

    use: str | None
    """For models, inference and statistics."""
    admin: str | None
    """For the model repository."""

    def variable(self, admin: bool = False) -> str:
        """The variable that a request's token is set by; empty where none is shown."""
        return ADMIN_TOKEN_VARIABLE if admin and self.admin else TOKEN_VARIABLE if self.use else ""

    def headers(self, protocol: Protocol, admin: bool = False) -> dict[str, str] | None:
        """The header of a request, if there is any."""
        token = (self.admin if admin else None) or self.use
        return {TOKEN_HEADER if protocol == "http" else GRPC_TOKEN_HEADER: token} if token else None


def tokens_from_environment() -> Tokens:
    """The tokens of `$TRITONKIT_TOKEN` and `$TRITONKIT_ADMIN_TOKEN`. Raises TokenError for what can be none."""
    found = [checked_token(os.environ.get(name), f"${name}") for name in (TOKEN_VARIABLE, ADMIN_TOKEN_VARIABLE)]
    return Tokens(*found)


def checked_token(token: str | None, origin: str) -> str | None:
    """A token that was set at `origin`, None for an empty one. Raises TokenError for what can be none."""
    if token and not _TOKEN.fullmatch(token):
        raise TokenError(f"{origin}: a token holds letters, digits and . _ ~ - alone")
    return token or None
