"""The pictures of a command: those of a table such as a collection's, or of a folder of class folders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonkit.errors import InputError
from tritonkit.evaluation.labelled_images import raise_if_any
from tritonkit.evaluation.provenance import Provenance, read_provenance, table_of
from tritonkit.evaluation.readers import read_table
from tritonkit.evaluation.samples.sample import IMAGE, LABEL
from tritonkit.images.picture_files import PictureSearch, pictures_below
from tritonkit.images.preprocess import read_picture
from tritonkit.remotes import is_address, local_path


@dataclass(frozen=True)
class Picture:
    """A picture file and the columns of its row."""

    path: Path
    name: str
    """The path below the folder of the pictures, or as the table has it."""
    columns: Mapping[str, Any]

    def read(self) -> tuple[bytes, str]:
        """Return the bytes of the file and their SHA-256. Raises ImageError."""
        data = read_picture(self.path)
        return data, hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class PictureSet:
    """Pictures with their folder and their provenance."""

    folder: Path | None
    """None for pictures at an address: what lies in the cache is not the user's."""
    pictures: tuple[Picture, ...]
    provenance: Provenance


def read_pictures(source: str) -> PictureSet:
    """Find the pictures of a folder, a table, or a collection.

    In a folder without a table, the first subfolder on the way to a picture is its label. Raises InputError, and
    DataError that lists all problems of a table.
    """
    path = table_of(local_path(source))
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise InputError(f"{source}: does not exist; expected a folder of pictures or a table", code="people.not_found")
    if path.is_dir():
        names = [(picture, picture.relative_to(path)) for picture in pictures_below(path, PictureSearch())]
        found = [Picture(p, str(name), {LABEL: name.parts[0]} if len(name.parts) > 1 else {}) for p, name in names]
    else:
        table = read_table(path)
        raise_if_any(path, table.problems)
        found = [_of_row(row, folder) for _, row in table.rows]
    if not found:
        raise InputError(f"{source}: has no pictures", code="people.no_pictures")
    return PictureSet(None if is_address(source) else folder, tuple(found), read_provenance(path))


def _of_row(row: Mapping[str, Any], folder: Path) -> Picture:
    path = Path(row[IMAGE])
    name = str(path.relative_to(folder.absolute()) if path.is_relative_to(folder.absolute()) else path)
    return Picture(path, name, {column: value for column, value in row.items() if column != IMAGE})
