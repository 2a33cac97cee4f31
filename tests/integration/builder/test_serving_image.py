"""A plan that the serving image cannot load is refused before it is published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.pipeline import export
from builder.request import ExportRequest
from tritonkit.repository.manifest import Manifest
from tritonkit.triton.releases import IMAGE_VARIABLE

IMAGE = "nvcr.io/nvidia/tritonserver:26.07-py3"


def test_manifest_names_the_image_of_env(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, IMAGE)
    request = ExportRequest(source=checkpoint, repository=tmp_path / "repository", max_batch=2)
    published = export(request)
    manifest = json.loads(published.artifact.with_name(Manifest.FILE).read_text())
    assert manifest["triton_image"] == "26.07-py3"
