"""The process that builds one plan with Polygraphy: `python -m builder.tensorrt.worker`.

The request comes on stdin, replies go to stdout as JSON lines. Each plan has its own process: Polygraphy chooses
between TensorRT and TensorRT for RTX once, by an environment variable that `builder.tensorrt.build` sets. After a
failed build TensorRT reports the old error again in the next one. A crash or a lack of memory ends only this process.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from polygraphy.backend.trt import (
    CreateConfig,
    PostprocessConfig,
    Profile,
    engine_bytes_from_network,
    engine_from_bytes,
    network_from_onnx_path,
)
from polygraphy.exception import PolygraphyException
from polygraphy.logger import G_LOGGER

from builder.failures import is_out_of_memory
from builder.tensorrt.build import BuildReply, BuildRequest, timing_cache_path
from builder.tensorrt.parser_errors import parser_message
from builder.tensorrt.precision import precision_of_engine
from tritonkit.errors import ArtifactError, TritonkitError
from tritonkit.repository.build_record import BuildRecord, BuildSettings
from tritonkit.runtimes.tensorrt_plan import TITLES, find_tensorrt
from tritonkit.system.files import file_sha256
from tritonkit.system.gpu import find_gpu

_PR_SET_PDEATHSIG = 1
_TYPES = {"FLOAT": "fp32", "HALF": "fp16"}
"""TensorRT's names of data types, where tritonkit's are not the same in lower case."""
_MATRIX_LAYERS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM", "ATTENTION")


def main() -> int:
    """Read a request, build, and reply. Returns 0 also where the build fails: the reply holds the error."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The library may print to stdout, which is reserved for replies.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    request = BuildRequest.model_validate_json(sys.stdin.read())
    try:
        reply = BuildReply(done=1.0, record=build_plan(request, replies))
    except TritonkitError as error:
        reply = BuildReply(error=str(error))
    print(reply.model_dump_json(), file=replies)
    return 0


