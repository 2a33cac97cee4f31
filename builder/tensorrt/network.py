"""A strongly typed engine from an ONNX graph, with TensorRT 10.13 and newer, 11, and TensorRT for RTX alike.

The library comes in as a value. This is its raw API and not Polygraphy: that takes its library from an environment
variable at import, and leaves what the parser says to its log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from builder.failures import tells_of_memory
from builder.tensorrt.refusals import Refusal, sentence
from model.build_record import BuildSettings
from model.errors import ArtifactError
from model.files import atomic_write
from model.plans import TITLES, logger_for

ProgressListener = Callable[[float, str], None]
"""Told the share of the build that is done, 0 to 1, and the phase it is in."""

TYPES = {
    "FLOAT": "fp32",
    "HALF": "fp16",
    "BF16": "bf16",
    "INT8": "int8",
    "FP8": "fp8",
    "FP4": "fp4",
    "INT4": "int4",
}
"""TensorRT's names of the types a layer computes in, in the words of this program."""
_COMPUTES = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM", "ATTENTION")


def monitor_for(trt: ModuleType, told: ProgressListener) -> Any:
    """A progress monitor: phases lie in each other, and a phase's steps count within one step of its parent."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined] # as above
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, list[int]] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.phases[name] = [0, max(steps, 1)]
            self._tell(name)

        def step_complete(self, name: str, step: int) -> bool:
            if name in self.phases:
                self.phases[name][0] = step + 1
                self._tell(name)
            return True

        def phase_finish(self, name: str) -> None:
            self.phases.pop(name, None)

        def _tell(self, name: str) -> None:
            share, width = 0.0, 1.0
            for done, steps in self.phases.values():
                share += width * min(done, steps) / steps
                width /= steps
            told(min(share, 1.0), name)

    return Monitor()


class Built:
    """A network that was parsed, and the plan that came of it."""

    def __init__(self, trt: ModuleType, graph: Path, settings: BuildSettings) -> None:
        """Parse the graph. Raises ArtifactError in one sentence where the parser does not take it."""
        self.trt = trt
        self.settings = settings
        self.logged: list[str] = []
        self._builder = trt.Builder(logger_for(trt, self.logged))
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self._network = self._builder.create_network(typed)
        # The network uses the weights where the parser holds them.
        self._parser = trt.OnnxParser(self._network, self._builder.logger)
        self._title = f"{TITLES[settings.flavour]} {trt.__version__}"
        self._graph = graph
        parsed = self._parser.parse_from_file(str(graph))
        if not parsed or not self._network.num_outputs:
            refusals = [_refusal(self._parser.get_error(at)) for at in range(self._parser.num_errors)]
            nothing = [] if refusals else ["no graph in the file"]
            raise ArtifactError(sentence(graph.name, self._title, refusals, [*self.logged, *nothing]))

    @property
    def tensors(self) -> dict[str, int]:
        """How many tensors there are of each type."""
        outputs = (layer.get_output(at) for layer in self._layers() for at in range(layer.num_outputs))
        return dict(Counter(TYPES.get(one.dtype.name, one.dtype.name.lower()) for one in outputs if one is not None))

    @property
    def computed(self) -> dict[str, int]:
        """How many convolutions and matrix products compute in each type. Quantised ones count as int8."""
        layers = [layer for layer in self._layers() if layer.type.name in _COMPUTES]
        quantised = {
            layer.get_output(0).name
            for layer in self._layers()
            if layer.type.name == "DEQUANTIZE" and layer.get_input(0).dtype.name == "INT8"
        }
        return dict(Counter(_computes_in(layer, quantised) for layer in layers))

    def _layers(self) -> list[Any]:
        return [self._network.get_layer(at) for at in range(self._network.num_layers)]

    def plan(self, timing_cache: Path | None, told: ProgressListener) -> Any:
        """Build the plan: an object with the buffer protocol. Raises ArtifactError with the library's reason."""
        config = self._config()
        config.progress_monitor = monitor_for(self.trt, told)
        if timing_cache is not None:
            config.set_timing_cache(kept_timings(config, timing_cache), False)
        plan = self._builder.build_serialized_network(self._network, config)
        if plan is None:
            short = (line for line in self.logged if tells_of_memory(line))  # what comes after it follows from it
            why = next(short, self.logged[-1] if self.logged else "it gave no reason")
            raise ArtifactError(f"{self._graph.name}: {self._title} cannot build it: {why}")
        if timing_cache is not None:
            _keep(timing_cache, bytes(config.get_timing_cache().serialize()))
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
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and coarser than an fp32 verdict allows
        if settings.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if settings.hardware != "none":
            config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, settings.hardware.upper())
        if settings.flavour == "rtx":
            self._set_targets(config)
        return config

    def _profile(self) -> Any:
        profile = self._builder.create_optimization_profile()
        for at in range(self._network.num_inputs):
            tensor = self._network.get_input(at)
            batch, *rest = tensor.shape
            if batch != -1 or -1 in rest:
                raise ArtifactError(
                    f"{self._graph.name}: input {tensor.name} is {list(tensor.shape)}; expected a dynamic batch axis "
                    "first (-1), then fixed sizes"
                )
            sizes = (1, self.settings.optimal_batch, self.settings.max_batch)
            profile.set_shape(tensor.name, *((size, *rest) for size in sizes))
        return profile

    def _set_targets(self, config: Any) -> None:
        """Without a GPU there is none to take the targets from."""
        known = self.trt.ComputeCapability.__members__
        wanted = [(target, f"SM{target.replace('.', '')}") for target in self.settings.targets]
        if unknown := [target for target, name in wanted if name not in known]:
            can = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in known if name.startswith("SM"))
            raise ArtifactError(f"{self._title} builds nothing for compute capability {', '.join(unknown)}; for {can}")
        config.num_compute_capabilities = len(wanted)
        for at, (_, name) in enumerate(wanted):
            config.set_compute_capability(known[name], at)


def _refusal(error: Any) -> Refusal:
    return Refusal(
        code=error.code().name, operator=error.node_operator(), node=error.node_name(), description=error.desc()
    )


def _computes_in(layer: Any, quantised: set[str]) -> str:
    inputs = [layer.get_input(at) for at in range(layer.num_inputs)]
    if any(one is not None and one.name in quantised for one in inputs):
        return "int8"
    name: str = layer.get_output(0).dtype.name
    return TYPES.get(name, name.lower())


def kept_timings(config: Any, path: Path) -> Any:
    """The timings kept in a file, or none yet: also where the library takes the file for no such."""
    known = config.create_timing_cache(path.read_bytes()) if path.is_file() else None
    return config.create_timing_cache(b"") if known is None else known


def _keep(path: Path, timings: bytes) -> None:
    with atomic_write(path) as beside:
        beside.write_bytes(timings)
