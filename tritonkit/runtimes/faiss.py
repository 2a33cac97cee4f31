"""Run a search model with a FAISS index: `model.faiss`, with the embedder and the items in `model.npz`.

The index is an `IndexHNSWFlat` of unit vectors with inner products, as `faiss.write_index` stores it.
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
from tritonkit.tasks.search import answers, gallery_of


class FaissRunner(Runner):
    """Runs the embedder with ONNX Runtime, and searches its vectors in the index, on the CPU."""

    def __init__(self, path: Path, threads: int = 0, spec: ModelSpec | None = None) -> None:
        """Open both files; without `spec`, the spec is that of the file. Raises ArtifactError."""
        self.origin = str(path)
        self._items = IndexedItems.read(path)
        self._embedder = OnnxRuntimeRunner(path, threads, graph=self._items.embedder)
        self.spec = spec or self._embedder.spec
        self._settings = gallery_of(self.spec)
        self._index = read_index(path)
        if self._index.ntotal != len(self._items.numbers):
            raise ArtifactError(
                f"{path}: has {self._index.ntotal} vectors, and the file beside it {len(self._items.numbers)} items; "
                "both must be of one version",
                code="faiss.other_items",
            )

    def _infer(self, batch: ImageArray) -> Outputs:
        (vectors,) = self._embedder.infer(batch).values()
        distance, index = search(self._index, vectors, self._settings.neighbors)
        label = self._items.labels_at(index)
        answer = answers(self._settings, distance, label)
        return {"answer": answer, "label": label, "path": self._items.paths_at(index), "distance": distance}


def read_index(path: Path) -> Any:
    """Open an index. Raises ArtifactError for another or a damaged file."""
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ArtifactError(f"{path}: FAISS cannot load it: {reason}", code="faiss.unreadable") from error
    if not isinstance(index, faiss.IndexHNSWFlat):
        raise ArtifactError(
            f"{path}: is a {type(index).__name__}; expected an IndexHNSWFlat of `builder index`",
            code="faiss.other_index",
        )
    return index


def search(index: Any, vectors: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return cosine distances and numbers of the nearest items, [M, count], nearest first.

    HNSW can find fewer than `count`, such as among many equal vectors; such a query is searched for exactly.
    """
    cosine, numbers = index.search(vectors, count)
    if (short := (numbers < 0).any(axis=1)).any():
        cosine[short], numbers[short] = faiss.downcast_index(index.storage).search(vectors[short], count)
    return np.clip(1 - cosine, 0, 2), numbers
