"""Samples, tables of rows, and helpers to list problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritonkit.errors import Problem
from tritonkit.images.picture_files import PictureSearch
from tritonkit.system.tables import TableError

Truth = Any
"""The ground truth of an image, by task: a label, a tuple of labels, a mask's path, or a dict of these by head."""
Row = Mapping[str, Any]
"""A line of a CSV, an object of a JSON list, or an image in a class folder: values by column."""

IMAGE, LABEL, LABELS, MASK = "image_path", "label", "labels", "mask_path"
"""The standard columns of rows."""
COLUMNS = {"image": IMAGE, "label": LABEL, "labels": LABELS, "mask": MASK}
"""The standard columns by their key in `data.columns`."""
MAX_LISTED = 10
"""Number of problems of one kind that are listed; the rest is counted."""


@dataclass(frozen=True)
class Sample:
    """An image file and its ground truth."""

    path: Path
    truth: Truth
    gallery: bool = False
    """Metric learning: belongs to the gallery that queries are searched in, and is not a query itself."""
    group: str = ""
    """Images of one group, such as a patient, stay in one part."""


@dataclass
class Table:
    """The result of a reader: rows, each with its place such as `line 3`, and all problems."""

    columns: Sequence[str] = ()
    rows: list[tuple[str, Row]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Remarks on the data that do not stop the training."""


class RowError(TableError):
    """A row cannot be used; `code` names the fault."""


def listed(heading: str, items: Sequence[str], hint: str = "", *, code: str) -> list[Problem]:
    """Combine items of one kind into one problem with a heading and a hint; an empty list without items."""
    return [Problem(code, text) for text in summarized(heading, items, hint)]


def summarized(heading: str, items: Sequence[str], hint: str = "") -> list[str]:
    """Combine items of one kind into one text: the heading with their number, the first items, and a hint."""
    if not items:
        return []
    more = [f"... and {len(items) - MAX_LISTED} more"] if len(items) > MAX_LISTED else []
    lines = [*items[:MAX_LISTED], *more, *([hint] if hint else [])]
    return [f"{heading} ({len(items)}):" + "".join(f"\n    {line}" for line in lines)]


def parse_bool(cell: Any) -> bool | None:
    """Parse a yes/no label: 1, 1.0, true, or 0, 0.0, false; None for anything else."""
    text = str(cell).strip().lower()
    if text in ("true", "false"):
        return text == "true"
    value = _number(text)
    return bool(value) if value in (0.0, 1.0) else None


def is_soft_label(cell: Any) -> bool:
    """Return whether a label is a number between 0 and 1."""
    value = _number(str(cell))
    return value is not None and 0 < value < 1


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def search_notes(search: PictureSearch) -> list[str]:
    """Describe what a search for images skipped, and what it could not read."""
    unreadable = [f"{path}: {reason}" for path, reason in search.errors.items()]
    skipped = search.skipped.sentence()
    return [*([skipped] if skipped else []), *summarized("skipped, because they cannot be read", unreadable)]
