from __future__ import annotations

import numpy as np
import pytest

from benchmarks.load.windows import (
    RequestTimes,
    Times,
    Window,
    is_stable,
    percentile,
    samples_of,
    split_into_windows,
    summarize,
    times_of,
)

SECOND = 1_000_000_000


def window(requests: int, latency_ns: int) -> Window:
    return Window(1.0, requests_of((0, latency_ns)).repeat(requests, axis=0))


def requests_of(*times: tuple[int, int]) -> Times:
    """Requests that were sent as intended."""
    return times_of([RequestTimes(start, start, end) for start, end in times])


def test_only_requests_that_end_inside_count() -> None:
    # The example in perf_analyzer's own test of ValidLatencyMeasurement.
    (window,) = split_into_windows([4, 17], requests_of((1, 2), (3, 5), (6, 9), (10, 14), (15, 20), (21, 27)))
    assert (window.duration_s, window.latencies_ns.tolist()) == (13e-9, [2, 3, 4])


def test_a_request_that_ends_on_a_boundary_counts_once() -> None:
    first, second = split_into_windows([0, 10, 20], requests_of((0, 10), (5, 11), (0, 0), (12, 20)))
    assert first.latencies_ns.tolist() == [10, 0]
    assert second.latencies_ns.tolist() == [6, 8]


@pytest.mark.parametrize(
    ("rates", "stable"),
    [
        ((500, 520, 510), True),
        ((100, 110, 105), True),
        ((100, 111, 105), False),
        ((1, 1000, 500, 1500, 500, 520, 510), True),
        ((500, 520), False),
        ((500, 0, 510), False),
    ],
)
def test_throughput_is_stable_when_the_last_three_agree(rates: tuple[int, ...], stable: bool) -> None:
    assert is_stable([window(rate, latency_ns=1000) for rate in rates]) is stable


@pytest.mark.parametrize(("latencies", "stable"), [((45, 49, 45), True), ((45, 50, 45), False)])
def test_latency_is_stable_when_the_last_three_agree(latencies: tuple[int, ...], stable: bool) -> None:
    assert is_stable([window(10, latency) for latency in latencies]) is stable


@pytest.mark.parametrize(
    ("count", "percent", "index"), [(1, 99, 0), (2, 50, 1), (10, 90, 8), (10, 95, 9), (100, 99, 98), (101, 50, 50)]
)
def test_percentile_takes_the_rounded_index(count: int, percent: float, index: int) -> None:
    assert percentile(range(count), percent) == index


def test_latency_counts_from_the_intended_send() -> None:
    (window,) = split_into_windows([0, 20], times_of([RequestTimes(1, 5, 9)]))
    assert window.latencies_ns.tolist() == [8]


def test_each_request_weighs_alike() -> None:
    figures = summarize(np.array([1_000_000] * 3 + [5_000_000]))
    assert figures.mean_ms == pytest.approx(2)
    assert (figures.p50_ms, figures.p99_ms) == (1, 5)


def test_samples_cover_all_time_also_where_nothing_ended() -> None:
    samples = samples_of(0, 2 * SECOND, requests_of((0, SECOND // 4), (SECOND, SECOND * 7 // 4)), seconds=2)
    assert [(sample.seconds, sample.requests) for sample in samples] == [(0.5, 1), (0.5, 0), (0.5, 0), (0.5, 1)]
    assert [sample.p50_ms for sample in samples] == [250, None, None, 750]
    assert len(samples_of(0, 3600 * SECOND, requests_of((0, 1)), seconds=3600)) == 240
