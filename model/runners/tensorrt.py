"""Run a TensorRT plan, or an engine of TensorRT for RTX, on a GPU.

An fp32 plan rounds as its builder let it: `builder` clears TF32, raw TensorRT leaves it on, and its rounding is larger
than what an fp32 verdict allows.
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

from model.errors import ArtifactError, BatchError, InferenceError
from model.gpu import find_gpu
from model.plans import (
    BUILD_FILE,
    TITLES,
    PlanHeader,
    find_tensorrt,
    logger_for,
    numbers,
    plan_header,
    same_release,
)
from model.preprocess import ImageArray
from model.runners.base import Outputs, Runner
from model.spec import METADATA_KEY, ModelSpec

OTHER_WAYS_TO_RUN = "Ask a Triton that serves it, with --url, or run it on a machine that has one; a graph runs anywhere"
TRUST_VARIABLE = "TRITONKIT_TRUST_PLANS"
"""Set, it lets version-compatible plans run the code they carry, which a record beside a plan alone cannot allow."""
_PROFILE = 0
"""The builder makes one optimization profile."""


class Device(ABC):
    """Memory that an engine computes in, and the stream it computes on."""

    stream: int
    """The handle of the CUDA stream."""

    @abstractmethod
    def upload(self, batch: ImageArray, tensor: Any = None) -> Any:
        """The tensor, or a new one, with the batch's content."""

    @abstractmethod
    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """A tensor of TensorRT's type of that name, such as `HALF`."""

    @abstractmethod
    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """Record what `run` starts on the stream, as a CUDA graph, and give what starts it again."""

    @abstractmethod
    def synchronize(self) -> None:
        """Return when all that was started has ended."""


