"""Two jobs of `client infer` over the same pictures, compared row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TOLERANCE = 1e-5
"""Of a probability: what another make-up of batches may change."""


def compare(expected: Path, actual: Path, pictures: int) -> tuple[list[str], float]:
    """What is wrong with a job's JSON lines beside those of another, and the largest difference of probabilities."""
    wanted, got = ([json.loads(line) for line in path.read_text().splitlines()] for path in (expected, actual))
    names = [row["path"] for row in got]
    failures = []
    if len(names) != pictures or len(set(names)) != len(names):
        failures.append(f"{len(names)} rows of {len(set(names))} pictures, expected {pictures}")
    if names != [row["path"] for row in wanted]:
        failures.append("other pictures, or another order")
        return failures, float("inf")
    differences = [_difference(one, other) for one, other in zip(wanted, got, strict=True)]
    far = [name for name, difference in zip(names, differences, strict=True) if difference > TOLERANCE]
    return failures + [f"{name}: another answer" for name in far[:10]], max(differences)


def _difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    if one.keys() != other.keys() or one.get("error") != other.get("error"):
        return float("inf")
    first, second = ({entry["label"]: entry["probability"] for entry in row.get("top", [])} for row in (one, other))
    if first.keys() != second.keys():
        return float("inf")
    return max((abs(first[label] - second[label]) for label in first), default=0.0)


def same_bytes(expected: Path, actual: Path) -> bool:
    """Whether the JSON lines of two jobs, and the CSV beside each, are the same to the last byte."""
    pairs = [(one.with_suffix(suffix) for one in (expected, actual)) for suffix in (".jsonl", ".csv")]
    return all(first.read_bytes() == second.read_bytes() for first, second in pairs)
