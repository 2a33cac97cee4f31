"""The page of a comparison: the figures, and a gallery of the answers that changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from client.comparison.compare import Tile
from client.comparison.results import ModelComparison
from tritonkit import pages
from tritonkit.system.files import atomic_write

MAX_FLIPS = 30
"""Rows of the table of changed decisions."""


def write_comparison_page(path: Path, comparison: ModelComparison, tiles: Sequence[Tile]) -> None:
    """Write the page, one HTML file that contains its images, atomically. Raises OSError."""
    page = (
        pages.templates(Path(__file__).parent)
        .get_template("page.html.jinja")
        .render(
            comparison=comparison,
            tiles=tiles,
            flips=comparison.flips[:MAX_FLIPS],
            written=f"{datetime.now(UTC):%d %B %Y, %H:%M} UTC",
        )
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
