"""Versions that servers have loaded are kept: which servers are asked, and what happens where none answers."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from builder.repository.loaded_versions import (
    KnownServers,
    LoadedVersions,
    Servers,
    retention_servers,
    servers_from_options,
)
from builder.repository.publish import publication
from builder.repository.retention import keep_newest
from server.process import STATE_VARIABLE, Options, start, stop, wait_until_ready
from server.security import Security
from tests.errors import raises
from tritonkit.errors import ExternalError, InputError
from tritonkit.triton.model_config import versions_of


@pytest.fixture
def pets(tiny_repository: Path) -> Path:
    """A model with versions 1 to 5, of which Triton loads the newest."""
    model = tiny_repository / "pets"
    for _ in range(4):
        with publication(model.parent, model.name) as prepared:
            for path in (model / "1").iterdir():
                (prepared.version_folder / path.name).hardlink_to(path)
    return model


def test_summary_advises_url_when_no_server_runs_at_the_default_address(
    pets: Path, free_ports: Callable[[], list[str]]
) -> None:
    servers = Servers(default_url=f"127.0.0.1:{free_ports()[3]}")
    assert servers.loaded_versions("pets") == LoadedVersions()
    result = keep_newest(pets, 1, servers)
    assert result.summary().startswith("pets: deleted 1, 2, 3, 4; ")
    assert "--url" in result.summary()
    assert "--url" not in keep_newest(pets, 1, servers).summary()


def test_nothing_is_deleted_when_the_default_address_lists_no_versions(pets: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ExternalError) as caught:
            keep_newest(pets, 1, Servers(default_url=address, default_deadline_s=0.3))
        assert type(caught.value) is ExternalError
        assert "--url none" in str(caught.value)
    assert len(versions_of(pets)) == 5


def test_url_is_refused_without_keep_and_when_invalid() -> None:
    assert retention_servers(None, None) == servers_from_options(None) == Servers()
    assert retention_servers(["none"], 2).loaded_versions("pets") == LoadedVersions()
    with raises(InputError, "option.url_without_keep"):
        retention_servers(["127.0.0.1:8001"], None)
    with pytest.raises(InputError, match="expected HOST:PORT"):
        retention_servers(["nowhere"], 2)
    with raises(InputError, "option.url_none"):
        servers_from_options(["none", "127.0.0.1:8001"])


def test_tls_options_are_refused_without_a_tls_address(tmp_path: Path) -> None:
    missing = tmp_path / "ca.pem"
    for urls in (None, ["none"]):
        with raises(InputError, "option.tls_without_url"):
            servers_from_options(urls, tls_ca=missing)
    with raises(InputError, "tls.file_not_found") as caught:
        servers_from_options(["grpcs://127.0.0.1:8001"], tls_ca=missing)
    assert "ca.pem" in str(caught.value)
    with raises(InputError, "tls.unused_certificate"):
        servers_from_options(["grpc://127.0.0.1:8001"], tls_ca=missing)


def test_known_servers_return_the_earlier_answer() -> None:
    assert KnownServers(answer=LoadedVersions({3: "there"}, ("there",))).loaded_versions("pets").address_by_version == {
        3: "there"
    }


def test_version_is_kept_when_a_tls_server_has_loaded_it(
    pets: Path,
    command: Callable[..., Result],
    free_ports: Callable[[], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    certificate, key = tmp_path / "own.pem", tmp_path / "own.key"
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    openssl = ("openssl", "req", "-x509", *kind, "-keyout", str(key), "-out", str(certificate), *names)
    subprocess.run(openssl, check=True, capture_output=True)
    http, grpc, metrics = map(int, free_ports()[1::2])
    server = start(
        Options(
            repository=pets.parent,
            http_port=http,
            grpc_port=grpc,
            metrics_port=metrics,
            security=Security(tls_certificate=certificate, tls_key=key),
        ),
        stops_with_parent=True,
    )
    try:
        wait_until_ready(server, 60)
        with publication(pets.parent, "pets") as prepared:
            for path in (pets / "5").iterdir():
                (prepared.version_folder / path.name).hardlink_to(path)
        versions_command = ("builder", "versions", "pets", "--repository", pets.parent, "--keep", 1)
        with pytest.raises(ExternalError, match=r"grpcs://.*--tls-ca"):
            keep_newest(pets, 1, Servers(default_url=f"127.0.0.1:{grpc}"))
        result = command(*versions_command, "--url", f"grpcs://127.0.0.1:{grpc}", "--tls-ca", certificate)
    finally:
        stop(server)
    assert result.exit_code == 0, result.stderr
    assert f"5 stays: loaded by the server at grpcs://127.0.0.1:{grpc}" in " ".join(result.stdout.split())
    assert versions_of(pets) == [5, 6]


def test_export_deletes_nothing_when_a_named_server_does_not_answer(
    pets: Path, checkpoint: Path, command: Callable[..., Result], free_ports: Callable[[], list[str]]
) -> None:
    export_command = ("builder", "export", checkpoint, "--repository", pets.parent, "--max-batch", 4, "--keep", 1)
    failed = command(*export_command, "--url", f"127.0.0.1:{free_ports()[3]}")
    assert failed.exit_code == 0, failed.stderr
    assert "warning: older versions were not deleted: no Triton answers at" in " ".join(failed.stdout.split())
    assert versions_of(pets) == [1, 2, 3, 4, 5, 6]
    result = command(*export_command, "--url", "none")
    assert "pets: deleted 1, 2, 3, 4, 5 (6 stays: served until now); " in result.stdout
    assert versions_of(pets) == [6, 7]
