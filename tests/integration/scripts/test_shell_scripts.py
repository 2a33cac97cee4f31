"""Scripts that run one command after the other end with the first that fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.programs import ROOT


@pytest.mark.parametrize("name", ["demo.sh", "all_tasks.sh", "people.sh"])
def test_script_ends_when_training_fails(name: str, tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for program, does in (("train", "echo runs/1; exit 4"), ("builder", "touch built"), ("server", "touch served")):
        (programs / program).write_text(f"#!/bin/sh\n{does}\n")
        (programs / program).chmod(0o755)
    kinds = (("HTTP", 1), ("GRPC", 2), ("METRICS", 3), ("COLLECTION", 4), ("STORE", 5))
    ports = {f"{kind}_PORT": str(port) for kind, port in kinds}
    completed = subprocess.run(
        ["bash", str(tmp_path / "scripts" / name)], env={**os.environ, **ports}, capture_output=True
    )
    assert completed.returncode == 4, completed.stderr
    assert not (tmp_path / "built").exists()
