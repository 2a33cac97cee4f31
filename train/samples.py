"""A picture with what is true of it, and where that was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Truth = Any
"""What a picture shows, as its task reads it: a label, a tuple of labels, a mask's path, or one of these a head."""
Row = Mapping[str, Any]
"""A line of a CSV, an object of a JSON list, or a picture in a class folder: values by column."""

IMAGE, LABEL, LABELS, MASK = "image_path", "label", "labels", "mask_path"
"""The columns that rows have."""
SHOWN = 10
"""So many problems of a kind are listed; the rest is counted."""


@dataclass(frozen=True)
class Sample:
    """A picture and what is true of it."""

    path: Path
    truth: Truth
    gallery: bool = False
    """Metric learning: stands in the gallery that others are looked up in, and is not looked up itself."""


@dataclass
class Table:
    """What a reader found: rows, each with where it stands in words, and everything that is wrong."""

    columns: Sequence[str] = ()
    rows: list[tuple[str, Row]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is worth to be said, and keeps nobody from training."""


def listed(kind: str, items: Sequence[str]) -> list[str]:
    """Problems of one kind, as one entry: all of them, or the first few and their number."""
    if not items:
        return []
    more = [f"... and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return [f"{kind} ({len(items)}):" + "".join(f"\n    {item}" for item in [*items[:SHOWN], *more])]
