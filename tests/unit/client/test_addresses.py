"""Remote pictures: over HTTP from a real server, and in stores through fsspec."""

from __future__ import annotations

import io
import json
import os
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pytest

from client.picture import Picture
from client.sources import find_pictures, prefetch_content
from client.sources.content import Fetch
from client.sources.web import FetchPolicy
from tests.errors import raises
from tests.fixture_types import Command
from tests.object_store import ObjectStore
from tests.pictures import content_or_error, png
from tests.programs import run_python
from tests.web import ANY_PORT, Quiet, listening
from tritonkit.errors import InputError
from tritonkit.images.preprocess import MAX_BYTES
from tritonkit.remotes.addresses import public_name, public_text, public_values, without_secrets

NO_SUCH_FILE = "no file has this name"
SHORT = FetchPolicy(attempts=3, pause_s=0.02, read_s=0.3)


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("in/a.png", png(5))
        packed.writestr("b.png", png(6))
    return file.getvalue()


class PictureSite(Quiet, BaseHTTPRequestHandler):
    """Answers each path as its name says, and counts its requests."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        with self.server.lock:
            self.server.requests[path] += 1
        getattr(self, path.split("/")[1].partition(".")[0], self.missing)()

    def answer(self, status: int = 200, data: bytes = b"", size: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if size is None else size))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def ok(self) -> None:
        self.answer(data=png(1))

    def missing(self) -> None:
        self.answer(404)

    def packed(self) -> None:
        self.answer(data=archive())

    def busy(self) -> None:
        waits = self.server.requests[self.path] < 3
        self.answer(503, Retry_After="0") if waits else self.ok()

    def later(self) -> None:
        self.answer(429, Retry_After="3600")

    def broken(self) -> None:
        self.answer(500)

    def moved(self) -> None:
        self.answer(302, Location="/ok.png")

    def circle(self) -> None:
        self.answer(302, Location="/circle.png")

    def cut(self) -> None:
        self.answer(data=png(1)[:40], size=400)
        self.close_connection = True

    def slow(self) -> None:
        self.server.released.wait(5)
        self.close_connection = True

    def drip(self) -> None:
        self.answer(size=10**6)
        while not self.server.released.wait(0.05):
            self.wfile.write(b"x")
        self.close_connection = True

    def large(self) -> None:
        self.answer(size=MAX_BYTES + 1)
        self.close_connection = True

    def private(self) -> None:
        # user:pass word
        is_authorized = self.headers.get("Authorization") == "Basic dXNlcjpwYXNzIHdvcmQ="
        self.ok() if is_authorized else self.answer(401)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    site: Any = ThreadingHTTPServer(ANY_PORT, PictureSite)
    site.handle_error = lambda *_: None
    site.requests, site.lock, site.released = Counter(), threading.Lock(), threading.Event()
    with listening(site):
        yield site
        site.released.set()


@pytest.fixture
def site(server: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server.requests.clear()
    return f"http://127.0.0.1:{server.server_port}"


def contents(*paths: str, **find_options: Any) -> dict[str, bytes | str]:
    stream = find_pictures(paths, **{"policy": SHORT, **find_options})
    return {picture.name: content_or_error(picture) for picture in prefetch_content(stream.pictures)}


def test_address_gives_its_picture_after_redirects_and_busy_answers(site: str, server: Any) -> None:
    addresses = [f"{site}/{name}.png" for name in ("ok", "moved", "busy")]
    assert contents(*addresses) == dict.fromkeys(addresses, png(1))
    assert server.requests["/busy.png"] == 3
    assert find_pictures(addresses).total == 3


@pytest.mark.parametrize(
    ("name", "message", "times"),
    [
        ("none.png", "404 Not Found", 1),
        ("broken.png", "500 Internal Server Error; tried 3 times", 3),
        ("circle.png", "5 redirects", 6),
        ("cut.png", "the connection broke; tried 3 times", 3),
        ("slow.png", "0.3 s; tried 3 times", 3),
        ("large.png", "268,435,457 bytes", 1),
        ("private.png", "401 Unauthorized", 1),
        ("none.zip", "404 Not Found", 1),
        ("ok.zip", "zip archive", 1),
    ],
)
def test_bad_address_is_one_row_and_not_the_end(site: str, server: Any, name: str, message: str, times: int) -> None:
    contents_by_name = contents(f"{site}/{name}", f"{site}/ok.png")
    assert message in str(contents_by_name[f"{site}/{name}"])
    assert contents_by_name[f"{site}/ok.png"] == png(1)
    assert server.requests[f"/{name}"] == times


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:9/a.png", "(Connection refused); tried 3 times"),
        ("http://host.invalid/a.png", "host name is unknown; tried 3 times"),
        ("http://[/a.png", "https://HOST/PATH"),
        ("http:///a.png", "https://HOST/PATH"),
        ("http://h:port/a.png", "https://HOST/PATH"),
        ("nosuch://h/a.png", "rotocol not known: nosuch"),
        ("memory://none/a.png", NO_SUCH_FILE),
    ],
)
def test_address_that_leads_nowhere_is_a_row_in_a_list(site: str, address: str, message: str) -> None:
    assert message in str(contents("-", stdin=io.BytesIO(address.encode()))[address])


def test_connection_that_is_not_safe_is_not_used(site: str) -> None:
    (message,) = contents(site.replace("http:", "https:") + "/ok.png").values()
    assert "SSL" in str(message)


def test_proxy_of_the_environment_is_used(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site)
    monkeypatch.setenv("no_proxy", "elsewhere.invalid")
    assert contents("http://host.invalid/ok.png") == {"http://host.invalid/ok.png": png(1)}


def test_archive_at_an_address_gives_its_pictures(site: str, server: Any) -> None:
    pictures = list(find_pictures([f"{site}/packed.zip?v=1"]).pictures)
    assert [picture.name for picture in pictures] == [f"{site}/packed.zip?v=1/in/a.png", f"{site}/packed.zip?v=1/b.png"]
    assert [content_or_error(picture) for picture in pictures] == [png(5), png(6)]
    assert server.requests["/packed.zip"] == 1


def test_nothing_is_fetched_before_its_turn(site: str, server: Any) -> None:
    pictures_ahead = iter(find_pictures([f"{site}/ok.png", f"{site}/packed.zip", f"{site}/none.png"]).pictures)
    assert [picture.name for picture in islice(pictures_ahead, 1)] == [f"{site}/ok.png"]
    assert not server.requests


def test_fetching_ahead_goes_no_further_than_what_was_taken(site: str, server: Any) -> None:
    pictures_ahead = prefetch_content(find_pictures([f"{site}/ok.png?{number}" for number in range(90)]).pictures)
    first = list(islice(pictures_ahead, 3))
    assert [content_or_error(picture) for picture in first * 2] == [png(1)] * 6
    pictures_ahead.close()  # type: ignore[attr-defined]
    assert server.requests["/ok.png"] == 3


def test_addresses_are_fetched_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=20)

    def read() -> bytes:
        both.wait()
        return png()

    pictures = [Picture(name, PurePath(name), Fetch(read)) for name in "ab"]
    assert [content_or_error(picture) for picture in list(prefetch_content(pictures))] == [png()] * 2


def test_nobody_waits_for_a_host_that_does_not_answer_when_the_job_ends(site: str) -> None:
    pictures_ahead = prefetch_content(find_pictures([f"{site}/slow.png?{number}" for number in range(40)]).pictures)
    pictures = list(islice(pictures_ahead, 30))
    pictures_ahead.close()  # type: ignore[attr-defined]
    assert {content_or_error(picture) for picture in pictures} == {"was not downloaded, because the job ended"}


def test_password_is_used_and_not_shown(site: str, server: Any) -> None:
    address = site.replace("//", "//user:pass%20word@")
    contents_by_name = contents(f"{address}/private.png", f"{address}/none.png", f"{address}/x.zip")
    assert contents_by_name[f"{site}/private.png"] == png(1)
    assert "pass" not in repr(contents_by_name)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://u:p@h/a.png#part", "https://h/a.png"),
        ("https://h/a.png?id=17&id=18", "https://h/a.png?id=17&id=18"),
        ("https://h/a.png?X-Amz-Signature=5f&X-Amz-Date=1&versionId=3", "https://h/a.png?versionId=3"),
        ("https://h/a.png?sv=2024&sp=r&sig=x%3D", "https://h/a.png"),
        ("https://h/a.png?sp=r", "https://h/a.png?sp=r"),
        ("https://h/a.png?Expires=1&Signature=a~b&Key-Pair-Id=K", "https://h/a.png"),
        ("https://h/a.png?token=abc", "https://h/a.png?token=~ba7816bf"),
        ("s3://b/a@2x#1?.png", "s3://b/a@2x#1?.png"),
        ("sftp://u:p@h/a.png", "sftp://h/a.png"),
    ],
)
def test_name_of_an_address_shows_no_credentials_and_stays_its_own(address: str, name: str) -> None:
    assert public_name(address) == name


def test_document_shows_no_credentials_of_its_addresses() -> None:
    document = {"data": {"path": "https://h/a.zip?sig=x&se=1", "labels": ["a", "b"]}, "epochs": 3}
    assert public_values(document) == {"data": {"path": "https://h/a.zip", "labels": ["a", "b"]}, "epochs": 3}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "no answer from http://ada:pw@1@mlflow:5000/api, try again",
            "no answer from http://mlflow:5000/api, try again",
        ),
        ("403, url='https://h/a?sv=1&sig=a/b:c%3D'", "403, url='https://h/a'"),
        ('url="https://h/it\'s?sig=a"', 'url="https://h/it\'s"'),
        ("path: 'https://h/a?sig=x'\nepochs: 3", "path: 'https://h/a'\nepochs: 3"),
        ("mail ada@example.com // that", "mail ada@example.com // that"),
    ],
)
def test_text_shows_no_credentials_of_its_addresses(text: str, shown: str) -> None:
    assert public_text(text) == shown


def test_errors_of_libraries_show_no_credentials() -> None:
    address = "sftp://u:p4ss@h/a.png"
    assert without_secrets(f"{address}: login of u with p4ss failed", address) == (
        "sftp://h/a.png: login of u with *** failed"
    )
    # aiohttp names the address that it requested, in which some characters are no longer encoded.
    signed = "https://h/a.zip?se=2026-11-29T07%3A00Z&sp=r&sig=a%2Fb%3D"
    message = "403, message='Forbidden', url='https://h/a.zip?se=2026-11-29T07:00Z&sp=r&sig=a/b%3D'"
    assert without_secrets(message, signed) == "403, message='Forbidden', url='https://h/a.zip'"
    assert without_secrets("login with p@ss failed", "sftp://u:p%40ss@h/a.png") == "login with *** failed"


def test_picture_that_drips_is_not_waited_for_for_ever(site: str) -> None:
    address = f"{site}/drip.png"
    assert contents(address, policy=FetchPolicy(picture_s=0.3)) == {address: "the download took longer than 0.3 s"}


def test_retry_after_beyond_the_timeout_is_not_waited_for(site: str, server: Any) -> None:
    address = f"{site}/later.png"
    (message,) = contents(address, policy=FetchPolicy(picture_s=10)).values()
    assert str(message).endswith("429 Too Many Requests; tried once")


def test_csv_elsewhere_is_refused(site: str) -> None:
    with raises(InputError, "csv.remote", "https://h/t.csv?x=1: "):
        find_pictures(["https://u:p@h/t.csv?x=1"])


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's own store, in this process."""
    files = fsspec.filesystem("memory")
    root = f"/{os.getpid()}-{time.monotonic_ns()}"
    for number, name in enumerate(["b/c.png", "a.png", "b.png", "b/.hidden.png", "notes.txt"]):
        files.pipe_file(f"{root}/{name}", png(number))
    files.pipe_file(f"{root}/z/packed.zip", archive())
    yield f"memory:/{root}"
    files.rm(root, recursive=True)


