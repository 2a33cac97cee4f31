"""The evidence of a tuned `config.pbtxt`: what was tried, measured and replaced."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import AwareDatetime, PositiveFloat, PositiveInt

from tritonkit.errors import ArtifactError
from tritonkit.repository.file import RepositoryFile
from tritonkit.repository.optimization import Goal
from tritonkit.repository.tuning.settings import ServingSettings
from tritonkit.spec import Frozen


class TuningGoal(Frozen):
    """What the settings were searched for."""

    target: Goal
    """throughput: most images/s of any level that keeps the bound. latency: lowest p50 of the one level."""
    p99_ms: PositiveFloat
    """The bound."""
    load: Literal["concurrency", "rate"] = "concurrency"
    """concurrency: requests in flight of a closed loop. rate: requests a second of an open loop, at Poisson times."""
    levels: tuple[PositiveFloat, ...]
    """Levels of the load, ascending."""
    batch: PositiveInt
    """Images in each request."""


class Figures(Frozen):
    """Throughput and latency of one level of the load, measured or predicted."""

    level: PositiveFloat
    """Requests in flight, or requests a second."""
    images_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int = 0
    refused: str | None = None
    """Why p99 is no valid figure: the client could not keep the schedule of an open loop."""

    @property
    def is_sound(self) -> bool:
        """Whether no request failed, and p99 is a valid figure."""
        return not (self.errors or self.refused)


class TuningTrial(Frozen):
    """The measurement of one configuration."""

    settings: ServingSettings
    levels: tuple[Figures, ...] = ()
    """The measured levels."""
    best: Figures | None = None
    """The level that counts: the best within the bound, else the one nearest to it. None: the trial failed."""
    keeps_bound: bool = False
    predicted: Figures | None = None
    """The simulation's figures for the level that counts."""
    failed: str | None = None
    """Why nothing was measured, such as Triton's reason for not loading the configuration."""
    is_curve: bool = False
    """Whether only the levels of a curve were measured, and not those that suit the bound."""
    loading_s: float = 0.0
    seconds: float = 0.0
    """Duration of the trial, with loading."""


class TuningRecord(RepositoryFile):
    """The content of `tuning.json`, beside the `config.pbtxt` that it explains."""

    FILE: ClassVar[str] = "tuning.json"

    created: AwareDatetime
    goal: TuningGoal
    minutes: PositiveFloat
    winner: ServingSettings
    replaced: ServingSettings
    """The settings before."""
    confirmed: dict[str, tuple[Figures, ...]]
    """The last measurements in turns, by settings in words."""
    trials: tuple[TuningTrial, ...]
    machine: dict[str, str | int | float]
    """The machine of the load generator."""
    record: str | None = None
    """The benchmark record of the winner."""
    config_sha256: dict[str, str] = {}
    """SHA-256 of each changed file as tuning wrote it, by its path in the repository."""
    previous: dict[str, str] = {}
    """The text of each changed file before, by its path in the repository."""
    earlier: TuningRecord | None = None
    """The record of the configuration before, if an earlier search wrote it."""

    @classmethod
    def unreadable(cls, path: Path, reason: str) -> ArtifactError:
        """The error for a tuning record that cannot be read."""
        return ArtifactError(
            f"{path}: not a record of `bench tune` ({reason}); delete it", code="repository.unreadable_tuning"
        )
