from __future__ import annotations

import pytest

from benchmarks.load.windows import RequestTimes, Window, is_stable, merge_windows, percentile, split_into_windows

SECOND = 1_000_000_000


def window(requests: int, latency_ns: int) -> Window:
    return Window(0, SECOND, (latency_ns,) * requests)


def test_only_requests_that_end_inside_count() -> None:
    # The example in perf_analyzer's own test of ValidLatencyMeasurement.
    requests = [RequestTimes(*times) for times in ((1, 2), (3, 5), (6, 9), (10, 14), (15, 20), (21, 27))]
    assert split_into_windows([4, 17], requests) == [Window(4, 17, (2, 3, 4))]


def test_a_request_that_ends_on_a_boundary_counts_once() -> None:
    first, second = split_into_windows(
        [0, 10, 20], [RequestTimes(0, 10), RequestTimes(5, 11), RequestTimes(0, 0), RequestTimes(12, 20)]
    )
    assert first.latencies_ns == (10, 0)
    assert second.latencies_ns == (6, 8)


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


def test_merged_windows_weigh_each_request_alike() -> None:
    fast, slow = Window(0, SECOND, (1_000_000,) * 3), Window(SECOND, 3 * SECOND, (5_000_000,))
    figures = merge_windows([fast, slow])
    assert figures is not None
    assert figures.requests == 4
    assert figures.requests_per_s == pytest.approx(4 / 3)
    assert figures.mean_ms == pytest.approx(2)
    assert (figures.p50_ms, figures.p99_ms) == (1, 5)


def test_nothing_is_merged_when_nothing_ended() -> None:
    assert merge_windows([Window(0, SECOND, ())]) is None
