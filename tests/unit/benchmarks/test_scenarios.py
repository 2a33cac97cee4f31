from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.load.arrivals import ClosedLoop, ConstantArrivals, PoissonArrivals, TraceArrivals
from benchmarks.scenarios import MAX_TRIALS, Scenario, next_rate, scenario_from_options
from tests.errors import raises
from tritonkit.errors import InputError

NONE: dict[str, Any] = dict.fromkeys(("concurrency", "rate", "arrivals", "trace", "scenario", "p99_ms", "seed"))


def options(**values: Any) -> Scenario:
    return scenario_from_options(**{**NONE, **values})


def test_the_default_is_a_closed_loop() -> None:
    assert options().loads == tuple(ClosedLoop(1 << power) for power in range(7))
    assert options().name == "closed"


def test_rates_are_open_loops_with_different_random_times() -> None:
    assert options(rate="10:20", seed=3).loads == (PoissonArrivals(10, (3, 0)), PoissonArrivals(20, (3, 1)))
    assert options(rate="5", arrivals="constant").loads == (ConstantArrivals(5),)


def test_a_trace_is_read_and_its_file_named(tmp_path: Path) -> None:
    path = tmp_path / "times.txt"
    path.write_text("1\n3\n")
    scenario = options(trace=path)
    assert (scenario.loads, scenario.arrivals, scenario.trace) == ((TraceArrivals((0, 2)),), "trace", path)
    assert len(scenario.trace_sha256 or "") == 64


@pytest.mark.parametrize(
    ("name", "batch", "loads"),
    [("SingleStream", 1, (1,)), ("MultiStream", 8, (1,)), ("Offline", 32, (6,))],
)
def test_mlperf_scenarios_have_their_batch_and_load(name: str, batch: int, loads: tuple[int, ...]) -> None:
    scenario = options(scenario=name)
    assert scenario.batch(None, max_batch=32) == batch
    assert scenario.batch(4, max_batch=32) == 4
    assert scenario.planned_loads(instances=3) == tuple(map(ClosedLoop, loads))


@pytest.mark.parametrize(
    ("values", "problems"),
    [
        ({"concurrency": "4", "rate": "5"}, 1),
        ({"concurrency": "4", "rate": "5", "trace": Path("x"), "scenario": "Offline", "p99_ms": 5.0}, 2),
        ({"arrivals": "constant"}, 1),
        ({"arrivals": "constant", "seed": 1, "p99_ms": 5.0}, 3),
        ({"scenario": "Server"}, 1),
        ({"scenario": "Offline", "seed": 1}, 1),
    ],
)
def test_options_that_do_not_fit_are_all_named(values: dict[str, Any], problems: int) -> None:
    with raises(InputError, "benchmark.options") as caught:
        options(**values)
    assert len(caught.value.problems) == problems


@pytest.mark.parametrize("limit", [0.0, 0.5, 3, 9.99, 70, 99, 100, 250, 1000, 1e9])
def test_the_search_ends_near_the_highest_rate_that_passes(limit: float) -> None:
    trials: list[tuple[float, bool]] = []
    while (rate := next_rate(100, trials)) is not None:
        trials.append((rate, rate <= limit))
    assert len(trials) <= MAX_TRIALS
    passed = [rate for rate, ok in trials if ok]
    if limit < 1.2:
        assert not passed
    elif limit < 500:
        assert limit / 1.06 <= max(passed) <= limit
    assert all(earlier != later for earlier, later in pairwise(sorted(rate for rate, _ in trials)))


@pytest.mark.parametrize("seed", range(20))
def test_the_search_ends_also_where_chance_decides(seed: int) -> None:
    trials: list[tuple[float, bool]] = []
    while (rate := next_rate(100, trials)) is not None:
        trials.append((rate, bool((seed * 7919 >> len(trials)) & 1)))
    assert len(trials) <= MAX_TRIALS
