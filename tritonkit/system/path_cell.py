"""A table cell for a path: if space is short, the beginning is cut off, because the ends of paths differ."""

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
        """Return the width of the end of the path as minimum, and of the whole path as maximum."""
        width = cell_len(self.path)
        return Measurement(min(width, _LEAST), width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yield the path, or an ellipsis and the part of its end that fits."""
        text = self.path
        if cell_len(text) > options.max_width:
            while text and cell_len(text) >= options.max_width:
                text = text[1:]
            text = f"…{text}"
        yield Text(text, no_wrap=True, overflow="crop")
