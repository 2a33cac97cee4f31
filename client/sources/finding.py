"""Find out what each argument stands for: nothing is fetched or unpacked before its turn."""

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

from client.outputs.names import digest_of
from client.picture import Picture, as_text
from client.sources.containers import Containers, check, container_of, containers, with_error_entry
from client.sources.content import FailedContent, SpillBuffer
from client.sources.entries import Reader, open_file
from client.sources.lists import CSV_SUFFIXES, Column, is_list, lines
from client.sources.local import common_folder, find_files, place_below
from client.sources.naming import is_address, is_web, path_of, public_name, public_place, safe_place
from client.sources.stores import Store, has_pattern, open_store, why_nothing
from client.sources.web import Patience
from model.errors import InputError
from model.picture_files import PictureSearch, SkippedFiles
from model.preprocess import ImageError
from model.tables import path_of as path_of_cell

STDIN = "-"
_A_LIST = "not a picture, but a list; it is read from standard input: client infer - < {}"
DEFAULT_EVERY = 25
"""Of a video's frames, each so many-th: about one a second."""


@dataclass(frozen=True)
class PictureStream:
    """The pictures that are meant, each once, in an order that is the same the next time."""

    pictures: Iterable[Picture]
    """Made one by one, as they are taken; to be gone through once."""
    total: int | None
    """How many there are, where that is known beforehand; of a video, what its header says."""
    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    """What folders, archives and stores hold besides pictures; complete when all pictures were taken."""


def find(
    given: Sequence[str],
    *,
    column: str | None = None,
    null: bool = False,
    every: int = DEFAULT_EVERY,
    patience: Patience | None = None,
    stdin: BinaryIO | None = None,
) -> PictureStream:
    """Files, folders, globs, archives, videos, CSVs, addresses of any of them, and `-` for a list on stdin.

    column: of CSVs; default: the first there is of `lists.COLUMNS`. null: the list's entries end with NUL.
    every: of a video's frames, each so many-th. stdin: default: the process's own.
    Archives, videos and CSVs of this machine are opened to see that they can be, of a folder or glob elsewhere the
    first picture is looked up, of the list the first line is awaited; an address is not asked.
    Raises InputError that names everything that stands for nothing.
    """
    search = PictureSearch()
    reader = Reader(containers(every, SpillBuffer(), search.skipped), patience or Patience())
    given = list(dict.fromkeys(given))
    problems: dict[str, str] = {}
    files = _local_files(given, problems, search)
    base = common_folder(list(files), chain.from_iterable(files.values()))
    asked = _Asked(reader, column, null, stdin, base, search, containers(every, SpillBuffer()))
    sources = []
    for text in given:
        try:
            if text in files:
                sources.append(asked.files(files[text]))
            elif text == STDIN:
                sources.append(asked.listed())
            elif is_address(text):
                sources.append(asked.address(text))
        except InputError as error:
            problems[text] = str(error)
    useless = _useless(given, files, column, null)
    if said := [problems[text] for text in given if text in problems] + list(useless):
        raise InputError("no pictures to be found:\n" + indent("\n".join(said), "  "))
    totals = [source.total for source in sources]
    known = [total for total in totals if total is not None]
    pictures = chain.from_iterable(source.pictures for source in sources)
    return PictureStream(_each_once(pictures), sum(known) if len(known) == len(totals) else None, search.skipped)


def _local_files(given: Sequence[str], problems: dict[str, str], search: PictureSearch) -> dict[str, list[str]]:
    """The files of each argument of this machine, each file with the first that names it."""
    found: dict[str, list[str]] = {}
    seen = set[str]()
    for text in given:
        if text == STDIN or is_address(text):
            continue
        try:
            files = find_files(text, search)
        except InputError as error:
            problems[text] = str(error)
            continue
        found[text] = [file for file in files if file not in seen]
        seen.update(files)
    return found


def _useless(given: Sequence[str], files: dict[str, list[str]], column: str | None, null: bool) -> Iterator[str]:
    if null and STDIN not in given:
        yield f"--null: is for a list on standard input; give {STDIN}"
    if column is not None and not any(map(_is_csv, chain.from_iterable(files.values()))):
        yield f"--column {column}: is for a CSV, and none is given"


def _each_once(pictures: Iterable[Picture]) -> Iterator[Picture]:
    """The pictures whose names have not come before."""
    seen = set[bytes]()
    for picture in pictures:
        if (known := digest_of(picture.name)) not in seen:
            seen.add(known)
            yield picture


