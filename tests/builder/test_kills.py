"""Exports are killed at random moments while a real Triton reads the repository; the drill detects failures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.drills.explicit_triton import explicit_triton
from tritonkit.errors import InferenceError
from tritonkit.golden import Golden

ROOT = Path(__file__).parents[2]
KILLS = 50


@pytest.mark.slow
def test_repository_loads_and_answers_after_fifty_killed_exports(tmp_path: Path) -> None:
    """Run in a separate process: the test process has threads, which a fork does not copy."""
    record = tmp_path / "drill.json"
    command = [sys.executable, "-m", "scripts.drills.kill_drill", "--kills", str(KILLS), "--output", str(record)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert record.is_file(), result.stderr
    drill = json.loads(record.read_text())
    assert drill["failures"] == []
    assert result.returncode == 0
    assert sum(drill["kills"].values()) == KILLS
    assert len(drill["kills"]) > 2, "all kills fell into the same step"
    assert drill["interrupted"] > KILLS // 2, "kills hit no work in progress"


def test_kill_drill_fails_when_a_version_does_not_load(tiny_repository: Path, tmp_path: Path) -> None:
    version = tiny_repository / "pets" / "1"
    golden = Golden.load(version / "golden.npz")
    with explicit_triton(tiny_repository, tmp_path) as triton:
        triton.load("pets")
        number, answers = triton.infer("pets", golden.images[:2])
        assert number == 1
        assert answers == pytest.approx(golden.outputs["probabilities"][:2], abs=1e-4)
        triton.unload("pets")
        original = (version / "model.onnx").read_bytes()
        (version / "model.onnx").write_bytes(original[: len(original) // 2])
        with pytest.raises(InferenceError, match="Triton refused repository/models/pets/load"):
            triton.load("pets")
