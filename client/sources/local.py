"""Local files of an argument: a file, a folder or a glob."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tritonkit.errors import InputError
from tritonkit.images.picture_files import PictureSearch, broken_link_message, is_below_hidden
from tritonkit.images.preprocess import SUFFIXES


def find_files(text: str, search: PictureSearch) -> list[str]:
    """Return the files of a path in order: the file itself, the images below a folder, or the matches of a glob.

    search: counts skipped files, and gets the errors of files and folders that cannot be read.
    Raises InputError if there is no file.
    """
    files = _files(text, search)
    if not files:
        raise _no_files_error(text, search.skipped.sentence())
    return files


def common_folder(paths: Sequence[str], files: Iterable[str]) -> str:
    """Return the innermost folder that contains all paths and files; for a single folder, that folder itself."""
    # Links are not resolved, because their targets may be anywhere.
    folders = {os.path.abspath(_folder_of(text)) for text in paths}  # noqa: PTH100 - resolve() would follow links
    folders |= {os.path.abspath(folder) for folder in {os.path.dirname(file) for file in files}}  # noqa: PTH100, PTH120
    return os.path.commonpath(folders) if folders else ""


def relative_path_below(folder: str, file: str) -> Path:
    """Return the path of a file relative to a folder that contains it."""
    return Path(os.path.relpath(os.path.abspath(file), folder))  # noqa: PTH100 - as above


def _folder_of(text: str) -> Path:
    """Return the searched folder, the folder of a file, or the folder before a glob's first pattern."""
    path = Path(text)
    if path.exists():
        return path if path.is_dir() else path.parent
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))


def _files(text: str, search: PictureSearch) -> list[str]:
    path = Path(text)
    try:
        if path.is_dir():
            return list(search.pictures_below(str(path)))
        if path.exists():
            return [str(path)]
        if path.is_symlink():
            search.errors[str(path)] = broken_link_message(str(path))
            return [str(path)]
    except PermissionError as error:
        search.errors[str(path)] = f"cannot be read ({error.strerror})"
        return [str(path)]
    except (OSError, ValueError):
        return []  # an invalid name
    return _matching(text, search) if glob.has_magic(text) else []


def _matching(pattern: str, search: PictureSearch) -> list[str]:
    """Return the files of a glob, and the folders that cannot be listed."""
    hidden = is_below_hidden(pattern)
    files = (match for match in glob.glob(pattern, recursive=True) if hidden or not is_below_hidden(match))  # noqa: PTH207
    unlistable = list(_unlistable_folders(os.path.dirname(pattern)))  # noqa: PTH120
    search.errors.update(dict.fromkeys(unlistable, "the folder cannot be listed (Permission denied)"))
    matches = sorted({str(Path(match)) for match in files} | set(unlistable))
    folders = {match for match in matches if os.path.isdir(match)} - set(unlistable)  # noqa: PTH112 - as above
    files_by_match = (search.pictures_below(match) if match in folders else [match] for match in matches)
    return list(dict.fromkeys(itertools.chain.from_iterable(files_by_match)))


def _unlistable_folders(pattern: str) -> Iterator[str]:
    """Yield the folders that a glob searches but may not list; glob skips them silently."""
    while glob.has_magic(pattern):
        folders = glob.iglob(os.path.join(pattern, ""), recursive=True)  # noqa: PTH118, PTH207
        yield from (str(Path(folder)) for folder in folders if not os.access(folder, os.R_OK | os.X_OK))
        pattern = os.path.dirname(pattern)  # noqa: PTH120


def _no_files_error(text: str, skipped: str) -> InputError:
    details = f" ({skipped})" if skipped else ""
    if glob.has_magic(text):
        return InputError(f"{text}: the pattern matches nothing{details}", code="source.no_match")
    if os.path.isdir(text):  # noqa: PTH112 - false also for invalid names
        return InputError(
            f"{text}: the folder contains no file that ends in {', '.join(sorted(SUFFIXES))}{details}",
            code="source.empty_folder",
        )
    return InputError(f"{text}: no such file or folder{details}", code="source.missing")
