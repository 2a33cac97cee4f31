"""The second file of a search model with a FAISS index, `model.items.npz`: the embedder, and the items of the index.

Its arrays: `embedder`, the ONNX graph as uint8, with the spec in its metadata; `classes`, str [C]; `numbers`, the class
of each item, int64 [N]; `paths`, UTF-8 bytes [N]. FAISS is not needed to read it.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import ArtifactError, first_line
from tritonkit.runtimes.formats import FAISS

_KINDS = {"embedder": "u", "classes": "U", "numbers": "i", "paths": "S"}
"""The arrays and their kinds of numpy types."""


@dataclass(frozen=True)
class IndexedItems:
    """The embedder and the items, in the order of the index."""

    embedder: bytes
    """The ONNX graph."""
    classes: NDArray[np.str_]
    numbers: NDArray[np.int64]
    encoded_paths: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.numbers)

    @classmethod
    def read(cls, path: Path) -> IndexedItems:
        """Read the file that belongs to an index. path: of the index. Raises ArtifactError."""
        arrays = _read_arrays(path, tuple(_KINDS))
        classes, numbers, paths = (arrays[name] for name in ("classes", "numbers", "paths"))
        if len(numbers) != len(paths) or (len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(classes)):
            raise _damaged(path, "labels and paths do not fit together")
        return cls(arrays["embedder"].tobytes(), classes, numbers, paths)

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


def read_embedder(path: Path) -> bytes:
    """Read the ONNX graph that belongs to an index, without the items. path: of the index. Raises ArtifactError."""
    return _read_arrays(path, ("embedder",))["embedder"].tobytes()


def _read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    file = path.with_suffix(FAISS.weights_suffix)
    try:
        with zipfile.ZipFile(file) as archive:
            # What is compressed could be of any size; `np.savez` compresses nothing.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise _damaged(path, "it is compressed")
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in names}
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{file}: no such file; it holds the embedder and the labels of {path.name}, copy it next to that file",
            code="faiss.no_items",
        ) from error
    except (OSError, EOFError, KeyError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, first_line(error)) from error
    if any(array.ndim != 1 or array.dtype.kind != _KINDS[name] for name, array in found.items()):
        raise _damaged(path, "it has other arrays")
    return found


def _damaged(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{path.with_suffix(FAISS.weights_suffix)}: damaged or truncated ({reason})", code="faiss.damaged"
    )
