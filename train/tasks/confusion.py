"""What was taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_CLASSES = 1000
"""A matrix of more classes than this is neither looked at nor small."""


@dataclass(frozen=True)
class Confusion:
    """How often each truth was answered how: int64 [len(truths), len(answers)]."""

    truths: tuple[str, ...]
    answers: tuple[str, ...]
    counts: NDArray[np.int64]
    counted: str = "pictures"
    """What the counts are of."""

    def __add__(self, other: Confusion) -> Confusion:
        return replace(self, counts=self.counts + other.counts)


def crossed(
    truths: NDArray[Any], answers: NDArray[Any], labels: Sequence[str], counted: str = "pictures"
) -> dict[str, Confusion]:
    """Class numbers, [N] each, counted in a matrix that has no name; none for more than MAX_CLASSES labels."""
    size = len(labels)
    if size > MAX_CLASSES:
        return {}
    pairs = truths.astype(np.int64) * size + answers.astype(np.int64)
    counts = np.bincount(pairs, minlength=size * size).reshape(size, size)
    return {"": Confusion(tuple(labels), tuple(labels), counts, counted)}
