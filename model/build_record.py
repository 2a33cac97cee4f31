"""What a plan is built with, and what is known of it afterwards."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from model.errors import InputError
from model.plans import Flavour
from model.spec import Frozen, TensorSpec

RTX_TARGETS = ("8.6", "8.9", "12.0")
"""Ampere, Ada and Blackwell cards: three cost neither time nor bytes more than one, as kernels are compiled there.
Turing (7.5) is not among them: TensorRT for RTX refuses fp32 matrix products for it."""

Hardware = Literal["none", "ampere_plus", "same_compute_capability"]
"""Which other GPUs run a plan; `none`: the model of GPU it was built on."""


class BuildOptions(Frozen):
    """What may be asked of the builder. A plan's precision is no option: it is that of the graph's own types."""

    workspace_mib: PositiveInt | None = None
    """GPU memory that layers may use for scratch; None leaves it to TensorRT, which takes what there is."""
    time_limit_s: PositiveFloat = 3600
    optimization_level: NonNegativeInt | None = None
    """0 to 5: how long to look for kernels; None leaves it to TensorRT (3)."""
    version_compatible: bool = False
    """Load in newer TensorRTs too, for some speed and megabytes."""
    hardware: Hardware = "none"
    compute_capabilities: tuple[str, ...] = ()
    """RTX alone: the GPUs to build for."""
    timing_cache: bool = True
    """Keep the timings of kernels, so that the next build is quicker."""


class BuildSettings(BuildOptions):
    """How one plan is built."""

    flavour: Flavour = "tensorrt"
    max_batch: PositiveInt
    opt_batch: PositiveInt | None = None
    """The batch size kernels are chosen for; None takes the largest."""

    @property
    def optimal_batch(self) -> int:
        """The batch size of the profile's middle."""
        return self.opt_batch or self.max_batch

    @property
    def targets(self) -> tuple[str, ...]:
        """Compute capabilities to build for; none where the GPU at hand says it."""
        return (self.compute_capabilities or RTX_TARGETS) if self.flavour == "rtx" else ()

    def runs_on(self, compute_capability: str) -> bool:
        """Whether the GPU at hand, that builds it, also runs it: an engine for RTX may be for others alone."""
        return not self.targets or compute_capability in self.targets

    def check(self) -> None:
        """Raise InputError with all problems at once."""
        problems = []
        if self.optimal_batch > self.max_batch:
            problems.append(f"the batch to tune for is {self.optimal_batch}, the largest is {self.max_batch}")
        if self.optimization_level is not None and self.optimization_level > 5:
            problems.append(f"optimization level {self.optimization_level}: expected 0 to 5")
        if self.flavour == "rtx" and (self.version_compatible or self.hardware != "none"):
            problems.append("TensorRT for RTX has no version- or hardware-compatible engines")
        if self.flavour == "tensorrt" and self.compute_capabilities:
            problems.append("TensorRT builds for the GPU it runs on; compute capabilities are for --rtx")
        if problems:
            raise InputError("; ".join(problems))


class BuildRecord(Frozen):
    """What `build.json` holds: what was built, by what, for what, and in what it computes."""

    flavour: Flavour
    tensorrt: str
    """Version of the library."""
    gpu: str | None = None
    """The GPU it was built on; None where it was built without one."""
    compute_capabilities: tuple[str, ...] = ()
    """The GPUs it is for."""
    seconds: float
    peak_memory_mib: int | None = None
    """Of the process that built it; None where that was a container's."""
    bytes: int
    sha256: str
    graph_sha256: str
    """Of the ONNX graph it was built from."""
    inputs: tuple[TensorSpec, ...] = ()
    """Of that graph, without the batch axis, as are its outputs; none where not recorded."""
    outputs: tuple[TensorSpec, ...] = ()
    tensors: dict[str, int] = {}
    """Tensors of the strongly typed network, by type."""
    computed: dict[str, int] = {}
    """Its convolutions and matrix products, by the type they compute in."""
    engine: dict[str, int] = {}
    """Layers of the engine itself, by type, as its inspector told on a GPU."""
    settings: BuildSettings
    image: str | None = None
    """The container it was built in."""
