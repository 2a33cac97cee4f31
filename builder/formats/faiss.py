"""A search model with a FAISS index, served by tritonkit's backend `faiss` (`server/backends/faiss`).

`builder index` writes it where a gallery does not fit into an ONNX graph. NVIDIA has no such backend.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from builder.formats.base import ArtifactBuilder, BuildJob
from builder.sources.search.source import SearchSource
from tritonkit.errors import InputError
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import FAISS
from tritonkit.runtimes.indexed_items import IndexedItems


class Faiss(ArtifactBuilder):
    """The index, and beside it the embedder and the items."""

    format = FAISS
    is_graph = False

    def check_job(self, job: BuildJob) -> None:
        if not isinstance(job.source, SearchSource) or job.source.index is None:
            raise InputError(
                f"--format {self.format.name}: is the format of search models; publish one with: builder index "
                "CHECKPOINT GALLERY --approximate",
                code="faiss.no_search",
            )

    def write(self, job: BuildJob) -> Path:
        import faiss

        assert isinstance(job.source, SearchSource)  # noqa: S101 - `check_job`
        gallery, artifact = job.source.gallery, job.folder / self.format.file
        faiss.write_index(job.source.index, str(artifact))
        paths = np.char.encode(gallery.paths, "utf-8")
        IndexedItems(job.graph.read_bytes(), *gallery.numbered_labels, paths).write(artifact)
        return artifact

    def open_runner(self, artifact: Path, job: BuildJob) -> Runner:
        return self.format.open(artifact)

    def verification_method(self, job: BuildJob) -> str:
        return "the artifact itself, run by ONNX Runtime and FAISS"
