"""Compare two jobs of `client infer` over the same images row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TOLERANCE = 1e-5
"""Allowed difference of a probability between batches of different images."""


def compare(expected: Path, actual: Path, pictures: int) -> tuple[list[str], float]:
    """Compare the JSON lines of two jobs; return the failures and the largest difference of a probability."""
    expected_rows, actual_rows = (
        [json.loads(line) for line in path.read_text().splitlines()] for path in (expected, actual)
    )
    names = [row["path"] for row in actual_rows]
    failures = []
    if len(names) != pictures or len(set(names)) != len(names):
        failures.append(f"{len(names)} rows of {len(set(names))} pictures, expected {pictures}")
    if names != [row["path"] for row in expected_rows]:
        failures.append("different images, or a different order")
        return failures, float("inf")
    differences = [
        _difference(first_row, second_row) for first_row, second_row in zip(expected_rows, actual_rows, strict=True)
    ]
    different = [name for name, difference in zip(names, differences, strict=True) if difference > TOLERANCE]
    return failures + [f"{name}: different answer" for name in different[:10]], max(differences)


def _difference(first_row: dict[str, Any], second_row: dict[str, Any]) -> float:
    if first_row.keys() != second_row.keys() or first_row.get("error") != second_row.get("error"):
        return float("inf")
    first, second = (
        {entry["label"]: entry["probability"] for entry in row.get("top", [])} for row in (first_row, second_row)
    )
    if first.keys() != second.keys():
        return float("inf")
    return max((abs(first[label] - second[label]) for label in first), default=0.0)


def has_same_bytes(expected: Path, actual: Path) -> bool:
    """Whether the JSON lines and the CSV files of two jobs have the same bytes."""
    pairs = [(path.with_suffix(suffix) for path in (expected, actual)) for suffix in (".jsonl", ".csv")]
    return all(first.read_bytes() == second.read_bytes() for first, second in pairs)
