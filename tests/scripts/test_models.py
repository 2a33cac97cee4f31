"""Which results of `scripts.models` are used again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from scripts import models
from scripts.installed import installed
from scripts.models import TOOLS, Proof, _missing


def _proof(name: str, versions: dict[str, str]) -> Proof:
    return Proof(name=name, weights_millions=11.2, fp32="3e-06", fp16="9e-03", versions=versions)


def test_results_are_made_again_when_other_versions_made_them() -> None:
    here = installed(TOOLS)[0]
    proofs = (_proof("kept", here), _proof("old", {**here, "torch": "1.0"}), _proof("silent", {}))
    known = {proof.name: proof for proof in proofs}
    names = ["kept", "old", "silent", "new"]
    assert _missing(names, known, trust=False) == ["old", "silent", "new"]
    assert _missing(names, known, trust=True) == ["old", "new"]


def test_page_tells_versions_when_results_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, page = tmp_path / "models.json", tmp_path / "models.md"
    here = installed(TOOLS)[0]
    proof = _proof("ResNet-18", here)
    results.write_bytes(TypeAdapter(list[Proof]).dump_json([proof]))
    monkeypatch.setattr(sys, "argv", ["models", "--results", str(results), "--output", str(page), "ResNet-18"])
    assert models.main() == 0
    assert f"Made with torch {here['torch']}" in page.read_text()
    assert proof.row() in page.read_text()
