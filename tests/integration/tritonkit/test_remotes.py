"""Copies of remote files and folders: from a real S3 server, a web server that breaks off, and a DVC repository."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
from dvc.repo import Repo

from tests.errors import raises
from tests.programs import run_python
from tests.web import ANY_PORT, Quiet, listening
from tritonkit.errors import ExternalError, InputError
from tritonkit.remotes import local_path
from tritonkit.remotes.cache import CACHE_VARIABLE
from tritonkit.remotes.transfer import CHUNK
from tritonkit.repository.artifact_files import local_artifact

NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


class FileSite(Quiet, BaseHTTPRequestHandler):
    """Serves `server.content` at /model.bin with ranges, breaks off at `server.broken_at`, and lists its requests."""

    server: Any

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        content, given = self.server.content, self.headers.get("Range")
        self.server.requests.append((self.command, given))
        if self.server.status:
            self.answer(self.server.status, 0)
            return
        if self.path != "/model.bin":
            self.answer({"/private": 401, "/signed": 403}.get(self.path.partition("?")[0], 404), 0)
            return
        start, end = (int(number) for number in given.removeprefix("bytes=").split("-")) if given else (0, len(content))
        part = content[start : end + 1]
        self.answer(206 if given else 200, len(part), ETag=f'"{hashlib.sha256(content).hexdigest()}"')
        if self.command == "GET" and start <= self.server.broken_at < end:
            self.wfile.write(part[: self.server.broken_at - start])
        elif self.command == "GET":
            self.wfile.write(part)

    def answer(self, status: int, size: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(size), **headers}.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture
def site() -> Iterator[Any]:
    """A web server with one file of two and a half requests."""
    server: Any = ThreadingHTTPServer(ANY_PORT, FileSite)
    server.handle_error = lambda *_: None
    server.content, server.requests, server.broken_at = os.urandom(CHUNK * 5 // 2), [], -1
    server.status = None
    with listening(server):
        server.address = f"http://127.0.0.1:{server.server_port}/model.bin"
        yield server


def ranges(server: Any) -> list[str | None]:
    """The ranges that were asked for since the last call."""
    asked = [given for method, given in server.requests if method == "GET"]
    server.requests.clear()
    return asked


def test_transfer_continues_with_a_range_when_the_connection_broke(site: Any) -> None:
    site.broken_at = CHUNK + 1000
    with raises(ExternalError, "remote.unreachable", site.address):
        local_path(site.address)
    first, second, third = (f"bytes={start}-{end}" for start, end in ((0, CHUNK - 1), (CHUNK, 2 * CHUNK - 1), (0, 0)))
    assert ranges(site) == [first, *[second] * 4]
    site.broken_at = -1
    assert local_path(site.address).read_bytes() == site.content
    third = f"bytes={2 * CHUNK}-{len(site.content) - 1}"
    assert ranges(site) == [second, third]


def test_copy_is_used_while_the_source_is_unchanged_and_when_it_is_away(
    site: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = local_path(site.address)
    assert len(ranges(site)) == 3
    assert local_path(site.address) == path
    assert ranges(site) == []
    site.content = b"changed"
    assert local_path(site.address).read_bytes() == b"changed"
    path.write_bytes(b"damaged!")
    assert local_path(site.address).read_bytes() == b"changed"
    site.shutdown()
    site.socket.close()
    assert local_path(site.address) == path
    warning = capsys.readouterr().err
    assert warning.count("warning: ") == 1
    assert "cannot be reached" in warning
    assert "using the copy" in warning


def test_warning_gives_the_reason_when_a_copy_replaces_its_source(
    site: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    site.content = b"weights"
    path = local_path(site.address)
    site.status = 503
    assert local_path(site.address) == path
    warning = capsys.readouterr().err
    assert "503" in warning
    assert "using the copy" in warning


def test_partial_file_of_another_version_is_not_continued(site: Any) -> None:
    site.broken_at = CHUNK + 1
    with raises(ExternalError, "remote.unreachable"):
        local_path(site.address)
    site.broken_at, site.content = -1, site.content[::-1]
    assert local_path(site.address).read_bytes() == site.content


def test_pinned_content_is_required_and_then_needs_no_request(site: Any) -> None:
    site.content = b"weights"
    with raises(InputError, "remote.hash", hashlib.sha256(b"weights").hexdigest()):
        local_path(f"{site.address}#sha256={'0' * 64}")
    pinned = f"{site.address}#sha256={hashlib.sha256(b'weights').hexdigest()}"
    assert local_path(pinned).read_bytes() == b"weights"
    site.requests.clear()
    assert local_path(pinned).read_bytes() == b"weights"
    assert site.requests == []
    with raises(InputError, "remote.pin"):
        local_path(f"{site.address}#sha256=12")


def test_file_is_fetched_once_when_two_ask_for_it_at_once(site: Any) -> None:
    both = threading.Barrier(2, timeout=20)

    def fetch(_: int) -> Path:
        both.wait()
        return local_path(site.address)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(fetch, range(2))
    assert first.read_bytes() == second.read_bytes() == site.content
    assert len(ranges(site)) == 3


def test_absent_forbidden_and_unreachable_are_different_errors(site: Any) -> None:
    host = site.address.removesuffix("/model.bin").replace("//", "//user:pass@")
    with raises(InputError, "remote.absent") as absent:
        local_path(f"{host}/none.bin")
    with raises(InputError, "remote.forbidden") as forbidden:
        local_path(f"{host}/private")
    with raises(ExternalError, "remote.unreachable") as unreachable:
        local_path("http://user:pass@127.0.0.1:9/model.bin?token=secret")
    for error in (absent, forbidden, unreachable):
        assert "pass@" not in str(error.value)
        assert "secret" not in str(error.value)


@pytest.mark.parametrize("field", ["sig", "X-Amz-Signature"])
def test_error_shows_no_signature_when_the_library_quotes_the_address_differently(site: Any, field: str) -> None:
    address = site.address.replace("/model.bin", f"/signed?sv=2024&se=2027-01-01T10%3A00%3A00Z&{field}=5f%2Fb%3Aa9%3D")
    with raises(InputError, "remote.forbidden") as forbidden:
        local_path(address)
    message = str(forbidden.value)
    assert "Forbidden" in message
    assert not [part for part in ("5f", "a9", "2027", f"{field}=") if part in message], message


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("nosuch://bucket/x", "store.address"),
        ("s3://no-such-bucket/x", "remote.absent"),
        ("s3://no-such-bucket", "remote.absent"),
        ("dvc://", "store.address"),
        ("dvc:///no/such/folder:model.bin", "store.address"),
    ],
)
def test_address_that_leads_nowhere_is_refused(bucket: str, address: str, code: str) -> None:
    with raises(InputError, code, address):
        local_path(address)


def test_s3_says_whether_it_refuses_or_cannot_be_reached(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in (("AWS_SECRET_ACCESS_KEY", "wrong"), ("AWS_ACCESS_KEY_ID", "nobody")):
        s3fs.S3FileSystem.clear_instance_cache()
        monkeypatch.setenv(variable, value)
        with raises(InputError, "remote.forbidden", "AWS_ACCESS_KEY_ID"):
            local_path(f"{bucket}/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOBODY)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with raises(ExternalError, "remote.unreachable", NOBODY):
        local_path(f"{bucket}/x")


def test_folder_follows_its_source_without_hidden_files(bucket: str) -> None:
    files = s3fs.S3FileSystem()
    for name in ("a/1.png", "a/2.png", "b/3.png", ".hidden/4.png", "a/.5.png"):
        files.pipe_file(f"{bucket}/data/{name}", name.encode())

    def content(folder: Path) -> dict[str, bytes]:
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    folder = local_path(f"{bucket}/data")
    assert content(folder) == {name: name.encode() for name in ("a/1.png", "a/2.png", "b/3.png")}
    unchanged = (folder / "a/2.png").stat()
    files.rm_file(f"{bucket}/data/b/3.png")
    files.pipe_file(f"{bucket}/data/a/1.png", b"other")
    assert local_path(f"{bucket}/data/") == folder
    assert content(folder) == {"a/1.png": b"other", "a/2.png": b"a/2.png"}
    assert (folder / "a/2.png").stat() == unchanged


def test_checkpoint_comes_with_its_golden_images(bucket: str) -> None:
    files = s3fs.S3FileSystem()
    for name in ("best.safetensors", "golden.npz", "other.npz", "splits/test.csv"):
        files.pipe_file(f"{bucket}/run/{name}", name.encode())
    path = local_artifact(f"{bucket}/run/best.safetensors", "splits/test.csv", "splits/val.csv")
    found = sorted(each.relative_to(path.parent).as_posix() for each in path.parent.rglob("*") if each.is_file())
    assert found == ["best.safetensors", "golden.npz", "splits/test.csv"]


def test_name_that_leads_out_of_the_folder_is_refused(cache: Path) -> None:
    class Climbing(fsspec.AbstractFileSystem):  # type: ignore[misc] # fsspec has no types
        protocol = "climbing"

        def info(self, path: str, **options: Any) -> Any:
            return {"name": "data", "size": 0, "type": "directory"}

        def find(self, path: str, *arguments: Any, **options: Any) -> Any:
            return {"data/../../evil.png": {"name": "data/../../evil.png", "size": 1, "type": "file"}}

    fsspec.register_implementation("climbing", Climbing, clobber=True)
    with raises(InputError, "remote.unsafe_name", "evil.png"):
        local_path("climbing://data")
    assert not list(cache.rglob("*.png"))


def test_path_is_returned_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("some/folder") == Path("some/folder")
    assert local_path("~/folder") == tmp_path / "folder"
    assert local_path(f"file://{tmp_path}/a.png") == tmp_path / "a.png"


def test_dvc_files_come_from_its_remote_by_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "repository"
    (folder / "data" / "cat").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    (folder / "data" / "cat" / "1.png").write_bytes(b"one")
    (folder / "model.bin").write_bytes(b"first")
    subprocess.run(["git", "init", "--quiet"], check=True)
    with Repo.init() as repository:
        with repository.config.edit() as config:
            config["remote"]["store"] = {"url": str(tmp_path / "store")}
            config["core"]["remote"] = "store"
        repository.add(["data", "model.bin"])
        repository.push()
        user = ["-c", "user.name=n", "-c", "user.email=e@x.y"]
        subprocess.run(["git", "add", "--all"], check=True)
        subprocess.run(["git", *user, "commit", "--quiet", "--message", "first"], check=True)
        subprocess.run(["git", "tag", "v1"], check=True)
        (folder / "model.bin").write_bytes(b"second")
        repository.add(["model.bin"])
        repository.push()
    for made in ("data/cat/1.png", "model.bin"):
        (folder / made).unlink()
    subprocess.run(["rm", "-r", ".dvc/cache"], check=True)
    assert (local_path("dvc://data") / "cat" / "1.png").read_bytes() == b"one"
    assert local_path("dvc://model.bin").read_bytes() == b"second"
    assert local_path("dvc://v1@model.bin").read_bytes() == b"first"
    monkeypatch.chdir(tmp_path)
    assert local_path(f"dvc://{folder}:v1@model.bin").read_bytes() == b"first"
    for name in ("none", "v2@model.bin"):
        with raises(InputError, "remote.absent", name):
            local_path(f"dvc://{folder}:{name}")


def test_missing_library_is_one_error_with_the_command_that_installs_it() -> None:
    imports = "import sys; sys.modules['dvc'] = None; from tritonkit.remotes import local_path"
    completed = run_python("-c", f"{imports}; local_path('dvc://x')")
    assert completed.stderr.splitlines()[-1].startswith("tritonkit.errors.InputError")
    assert "pip install 'tritonkit[dvc]'" in completed.stderr.splitlines()[-1]
