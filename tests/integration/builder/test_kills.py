"""Exports are killed at random moments while a real Triton reads the repository; the drill detects failures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.studies.local_triton import serve
from scripts.drills.kill_drill import answer_problems
from tests.programs import run_python
from tritonkit.errors import CheckFailedError

KILLS = 50


@pytest.mark.drill
def test_repository_loads_and_answers_after_fifty_killed_exports(tmp_path: Path) -> None:
    """Run as its user runs it."""
    record = tmp_path / "drill.json"
    result = run_python("-m", "scripts.drills.kill_drill", "--kills", KILLS, "--output", record)
    assert record.is_file(), result.stderr
    drill = json.loads(record.read_text())
    assert drill["failures"] == []
    assert result.returncode == 0
    assert sum(drill["kills"].values()) == KILLS
    assert len(drill["kills"]) > 2, "all kills fell into the same step"
    assert drill["interrupted"] > KILLS // 2, "kills hit no work in progress"


def test_kill_drill_fails_when_a_version_does_not_load(tiny_repository: Path) -> None:
    with serve(tiny_repository) as triton:
        assert answer_problems(triton, tiny_repository, "pets") == []
        triton.unload("pets")
        artifact = tiny_repository / "pets" / "1" / "model.onnx"
        artifact.write_bytes(artifact.read_bytes()[: artifact.stat().st_size // 2])
        with pytest.raises(CheckFailedError, match="pets"):
            triton.load("pets")
