"""The seam every kind of file of answers implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from model.tasks import Answer

Told: TypeAlias = dict[str, Any]
"""A row as it is told: `path`, and the answer's keys or `error`."""
Keep: TypeAlias = Callable[[str], bool]
"""Whether the row of this name stays."""


class Heading(NamedTuple):
    """What must be known of a row to go on from it."""

    name: str
    failed: bool


class Format(ABC):
    """A kind of file of answers, of one row a picture."""

    def check(self, path: Path, example: Answer) -> None:  # noqa: B027 - most can hold any answers
        """Refuse what cannot be written. Raises InputError.

        example: an answer of the model with something in every place.
        """

    @abstractmethod
    def headings(self, path: Path) -> Iterator[Heading]:
        """The rows of a whole file. Raises InputError for one that was not written here."""

    @abstractmethod
    def write(self, path: Path, rows: Iterable[Told], example: Answer, keep: Keep | None) -> None:
        """Write a file whole or not at all, row by row.

        keep: which rows of the file that is there stay; they come first. None: there is none, or it is not wanted.
        """
