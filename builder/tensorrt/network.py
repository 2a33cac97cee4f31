"""Build a strongly typed engine from an ONNX graph with TensorRT 10.13 or newer, 11, or TensorRT for RTX.

The library is a parameter. This uses its API directly and not Polygraphy, which chooses the library by an environment
variable at import and writes the parser's errors only to its log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from builder.failures import is_out_of_memory
from builder.tensorrt.parser_errors import ParserError, parser_message
from tritonkit.errors import ArtifactError
from tritonkit.repository.build_record import BuildSettings
from tritonkit.runtimes.tensorrt_plan import TITLES, logger_for
from tritonkit.system.files import atomic_write

ProgressListener = Callable[[float, str], None]
"""Called with the finished share of the build, 0 to 1, and the name of the phase."""

TYPES = {
    "FLOAT": "fp32",
    "HALF": "fp16",
    "BF16": "bf16",
    "INT8": "int8",
    "FP8": "fp8",
    "FP4": "fp4",
    "INT4": "int4",
}
"""TensorRT's names of data types, with tritonkit's names."""
_MATRIX_LAYERS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM", "ATTENTION")


def progress_monitor(trt: ModuleType, listener: ProgressListener) -> Any:
    """Create a progress monitor. Phases are nested: the steps of a phase divide one step of its parent."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, list[int]] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.phases[name] = [0, max(steps, 1)]
            self._notify(name)

        def step_complete(self, name: str, step: int) -> bool:
            if name in self.phases:
                self.phases[name][0] = step + 1
                self._notify(name)
            return True

        def phase_finish(self, name: str) -> None:
            self.phases.pop(name, None)

        def _notify(self, name: str) -> None:
            share, width = 0.0, 1.0
            for done, steps in self.phases.values():
                share += width * min(done, steps) / steps
                width /= steps
            listener(min(share, 1.0), name)

    return Monitor()


class PlanBuilder:
    """Parses an ONNX graph and builds a plan from it."""

    def __init__(self, trt: ModuleType, graph: Path, settings: BuildSettings) -> None:
        """Parse the graph. Raises ArtifactError, in one sentence, where the parser refuses it."""
        self.trt = trt
        self.settings = settings
        self.logged: list[str] = []
        self._builder = trt.Builder(logger_for(trt, self.logged))
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self._network = self._builder.create_network(typed)
        # The network refers to the parser's memory for its weights.
        self._parser = trt.OnnxParser(self._network, self._builder.logger)
        self._title = f"{TITLES[settings.flavour]} {trt.__version__}"
        self._graph = graph
        parsed = self._parser.parse_from_file(str(graph))
        if not parsed or not self._network.num_outputs:
            errors = [_parser_error(self._parser.get_error(index)) for index in range(self._parser.num_errors)]
            default = [] if errors else ["no graph in the file"]
            message = parser_message(graph.name, self._title, errors, [*self.logged, *default])
            raise ArtifactError(message, code="tensorrt.parser")

    @property
    def tensors(self) -> dict[str, int]:
        """The number of tensors of each type."""
        outputs = (layer.get_output(index) for layer in self._layers() for index in range(layer.num_outputs))
        names = (tensor.dtype.name for tensor in outputs if tensor is not None)
        return dict(Counter(TYPES.get(name, name.lower()) for name in names))

    @property
    def computed(self) -> dict[str, int]:
        """The number of convolutions and matrix products that compute in each type. Quantized layers count as int8."""
        layers = [layer for layer in self._layers() if layer.type.name in _MATRIX_LAYERS]
        quantized = {
            layer.get_output(0).name
            for layer in self._layers()
            if layer.type.name == "DEQUANTIZE" and layer.get_input(0).dtype.name == "INT8"
        }
        return dict(Counter(_computes_in(layer, quantized) for layer in layers))

    def _layers(self) -> list[Any]:
        return [self._network.get_layer(index) for index in range(self._network.num_layers)]

    def build(self, timing_cache: Path | None, listener: ProgressListener) -> Any:
        """Build the plan as an object with the buffer protocol. Raises ArtifactError with the library's reason."""
        config = self._config()
        config.progress_monitor = progress_monitor(self.trt, listener)
        if timing_cache is not None:
            config.set_timing_cache(load_timings(config, timing_cache), False)
        plan = self._builder.build_serialized_network(self._network, config)
        if plan is None:
            memory_errors = (line for line in self.logged if is_out_of_memory(line))  # later errors follow from these
            reason = next(memory_errors, self.logged[-1] if self.logged else "no reason was given")
            raise ArtifactError(
                f"{self._graph.name}: {self._title} cannot build it: {reason}", code="tensorrt.build_refused"
            )
        if timing_cache is not None:
            _save_timings(timing_cache, bytes(config.get_timing_cache().serialize()))
        return plan

    def _config(self) -> Any:
        trt, settings = self.trt, self.settings
        config = self._builder.create_builder_config()
        config.add_optimization_profile(self._profile())
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if settings.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
        if settings.optimization_level is not None:
            config.builder_optimization_level = settings.optimization_level
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, but too inaccurate for an fp32 verdict
        if settings.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if settings.hardware != "none":
            config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, settings.hardware.upper())
        if settings.flavour == "rtx":
            self._set_targets(config)
        return config

    def _profile(self) -> Any:
        profile = self._builder.create_optimization_profile()
        for index in range(self._network.num_inputs):
            tensor = self._network.get_input(index)
            batch, *rest = tensor.shape
            if batch != -1 or -1 in rest:
                raise ArtifactError(
                    f"{self._graph.name}: input {tensor.name} is {list(tensor.shape)}; expected a dynamic batch axis "
                    "first (-1), then fixed sizes",
                    code="tensorrt.input_shape",
                )
            sizes = (1, self.settings.optimal_batch, self.settings.max_batch)
            profile.set_shape(tensor.name, *((size, *rest) for size in sizes))
        return profile

    def _set_targets(self, config: Any) -> None:
        """Set the target GPUs: without a GPU TensorRT cannot detect them."""
        targets_by_name = self.trt.ComputeCapability.__members__
        targets = [(target, f"SM{target.replace('.', '')}") for target in self.settings.targets]
        if unknown := [target for target, name in targets if name not in targets_by_name]:
            supported = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in targets_by_name if name.startswith("SM"))
            raise ArtifactError(
                f"{self._title} cannot build for compute capability {', '.join(unknown)}; supported are {supported}",
                code="tensorrt.compute_capability",
            )
        config.num_compute_capabilities = len(targets)
        for index, (_, name) in enumerate(targets):
            config.set_compute_capability(targets_by_name[name], index)


def _parser_error(error: Any) -> ParserError:
    return ParserError(
        code=error.code().name, operator=error.node_operator(), node=error.node_name(), description=error.desc()
    )


def _computes_in(layer: Any, quantized: set[str]) -> str:
    inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
    if any(tensor is not None and tensor.name in quantized for tensor in inputs):
        return "int8"
    name: str = layer.get_output(0).dtype.name
    return TYPES.get(name, name.lower())


def load_timings(config: Any, path: Path) -> Any:
    """Load a timing cache; an empty one where the file is missing or not valid for this library."""
    timings = config.create_timing_cache(path.read_bytes()) if path.is_file() else None
    return config.create_timing_cache(b"") if timings is None else timings


def _save_timings(path: Path, timings: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(timings)
