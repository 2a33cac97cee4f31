"""Triton backend `onnxruntime`, in Python: runs `model.onnx` of a model repository made for NVIDIA's own backend.

It reads the same files, parameters and execution accelerators as the backend in NVIDIA's image, so one repository
serves both. It runs inside Triton's Python stub with numpy and onnxruntime.
How such backends work: github.com/triton-inference-server/backend, docs/python_based_backends.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnxruntime
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from pathlib import Path

    from server.backends.batching import BatchingModel, Interface, Tensor
    from server.backends.onnxruntime.accelerators import providers_for
else:  # they lie beside this file in Triton's backend folder
    from accelerators import providers_for
    from batching import BatchingModel, Tensor


_TYPES = {
    "bool": "BOOL",
    "float16": "FP16",
    "float": "FP32",
    "double": "FP64",
    "string": "STRING",
    **{f"{sign}int{bits}": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""ONNX Runtime's words for element types, and Triton's."""


class TritonPythonModel(BatchingModel):
    """One instance of a model."""

    library = "onnxruntime"
    default_filename = "model.onnx"

    @classmethod
    def interface(cls, path: Path) -> Interface:
        """Inputs and outputs of the graph."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise pb_utils.TritonModelException(f"{path}: ONNX Runtime cannot load it: {error}") from error
        return [_tensor(one) for one in session.get_inputs()], [_tensor(one) for one in session.get_outputs()]

    def open(self, args: dict[str, str]) -> None:
        """Open the graph."""
        providers = providers_for(self.config, args, onnxruntime.get_available_providers())
        try:
            self._session = onnxruntime.InferenceSession(str(self.path), self._options(), providers=providers)
        except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as error:
            raise pb_utils.TritonModelException(
                f"{self.path}: {error}. ONNX Runtime has no kernel for it here; a graph in bf16 needs the TensorRT "
                "accelerator on a GPU"
            ) from error
        wanted = [provider[0] for provider in providers]
        if lost := set(wanted) - set(self._session.get_providers()):  # it only prints why, and goes on without them
            raise pb_utils.TritonModelException(
                f"{self.path}: {', '.join(sorted(lost))} could not be started here; see the log above for its libraries"
            )
        self.check_names("inputs", self.inputs, [tensor.name for tensor in self._session.get_inputs()])
        self.check_names("outputs", self.outputs, [tensor.name for tensor in self._session.get_outputs()])

    def run(self, arrays: list[Any]) -> list[Any]:
        """Infer one batch."""
        answers: list[Any] = self._session.run(self.outputs, dict(zip(self.inputs, arrays, strict=True)))
        return answers

    def _options(self) -> Any:
        """The session options that NVIDIA's backend reads from the same parameters; else instances share the cores."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.cores
        for parameter, attribute in (
            ("intra_op_thread_count", "intra_op_num_threads"),
            ("inter_op_thread_count", "inter_op_num_threads"),
        ):
            if value := self.parameter(parameter):
                setattr(options, attribute, int(value))
        # Threads that spin between requests would take the cores from Triton and its clients.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options


def _tensor(found: Any) -> Tensor:
    """found: a NodeArg of ONNX Runtime, whose free sizes have names or none."""
    element = found.type.removeprefix("tensor(").removesuffix(")")
    if element not in _TYPES:
        raise pb_utils.TritonModelException(f"{found.name} is {found.type}, which Triton has no tensors for")
    return Tensor(
        found.name, f"TYPE_{_TYPES[element]}", tuple(size if isinstance(size, int) else -1 for size in found.shape)
    )
