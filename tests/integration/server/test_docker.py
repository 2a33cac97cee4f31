"""The docker runtime, as far as it goes without an engine. `scripts/docker_test.sh` runs it against a real one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixture_types import Command, Ports

ROOT = Path(__file__).parents[3]


def test_server_says_what_to_do_when_no_engine_answers(
    command: Command,
    tiny_repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    free_ports: Ports,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'none.sock'}")
    monkeypatch.setenv("TRITONKIT_STATE", str(tmp_path / "state"))
    up = command("server", "up", "--runtime", "docker", "--repository", tiny_repository, *free_ports(), "--json")
    assert up.exit_code == 3, up.output
    assert json.loads(up.stdout)["error"]["type"] == "ServerError"
    assert "none.sock" in up.stderr
    assert "--runtime pip" in up.stderr


def test_cpu_image_is_built_of_files_that_need_nothing_of_ours() -> None:
    """The Dockerfile copies a few modules; what they import must be among them."""
    copied = [word for line in (ROOT / "deploy" / "Dockerfile").read_text().splitlines() for word in line.split()]
    assert {"tritonkit/errors.py", "server/runtimes/pip_environment.py"} <= set(copied)
    code = (
        "import sys, server.runtimes.pip_environment\n"
        "print(*sorted(m for m in sys.modules if m.startswith(('tritonkit', 'server'))))"
    )
    loaded = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True)
    expected = "server server.runtimes server.runtimes.pip_environment tritonkit tritonkit.errors"
    assert loaded.stdout.strip() == expected, loaded.stderr
