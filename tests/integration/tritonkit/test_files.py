"""Atomic writes: a file is complete or absent, even if the process dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_old_file_stays_when_the_process_dies(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    code = (
        "import os; from pathlib import Path; from tritonkit.system.files import atomic_write\n"
        f"with atomic_write(Path({str(path)!r})) as beside:\n"
        "    beside.write_bytes(b'half'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert path.read_bytes() == b"old"
    assert all(leftover.name.startswith(".") for leftover in tmp_path.iterdir() if leftover != path)
