"""Run a search model with a FAISS index: `model.faiss`, with the embedder and the items in `model.items.npz`.

The index is an `IndexIVFFlat` of unit vectors with inner products, as `faiss.write_index` stores it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import ArtifactError
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.indexed_items import IndexedItems
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.spec import ModelSpec, Outputs
from tritonkit.tasks.search import gallery_of, known_or_unknown


class FaissRunner(Runner):
    """Runs the embedder with ONNX Runtime, and searches its vectors in the index, on the CPU."""

    def __init__(self, path: Path, threads: int = 0, spec: ModelSpec | None = None) -> None:
        """Open both files; without `spec`, the spec is that of the file. Raises ArtifactError.

        threads: FAISS has one number for all indexes of a process.
        """
        self.origin = str(path)
        self._items = IndexedItems.read(path)
        self._embedder = OnnxRuntimeRunner(path, threads, graph=self._items.embedder)
        self.spec = spec or self._embedder.spec
        self._settings = gallery_of(self.spec)
        self._index = read_index(path, self._items)
        if threads:
            faiss.omp_set_num_threads(threads)

    def _infer(self, batch: ImageArray) -> Outputs:
        (vectors,) = self._embedder.infer(batch).values()
        distance, index = search(self._index, vectors, self._settings.neighbors)
        label = self._items.labels_at(index)
        answer = known_or_unknown(self._settings, distance, label)
        return {"answer": answer, "label": label, "path": self._items.paths_at(index), "distance": distance}


def read_index(path: Path, items: IndexedItems) -> Any:
    """Open an index. items: of the file next to it. Raises ArtifactError for another or a damaged file."""
    try:
        index = faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        raise ArtifactError(
            f"{path}: damaged or truncated, or too large for the memory of this machine; copy it again, or publish it "
            "again",
            code="faiss.unreadable",
        ) from error
    if not isinstance(index, faiss.IndexIVFFlat) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ArtifactError(
            f"{path}: is a {type(index).__name__}; expected an IndexIVFFlat with inner products, of `builder index`",
            code="faiss.other_index",
        )
    if index.ntotal != len(items):
        raise ArtifactError(
            f"{path}: has {index.ntotal} vectors, and the file next to it {len(items)} items; both must be of one "
            "version",
            code="faiss.other_items",
        )
    return index


def search(index: Any, vectors: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return cosine distances and numbers of the nearest items, [M, count], nearest first.

    The lists that are visited can have fewer than `count` items; such a query visits all lists.
    """
    cosine, numbers = index.search(vectors, count)
    if (short := (numbers < 0).any(axis=1)).any():
        everywhere = faiss.SearchParametersIVF()
        everywhere.nprobe = index.nlist
        cosine[short], numbers[short] = index.search(vectors[short], count, params=everywhere)
    return np.clip(1 - cosine, 0, 2), numbers
