"""Run a TensorRT plan, or an engine of TensorRT for RTX, on a GPU.

Whether an fp32 plan uses TF32 was decided when it was built. `builder` turns TF32 off; TensorRT's default is on, and
then the rounding error exceeds the limits of an fp32 verdict.
"""

from __future__ import annotations

import json
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tritonkit.errors import ArtifactError, BatchError, InferenceError
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.tensorrt_plan import (
    BUILD_FILE,
    TITLES,
    PlanHeader,
    find_tensorrt,
    logger_for,
    plan_header,
    same_release,
    version_numbers,
)
from tritonkit.spec import METADATA_KEY, ModelSpec, Outputs
from tritonkit.system.gpu import find_gpu

OTHER_WAYS_TO_RUN = (
    "Use a Triton server that serves it, with --url, or a machine that has one; an ONNX file runs anywhere"
)
TRUST_VARIABLE = "TRITONKIT_TRUST_PLANS"
"""Set to 1, it allows files that contain code to run it: version-compatible plans, TorchScript without a manifest."""
_PROFILE = 0
"""Index of the only optimization profile that the builder creates."""


class Device(ABC):
    """Device memory of an engine, and the CUDA stream that it runs on."""

    stream: int
    """Handle of the CUDA stream."""

    @abstractmethod
    def upload(self, batch: ImageArray, tensor: Any = None) -> Any:
        """Copy a batch into `tensor`, or into a new tensor, and return it."""

    @abstractmethod
    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """Allocate a tensor. dtype: the name of a TensorRT type, such as `HALF`."""

    @abstractmethod
    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """Capture the work that `run` starts as a CUDA graph; return a function that replays it."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all work on the stream has ended."""


class CudaDevice(Device):
    """The first visible GPU, used through torch."""

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise ArtifactError(
                f"torch {torch.__version__} finds no GPU; TensorRT needs one to run a plan", code="tensorrt.no_gpu"
            )
        self._torch = torch
        self._types = {
            "FLOAT": torch.float32,
            "HALF": torch.float16,
            "BF16": torch.bfloat16,
            "INT8": torch.int8,
            "UINT8": torch.uint8,
            "INT32": torch.int32,
            "INT64": torch.int64,
            "BOOL": torch.bool,
        }
        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.stream = self._stream.cuda_stream

    def upload(self, batch: ImageArray, tensor: Any = None) -> Any:
        with self._torch.cuda.stream(self._stream):
            if tensor is None:
                tensor = self._torch.empty(batch.shape, dtype=self._torch.uint8, device="cuda")
            return tensor.copy_(self._torch.from_numpy(batch), non_blocking=True)

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        with self._torch.cuda.stream(self._stream):
            return self._torch.empty(tuple(shape), dtype=self._types[dtype], device="cuda")

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph, stream=self._stream):
            run()

        def replay() -> None:
            with self._torch.cuda.stream(self._stream):
                graph.replay()

        return replay

    def synchronize(self) -> None:
        self._stream.synchronize()


