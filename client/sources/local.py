"""Which files are meant: files, folders and globs."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from model.errors import InputError
from model.picture_files import PictureSearch, is_below_hidden, link_error
from model.preprocess import SUFFIXES


def find_files(text: str, search: PictureSearch) -> list[str]:
    """The files that a file, a folder (searched by suffix, with all below) or a glob stands for, in order.

    search: counts what is skipped, and has the reasons for paths among the files that cannot be read.
    Raises InputError when it stands for nothing.
    """
    files = _files(text, search)
    if not files:
        skipped = search.skipped.sentence()
        raise InputError(f"{text}: {_why_nothing(text)}{skipped and f' ({skipped})'}")
    return files


def common_folder(given: Sequence[str], found: Iterable[str]) -> str:
    """The innermost folder that holds all that was given and found: the folder itself for one."""
    # By their text: a link's target may lie anywhere.
    folders = {os.path.abspath(_folder_of(text)) for text in given}  # noqa: PTH100 - resolve() would follow links
    folders |= {os.path.abspath(folder) for folder in {os.path.dirname(file) for file in found}}  # noqa: PTH100, PTH120
    return os.path.commonpath(folders) if folders else ""


def place_below(folder: str, file: str) -> Path:
    """Where a file lies below a folder that holds it."""
    return Path(os.path.relpath(os.path.abspath(file), folder))  # noqa: PTH100 - as above


def _folder_of(text: str) -> Path:
    """The folder that is searched, the one a file lies in, or the one before a pattern begins."""
    path = Path(text)
    if path.exists():
        return path if path.is_dir() else path.parent
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))


def _files(text: str, search: PictureSearch) -> list[str]:
    path = Path(text)
    try:
        if path.is_dir():
            return list(search.below(str(path)))
        if path.exists():
            return [str(path)]
        if path.is_symlink():
            search.errors[str(path)] = link_error(str(path))
            return [str(path)]
    except PermissionError as error:
        search.errors[str(path)] = f"cannot be read ({error.strerror})"
        return [str(path)]
    except (OSError, ValueError):
        return []  # a name that the file system cannot have
    return _matching(text, search) if glob.has_magic(text) else []


def _matching(pattern: str, search: PictureSearch) -> list[str]:
    """The files that a glob stands for, and the folders on its way that cannot be listed."""
    hidden = is_below_hidden(pattern)
    found = (match for match in glob.glob(pattern, recursive=True) if hidden or not is_below_hidden(match))  # noqa: PTH207
    locked = list(_locked(os.path.dirname(pattern)))  # noqa: PTH120
    search.errors.update(dict.fromkeys(locked, "the folder cannot be listed (Permission denied)"))
    matches = sorted({str(Path(match)) for match in found} | set(locked))
    each = (search.below(match) if os.path.isdir(match) and match not in locked else [match] for match in matches)  # noqa: PTH112
    return list(dict.fromkeys(itertools.chain.from_iterable(each)))


def _locked(pattern: str) -> Iterator[str]:
    """The folders that a glob looks into and may not list: it passes over them without a word."""
    while glob.has_magic(pattern):
        folders = glob.iglob(os.path.join(pattern, ""), recursive=True)  # noqa: PTH118, PTH207
        yield from (str(Path(folder)) for folder in folders if not os.access(folder, os.R_OK | os.X_OK))
        pattern = os.path.dirname(pattern)  # noqa: PTH120


def _why_nothing(text: str) -> str:
    if not glob.has_magic(text) and os.path.isdir(text):  # noqa: PTH112 - false also for impossible names
        return f"the folder holds no file that ends in {', '.join(sorted(SUFFIXES))}"
    return "the pattern matches nothing" if glob.has_magic(text) else "no such file or folder"
