"""Run a TensorRT plan, or an engine of TensorRT for RTX, on a GPU.

The library is a value, so one process can run plans of both; Polygraphy's runner knows one library a process, and is
made for debugging. Whether an fp32 plan uses TF32 was decided when it was built. `builder` turns TF32 off; TensorRT's
default is on, and then the rounding error exceeds the limits of an fp32 verdict.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tritonkit.errors import ArtifactError, BatchError, InferenceError
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.tensorrt_plan import (
    BUILD_FILE,
    TITLES,
    TRUST_VARIABLE,
    PlanHeader,
    find_tensorrt,
    plan_header,
    same_release,
    version_numbers,
)
from tritonkit.spec import METADATA_KEY, ModelSpec, Outputs
from tritonkit.system.gpu import find_gpu

OTHER_WAYS_TO_RUN = (
    "Use a Triton server that serves it, with --url, or a machine that has one; an ONNX file runs anywhere"
)
_PROFILE = 0
"""Index of the only optimization profile that the builder creates."""
_TYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
}
"""TensorRT's names of data types."""


class TensorRtRunner(Runner):
    """Runs a plan on the GPU of this machine. Torch holds its tensors and its CUDA stream."""

    def __init__(
        self,
        path: Path,
        spec: ModelSpec | None = None,
        version_compatible: bool | None = None,
        trt: ModuleType | None = None,
        device: str = "cuda",
    ) -> None:
        """Open a plan; without `spec`, read the spec from `model.json` of the published model.

        version_compatible: whether the plan was built version-compatible, so that newer releases of the library load
        it. With None, the build record next to the plan decides; without a record, it was not. Such a plan runs code
        that it contains, so if only the record says so, the plan is refused unless `TRUST_VARIABLE` is 1.
        trt, device: TensorRT and torch's name of the device, for tests.

        Raises ArtifactError for an incomplete file, a missing library or GPU, or a wrong version. These checks come
        before the plan is opened, because TensorRT may crash the process on a plan that it cannot load.
        """
        self.origin = str(path)
        header = plan_header(path)
        trt = trt or find_tensorrt(header.flavour, OTHER_WAYS_TO_RUN)
        from_record = version_compatible is None
        if version_compatible is None:
            version_compatible = _is_recorded_version_compatible(path)
        _check_version(path, header, trt.__version__, version_compatible)
        if device == "cuda" and (find_gpu() is None or not torch.cuda.is_available()):
            gpu = "an NVIDIA GPU" if find_gpu() is None else f"a GPU that torch {torch.__version__} finds"
            raise ArtifactError(
                f"{path}: {TITLES[header.flavour]} needs {gpu} to run it. {OTHER_WAYS_TO_RUN}", code="tensorrt.no_gpu"
            )
        # The build record may come from the same untrusted source as the plan.
        if version_compatible and from_record and os.environ.get(TRUST_VARIABLE) != "1":
            raise ArtifactError(
                f"{path}: is version-compatible, so it contains code that would run here with all your permissions. "
                f"Set {TRUST_VARIABLE}=1 if you trust its builder, or use a Triton server that serves it, with --url",
                code="tensorrt.untrusted",
            )
        self.spec = spec or _read_spec(path)
        self._device = device
        self._stream = torch.cuda.Stream() if device == "cuda" else None  # type: ignore[no-untyped-call]
        self._log_lines: list[str] = []
        self._runtime = trt.Runtime(_logger_for(trt, self._log_lines))
        if version_compatible:  # TensorRT runs code in such a plan to load it
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        self._context = self._engine and self._engine.create_execution_context()
        if self._context is None:
            raise ArtifactError(
                f"{path}: {TITLES[header.flavour]} cannot load it: {self._reason()}", code="tensorrt.unreadable"
            )
        names = [self._engine.get_tensor_name(at) for at in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if name not in inputs]
        expected = [output.name for output in self.spec.outputs]
        if inputs != [self.spec.input.name] or sorted(self._outputs) != sorted(expected):
            raise ArtifactError(
                f"{path}: has the inputs {', '.join(inputs)} and the outputs {', '.join(self._outputs)}; "
                f"its spec expects {self.spec.input.name} and {', '.join(expected)}",
                code="artifact.tensor_mismatch",
            )
        self._input = inputs[0]
        self.max_batch = int(self._engine.get_tensor_profile_shape(self._input, _PROFILE)[2][0])
        self._lock = threading.Lock()  # an execution context is not thread-safe

    def _infer(self, batch: ImageArray) -> Outputs:
        if self.max_batch is not None and len(batch) > self.max_batch:
            raise BatchError(
                f"{self.origin}: got a batch of {len(batch)}; the plan was built for at most {self.max_batch}",
                code="batch.too_large",
            )
        with self._lock, torch.cuda.stream(self._stream):
            context = self._context
            if not context.set_input_shape(self._input, batch.shape):
                raise BatchError(
                    f"{self.origin}: rejects {self._input} {list(batch.shape)}: {self._reason()}", code="batch.rejected"
                )
            tensors = {self._input: torch.from_numpy(batch).to(self._device)}
            for name in self._outputs:
                dtype = _TYPES[self._engine.get_tensor_dtype(name).name]
                shape = tuple(context.get_tensor_shape(name))
                tensors[name] = torch.empty(shape, dtype=dtype, device=self._device)
            for name, tensor in tensors.items():
                context.set_tensor_address(name, tensor.data_ptr())
            if not context.execute_async_v3(self._stream.cuda_stream if self._stream else 0):
                raise InferenceError(f"{self.origin}: the engine failed: {self._reason()}", code="tensorrt.run_failed")
            # Copying to the host waits for the stream. numpy has no bf16.
            outputs = {name: tensors[name].cpu() for name in self._outputs}
        return {
            name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
            for name, tensor in outputs.items()
        }

    def _reason(self) -> str:
        return self._log_lines[-1] if self._log_lines else "no reason given"

    def close(self) -> None:
        """Free the GPU memory."""
        self._context = self._engine = None