@dataclass(frozen=True)
class _Asked:
    """How what is given is to be understood."""

    reader: Reader
    column: str | None
    null: bool
    stdin: BinaryIO | None
    base: str
    """The folder below which files of this machine have their places."""
    search: PictureSearch
    checking: Containers
    """As the reader's, for a first look: what is skipped is not counted twice."""

    def files(self, files: Sequence[str]) -> PictureStream:
        """Files of this machine. Raises InputError for all that cannot be opened."""
        total: int | None = len(files)
        problems = []
        for file in files:
            try:
                more = self._checked(file)
                total = None if total is None or more is None else total + more - 1
            except InputError as error:
                problems.append(str(error))
        if problems:
            raise InputError("\n".join(problems))
        return PictureStream(chain.from_iterable(map(self._file, files)), total)

    def _checked(self, file: str) -> int | None:
        """How many pictures a file holds, if that is soon known."""
        if file in self.search.errors:
            return 1
        if _is_csv(file):
            Column(Path(file), self.column).check()
            return None
        if (container := container_of(file, self.checking)) is None:
            return 1
        try:
            return check(container, partial(open_file, Path(file)))
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror or error})") from error
        except (ImageError, InputError) as error:
            raise InputError(f"{file}: {error}") from error

    def _file(self, file: str) -> Iterator[Picture]:
        path, place = Path(file), place_below(self.base, file)
        if file in self.search.errors:
            return iter((Picture(as_text(path), place, FailedContent(self.search.errors[file])),))
        if is_list(path):
            return iter((Picture(as_text(path), place, FailedContent(_A_LIST.format(shlex.quote(as_text(path))))),))
        if not _is_csv(file):
            return self.reader.file(path, place)
        return with_error_entry(as_text(path), place, self._rows(Column(path, self.column)))

    def _rows(self, column: Column) -> Iterator[Picture]:
        for line, cell in column.cells():
            if cell:
                yield from self._picture_of(cell, column.path.parent)
            else:
                name = f"{as_text(column.path)}#line {line}"
                yield Picture(name, PurePath("line"), FailedContent("this line names no picture"))

    def _picture_of(self, cell: str, folder: Path) -> Iterator[Picture]:
        if is_address(cell):
            return self.reader.address(cell)
        return self.reader.file(path_of_cell(folder, cell), safe_place(cell))

    def listed(self) -> PictureStream:
        """The paths and addresses on standard input. Raises InputError for what is no list."""
        stdin = self.stdin or (sys.stdin and sys.stdin.buffer)  # None where it is closed
        coming = lines(stdin, self.null) if stdin else iter(())
        try:
            first = next(coming, None)
        except ImageError as error:
            raise InputError(f"{STDIN}: the list on standard input {error}") from error
        except OSError as error:
            why = error.strerror or error
            raise InputError(f"{STDIN}: the list on standard input cannot be read ({why})") from error
        if first is None:
            raise InputError(f"{STDIN}: the list on standard input is empty")
        return PictureStream(with_error_entry(STDIN, PurePath("list"), self._entries(chain([first], coming))), None)

    def _entries(self, texts: Iterable[str]) -> Iterator[Picture]:
        """Folders are skipped: `find` names them beside their files. One that cannot be listed is a row."""
        for text in texts:
            if is_address(text) or not os.path.isdir(text):  # noqa: PTH112 - false also for impossible names
                yield from self.reader.entry(text, Path(), safe_place(text))
            elif not os.access(text, os.R_OK | os.X_OK):
                reason = "the folder cannot be listed (Permission denied)"
                yield Picture(as_text(text), safe_place(text), FailedContent(reason))
            else:
                self.search.skipped.kinds["folders of a list"] += 1

    def address(self, address: str) -> PictureStream:
        """An address, or what a folder or glob of a store stands for. Raises InputError for one without pictures."""
        if _is_csv(path_of(address)):
            raise InputError(f"{public_name(address)}: a CSV is read on this machine; download it first")
        holds_many = container_of(path_of(address), self.reader.known) is not None
        if is_web(address):
            return PictureStream(self.reader.address(address), None if holds_many else 1)
        store = open_store(address, self.search.skipped)
        try:
            # As on this machine, what has the very name comes before what it matches.
            if has_pattern(address) and store.kind() is None:
                return self._matching(store)
            if address.endswith("/") or (not holds_many and store.kind() == "directory"):
                return self._below(store)
        except ImageError as error:
            raise InputError(f"{public_name(address)}: {error}") from error
        return PictureStream(self.reader.address(address), None if holds_many else 1)

    def _matching(self, store: Store) -> PictureStream:
        paths = store.matching()
        if not paths:
            raise ImageError(why_nothing(store.address))
        many = any(container_of(path, self.reader.known) for path in paths)
        pictures = chain.from_iterable(self.reader.stored(store, path) for path in paths)
        return PictureStream(pictures, None if many else len(paths))

    def _below(self, store: Store) -> PictureStream:
        coming = store.below()
        first = next(coming, None)
        if first is None:
            raise ImageError(why_nothing(store.address))
        name = public_name(store.address)
        return PictureStream(with_error_entry(name, public_place(name), chain([first], coming)), None)


def _is_csv(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in CSV_SUFFIXES  # noqa: PTH122 - a million of them
