"""`optimize.json`: why `builder optimize` chose this version, with the figures of all candidates."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

from tritonkit.errors import ArtifactError
from tritonkit.repository.file import RepositoryFile
from tritonkit.runtimes.formats import Precision
from tritonkit.spec import Frozen

Goal = Literal["throughput", "latency"]
"""Most images per second, or the lowest median latency of one request in flight."""


class RoundFigures(Frozen):
    """One measurement by `bench run`."""

    images_per_s: float
    p50_ms: float
    p99_ms: float


class ServedLoad(RoundFigures):
    """The medians over all rounds at one load; a request has one image."""

    concurrency: int
    """Requests in flight."""
    rounds: tuple[RoundFigures, ...]


class Candidate(Frozen):
    """One format and precision: its verdict, its size and its figures as served."""

    format: str
    precision: Precision
    verdict: Literal["passed", "FAILED"] | None = None
    """None where there was nothing to verify."""
    excluded: str | None = None
    """Why it could not be chosen; None where it could."""
    max_abs: float | None = None
    relative: float | None = None
    """The relative error of the outputs; None where all errors are negligible."""
    quality: dict[str, float] = {}
    """Metrics on the labelled images, minus those of the source."""
    quality_loss: float = 0.0
    """How much the metric that lost most has lost; 0 without labelled images."""
    bytes: int | None = None
    """Size of the model's files."""
    loads: tuple[ServedLoad, ...] = ()

    @property
    def name(self) -> str:
        """Format and precision, such as `onnx int8`."""
        return f"{self.format} {self.precision}"


class Optimization(RepositoryFile):
    """The content of `optimize.json`."""

    FILE: ClassVar[str] = "optimize.json"

    model: str
    target: Goal
    p99_bound_ms: float | None = None
    candidates: tuple[Candidate, ...]
    chosen: str | None = None
    """The name of the candidate that was published; None where none could be."""
    reason: str
    """Why it was chosen, or why none was."""
    notes: tuple[str, ...] = ()
    """Doubts about the figures."""
    window_s: float
    measured: datetime
    machine: dict[str, Any] = {}
    """The environment in the record of `bench run`."""

    @classmethod
    def unreadable(cls, path: Path, reason: str) -> ArtifactError:
        """The error for a record that cannot be read."""
        return ArtifactError(
            f"{path}: cannot be read ({reason}); optimize the model again", code="repository.unreadable_optimization"
        )

    @property
    def winner(self) -> Candidate | None:
        """The candidate that was published."""
        return next((candidate for candidate in self.candidates if candidate.name == self.chosen), None)
