"""Triton backend `openvino` in Python: runs the `model.xml` of a repository made for NVIDIA's backend.

It reads the parameters that NVIDIA's backend reads (triton-inference-server/openvino_backend, README.md), with these
differences:

- it accepts any batch size and never pads: `ENABLE_BATCH_PADDING`, `SKIP_OV_DYNAMIC_BATCHSIZE` and `RESHAPE_IO_LAYERS`
  have no effect;
- a file that records its precision runs in it; `HINT_BF16` applies to other files. Without either it runs in f32, while
  the library, and so NVIDIA's backend, uses bf16 on a CPU that supports it.

It runs inside Triton's Python stub with numpy and openvino. How such backends work:
github.com/triton-inference-server/backend, docs/python_based_backends.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openvino
import triton_python_backend_utils as pb_utils
from openvino.frontend import FrontEndManager

if TYPE_CHECKING:
    from pathlib import Path

    from server.backends.batching import BatchingModel, Interface, TensorInfo
else:  # in Triton's backend folder it is next to this file
    from batching import BatchingModel, TensorInfo

PRECISION_KEY = ["runtime_options", "INFERENCE_PRECISION_HINT"]


_TYPES = {
    "boolean": "BOOL",
    "f16": "FP16",
    "f32": "FP32",
    "f64": "FP64",
    **{f"i{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"UINT{bits}" for bits in (8, 16, 32, 64)},
}
"""Triton's data type, by OpenVINO's element type."""


class TritonPythonModel(BatchingModel):
    """One instance of a model."""

    library = "openvino"

    @classmethod
    def interface(cls, path: Path) -> Interface:
        """Return inputs and outputs of the model."""
        try:
            model = _read(path)
        except RuntimeError as error:
            raise _load_error(path, error) from error
        return [_tensor(port) for port in model.inputs], [_tensor(port) for port in model.outputs]

    def open(self, args: dict[str, str]) -> None:
        """Compile the model for the CPU, the only device of NVIDIA's backend, even on a machine with GPUs."""
        try:
            model = _read(self.path)
            requested = "bf16" if self.parameter("HINT_BF16").lower() == "yes" else "f32"
            if model.has_rt_info(PRECISION_KEY):
                requested = str(model.get_rt_info(PRECISION_KEY).astype(str))
            compiled = openvino.Core().compile_model(model, "CPU", self._settings(requested))
        except RuntimeError as error:
            raise _load_error(self.path, error) from error
        self.check_names("inputs", self.inputs, _names(compiled.inputs))
        self.check_names("outputs", self.outputs, _names(compiled.outputs))
        actual = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        pb_utils.Logger.log_info(f"{self.path}: OpenVINO runs it in {actual}")
        if actual != requested:
            pb_utils.Logger.log_warn(
                f"{self.path}: needs {requested}, which this CPU does not support; OpenVINO runs it in {actual}"
            )
        if actual == "f32" and self.parameter("HINT_BF16"):
            pb_utils.Logger.log_warn(f"{self.path}: HINT_BF16 is ignored, because the file requires {requested}")
        self._request = compiled.create_infer_request()

    def run(self, arrays: list[Any]) -> list[Any]:
        """Infer one batch."""
        outputs = self._request.infer(dict(zip(self.inputs, arrays, strict=True)), share_inputs=True)
        return [outputs[name] for name in self.outputs]

    def _settings(self, precision: str) -> dict[str, Any]:
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
        # The parameter counts the threads of all instances: in NVIDIA's backend they share one compiled model.
        threads = self._number("INFERENCE_NUM_THREADS")
        settings["INFERENCE_NUM_THREADS"] = max(1, threads // self.instances) if threads else self.cores
        if compiling := self._number("COMPILATION_NUM_THREADS"):
            settings["COMPILATION_NUM_THREADS"] = compiling
        for name in ("NUM_STREAMS", "PERFORMANCE_HINT"):
            if value := self.parameter(name):
                settings[name] = value.upper()
        return settings

    def _number(self, name: str) -> int:
        value = self.parameter(name)
        if value and not value.isdecimal():
            raise pb_utils.TritonModelException(f"parameter {name}: expected a non-negative number, got {value!r}")
        return int(value or 0)


def _read(path: Path) -> openvino.Model:
    """Read the model as OpenVINO IR. `read_model` would also try all other formats, and log each."""
    reader = FrontEndManager().load_by_framework("ir")
    return reader.convert(reader.load(str(path)))


def _load_error(path: Path, error: RuntimeError) -> Exception:
    reason = str(error).strip().splitlines()[-1]
    exception: Exception = pb_utils.TritonModelException(f"{path}: OpenVINO cannot load it: {reason}")
    return exception


def _names(ports: list[Any]) -> list[str]:
    """Return all names: OpenVINO merges a comparison with the cast after it, and the output has the names of both."""
    return [name for port in ports for name in sorted(port.get_names())]


def _tensor(port: Any) -> TensorInfo:
    """Return name, type and shape of an input or output; of a port with several names, the library chooses one."""
    element = port.get_element_type().get_type_name()
    if element not in _TYPES:
        raise pb_utils.TritonModelException(f"{port.get_any_name()} is {element}, which this backend does not support")
    sizes = tuple(size.get_length() if size.is_static else -1 for size in port.get_partial_shape())
    return TensorInfo(port.get_any_name(), f"TYPE_{_TYPES[element]}", sizes)
