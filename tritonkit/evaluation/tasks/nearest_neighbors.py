"""Nearest neighbors by cosine similarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ABSENT = -2.0
"""The similarity of a missing image; a real cosine is at least -1."""
_ROWS = 1024
"""Number of images that are compared with all others at once, to limit memory."""


@dataclass(frozen=True)
class NearestNeighbors:
    """For each of N images: the index of the nearest other image, its cosine similarity, and the error score, 0..1."""

    nearest: NDArray[np.int64]
    similarity: NDArray[np.float64]
    error_score: NDArray[np.float64]


def find_nearest(vectors: NDArray[Any], classes: NDArray[Any], gallery: NDArray[np.bool_]) -> NearestNeighbors:
    """Find the nearest image of each image: in the gallery if there is one, else among all other images.

    vectors: unit length [N, D]; classes: [N]; gallery: [N]. The error score is 0 for gallery images, and for images
    whose class has no other image.
    """
    searched = gallery if gallery.any() else np.ones_like(gallery)
    parts = np.split(np.arange(len(vectors)), range(_ROWS, len(vectors), _ROWS))
    results = [_search(part, vectors, classes, searched) for part in parts]
    nearest, right, wrong = (np.concatenate(each) for each in zip(*results, strict=True))
    is_query = ~gallery if gallery.any() else searched
    error_score = np.where(is_query & (right > ABSENT), np.clip((wrong - right) / 2, 0, 1), 0.0)
    return NearestNeighbors(nearest, np.maximum(right, wrong).astype(np.float64), error_score.astype(np.float64))


def _search(
    rows: NDArray[np.int64], vectors: NDArray[Any], classes: NDArray[Any], searched: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]:
    """Return the nearest image, and the cosines of the nearest of the same class and of another class."""
    similarity = vectors[rows] @ vectors.T
    similarity[:, ~searched] = ABSENT
    similarity[np.arange(len(rows)), rows] = ABSENT
    same = classes[rows, None] == classes
    right = np.where(same, similarity, ABSENT).max(axis=1)
    wrong = np.where(same, ABSENT, similarity).max(axis=1)
    return similarity.argmax(axis=1), right, wrong