class CudaDevice(Device):
    """The first visible GPU, through torch."""

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise ArtifactError(f"torch {torch.__version__} sees no GPU, which TensorRT needs to run a plan")
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
            held = self._torch.empty(batch.shape, dtype=self._torch.uint8, device="cuda") if tensor is None else tensor
            return held.copy_(self._torch.from_numpy(batch), non_blocking=True)

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
    """A plan on the GPU of this machine."""

    def __init__(
        self,
        path: Path,
        spec: ModelSpec | None = None,
        cuda_graphs: bool = False,
        version_compatible: bool | None = None,
        trt: ModuleType | None = None,
        device: Device | None = None,
    ) -> None:
        """Open a plan; the spec is read from `model.json` of its published model unless given.

        cuda_graphs: record each batch size once and replay it, which spares small models the launch of each kernel.
        version_compatible: the plan was built so, and older than the library it may be; None is what the record of
        its build says, no without one. Such a plan holds code that is run, so what only the record says is refused
        unless `TRUST_VARIABLE` is 1.
        trt, device: the library and where it computes, found unless given.

        Raises ArtifactError for a file that is no whole plan, a missing library or GPU, a version that does not fit:
        all before the plan is opened, which may end the process where it does not fit.
        """
        self.origin = str(path)
        header = plan_header(path)
        trt = trt or find_tensorrt(header.flavour, OTHER_WAYS_TO_RUN)
        told_by_record = version_compatible is None
        if version_compatible is None:
            version_compatible = _is_recorded_version_compatible(path)
        _check_version(path, header, trt.__version__, version_compatible)
        if device is None and find_gpu() is None:
            raise ArtifactError(f"{path}: {TITLES[header.flavour]} needs an NVIDIA GPU to run it. {OTHER_WAYS_TO_RUN}")
        if version_compatible and told_by_record:
            _check_trusted(path)
        self.spec = spec or _read_spec(path)
        self._device = device or CudaDevice()
        self._log_lines: list[str] = []
        self._runtime = trt.Runtime(logger_for(trt, self._log_lines))
        if version_compatible:  # such plans carry code of their own to load them
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        self._context = self._engine and self._engine.create_execution_context()
        if self._context is None:
            raise ArtifactError(f"{path}: {TITLES[header.flavour]} cannot open it: {self._reason()}")
        self._input, self._outputs = self._check_tensors(trt)
        self.max_batch = int(self._engine.get_tensor_profile_shape(self._input, _PROFILE)[2][0])
        self._cuda_graphs = cuda_graphs
        self._captured: dict[int, _CapturedGraph] = {}
        self._lock = threading.Lock()  # an execution context is for one thread at a time

    def _check_tensors(self, trt: ModuleType) -> tuple[str, list[str]]:
        """The name of the one input, and those of the outputs. Raises ArtifactError where they are not the spec's."""
        names = [self._engine.get_tensor_name(at) for at in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        wanted = [output.name for output in self.spec.outputs]
        if inputs != [self.spec.input.name] or sorted(outputs) != sorted(wanted):
            raise ArtifactError(
                f"{self.origin}: takes {', '.join(inputs)} and gives {', '.join(outputs)}; "
                f"expected {self.spec.input.name} and {', '.join(wanted)}"
            )
        return inputs[0], outputs

    def _infer(self, batch: ImageArray) -> Outputs:
        if self.max_batch is not None and len(batch) > self.max_batch:
            raise BatchError(
                f"{self.origin}: got a batch of {len(batch)}; the plan was built for up to {self.max_batch}"
            )
        with self._lock:
            outputs = self._run_captured(batch) if self._cuda_graphs else self._run(self._context, batch)[1]
            self._device.synchronize()
            return {name: _as_array(tensor) for name, tensor in outputs.items()}

    def _run(self, context: Any, batch: ImageArray) -> tuple[Any, dict[str, Any]]:
        """Bind the batch and new outputs, start the engine on them, and give both."""
        if not context.set_input_shape(self._input, batch.shape):
            raise BatchError(f"{self.origin}: does not take {self._input} {list(batch.shape)}: {self._reason()}")
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
            raise InferenceError(f"{self.origin}: the engine failed: {self._reason()}")

    def _run_captured(self, batch: ImageArray) -> dict[str, Any]:
        known = self._captured.get(len(batch))
        if known is None:
            # A recording holds for the shapes its context had, so each batch size has a context of its own. The first
            # run of a shape chooses and compiles kernels, which must not be recorded.
            context = self._engine.create_execution_context()
            image, outputs = self._run(context, batch)
            self._device.synchronize()
            known = _CapturedGraph(context, image, outputs, self._device.capture(lambda: self._start(context)))
            self._captured[len(batch)] = known
        self._device.upload(batch, known.image)
        known.replay()
        return known.outputs

    def _reason(self) -> str:
        return self._log_lines[-1] if self._log_lines else "it gave no reason"

    def close(self) -> None:
        """Free the GPU's memory."""
        self._captured.clear()
        self._context = self._engine = None


class _CapturedGraph:
    """A batch size with a context, memory and a CUDA graph of its own."""

    def __init__(self, context: Any, image: Any, outputs: dict[str, Any], replay: Callable[[], None]) -> None:
        self.context, self.image, self.outputs, self.replay = context, image, outputs, replay


def _as_array(tensor: Any) -> Any:
    """The numbers on the host; numpy knows no bf16."""
    host = tensor.cpu()
    return (host.float() if str(host.dtype) == "torch.bfloat16" else host).numpy().copy()


def _read_spec(path: Path) -> ModelSpec:
    for folder in (path.parent, path.parent.parent):
        if (folder / METADATA_KEY).is_file():
            return ModelSpec.from_json((folder / METADATA_KEY).read_text(encoding="utf-8"), origin=str(path))
    raise ArtifactError(
        f"{path}: has no {METADATA_KEY} in its folder or the one above, so labels and preprocessing are unknown; "
        "publish it with `builder export`"
    )


def _is_recorded_version_compatible(path: Path) -> bool:
    """As `build.json` beside the plan says, where there is one."""
    record = path.with_name(BUILD_FILE)
    try:
        document = json.loads(record.read_bytes())
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{record}: cannot be read ({error}); export the model again") from error
    settings = document.get("settings") if isinstance(document, dict) else None
    return isinstance(settings, dict) and settings.get("version_compatible") is True


def _check_trusted(path: Path) -> None:
    """A stranger's plan comes with a stranger's record."""
    if os.environ.get(TRUST_VARIABLE) != "1":
        raise ArtifactError(
            f"{path}: is version-compatible, so it holds code of its own, which would run here with all your rights. "
            f"Set {TRUST_VARIABLE}=1 if you trust who built it, or ask a Triton that serves it, with --url"
        )


def _check_version(path: Path, header: PlanHeader, library: str, version_compatible: bool) -> None:
    """A plan loads in the TensorRT that built it, or, built version-compatible, in newer ones; never in an older."""
    if same_release(header.version, library):
        return
    older_plan = numbers(header.version) < numbers(library)
    if version_compatible and older_plan:
        return
    title = TITLES[header.flavour]
    wrong = "older ones it does not load" if not older_plan else "it was not built version-compatible"
    raise ArtifactError(
        f"{path}: was built by {title} {header.version}, this is {library}; {wrong}. "
        f"Export it again with {title} {library}, or install {header.version}"
    )
