"""Which results of `benchmarks.studies.models` are used again."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from benchmarks.studies.models import TOOLS, ModelResult, measure, missing_names
from scripts.package_versions import installed_versions


def _result(name: str, versions: dict[str, str]) -> ModelResult:
    return ModelResult(name=name, weights_millions=11.2, fp32="3e-06", fp16="9e-03", versions=versions)


def test_results_are_made_again_when_other_versions_made_them() -> None:
    installed_here = installed_versions(TOOLS)[0]
    stored = {
        "kept": _result("kept", installed_here),
        "old": _result("old", {**installed_here, "torch": "1.0"}),
    }
    assert missing_names(["kept", "old", "new"], stored) == ["old", "new"]


def test_page_tells_versions_when_results_do(tmp_path: Path) -> None:
    results = tmp_path / "models.json"
    installed_here = installed_versions(TOOLS)[0]
    result = _result("ResNet-18", installed_here)
    results.write_bytes(TypeAdapter(list[ModelResult]).dump_json([result]))
    found = measure(["ResNet-18"], results)
    assert all(found.checks.values())
    assert f"Made with torch {installed_here['torch']}" in str(found.page)
    assert result.row() in str(found.page)
