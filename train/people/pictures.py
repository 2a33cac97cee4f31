"""The pictures of a command: those of a table such as a collection's, or of a folder of class folders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonkit.errors import InputError
from tritonkit.evaluation.labelled_images import raise_if_any
from tritonkit.evaluation.labelled_tables import part_paths
from tritonkit.evaluation.provenance import Provenance, read_provenance, table_of
from tritonkit.evaluation.readers import read_table
from tritonkit.evaluation.samples.sample import IMAGE, LABEL
from tritonkit.images.picture_files import PictureSearch, pictures_below
from tritonkit.images.preprocess import read_picture
from tritonkit.remotes import is_address, local_path
from tritonkit.system.files import as_unicode


@dataclass(frozen=True)
class Picture:
    """A picture file and the columns of its row."""

    path: Path
    name: str
    """The path below the folder of the pictures, or as the table has it, in valid Unicode."""
    columns: Mapping[str, Any]

    @property
    def shown(self) -> str:
        """The path of the file for messages, in valid Unicode."""
        return as_unicode(self.path)

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
    is_searched: bool
    """Whether each picture below the folder belongs to them, because there is no table."""


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
        _check_has_no_parts(path, source)
        found = [_in_folder(picture, path) for picture in pictures_below(path, PictureSearch())]
    else:
        table = read_table(path)
        raise_if_any(path, table.problems)
        found = [_of_row(row, folder) for _, row in table.rows]
    if not found:
        raise InputError(f"{source}: has no pictures", code="people.no_pictures")
    provenance = read_provenance(path)
    return PictureSet(None if is_address(source) else folder, tuple(found), provenance, is_searched=path.is_dir())


def _check_has_no_parts(folder: Path, source: str) -> None:
    """Refuse folders named like the parts of a data set, whose names would become labels."""
    parts = {*part_paths(folder), *(part for part in ("train", "val", "test") if (folder / part).is_dir())}
    if parts:
        raise InputError(
            f"{source}: has the parts {', '.join(sorted(parts))}, which are no labels; run the command on each part, "
            "or on a table of all pictures",
            code="people.parts",
        )


def _in_folder(path: Path, folder: Path) -> Picture:
    parts = path.relative_to(folder).parts
    columns = {LABEL: as_unicode(parts[0])} if len(parts) > 1 else {}
    return Picture(path, as_unicode(path.relative_to(folder)), columns)


def _of_row(row: Mapping[str, Any], folder: Path) -> Picture:
    path = Path(row[IMAGE])
    name = str(path.relative_to(folder.absolute()) if path.is_relative_to(folder.absolute()) else path)
    return Picture(path, as_unicode(name), {column: value for column, value in row.items() if column != IMAGE})
