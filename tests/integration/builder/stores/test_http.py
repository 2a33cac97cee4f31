"""Packages in the HTTP store: the reference server in a process of its own, and servers that misbehave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import urllib3

from builder.stores import http
from builder.stores.transfer import pull, push
from tests.errors import raises
from tests.model_store import ModelStore
from tests.programs import ROOT
from tests.web import ANY_PORT, Quiet, listening
from tritonkit.errors import ArtifactError, ExternalError, InputError, TokenError
from tritonkit.system.files import file_sha256

PUSH = "push(Path(sys.argv[1]), sys.argv[2], 'digits', sys.argv[3])"
PULL = "pull(sys.argv[2], 'digits@' + sys.argv[3], lambda stored: Path(sys.argv[1]))"
_START = "import sys; from builder.stores.transfer import pull, push; from pathlib import Path\n" + (
    "print('started', flush=True); sys.stdin.readline()\n"
)
Answer = Callable[[Any], tuple[int, dict[str, Any]]]


def start(action: str, path: Path, url: str, version: str) -> subprocess.Popen[str]:
    """Start a process that pushes or pulls when a line comes."""
    words = [sys.executable, "-c", _START + action, str(path), url, version]
    process = subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def send_form(url: str, fields: dict[str, Any], **headers: str) -> tuple[int, dict[str, Any]]:
    """Post a form as any other client does."""
    answer = urllib3.request("POST", f"{url}/upload_new_version/", fields=fields, headers=headers, retries=False)
    return answer.status, answer.json()


def test_package_comes_back_as_it_was_pushed(model_store: ModelStore, package: Path, tmp_path: Path) -> None:
    pushed = push(package, model_store.url, "digits", "1.2.0")
    assert not pushed.was_there
    assert push(package, f"{model_store.url}/", "digits", "1.2.0").was_there
    push(package, model_store.url, "digits", "1.10.0")
    pulled = pull(model_store.url, "digits@^1.2", lambda stored: tmp_path / "out" / f"{stored.version}.zip")
    assert pulled.path.name == "1.10.0.zip"
    assert pulled.path.read_bytes() == package.read_bytes()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["1.10.0.zip"]
    assert pulled.package.sha256 == file_sha256(package)


def test_other_content_for_a_version_is_refused(model_store: ModelStore, package: Path, other_package: Path) -> None:
    push(package, model_store.url, "digits", "1.2.0")
    with raises(InputError, "store.version_exists", "1.2.0"):
        push(other_package, model_store.url, "digits", "1.2.0")
    fields = {"model_name": "digits", "model_version": "1.2.0", "src_file": ("x", other_package.read_bytes())}
    assert send_form(model_store.url, fields)[0] == 409
    assert send_form(model_store.url, {**fields, "src_file": ("x", package.read_bytes())})[0] == 200
    assert model_store.leftovers() == []


def test_exactly_one_of_two_simultaneous_uploads_wins(
    model_store: ModelStore, package: Path, other_package: Path, tmp_path: Path
) -> None:
    digests = {file_sha256(path): path for path in (package, other_package)}
    for number in range(20):
        version = f"1.0.{number}"
        fields = {"model_name": "digits", "model_version": version}
        with ThreadPoolExecutor(2) as pool:
            statuses = list(
                pool.map(
                    lambda path, fields=fields: send_form(  # type: ignore[misc]
                        model_store.url, {**fields, "src_file": ("x", path.read_bytes())}
                    )[0],
                    digests.values(),
                )
            )
        assert sorted(statuses) == [200, 409]
        winner = [path for path, status in zip(digests.values(), statuses, strict=True) if status == 200]
        stored = pull(model_store.url, f"digits@{version}", lambda stored: tmp_path / stored.version)
        assert stored.path.read_bytes() == winner[0].read_bytes()
    assert model_store.leftovers() == []


@pytest.mark.drill
def test_exactly_one_of_two_pushing_processes_wins(model_store: ModelStore, package: Path, other_package: Path) -> None:
    for number in range(20):
        processes = [start(PUSH, path, model_store.url, f"1.0.{number}") for path in (package, other_package)]
        for process in processes:
            go(process)
        ends = [process.communicate()[1] for process in processes]
        assert sorted(process.returncode for process in processes) == [0, 1], ends
        assert sum("versions never change" in end for end in ends) == 1


def test_push_is_done_when_a_killed_client_or_server_comes_back(model_store: ModelStore, tmp_path: Path) -> None:
    large = tmp_path / "large.zip"
    large.write_bytes(os.urandom(2**20) * 300)
    client = start(PUSH, large, model_store.url, "1.0.0")
    go(client)
    wait_for(lambda: any(path.stat().st_size > 2**20 for path in model_store.leftovers()))
    client.kill()
    client.communicate()
    wait_for(lambda: not model_store.leftovers())
    client = start(PUSH, large, model_store.url, "1.0.0")
    go(client)
    wait_for(lambda: any(path.stat().st_size > 2**20 for path in model_store.leftovers()))
    model_store.kill()
    assert model_store.leftovers()
    assert not list(model_store.folder.glob("digits/*"))
    model_store.start()
    assert model_store.leftovers() == [] or client.poll() is None
    assert client.communicate()[1] is not None  # it has tried again by itself
    assert client.returncode == 0
    assert push(large, model_store.url, "digits", "1.0.0").was_there


def test_killed_pull_leaves_no_file_and_continues(model_store: ModelStore, tmp_path: Path) -> None:
    large, output = tmp_path / "large.zip", tmp_path / "out" / "large.zip"
    large.write_bytes(os.urandom(2**20) * 300)
    push(large, model_store.url, "digits", "1.0.0")
    client = start(PULL, output, model_store.url, "1.0.0")
    go(client)
    wait_for(lambda: any(path.stat().st_size > 2**20 for path in output.parent.glob(".*.partial")))
    client.kill()
    client.communicate()
    assert not output.exists()
    pull(model_store.url, "digits", lambda stored: output)
    assert file_sha256(output) == file_sha256(large)
    assert list(output.parent.iterdir()) == [output]
    assert '"GET /models/digits/1.0.0 HTTP/1.1" 206' in model_store.log.read_text()


def test_pulls_of_one_version_wait_for_each_other(model_store: ModelStore, package: Path, tmp_path: Path) -> None:
    push(package, model_store.url, "digits", "1.0.0")
    output = tmp_path / "out" / "out.zip"
    for _ in range(5):
        with ThreadPoolExecutor(4) as pool:
            pulls = [pool.submit(pull, model_store.url, "digits", lambda stored: output) for _ in range(4)]
        assert {each.result().path for each in pulls} == {output}
        assert output.read_bytes() == package.read_bytes()
    assert list(output.parent.iterdir()) == [output]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_broken_download_continues_where_it_stopped(model_store: ModelStore, package: Path, tmp_path: Path) -> None:
    push(package, model_store.url, "digits", "1.0.0")
    output = tmp_path / "out.zip"
    partial = tmp_path / f".out.zip.{file_sha256(package):.16}.partial"
    partial.write_bytes(package.read_bytes()[:2_000_000])
    assert pull(model_store.url, "digits", lambda stored: output).path.read_bytes() == package.read_bytes()
    assert '"GET /models/digits/1.0.0 HTTP/1.1" 206' in model_store.log.read_text()
    partial.write_bytes(package.read_bytes())  # killed before the rename
    pull(model_store.url, "digits", lambda stored: output)
    partial.write_bytes(b"something else")
    with raises(ExternalError, "store.digest"):
        pull(model_store.url, "digits", lambda stored: output)
    assert not partial.exists()
    assert output.read_bytes() == package.read_bytes()


def test_store_with_a_token_refuses_others(
    tmp_path: Path, package: Path, other_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(tmp_path / "store", token="s3cret")
    store.start()
    try:
        for token in ("", "wrong"):
            monkeypatch.setenv("TRITONKIT_STORE_TOKEN", token)
            with raises(TokenError, "store.token") as caught:
                push(package, store.url, "digits", "1.0.0")
            assert "s3cret" not in str(caught.value)
        fields = {"model_name": "digits", "model_version": "1.0.0", "src_file": ("x", package.read_bytes())}
        assert send_form(store.url, fields, Authorization="Bearer wrong")[0] == 401
        assert not list(store.folder.glob("digits/*"))
        monkeypatch.setenv("TRITONKIT_STORE_TOKEN", "s3cret")
        push(package, store.url, "digits", "1.0.0")
    finally:
        store.kill()


@pytest.mark.parametrize("token", ["s3cret\r", "s3cr\u00e9t\u20ac", "s3cret token"])
@pytest.mark.parametrize(
    ("address", "variable"),
    [("http://127.0.0.1:9", "TRITONKIT_STORE_TOKEN"), ("mlflow://x", "MLFLOW_TRACKING_TOKEN")],
)
def test_token_that_no_header_can_hold_is_refused_and_not_shown(
    address: str, variable: str, token: str, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv(variable, token)
    with raises(TokenError, "store.token", variable) as caught:
        push(package, address, "digits", "1.0.0")
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"model_name": "../up", "model_version": "1.0.0"}, 400),
        ({"model_name": ".uploads", "model_version": "1.0.0"}, 400),
        ({"model_name": "digits", "model_version": "../../1.0.0"}, 400),
        ({"model_name": "digits", "model_version": "1.0"}, 400),
        ({"model_name": "digits"}, 400),
        ({"model_name": "digits", "model_version": "1.0.0", "sha256": "0" * 64}, 400),
        ({"model_name": "d" * 10_000, "model_version": "1.0.0"}, 400),
    ],
)
def test_server_refuses_bad_fields(model_store: ModelStore, fields: dict[str, str], status: int) -> None:
    assert send_form(model_store.url, {**fields, "src_file": ("x", b"content")})[0] == status
    assert {path.name for path in model_store.folder.parent.iterdir()} == {"store", "store.log"}
    assert [path for path in model_store.folder.rglob("*") if path.is_file()] == []


def test_server_refuses_a_form_with_two_files(model_store: ModelStore) -> None:
    files = [("src_file", ("x", b"one")), ("src_file", ("x", b"two"))]
    fields: Any = [("model_name", "digits"), ("model_version", "1.0.0"), *files]
    assert send_form(model_store.url, fields)[0] == 400
    assert [path for path in model_store.folder.rglob("*") if path.is_file()] == []


def test_server_answers_numbers_that_are_too_long(model_store: ModelStore, package: Path) -> None:
    push(package, model_store.url, "digits", "1.0.0")
    digits = "9" * 5000
    for part in (f"{digits}-", f"0-{digits}"):
        headers = {"Range": f"bytes={part}"}
        answer = urllib3.request("GET", f"{model_store.url}/models/digits/1.0.0", headers=headers, retries=False)
        assert answer.status == 416
    fields = {"model_name": "digits", "model_version": "1.1.0", "src_file": ("x", b"content")}
    assert send_form(model_store.url, fields, **{"Content-Length": digits})[0] == 400


@pytest.mark.parametrize("path", ["models/../digits", "models/digits/..%2f..", "models/digits/1.0.0/x", "etc", ""])
def test_server_refuses_other_paths(model_store: ModelStore, path: str) -> None:
    assert urllib3.request("GET", f"{model_store.url}/{path}", retries=False).status == 404


def test_server_refuses_what_is_too_large(tmp_path: Path, package: Path) -> None:
    store = ModelStore(tmp_path / "store", max_bytes=1_000_000)
    store.start()
    try:
        with raises(InputError, "store.refused", "413", "1000000"):
            push(package, store.url, "digits", "1.0.0")
    finally:
        store.kill()


def test_second_server_of_a_folder_is_refused(model_store: ModelStore) -> None:
    second = subprocess.run(
        [sys.executable, "examples/model_store.py", str(model_store.folder), "--port", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert "another server" in second.stderr


class Misbehaving(Quiet, BaseHTTPRequestHandler):
    """A server whose answers the test chooses."""

    server: Any

    def do_GET(self) -> None:
        self._send(*self.server.listed)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests += 1
        self._send(*self.server.answer(self))

    def _send(self, status: int, document: Any) -> None:
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def push_to(answer: Answer, package: Path, listed: tuple[int, Any] = (404, {})) -> int:
    """Push to a server that gives this answer; return the number of its uploads. listed: its list of versions."""
    server: Any = ThreadingHTTPServer(ANY_PORT, Misbehaving)
    server.answer, server.requests, server.listed = answer, 0, listed
    with listening(server):
        push(package, f"http://127.0.0.1:{server.server_port}/base", "digits", "1.2.0")
    return int(server.requests)


@pytest.mark.parametrize(
    "document",
    [
        {"model_name": "digits", "model_version": "1.3.0"},
        {"model_name": "other", "model_version": "1.2.0"},
        {"model_name": "digits", "model_version": "1.2.0", "sha256": "0" * 64},
        {},
        ["digits", "1.2.0"],
    ],
)
def test_answer_that_confirms_something_else_is_an_error(document: Any, package: Path) -> None:
    with raises(ExternalError, "store.unconfirmed", "digits 1.2.0"):
        push_to(lambda request: (200, document), package)


def test_store_without_lists_and_digests_is_enough_to_push(package: Path) -> None:
    assert push_to(lambda request: (201, {"model_name": "digits", "model_version": "1.2.0"}), package) == 1


@pytest.mark.parametrize(
    ("entry", "error", "code"),
    [
        ({"version": "1.2.0", "owner": "others"}, None, ""),  # fields of others are ignored
        ({"version": "1.2.0", "sha256": "../../up"}, ArtifactError, "store.record"),
        ({"sha256": "0" * 64}, ExternalError, "store.answer"),
        ("1.2.0", ExternalError, "store.answer"),
        ({"version": "1.2.0", "sha256": "AB" * 32}, InputError, "store.version_exists"),
    ],
)
def test_lists_of_versions_are_checked(entry: Any, error: Any, code: str, package: Path) -> None:
    confirmed = (200, {"model_name": "digits", "model_version": "1.2.0"})
    with raises(error, code) if error else nullcontext():
        assert push_to(lambda request: confirmed, package, (200, {"versions": [entry]})) == 1


def test_page_that_is_no_store_is_named(package: Path) -> None:
    with raises(ExternalError, "store.answer"):
        push_to(lambda request: (200, b"<html>"), package)  # type: ignore[arg-type, return-value]


def test_push_is_repeated_while_the_server_fails(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_PAUSE_S", 0.01)
    answers = iter([(503, {}), (429, {}), (200, {"model_name": "digits", "model_version": "1.2.0"})])
    assert push_to(lambda request: next(answers), package) == 3
    with raises(ExternalError, "store.unreachable", "503"):
        push_to(lambda request: (503, {}), package)


@pytest.mark.parametrize(
    "address",
    ["http://", "http://user:secret@host/x", "host/x", "http://host/?token=secret", "http://host:x", "http://h/#x"],
)
def test_addresses_that_are_no_stores_are_refused(address: str, package: Path) -> None:
    with raises(InputError, "store.address") as caught:
        push(package, address, "digits", "1.0.0")
    assert "secret" not in str(caught.value)


def test_store_that_does_not_answer_is_named(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_PAUSE_S", 0.01)
    with raises(ExternalError, "store.unreachable", "http://127.0.0.1:9"):
        push(package, "http://127.0.0.1:9", "digits", "1.0.0")
