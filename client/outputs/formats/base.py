"""The interface of an answer file's format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from tritonkit.tasks import Answer

RowFields: TypeAlias = dict[str, Any]
"""The JSON object of a row: `path`, and the answer's keys or `error`."""
RowFilter: TypeAlias = Callable[[str], bool]
"""Whether the row of this name stays."""


class Heading(NamedTuple):
    """The part of a row that is needed to resume a job."""

    name: str
    failed: bool


class EarlierOutput(NamedTuple):
    """A finished answer file to which rows are added."""

    path: Path
    keeps_row: RowFilter


class OutputFormat(ABC):
    """A format of answer files, with one row for each image."""

    def check(self, path: Path, example: Answer) -> None:  # noqa: B027 - most formats can write any answers
        """Refuse answers that the format cannot write. Raises InputError.

        example: an answer of the model with every field filled.
        """

    @abstractmethod
    def headings(self, path: Path) -> Iterator[Heading]:
        """Yield the headings of a finished file's rows. Raises InputError for a file that tritonkit did not write."""

    def files(self, path: Path) -> Sequence[Path]:
        """Return the files of an output in the order in which they are put into place; `path` is the last."""
        return [path]

    @abstractmethod
    def write(
        self, files: Sequence[Path], rows: Iterable[RowFields], example: Answer, earlier: EarlierOutput | None
    ) -> None:
        """Write an output row by row.

        files: temporary files in the order of `files`. earlier: the finished output whose kept rows come first; None if
        there is none.
        """
