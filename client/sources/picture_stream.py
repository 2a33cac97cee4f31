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

from client.picture import Picture, name_digest
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
from client.sources.naming import public_relative_path, safe_relative_path
from client.sources.resolver import Resolver, open_file
from client.sources.stores import has_pattern, no_files_error, open_store
from client.sources.web import FetchPolicy
from tritonkit.errors import InputError, Problem
from tritonkit.images.picture_files import PictureSearch, SkippedFiles
from tritonkit.images.preprocess import ImageError
from tritonkit.remotes.addresses import address_path, is_address, is_web, public_name
from tritonkit.system.files import as_unicode
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
    files: dict[str, list[str]] = {}
    known_files = set[str]()
    for text in paths:
        if text != STDIN and not is_address(text):
            try:
                found = find_files(text, search)
            except InputError as error:
                problems[text] = _problems_in(error)
                continue
            # A file that several arguments name belongs to the first.
            files[text] = [file for file in found if file not in known_files]
            known_files.update(found)
    base_folder = common_folder(list(files), chain.from_iterable(files.values()))
    arguments = _ArgumentResolver(resolver, column, base_folder, search, container_types(frame_step, SpillBuffer()))
    sources = []
    for text in paths:
        try:
            if text in files:
                sources.append(arguments.files(files[text]))
            elif text == STDIN:
                sources.append(arguments.stdin_list(stdin, null))
            elif is_address(text):
                sources.append(arguments.address(text))
        except InputError as error:
            problems[text] = _problems_in(error)
    all_problems = [problem for text in paths for problem in problems.get(text, ())]
    if null and STDIN not in paths:
        message = f"--null: applies to a list on standard input; add the argument {STDIN}"
        all_problems.append(Problem("option.null_unused", message))
    if column is not None and not any(map(_is_csv, chain.from_iterable(files.values()))):
        message = f"--column {column}: applies to CSVs, and the paths contain none"
        all_problems.append(Problem("option.column_unused", message))
    if all_problems:
        lines = indent("\n".join(problem.message for problem in all_problems), "  ")
        raise InputError(f"the arguments cannot be used:\n{lines}", code="source.invalid", problems=all_problems)

    def without_duplicates() -> Iterator[Picture]:
        digests = set[bytes]()
        for picture in chain.from_iterable(source.pictures for source in sources):
            if (digest := name_digest(picture.name)) not in digests:
                digests.add(digest)
                yield picture

    totals = [source.total for source in sources if source.total is not None]
    return PictureStream(without_duplicates(), sum(totals) if len(totals) == len(sources) else None, search.skipped)


@dataclass(frozen=True)
class _ArgumentResolver:
    """Resolves the command's arguments to pictures."""

    resolver: Resolver
    column: str | None
    base_folder: str
    """The folder that relative paths of local files start from."""
    search: PictureSearch
    check_types: ContainerTypes
    """Container types for checks, so that skipped files are not counted twice."""

    def files(self, files: Sequence[str]) -> PictureStream:
        """Return the pictures of local files. Raises InputError that names all files that cannot be opened."""
        counts: list[int | None] = []
        problems: list[Problem] = []
        for file in files:
            try:
                counts.append(self._count_pictures(file))
            except InputError as error:
                problems += _problems_in(error)
        if problems:
            raise InputError(
                "\n".join(problem.message for problem in problems), code="source.unreadable", problems=problems
            )
        known = [count for count in counts if count is not None]
        pictures = chain.from_iterable(map(self._file_pictures, files))
        return PictureStream(pictures, sum(known) if len(known) == len(counts) else None)

    def _count_pictures(self, file: str) -> int | None:
        """Return the number of pictures of a file; None if it is slow to find out. Raises InputError."""
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

        def csv_pictures() -> Iterator[Picture]:
            for line, cell in Column(path, self.column).cells():
                if not cell:
                    failed = FailedContent("the line has no path of an image")
                    yield Picture(f"{as_unicode(path)}#line {line}", PurePath("line"), failed)
                elif is_address(cell):
                    yield from self.resolver.resolve_address(cell)
                else:
                    yield from self.resolver.resolve_file(path_of_cell(path.parent, cell), safe_relative_path(cell))

        return with_error_entry(as_unicode(path), relative_path, csv_pictures())

    def stdin_list(self, stdin: BinaryIO | None, null: bool) -> PictureStream:
        """Return the pictures of the list on standard input. Raises InputError if it is not a list.

        Folders are skipped, as `find` prints them too; an unreadable one is an error row.
        """
        stream = stdin or (sys.stdin and sys.stdin.buffer)  # None if stdin is closed
        lines = read_lines(stream, null) if stream else iter(())
        try:
            first = next(lines, None)
        except ImageError as error:
            raise InputError(f"{STDIN}: the list on standard input {error}", code="list.invalid") from error
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"{STDIN}: the list on standard input cannot be read ({reason})", code="list.unreadable"
            ) from error
        if first is None:
            raise InputError(f"{STDIN}: the list on standard input is empty", code="list.empty")

        def listed_pictures() -> Iterator[Picture]:
            for text in chain([first], lines):
                if is_address(text):
                    yield from self.resolver.resolve_address(text)
                elif not os.path.isdir(text):  # noqa: PTH112 - false also for invalid names
                    yield from self.resolver.resolve_file(Path(text), safe_relative_path(text))
                elif not os.access(text, os.R_OK | os.X_OK):
                    reason = "the folder cannot be listed (Permission denied)"
                    yield Picture(as_unicode(text), safe_relative_path(text), FailedContent(reason))
                else:
                    self.search.skipped.kinds["folders of a list"] += 1

        return PictureStream(with_error_entry(STDIN, PurePath("list"), listed_pictures()), None)

    def address(self, address: str) -> PictureStream:
        """Return the pictures of an address, or of a folder or glob of a store. Raises InputError if there are none."""
        types = self.resolver.container_types
        name = public_name(address)
        if _is_csv(address_path(address)):
            raise InputError(f"{name}: a CSV must be a local file; download it first", code="csv.remote")
        is_container = container_of(address_path(address), types) is not None
        single = PictureStream(self.resolver.resolve_address(address), None if is_container else 1)
        if is_web(address):
            return single
        store = open_store(address, self.search.skipped)
        try:
            # As for local paths, a file with exactly this name wins over a glob.
            if has_pattern(address) and store.kind() is None:
                paths = store.matching()
                if not paths:
                    raise no_files_error(store.address)
                has_container = any(container_of(path, types) for path in paths)
                pictures = chain.from_iterable(self.resolver.resolve_stored(store, path) for path in paths)
                return PictureStream(pictures, None if has_container else len(paths))
            if address.endswith("/") or (not is_container and store.kind() == "directory"):
                stream = store.below()
                first = next(stream, None)
                if first is None:
                    raise no_files_error(store.address)
                stored = with_error_entry(name, public_relative_path(name), chain([first], stream))
                return PictureStream(stored, None)
        except ImageError as error:
            raise InputError(f"{name}: {error}", code="source.unreadable") from error
        return single


def _problems_in(error: InputError) -> Sequence[Problem]:
    """Return the problems of an error, or the error itself as the only problem."""
    return error.problems or (Problem(error.code, str(error)),)


def _is_csv(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in CSV_SUFFIXES  # noqa: PTH122 - a million of them
