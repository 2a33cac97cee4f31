"""A job of `client infer --output`: one SQLite file with the settings, and a row for each image.

The file is `<first output>.job`. The output files are written from it when all images are answered, and contain nothing
that it lacks. So a job that was stopped at any moment continues with the images that have no row, and a finished job is
extended with new images.

| table | columns |
|---|---|
| `job` | `settings`: JobSettings as JSON; `written`: the last row in the output files; `complete`: they have all rows |
| `row` | `id`: order; `name` of the image; `failed`; `json`: the row's JSON object |
| `file` | `sha256` of each output file that this job put, or will put, into place: other files are not replaced |
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from client.infer import Row
from client.outputs.formats import FORMATS
from tritonkit.errors import ExternalError, InputError, is_external_failure
from tritonkit.runtimes import Runner
from tritonkit.runtimes.formats import model_files
from tritonkit.spec import Frozen
from tritonkit.system.files import atomic_write, delete_partial_files, file_sha256
from tritonkit.tasks import Answer

PrintMessage = Callable[[str], None]
_APPLICATION_ID = 0x746B6A62
"""In the file's header: a job of tritonkit."""
_COMMIT_S = 0.1
"""Seconds of answers between two commits."""
_SCHEMA = f"""
BEGIN;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = 1;
CREATE TABLE job (settings TEXT NOT NULL, written INTEGER NOT NULL, complete INTEGER NOT NULL);
CREATE TABLE row (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, failed INTEGER NOT NULL, json TEXT NOT NULL
);
CREATE TABLE file (sha256 TEXT NOT NULL);
COMMIT;
"""


class JobSettings(Frozen):
    """Everything that rows depend on except the images. Batch size and address are left out: they change no answer."""

    model: str
    version: str = ""
    """The version of the served model; empty for an artifact."""
    file: str = ""
    """SHA-256 of the artifact; empty for a server."""
    spec: str
    """SHA-256 of the model's spec without its lineage."""
    top: int
    threshold: float | None = None
    tta: str = ""
    """The averaged views of each image; empty without test-time augmentation."""
    classes: tuple[str, ...] = ()
    """The labels of the filter; empty without one."""
    min_probability: float | None = None
    """The minimum probability of the filter; None without one."""
    drawn: dict[str, str] = {}
    """The folders of drawn files, by row key."""
    background: str | None = None
    outputs: tuple[str, ...] = ()
    """The names of the output files, the first output first."""

    @property
    def has_filter(self) -> bool:
        """Whether rows say if a filter keeps them."""
        return bool(self.classes) or self.min_probability is not None

    def check_same(self, previous: JobSettings, path: Path) -> None:
        """Refuse to continue the job of the output `path` with other settings. Raises InputError that names them."""
        titles = {"file": "artifact", "spec": "spec of the model", "drawn": "folders of drawings"}
        changed = [
            f"  {titles.get(name, name)}: was {_display(old)}, is {_display(getattr(self, name))} now"
            for name, old in previous
            if old != getattr(self, name)
        ]
        if changed:
            differences = "\n".join(changed)
            raise InputError(
                f"{path}: its answers were made with other settings:\n{differences}\n"
                "Use the same settings, set another --output, or start over with --overwrite",
                code="output.other_settings",
            )


def _display(value: object) -> str:
    text = str(value)
    if len(text) == 64:  # a digest
        return text[:12]
    return text if value not in (None, "", (), {}) else "none"


def job_settings_of(
    runner: Runner,
    source: Path | None,
    top: int,
    threshold: float | None,
    tta: str | None = None,
    classes: Sequence[str] = (),
    min_probability: float | None = None,
) -> JobSettings:
    """Return the settings of a job with a runner that is not wrapped yet.

    source: the artifact of the runner, None for a server, whose current version is asked for. Raises InferenceError.
    """
    from tritonkit.triton.runner import TritonRunner

    spec = runner.spec.public().to_json()
    version = digest = ""
    if source is not None:
        digests = [file_sha256(path) for path in model_files(source)]
        digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    elif isinstance(runner, TritonRunner):
        version = runner.version or runner.server.version(runner.model)
    return JobSettings(
        model=runner.spec.name,
        version=version,
        file=digest,
        spec=hashlib.sha256(spec.encode()).hexdigest(),
        top=top,
        threshold=threshold,
        tta=tta or "",
        classes=tuple(sorted(classes)),
        min_probability=min_probability,
    )


def job_path(path: Path) -> Path:
    """Return the path of the job whose first output is `path`."""
    return path.with_name(f"{path.name}.job")


