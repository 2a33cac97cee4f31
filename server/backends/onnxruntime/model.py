"""Triton backend `onnxruntime` in Python: runs the `model.onnx` of a repository made for NVIDIA's backend.

It reads the same files, parameters and execution accelerators as the backend in NVIDIA's image, so both serve the same
repository. It runs inside Triton's Python stub with numpy and onnxruntime.
How such backends work: github.com/triton-inference-server/backend, docs/python_based_backends.md.
"""

from __future__ import annotations

import time
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from server.backends.batching import BatchingModel, Interface, TensorInfo
    from server.backends.onnxruntime.accelerators import providers_for
else:  # in Triton's backend folder they are next to this file
    from accelerators import providers_for
    from batching import BatchingModel, TensorInfo


_TYPES = {
    "bool": "BOOL",
    "float16": "FP16",
    "float": "FP32",
    "double": "FP64",
    "string": "STRING",
    **{f"{sign}int{bits}": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""Triton's data type, by ONNX Runtime's element type."""


SHORTEST_ROW_S = 0.002
"""Below this time of a row, handing each row to a thread costs more than a batch in one call."""


class TritonPythonModel(BatchingModel):
    """One instance of a model."""

    library = "onnxruntime"

    @classmethod
    def interface(cls, path: Path) -> Interface:
        """Return inputs and outputs of the graph."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise pb_utils.TritonModelException(f"{path}: ONNX Runtime cannot load it: {error}") from error
        return [_tensor(node) for node in session.get_inputs()], [_tensor(node) for node in session.get_outputs()]

    def open(self, args: dict[str, str]) -> None:
        """Open the graph, with the parameters of NVIDIA's backend; by default instances share the cores."""
        self._opening, self._row_session = Lock(), None
        providers = providers_for(self.config, args, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.cores
        for kind in ("intra", "inter"):
            if threads := self.parameter(f"{kind}_op_thread_count"):
                setattr(options, f"{kind}_op_num_threads", int(threads))
        self.threads, self._options, self._providers = options.intra_op_num_threads, options, providers
        try:
            self._session = self._open_session()
        except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as error:
            raise pb_utils.TritonModelException(
                f"{self.path}: {error}. ONNX Runtime has no kernel for it here; a graph in bf16 needs the TensorRT "
                "accelerator on a GPU"
            ) from error
        requested = [provider[0] for provider in providers]
        if failed := set(requested) - set(self._session.get_providers()):  # ONNX Runtime only logs the reason
            raise pb_utils.TritonModelException(
                f"{self.path}: {', '.join(sorted(failed))} failed to start; see the log above for missing libraries"
            )
        self.check_names("inputs", self.inputs, [tensor.name for tensor in self._session.get_inputs()])
        self.check_names("outputs", self.outputs, [tensor.name for tensor in self._session.get_outputs()])

        batches = self.config["max_batch_size"] > 1 and len(providers) == 1  # the CPU alone
        self.runs_rows = batches and self.threads > 1 and self._row_seconds() > SHORTEST_ROW_S

    def run(self, arrays: list[Any]) -> list[Any]:
        """Infer one batch."""
        return self._run(self._session, arrays)

    def run_row(self, arrays: list[Any], alone: bool) -> list[Any]:
        """Infer one row, on one thread unless it is alone. For it the weights take memory again, from its first use."""
        if alone:
            return self._run(self._session, arrays)
        with self._opening:
            if self._row_session is None:
                self._options.intra_op_num_threads = 1
                self._row_session = self._open_session()
        return self._run(self._row_session, arrays)

    def _row_seconds(self) -> float:
        """Return the time of one row on all threads; 0 for inputs of unknown sizes."""
        row = []
        for tensor in self.config["input"]:
            shape = tensor["reshape"].get("shape", []) if "reshape" in tensor else tensor["dims"]
            sizes = list(map(int, shape))
            if min(sizes, default=1) < 1 or tensor["data_type"] == "TYPE_STRING":
                return 0.0
            row.append(np.zeros((1, *sizes), pb_utils.triton_string_to_numpy(tensor["data_type"])))
        for _ in range(2):  # the first run also allocates memory
            start = time.perf_counter()
            try:
                self.run(row)
            except Exception:  # noqa: BLE001 - such as a graph that refuses zeros
                return 0.0
            seconds = time.perf_counter() - start
            if seconds <= SHORTEST_ROW_S:
                break
        return seconds

    def _run(self, session: onnxruntime.InferenceSession, arrays: Sequence[Any]) -> list[Any]:
        outputs: list[Any] = session.run(self.outputs, dict(zip(self.inputs, arrays, strict=True)))
        return outputs

    def _open_session(self) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(str(self.path), self._options, providers=self._providers)


def _tensor(node: Any) -> TensorInfo:
    """Return name, type and shape of a tensor. node: a NodeArg of ONNX Runtime; its dynamic sizes are names or None."""
    element = node.type.removeprefix("tensor(").removesuffix(")")
    if element not in _TYPES:
        raise pb_utils.TritonModelException(f"{node.name} is {node.type}, which Triton does not support")
    return TensorInfo(
        node.name, f"TYPE_{_TYPES[element]}", tuple(size if isinstance(size, int) else -1 for size in node.shape)
    )
