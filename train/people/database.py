"""The database of masks: a row for each picture, and a row for each object in it.

A picture is known by the SHA-256 of its file, so copies share their masks, and a folder can move. A picture's row and
all its masks are written in one transaction.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    create_engine,
    delete,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateTable

from train.databases import SQLITE, database_address, public_address
from tritonkit.errors import ExternalError, InputError, first_line
from tritonkit.images.crops import MaskedObject
from tritonkit.images.objects import from_rle, to_rle
from tritonkit.system.files import check_can_write

VARIABLE = "TRITONKIT_MASKS"
SQLITE_FILE = "masks.db"
_CONNECT_S, _SQLITE_WAIT_S = 10, 60.0
_CREATION = -1
"""The key of our advisory lock in PostgreSQL while tables are created; no picture has it."""
_TABLES = MetaData()
PICTURES = Table(
    "pictures",
    _TABLES,
    Column("sha256", String(64), primary_key=True),
    Column("path", Text, nullable=False),
    Column("status", String(8), nullable=False),
    Column("error", Text),
    Column("width", Integer),
    Column("height", Integer),
    Column("objects", Integer, nullable=False),
    Column("model", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("min_share", Float, nullable=False),
    Column("time", Float, nullable=False),
)
MASKS = Table(
    "masks",
    _TABLES,
    Column("sha256", String(64), ForeignKey(PICTURES.c.sha256), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("x", Integer, nullable=False),
    Column("y", Integer, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("area", Integer, nullable=False),
    Column("counts", Text, nullable=False),
)


@dataclass(frozen=True)
class MaskSettings:
    """What masks were made with."""

    model: str
    """The name of the model, and a digest or the version of it."""
    label: str
    min_share: float


@dataclass(frozen=True)
class PictureMasks:
    """A picture and the objects in it, or the reason why it has none."""

    sha256: str
    path: str
    """The path below its folder; for people, not for programs."""
    size: tuple[int, int] | None
    """Width and height of the upright picture; None if it could not be decoded."""
    objects: Sequence[MaskedObject]
    error: str | None = None


@dataclass(frozen=True)
class StoredPicture:
    """The row of a picture, without its masks."""

    sha256: str
    is_done: bool
    error: str | None
    settings: MaskSettings
    time: float
    """When it was written, in seconds since 1970."""


class MaskDatabase:
    """Masks in SQLite or PostgreSQL. Several processes may use it at once."""

    def __init__(self, address: URL) -> None:
        """Connect, and create the tables if they are missing. Raises ExternalError, InputError."""
        self.name = public_address(address)
        self._is_sqlite = address.drivername == SQLITE
        connect = {"timeout": _SQLITE_WAIT_S} if self._is_sqlite else {"connect_timeout": _CONNECT_S}
        self._engine: Engine = create_engine(address, pool_pre_ping=True, connect_args=connect)
        with self._transaction() as connection:
            if not self._is_sqlite:  # IF NOT EXISTS fails there when two processes create a table at once
                connection.execute(select(func.pg_advisory_xact_lock(_CREATION)))
            for table in _TABLES.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))

    def pictures(self, digests: Collection[str]) -> dict[str, StoredPicture]:
        """Return the rows of these pictures that exist, by SHA-256."""
        with self._transaction() as connection:
            rows = connection.execute(select(PICTURES).where(PICTURES.c.sha256.in_(digests))).all()
        return {row.sha256: _stored_picture(row) for row in rows}

    def read(self, digest: str) -> tuple[StoredPicture | None, list[MaskedObject]]:
        """Return the row of a picture, if it exists, and its objects in the order of their numbers.

        One query reads both, so they are of one model also while `train segment` replaces them.
        """
        query = select(PICTURES, MASKS.c.counts).outerjoin(MASKS).where(PICTURES.c.sha256 == digest)
        with self._transaction() as connection:
            rows = connection.execute(query.order_by(MASKS.c.number)).all()
        objects = [from_rle(row.counts, (row.width, row.height)) for row in rows if row.counts is not None]
        return (_stored_picture(rows[0]) if rows else None), objects

    def save(self, pictures: Iterable[PictureMasks], settings: MaskSettings) -> None:
        """Replace the rows and masks of pictures in one transaction.

        Two processes that save one picture at the same time do so one after the other.
        """
        insert: Any = sqlite.insert if self._is_sqlite else postgresql.insert
        with self._transaction() as connection:
            for picture in sorted(pictures, key=lambda picture: picture.sha256):  # one order, so no deadlock
                row = _picture_row(picture, settings)
                statement = insert(PICTURES).values(row)
                connection.execute(statement.on_conflict_do_update(index_elements=["sha256"], set_=row))
                connection.execute(delete(MASKS).where(MASKS.c.sha256 == picture.sha256))
                if picture.objects:
                    connection.execute(MASKS.insert(), _mask_rows(picture))

    @contextmanager
    def claim(self, digests: Collection[str]) -> Iterator[set[str]]:
        """Yield those of the pictures that no other process has claimed; they are free again after the block.

        A claim ends with its process, also with a killed one: it is an advisory lock of PostgreSQL, or for SQLite a
        lock on one byte of a file. Claims save work; without them the masks would be right too.
        """
        if not self._is_sqlite:
            with self._transaction() as connection:
                lock = func.pg_try_advisory_xact_lock
                yield {digest for digest in digests if connection.scalar(select(lock(_lock_number(digest))))}
            return
        with Path(f"{self._engine.url.database}.lock").open("ab") as file:
            yield {digest for digest in digests if _lock_byte(file, _lock_number(digest))}

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise ExternalError(
                f"{self.name}: the database of masks failed ({first_line(error.__cause__ or error)}); when it answers "
                "again, continue with the same command",
                code="people.database_failed",
            ) from error


def mask_database(option: str | None, folder: Path | None, create: bool = True) -> MaskDatabase:
    """Open the database of the option, else of the environment or `.env`, else a SQLite file in the folder.

    create: create a SQLite file that is missing. Raises InputError for an address that cannot be used, for a password
    in the option, and for a missing file; ExternalError if the database does not answer.
    """
    address = database_address(option, "--database", VARIABLE, "people")
    if address is None and folder is None:
        raise InputError(
            f"the pictures are at an address, so masks cannot lie next to them; set --database or {VARIABLE}",
            code="people.database_missing",
        )
    address = address or URL.create(SQLITE, database=f"{folder}/{SQLITE_FILE}")
    if address.drivername == SQLITE:
        file = Path(str(address.database))
        if not create and not file.is_file():
            raise InputError(
                f"{file}: no such database of masks; `train segment` makes one", code="people.database_not_found"
            )
        check_can_write(file)
        file.parent.mkdir(parents=True, exist_ok=True)
    return MaskDatabase(address)


def _stored_picture(row: Row[Any]) -> StoredPicture:
    return StoredPicture(
        sha256=row.sha256,
        is_done=row.status == "done",
        error=row.error,
        settings=MaskSettings(row.model, row.label, row.min_share),
        time=row.time,
    )


def _picture_row(picture: PictureMasks, settings: MaskSettings) -> dict[str, Any]:
    width, height = picture.size or (None, None)
    return {
        "sha256": picture.sha256,
        "path": picture.path,
        "status": "done" if picture.error is None else "failed",
        "error": picture.error,
        "width": width,
        "height": height,
        "objects": len(picture.objects),
        "model": settings.model,
        "label": settings.label,
        "min_share": settings.min_share,
        "time": time.time(),
    }


def _mask_rows(picture: PictureMasks) -> list[dict[str, Any]]:
    rows = []
    for number, found in enumerate(picture.objects):
        left, top, right, bottom = found.box
        box = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        counts = to_rle(found, picture.size or (0, 0))
        rows.append(
            {"sha256": picture.sha256, "number": number, **box, "area": int(found.mask.sum()), "counts": counts}
        )
    return rows


def _lock_number(digest: str) -> int:
    """Return a number of 60 bits: the key of an advisory lock, or a position in a file."""
    return int(digest[:15], 16)


def _lock_byte(file: IO[bytes], position: int) -> bool:
    """Lock a byte of a file, which need not exist; return whether no other process has locked it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, position)
    except OSError:
        return False
    return True
