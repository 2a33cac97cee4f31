"""Vectors as metric learning gives them, made without a network.

A gallery has classes of 50 items, whose centres lie on a surface of 32 dimensions. Queries are other items of its
classes, items of new classes, and random directions, which are like nothing in the gallery.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
CLASS_ITEMS, SURFACE, NOISE = 50, 32, 0.3
"""Items of a class, dimensions of the surface, and how far an item is from its centre."""
QUERIES = 500
"""Queries of each kind."""


def gallery_vectors(count: int, size: int) -> Vectors:
    """Return unit vectors to search in, [count, size]."""
    return _items(_centres(count // CLASS_ITEMS, size, 1), count, 2)


def query_vectors(count: int, size: int) -> dict[str, Vectors]:
    """Return unit vectors to search for, [500, size] of each kind. count: items of the gallery."""
    return {
        "same classes": _items(_centres(count // CLASS_ITEMS, size, 1), QUERIES, 3),
        "new classes": _items(_centres(QUERIES, size, 4), QUERIES, 5),
        "random": _unit(np.random.default_rng(6).standard_normal((QUERIES, size), dtype=np.float32)),
    }


def _centres(classes: int, size: int, seed: int) -> Vectors:
    basis = np.random.default_rng(0).standard_normal((SURFACE, size), dtype=np.float32)
    return _unit(np.tanh(np.random.default_rng(seed).standard_normal((classes, SURFACE), dtype=np.float32)) @ basis)


def _items(centres: Vectors, count: int, seed: int) -> Vectors:
    rng, size = np.random.default_rng(seed), centres.shape[1]
    noise = rng.standard_normal((count, size), dtype=np.float32)
    noise *= NOISE / np.sqrt(size, dtype=np.float32)
    noise += centres[rng.integers(0, len(centres), count)]
    return _unit(noise)


def _unit(vectors: NDArray[Any]) -> Vectors:
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
