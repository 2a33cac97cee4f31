"""Packages in object storage (a real S3 server) and in a folder."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import s3fs

from builder.stores.base import PackageFile, StoredVersion
from builder.stores.files import FileStore
from builder.stores.transfer import open_store, pull, push
from tests.errors import raises
from tritonkit.errors import ArtifactError, ExternalError, InputError
from tritonkit.remotes.transfer import CHUNK
from tritonkit.system.files import file_sha256


@pytest.fixture(params=["s3", "file"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store."""
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/models"
    return f"file://{tmp_path}/store"


def files_of(address: str) -> list[str]:
    store = open_store(address)
    assert isinstance(store, FileStore)
    return sorted(path.split("digits/")[1] for path in store._files.find(store._root))


def test_package_comes_back_as_it_was_pushed(address: str, package: Path, tmp_path: Path) -> None:
    for version in ("1.2.0", "1.10.0", "2.0.0-rc.1"):
        assert not push(package, address, "digits", version).was_there
    assert push(package, f"{address}/", "digits", "1.2.0").was_there
    pulled = pull(address, "digits", lambda stored: tmp_path / "out" / f"{stored.version}.zip")
    assert pulled.path.name == "1.10.0.zip"
    assert pulled.path.read_bytes() == package.read_bytes()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["1.10.0.zip"]
    assert files_of(address)[:2] == [f"1.10.0/{file_sha256(package)}.zip", "1.10.0/version.json"]


def test_other_content_for_a_version_is_refused(address: str, package: Path, other_package: Path) -> None:
    push(package, address, "digits", "1.2.0")
    with raises(InputError, "store.version_exists"):
        push(other_package, address, "digits", "1.2.0")


def test_exactly_one_of_two_simultaneous_uploads_wins(address: str, package: Path, other_package: Path) -> None:
    for number in range(20):
        stores = [open_store(address) for _ in range(2)]
        barrier, version = threading.Barrier(2), f"1.0.{number}"
        packages = [PackageFile.of(path, "digits", version) for path in (package, other_package)]

        def upload(each: int) -> StoredVersion:
            barrier.wait()  # noqa: B023 - the threads end within the loop
            return stores[each].upload(packages[each], lambda size: None)  # noqa: B023

        with ThreadPoolExecutor(2) as pool:
            ends = [pool.submit(upload, each) for each in range(2)]
        winners = [end.result().sha256 for end in ends if end.exception() is None]
        assert [error.code for end in ends if isinstance(error := end.exception(), InputError)] == [
            "store.version_exists"
        ]
        assert len(winners) == 1
        stored = stores[0].find("digits", version)
        assert stored is not None
        assert stored.sha256 == winners[0]
        folder = [name for name in files_of(address) if name.startswith(f"{version}/")]
        assert folder == [f"{version}/{winners[0]}.zip", f"{version}/version.json"]


def test_version_is_invisible_until_its_record_is_written(address: str, package: Path, tmp_path: Path) -> None:
    push(package, address, "digits", "1.0.0")
    push(package, address, "digits", "1.1.0")
    store = open_store(address)
    assert isinstance(store, FileStore)
    store._files.rm_file(f"{store._root}/digits/1.1.0/version.json")  # as if killed before it
    assert pull(address, "digits", lambda stored: tmp_path / "out.zip").package.version == "1.0.0"
    with raises(InputError, "store.no_version", "1.0.0"):
        pull(address, "digits@1.1.0", lambda stored: tmp_path / "out.zip")
    push(package, address, "digits", "1.1.0")
    assert pull(address, "digits", lambda stored: tmp_path / "out.zip").package.version == "1.1.0"


def test_damaged_package_never_gets_its_name(address: str, package: Path, tmp_path: Path) -> None:
    push(package, address, "digits", "1.0.0")
    store = open_store(address)
    assert isinstance(store, FileStore)
    path = f"{store._root}/digits/1.0.0/{file_sha256(package)}.zip"
    store._files.pipe_file(path, b"x" * package.stat().st_size)
    with raises(ExternalError, "store.digest"):
        pull(address, "digits", lambda stored: tmp_path / "out" / "digits.zip")
    assert list((tmp_path / "out").iterdir()) == []
    for record in (b"no JSON", b"[]", b'{"sha256": "../../../up"}', b'{"size": -1}'):
        store._files.pipe_file(f"{store._root}/digits/1.0.0/version.json", record)
        with raises(ArtifactError, "store.record", "version.json"):
            pull(address, "digits", lambda stored: tmp_path / "out" / "digits.zip")


def test_broken_download_continues_where_it_stopped(bucket: str, tmp_path: Path) -> None:
    large = tmp_path / "large.zip"
    large.write_bytes(bytes(2 * CHUNK + 5))
    push(large, bucket, "digits", "1.0.0")
    partial = tmp_path / f".out.zip.{file_sha256(large):.16}.partial"
    partial.write_bytes(b"\1" * CHUNK)  # not fetched again, so the digest shows it
    with raises(ExternalError, "store.digest"):
        pull(bucket, "digits", lambda stored: tmp_path / "out.zip")
    partial.write_bytes(bytes(CHUNK))
    assert pull(bucket, "digits", lambda stored: tmp_path / "out.zip").path.read_bytes() == large.read_bytes()


def test_store_that_refuses_or_is_away_is_named(bucket: str, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with raises(InputError, "store.no_version", "has no package"):
        pull("s3://nowhere-12345/models", "digits", lambda stored: package)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wr0ng")
    s3fs.S3FileSystem.clear_instance_cache()
    with raises(InputError, "remote.forbidden") as caught:
        push(package, f"{bucket}/models", "digits", "1.0.0")
    assert "wr0ng" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with raises(ExternalError, "remote.unreachable", "http://127.0.0.1:9"):
        push(package, f"{bucket}/models", "digits", "1.0.0")


@pytest.mark.parametrize("address", ["s3://", "nosuch://x/y", "models", "file://"])
def test_addresses_that_are_no_stores_are_refused(address: str, package: Path) -> None:
    with raises(InputError, "store.address"):
        push(package, address, "digits", "1.0.0")


@pytest.mark.parametrize("name", ["../digits", "a/b", "", ".hidden", "d" * 200, "digits\n"])
def test_names_that_are_none_are_refused(name: str, package: Path, tmp_path: Path) -> None:
    with raises(InputError, "store.name"):
        push(package, f"file://{tmp_path}/store", name, "1.0.0")
    assert not (tmp_path / "store").exists()