class Job:
    """An open job, owned by this process."""

    def __init__(self, outputs: Sequence[Path], database: sqlite3.Connection) -> None:
        self.path = outputs[0]
        """The first output, which identifies the job."""
        self.earlier = self.earlier_failed = 0
        """Images with a row of an earlier client; those that failed and are in no output file yet."""
        self.has_nothing_new = False
        """Whether the output files had all rows already when the job ended."""
        self._outputs = outputs
        self._database = database
        self._committed = time.monotonic()

    @property
    def rows_count(self) -> int:
        """Number of rows."""
        return int(self._value("SELECT count(*) FROM row"))

    @property
    def is_complete(self) -> bool:
        """Whether the output files have all rows."""
        return bool(self._value("SELECT complete FROM job")) and all(file.exists() for file in self._files())

    @property
    def has_outputs(self) -> bool:
        """Whether the job has put output files into place."""
        return bool(self._value("SELECT count(*) FROM file"))

    def has_row(self, name: str) -> bool:
        """Whether the image has a row already."""
        with _database_errors(job_path(self.path)):
            return self._database.execute("SELECT 1 FROM row WHERE name = ?", [name]).fetchone() is not None

    def rows(self, only_new: bool = False) -> Iterator[str]:
        """Yield the JSON text of the rows in order. only_new: without those that the output files had at the start."""
        after = self._value("SELECT written FROM job") if only_new else 0
        for (text,) in self._database.execute("SELECT json FROM row WHERE id > ? ORDER BY id", [after]):
            yield text

    def write(self, row: Row) -> None:
        """Add a row. Raises ExternalError if the disk is full; the rows of before are kept."""
        with _database_errors(job_path(self.path)):
            if not self._database.in_transaction:
                self._database.execute("BEGIN")
                self._database.execute("UPDATE job SET complete = 0")
            values = (row.name, row.answer is None, json.dumps(row.as_json(), ensure_ascii=False))
            self._database.execute("INSERT INTO row (name, failed, json) VALUES (?, ?, ?)", values)
            if time.monotonic() - self._committed > _COMMIT_S:
                self.commit()

    def commit(self) -> None:
        """Keep the rows written so far, whatever happens to this process."""
        with _database_errors(job_path(self.path)):
            self._database.commit()
        self._committed = time.monotonic()

    def finish(self, example: Answer) -> None:
        """Write the output files, the first output last.

        Raises ExternalError if they cannot be written, InputError if other files now have their names; the rows then
        stay in the job.
        """
        self.commit()
        self.has_nothing_new = self.is_complete
        if self.has_nothing_new:
            return
        digests: list[str] = []
        try:
            for path in (*self._outputs[1:], self.path):
                output_format = FORMATS[path.suffix]
                files = output_format.files(path)
                with ExitStack() as stack:
                    # The context that is entered last renames its file first.
                    partial_files = [stack.enter_context(atomic_write(file)) for file in reversed(files)][::-1]
                    output_format.write(partial_files, self.rows(), example)
                    self._check_own(files)
                    new_digests = list(map(file_sha256, partial_files))
                    self._database.executemany("INSERT INTO file VALUES (?)", [[digest] for digest in new_digests])
                    self.commit()
                    digests += new_digests
        except OSError as error:
            reason = error.strerror or error
            raise ExternalError(
                f"{error.filename or self.path}: cannot be written ({reason})", code="output.not_writable"
            ) from error
        self._database.execute("BEGIN")
        self._database.execute("DELETE FROM file")
        self._database.executemany("INSERT INTO file VALUES (?)", [[digest] for digest in digests])
        self._database.execute("UPDATE job SET complete = 1, written = (SELECT coalesce(max(id), 0) FROM row)")
        self.commit()

    def start(self, settings: JobSettings, overwrite: bool, retry_failed: bool) -> None:
        """Start the job, or continue it if it has these settings. Raises InputError; all files then stay unchanged."""
        if overwrite:
            self._clear()
            old_settings, old_rows = _files_of_version_0_1(self.path)
            for file in (*self._files(), *([old_settings, old_rows] if old_settings.exists() else [])):
                file.unlink(missing_ok=True)
        previous = str(self._value("SELECT settings FROM job"))
        is_deleted = bool(self._value("SELECT complete FROM job")) and not any(file.exists() for file in self._files())
        if previous and is_deleted and JobSettings.model_validate_json(previous) != settings:
            self._clear()  # its outputs were deleted to make room for other answers
            previous = ""
        if previous:
            settings.check_same(JobSettings.model_validate_json(previous), self.path)
            self._check_own(self._files())
        else:
            _check_unused(self._files(), self.path)
            self._database.execute("INSERT INTO job VALUES (?, 0, 0)", [settings.model_dump_json()])
        for file in self._files():
            delete_partial_files(file.parent.glob(f".{glob.escape(file.name)}.*.partial"))
        if retry_failed and self._database.execute("DELETE FROM row WHERE failed").rowcount:
            self._database.execute("UPDATE job SET complete = 0")
        self.earlier = self.rows_count
        self.earlier_failed = int(self._value("SELECT count(*) FROM row, job WHERE failed AND id > written"))

    def _clear(self) -> None:
        for table in ("job", "row", "file"):
            self._database.execute(f"DELETE FROM {table}")  # noqa: S608 - names of this module

    def _files(self) -> list[Path]:
        return [file for path in self._outputs for file in FORMATS[path.suffix].files(path)]

    def _value(self, query: str) -> int | str:
        row: tuple[int | str] | None = self._database.execute(query).fetchone()
        return row[0] if row else ""

    def _check_own(self, files: Sequence[Path]) -> None:
        """Refuse to replace files that appeared or were changed since the job wrote its own."""
        own = {digest for (digest,) in self._database.execute("SELECT sha256 FROM file")}
        for file in files:
            if file.exists() and file_sha256(file) not in own:
                raise InputError(
                    f"{file}: was changed, or was not written by this job; move it away and run the same command "
                    "again, or start over with --overwrite",
                    code="output.changed",
                )