def test_folder_and_glob_of_a_store_give_its_pictures_in_order(memory: str) -> None:
    below = {f"{memory}/a.png": png(1), f"{memory}/b/c.png": png(0), f"{memory}/b.png": png(2)}
    assert list(contents(memory)) == list(contents(f"{memory}/")) == sorted(below, key=lambda name: name.split("/"))
    assert contents(memory) == below
    stream = find_pictures([f"{memory}/*.png"])
    names = [picture.name for picture in stream.pictures]
    assert (names, stream.total) == ([f"{memory}/a.png", f"{memory}/b.png"], 2)
    assert list(contents(f"{memory}/**/*.zip").values()) == [png(5), png(6)]


def test_file_whose_name_looks_like_a_glob_is_itself_when_it_is_there(memory: str) -> None:
    files, root = fsspec.filesystem("memory"), memory.partition(":/")[2]
    for number, name in enumerate(["img[1].png", "img1.png", "set[2]/a.png"]):
        files.pipe_file(f"{root}/{name}", png(number))
    assert contents(f"{memory}/img[1].png") == {f"{memory}/img[1].png": png(0)}
    assert contents(f"{memory}/set[2]") == {f"{memory}/set[2]/a.png": png(2)}
    files.rm_file(f"{root}/img[1].png")
    assert contents(f"{memory}/img[1].png") == {f"{memory}/img1.png": png(1)}


