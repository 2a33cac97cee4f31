"""A store of model packages behind HTTP, in one file: python examples/model_store.py FOLDER --port 8080

    POST /upload_new_version/      a form: src_file, model_name, model_version; sha256 too, to have it checked
    GET  /models/NAME              the versions of a package, as JSON
    GET  /models/NAME/VERSION      the package, or the part of it that the header Range names

A version never changes: the same content is confirmed again (200), other content is refused (409). If the environment
has TRITONKIT_STORE_TOKEN, each request needs the header `Authorization: Bearer TOKEN`. It listens on this machine only:
put a proxy with TLS in front of it for others. FOLDER/NAME/VERSION/ holds package.zip and version.json.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import hmac
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from typing import Any

CHUNK = 2**20
MAX_FIELD = 4096
"""Bytes of a form's field, and of the headers of a part."""
MAX_DIGITS = 18
"""Digits of a number of bytes; Python refuses to read very long ones."""
MAX_DRAINED = 2**26
"""Bytes that are still read after a refusal, so that the client reads the answer and not a broken connection."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?", re.ASCII)


class RefusedError(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Form:
    """A multipart form of `size` bytes that is read piece by piece."""

    def __init__(self, source: BufferedIOBase, size: int, boundary: bytes) -> None:
        self._source, self.unread, self._delimiter = source, size, b"\r\n--" + boundary
        self._buffer = b"\r\n"  # stands before every delimiter but the first

    def parts(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Yield the name of each part, and its content, which must be read before the next part."""
        short_text(self._until(self._delimiter))
        while short_text(self._until(b"\r\n")) != "--":
            headers = short_text(self._until(b"\r\n\r\n"))
            name = re.search(r'content-disposition:[^\r\n]*[; ]name="([^"]*)"', headers, re.IGNORECASE)
            yield name[1] if name else "", self._until(self._delimiter)

    def _until(self, delimiter: bytes) -> Iterator[bytes]:
        """Yield what stands before a delimiter, and skip the delimiter."""
        kept = len(delimiter) - 1
        while (end := self._buffer.find(delimiter)) < 0:
            if len(self._buffer) > kept:
                yield self._buffer[:-kept]
                self._buffer = self._buffer[-kept:]
            data = self._source.read(min(CHUNK, self.unread))
            if not data:
                raise RefusedError(400, "the form ends before its last boundary")
            self.unread -= len(data)
            self._buffer += data
        yield self._buffer[:end]
        self._buffer = self._buffer[end + len(delimiter) :]


def short_text(pieces: Iterator[bytes]) -> str:
    """Join bytes that may not be long."""
    text = b""
    for piece in pieces:
        text += piece
        if len(text) > MAX_FIELD:
            raise RefusedError(400, f"a field of the form is longer than {MAX_FIELD} bytes")
    return text.decode("utf-8", "replace")


class Storage:
    """The folder of a store; one server at a time uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._uploads = folder, folder / ".uploads"  # a name cannot begin with a dot
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"error: {folder}: another server uses this folder") from None
        shutil.rmtree(self._uploads, ignore_errors=True)  # of a server that was killed

    def new_upload(self) -> Path:
        """Create a folder for an upload."""
        path = self._uploads / uuid.uuid4().hex
        path.mkdir(parents=True)
        return path

    def publish(self, upload: Path, name: str, version: str, sha256: str) -> dict[str, Any]:
        """Make an upload visible by one rename, which fails if the version exists. Raises RefusedError."""
        size, created = (upload / "package.zip").stat().st_size, datetime.now(UTC).isoformat(timespec="seconds")
        record = {"version": version, "sha256": sha256, "size": size, "created": created}
        (upload / "version.json").write_text(json.dumps(record))
        target = self.folder / name / version
        target.parent.mkdir(exist_ok=True)
        for path in (upload / "package.zip", upload / "version.json", upload):
            flush(path)
        try:
            upload.rename(target)
        except OSError:
            present = self.record(name, version)
            if present is None:
                raise
            if present["sha256"] != sha256:
                raise RefusedError(409, f"{name} {version} exists with the SHA-256 {present['sha256']}") from None
        flush(target.parent)
        return {"model_name": name, "model_version": version, "sha256": sha256}

    def record(self, name: str, version: str) -> dict[str, Any] | None:
        """Read the record of a version; None if there is none."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return dict(json.loads((self.folder / name / version / "version.json").read_bytes()))
        return None

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Read the records of all versions of a name."""
        records = (self.record(name, path.parent.name) for path in self.folder.glob(f"{name}/*/version.json"))
        return [record for record in records if record is not None]


def flush(path: Path) -> None:
    """Write a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


