"""A picture with what is true of it, and where that was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.picture_files import PictureSearch

Truth = Any
"""What a picture shows, as its task reads it: a label, a tuple of labels, a mask's path, or one of these a head."""
Row = Mapping[str, Any]
"""A line of a CSV, an object of a JSON list, or a picture in a class folder: values by column."""

IMAGE, LABEL, LABELS, MASK = "image_path", "label", "labels", "mask_path"
"""The columns that rows have."""
COLUMNS = {"image": IMAGE, "label": LABEL, "labels": LABELS, "mask": MASK}
"""They, by the words of `data.columns`."""
SHOWN = 10
"""So many problems of a kind are listed; the rest is counted."""


@dataclass(frozen=True)
class Sample:
    """A picture and what is true of it."""

    path: Path
    truth: Truth
    gallery: bool = False
    """Metric learning: stands in the gallery that others are looked up in, and is not looked up itself."""
    group: str = ""
    """Pictures of one group, such as a patient, stay in one part."""


@dataclass
class Table:
    """What a reader found: rows, each with where it stands in words, and everything that is wrong."""

    columns: Sequence[str] = ()
    rows: list[tuple[str, Row]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Remarks on the data; training goes on."""


def listed(kind: str, items: Sequence[str], hint: str = "") -> list[str]:
    """Problems of one kind, as one entry: all of them, or the first few and their number; and what may be the cause."""
    if not items:
        return []
    more = [f"... and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
    lines = [*items[:SHOWN], *more, *([hint] if hint else [])]
    return [f"{kind} ({len(items)}):" + "".join(f"\n    {line}" for line in lines)]


def fact(cell: Any) -> bool | None:
    """Whether a label holds: 1, 1.0, true, or 0, 0.0, false, as programs write them; None for anything else."""
    text = str(cell).strip().lower()
    if text in ("true", "false"):
        return text == "true"
    value = _number(text)
    return bool(value) if value in (0.0, 1.0) else None


def is_soft(cell: Any) -> bool:
    """Whether a label holds in part."""
    value = _number(str(cell))
    return value is not None and 0 < value < 1


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def search_notes(search: PictureSearch) -> list[str]:
    """Say what a search for pictures skipped, and what it could not read."""
    unread = [f"{path}: {why}" for path, why in search.errors.items()]
    skipped = search.skipped.sentence()
    return [*([skipped] if skipped else []), *listed("left out, because they cannot be read", unread)]
