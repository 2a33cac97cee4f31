"""Which picture is most similar to which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ABSENT = -2.0
"""In the place of a cosine, which is at least -1: there is no such picture."""
_ROWS = 1024
"""So many pictures are compared with all others at once: all with all would not fit into memory."""


@dataclass(frozen=True)
class NearestNeighbors:
    """For each of N pictures the most similar other one, its cosine, and how wrong it is, in 0..1."""

    nearest: NDArray[np.int64]
    similar: NDArray[np.float64]
    wrongness: NDArray[np.float64]


def neighbours(vectors: NDArray[Any], classes: NDArray[Any], gallery: NDArray[np.bool_]) -> NearestNeighbors:
    """Look each picture up among the gallery's where there are any, else among all the others.

    vectors: unit length [N, D]; classes: [N]; gallery: [N]. A picture of the gallery is not wrong, nor is one whose
    class nothing else has.
    """
    shelf = gallery if gallery.any() else np.ones_like(gallery)
    parts = np.split(np.arange(len(vectors)), range(_ROWS, len(vectors), _ROWS))
    found = [_look_up(part, vectors, classes, shelf) for part in parts]
    nearest, right, wrong = (np.concatenate(each) for each in zip(*found, strict=True))
    looked_up = ~gallery if gallery.any() else shelf
    wrongness = np.where(looked_up & (right > ABSENT), np.clip((wrong - right) / 2, 0, 1), 0.0)
    return NearestNeighbors(nearest, np.maximum(right, wrong).astype(np.float64), wrongness.astype(np.float64))


def _look_up(
    rows: NDArray[np.int64], vectors: NDArray[Any], classes: NDArray[Any], shelf: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]:
    """The nearest, and the cosines of the nearest of the same class and of another."""
    similar = vectors[rows] @ vectors.T
    similar[:, ~shelf] = ABSENT
    similar[np.arange(len(rows)), rows] = ABSENT
    same = classes[rows, None] == classes
    right = np.where(same, similar, ABSENT).max(axis=1)
    wrong = np.where(same, ABSENT, similar).max(axis=1)
    return similar.argmax(axis=1), right, wrong