def _logger_for(trt: ModuleType, logged: list[str]) -> Any:
    """Create a TensorRT logger that appends errors to `logged` instead of writing to stderr."""

    class ErrorCollector(trt.ILogger):  # type: ignore[misc, name-defined] # the base comes with the library
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                logged.append(message)

    return ErrorCollector()


def _read_spec(path: Path) -> ModelSpec:
    for folder in (path.parent, path.parent.parent):
        if (spec := ModelSpec.read(folder)) is not None:
            return spec
    raise ArtifactError(
        f"{path}: no {METADATA_KEY} in its folder or the one above, so labels and preprocessing are unknown; "
        "publish it with `builder export`",
        code="artifact.no_spec",
    )


def _is_recorded_version_compatible(path: Path) -> bool:
    """Whether `build.json` next to the plan says that it is version-compatible; False without a record."""
    record = path.with_name(BUILD_FILE)
    try:
        document = json.loads(record.read_bytes())
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{record}: cannot be read ({error}); export the model again", code="artifact.unreadable_record"
        ) from error
    settings = document.get("settings") if isinstance(document, dict) else None
    return isinstance(settings, dict) and settings.get("version_compatible") is True


def _check_version(path: Path, header: PlanHeader, library: str, version_compatible: bool) -> None:
    """Check that a TensorRT release can load a plan: the one that built it, or a newer one if version-compatible."""
    if same_release(header.version, library):
        return
    older_plan = version_numbers(header.version) < version_numbers(library)
    if version_compatible and older_plan:
        return
    title = TITLES[header.flavour]
    reason = "it was not built version-compatible" if older_plan else "an older release cannot load it"
    raise ArtifactError(
        f"{path}: was built by {title} {header.version}, installed is {library}; {reason}. "
        f"Export it again with {title} {library}, or install {header.version}",
        code="tensorrt.version_mismatch",
    )
