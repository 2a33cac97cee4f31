"""Buffered content is in memory up to a limit, and then in few temporary files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from client.sources.content import SpillBuffer

OPEN_FILES = Path("/proc/self/fd")


def temporary_files() -> list[tuple[int, int]]:
    """Return the descriptors of unnamed temporary files, with their bytes on the disk."""
    found = []
    for entry in OPEN_FILES.iterdir():
        try:
            in_folder = str(entry.readlink()).startswith(tempfile.gettempdir())
            is_temporary = in_folder and not os.fstat(int(entry.name)).st_nlink
        except FileNotFoundError:
            continue
        if is_temporary:
            found.append((int(entry.name), os.fstat(int(entry.name)).st_blocks * 512))
    return found


def test_second_file_is_begun_when_the_first_is_long() -> None:
    before = temporary_files()
    buffer = SpillBuffer(max_memory_bytes=0)
    large = bytes(2**26)
    contents = [buffer.store(large) for _ in range(4)]
    contents.append(buffer.store(b"behind"))
    assert len(temporary_files()) == len(before) + 2
    assert contents[-1]() == b"behind"
    del contents[:4]
    assert len(temporary_files()) == len(before) + 1
