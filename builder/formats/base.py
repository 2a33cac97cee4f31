"""The seam all formats share: a graph becomes an artifact, and the artifact opens as something that can be judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from builder.sources.base import Source
from builder.targets import Dialect, FormatName, Precision, ProgressCallback
from model.build_record import BuildRecord
from model.runners.base import Runner


@dataclass(frozen=True)
class Job:
    """One artifact to make."""

    source: Source
    graph: Path
    """The ONNX graph: in the precision wanted where the format `casts`, else in fp32."""
    precision: Precision
    folder: Path
    """The version folder being prepared."""
    max_batch: int
    opt_batch: int | None
    report: ProgressCallback


class Format(ABC):
    """A kind of artifact that Triton serves."""

    name: ClassVar[FormatName]
    backend: ClassVar[str]
    """Triton's backend that serves it."""
    artifact: ClassVar[str]
    """The file its backend looks for in a version folder."""
    casts: ClassVar[bool] = True
    """Whether the precision is that of the graph's own types; else it is a setting of the runtime."""
    takes_bf16: ClassVar[bool] = False
    """Whether bf16 may stand in for an fp16 that fails."""
    dialect: ClassVar[Dialect] = "onnxruntime"

    def check_possible(self) -> None:  # noqa: B027 - most need nothing more than what is installed
        """Raise when something it needs is missing here, with the ways out.

        ArtifactError for what is to be installed, BuildStoppedError where Docker does not answer.
        """

    def check_job(self, job: Job) -> None:  # noqa: B027 - most take every job
        """Raise when this job cannot come to a good end here. Its graph is not written yet.

        InputError for what was asked, BuildStoppedError where the image to build in cannot be run.
        """

    def foreseen(self, job: Job) -> BuildRecord | None:
        """The record of the plan that the job will build, as far as it is known before; None where nothing is."""
        return None

    @abstractmethod
    def write(self, job: Job) -> Path:
        """Write the artifact into the job's folder and return its path.

        Raises CannotBuildError when the target does not take the graph, BuildStoppedError when the build did not end.
        """

    @abstractmethod
    def open_runner(self, artifact: Path, job: Job) -> Runner | None:
        """What a verdict asks: the artifact itself. None where this machine cannot run it as its target would.

        A simulation of a reduced graph has passed before. Raises CannotBuildError when the target cannot run the
        artifact as it should, another ArtifactError when this graph does not load and a less reduced one might.
        """

    def proven_by(self, job: Job) -> str:
        """How the candidate stands for the artifact, in words for the verdict."""
        return f"the artifact itself, run by {self.backend}"

    def parameters(self, job: Job) -> Mapping[str, str]:
        """Parameters of `config.pbtxt` that its backend reads."""
        return {}
