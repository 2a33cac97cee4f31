"""Packages in the registry of a real MLflow server, whose files lie in a real S3 server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import s3fs
from mlflow.tracking import MlflowClient

from builder.stores.base import PackageFile, StoredVersion
from builder.stores.transfer import open_store, pull, push
from tests.errors import raises
from tests.mlflow_server import MlflowServer
from tests.object_store import ObjectStore
from tritonkit.errors import ExternalError, InputError
from tritonkit.system.files import file_sha256

ADDRESS = "mlflow://packages"


@pytest.fixture(scope="module")
def server(object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A running MLflow server."""
    environment = {**object_store.environment, "MLFLOW_S3_ENDPOINT_URL": object_store.url}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in object_store.environment.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("mlflow-packages")
    started = MlflowServer(tmp_path_factory.mktemp("mlflow"), "s3://mlflow-packages", environment)
    started.start()
    yield started
    started.kill()


@pytest.fixture(autouse=True)
def environment(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process uses the server."""
    for name, value in {**server.environment, "MLFLOW_TRACKING_URI": server.url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


def test_package_comes_back_as_it_was_pushed(package: Path, tmp_path: Path, server: MlflowServer) -> None:
    for version in ("1.2.0", "1.10.0", "2.0.0-rc.1"):
        assert not push(package, ADDRESS, "digits", version).was_there
    assert push(package, ADDRESS, "digits", "1.2.0").was_there
    pulled = pull(ADDRESS, "digits@^1.2", lambda stored: tmp_path / "out" / f"{stored.version}.zip")
    assert pulled.path.name == "1.10.0.zip"
    assert pulled.path.read_bytes() == package.read_bytes()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["1.10.0.zip"]
    assert pulled.package.location == f"{server.url}/#/models/digits/versions/2"
    (version,) = MlflowClient().search_model_versions("name='digits' and tags.`tritonkit.version` = '1.10.0'")
    assert version.tags["tritonkit.sha256"] == file_sha256(package)


def test_other_content_for_a_version_is_refused(package: Path, other_package: Path) -> None:
    push(package, "mlflow://", "refused", "1.2.0")
    with raises(InputError, "store.version_exists"):
        push(other_package, "mlflow://", "refused", "1.2.0")


def test_exactly_one_of_two_simultaneous_uploads_wins(package: Path, other_package: Path) -> None:
    for number in range(4):
        barrier, version = threading.Barrier(2), f"1.0.{number}"
        packages = [PackageFile.of(path, "raced", version) for path in (package, other_package)]
        stores = [open_store(ADDRESS) for _ in packages]

        def upload(each: int) -> StoredVersion:
            barrier.wait()  # noqa: B023 - the threads end within the loop
            return stores[each].upload(packages[each], lambda size: None)  # noqa: B023

        with ThreadPoolExecutor(2) as pool:
            ends = [pool.submit(upload, each) for each in range(2)]
        winners = [end.result().sha256 for end in ends if end.exception() is None]
        codes = [error.code for end in ends if isinstance(error := end.exception(), InputError)]
        assert codes == ["store.version_exists"]
        (only,) = MlflowClient().search_model_versions(f"name='raced' and tags.`tritonkit.version` = '{version}'")
        assert [only.tags["tritonkit.sha256"]] == winners


def test_missing_version_and_missing_server_are_named(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raises(InputError, "store.no_version", "has no package"):
        pull(ADDRESS, "nothing", lambda stored: tmp_path / "out.zip")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with raises(ExternalError, "store.unreachable", "http://127.0.0.1:9") as caught:
        push(package, ADDRESS, "digits", "3.0.0")
    assert "secret" not in str(caught.value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with raises(InputError, "store.address", "MLFLOW_TRACKING_URI"):
        push(package, ADDRESS, "digits", "3.0.0")
