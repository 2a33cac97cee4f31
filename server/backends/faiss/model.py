"""Triton backend `faiss` in Python: a search model whose gallery does not fit into an ONNX graph.

It runs the embedder of `model.items.npz` with ONNX Runtime, and searches its vectors in the index `model.faiss`, as
`tritonkit.runtimes.faiss` does. It runs inside Triton's Python stub with numpy, onnxruntime and faiss.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from server.backends.batching import BatchingModel
else:  # in Triton's backend folder it is next to this file
    from batching import BatchingModel


class TritonPythonModel(BatchingModel):
    """One instance of a model, on the CPU. By default instances share the cores."""

    library = "faiss"
    file = "model.faiss"

    def open(self, args: dict[str, str]) -> None:
        """Open the embedder and the index. Raises TritonModelException where a file is missing or damaged."""
        self.threads = int(self.parameter("intra_op_thread_count") or self.cores)
        faiss.omp_set_num_threads(self.threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self.threads, 3
        try:
            with np.load(self.path.with_suffix(".items.npz"), allow_pickle=False) as arrays:
                graph = arrays["embedder"].tobytes()
                self._classes, self._numbers, self._paths = arrays["classes"], arrays["numbers"], arrays["paths"]
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            self._index: Any = faiss.read_index(str(self.path))
        except Exception as error:  # of three libraries
            raise pb_utils.TritonModelException(f"{self.path}: cannot be loaded: {error}") from error
        # config.pbtxt has the gallery of another version where that is the newest one.
        self._gallery = json.loads(self._session.get_modelmeta().custom_metadata_map["model.json"])["gallery"]
        if self._index.ntotal != len(self._numbers):
            raise pb_utils.TritonModelException(
                f"{self.path}: has {self._index.ntotal} vectors, and the file beside it {len(self._numbers)} items"
            )

    def run(self, arrays: list[Any]) -> list[Any]:
        """Embed and search one batch."""
        (vectors,) = self._session.run(None, dict(zip(self.inputs, arrays, strict=True)))
        cosine, items = self._index.search(vectors, self._gallery["neighbors"])
        if (short := (items < 0).any(axis=1)).any():  # too few in the lists that were visited
            everywhere = faiss.SearchParametersIVF()
            everywhere.nprobe = self._index.nlist
            cosine[short], items[short] = self._index.search(
                vectors[short], self._gallery["neighbors"], params=everywhere
            )
        distance = np.clip(1 - cosine, 0, 2)
        label = self._classes[self._numbers[items]]
        answer = np.where(distance[:, :1] < np.float32(self._gallery["threshold"]), label[:, :1], "unknown")
        outputs = {"answer": answer, "label": label, "path": self._paths[items], "distance": distance}
        return [self._tensor(outputs[name]) for name in self.outputs]

    @staticmethod
    def _tensor(array: Any) -> Any:
        return array if array.dtype == np.float32 else array.astype(object)
