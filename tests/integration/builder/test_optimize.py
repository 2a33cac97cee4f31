"""`builder optimize`: the best candidate as served by a real Triton is published, and nothing if there is none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from server.process import running_servers
from tests.errors import error_codes
from tests.fixture_types import Command
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.optimization import Optimization
from tritonkit.repository.staging import staging_folder
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.formats import format_named
from tritonkit.system.files import file_sha256

QUICK = ("--target", "latency", "--rounds", 1, "--window-s", 0.1, "--max-batch", 2, "--json")
NO_INT8 = ("--limit", "int8.relative=1e-9")
"""A limit that no int8 graph keeps."""


def excluded(record: dict[str, Any]) -> dict[str, str]:
    """Why candidates were excluded, by name."""
    return {f"{one['format']} {one['precision']}": one["excluded"] for one in record["candidates"] if one["excluded"]}


@pytest.fixture
def graph(exported_once: Path) -> Path:
    """The graph of a published network, which is read faster than a checkpoint."""
    return exported_once / "pets" / "1" / "model.onnx"


@pytest.mark.usefixtures("own_state")
def test_best_candidate_that_passes_is_published(graph: Path, command: Command, tmp_path: Path) -> None:
    repository, page = tmp_path / "repository", tmp_path / "choice.html"
    formats = "onnx:fp32,onnx:int8,openvino:fp32,torchscript"
    result = command(
        "builder", "optimize", graph, "--formats", formats, "--repository", repository, *NO_INT8, *QUICK,
        "--html", page,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    record, published = document["optimization"], document["published"]
    assert {name: reason.split()[0] for name, reason in excluded(record).items()} == {
        "onnx int8": "relative",
        "torchscript fp32": "--torchscript:",  # a graph is no source for it
    }
    measured = [one for one in record["candidates"] if one["loads"]]
    assert [one["format"] for one in measured] == ["onnx", "openvino"]
    assert all(one["loads"][0]["images_per_s"] > 0 for one in measured)
    folder = repository / "pets" / "1"
    verdict, manifest = Verdict.read(folder), Manifest.read(folder)
    assert verdict is not None
    assert verdict.passed
    assert f"{verdict.format} {verdict.precision}" == record["chosen"]
    assert manifest is not None
    assert published["artifact"] == str(folder / format_named(verdict.format).file)
    assert manifest.files[Path(published["artifact"]).name].sha256 == file_sha256(Path(published["artifact"]))
    assert Optimization.read(folder) == Optimization.model_validate(record)
    assert Optimization.FILE in manifest.files
    assert record["chosen"] in page.read_text()
    assert not staging_folder(repository).exists()
    assert not running_servers()
    assert command("builder", "check", repository).exit_code == 0
    shown = command("builder", "show", repository / "pets")
    assert "optimized for" in shown.stdout
    assert record["machine"]["cpu"]


def nothing_published(result: Result, repository: Path) -> dict[str, str]:
    """Check that the command published nothing; return why each candidate was excluded."""
    assert result.exit_code == 1, result.output
    assert error_codes(result) == {"optimize.no_candidate"}
    assert not staging_folder(repository).exists()
    return excluded(json.loads(result.stdout)["document"])


def test_nothing_is_published_when_no_verdict_passes(graph: Path, command: Command, tmp_path: Path) -> None:
    options = ("--formats", "onnx:int8", "--repository", tmp_path / "repository", *NO_INT8, *QUICK)
    reasons = nothing_published(command("builder", "optimize", graph, *options), tmp_path / "repository")
    assert reasons.keys() == {"onnx int8"}
    assert not list((tmp_path / "repository").iterdir())


def test_formats_of_another_backend_are_excluded_when_the_model_has_versions(
    graph: Path, command: Command, tiny_repository: Path
) -> None:
    options = ("--formats", "openvino:fp32", "--repository", tiny_repository, *QUICK)
    reasons = nothing_published(command("builder", "optimize", graph, *options), tiny_repository)
    assert "--name" in reasons["openvino fp32"]
    assert not (tiny_repository / "pets" / "2").exists()


def test_missing_command_is_one_error_before_anything_is_built(
    graph: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    result = command("builder", "optimize", graph, "--repository", tmp_path / "repository", *QUICK)
    assert result.exit_code == 2
    assert error_codes(result) == {"install.missing_command"}
    assert not (tmp_path / "repository").exists()
