"""Benchmark records of the settings before and after a search, for `bench report` and `bench compare`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.load.arrivals import Load
from benchmarks.load.gpu_monitor import GpuMonitor
from benchmarks.load.level import LevelMeasurement
from benchmarks.records.record import Record, write_record
from benchmarks.run import ModelBenchmark
from benchmarks.target import BenchmarkPlan
from benchmarks.tuning.served import trial_timing
from tritonkit.triton.client import TritonClient
from tritonkit.triton.connection import Connection, RequestTokens

LIMIT_MISSING = "`bench tune` does not measure it; use `bench run`"


class TunedRecords:
    """Makes the records of one search, which have one run_id."""

    def __init__(self, plan: BenchmarkPlan, loads: Sequence[Load], tokens: RequestTokens | None) -> None:
        """tokens: None takes those of the environment."""
        self._plan, self._loads, self._tokens, self._run_id = plan, loads, tokens, secrets.token_hex(8)

    def write(self, path: Path, measured: Mapping[Load, LevelMeasurement]) -> None:
        """Write the record of the settings that are loaded now, from their levels. Raises what both steps raise."""
        write_record(path, self.make(measured))

    def make(self, measured: Mapping[Load, LevelMeasurement]) -> Record:
        """Return the record of the settings that are loaded now. Raises InferenceError, AnswerError."""
        levels = [measured[load] for load in self._loads if load in measured]
        seconds = levels[0].counted_s
        plan = replace(self._plan, timing=trial_timing(round(seconds, 1)))
        client = TritonClient(Connection(url=plan.url), tokens=self._tokens)
        with ModelBenchmark(plan, self._run_id, GpuMonitor(), client) as benchmark:
            benchmark.levels = levels
            return benchmark.record(None).model_copy(update={"limit": None, "limit_missing": LIMIT_MISSING})


def path_before(path: Path) -> Path:
    """Return the path of the record of the settings before, from that of the winner."""
    return path.with_stem(f"{path.stem}-before")