class TensorRtRunner(Runner):
    """Runs a plan on the GPU of this machine."""

    def __init__(
        self,
        path: Path,
        spec: ModelSpec | None = None,
        cuda_graphs: bool = False,
        version_compatible: bool | None = None,
        trt: ModuleType | None = None,
        device: Device | None = None,
    ) -> None:
        """Open a plan; without `spec`, read the spec from `model.json` of the published model.

        cuda_graphs: capture each batch size once and replay it, which saves small models the launch of each kernel.
        version_compatible: whether the plan was built version-compatible, so that newer releases of the library load
        it. With None, the build record next to the plan decides; without a record, it was not. Such a plan runs code
        that it contains, so if only the record says so, the plan is refused unless `TRUST_VARIABLE` is 1.
        trt, device: TensorRT and the device, for tests; found by default.

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
        if device is None and find_gpu() is None:
            raise ArtifactError(
                f"{path}: {TITLES[header.flavour]} needs an NVIDIA GPU to run it. {OTHER_WAYS_TO_RUN}",
                code="tensorrt.no_gpu",
            )
        if version_compatible and from_record:
            _check_trusted(path)
        self.spec = spec or _read_spec(path)
        self._device = device or CudaDevice()
        self._log_lines: list[str] = []
        self._runtime = trt.Runtime(logger_for(trt, self._log_lines))
        if version_compatible:  # TensorRT runs code in such a plan to load it
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        self._context = self._engine and self._engine.create_execution_context()
        if self._context is None:
            raise ArtifactError(
                f"{path}: {TITLES[header.flavour]} cannot load it: {self._reason()}", code="tensorrt.unreadable"
            )
        self._input, self._outputs = self._check_tensors(trt)
        self.max_batch = int(self._engine.get_tensor_profile_shape(self._input, _PROFILE)[2][0])
        self._cuda_graphs = cuda_graphs
        self._captured: dict[int, _CapturedGraph] = {}
        self._lock = threading.Lock()  # an execution context is not thread-safe

    def _check_tensors(self, trt: ModuleType) -> tuple[str, list[str]]:
        """Return the names of the input and of the outputs. Raises ArtifactError if they differ from the spec."""
        names = [self._engine.get_tensor_name(at) for at in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        expected = [output.name for output in self.spec.outputs]
        if inputs != [self.spec.input.name] or sorted(outputs) != sorted(expected):
            raise ArtifactError(
                f"{self.origin}: has the inputs {', '.join(inputs)} and the outputs {', '.join(outputs)}; "
                f"its spec expects {self.spec.input.name} and {', '.join(expected)}",
                code="artifact.tensor_mismatch",
            )
        return inputs[0], outputs

    def _infer(self, batch: ImageArray) -> Outputs:
        if self.max_batch is not None and len(batch) > self.max_batch:
            raise BatchError(
                f"{self.origin}: got a batch of {len(batch)}; the plan was built for at most {self.max_batch}",
                code="batch.too_large",
            )
        with self._lock:
            outputs = self._run_captured(batch) if self._cuda_graphs else self._run(self._context, batch)[1]
            self._device.synchronize()
            return {name: _as_array(tensor) for name, tensor in outputs.items()}

    def _run(self, context: Any, batch: ImageArray) -> tuple[Any, dict[str, Any]]:
        """Bind a batch and new output tensors, start the engine, and return the input and output tensors."""
        if not context.set_input_shape(self._input, batch.shape):
            raise BatchError(
                f"{self.origin}: rejects {self._input} {list(batch.shape)}: {self._reason()}", code="batch.rejected"
            )
        image = self._device.upload(batch)
        outputs = {
            name: self._device.empty(context.get_tensor_shape(name), self._engine.get_tensor_dtype(name).name)
            for name in self._outputs
        }
        for name, tensor in {self._input: image, **outputs}.items():
            context.set_tensor_address(name, tensor.data_ptr())
        self._start(context)
        return image, outputs

    def _start(self, context: Any) -> None:
        if not context.execute_async_v3(self._device.stream):
            raise InferenceError(f"{self.origin}: the engine failed: {self._reason()}", code="tensorrt.run_failed")

    def _run_captured(self, batch: ImageArray) -> dict[str, Any]:
        graph = self._captured.get(len(batch))
        if graph is None:
            # A CUDA graph is valid for the shapes of its context, so each batch size has its own context. The first run
            # of a shape selects and compiles kernels, which must not be captured.
            context = self._engine.create_execution_context()
            image, outputs = self._run(context, batch)
            self._device.synchronize()
            graph = _CapturedGraph(context, image, outputs, self._device.capture(lambda: self._start(context)))
            self._captured[len(batch)] = graph
        self._device.upload(batch, graph.image)
        graph.replay()
        return graph.outputs

    def _reason(self) -> str:
        return self._log_lines[-1] if self._log_lines else "no reason given"

    def close(self) -> None:
        """Free the GPU memory."""
        self._captured.clear()
        self._context = self._engine = None


class _CapturedGraph:
    """The CUDA graph of one batch size, with its own context and tensors."""

    def __init__(self, context: Any, image: Any, outputs: dict[str, Any], replay: Callable[[], None]) -> None:
        self.context, self.image, self.outputs, self.replay = context, image, outputs, replay


def _as_array(tensor: Any) -> Any:
    """Copy a tensor to a numpy array on the host; bf16 becomes fp32, which numpy has."""
    host = tensor.cpu()
    return (host.float() if str(host.dtype) == "torch.bfloat16" else host).numpy().copy()


def _read_spec(path: Path) -> ModelSpec:
    for folder in (path.parent, path.parent.parent):
        if (folder / METADATA_KEY).is_file():
            return ModelSpec.from_json((folder / METADATA_KEY).read_text(encoding="utf-8"), origin=str(path))
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


def _check_trusted(path: Path) -> None:
    """Refuse a plan with code unless the user trusts it; its build record may come from the same untrusted source."""
    if os.environ.get(TRUST_VARIABLE) != "1":
        raise ArtifactError(
            f"{path}: is version-compatible, so it contains code that would run here with all your permissions. "
            f"Set {TRUST_VARIABLE}=1 if you trust its builder, or use a Triton server that serves it, with --url",
            code="tensorrt.untrusted",
        )


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
