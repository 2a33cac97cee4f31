"""What was read before its turn is held in memory, and beyond that in few temporary files."""

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
from model.errors import ExternalError

OPEN_FILES = Path("/proc/self/fd")


def temporary_files() -> list[tuple[int, int]]:
    """The descriptors of files that have no name any more, and the bytes each takes on the disk."""
    found = []
    for entry in OPEN_FILES.iterdir():
        try:
            is_one = str(entry.readlink()).startswith(tempfile.gettempdir()) and not os.fstat(int(entry.name)).st_nlink
        except FileNotFoundError:
            continue
        if is_one:
            found.append((int(entry.name), os.fstat(int(entry.name)).st_blocks * 512))
    return found


def test_hundreds_of_contents_take_one_file_when_memory_is_full() -> None:
    before = temporary_files()
    buffer = SpillBuffer(max_memory_bytes=0)
    given = [bytes([number % 251]) * (1 + number * 7) for number in range(300)]
    with ThreadPoolExecutor(8) as threads:
        contents = list(threads.map(buffer.store, given))
        assert len(temporary_files()) == len(before) + 1
        assert list(threads.map(lambda content: content(), reversed(contents))) == given[::-1]


def test_disk_is_given_back_when_the_contents_are_forgotten() -> None:
    before = temporary_files()
    buffer = SpillBuffer(max_memory_bytes=0)
    first, second = buffer.store(b"1" * 2**16), buffer.store(b"2" * 2**16)
    del first
    assert second() == b"2" * 2**16
    assert len(temporary_files()) == len(before) + 1
    del second
    assert temporary_files() == before
    assert buffer.store(b"3")() == b"3"


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


@contextmanager
def no_more_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_holding_says_what_to_do_when_no_file_can_be_opened() -> None:
    said = r"cannot be kept there \(Too many open files\); make room, or name"
    with no_more_files(), pytest.raises(ExternalError, match=said):
        SpillBuffer(max_memory_bytes=0).store(b"-")


def test_archive_is_not_taken_for_broken_when_its_members_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"-")
    path = tmp_path / "t.tgz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(tmp_path / "picture.png", "picture.png")
    members = Tar(SpillBuffer(max_memory_bytes=0)).pictures(path.open("rb"), "t", Path("t"))
    with no_more_files(), pytest.raises(ExternalError):
        list(with_error_entry("t.tgz", Path("t"), members))
