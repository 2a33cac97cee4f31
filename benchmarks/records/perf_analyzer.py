"""Reads the CSV that NVIDIA's perf_analyzer writes with `-f`, to show it beside records and compare it with one.

It is no record: it names neither the model nor the machine, and has no counts and no samples.
Source of the columns: triton-inference-server/perf_analyzer, src/report_writer.cc. Times are in microseconds.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from benchmarks.records.record import LevelSlice, ServerTime
from tritonkit.errors import InputError, Problem
from tritonkit.spec import Frozen

LOADS = {"Concurrency": "concurrency", "Request Rate": "rate"}
"""The first column, and the field of a level."""
RATE = "Inferences/Second"
PERCENTILES = {f"p{percent} latency": f"p{percent}_ms" for percent in (50, 90, 95, 99)}
SERVER = {
    "Server Queue": "queue_us",
    "Server Compute Input": "input_us",
    "Server Compute Infer": "infer_us",
    "Server Compute Output": "output_us",
}
NETWORK = ("Client Send", "Network+Server Send/Recv", "Client Recv")


class CsvLevel(Frozen):
    """A row: the figures of one load."""

    concurrency: int | None = None
    rate: float | None = None
    """Requests a second."""
    images_per_s: float
    """`Inferences/Second`, which counts the elements of a batch."""
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    server: ServerTime | None = None
    network_us: float | None = None
    """Mean time outside the four parts in `server`."""

    @property
    def load(self) -> str:
        """The load in words, such as `concurrency 8` or `50 requests/s`."""
        return f"concurrency {self.concurrency}" if self.rate is None else f"{self.rate:g} requests/s"

    @property
    def is_sound(self) -> bool:
        """Always true: the CSV does not say which levels are unstable."""
        return True

    @property
    def refused(self) -> None:
        """Always None: the CSV does not say whether the client kept its schedule."""
        return None

    @property
    def samples(self) -> tuple[LevelSlice, ...]:
        """Always empty: without samples there are no confidence intervals."""
        return ()


class PerfAnalyzerResult(Frozen):
    """What perf_analyzer measured, by rising load."""

    path: str
    levels: tuple[CsvLevel, ...]

    @property
    def name(self) -> str:
        """The name in legends."""
        return f"perf_analyzer {Path(self.path).name}"

    @property
    def best(self) -> CsvLevel:
        """The level with the highest throughput."""
        return max(self.levels, key=lambda level: level.images_per_s)


def read_perf_analyzer(path: Path) -> PerfAnalyzerResult:
    """Read a CSV of perf_analyzer. Raises InputError with all problems of the file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})", code="perf_analyzer.unreadable") from error
    problems: list[str] = []
    levels: list[CsvLevel] = []
    for needed in (" or ".join(LOADS), RATE, *PERCENTILES):
        if not set(needed.split(" or ")) & set(header):
            problems.append(f"no column {needed}")
    if not problems:
        for number, row in enumerate(rows, start=2):
            try:
                levels += [_level(dict(zip(header, row, strict=True)))] if row else []
            except ValueError as error:
                problems.append(f"line {number}: {error}")
        if not any(rows):
            problems.append("no rows: perf_analyzer reached no stable measurement")
    if problems:
        raise InputError(
            f"{path}: expected a CSV of `perf_analyzer -f`: {'; '.join(problems)}",
            code="perf_analyzer.invalid",
            problems=[Problem("perf_analyzer.invalid", problem) for problem in problems],
        )
    return PerfAnalyzerResult(
        path=str(path), levels=tuple(sorted(levels, key=lambda level: level.concurrency or level.rate or 0))
    )


def _level(cells: Mapping[str, str]) -> CsvLevel:
    """Parse a row. Raises ValueError."""
    load = next(name for name in LOADS if name in cells)
    server = {field: _number(cells, name) for name, field in SERVER.items() if name in cells}
    network = [_number(cells, name) for name in NETWORK if name in cells]
    value = _number(cells, load)
    return CsvLevel(
        **{LOADS[load]: int(value) if load == "Concurrency" else value},
        images_per_s=_number(cells, RATE),
        server=ServerTime(mean_batch=None, **server) if len(server) == len(SERVER) else None,
        network_us=sum(network) if len(network) == len(NETWORK) else None,
        **{field: _number(cells, name) / 1e3 for name, field in PERCENTILES.items()},
    )


def _number(cells: Mapping[str, str], name: str) -> float:
    try:
        value = float(cells[name])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {cells[name]!r}, expected a number")
    return value
