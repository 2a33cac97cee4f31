"""The files of a job's answers, begun, gone on with, or added to; each picture has exactly one row in them.

Three states are told apart by what lies beside the first output when a client starts:

- nothing: the job begins.
- a journal (`<output>.partial`): a client was stopped. The rows in it are kept, what is missing is answered.
- the output itself: a job was finished. Pictures that are not in it are answered into a new journal and added.

At the end the files are made from the journal, row by row, each written beside and renamed, the first one last; the
journal goes when all are there. So whenever a client is killed, starting it again ends in the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from client.infer import Row
from client.outputs.formats import FORMATS, paths_beside
from client.outputs.journal import Journal
from client.outputs.leftovers import sweep
from client.outputs.names import Names
from client.outputs.terms import Terms, check_terms, terms_beside, write_terms
from model.errors import InputError, OutsideError
from model.tasks import Answer

Say = Callable[[str], None]


class Answers:
    """The files of a job, while it goes on."""

    def __init__(self, paths: Sequence[Path], example: Answer, journal: Journal, finished: Names | None) -> None:
        self.journal = journal
        self.earlier_answered, self.earlier_failed = journal.answered, journal.failed
        """Rows of this job that an interrupted client wrote."""
        self.finished = finished
        """The names in the files of a finished job, which are added to; None where there are none."""
        self._paths = paths
        self._example = example
        self._earlier = journal.names

    @property
    def path(self) -> Path:
        """The first of the files, by which the job is known."""
        return self._paths[0]

    @property
    def earlier(self) -> int:
        """How many pictures were answered before this client began."""
        return self.earlier_answered + self.earlier_failed + len(self.finished or ())

    @property
    def nothing_new(self) -> bool:
        """Whether the finished files already hold all."""
        return self.finished is not None and not self.journal.length

    def has(self, name: str) -> bool:
        """Whether the picture needs no answer any more."""
        return name in self._earlier or (self.finished is not None and name in self.finished)

    def write(self, row: Row) -> None:
        """Take a row, for good. Raises OutsideError when the disk is full."""
        self.journal.write(row)

    def finish(self) -> None:
        """Make the files from the journal. Raises OutsideError when they cannot be written; the journal stays."""
        if self.nothing_new:
            return
        self.journal.sync()
        first, *others = self._paths
        try:
            for path in others:
                self._merge(path)
            if first.suffix == ".jsonl" and self.finished is None:
                self.journal.become(first)
            else:
                self._merge(first)
        except OSError as error:
            why = error.strerror or error
            raise OutsideError(f"{error.filename or first}: cannot be written ({why})") from error

    def _merge(self, path: Path) -> None:
        new = Names(told["path"] for told in self.journal.rows()) if self.finished is not None else None
        keep = None if new is None else lambda name: name not in new
        FORMATS[path.suffix].write(path, self.journal.rows(), self._example, keep)


@contextmanager
def answers_in(
    paths: Sequence[Path],
    terms: Terms,
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
        if overwrite:
            _remove(paths, journal)
        answers = _gone_on(paths, terms, example, journal, retry_failed)
        begun = True
        yield answers
        answers.finish()
        journal.remove()
    except BaseException:
        if begun and journal.length:
            but = ", without --overwrite" if overwrite else ""
            say(f"{journal.length} rows are kept in {journal.path}; the same command{but} goes on from there")
        raise
    finally:
        if not journal.length:
            journal.remove()
            if begun and not first.exists():
                terms_beside(first).unlink(missing_ok=True)
        journal.close()


def _gone_on(paths: Sequence[Path], terms: Terms, example: Answer, journal: Journal, retry_failed: bool) -> Answers:
    first = paths[0]
    if first.exists() or journal.length:
        check_terms(first, terms)
    else:
        write_terms(first, terms)
    if first.exists() and (missing := [str(path) for path in paths if not path.exists()]):
        raise InputError(
            f"{', '.join(missing)}: is not there, though {first}, which was written with it, is; "
            "start over with --overwrite"
        )
    for path in paths:
        sweep(path)
    if retry_failed:
        journal.forget_failed()
    return Answers(paths, example, journal, _finished(paths, retry_failed) if first.exists() else None)


def _finished(paths: Sequence[Path], retry_failed: bool) -> Names:
    """The names in finished files; those without an answer only where they need none."""
    # Embeddings know only answered pictures; any other file knows all.
    path = min(paths, key=lambda path: path.suffix == ".npy")
    headings = FORMATS[path.suffix].headings(path)
    return Names(heading.name for heading in headings if not (retry_failed and heading.failed))


def _remove(paths: Sequence[Path], journal: Journal) -> None:
    journal.clear()
    for path in paths:
        path.unlink(missing_ok=True)
        if path.suffix == ".npy":
            paths_beside(path).unlink(missing_ok=True)
    terms_beside(paths[0]).unlink(missing_ok=True)