def test_store_without_pictures_is_refused_with_all_others(memory: str) -> None:
    with pytest.raises(InputError) as refused:
        find_pictures([f"{memory}/none/", f"{memory}/*.jpg", "nosuch://x/*", "none.png"])
    lines = str(refused.value).splitlines()
    assert [line.split("//")[0].strip() for line in lines[1:3]] == ["memory:"] * 2
    assert "nosuch" in lines[3]
    assert "none.png" in lines[4]
    assert [problem.code for problem in refused.value.problems] == [
        *("source.unreadable", "source.no_match", "store.address", "source.missing")
    ]


@pytest.fixture(scope="module")
def pictures(object_store: ObjectStore) -> Iterator[str]:
    """A bucket of a real S3 server on this machine, with the environment that leads there."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in object_store.environment.items():
            environment.setenv(name, value)
        files = fsspec.filesystem("s3", skip_instance_cache=True)
        files.mkdir("pictures")
        for number, name in enumerate(["in/b.png", "in/a.png", "in/deep/c.png", "in/", "in/notes.txt"]):
            files.pipe_file(f"pictures/{name}", png(number) if name[-1] != "/" else b"")
        files.pipe_file("pictures/packed.zip", archive())
        files.pipe_file("pictures/like[a]glob.png", png(9))
        yield "s3://pictures"


def test_bucket_gives_its_pictures_when_credentials_are_in_the_environment(pictures: str) -> None:
    below = [f"{pictures}/in/{name}" for name in ("a.png", "b.png", "deep/c.png")]
    assert contents(f"{pictures}/in/") == dict(zip(below, (png(1), png(0), png(2)), strict=True))
    assert list(contents(f"{pictures}/in")) == below
    assert list(contents(f"{pictures}/in/*.png")) == below[:2]
    assert contents(f"{pictures}/like[a]glob.png") == {f"{pictures}/like[a]glob.png": png(9)}
    assert contents(below[0], f"{pictures}/none.png", "s3://nobucket/a.png") == {
        below[0]: png(1),
        f"{pictures}/none.png": NO_SUCH_FILE,
        "s3://nobucket/a.png": NO_SUCH_FILE,
    }
    assert list(contents(f"{pictures}/packed.zip").values()) == [png(5), png(6)]
    with raises(InputError, "source.unreadable", "s3://nobucket/: "):
        find_pictures(["s3://nobucket/"])


def test_command_answers_addresses_and_tells_bad_ones(
    command: Command, checkpoint: Path, site: str, memory: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text(f"name,url\none,{site}/ok.png\ntwo,{site}/none.png\nthree,{memory}/a.png\n")
    result = command("client", "infer", tmp_path / "t.csv", memory, "--from", checkpoint, "--json")
    assert result.exit_code == 1, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert [row["path"] for row in rows] == [
        f"{site}/ok.png",
        f"{site}/none.png",
        *(f"{memory}/{name}" for name in ("a.png", "b/c.png", "b.png")),
    ]
    assert [row["path"] for row in rows if "error" in row] == [f"{site}/none.png"]


@pytest.mark.parametrize("library", ["fsspec", "s3fs"])
def test_missing_library_is_one_error_with_the_command_that_installs_it(library: str) -> None:
    imports = f"import sys; sys.modules[{library!r}] = None; from client.sources import find_pictures"
    code = f"{imports}; find_pictures(['s3://b/a.png'])"
    completed = run_python("-c", code)
    assert "InputError" in completed.stderr.splitlines()[-2]
    assert "pip install 'tritonkit[remote]'" in completed.stderr.splitlines()[-1]