@contextmanager
def open_job(
    outputs: Sequence[Path],
    settings: JobSettings,
    example: Answer,
    say: PrintMessage,
    overwrite: bool = False,
    retry_failed: bool = False,
) -> Iterator[Job]:
    """Start or continue the job of these outputs, and write them if the block ends without an error.

    example: an answer of the model with every field filled. say: prints how to continue after an error. overwrite:
    start over. retry_failed: drop the rows of images without an answer.
    Raises InputError if the job cannot be continued; its files then stay unchanged.
    """
    for output in outputs:
        FORMATS[output.suffix].check(output, example)
    path = job_path(outputs[0])
    with _locked(path), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        with _database_errors(path):
            if not database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                database.executescript(_SCHEMA)
            header = [database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
            if header != [_APPLICATION_ID, 1]:
                raise InputError(
                    f"{path}: is not a job of this version of `client infer`, but has the name of one; move the file "
                    "away, or set another --output",
                    code="job.invalid",
                )
            database.execute("PRAGMA journal_mode = WAL")  # a killed client loses no committed row
            database.execute("PRAGMA synchronous = NORMAL")
        job, is_started = Job(outputs, database), False
        try:
            with _database_errors(path), database:
                database.execute("BEGIN")
                job.start(settings, overwrite, retry_failed)
            is_started = True
            yield job
            with _database_errors(path):
                job.finish(example)
        finally:
            with contextlib.suppress(sqlite3.Error):
                database.commit()  # also the rows before an error
            if not (rows := job.rows_count) and not job.has_outputs:
                path.unlink(missing_ok=True)
            elif is_started and not job.is_complete:
                options = ", without --overwrite" if overwrite else ""
                say(f"{rows} rows are kept in {path}; run the same command{options} to continue")
            with contextlib.suppress(sqlite3.Error):
                database.execute("PRAGMA journal_mode = DELETE")  # one file, which can be copied


@contextmanager
def _database_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise ExternalError(
            f"{path}: cannot be written ({error}); free disk space and run the same command again",
            code="output.not_writable",
        ) from error
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"{path}: is not a job of `client infer` ({error}); move the file away, or set another --output",
            code="job.invalid",
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Own the job until the block ends. Raises InputError if another client does, or if it cannot be created."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        kind = ExternalError if is_external_failure(error) else InputError
        raise kind(f"{path}: cannot be written ({error.strerror})", code="output.not_writable") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The previous owner may have deleted it in between.
        is_current = path.exists() and os.path.samestat(os.fstat(file), path.stat())
    except BlockingIOError:
        is_current = False
    try:
        if not is_current:
            raise InputError(
                f"{path}: another client is running this job; wait until it ends, or set another --output",
                code="output.locked",
            )
        yield
    finally:
        if is_current and not os.fstat(file).st_size:
            path.unlink(missing_ok=True)
        os.close(file)


def _files_of_version_0_1(path: Path) -> list[Path]:
    return [path.with_name(f"{path.name}{suffix}") for suffix in (".made.json", ".partial")]


def _check_unused(files: Sequence[Path], first: Path) -> None:
    """Refuse to start a job whose files exist."""
    settings_file, _ = _files_of_version_0_1(first)
    if settings_file.exists():
        raise InputError(
            f"{settings_file}: belongs to a job of tritonkit 0.1, which this version cannot continue; finish it with "
            "0.1, set another --output, or start over with --overwrite",
            code="job.old",
        )
    if not (existing := [file for file in files if file.exists()]):
        return
    for path in sorted(first.parent.glob("*.job")) if first.exists() else ():
        outputs = _outputs_of(path)
        if first.name in outputs:
            options = " ".join(f"--output {first.with_name(name)}" for name in outputs)
            raise InputError(
                f"{first}: was written together with other files, according to {path.name}; set {options}, or "
                "another file",
                code="output.written_with_others",
            )
    names = ", ".join(map(str, existing))
    raise InputError(
        f"{names}: already exists and was not written by this job; set another --output, move the file away, or "
        "replace it with --overwrite",
        code="output.exists",
    )


def _outputs_of(path: Path) -> Sequence[str]:
    """Return the names of a job's outputs; none if the file is not a job, or is in use."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            (text,) = database.execute("SELECT settings FROM job").fetchone()
            return JobSettings.model_validate_json(text).outputs
    except (sqlite3.Error, ValueError, TypeError):
        return ()
