"""The second file of a search model with a FAISS index, `model.npz`: the embedder, and the items of the index.

Its arrays: `embedder`, the ONNX graph as uint8, with the spec in its metadata; `classes`, str [C]; `numbers`, the class
of each item, int64 [N]; `paths`, UTF-8 bytes [N]. FAISS is not needed to read it.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import ArtifactError, first_line
from tritonkit.runtimes.formats import FAISS


@dataclass(frozen=True)
class IndexedItems:
    """The second file of a search model."""

    embedder: bytes
    """The ONNX graph."""
    classes: NDArray[np.str_]
    numbers: NDArray[np.int64]
    encoded_paths: NDArray[np.bytes_]

    @classmethod
    def read(cls, path: Path) -> IndexedItems:
        """Read the file that belongs to an index. path: of the index. Raises ArtifactError."""
        file = path.with_suffix(FAISS.weights_suffix)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return cls(arrays["embedder"].tobytes(), *(arrays[name] for name in ("classes", "numbers", "paths")))
        except FileNotFoundError as error:
            raise ArtifactError(
                f"{file}: no such file; it holds the embedder and the labels of {path.name}, copy it beside it",
                code="faiss.no_items",
            ) from error
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{file}: damaged or truncated ({first_line(error)})", code="faiss.damaged") from error

    def write(self, path: Path) -> None:
        """Write the file that belongs to an index. path: of the index."""
        np.savez(
            path.with_suffix(FAISS.weights_suffix),
            embedder=np.frombuffer(self.embedder, np.uint8),
            classes=self.classes,
            numbers=self.numbers,
            paths=self.encoded_paths,
        )

    def labels_at(self, index: NDArray[np.int64]) -> NDArray[np.str_]:
        """Return the labels of the items with these numbers."""
        return self.classes[self.numbers[index]]

    def paths_at(self, index: NDArray[np.int64]) -> NDArray[np.str_]:
        """Return the paths of the items with these numbers."""
        return np.char.decode(self.encoded_paths[index], "utf-8")
