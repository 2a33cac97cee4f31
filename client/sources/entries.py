"""What one path or one address stands for: a picture, or all those that it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from tempfile import TemporaryFile
from typing import BinaryIO

from client.picture import Picture, as_text, picture_of_file
from client.sources.containers import Containers, container_of, unpacked, with_error_entry
from client.sources.content import FailedContent, Fetch
from client.sources.naming import is_address, is_web, path_of, public_name, public_place
from client.sources.stores import Store, open_store
from client.sources.web import Patience, fetch, fetch_into
from model.errors import InputError
from model.preprocess import ImageError


@dataclass(frozen=True)
class Reader:
    """Makes pictures of paths and addresses. Nothing is opened before it is taken; what is wrong is a picture too."""

    known: Containers
    patience: Patience

    def entry(self, text: str, folder: Path, place: PurePath) -> Iterator[Picture]:
        """An address, or a path that may be relative to a folder."""
        return self.address(text) if is_address(text) else self.file(folder / text, place)

    def file(self, path: Path, place: PurePath) -> Iterator[Picture]:
        """A file's picture or pictures."""
        container = container_of(path.name, self.known)
        if container is None:
            return iter((picture_of_file(path, place),))
        name = as_text(path)
        inside = unpacked(container, name, place.with_suffix(""), partial(open_file, path))
        return with_error_entry(name, place, inside)

    def address(self, address: str) -> Iterator[Picture]:
        """An address's picture or pictures."""
        if is_web(address):
            read_into = partial(fetch_into, address, patience=self.patience)
            return self._remote(address, partial(fetch, address, self.patience), read_into)
        try:
            store = open_store(address)
        except InputError as error:
            return iter((Picture(public_name(address), public_place(address), FailedContent(str(error))),))
        return self._remote(address, partial(store.read, store.path), partial(store.read_into, store.path))

    def stored(self, store: Store, path: str) -> Iterator[Picture]:
        """A file's picture or pictures, the file being in a store that is open."""
        return self._remote(store.name_of(path), partial(store.read, path), partial(store.read_into, path))

    def _remote(
        self, address: str, read: Callable[[], bytes], read_into: Callable[[BinaryIO], None]
    ) -> Iterator[Picture]:
        name, place = public_name(address), public_place(address)
        container = container_of(path_of(address), self.known)
        if container is None:
            return iter((Picture(name, place, Fetch(read)),))
        inside = unpacked(container, name, place.with_suffix(""), partial(_fetched_whole, read_into))
        return with_error_entry(name, place, inside)


def open_file(path: Path) -> BinaryIO:
    """A file to be read. Raises OSError, and ImageError for a name that no file has."""
    try:
        return path.open("rb")
    except ValueError as error:
        raise ImageError("no file can have this name") from error


def _fetched_whole(read_into: Callable[[BinaryIO], None]) -> BinaryIO:
    """A temporary file without a name: what holds many pictures must be read here and there."""
    file = TemporaryFile()  # noqa: SIM115 - whoever reads it closes it
    try:
        read_into(file)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file
