"""The files of a job's answers, begun, gone on with, or added to; each picture has exactly one row in them.

Three states are told apart by what lies beside the first output when a client starts:

- nothing: the job begins.
- a journal (`<output>.partial`): a client was stopped. The rows in it are kept, what is missing is answered.
- the output itself: a job was finished. Pictures that are not in it are answered into a new journal and added.

At the end the files are made from the journal, row by row, each written beside and renamed, the first one last; the
journal goes when all are there. So whenever a client is killed, starting it again ends in the same files.

Only the job's own files are ever replaced. A job begins where none of its files is. Before it puts one into its place
it notes the digest, so that the next client knows the files of a killed one from those that others put there meanwhile.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from client.infer import Row
from client.outputs.formats import FORMATS, Earlier
from client.outputs.journal import Journal, claimed
from client.outputs.leftovers import sweep
from client.outputs.names import Names
from client.outputs.terms import JobSettings, check_terms, has_placed, terms_beside, write_terms
from model.errors import ExternalError, InputError
from model.files import atomic_write, sha256_of
from model.tasks import Answer

Say = Callable[[str], None]


class Answers:
    """The files of a job, while it goes on."""

    def __init__(
        self,
        paths: Sequence[Path],
        terms: JobSettings,
        example: Answer,
        journal: Journal,
        finished: Names | None,
        placed: Sequence[str] = (),
    ) -> None:
        """placed: SHA-256 of the files that an interrupted client put into their places before the first."""
        self.journal = journal
        self.earlier_answered, self.earlier_failed = journal.answered, journal.failed
        """Rows of this job that an interrupted client wrote."""
        self.finished = finished
        """The names in the files of a finished job, which are added to; None where there are none."""
        self._paths = paths
        self._terms = terms
        self._placed = set(placed)
        self._example = example
        self._earlier = journal.names

    @property
    def path(self) -> Path:
        """The first of the files, by which the job is known."""
        return self._paths[0]

    @property
    def earlier(self) -> int:
        """How many pictures were answered before this client began."""
        in_journal = self.earlier_answered + self.earlier_failed
        if self.finished is None:
            return in_journal
        # A client that was killed in the midst of adding rows has left some in both.
        return in_journal + len(self.finished) - self._earlier.shared_with(self.finished)

    @property
    def nothing_new(self) -> bool:
        """Whether the finished files already hold all."""
        return self.finished is not None and not self.journal.length

    def has(self, name: str) -> bool:
        """Whether the picture needs no answer any more."""
        return name in self._earlier or (self.finished is not None and name in self.finished)

    def write(self, row: Row) -> None:
        """Take a row, for good. Raises ExternalError when the disk is full."""
        self.journal.write(row)

    def finish(self) -> None:
        """Make the files from the journal.

        Raises ExternalError when they cannot be written, InputError when there are others now; the journal stays.
        """
        if self.nothing_new:
            return
        first, *others = self._paths
        try:
            self.journal.sync()
            for path in others:
                self._merge(path)
            if first.suffix == ".jsonl" and self.finished is None:
                _check_own([first], self._placed)
                self.journal.become(first)
            else:
                self._merge(first)
            if self._placed:
                write_terms(first, self._terms)
        except OSError as error:
            why = error.strerror or error
            raise ExternalError(f"{error.filename or first}: cannot be written ({why})") from error

    def _merge(self, path: Path) -> None:
        how = FORMATS[path.suffix]
        files = how.files(path)
        with contextlib.ExitStack() as stack:
            # What is entered last takes its place first.
            beside = [stack.enter_context(atomic_write(file)) for file in reversed(files)][::-1]
            how.write(beside, self.journal.rows(), self._example, self._earlier_in(path))
            if self.finished is None:
                _check_own(files, self._placed)
                self._placed.update(map(sha256_of, beside))
                write_terms(self.path, self._terms, sorted(self._placed))

    def _earlier_in(self, path: Path) -> Earlier | None:
        """The finished file, of which all rows stay but those that a killed client had added from the journal."""
        if self.finished is None:
            return None
        new = Names(told["path"] for told in self.journal.rows())
        return Earlier(path, lambda name: name not in new)


@contextmanager
def answers_in(
    paths: Sequence[Path],
    terms: JobSettings,
    example: Answer,
    say: Say,
    overwrite: bool = False,
    retry_failed: bool = False,
) -> Iterator[Answers]:
    """Begin or go on with the files of a job, and finish them when the block ends without an error.

    say: told how to go on when it ends with one. overwrite: start over. retry_failed: pictures without an answer are
    not known.
    Raises InputError when the files cannot be gone on with; they are then as they were.
    """
    for path in paths:
        FORMATS[path.suffix].check(path, example)
    first = paths[0]
    journal = Journal(first)
    begun = False
    try:
        with claimed(paths[1:]):
            if overwrite:
                _remove(paths, journal)
            answers = _gone_on(paths, terms, example, journal, retry_failed)
            begun = True
            yield answers
            answers.finish()
            journal.remove()
    except BaseException:
        if begun and (kept := journal.rows_kept()):
            but = ", without --overwrite" if overwrite else ""
            say(f"{kept} rows are kept in {journal.path}; the same command{but} goes on from there")
        raise
    finally:
        if journal.is_empty:
            journal.remove()
            if begun and not first.exists() and not has_placed(first):
                terms_beside(first).unlink(missing_ok=True)
        journal.close()


def _gone_on(
    paths: Sequence[Path], terms: JobSettings, example: Answer, journal: Journal, retry_failed: bool
) -> Answers:
    first, files = paths[0], _files(paths)
    begun = first.exists() or not journal.is_empty or has_placed(first)
    placed = check_terms(first, terms) if begun else ()
    if first.exists():
        _check_all_there(first, files, journal)
    elif journal.length or placed:
        _check_own(files, placed)
    else:
        _check_none_there([*files, *map(terms_beside, paths[1:])])
    journal.cut_torn()
    for file in files:
        sweep(file)
    if retry_failed:
        journal.forget_failed()
    if not first.exists():
        write_terms(first, terms, placed)
        return Answers(paths, terms, example, journal, None, placed)
    if placed:  # killed when all was done but this
        write_terms(first, terms)
    return Answers(paths, terms, example, journal, _finished(paths, retry_failed))


def _files(paths: Sequence[Path]) -> list[Path]:
    """All files that outputs consist of."""
    return [file for path in paths for file in FORMATS[path.suffix].files(path)]


def _check_all_there(first: Path, files: Sequence[Path], journal: Journal) -> None:
    if missing := [str(file) for file in files if not file.exists()]:
        rows = f"; or move the other files away, and go on from {journal.length} rows in {journal.path}"
        raise InputError(
            f"{', '.join(missing)}: is not there, though {first}, which was written with it, is; "
            f"start over with --overwrite{rows if journal.length else ''}"
        )


def _check_none_there(files: Sequence[Path]) -> None:
    if there := [str(file) for file in files if file.exists()]:
        raise InputError(
            f"{', '.join(there)}: is there already, and this job did not write it; give another --output, move it "
            "away, or write over it with --overwrite"
        )


def _check_own(files: Sequence[Path], placed: Collection[str]) -> None:
    """Refuse to put anything into the place of what has come since the job began, or was changed."""
    for file in files:
        if file.exists() and sha256_of(file) not in placed:
            raise InputError(
                f"{file}: is not as this job wrote it, or not its own; move it away, and the same command goes on"
            )


def _finished(paths: Sequence[Path], retry_failed: bool) -> Names:
    """The names in finished files; those without an answer only where they need none."""
    # Embeddings know only answered pictures; any other file knows all.
    path, *others = sorted(paths, key=lambda path: path.suffix == ".npy")
    for other in others:  # to refuse one that somebody changed now, and not when all is answered
        deque(FORMATS[other.suffix].headings(other), maxlen=0)
    headings = FORMATS[path.suffix].headings(path)
    return Names(heading.name for heading in headings if not (retry_failed and heading.failed))


def _remove(paths: Sequence[Path], journal: Journal) -> None:
    journal.clear()
    for file in [*_files(paths), *map(terms_beside, paths)]:
        file.unlink(missing_ok=True)
