from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.record import Record, check_writable, write_record
from tests.errors import raises
from tritonkit.errors import ExternalError


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_is_the_outside(record: Record, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        with raises(ExternalError, "output.unwritable") as caught:
            check_writable(disk / "r.json")
        assert "r.json" in str(caught.value)
        assert os.strerror(errno.ENOSPC) in str(caught.value)
        (disk / "fill").write_bytes(bytes(16384))
        with raises(ExternalError, "output.unwritable"):
            write_record(disk / "r.json", record)
        assert [path.name for path in disk.iterdir()] == ["fill"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from benchmarks.cli import app\n"
        "try: app(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "print({'numpy', 'torch', 'tritonclient', 'plotly', 'onnxruntime'} & set(sys.modules), file=sys.stderr)"
    )
    completed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--concurrency" in completed.stdout
    assert completed.stderr.strip() == "set()"
