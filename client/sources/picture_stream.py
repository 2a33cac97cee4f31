"""Find the pictures of all arguments. Nothing is downloaded or unpacked before its picture is taken."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path, PurePath
from textwrap import indent
from typing import BinaryIO

from client.name_set import name_digest
from client.picture import Picture, as_unicode
from client.sources.containers import (
    ContainerTypes,
    check_container,
    container_of,
    container_types,
    with_error_entry,
)
from client.sources.content import FailedContent, SpillBuffer
from client.sources.lists import CSV_SUFFIXES, Column, is_list, read_lines
from client.sources.local import common_folder, find_files, relative_path_below
from client.sources.naming import (
    address_path,
    is_address,
    is_web,
    public_name,
    public_relative_path,
    safe_relative_path,
)
from client.sources.resolver import Resolver, open_file
from client.sources.stores import Store, has_pattern, no_files_error, open_store
from client.sources.web import FetchPolicy
from tritonkit.errors import InputError, Problem
from tritonkit.images.picture_files import PictureSearch, SkippedFiles
from tritonkit.images.preprocess import ImageError
from tritonkit.system.tables import path_of as path_of_cell

STDIN = "-"
_LIST_MESSAGE = "is a list, not an image; read it from standard input: client infer - < {}"
DEFAULT_FRAME_STEP = 25
"""Use every Nth video frame: about one in a second."""


@dataclass(frozen=True)
class PictureStream:
    """The pictures of all arguments without duplicates, in the same order in every run."""

    pictures: Iterable[Picture]
    """Made one by one; can be iterated once."""
    total: int | None
    """Number of pictures, None if it is not known in advance. For a video it is an estimate from the header."""
    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    """Counts the files that are not images; complete after all pictures were taken."""


def find_pictures(
    paths: Sequence[str],
    *,
    column: str | None = None,
    null: bool = False,
    frame_step: int = DEFAULT_FRAME_STEP,
    policy: FetchPolicy | None = None,
    stdin: BinaryIO | None = None,
) -> PictureStream:
    """Return the pictures of files, folders, globs, archives, videos, CSVs, addresses, and `-` for a list on stdin.

    column: of CSVs; None uses the first column of `lists.IMAGE_COLUMNS` that exists. null: the list is separated by
    NUL. frame_step: use every Nth video frame. stdin: None uses the process's own.
    Local archives, videos and CSVs are opened to check them. Of a remote folder or glob the first picture is looked up,
    of the list the first line is read. Single addresses are not requested.
    Raises InputError that names all arguments without pictures.
    """
    search = PictureSearch()
    resolver = Resolver(container_types(frame_step, SpillBuffer(), search.skipped), policy or FetchPolicy())
    paths = list(dict.fromkeys(paths))
    problems: dict[str, Sequence[Problem]] = {}
    files = _local_files(paths, problems, search)
    base_folder = common_folder(list(files), chain.from_iterable(files.values()))
    arguments = _ArgumentResolver(
        resolver, column, null, stdin, base_folder, search, container_types(frame_step, SpillBuffer())
    )
    sources = []
    for text in paths:
        try:
            if text in files:
                sources.append(arguments.files(files[text]))
            elif text == STDIN:
                sources.append(arguments.stdin_list())
            elif is_address(text):
                sources.append(arguments.address(text))
        except InputError as error:
            problems[text] = _problems_in(error)
    all_problems = [problem for text in paths for problem in problems.get(text, ())]
    all_problems += _unused_options(paths, files, column, null)
    if all_problems:
        lines = indent("\n".join(problem.message for problem in all_problems), "  ")
        raise InputError(f"the arguments cannot be used:\n{lines}", code="source.invalid", problems=all_problems)
    totals = [source.total for source in sources]
    known_totals = [total for total in totals if total is not None]
    pictures = chain.from_iterable(source.pictures for source in sources)
    return PictureStream(
        _without_duplicates(pictures), sum(known_totals) if len(known_totals) == len(totals) else None, search.skipped
    )


def _problems_in(error: InputError) -> Sequence[Problem]:
    """Return the problems of an error, or the error itself as the only problem."""
    return error.problems or (Problem(error.code, str(error)),)


def _local_files(
    paths: Sequence[str], problems: dict[str, Sequence[Problem]], search: PictureSearch
) -> dict[str, list[str]]:
    """Return the local files of each argument; a file that several arguments name belongs to the first."""
    files_by_path: dict[str, list[str]] = {}
    known_files = set[str]()
    for text in paths:
        if text == STDIN or is_address(text):
            continue
        try:
            files = find_files(text, search)
        except InputError as error:
            problems[text] = _problems_in(error)
            continue
        files_by_path[text] = [file for file in files if file not in known_files]
        known_files.update(files)
    return files_by_path


def _unused_options(
    paths: Sequence[str], files: dict[str, list[str]], column: str | None, null: bool
) -> Iterator[Problem]:
    if null and STDIN not in paths:
        yield Problem("option.null_unused", f"--null: applies to a list on standard input; add the argument {STDIN}")
    if column is not None and not any(map(_is_csv, chain.from_iterable(files.values()))):
        yield Problem("option.column_unused", f"--column {column}: applies to CSVs, and the paths contain none")


def _without_duplicates(pictures: Iterable[Picture]) -> Iterator[Picture]:
    """Yield the pictures whose names did not occur before."""
    digests = set[bytes]()
    for picture in pictures:
        if (digest := name_digest(picture.name)) not in digests:
            digests.add(digest)
            yield picture


@dataclass(frozen=True)
class _ArgumentResolver:
    """Resolves the command's arguments to pictures."""

    resolver: Resolver
    column: str | None
    null: bool
    stdin: BinaryIO | None
    base_folder: str
    """The folder that relative paths of local files start from."""
    search: PictureSearch
    check_types: ContainerTypes
    """Container types for checks, so that skipped files are not counted twice."""

    def files(self, files: Sequence[str]) -> PictureStream:
        """Return the pictures of local files. Raises InputError that names all files that cannot be opened."""
        total: int | None = len(files)
        problems: list[Problem] = []
        for file in files:
            try:
                count = self._count_pictures(file)
                total = None if total is None or count is None else total + count - 1
            except InputError as error:
                problems += _problems_in(error)
        if problems:
            raise InputError(
                "\n".join(problem.message for problem in problems), code="source.unreadable", problems=problems
            )
        return PictureStream(chain.from_iterable(map(self._file_pictures, files)), total)

    def _count_pictures(self, file: str) -> int | None:
        """Return the number of pictures of a file; None if it is slow to find out."""
        if file in self.search.errors:
            return 1
        if _is_csv(file):
            Column(Path(file), self.column).check()
            return None
        if (container := container_of(file, self.check_types)) is None:
            return 1
        try:
            return check_container(container, partial(open_file, Path(file)))
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror or error})", code="source.unreadable") from error
        except ImageError as error:
            raise InputError(f"{file}: {error}", code="source.unreadable") from error
        except InputError as error:
            raise InputError(f"{file}: {error}", code=error.code) from error

    def _file_pictures(self, file: str) -> Iterator[Picture]:
        path, relative_path = Path(file), relative_path_below(self.base_folder, file)
        if file in self.search.errors:
            return iter((Picture(as_unicode(path), relative_path, FailedContent(self.search.errors[file])),))
        if is_list(path):
            message = _LIST_MESSAGE.format(shlex.quote(as_unicode(path)))
            return iter((Picture(as_unicode(path), relative_path, FailedContent(message)),))
        if not _is_csv(file):
            return self.resolver.resolve_file(path, relative_path)
        return with_error_entry(as_unicode(path), relative_path, self._csv_pictures(Column(path, self.column)))

    def _csv_pictures(self, column: Column) -> Iterator[Picture]:
        for line, cell in column.cells():
            if cell:
                yield from self._cell_pictures(cell, column.path.parent)
            else:
                name = f"{as_unicode(column.path)}#line {line}"
                yield Picture(name, PurePath("line"), FailedContent("the line has no path of an image"))

    def _cell_pictures(self, cell: str, folder: Path) -> Iterator[Picture]:
        if is_address(cell):
            return self.resolver.resolve_address(cell)
        return self.resolver.resolve_file(path_of_cell(folder, cell), safe_relative_path(cell))

    def stdin_list(self) -> PictureStream:
        """Return the pictures of the list on standard input. Raises InputError if it is not a list."""
        stdin = self.stdin or (sys.stdin and sys.stdin.buffer)  # None if stdin is closed
        stream = read_lines(stdin, self.null) if stdin else iter(())
        try:
            first = next(stream, None)
        except ImageError as error:
            raise InputError(f"{STDIN}: the list on standard input {error}", code="list.invalid") from error
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"{STDIN}: the list on standard input cannot be read ({reason})", code="list.unreadable"
            ) from error
        if first is None:
            raise InputError(f"{STDIN}: the list on standard input is empty", code="list.empty")
        return PictureStream(
            with_error_entry(STDIN, PurePath("list"), self._list_pictures(chain([first], stream))), None
        )

    def _list_pictures(self, texts: Iterable[str]) -> Iterator[Picture]:
        """Yield the pictures of a list. Folders are skipped, as `find` prints them too; an unreadable one is a row."""
        for text in texts:
            if is_address(text) or not os.path.isdir(text):  # noqa: PTH112 - false also for invalid names
                yield from self.resolver.resolve(text, Path(), safe_relative_path(text))
            elif not os.access(text, os.R_OK | os.X_OK):
                reason = "the folder cannot be listed (Permission denied)"
                yield Picture(as_unicode(text), safe_relative_path(text), FailedContent(reason))
            else:
                self.search.skipped.kinds["folders of a list"] += 1

    def address(self, address: str) -> PictureStream:
        """Return the pictures of an address, or of a folder or glob of a store. Raises InputError if there are none."""
        if _is_csv(address_path(address)):
            raise InputError(
                f"{public_name(address)}: a CSV must be a local file; download it first", code="csv.remote"
            )
        is_container = container_of(address_path(address), self.resolver.container_types) is not None
        if is_web(address):
            return PictureStream(self.resolver.resolve_address(address), None if is_container else 1)
        store = open_store(address, self.search.skipped)
        try:
            # As for local paths, a file with exactly this name wins over a glob.
            if has_pattern(address) and store.kind() is None:
                return self._glob_pictures(store)
            if address.endswith("/") or (not is_container and store.kind() == "directory"):
                return self._folder_pictures(store)
        except ImageError as error:
            raise InputError(f"{public_name(address)}: {error}", code="source.unreadable") from error
        return PictureStream(self.resolver.resolve_address(address), None if is_container else 1)

    def _glob_pictures(self, store: Store) -> PictureStream:
        paths = store.matching()
        if not paths:
            raise no_files_error(store.address)
        has_container = any(container_of(path, self.resolver.container_types) for path in paths)
        pictures = chain.from_iterable(self.resolver.resolve_stored(store, path) for path in paths)
        return PictureStream(pictures, None if has_container else len(paths))

    def _folder_pictures(self, store: Store) -> PictureStream:
        stream = store.below()
        first = next(stream, None)
        if first is None:
            raise no_files_error(store.address)
        name = public_name(store.address)
        return PictureStream(with_error_entry(name, public_relative_path(name), chain([first], stream)), None)


def _is_csv(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in CSV_SUFFIXES  # noqa: PTH122 - a million of them
