"""The approximate search of large galleries: an inverted file (IVF) of FAISS, and how much of the exact one it finds.

Vectors are divided into lists by their nearest centroid; a search visits the lists whose centroids are nearest to the
query (Jégou, Douze, Schmid, IEEE TPAMI 33 (2011) 117). `benchmarks/studies/searching/libraries.py` compares libraries.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builder.sources.search.gallery import Gallery, Vectors
from tritonkit.errors import ArtifactError
from tritonkit.runtimes.formats import FAISS
from tritonkit.runtimes.indexed_items import IndexedItems
from tritonkit.system.console import track_progress
from tritonkit.tasks.search import SEARCH_TIE

TARGET_RECALL = 0.998
"""The share of the nearest items that a search should find, of each kind of query."""
_QUERIES, _PART = 500, 10_000
_ITEMS_OF_LIST, _POINTS_OF_LIST = 39, 64
"""The fewest items of a list, below which FAISS warns; and the most that take part in finding its centroid."""


def check_faiss() -> None:
    """Raise ArtifactError where FAISS is missing."""
    if find_spec(FAISS.library) is None:
        raise ArtifactError(
            "a gallery in a FAISS index needs FAISS; install it with: pip install 'tritonkit[faiss]'",
            code="install.missing_module",
        )


def build_index(gallery: Gallery, base: Any = None) -> Any:
    """Return a FAISS index of the vectors. base: the index of the first items, which gets the others."""
    import faiss

    index = base
    if index is None:
        size, items = gallery.vectors.shape[1], len(gallery)
        # The FAISS wiki, "Guidelines to choose an index", advises 4 sqrt(N) to 16 sqrt(N) lists.
        lists = max(1, min(int(4 * np.sqrt(items)), items // _ITEMS_OF_LIST))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.max_points_per_centroid = _POINTS_OF_LIST
        index.train(np.ascontiguousarray(gallery.vectors))
    starts = range(index.ntotal, len(gallery), _PART)
    for start in track_progress(starts, "building the index", len(starts)):
        index.add(np.ascontiguousarray(gallery.vectors[start : start + _PART]))
    return index


def choose_probes(index: Any, gallery: Gallery, neighbors: int, held_out: Vectors | None) -> float:
    """Choose how many lists a search visits; return the share of the nearest items that it finds.

    It is the smallest share of three kinds of queries: like the items, like nothing in the gallery, and images of other
    classes where there are some. held_out: their vectors, [M, D]. A search of all lists is exact.
    """
    rng = np.random.default_rng(0)
    groups = [_near_items(gallery, rng), _unit(rng.standard_normal((_QUERIES, gallery.vectors.shape[1])))]
    if held_out is not None:
        groups.append(held_out[rng.permutation(len(held_out))[:_QUERIES]])
    limits = [gallery.search(queries, neighbors)[0][:, -1:] + SEARCH_TIE for queries in groups]
    index.nprobe = 1
    while True:
        share = min(
            float(np.mean(1 - index.search(queries, neighbors)[0] <= limit))
            for queries, limit in zip(groups, limits, strict=True)
        )
        if share >= TARGET_RECALL or index.nprobe >= index.nlist:
            return share
        index.nprobe = min(2 * index.nprobe, index.nlist)


def gallery_in_index(path: Path) -> tuple[Gallery, Any]:
    """Read the gallery and the index of a `model.faiss`. Raises ArtifactError."""
    check_faiss()
    from tritonkit.runtimes.faiss import read_index

    items = IndexedItems.read(path)
    index, numbers = read_index(path, items), np.arange(len(items))
    index.make_direct_map()
    vectors = index.reconstruct_n(0, index.ntotal)
    index.set_direct_map_type(0)  # none: it would grow with each item that is added
    return Gallery(vectors, items.labels_at(numbers), items.paths_at(numbers)), index


def _near_items(gallery: Gallery, rng: np.random.Generator) -> Vectors:
    """Return vectors near items: moved in a random direction about as far as the nearest other item is."""
    vectors = gallery.vectors[rng.permutation(len(gallery))[:_QUERIES]]
    nearest, _ = gallery.search(vectors, min(2, len(gallery)))
    # The distance of unit vectors is sqrt(2 (1 - cos)).
    return _unit(vectors + _unit(rng.standard_normal(vectors.shape)) * np.sqrt(2 * nearest[:, -1:]))


def _unit(vectors: NDArray[np.floating[Any]]) -> Vectors:
    normalized: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return normalized
