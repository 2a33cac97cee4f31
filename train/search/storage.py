"""Where a study is kept: a SQLite file, or PostgreSQL by its address."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import URL, Engine, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from train.databases import SQLITE, database_address, public_address
from tritonkit.errors import ConfigError, ExternalError, first_line

VARIABLE = "TRITONKIT_STUDY"
SQLITE_FILE = "study.db"
_CONNECT_S = 10
_SQLITE_WAIT_S = 60.0
_LOCK_CLASS = 0x7472
"""The first key of our advisory locks in PostgreSQL; the second one is the study's."""
ALL_STUDIES = 0
"""The second key of a lock on the database."""


def study_address(option: str | None, folder: Path) -> URL:
    """Return the address of the database: the option's, else that of the environment or `.env`, else a file.

    Raises ConfigError for an address that is no database that can be used, and for a password in the option.
    """
    address = database_address(option, "--storage", VARIABLE, "search")
    return address or URL.create(SQLITE, database=str(folder.absolute() / SQLITE_FILE))


def open_storage(address: URL) -> RDBStorage:
    """Connect to the database, and create Optuna's tables if they are missing.

    Raises ExternalError if the database does not answer, ConfigError if the folder of a file cannot be written.
    """
    if address.drivername == SQLITE:
        options: dict[str, object] = {"connect_args": {"timeout": _SQLITE_WAIT_S}}
    else:
        options = {"pool_pre_ping": True, "connect_args": {"connect_timeout": _CONNECT_S}}
    url = address.render_as_string(hide_password=False)
    with translate_storage_errors(address), exclusive(create_engine(url, **options), ALL_STUDIES):
        return RDBStorage(url, engine_kwargs=options)


@contextmanager
def translate_storage_errors(address: URL) -> Iterator[None]:
    """Raise ExternalError in place of the errors of the database while the block runs."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ExternalError(
            f"{public_address(address)}: the study's database failed ({first_line(cause)}); when it answers again, "
            "continue with the same command",
            code="search.storage_failed",
        ) from error


@contextmanager
def exclusive(engine: Engine, study_id: int) -> Iterator[None]:
    """Keep other processes from changing a study while the block runs; wait for those that do.

    Raises ConfigError if the folder of a SQLite file cannot be written.
    """
    if engine.name != SQLITE:
        with engine.begin() as connection:  # the lock ends with the transaction, or with this process
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK_CLASS}, {study_id})"))
            yield
        return
    path = Path(f"{engine.url.database}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise ConfigError(
            f"{path.parent}: cannot be written ({error.strerror}); name another --storage or --folder",
            code="search.storage_not_writable",
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
