"""The scenarios of a benchmark: fixed loads, and those of MLPerf Inference.

Source: mlcommons/inference_policies, "Scenarios": SingleStream sends one sample after the other and reports p90;
MultiStream sends queries of 8 samples one after the other and reports p99; Server sends at Poisson times and reports
the highest rate whose p99 stays under a bound; Offline sends all samples at once and reports throughput. Runs are
shorter than MLPerf's 10 minutes, so their results are not MLPerf results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.load.arrivals import ClosedLoop, ConstantArrivals, Load, PoissonArrivals
from benchmarks.load.level import LevelMeasurement
from benchmarks.load.options import DEFAULT_CONCURRENCY, Arrivals, MlperfScenario, concurrency_levels, rate_levels
from benchmarks.load.trace import read_trace
from tritonkit.errors import InputError, Problem
from tritonkit.system.files import file_sha256

ScenarioName = Literal["closed", "open", "SingleStream", "MultiStream", "Server", "Offline"]

MULTI_STREAM_SAMPLES = 8
MIN_OFFLINE_REQUESTS = 4
PROBE = ClosedLoop(16)
"""The load that estimates the throughput before the search of the scenario Server."""
MAX_TRIALS = 12
"""Of the search."""
_FIRST_SHARE, _GROWTH, _SHRINKAGE = 0.7, 1.25, 0.6
_PRECISION = 1.05
"""The search ends when the lowest failed rate is at most this many times the highest passed one."""
_LOWEST_SHARE = 0.02


@dataclass(frozen=True)
class Scenario:
    """The loads of a benchmark, in their order."""

    name: ScenarioName
    loads: tuple[Load, ...] = ()
    """Empty for Server and Offline, which depend on the model."""
    arrivals: Literal["poisson", "constant", "trace"] | None = None
    trace: Path | None = None
    p99_bound_ms: float | None = None
    seed: int = 0

    @property
    def trace_sha256(self) -> str | None:
        """The hash of the trace file."""
        return file_sha256(self.trace) if self.trace else None

    @property
    def most_levels(self) -> int:
        """Number of levels; for Server the most that its search needs."""
        return MAX_TRIALS if self.name == "Server" else len(self.loads) or 1

    def batch(self, batch: int | None, max_batch: int) -> int:
        """Return the images of a request. batch: the option; None is the default of the scenario."""
        if batch is not None:
            return batch
        return {"MultiStream": MULTI_STREAM_SAMPLES, "Offline": max_batch}.get(self.name, 1)

    def next_load(self, measured: Sequence[LevelMeasurement], throughput: float, instances: int) -> Load | None:
        """Return the load of the next level; None at the end.

        throughput: requests a second of `PROBE`, for Server. instances: of the served model, for Offline.
        """
        if self.p99_bound_ms is not None:
            trials = [(level.rate, passes(level, self.p99_bound_ms)) for level in measured if level.rate is not None]
            rate = next_rate(throughput, trials)
            return None if rate is None else PoissonArrivals(rate, (self.seed, len(measured)))
        return next(iter(self.planned_loads(instances)[len(measured) :]), None)

    def planned_loads(self, instances: int) -> tuple[Load, ...]:
        """Return the loads that are known before the measurement. instances: of the served model."""
        if self.name == "Offline":
            return (ClosedLoop(max(MIN_OFFLINE_REQUESTS, 2 * instances)),)
        return self.loads


def passes(level: LevelMeasurement, p99_bound_ms: float) -> bool:
    """Whether a level of the scenario Server stays under the bound, with no error and a schedule that was kept."""
    return not (level.refused or level.errors or level.interrupted) and level.latency.p99_ms <= p99_bound_ms


def next_rate(throughput: float, trials: Sequence[tuple[float, bool]]) -> float | None:
    """Return the next rate of the search for the highest one that passes; None at its end.

    It grows until a rate fails, or shrinks until one passes, then halves the interval between the two. It ends after
    `MAX_TRIALS` at the latest.
    """
    passed = max((rate for rate, ok in trials if ok), default=None)
    failed = min((rate for rate, ok in trials if not ok), default=None)
    if len(trials) >= MAX_TRIALS:
        return None
    rate: float | None
    if passed is not None and failed is not None:
        rate = (passed + failed) / 2 if failed > passed * _PRECISION else None
    elif passed is not None:
        rate = passed * _GROWTH
    elif failed is not None:
        rate = failed * _SHRINKAGE if failed > throughput * _LOWEST_SHARE else None
    else:
        rate = throughput * _FIRST_SHARE
    return None if rate is None else float(f"{rate:.3g}")


def scenario_from_options(
    *,
    concurrency: str | None,
    rate: str | None,
    arrivals: Arrivals | None,
    trace: Path | None,
    scenario: MlperfScenario | None,
    p99_ms: float | None,
    seed: int | None,
) -> Scenario:
    """Return the scenario that options of `bench run` choose. Raises InputError with all options that do not fit."""
    chosen = {"--concurrency": concurrency, "--rate": rate, "--trace": trace, "--scenario": scenario}
    used = [option for option, value in chosen.items() if value is not None]
    problems = []
    if len(used) > 1:
        problems.append(f"{' and '.join(used)} are different loads; use one of them")
    if arrivals is not None and rate is None:
        problems.append("--arrivals needs --rate")
    if seed is not None and rate is None and scenario != "Server":
        problems.append("--seed needs --rate or --scenario Server: other loads have no random times")
    if (p99_ms is not None) != (scenario == "Server"):
        problems.append("--scenario Server needs --p99-ms, its bound; for another load, leave it out")
    if problems:
        raise InputError(
            "; ".join(problems),
            code="benchmark.options",
            problems=[Problem("benchmark.options", problem) for problem in problems],
        )
    if scenario is not None:
        single = (ClosedLoop(1),) if scenario in ("SingleStream", "MultiStream") else ()
        return Scenario(
            scenario, single, "poisson" if scenario == "Server" else None, p99_bound_ms=p99_ms, seed=seed or 0
        )
    if trace is not None:
        return Scenario("open", (read_trace(trace),), "trace", trace)
    if rate is None:
        return Scenario("closed", tuple(map(ClosedLoop, concurrency_levels(concurrency or DEFAULT_CONCURRENCY))))
    rates, seed = rate_levels(rate), seed or 0
    if arrivals == "constant":
        return Scenario("open", tuple(map(ConstantArrivals, rates)), "constant", seed=seed)
    loads = tuple(PoissonArrivals(level, (seed, number)) for number, level in enumerate(rates))
    return Scenario("open", loads, "poisson", seed=seed)
