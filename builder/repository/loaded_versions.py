"""Ask running servers which versions of a model they have loaded: the named ones, else the default address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tritonkit.errors import ExternalError, InferenceError, InputError, TokenError, UnreachableError
from tritonkit.system.console import DEFAULT_URL
from tritonkit.triton.connection import Connection
from tritonkit.triton.tls import check_files

NO_SERVER = "none"
"""The value of `--url` for no server."""


@dataclass(frozen=True)
class LoadedVersions:
    """The versions of one model that servers have loaded."""

    address_by_version: Mapping[int, str] = field(default_factory=dict)
    """By version, the address of a server that has it loaded."""
    servers: tuple[str, ...] = ()
    """The addresses of the servers that answered."""


@dataclass(frozen=True)
class Servers:
    """The servers whose loaded versions must not be deleted."""

    urls: tuple[str, ...] = ()
    """Addresses that must answer. Empty tries the default address; `none` asks no server."""
    default_url: str = DEFAULT_URL
    default_deadline_s: float = 5.0
    """The timeout for the default address."""
    tls_ca: Path | None = None
    """PEM file of the certificate authority that signed the certificates of `urls`."""
    tls_cert: Path | None = None
    """PEM file of the client certificate."""
    tls_key: Path | None = None

    def loaded_versions(self, model: str) -> LoadedVersions:
        """The versions of a model that these servers have loaded, are loading or are unloading.

        Raises InferenceError or TokenError where a named server gives no list, ExternalError where a server at the
        default address gives none: a version that may be served must not be deleted.
        """
        if NO_SERVER in self.urls:
            return LoadedVersions()
        if self.urls:
            versions_by_url = {connection.url: _loaded_on(connection, model) for connection in self.connections()}
        else:
            versions_by_url = self._query_default(model)
        return LoadedVersions(
            {version: url for url, versions in versions_by_url.items() for version in versions}, tuple(versions_by_url)
        )

    def connections(self) -> list[Connection]:
        """Create the connections to the named servers."""
        files = {"tls_ca": self.tls_ca, "tls_cert": self.tls_cert, "tls_key": self.tls_key}
        return [Connection(url=url, **files) for url in self.urls if url != NO_SERVER]

    def _query_default(self, model: str) -> dict[str, set[int]]:
        try:
            return {
                self.default_url: _loaded_on(
                    Connection(url=self.default_url, deadline_s=self.default_deadline_s), model
                )
            }
        except UnreachableError:
            return {}
        except (InferenceError, TokenError) as error:
            raise ExternalError(
                f"{self.default_url} answers, but does not list its loaded versions: {error}. Name the running servers "
                f"with --url, and with --tls-ca where they use TLS. With --url {NO_SERVER} no server is asked, and "
                "loaded versions may be deleted",
                code=error.code,
            ) from error


@dataclass(frozen=True)
class KnownServers(Servers):
    """Servers that were asked before; they are not asked again."""

    answer: LoadedVersions = field(default_factory=LoadedVersions)
    """The versions that they have loaded."""

    def loaded_versions(self, model: str) -> LoadedVersions:
        """The loaded versions from the earlier request."""
        return self.answer


def retention_servers(
    urls: Sequence[str] | None,
    keep: int | None,
    tls_ca: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
) -> Servers:
    """Parse `--url` for a command that deletes versions only with `--keep`.

    Raises InputError where `urls` is set without `keep`, and what `servers_from_options` raises.
    """
    if urls and keep is None:
        raise InputError(
            "--url names servers whose loaded versions are not deleted, so it needs --keep",
            code="option.url_without_keep",
        )
    return servers_from_options(urls, tls_ca, tls_cert, tls_key)


def servers_from_options(
    urls: Sequence[str] | None, tls_ca: Path | None = None, tls_cert: Path | None = None, tls_key: Path | None = None
) -> Servers:
    """Parse the servers of `--url`, with the PEM files for TLS.

    Raises InputError for an invalid address, for `none` together with an address, and for PEM files that do not fit.
    """
    servers = Servers(tuple(urls or ()), tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key)
    connections = servers.connections()
    if NO_SERVER in servers.urls and connections:
        raise InputError(
            f"--url {NO_SERVER} and --url {connections[0].url} exclude each other; leave one out",
            code="option.url_none",
        )
    if (tls_ca or tls_cert or tls_key) and not connections:
        raise InputError("--tls-ca, --tls-cert and --tls-key need --url HOST:PORT", code="option.tls_without_url")
    for connection in connections:
        _ = connection.address
        check_files(connection)
    return servers


def _loaded_on(connection: Connection, model: str) -> set[int]:
    from tritonkit.triton.runner import TritonServer

    with closing(TritonServer(connection)) as server:
        rows = [row for row in server.models() if row.name == model and row.version.isdecimal()]
    return {int(row.version) for row in rows if row.state not in ("", "UNAVAILABLE")}