def build_plan(request: BuildRequest, replies: TextIO) -> BuildRecord:
    """Build the plan and write it to its file. Raises ArtifactError."""
    settings, graph, gpu = request.settings, request.graph, find_gpu()
    trt = find_tensorrt(settings.flavour)
    if settings.flavour == "rtx":
        sys.modules["tensorrt_rtx"] = trt  # the name that Polygraphy imports; NVIDIA's wheels may use another one
    title = f"{TITLES[settings.flavour]} {trt.__version__}"
    logged = _collect_errors()
    began = time.monotonic()
    try:
        # The builder, the network, and the parser, whose memory holds the network's weights.
        parsed = network_from_onnx_path(str(graph), strongly_typed=True)
    except PolygraphyException as error:
        raise ArtifactError(parser_message(graph.name, title, logged), code="tensorrt.parser") from error
    network = parsed[1]
    if not network.num_outputs:
        raise ArtifactError(parser_message(graph.name, title, ["no graph in the file"]), code="tensorrt.parser")
    cache = None
    if settings.timing_cache and settings.flavour == "tensorrt" and gpu is not None:  # RTX has no timing cache
        path = timing_cache_path(settings.flavour, trt.__version__, gpu.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        cache = str(path)
    config = CreateConfig(
        profiles=[_profile(network, graph.name, settings)],
        tf32=False,  # too inaccurate for an fp32 verdict
        memory_pool_limits=settings.workspace_mib and {trt.MemoryPoolType.WORKSPACE: settings.workspace_mib << 20},
        load_timing_cache=cache,
        builder_optimization_level=settings.optimization_level,
        version_compatible=settings.version_compatible,
        hardware_compatibility_level=None
        if settings.hardware == "none"
        else getattr(trt.HardwareCompatibilityLevel, settings.hardware.upper()),
        progress_monitor=progress_monitor(trt, replies),
    )
    if settings.flavour == "rtx":
        config = PostprocessConfig(config, lambda builder, network, config: _set_targets(trt, config, settings, title))
    try:
        plan = engine_bytes_from_network(parsed, config, save_timing_cache=cache)
    except PolygraphyException as error:
        memory_errors = (line for line in logged if is_out_of_memory(line))  # later errors follow from these
        reason = next(memory_errors, logged[-1] if logged else str(error))
        raise ArtifactError(
            f"{graph.name}: {title} cannot build it: {reason}", code="tensorrt.build_refused"
        ) from error
    request.plan.write_bytes(plan)
    seconds = time.monotonic() - began
    engine = {}
    if gpu is not None and settings.runs_on(gpu.compute_capability):
        try:
            inspector = engine_from_bytes(bytes(plan)).create_engine_inspector()
        except PolygraphyException as error:
            raise ArtifactError(
                f"the plan was built, but cannot be opened on this GPU: {'; '.join(logged) or error}",
                code="tensorrt.not_openable",
            ) from error
        engine = precision_of_engine(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    peak = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    return BuildRecord(
        flavour=settings.flavour,
        tensorrt=trt.__version__,
        gpu=gpu.name if gpu is not None and settings.flavour == "tensorrt" else None,
        compute_capabilities=settings.targets or ((gpu.compute_capability,) if gpu else ()),
        seconds=round(seconds, 2),
        peak_memory_mib=int(peak.group(1)) // 1024 if peak else 0,  # getrusage would include the parent process
        bytes=request.plan.stat().st_size,
        sha256=file_sha256(request.plan),
        graph_sha256=file_sha256(graph),
        tensors=tensor_types(network),
        computed=computed_types(network),
        engine=engine,
        settings=settings,
    )


def _collect_errors() -> list[str]:
    """Collect the errors that TensorRT logs, and those of its parser, which Polygraphy only logs."""
    logged: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append(record.getMessage().removeprefix("[E] "))

    handler = Collector(logging.ERROR)
    handler.addFilter(lambda record: record.levelno == logging.ERROR)  # a critical message is raised as well
    G_LOGGER.use_python_logging_system = True
    G_LOGGER.python_logger.handlers[:] = [handler]
    G_LOGGER.python_logger.propagate = False
    return logged


def progress_monitor(trt: ModuleType, replies: TextIO) -> Any:
    """Create a progress monitor that writes replies, at most ten a second.

    Phases are nested: the steps of a phase divide one step of its parent.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, list[int]] = {}
            self.written_at_s = 0.0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.phases[name] = [0, max(steps, 1)]
            self.write(name)

        def step_complete(self, name: str, step: int) -> bool:
            if name in self.phases:
                self.phases[name][0] = step + 1
                self.write(name)
            return True

        def phase_finish(self, name: str) -> None:
            self.phases.pop(name, None)

        def write(self, name: str) -> None:
            share, width = 0.0, 1.0
            for done, steps in self.phases.values():
                share += width * min(done, steps) / steps
                width /= steps
            if time.monotonic() - self.written_at_s >= 0.1:
                self.written_at_s = time.monotonic()
                print(json.dumps({"done": round(min(share, 1.0), 3), "phase": name}), file=replies)

    return Monitor()


def _profile(network: Any, graph: str, settings: BuildSettings) -> Any:
    """The optimisation profile: batches of 1, the optimal and the largest size. Raises ArtifactError."""
    profile = Profile()
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        batch, *rest = tensor.shape
        if batch != -1 or -1 in rest:
            raise ArtifactError(
                f"{graph}: input {tensor.name} is {list(tensor.shape)}; expected a dynamic batch axis first (-1), "
                "then fixed sizes",
                code="tensorrt.input_shape",
            )
        profile.add(tensor.name, *((size, *rest) for size in (1, settings.optimal_batch, settings.max_batch)))
    return profile


def _set_targets(trt: ModuleType, config: Any, settings: BuildSettings, title: str) -> None:
    """Set the target GPUs of TensorRT for RTX, which Polygraphy does not; without a GPU it cannot detect them."""
    targets_by_name = trt.ComputeCapability.__members__
    names = [f"SM{target.replace('.', '')}" for target in settings.targets]
    if unknown := [target for target, name in zip(settings.targets, names, strict=True) if name not in targets_by_name]:
        supported = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in targets_by_name if name.startswith("SM"))
        raise ArtifactError(
            f"{title} cannot build for compute capability {', '.join(unknown)}; supported are {supported}",
            code="tensorrt.compute_capability",
        )
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(targets_by_name[name], index)


def tensor_types(network: Any) -> dict[str, int]:
    """The number of tensors of each type."""
    outputs = (layer.get_output(index) for layer in _layers(network) for index in range(layer.num_outputs))
    return dict(Counter(_type_of(tensor) for tensor in outputs if tensor is not None))


def computed_types(network: Any) -> dict[str, int]:
    """The number of convolutions and matrix products that compute in each type. Quantized layers count as int8."""
    quantized = {
        layer.get_output(0).name
        for layer in _layers(network)
        if layer.type.name == "DEQUANTIZE" and layer.get_input(0).dtype.name == "INT8"
    }
    counts = Counter[str]()
    for layer in _layers(network):
        if layer.type.name in _MATRIX_LAYERS:
            inputs = (layer.get_input(index) for index in range(layer.num_inputs))
            is_int8 = any(tensor is not None and tensor.name in quantized for tensor in inputs)
            counts["int8" if is_int8 else _type_of(layer.get_output(0))] += 1
    return dict(counts)


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(index) for index in range(network.num_layers))


def _type_of(tensor: Any) -> str:
    name: str = tensor.dtype.name
    return _TYPES.get(name, name.lower())


if __name__ == "__main__":
    sys.exit(main())
