"""Packages as images in a real registry, and what a container engine sees of them."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest

from builder.packages import install_package, write_package
from builder.stores import base
from builder.stores.transfer import find_version, open_store, pull, push
from tests.errors import raises
from tests.oci_registry import OciRegistry
from tests.web import ANY_PORT, Quiet, listening
from tritonkit.errors import ArtifactError, ExternalError, InputError, TokenError
from tritonkit.system.files import file_sha256


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OciRegistry]:
    """A running registry that knows everybody."""
    server = OciRegistry(tmp_path_factory.mktemp("registry"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory, exported_once: Path) -> Path:
    """A package of the residual network."""
    return write_package(exported_once / "pets", 1, tmp_path_factory.mktemp("packages"))


@pytest.fixture
def address(registry: OciRegistry, tmp_path: Path) -> str:
    """The address of an empty store."""
    return f"oci://{registry.host}/tests/{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"


def read_json(address: str, name: str, path: str) -> Any:
    host, _, repository = address.removeprefix("oci://").partition("/")
    headers = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    request = urllib.request.Request(f"http://{host}/v2/{repository}/{name}/{path}", headers=headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def test_package_comes_back_byte_for_byte_and_installs(address: str, pets: Path, tmp_path: Path) -> None:
    for version in ("1.2.0", "1.10.0"):
        assert not push(pets, address, "pets", version).was_there
    assert push(pets, address, "pets", "1.2.0").was_there
    pulled = pull(address, "pets@^1", lambda stored: tmp_path / "out" / f"{stored.version}.zip")
    assert pulled.path.name == "1.10.0.zip"
    assert pulled.path.read_bytes() == pets.read_bytes()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["1.10.0.zip"]
    assert install_package(pulled.path, tmp_path / "repository").version == 1


def test_image_is_one_that_a_container_engine_mounts(address: str, pets: Path, tmp_path: Path) -> None:
    push(pets, address, "pets", "1.2.0")
    manifest = read_json(address, "pets", "manifests/1.2.0")
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    (layer,) = manifest["layers"]
    assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar"
    config = read_json(address, "pets", f"blobs/{manifest['config']['digest']}")
    host, _, repository = address.removeprefix("oci://").partition("/")
    blob, _ = urllib.request.urlretrieve(f"http://{host}/v2/{repository}/pets/blobs/{layer['digest']}", tmp_path / "l")
    # The layer is not compressed, so that its own digest is the one of its content.
    assert config["rootfs"] == {"type": "layers", "diff_ids": [f"sha256:{file_sha256(Path(blob))}"]}
    assert (config["os"], config["architecture"]) == ("linux", "amd64")
    with tarfile.open(blob) as tar:
        tar.extractall(tmp_path / "mounted", filter="data")
    mounted = tmp_path / "mounted" / "models" / "pets"
    assert {"config.pbtxt", "package.json", "1"} <= {path.name for path in mounted.iterdir()}
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in mounted.rglob("*"))


def test_other_content_for_a_version_is_refused(address: str, pets: Path, package: Path) -> None:
    push(pets, address, "pets", "1.2.0")
    with raises(InputError, "store.version_exists"):  # compared before the store looks into it
        push(package, address, "pets", "1.2.0")


def test_file_that_no_image_can_restore_is_refused(address: str, pets: Path, package: Path, tmp_path: Path) -> None:
    commented = tmp_path / "commented.zip"
    content = pets.read_bytes()
    commented.write_bytes(content[:-2] + b"\x02\x00hi")  # a comment at the end: another file with the same entries
    with raises(ArtifactError, "store.package"):
        push(commented, address, "pets", "1.0.0")
    with raises(ArtifactError, "package.not_a_zip"):
        push(package, address, "pets", "1.0.0")
    with raises(InputError, "store.no_version", "has no package"):
        pull(address, "pets", lambda stored: tmp_path / "out.zip")


def test_broken_download_continues_where_it_stopped(address: str, pets: Path, tmp_path: Path) -> None:
    push(pets, address, "pets", "1.0.0")
    layer = tmp_path / f".out.zip.{file_sha256(pets):.16}.layer"
    layer.write_bytes(b"\1" * 1000)  # not fetched again, so the digest shows it
    with raises(ExternalError, "store.digest"):
        pull(address, "pets", lambda stored: tmp_path / "out.zip")
    assert list(tmp_path.iterdir()) == []
    assert pull(address, "pets", lambda stored: tmp_path / "out.zip").path.read_bytes() == pets.read_bytes()


def test_image_of_others_is_no_package(address: str, pets: Path, registry: OciRegistry, tmp_path: Path) -> None:
    push(pets, address, "pets", "1.0.0")
    manifest = read_json(address, "pets", "manifests/1.0.0")
    repository = address.removeprefix(f"oci://{registry.host}/")
    for tag in ("2.0.0", "latest"):
        request = urllib.request.Request(
            f"http://{registry.host}/v2/{repository}/pets/manifests/{tag}",
            json.dumps({**manifest, "annotations": {}}).encode(),
            {"Content-Type": manifest["mediaType"]},
            method="PUT",
        )
        urllib.request.urlopen(request).close()
    with raises(ArtifactError, "store.record", "pets:2.0.0"):
        pull(address, "pets", lambda stored: tmp_path / "out.zip")
    assert pull(address, "pets@1.0.0", lambda stored: tmp_path / "out.zip").package.version == "1.0.0"


def test_image_that_vanishes_before_the_download_is_named(
    address: str, pets: Path, registry: OciRegistry, tmp_path: Path
) -> None:
    push(pets, address, "pets", "1.0.0")
    store = open_store(address)
    stored = find_version(store, "pets")
    data = registry.folder / "data" / "docker" / "registry" / "v2"
    shutil.rmtree(data / "repositories" / address.removeprefix(f"oci://{registry.host}/") / "pets" / "_layers")
    with raises(ArtifactError, "store.record", "pets:1.0.0"):
        store.download(stored, tmp_path / "out.zip", lambda size: None)
    assert list(tmp_path.iterdir()) == []
    shutil.rmtree(data / "repositories" / address.removeprefix(f"oci://{registry.host}/") / "pets" / "_manifests")
    with raises(InputError, "store.no_version", "pets:1.0.0"):
        store.download(stored, tmp_path / "out.zip", lambda size: None)


class DamagedRegistry(Quiet, BaseHTTPRequestHandler):
    """A registry whose answers the test chooses."""

    server: Any

    def do_GET(self) -> None:
        tags, manifest = self.server.answers
        content = json.dumps(tags if self.path.partition("?")[0].endswith("/tags/list") else manifest).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


_TAGS = {"tags": ["1.0.0", 7, None]}
_NOTES = {"tritonkit.package.sha256": "0" * 64}
_LAYER = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": f"sha256:{'0' * 64}", "size": 5}


@pytest.mark.parametrize(
    ("tags", "manifest", "error", "code"),
    [
        (_TAGS, {"annotations": _NOTES, "layers": None}, ArtifactError, "store.record"),
        (_TAGS, {"annotations": _NOTES, "layers": [None]}, ArtifactError, "store.record"),
        (_TAGS, {"annotations": _NOTES, "layers": [{**_LAYER, "digest": "../up"}]}, ArtifactError, "store.record"),
        (_TAGS, {"annotations": _NOTES, "layers": [{**_LAYER, "size": "many"}]}, ArtifactError, "store.record"),
        (_TAGS, {"annotations": ["x"], "layers": [_LAYER]}, ArtifactError, "store.record"),
        (_TAGS, [1], ArtifactError, "store.record"),
        ({"tags": 5}, {}, ExternalError, "store.answer"),
        (["1.0.0"], {}, ExternalError, "store.answer"),
    ],
)
def test_damaged_answers_are_named(tags: Any, manifest: Any, error: Any, code: str, tmp_path: Path) -> None:
    server: Any = ThreadingHTTPServer(ANY_PORT, DamagedRegistry)
    server.answers = tags, manifest
    with listening(server), raises(error, code):
        pull(f"oci://127.0.0.1:{server.server_port}/x", "pets", lambda stored: tmp_path / "out.zip")
    assert list(tmp_path.iterdir()) == []


class TokenSite(Quiet, BaseHTTPRequestHandler):
    """A token server, as Docker Hub, GitHub and Harbor have one: it gives exactly what is asked for, to one user."""

    server: Any

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        known = f"Basic {base64.b64encode(b'known:s3cret').decode()}"
        if self.headers.get("Authorization") != known:
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        self.server.scopes.append(query.get("scope"))
        now, folder = int(time.time()), self.server.registry.folder
        claims = {"iss": "tests", "sub": "known", "aud": "store", "iat": now, "nbf": now - 5, "exp": now + 60}
        lines = (folder / "token.pem").read_text().splitlines()
        header = {"x5c": ["".join(line for line in lines if "CERTIFICATE" not in line)]}
        key = (folder / "token.key").read_text()
        token = jwt.encode({**claims, "jti": str(now), "access": access}, key, "ES256", header)
        content = json.dumps({"token": token}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture(params=["password", "token"])
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OciRegistry]:
    """A registry that knows one user: by the password itself, or by tokens for each repository and action."""
    registry = OciRegistry(tmp_path / "registry")
    site: Any = ThreadingHTTPServer(ANY_PORT, TokenSite)
    site.registry, site.scopes = registry, []
    with listening(site):
        if request.param == "password":
            registry.require_password()
        else:
            registry.require_tokens(f"http://127.0.0.1:{site.server_port}/token")
        registry.start()
        yield registry
        registry.kill()
        assert bool(site.scopes) == (request.param == "token")


def test_registry_with_users_takes_those_of_docker_login(
    guarded: OciRegistry, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()
    config, address = tmp_path / "docker" / "config.json", f"oci://{guarded.host}/team"
    for password in (None, "wr0ng"):
        if password is not None:
            log_in(config, guarded.host, password)
        with raises(TokenError, "store.token", f"docker login {guarded.host}") as caught:
            push(pets, address, "pets", "1.0.0")
        assert "wr0ng" not in str(caught.value)
    log_in(config, guarded.host, "s3cret")
    assert not push(pets, address, "pets", "1.0.0").was_there
    assert push(pets, address, "pets", "1.0.0").was_there
    assert pull(address, "pets@^1", lambda stored: tmp_path / "out.zip").path.read_bytes() == pets.read_bytes()


def log_in(config: Path, host: str, password: str) -> None:
    """Write what `docker login` writes."""
    auth = base64.b64encode(f"known:{password}".encode()).decode()
    config.write_text(json.dumps({"auths": {host: {"auth": auth}}}))


@pytest.mark.parametrize(
    "address", ["oci://", "oci://h/Upper", "oci://h/x:1.0.0", "oci://user:secret@h/x", "oci://h//x"]
)
def test_addresses_that_are_no_registries_are_refused(address: str, pets: Path) -> None:
    with raises(InputError, "store.address") as caught:
        push(pets, address, "pets", "1.0.0")
    assert "secret" not in str(caught.value)


def test_name_that_is_none_of_an_image_is_refused(address: str, pets: Path) -> None:
    with raises(InputError, "store.name", "lower-case"):
        push(pets, address, "Pets", "1.0.0")


def test_registry_that_does_not_answer_is_named(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_ATTEMPTS", 2)
    with raises(ExternalError, "store.unreachable", "oci://127.0.0.1:9"):
        push(pets, "oci://127.0.0.1:9/models", "pets", "1.0.0")
