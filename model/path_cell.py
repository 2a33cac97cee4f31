"""A cell of a table that is shortened in front, for its end is what tells it from others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.text import Text

_LEAST = 24


@dataclass(frozen=True)
class PathCell:
    """A path on one line."""

    path: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """At least the end of the path is shown, at most all of it."""
        width = cell_len(self.path)
        return Measurement(min(width, _LEAST), width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yield the path, or as much of its end as there is room for behind an ellipsis."""
        shown = self.path
        if cell_len(shown) > options.max_width:
            while shown and cell_len(shown) >= options.max_width:
                shown = shown[1:]
            shown = f"…{shown}"
        yield Text(shown, no_wrap=True, overflow="crop")
