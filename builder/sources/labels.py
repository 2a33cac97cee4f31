"""Read a file of labels, one per line."""

from __future__ import annotations

from pathlib import Path

from tritonkit.errors import InputError, SpecError


def read_labels(path: Path) -> tuple[str, ...]:
    """Read the labels of a UTF-8 file in order. Raises InputError, and SpecError for a blank line."""
    try:
        labels = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot read the labels ({error}); expected one per line, in UTF-8",
            code="source.unreadable_labels",
        ) from error
    while labels and not labels[-1]:
        labels.pop()
    blank = [number for number, label in enumerate(labels, 1) if not label]
    if blank:
        raise SpecError(
            f"{path}: no label in line {', '.join(map(str, blank[:5]))}; expected one per line",
            code="source.blank_label",
        )
    return tuple(labels)
