"""Triton backend `onnxruntime` in Python: runs the `model.onnx` of a repository made for NVIDIA's backend.

It reads the same files, parameters and execution accelerators as the backend in NVIDIA's image, so both serve the same
repository. It runs inside Triton's Python stub with numpy and onnxruntime.
How such backends work: github.com/triton-inference-server/backend, docs/python_based_backends.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnxruntime
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
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
        providers = providers_for(self.config, args, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.cores
        for kind in ("intra", "inter"):
            if threads := self.parameter(f"{kind}_op_thread_count"):
                setattr(options, f"{kind}_op_num_threads", int(threads))
        # Spinning threads would take CPU time from Triton and its clients.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(self.path), options, providers=providers)
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

    def run(self, arrays: list[Any]) -> list[Any]:
        """Infer one batch."""
        outputs: list[Any] = self._session.run(self.outputs, dict(zip(self.inputs, arrays, strict=True)))
        return outputs


def _tensor(node: Any) -> TensorInfo:
    """Return name, type and shape of a tensor. node: a NodeArg of ONNX Runtime; its dynamic sizes are names or None."""
    element = node.type.removeprefix("tensor(").removesuffix(")")
    if element not in _TYPES:
        raise pb_utils.TritonModelException(f"{node.name} is {node.type}, which Triton does not support")
    return TensorInfo(
        node.name, f"TYPE_{_TYPES[element]}", tuple(size if isinstance(size, int) else -1 for size in node.shape)
    )
