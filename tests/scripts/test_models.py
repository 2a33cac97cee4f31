"""Which results of `benchmarks.studies.models` are used again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from benchmarks.studies import models
from benchmarks.studies.models import TOOLS, ModelResult, _missing
from scripts.package_versions import installed_versions


def _result(name: str, versions: dict[str, str]) -> ModelResult:
    return ModelResult(name=name, weights_millions=11.2, fp32="3e-06", fp16="9e-03", versions=versions)


def test_results_are_made_again_when_other_versions_made_them() -> None:
    installed_here = installed_versions(TOOLS)[0]
    result_list = (
        _result("kept", installed_here),
        _result("old", {**installed_here, "torch": "1.0"}),
        _result("silent", {}),
    )
    results_by_name = {result.name: result for result in result_list}
    names = ["kept", "old", "silent", "new"]
    assert _missing(names, results_by_name, trust=False) == ["old", "silent", "new"]
    assert _missing(names, results_by_name, trust=True) == ["old", "new"]


def test_page_tells_versions_when_results_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, page = tmp_path / "models.json", tmp_path / "models.md"
    installed_here = installed_versions(TOOLS)[0]
    result = _result("ResNet-18", installed_here)
    results.write_bytes(TypeAdapter(list[ModelResult]).dump_json([result]))
    monkeypatch.setattr(sys, "argv", ["models", "--results", str(results), "--output", str(page), "ResNet-18"])
    assert models.main() == 0
    assert f"Made with torch {installed_here['torch']}" in page.read_text()
    assert result.row() in page.read_text()
