"""The answer files of a job: started, resumed or extended; each image has exactly one row.

When a client starts, the files next to the first output tell which of three states the job is in:

- no file: the job is new.
- a journal (`<output>.partial`): a client was stopped. Its rows are kept, and the missing images are answered.
- the output itself: the job was finished. Images that are not in it are answered into a new journal, and then added.

At the end, the files are made from the journal, row by row. Each file is written under a temporary name and renamed,
the first output last, and then the journal is deleted. So the result is the same whenever a client is killed and
started again.

A job replaces only its own files. It starts only if none of its files exists. Before it renames a file, it records
the file's digest, so that the next client can tell files of a killed client from files of other programs.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from client.infer import Row
from client.name_set import NameSet
from client.outputs.cleanup import delete_stale_files
from client.outputs.formats import FORMATS, EarlierOutput
from client.outputs.job_settings import JobSettings, check_settings, has_placed_files, settings_path, write_settings
from client.outputs.journal import Journal, lock_outputs
from tritonkit.errors import ExternalError, InputError
from tritonkit.system.files import atomic_write, file_sha256
from tritonkit.tasks import Answer

PrintMessage = Callable[[str], None]


class AnswerFiles:
    """The answer files of a job while it runs."""

    def __init__(
        self,
        paths: Sequence[Path],
        settings: JobSettings,
        example_answer: Answer,
        journal: Journal,
        finished_names: NameSet | None,
        placed_digests: Sequence[str] = (),
    ) -> None:
        """placed_digests: SHA-256 of the files that an interrupted client put into place before the first output."""
        self.journal = journal
        self.earlier_answered, self.earlier_failed = journal.answered, journal.failed
        """Rows of this job that an interrupted client wrote."""
        self.finished_names = finished_names
        """Names in the files of a finished job that is extended; None if there are no such files."""
        self._paths = paths
        self._settings = settings
        self._placed_digests = set(placed_digests)
        self._example_answer = example_answer
        self._journal_names = journal.names

    @property
    def path(self) -> Path:
        """The first output, which identifies the job."""
        return self._paths[0]

    @property
    def earlier(self) -> int:
        """Number of images that were answered before this client started."""
        journal_rows = self.earlier_answered + self.earlier_failed
        if self.finished_names is None:
            return journal_rows
        # A client that was killed in the midst of adding rows has left some in both.
        return journal_rows + len(self.finished_names) - self._journal_names.count_shared(self.finished_names)

    @property
    def is_unchanged(self) -> bool:
        """Whether the finished files already have all rows."""
        return self.finished_names is not None and not self.journal.length

    def has_row(self, name: str) -> bool:
        """Whether the image has a row already."""
        return name in self._journal_names or (self.finished_names is not None and name in self.finished_names)

    def write(self, row: Row) -> None:
        """Write a row to the journal. Raises ExternalError if the disk is full."""
        self.journal.write(row)

    def finish(self) -> None:
        """Make the output files from the journal.

        Raises ExternalError if they cannot be written, InputError if other files now have their names; the journal
        then stays.
        """
        if self.is_unchanged:
            return
        first, *other_paths = self._paths
        try:
            self.journal.sync()
            for path in other_paths:
                self._write_output(path)
            if first.suffix == ".jsonl" and self.finished_names is None:
                _check_own_files([first], self._placed_digests)
                self.journal.move_to(first)
            else:
                self._write_output(first)
            if self._placed_digests:
                write_settings(first, self._settings)
        except OSError as error:
            reason = error.strerror or error
            raise ExternalError(
                f"{error.filename or first}: cannot be written ({reason})", code="output.not_writable"
            ) from error

    def _write_output(self, path: Path) -> None:
        output_format = FORMATS[path.suffix]
        files = output_format.files(path)
        with contextlib.ExitStack() as stack:
            # The context that is entered last renames its file first.
            partial_files = [stack.enter_context(atomic_write(file)) for file in reversed(files)][::-1]
            output_format.write(partial_files, self.journal.rows(), self._example_answer, self._earlier_output(path))
            if self.finished_names is None:
                _check_own_files(files, self._placed_digests)
                self._placed_digests.update(map(file_sha256, partial_files))
                write_settings(self.path, self._settings, sorted(self._placed_digests))

    def _earlier_output(self, path: Path) -> EarlierOutput | None:
        """Return the finished file. Its rows stay, except rows that a killed client added from the journal."""
        if self.finished_names is None:
            return None
        journal_names = NameSet(row["path"] for row in self.journal.rows())
        return EarlierOutput(path, lambda name: name not in journal_names)


@contextmanager
def open_answer_files(
    paths: Sequence[Path],
    settings: JobSettings,
    example_answer: Answer,
    say: PrintMessage,
    overwrite: bool = False,
    retry_failed: bool = False,
) -> Iterator[AnswerFiles]:
    """Start, resume or extend the files of a job, and finish them if the block ends without an error.

    say: prints how to continue after an error. overwrite: start over. retry_failed: drop the rows of images without an
    answer.
    Raises InputError if the files cannot be continued; they then stay unchanged.
    """
    for path in paths:
        FORMATS[path.suffix].check(path, example_answer)
    first = paths[0]
    journal = Journal(first)
    is_started = False
    try:
        with lock_outputs(paths[1:]):
            if overwrite:
                _delete_outputs(paths, journal)
            answers = _start_or_resume(paths, settings, example_answer, journal, retry_failed)
            is_started = True
            yield answers
            answers.finish()
            journal.remove()
    except BaseException:
        if is_started and (row_count := journal.count_rows()):
            options = ", without --overwrite" if overwrite else ""
            say(f"{row_count} rows are kept in {journal.path}; run the same command{options} to continue")
        raise
    finally:
        if journal.is_empty:
            journal.remove()
            if is_started and not first.exists() and not has_placed_files(first):
                settings_path(first).unlink(missing_ok=True)
        journal.close()


def _start_or_resume(
    paths: Sequence[Path], settings: JobSettings, example_answer: Answer, journal: Journal, retry_failed: bool
) -> AnswerFiles:
    first, files = paths[0], _output_files(paths)
    is_started = first.exists() or not journal.is_empty or has_placed_files(first)
    placed_digests = check_settings(first, settings) if is_started else ()
    if first.exists():
        _check_all_exist(first, files, journal)
    elif journal.length or placed_digests:
        _check_own_files(files, placed_digests)
    else:
        _check_none_exist([*files, *map(settings_path, paths[1:])])
    journal.truncate_torn_row()
    for file in files:
        delete_stale_files(file)
    if retry_failed:
        journal.drop_failed()
    if not first.exists():
        write_settings(first, settings, placed_digests)
        return AnswerFiles(paths, settings, example_answer, journal, None, placed_digests)
    if placed_digests:  # a client was killed after the last rename
        write_settings(first, settings)
    return AnswerFiles(paths, settings, example_answer, journal, _names_in_outputs(paths, retry_failed))


def _output_files(paths: Sequence[Path]) -> list[Path]:
    """Return all files of the outputs."""
    return [file for path in paths for file in FORMATS[path.suffix].files(path)]


def _check_all_exist(first: Path, files: Sequence[Path], journal: Journal) -> None:
    if missing := [str(file) for file in files if not file.exists()]:
        resume = f"; or move the other files away, and continue from {journal.length} rows in {journal.path}"
        raise InputError(
            f"{', '.join(missing)}: missing, but {first}, which was written together with it, exists; "
            f"start over with --overwrite{resume if journal.length else ''}",
            code="output.missing",
        )


def _check_none_exist(files: Sequence[Path]) -> None:
    if existing := [str(file) for file in files if file.exists()]:
        raise InputError(
            f"{', '.join(existing)}: already exists and was not written by this job; set another --output, move the "
            "file away, or replace it with --overwrite",
            code="output.exists",
        )


def _check_own_files(files: Sequence[Path], placed_digests: Collection[str]) -> None:
    """Refuse to replace files that appeared or were changed since the job started."""
    for file in files:
        if file.exists() and file_sha256(file) not in placed_digests:
            raise InputError(
                f"{file}: was changed, or was not written by this job; move it away and run the same command again",
                code="output.changed",
            )


def _names_in_outputs(paths: Sequence[Path], retry_failed: bool) -> NameSet:
    """Return the names in finished files; without the failed images if these are retried."""
    # An .npy file names only answered images; other files name all.
    path, *other_paths = sorted(paths, key=lambda path: path.suffix == ".npy")
    for other_path in other_paths:  # so that a changed file is refused now, not after all images are answered
        deque(FORMATS[other_path.suffix].headings(other_path), maxlen=0)
    headings = FORMATS[path.suffix].headings(path)
    return NameSet(heading.name for heading in headings if not (retry_failed and heading.failed))


def _delete_outputs(paths: Sequence[Path], journal: Journal) -> None:
    journal.clear()
    for file in [*_output_files(paths), *map(settings_path, paths)]:
        file.unlink(missing_ok=True)
