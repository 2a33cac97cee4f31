"""The interface of all builders: write an artifact from a graph, and open it as a runner to verify."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from builder.sources.base import Source
from tritonkit.repository.build_record import BuildOptions, BuildRecord
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import ArtifactFormat, Precision, ProgressCallback


@dataclass(frozen=True)
class BuildJob:
    """One artifact to build."""

    source: Source
    graph: Path
    """The ONNX graph: in the precision of the artifact where the format `casts`, else in fp32."""
    precision: Precision
    folder: Path
    """The version folder to write into."""
    max_batch: int
    opt_batch: int | None
    report: ProgressCallback


class ArtifactBuilder(ABC):
    """Builds the artifacts of a format, and opens them for verification."""

    format: ClassVar[ArtifactFormat]
    is_graph: ClassVar[bool] = True
    """Whether the artifact computes what the job's graph computes; else the graph is a part of it."""

    def __init__(self, options: BuildOptions | None = None, image: str | None = None) -> None:
        """options: of TensorRT. image: the container image to build and verify in; None uses this environment."""
        self.options = options or BuildOptions()
        self.image = image

    def check_machine(self) -> None:  # noqa: B027 - most formats need only what is installed
        """Raise where this machine lacks something that the format needs.

        ArtifactError for a package that is missing, BuildStoppedError where Docker does not answer.
        """

    def check_job(self, job: BuildJob) -> None:  # noqa: B027 - most formats take every job
        """Raise where this job cannot succeed on this machine. Called before the graph is written.

        InputError for wrong options, BuildStoppedError where the build image cannot be run.
        """

    def expected_build_record(self, job: BuildJob) -> BuildRecord | None:
        """The build record of the plan that the job will build, as far as it is known; None for no plan."""
        return None

    @abstractmethod
    def write(self, job: BuildJob) -> Path:
        """Write the artifact into the job's folder and return its path.

        Raises CannotBuildError where the format does not support the graph, BuildStoppedError where the build was
        interrupted.
        """

    @abstractmethod
    def open_runner(self, artifact: Path, job: BuildJob) -> Runner | None:
        """Open the artifact for verification. None where this machine cannot run it in its precision.

        Called after a simulation of a reduced graph has passed. Raises CannotBuildError where the runtime computes in
        another precision, ArtifactError where the graph does not load and one with more fp32 nodes might.
        """

    def verification_method(self, job: BuildJob) -> str:
        """What produced the answers: the artifact, or a simulation where it cannot run here. For the verdict."""
        return f"the artifact itself, run by {self.format.served.backend}"

    def parameters(self, job: BuildJob) -> Mapping[str, str]:
        """Parameters of `config.pbtxt` that the backend reads."""
        return {}
