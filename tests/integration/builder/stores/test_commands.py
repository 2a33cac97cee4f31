"""`builder push` and `builder pull`, the table of semantic versions, and a real Triton that serves what was pulled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builder.packages import write_package
from builder.pipeline import export
from builder.repository.lint import check_repository
from builder.repository.semantic_versions import SemanticVersions
from builder.repository.versions import model_versions
from builder.request import ExportRequest
from tests.errors import error_codes
from tests.fixture_types import Command
from tests.model_store import ModelStore
from tests.serving import options_for, serving
from tritonkit.networks.network import Network, save_network
from tritonkit.remotes.cache import CACHE_VARIABLE
from tritonkit.spec import ModelSpec
from tritonkit.triton.client import TritonClient
from tritonkit.triton.runner import TritonRunner


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def two_versions(tiny_repository: Path, spec: ModelSpec, tmp_path: Path) -> Path:
    """A repository with two versions of `pets`."""
    torch.manual_seed(1)
    save_network(tmp_path / "pets.safetensors", Network(spec).eval())
    export(ExportRequest(source=tmp_path / "pets.safetensors", repository=tiny_repository, max_batch=8))
    return tiny_repository


def run(command: Command, *words: object) -> Any:
    result = command("builder", *words, "--json")
    assert result.exit_code == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


def test_published_models_go_through_a_store_into_another_repository(
    command: Command, two_versions: Path, model_store: ModelStore, tmp_path: Path, cache: Path
) -> None:
    store, other = model_store.url, tmp_path / "other" / "repository"
    pushed = run(command, "push", "pets", store, "--version", "1.2.0", "--number", 1, "--repository", two_versions)
    assert pushed["package"]["version"] == "1.2.0"
    assert not pushed["was_there"]
    run(command, "push", "pets", store, "--version", "1.3.0", "--repository", two_versions)
    assert run(command, "push", "pets", store, "--version", "1.3.0", "--repository", two_versions)["was_there"]
    names = {entry.version: entry.semantic for entry in model_versions(two_versions / "pets").versions}
    assert names == {1: ("1.2.0",), 2: ("1.3.0",)}

    # The newer one first: the numbers of this repository are others.
    for version, number, new in (("1.3.0", 1, True), ("1.2.0", 2, True), ("1.2.0", 2, False)):
        words = ("pull", store, f"pets@{version}", "--install", "--repository", other)
        installed = run(command, *words)["installed"]
        assert (installed["version"], installed["new"]) == (number, new)
    assert json.loads((other / "pets" / "versions.json").read_text())["versions"]["1.3.0"]["number"] == 1
    assert [path for path in (cache / "packages").rglob("*") if path.is_file()] == []
    listed = run(command, "versions", "pets", "--repository", other)
    assert [entry["semantic"] for entry in listed["versions"]] == [["1.3.0"], ["1.2.0"]]
    promoted = run(command, "promote", "pets", "1.3.0", "--repository", other)
    assert promoted["version"] == 1
    assert [finding.message for finding in check_repository(other) if finding.severity == "error"] == []
    image = np.zeros((1, 32, 32, 3), np.uint8)
    with serving(options_for(other)) as server:
        served = TritonRunner(TritonClient(server.options.grpc_url), "pets", "1")
        assert served.infer(image)["probabilities"].shape == (1, 3)


def test_table_is_no_part_of_a_package(command: Command, tiny_repository: Path, tmp_path: Path) -> None:
    before = write_package(tiny_repository / "pets", 1, tmp_path).read_bytes()
    run(command, "push", "pets", f"file://{tmp_path}/store", "--version", "1.0.0", "--repository", tiny_repository)
    assert write_package(tiny_repository / "pets", 1, tmp_path).read_bytes() == before


def test_semantic_version_never_becomes_another_one(command: Command, two_versions: Path, tmp_path: Path) -> None:
    store, repository = f"file://{tmp_path}/store", ("--repository", two_versions)
    run(command, "push", "pets", store, "--version", "1.0.0", "--number", 1, *repository)
    result = command("builder", "push", "pets", store, "--version", "1.0.0", "--number", 2, *repository, "--json")
    assert result.exit_code == 2
    assert error_codes(result) == {"repository.semantic_version_taken"}
    # Another store has other content under this version.
    run(command, "push", "pets", f"file://{tmp_path}/two", "--version", "2.0.0", "--number", 2, *repository)
    package = write_package(two_versions / "pets", 2, tmp_path)
    run(command, "push", package, f"file://{tmp_path}/three", "--version", "1.0.0")
    result = command("builder", "pull", f"file://{tmp_path}/three", "pets@1.0.0", "--install", *repository, "--json")
    assert result.exit_code == 2
    assert error_codes(result) == {"repository.semantic_version_taken"}
    assert {key: entry.number for key, entry in SemanticVersions.of(two_versions / "pets").versions.items()} == {
        "1.0.0": 1,
        "2.0.0": 2,
    }


def test_package_file_is_pushed_and_pulled(
    command: Command, tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = write_package(tiny_repository / "pets", 1, tmp_path)
    store = f"file://{tmp_path}/store"
    run(command, "push", package, store, "--version", "1.0.0", "--name", "cats")
    assert run(command, "pull", store, "cats")["path"] == "cats-1.0.0.zip"
    assert (tmp_path / "cats-1.0.0.zip").read_bytes() == package.read_bytes()
    shown = command("builder", "pull", store, "cats@^1", "--output", "mine.zip")
    assert shown.exit_code == 0
    assert "cats 1.0.0" in shown.stdout


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("push", "nothing", "file:///tmp/store", "--version", "1.0.0"), "repository.unknown_model"),
        (("push", "nothing.zip", "file:///tmp/store", "--version", "1.0.0"), "package.not_found"),
        (("push", "pets", "file:///tmp/store", "--version", "1.0"), "store.version"),
        (("push", "pets", "store", "--version", "1.0.0"), "store.address"),
        (("push", "pets", "file:///tmp/store", "--version", "1.0.0", "--number", "9"), "repository.unknown_version"),
        (("pull", "file:///tmp/no/store", "pets"), "store.no_version"),
        (("pull", "file:///tmp/no/store", "pets@~1"), "store.version"),
        (("pull", "file:///tmp/no/store", "pets", "--install", "--output", "x.zip"), "option.conflict"),
        (("pull", "file:///tmp/no/store", "pets", "--force"), "option.no_effect"),
        (("promote", "pets", "1.0.0"), "repository.unknown_version"),
        (("promote", "pets", "1.x"), "option.version"),
    ],
)
def test_bad_words_are_one_error(command: Command, tiny_repository: Path, words: tuple[str, ...], code: str) -> None:
    result = command("builder", *words, *(("--repository", tiny_repository)), "--json")
    assert result.exit_code == 2
    assert error_codes(result) == {code}
    assert not (tiny_repository / "pets" / SemanticVersions.FILE).exists()


def test_damaged_package_is_not_pushed(
    command: Command, tiny_repository: Path, model_store: ModelStore, tmp_path: Path
) -> None:
    package = write_package(tiny_repository / "pets", 1, tmp_path)
    content = bytearray(package.read_bytes())
    content[len(content) // 2] ^= 1
    package.write_bytes(content)
    result = command("builder", "push", package, model_store.url, "--version", "1.0.0", "--json")
    assert (result.exit_code, len(error_codes(result) & {"package.changed_file", "package.not_a_zip"})) == (2, 1)
    missing = command("builder", "pull", model_store.url, "pets", "--json")
    assert error_codes(missing) == {"store.no_version"}
