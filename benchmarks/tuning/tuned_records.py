"""Benchmark records of the settings before and after a search, for `bench report` and `bench compare`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.load.arrivals import Load
from benchmarks.load.gpu_monitor import GpuMonitor
from benchmarks.load.level import LevelMeasurement
from benchmarks.records.record import Record, write_record
from benchmarks.run import ModelBenchmark
from benchmarks.target import BenchmarkPlan

LIMIT_MISSING = "`bench tune` does not measure it; use `bench run`"


class TunedRecords:
    """Makes the records of one search, which have one run_id."""

    def __init__(self, plan: BenchmarkPlan, loads: Sequence[Load]) -> None:
        self._plan, self._loads, self._run_id = plan, loads, secrets.token_hex(8)

    def write(self, path: Path, measured: Mapping[Load, LevelMeasurement]) -> None:
        """Write the record of the settings that are loaded now, from their levels. Raises what both steps raise."""
        write_record(path, self.make(measured))

    def make(self, measured: Mapping[Load, LevelMeasurement]) -> Record:
        """Return the record of the settings that are loaded now. Raises InferenceError, AnswerError."""
        with ModelBenchmark(self._plan, self._run_id, GpuMonitor()) as benchmark:
            benchmark.levels = [measured[load] for load in self._loads if load in measured]
            return benchmark.record(None).model_copy(update={"limit": None, "limit_missing": LIMIT_MISSING})


def path_before(path: Path) -> Path:
    """Return the path of the record of the settings before, from that of the winner."""
    return path.with_stem(f"{path.stem}-before")
