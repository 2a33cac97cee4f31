"""The approximate search of large galleries: an HNSW index of FAISS, and how much of the exact search it finds.

HNSW: Malkov, Yashunin, IEEE TPAMI 42 (2020) 824. `benchmarks/studies/searching/libraries.py` compares libraries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from builder.sources.search.gallery import Gallery, Vectors
from tritonkit.errors import InputError
from tritonkit.runtimes.indexed_items import IndexedItems
from tritonkit.system.console import track_progress
from tritonkit.tasks.search import SEARCH_TIE

LINKS, BUILD_EFFORT = 16, 128
"""Of the graph: links of an item, and candidates while it is built."""
EFFORTS = (32, 64, 128, 256, 512, 1024)
"""Candidates of a search: the first number that finds enough is stored in the index."""
ENOUGH, LEAST = 0.998, 0.99
"""The share of the nearest items that a search should find, and must find."""
_QUERIES, _PART = 500, 10_000


def build_index(gallery: Gallery, extended: Any = None) -> Any:
    """Return a FAISS index of the vectors. extended: the index of the first items, which gets the others."""
    import faiss

    index = extended
    if index is None:
        index = faiss.IndexHNSWFlat(gallery.vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD_EFFORT
    starts = range(index.ntotal, len(gallery), _PART)
    for start in track_progress(starts, "building the index", len(starts)):
        index.add(np.ascontiguousarray(gallery.vectors[start : start + _PART]))
    return index


def choose_effort(index: Any, gallery: Gallery, neighbors: int) -> float:
    """Choose how many candidates a search of the index visits; return the share of the nearest items that it finds.

    The queries are items, moved in a random direction as far as their nearest item is: new images lie near items, but
    are none. Raises InputError where even the largest effort finds too few.
    """
    queries = _queries(gallery)
    exact, _ = gallery.search(queries, neighbors)
    share = 0.0
    for effort in EFFORTS:
        index.hnsw.efSearch = max(effort, 2 * neighbors)
        cosine, _ = index.search(queries, neighbors)
        share = float(np.mean(1 - cosine <= exact[:, -1:] + SEARCH_TIE))
        if share >= ENOUGH:
            break
    if share < LEAST:
        raise InputError(
            f"--approximate: finds at most {share:.1%} of the {neighbors} nearest items, expected at least "
            f"{LEAST:.0%}: the vectors are too alike. Ask for fewer --neighbors, train the embedding model longer, or "
            "search exactly with --no-approximate",
            code="index.low_recall",
        )
    return share


def gallery_in_index(path: Path) -> tuple[Gallery, Any]:
    """Read the gallery and the index of a `model.faiss`. Raises ArtifactError."""
    from tritonkit.runtimes.faiss import read_index

    index, items = read_index(path), IndexedItems.read(path)
    numbers = np.arange(len(items.numbers))
    vectors = index.reconstruct_n(0, index.ntotal)
    return Gallery(vectors, items.labels_at(numbers), items.paths_at(numbers)), index


def _queries(gallery: Gallery) -> Vectors:
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(gallery))[:_QUERIES]
    vectors = gallery.vectors[rows]
    nearest, _ = gallery.search(vectors, min(2, len(gallery)))
    directions = rng.standard_normal(vectors.shape, dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    queries = vectors + directions * np.sqrt(2 * nearest[:, -1:])  # the distance of unit vectors from their cosine's
    normalized: Vectors = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return normalized
