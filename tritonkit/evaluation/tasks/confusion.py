"""Confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_CLASSES = 1000
"""With more classes, a matrix would be too large to read and to store."""


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts of each truth and answer: int64 [len(truths), len(answers)]."""

    truths: tuple[str, ...]
    answers: tuple[str, ...]
    counts: NDArray[np.int64]
    unit: str = "images"
    """The unit of the counts: images or pixels."""

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        return replace(self, counts=self.counts + other.counts)


def add_matrices(total: dict[str, ConfusionMatrix], matrices: Mapping[str, ConfusionMatrix]) -> None:
    """Add the matrices of each head to those of `total`, in place."""
    for head, matrix in matrices.items():
        total[head] = total[head] + matrix if head in total else matrix


def confusion_matrix(
    truths: NDArray[Any], answers: NDArray[Any], labels: Sequence[str], unit: str = "images"
) -> dict[str, ConfusionMatrix]:
    """Count class numbers, [N] each, in a matrix with an empty name; none for more than MAX_CLASSES labels."""
    size = len(labels)
    if size > MAX_CLASSES:
        return {}
    pairs = truths.astype(np.int64) * size + answers.astype(np.int64)
    counts = np.bincount(pairs, minlength=size * size).reshape(size, size)
    return {"": ConfusionMatrix(tuple(labels), tuple(labels), counts, unit)}
