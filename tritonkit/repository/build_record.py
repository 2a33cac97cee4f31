"""Options of a TensorRT build, and the record of a finished build (`build.json`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from tritonkit.errors import ArtifactError, InputError, Problem
from tritonkit.options import CommandLine, Options
from tritonkit.repository.file import RepositoryFile
from tritonkit.runtimes.tensorrt_plan import BUILD_FILE, Flavour
from tritonkit.spec import TensorSpec

RTX_TARGETS = ("8.6", "8.9", "12.0")
"""Ampere, Ada and Blackwell GPUs. Three targets cost no more time or bytes than one, as kernels are compiled on the
target. Turing (7.5) is missing: TensorRT for RTX refuses fp32 matrix products for it."""

Hardware = Literal["none", "ampere_plus", "same_compute_capability"]
"""Which other GPUs can run a plan; `none`: only the GPU model on which it was built."""


class BuildOptions(Options):
    """Options of a build. The precision is not one of them: it is given by the types in the graph."""

    panel: ClassVar[str | None] = "TensorRT plans"

    workspace_mib: PositiveInt | None = None
    """GPU memory for temporary data of layers; default: all free memory."""
    time_limit_s: Annotated[PositiveFloat, CommandLine(code="option.time_limit")] = 3600
    """Give up a build after this long."""
    optimization_level: Annotated[
        Annotated[int, Field(ge=0, le=5)] | None, CommandLine(code="build.optimization_level")
    ] = None
    """How long to look for kernels; default: TensorRT's, 3."""
    version_compatible: bool = False
    """Also loads in newer TensorRT versions; the plan is larger and slower."""
    hardware: Annotated[Hardware, CommandLine(code="option.hardware")] = "none"
    """GPUs that the plan also runs on."""
    compute_capabilities: Annotated[tuple[str, ...], CommandLine("--compute-capability", metavar="X.Y")] = ()
    """--rtx: a GPU generation to build for, such as 8.9."""


class BuildSettings(BuildOptions):
    """Settings of the build of one plan."""

    flavour: Flavour = "tensorrt"
    max_batch: PositiveInt
    opt_batch: PositiveInt | None = None
    """The batch size to optimise for; None is the maximum."""
    timing_cache: bool = True
    """Keep the timings of kernels, so that the next build is faster."""

    @property
    def optimal_batch(self) -> int:
        """Return the optimal batch size of the optimisation profile."""
        return self.opt_batch or self.max_batch

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the compute capabilities to build for; empty to build for the local GPU."""
        return (self.compute_capabilities or RTX_TARGETS) if self.flavour == "rtx" else ()

    def runs_on(self, compute_capability: str) -> bool:
        """Whether the local GPU can run the result: an engine for RTX may be for other GPUs only."""
        return not self.targets or compute_capability in self.targets

    def check(self) -> None:
        """Raise InputError with all problems at once."""
        problems: list[Problem] = []
        if self.optimal_batch > self.max_batch:
            problems.append(
                Problem(
                    "build.opt_batch",
                    f"the optimal batch size is {self.optimal_batch}, but the maximum is {self.max_batch}",
                )
            )
        if self.flavour == "rtx" and (self.version_compatible or self.hardware != "none"):
            problems.append(
                Problem("build.rtx_compatibility", "TensorRT for RTX has no version- or hardware-compatible engines")
            )
        if self.flavour == "tensorrt" and self.compute_capabilities:
            problems.append(
                Problem(
                    "build.compute_capabilities",
                    "TensorRT builds for the local GPU; compute capabilities are only for --rtx",
                )
            )
        if problems:
            raise InputError("; ".join(map(str, problems)), code="build.options", problems=problems)


class BuildRecord(RepositoryFile):
    """The content of `build.json`: source, tool, target and precision of a plan."""

    FILE: ClassVar[str] = BUILD_FILE

    flavour: Flavour
    tensorrt: str
    """Version of TensorRT."""
    gpu: str | None = None
    """The GPU on which it was built; None if it was built without a GPU."""
    compute_capabilities: tuple[str, ...] = ()
    """The GPUs for which it was built."""
    seconds: float
    peak_memory_mib: int | None = None
    """Peak memory of the building process; None for a build in a container."""
    bytes: int
    sha256: str
    graph_sha256: str
    """SHA-256 of the source ONNX graph."""
    inputs: tuple[TensorSpec, ...] = ()
    """Inputs of the graph, without the batch axis, like its outputs; empty if not recorded."""
    outputs: tuple[TensorSpec, ...] = ()
    tensors: dict[str, int] = {}
    """Number of tensors of the strongly typed network, by type."""
    computed: dict[str, int] = {}
    """Number of convolutions and matrix products, by the type in which they compute."""
    engine: dict[str, int] = {}
    """Number of layers of the engine, by type, from the engine inspector on a GPU."""
    settings: BuildSettings
    image: str | None = None
    """The image of the container in which it was built."""

    @classmethod
    def unreadable(cls, path: Path, reason: str) -> ArtifactError:
        """The error for a build record that cannot be read."""
        return ArtifactError(f"{path}: not a build record; export the model again ({reason})", code="build.record")
