"""Local files of an argument: a file, a folder or a glob."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tritonkit.errors import InputError
from tritonkit.images.picture_files import PictureSearch, broken_link_message, is_below_hidden
from tritonkit.images.preprocess import SUFFIXES


def find_files(text: str, search: PictureSearch) -> list[str]:
    """Return the files of a path in order: the file itself, the images below a folder, or the matches of a glob.

    search: counts skipped files, and gets the errors of files and folders that cannot be read.
    Raises InputError if there is no file.
    """
    path, is_folder = Path(text), False
    try:
        is_folder = path.is_dir()
        if path.exists() and not is_folder:
            return [str(path)]
        if path.is_symlink() and not is_folder:
            search.errors[str(path)] = broken_link_message(str(path))
            return [str(path)]
    except PermissionError as error:
        search.errors[str(path)] = f"cannot be read ({error.strerror})"
        return [str(path)]
    except (OSError, ValueError):
        pass  # an invalid name
    if is_folder:
        files = list(search.pictures_below(str(path)))
    else:
        files = _matching(text, search) if glob.has_magic(text) else []
    if files:
        return files
    skipped = search.skipped.sentence()
    details = f" ({skipped})" if skipped else ""
    if glob.has_magic(text):
        raise InputError(f"{text}: the pattern matches nothing{details}", code="source.no_match")
    if os.path.isdir(text):  # noqa: PTH112 - false also for invalid names
        raise InputError(
            f"{text}: the folder contains no file that ends in {', '.join(sorted(SUFFIXES))}{details}",
            code="source.empty_folder",
        )
    raise InputError(f"{text}: no such file or folder{details}", code="source.missing")


def common_folder(paths: Sequence[str], files: Iterable[str]) -> str:
    """Return the innermost folder that contains all paths and files; for a single folder, that folder itself."""
    folders = {os.path.dirname(file) for file in files}  # noqa: PTH120 - a million of them
    for text in paths:
        path = Path(text)
        if path.exists():
            folders.add(str(path if path.is_dir() else path.parent))
        else:  # a glob: the folder before its first pattern
            folders.add(str(Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))))
    # Links are not resolved, because their targets may be anywhere.
    return os.path.commonpath([os.path.abspath(folder) for folder in folders]) if folders else ""  # noqa: PTH100


def relative_path_below(folder: str, file: str) -> Path:
    """Return the path of a file relative to a folder that contains it."""
    return Path(os.path.relpath(os.path.abspath(file), folder))  # noqa: PTH100 - as above


def _matching(pattern: str, search: PictureSearch) -> list[str]:
    """Return the files of a glob, and the folders that cannot be listed, which glob skips silently."""
    hidden = is_below_hidden(pattern)
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 - also absolute patterns
    matches = {str(Path(match)) for match in found if hidden or not is_below_hidden(match)}
    unlistable = set[str]()
    searched = os.path.dirname(pattern)  # noqa: PTH120
    while glob.has_magic(searched):
        folders = glob.iglob(os.path.join(searched, ""), recursive=True)  # noqa: PTH118, PTH207
        unlistable |= {str(Path(folder)) for folder in folders if not os.access(folder, os.R_OK | os.X_OK)}
        searched = os.path.dirname(searched)  # noqa: PTH120
    search.errors.update(dict.fromkeys(unlistable, "the folder cannot be listed (Permission denied)"))
    files: dict[str, None] = {}
    for match in sorted(matches | unlistable):
        is_folder = match not in unlistable and os.path.isdir(match)  # noqa: PTH112 - as above
        files.update(dict.fromkeys(search.pictures_below(match) if is_folder else [match]))
    return list(files)
