"""Which files are meant: files, folders and globs."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from client.sources.naming import named_like_picture
from model.errors import InputError
from model.preprocess import SUFFIXES


def find_files(text: str) -> list[str]:
    """The files that a file, a folder (searched by suffix, with all below) or a glob stands for, in order.

    Raises InputError when it stands for nothing.
    """
    files = _files(text)
    if not files:
        raise InputError(f"{text}: {_why_nothing(text)}")
    return files


def pictures_below(folder: str) -> Iterator[str]:
    """The files below a folder that are named like pictures, in the order of their paths' parts.

    Raises InputError for a folder that cannot be listed.
    """
    waiting = [(folder, True)]
    while waiting:
        path, is_folder = waiting.pop()
        if is_folder:
            waiting += sorted(_entries(path), reverse=True)
        else:
            yield path


def common_folder(given: Sequence[str], found: Iterable[str]) -> str:
    """The innermost folder that holds all that was given and found: the folder itself for one."""
    # By their text: a link's target may lie anywhere.
    folders = {os.path.abspath(_folder_of(text)) for text in given}  # noqa: PTH100 - resolve() would follow links
    folders |= {os.path.abspath(folder) for folder in {os.path.dirname(file) for file in found}}  # noqa: PTH100, PTH120
    return os.path.commonpath(folders) if folders else ""


def place_below(folder: str, file: str) -> Path:
    """Where a file lies below a folder that holds it."""
    return Path(os.path.relpath(os.path.abspath(file), folder))  # noqa: PTH100 - as above


def _entries(folder: str) -> list[tuple[str, bool]]:
    """Paths of the folders and pictures in a folder, and which of them are folders."""
    start = "" if folder == "." else folder
    try:
        with os.scandir(folder) as entries:
            kinds = ((entry, entry.is_dir(follow_symlinks=False)) for entry in entries)
            return [
                (os.path.join(start, entry.name), is_folder)  # noqa: PTH118 - a million of them
                for entry, is_folder in kinds
                if is_folder or (named_like_picture(entry.name) and entry.is_file())
            ]
    except OSError as error:
        raise InputError(f"{folder}: the folder cannot be listed ({error.strerror})") from error


def _folder_of(text: str) -> Path:
    """The folder that is searched, the one a file lies in, or the one before a pattern begins."""
    path = Path(text)
    if path.exists():
        return path if path.is_dir() else path.parent
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))


def _files(text: str) -> list[str]:
    path = Path(text)
    try:
        if path.is_dir():
            return list(pictures_below(str(path)))
        if path.exists():
            return [str(path)]
    except (OSError, ValueError):
        return []  # a name that the file system cannot have
    matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207 - absolute patterns too
    each = (pictures_below(str(match)) if match.is_dir() else [str(match)] for match in matches)
    return list(dict.fromkeys(itertools.chain.from_iterable(each)))


def _why_nothing(text: str) -> str:
    if not glob.has_magic(text) and os.path.isdir(text):  # noqa: PTH112 - false also for impossible names
        return f"the folder holds no file that ends in {', '.join(sorted(SUFFIXES))}"
    return "the pattern matches nothing" if glob.has_magic(text) else "no such file or folder"
