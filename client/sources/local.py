"""Which pictures are meant: files, folders and globs."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from model.errors import InputError
from model.preprocess import SUFFIXES, pictures_below


def find_images(given: Sequence[str]) -> list[Path]:
    """The pictures that files, folders (searched by suffix, with all below) and globs stand for, each once.

    Raises InputError that names everything that stands for nothing.
    """
    found: dict[Path, None] = {}
    problems = []
    for text in given:
        paths = _paths(text)
        if not paths:
            problems.append(f"  {text}: {_why_nothing(text)}")
        found.update(dict.fromkeys(paths))
    if problems:
        raise InputError("\n".join(["no pictures to be found:", *problems]))
    return list(found)


def places(given: Sequence[str], found: Sequence[Path]) -> list[Path]:
    """Where each picture lies below the innermost folder that holds all that was given: the folder itself for one."""
    # By their text: a link's target may lie anywhere.
    files = [os.path.abspath(path) for path in found]  # noqa: PTH100 - resolve() would follow links
    folders = [os.path.abspath(_folder_of(text)) for text in given]  # noqa: PTH100
    base = os.path.commonpath([*folders, *map(os.path.dirname, files)])
    return [Path(os.path.relpath(file, base)) for file in files]


def _folder_of(text: str) -> Path:
    """The folder that is searched, the one a file lies in, or the one before a pattern begins."""
    path = Path(text)
    if path.exists():
        return path if path.is_dir() else path.parent
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))


def _paths(text: str) -> list[Path]:
    path = Path(text)
    try:
        if path.is_dir():
            return pictures_below(path)
        if path.exists():
            return [path]
    except OSError:
        return []  # a name that the file system cannot have
    matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207 - absolute patterns too
    return [picture for match in matches for picture in (pictures_below(match) if match.is_dir() else [match])]


def _why_nothing(text: str) -> str:
    if not glob.has_magic(text) and os.path.isdir(text):  # noqa: PTH112 - false also for impossible names
        return f"the folder holds no file that ends in {', '.join(sorted(SUFFIXES))}"
    return "the pattern matches nothing" if glob.has_magic(text) else "no such file or folder"
