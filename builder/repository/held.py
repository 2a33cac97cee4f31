"""Which versions of a model running servers hold: those that are named, else whoever answers at the usual address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from model.connection import Connection
from model.console import DEFAULT_URL
from model.errors import ExternalError, InferenceError, InputError, TokenError, UnreachableError
from model.tls import check_files

NO_SERVER = "none"
"""In place of an address: none is to be asked."""


@dataclass(frozen=True)
class LoadedVersions:
    """What servers said of one model."""

    by: Mapping[int, str] = field(default_factory=dict)
    """By version, the address of a server that holds it."""
    asked: tuple[str, ...] = ()
    """The servers that answered."""


@dataclass(frozen=True)
class Servers:
    """Who is asked what it holds."""

    urls: tuple[str, ...] = ()
    """Addresses that must answer; none takes the usual one if it does, and `none` asks nobody."""
    usual: str = DEFAULT_URL
    usual_deadline_s: float = 5.0
    """How long to wait for whoever answers there."""
    tls_ca: Path | None = None
    """PEM file of who signed the certificates of `urls`."""
    tls_cert: Path | None = None
    """PEM file of the certificate to show them."""
    tls_key: Path | None = None

    def holding(self, model: str) -> LoadedVersions:
        """The versions of a model that these servers hold, are loading or are letting go of.

        Raises InferenceError or TokenError for a named server that does not tell, ExternalError where somebody answers
        at the usual address and does not: a version that may be served is not to be deleted.
        """
        if NO_SERVER in self.urls:
            return LoadedVersions()
        if self.urls:
            found = {connection.url: _held_by(connection, model) for connection in self.connections()}
        else:
            found = self._at_the_usual(model)
        return LoadedVersions({version: url for url, versions in found.items() for version in versions}, tuple(found))

    def connections(self) -> list[Connection]:
        """The ways to the named servers."""
        files = {"tls_ca": self.tls_ca, "tls_cert": self.tls_cert, "tls_key": self.tls_key}
        return [Connection(url=url, **files) for url in self.urls if url != NO_SERVER]

    def _at_the_usual(self, model: str) -> dict[str, set[int]]:
        try:
            return {self.usual: _held_by(Connection(url=self.usual, deadline_s=self.usual_deadline_s), model)}
        except UnreachableError:
            return {}
        except (InferenceError, TokenError) as error:
            raise ExternalError(
                f"{self.usual} answers, but does not tell which versions it holds: {error}. Name the servers that run "
                f"with --url, and --tls-ca where they speak TLS. With --url {NO_SERVER} nobody is asked, and what a "
                "server holds may be deleted"
            ) from error


@dataclass(frozen=True)
class Answered(Servers):
    """Servers that were asked already, and are not asked again."""

    held: LoadedVersions = field(default_factory=LoadedVersions)
    """What they said."""

    def holding(self, model: str) -> LoadedVersions:
        """What they said."""
        return self.held


def servers_to_spare(
    urls: Sequence[str] | None,
    keep: int | None,
    tls_ca: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
) -> Servers:
    """`servers_from`, of a command that asks them only to delete. Raises InputError where no version is to go."""
    if urls and keep is None:
        raise InputError("--url: says whose versions are not to be deleted, so it goes with --keep")
    return servers_from(urls, tls_ca, tls_cert, tls_key)


def servers_from(
    urls: Sequence[str] | None, tls_ca: Path | None = None, tls_cert: Path | None = None, tls_key: Path | None = None
) -> Servers:
    """The servers of `--url`, asked with these PEM files.

    Raises InputError for what is no address, for `none` beside one, and for files that are of no use.
    """
    servers = Servers(tuple(urls or ()), tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key)
    connections = servers.connections()
    if NO_SERVER in servers.urls and connections:
        raise InputError(f"--url {NO_SERVER}: asks nobody, and {connections[0].url} is to be asked; give one of them")
    if (tls_ca or tls_cert or tls_key) and not connections:
        raise InputError("--tls-ca, --tls-cert and --tls-key go with --url HOST:PORT")
    for connection in connections:
        _ = connection.address
        check_files(connection)
    return servers


def _held_by(connection: Connection, model: str) -> set[int]:
    from model.runners.triton import TritonServer

    with closing(TritonServer(connection)) as server:
        rows = [row for row in server.models() if row.name == model and row.version.isdecimal()]
    return {int(row.version) for row in rows if row.state not in ("", "UNAVAILABLE")}
