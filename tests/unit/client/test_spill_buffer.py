"""Buffered content is in memory up to a limit, and then in few temporary files."""

from __future__ import annotations

import os
import resource
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.sources.containers import with_error_entry
from client.sources.content import SpillBuffer
from client.sources.tars import Tar
from tests.errors import raises
from tritonkit.errors import ExternalError

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


def test_hundreds_of_contents_take_one_file_when_memory_is_full() -> None:
    before = temporary_files()
    buffer = SpillBuffer(max_memory_bytes=0)
    data = [bytes([number % 251]) * (1 + number * 7) for number in range(300)]
    with ThreadPoolExecutor(8) as threads:
        contents = list(threads.map(buffer.store, data))
        assert len(temporary_files()) == len(before) + 1
        assert list(threads.map(lambda content: content(), reversed(contents))) == data[::-1]


def test_disk_space_is_freed_when_the_contents_are_deleted() -> None:
    before = temporary_files()
    buffer = SpillBuffer(max_memory_bytes=0)
    first, second = buffer.store(b"1" * 2**16), buffer.store(b"2" * 2**16)
    del first
    assert second() == b"2" * 2**16
    assert len(temporary_files()) == len(before) + 1
    del second
    assert temporary_files() == before
    assert buffer.store(b"3")() == b"3"


@contextmanager
def no_more_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_buffer_raises_an_error_when_no_file_can_be_opened() -> None:
    with no_more_files(), raises(ExternalError, "system.temporary_folder", "Too many open files", "TMPDIR"):
        SpillBuffer(max_memory_bytes=0).store(b"-")


def test_archive_is_not_reported_as_damaged_when_its_members_cannot_be_buffered(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"-")
    path = tmp_path / "t.tgz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(tmp_path / "picture.png", "picture.png")
    members = Tar(SpillBuffer(max_memory_bytes=0)).pictures(path.open("rb"), "t", Path("t"))
    with no_more_files(), pytest.raises(ExternalError):
        list(with_error_entry("t.tgz", Path("t"), members))


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
