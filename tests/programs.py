"""Programs that tests run in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_python(*words: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this Python with our packages; its output is text."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def kill_started(*words: object, after_s: float) -> None:
    """Start this Python, wait until it prints `started`, and kill it some seconds later."""
    with subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        time.sleep(after_s)
        process.kill()


def console_script(name: str) -> str:
    """The path of one of our commands."""
    return str(Path(sys.executable).with_name(name))


def put_nvidia_smi_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Put a program of this name first on the PATH; it prints these lines, with `--loop-ms` again and again."""
    program = folder / "nvidia-smi"
    prints = "\n".join(f"echo '{line}'" for line in lines)
    program.write_text(f'#!/bin/sh\n{prints}\ncase "$*" in *--loop-ms*) sleep 0.02; exec "$0" "$@";; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
