"""The seam every kind of file of answers implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from model.tasks import Answer

RowFields: TypeAlias = dict[str, Any]
"""A row as it is told: `path`, and the answer's keys or `error`."""
Keep: TypeAlias = Callable[[str], bool]
"""Whether the row of this name stays."""


class Heading(NamedTuple):
    """What must be known of a row to go on from it."""

    name: str
    failed: bool


class Earlier(NamedTuple):
    """A whole file of answers that others are added to."""

    path: Path
    stays: Keep


class Format(ABC):
    """A kind of file of answers, of one row a picture."""

    def check(self, path: Path, example: Answer) -> None:  # noqa: B027 - most can hold any answers
        """Refuse what cannot be written. Raises InputError.

        example: an answer of the model with something in every place.
        """

    @abstractmethod
    def headings(self, path: Path) -> Iterator[Heading]:
        """The rows of a whole file. Raises InputError for one that was not written here."""

    def files(self, path: Path) -> Sequence[Path]:
        """The files that an output consists of, in the order in which they are to come; the last is `path` itself."""
        return [path]

    @abstractmethod
    def write(self, files: Sequence[Path], rows: Iterable[RowFields], example: Answer, earlier: Earlier | None) -> None:
        """Write an output row by row.

        files: stand for those of the output until all are whole. earlier: the output that is there, whose rows that
        stay come first; None: there is none.
        """