class StoreServer(ThreadingHTTPServer):
    """A thread for each connection."""

    daemon_threads = True

    def __init__(self, storage: Storage, port: int, token: str | None, max_bytes: int) -> None:
        self.storage, self.token, self.max_bytes = storage, token, max_bytes
        super().__init__(("127.0.0.1", port), Handler)


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    server: StoreServer
    protocol_version = "HTTP/1.1"
    timeout = 60  # of a connection on which nothing moves

    def do_GET(self) -> None:
        """Answer a request; refusals become statuses."""
        try:
            self._check_token()
            self._post() if self.command == "POST" else self._get()
        except RefusedError as refusal:
            self._refuse(refusal.status, str(refusal))
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except OSError as error:
            self._refuse(507, f"the store cannot write: {error.strerror}")

    do_POST = do_GET  # noqa: N815 - the name that the base class looks for

    def _check_token(self) -> None:
        expected, sent = f"Bearer {self.server.token}", self.headers.get("Authorization", "")
        if self.server.token and not hmac.compare_digest(expected.encode(), sent.encode()):
            raise RefusedError(401, "the header Authorization has no valid token")

    def _get(self) -> None:
        page, name, version, *_ = [*self.path.partition("?")[0].strip("/").split("/", 2), "", ""]
        storage = self.server.storage
        if page != "models" or not NAME.fullmatch(name):
            raise RefusedError(404, "no such page")
        if not version:
            self._send_json(200, {"model_name": name, "versions": storage.versions(name)})
            return
        record = storage.record(name, version) if VERSION.fullmatch(version) else None
        if record is None:
            raise RefusedError(404, "no such version")
        self._send_file(storage.folder / name / version / "package.zip", record["size"])

    def _send_file(self, path: Path, size: int) -> None:
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part and max(map(len, part.groups())) > MAX_DIGITS:
            raise RefusedError(416, f"the package has {size} bytes")
        start, end = (int(part[1]), min(int(part[2] or size) + 1, size)) if part else (0, size)
        if part and start >= end:
            raise RefusedError(416, f"the package has {size} bytes")
        self.send_response(206 if part else 200)
        self.send_header("Content-Type", "application/zip")
        self.send_header("Content-Length", str(end - start))
        if part:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        with path.open("rb") as file:
            file.seek(start)
            while chunk := file.read(min(CHUNK, end - file.tell())):
                self.wfile.write(chunk)

    def _post(self) -> None:
        size, kind = self.headers.get("Content-Length", ""), self.headers.get("Content-Type", "")
        boundary = re.search(r'boundary="?([^";]{1,70})', kind)
        if self.path.strip("/") != "upload_new_version":
            raise RefusedError(404, "no such page")
        if not size.isdecimal() or boundary is None:
            raise RefusedError(411, "expected a multipart form with a Content-Length")
        if len(size) > MAX_DIGITS:
            raise RefusedError(400, "the Content-Length is too long")
        if int(size) > self.server.max_bytes:
            raise RefusedError(413, f"the largest upload is {self.server.max_bytes} bytes")
        upload = self.server.storage.new_upload()
        try:
            form = Form(self.rfile, int(size), boundary[1].encode())
            answer = self._receive(form, upload)
            self.close_connection = bool(form.unread)
        finally:
            shutil.rmtree(upload, ignore_errors=True)
        self._send_json(200, answer)

    def _receive(self, form: Form, upload: Path) -> dict[str, Any]:
        """Write the file to disk and hash it meanwhile; publish it when the whole form is there."""
        fields, digest, file = {}, hashlib.sha256(), upload / "package.zip"
        for key, content in form.parts():
            if key != "src_file":
                fields[key] = short_text(content)
                continue
            if file.exists():
                raise RefusedError(400, "the form has more than one src_file")
            with file.open("wb") as output:
                for chunk in content:
                    output.write(chunk)
                    digest.update(chunk)
        name, version, sha256 = fields.get("model_name", ""), fields.get("model_version", ""), digest.hexdigest()
        if not file.is_file() or not NAME.fullmatch(name) or not VERSION.fullmatch(version):
            raise RefusedError(400, "expected src_file, model_name (a name) and model_version (such as 1.2.0)")
        if fields.get("sha256", sha256) != sha256:
            raise RefusedError(400, f"the file came with the SHA-256 {sha256}, not {fields['sha256']:.64}")
        return self.server.storage.publish(upload, name, version, sha256)

    def _send_json(self, status: int, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close" if self.close_connection else "keep-alive")
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status: int, message: str) -> None:
        """Send an error, then read for a while what the client still sends, and close the connection."""
        self.close_connection = True
        with suppress(OSError):
            self._send_json(status, {"error": message})
            self.connection.shutdown(1)  # no more is written
            self.connection.settimeout(5)
            drained = 0
            while drained < MAX_DRAINED and (data := self.connection.recv(CHUNK)):
                drained += len(data)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A store of model packages behind HTTP.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--max-bytes", type=int, default=2**36, help="the largest upload; default: 64 GiB")
    arguments = parser.parse_args()
    token = os.environ.get("TRITONKIT_STORE_TOKEN")
    if token and not re.fullmatch("[!-~]+", token):
        parser.error("TRITONKIT_STORE_TOKEN has a character that a header cannot hold")
    with StoreServer(Storage(arguments.folder), arguments.port, token, arguments.max_bytes) as store:
        print(f"http://127.0.0.1:{store.server_port}", flush=True)
        store.serve_forever()
