"""A collection service: the reference of docs/collections.md, which can also misbehave.

`python -m tests.collection_server FOLDER --port 9200` serves the group FOLDER on 127.0.0.1. FOLDER has class folders of
pictures, or a table `labels.json`: a list of objects with `file`, and `label` or `labels`, `meta`, `id`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.web import Quiet
from tritonkit.images.picture_files import pictures_below

TOKEN_VARIABLE = "TRITONKIT_COLLECTION_TOKEN"


@dataclass
class Faults:
    """What goes wrong. Each number is of the next answers that it spoils."""

    unavailable: int = 0
    """Answers 503."""
    cut: int = 0
    """Pictures of which half arrives."""
    wrong: int = 0
    """Pictures with another content."""


@dataclass
class Collection:
    """The pictures of one group, read from its folder at each request of its listing."""

    folder: Path
    page_size: int = 100
    token: str | None = None
    faults: Faults = field(default_factory=Faults)
    extra: list[dict[str, Any]] = field(default_factory=list)
    """More entries of the listing, such as hostile ones."""
    fetched: Counter[str] = field(default_factory=Counter)
    """Complete answers by the id of the picture."""
    listed: dict[str, tuple[Path, dict[str, Any]]] = field(default_factory=dict, repr=False)
    lock: Lock = field(default_factory=Lock, repr=False)

    @property
    def group(self) -> str:
        """The name of the group."""
        return self.folder.name

    def files(self) -> dict[str, tuple[Path, dict[str, Any]]]:
        """Return the file and the further fields of each picture, by id."""
        table = self.folder / "labels.json"
        if table.is_file():
            rows = json.loads(table.read_text())
            return {str(row.get("id", row["file"])): (self.folder / row["file"], row) for row in rows}
        paths = [path for path in pictures_below(self.folder) if path.parent != self.folder]
        names = {path.relative_to(self.folder): path for path in paths}
        return {str(name): (path, {"label": name.parts[0]}) for name, path in names.items()}

    def entries(self) -> list[dict[str, Any]]:
        """Return the listing of the whole group."""
        listing, self.listed = [], self.files()
        for name, (path, row) in self.listed.items():
            data = path.read_bytes()
            entry = {"id": name, "name": path.name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            listing.append(entry | {key: row[key] for key in ("label", "labels", "meta") if key in row})
        return listing + self.extra

    def path(self, picture: str) -> Path | None:
        """Return the file of a picture; None if there is none."""
        if picture not in self.listed:
            self.listed = self.files()
        return self.listed[picture][0] if picture in self.listed else None

    def spoils(self, fault: str) -> bool:
        """Count down a fault; whether it spoils this answer."""
        with self.lock:
            left: int = getattr(self.faults, fault)
            setattr(self.faults, fault, max(0, left - 1))
            return left > 0


class _Handler(Quiet, BaseHTTPRequestHandler):
    server: CollectionServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer `/groups/GROUP/pictures?page=N` and `/pictures/ID`."""
        collection, address = self.server.collection, urlsplit(self.path)
        match [unquote(part) for part in address.path.strip("/").split("/")]:
            case _ if collection.spoils("unavailable"):
                self.send_error(503)
            case _ if collection.token and self.headers["Authorization"] != f"Bearer {collection.token}":
                self.send_error(401)
            case ["groups", collection.group, "pictures"]:
                start = int(parse_qs(address.query).get("page", ["0"])[0])
                entries, end = collection.entries(), start + collection.page_size
                page = {"pictures": entries[start:end], "next": str(end) if end < len(entries) else None}
                self._send(json.dumps(page).encode(), "application/json")
            case ["pictures", picture] if (path := collection.path(picture)) is not None:
                self._send_picture(picture, path.read_bytes())
            case _:
                self.send_error(404)

    def _send_picture(self, picture: str, data: bytes) -> None:
        if self.server.collection.spoils("cut"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        if self.server.collection.spoils("wrong"):
            data = bytes(reversed(data))
        self.server.collection.fetched[picture] += 1
        self._send(data, "application/octet-stream")

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class CollectionServer(ThreadingHTTPServer):
    """Serves a collection."""

    def __init__(self, collection: Collection, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.collection = collection

    @property
    def url(self) -> str:
        """The address for `train collect --url`."""
        return f"http://127.0.0.1:{self.server_port}"


def main() -> None:
    """Serve a folder until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve a folder as a group of a collection, on 127.0.0.1.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=9200)
    options = parser.parse_args()
    server = CollectionServer(Collection(options.folder.absolute(), token=os.environ.get(TOKEN_VARIABLE)), options.port)
    print(f"train collect --url {server.url} --group {server.collection.group}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
