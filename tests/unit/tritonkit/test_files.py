"""Atomic writes: a file is complete or absent, even if the process dies."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.programs import run_python
from tritonkit.system.files import atomic_write, file_sha256


def test_file_appears_with_its_folder_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"whole")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError("disk full"), KeyboardInterrupt()])
def test_old_file_stays_when_the_block_raises(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_file_appears_when_the_block_raises_before_it_writes(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a.bin"):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_digest_is_sha256_when_the_file_is_larger_than_a_buffer(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    (tmp_path / "a.bin").write_bytes(content)
    assert file_sha256(tmp_path / "a.bin") == hashlib.sha256(content).hexdigest()


def test_old_file_stays_when_the_process_dies(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    code = (
        "import os; from pathlib import Path; from tritonkit.system.files import atomic_write\n"
        f"with atomic_write(Path({str(path)!r})) as beside:\n"
        "    beside.write_bytes(b'half'); os._exit(9)"
    )
    assert run_python("-c", code).returncode == 9
    assert path.read_bytes() == b"old"
    assert all(leftover.name.startswith(".") for leftover in tmp_path.iterdir() if leftover != path)
