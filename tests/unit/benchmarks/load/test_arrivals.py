from __future__ import annotations

from itertools import chain, islice, pairwise, takewhile

import pytest

from benchmarks.load.arrivals import ClosedLoop, ConstantArrivals, Load, OpenLoop, PoissonArrivals, TraceArrivals


def until(load: OpenLoop, seconds: float) -> list[float]:
    return list(takewhile(lambda time: time < seconds, load.times()))


@pytest.mark.parametrize("processes", [1, 3])
def test_poisson_times_have_their_rate_and_exponential_gaps(processes: int) -> None:
    load = PoissonArrivals(100)
    times = sorted(time for index in range(processes) for time in until(load.share(index, processes), 100))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(times) == pytest.approx(10_000, rel=0.03)
    # Of exponential gaps, the share 1 / e is longer than their mean.
    assert sum(gap > 0.01 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.02)


def test_poisson_times_depend_on_the_seed_alone() -> None:
    first, again, other = (list(islice(PoissonArrivals(9, seed).times(), 50)) for seed in ((1,), (1,), (2,)))
    assert first == again != other


def test_constant_times_are_shared_in_turn() -> None:
    load = ConstantArrivals(10)
    shares = [until(load.share(index, 3), 0.95) for index in range(3)]
    assert sorted(chain(*shares)) == pytest.approx([0.1 * number for number in range(10)])
    assert shares[1] == pytest.approx([0.1, 0.4, 0.7])


def test_shares_of_a_trace_and_of_a_closed_loop_add_up() -> None:
    trace = TraceArrivals((0.0, 0.1, 0.2, 5.0))
    assert [trace.share(index, 2).seconds for index in range(2)] == [(0.0, 0.2), (0.1, 5.0)]
    assert [ClosedLoop(5).share(index, 3).concurrency for index in range(3)] == [2, 2, 1]


def test_the_longest_gap_is_a_pause_only_if_it_stands_out() -> None:
    steady = tuple(0.5 * number for number in range(10))
    assert TraceArrivals(steady).pause is None
    assert TraceArrivals((0.0,)).pause is None
    assert TraceArrivals((*(0.01 * number for number in range(50)), 20.0)).pause == pytest.approx((0.49, 19.51))


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (ClosedLoop(8), "concurrency 8"),
        (PoissonArrivals(12.5), "12.5 requests/s"),
        (TraceArrivals((0.0, 1.0)), "trace of 2 requests"),
    ],
)
def test_loads_are_named(load: Load, words: str) -> None:
    assert str(load) == words
