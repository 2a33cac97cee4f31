"""Resolve one path or address to its picture or pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from tempfile import TemporaryFile
from typing import BinaryIO

from client.picture import Picture, picture_of_file
from client.sources.containers import ContainerTypes, container_of, with_error_entry
from client.sources.content import FailedContent, Fetch
from client.sources.naming import public_relative_path
from client.sources.stores import Store, open_store
from client.sources.web import FetchPolicy, fetch, fetch_into
from tritonkit.errors import InputError
from tritonkit.images.preprocess import ImageError
from tritonkit.remotes.addresses import address_path, is_web, public_name


@dataclass(frozen=True)
class Resolver:
    """Makes pictures of paths and addresses. Files are opened when a picture is taken; errors become pictures too."""

    container_types: ContainerTypes
    policy: FetchPolicy

    def resolve_file(self, path: Path, relative_path: PurePath) -> Iterator[Picture]:
        """Return the pictures of a local file."""
        picture = picture_of_file(path, relative_path)
        return self._resolve(picture, path.name, partial(open_file, path))

    def resolve_address(self, address: str) -> Iterator[Picture]:
        """Return the pictures of an address."""
        if is_web(address):
            read_into = partial(fetch_into, address, policy=self.policy)
            return self._resolve_remote(address, partial(fetch, address, self.policy), read_into)
        try:
            store = open_store(address)
        except InputError as error:
            return iter((Picture(public_name(address), public_relative_path(address), FailedContent(str(error))),))
        return self._resolve_remote(address, partial(store.read, store.path), partial(store.read_into, store.path))

    def resolve_stored(self, store: Store, path: str) -> Iterator[Picture]:
        """Return the pictures of a file in an open store."""
        return self._resolve_remote(store.name_of(path), partial(store.read, path), partial(store.read_into, path))

    def _resolve_remote(
        self, address: str, read: Callable[[], bytes], read_into: Callable[[BinaryIO], None]
    ) -> Iterator[Picture]:
        def download() -> BinaryIO:
            """Download to an unnamed temporary file, because a container is read at many offsets."""
            file = TemporaryFile()  # noqa: SIM115 - the reader closes it
            try:
                read_into(file)
                file.seek(0)
            except BaseException:
                file.close()
                raise
            return file

        picture = Picture(public_name(address), public_relative_path(address), Fetch(read))
        return self._resolve(picture, address_path(address), download)

    def _resolve(self, picture: Picture, file_name: str, open_container: Callable[[], BinaryIO]) -> Iterator[Picture]:
        """Return the picture, or where `file_name` is that of a container, the pictures in it."""
        container = container_of(file_name, self.container_types)
        if container is None:
            return iter((picture,))

        def unpack() -> Iterator[Picture]:  # opens the container when its first picture is taken
            yield from container.pictures(open_container(), picture.name, picture.relative_path.with_suffix(""))

        return with_error_entry(picture.name, picture.relative_path, unpack())


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading. Raises OSError, and ImageError for an invalid name."""
    try:
        return path.open("rb")
    except ValueError as error:
        raise ImageError("the file name is invalid") from error
