"""Windows, stability and percentiles, computed as in NVIDIA's perf_analyzer.

Source: triton-inference-server/perf_analyzer, src/inference_profiler.cc: `ValidLatencyMeasurement` (which
requests count), `SummarizeLatency` (percentiles), `IsInferWindowStable` and `IsLatencyWindowStable` (stability),
`MergePerfStatusReports` (the figures). One difference: its time windows last 1.2 times the configured interval, ours
exactly the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.records.record import Latencies, LevelSlice

STABLE_WINDOWS = 3
STABLE_RATIO = 1.1
"""The largest over the smallest of the three: perf_analyzer's default `--stability-percentage` of 10."""
SAMPLE_S = 0.5
MAX_SAMPLES = 240
"""A longer time has longer slices."""

Times = NDArray[np.int64]
"""Answered requests [N, 3]: the columns are the fields of RequestTimes."""


class RequestTimes(NamedTuple):
    """One answered request, in nanoseconds of CLOCK_MONOTONIC, which is the same in all processes of a machine."""

    intended_ns: int
    """When it should have been sent; in a closed loop, when it was sent."""
    sent_ns: int
    end_ns: int


@dataclass(frozen=True, eq=False)
class Window:
    """A time window, or several turns together, and the requests that ended in it."""

    duration_s: float
    requests: Times

    @property
    def requests_per_s(self) -> float:
        """Requests that ended in the window, per second."""
        return len(self.requests) / self.duration_s

    @property
    def latencies_ns(self) -> NDArray[np.int64]:
        """Latencies from the intended send, in nanoseconds [N]."""
        return latencies_ns(self.requests)


def times_of(requests: Sequence[RequestTimes]) -> Times:
    """Return requests as an array."""
    return np.array(requests, np.int64).reshape(-1, 3)


def latencies_ns(requests: Times) -> NDArray[np.int64]:
    """Return the latencies from the intended send, in nanoseconds [N]."""
    return requests[:, 2] - requests[:, 0]


def split_into_windows(boundaries_ns: Sequence[int], requests: Times) -> list[Window]:
    """Return the windows between ascending boundaries; a request that ends on one belongs to the window before it."""
    ends = requests[:, 2]
    places = np.maximum(np.searchsorted(boundaries_ns, ends, side="left") - 1, 0)
    places[(ends < boundaries_ns[0]) | (ends > boundaries_ns[-1])] = -1
    return [
        Window((end - start) / 1e9, requests[places == place])
        for place, (start, end) in enumerate(pairwise(boundaries_ns))
    ]


def merge_windows(windows: Sequence[Window]) -> Window:
    """Merge windows into one."""
    return Window(sum(window.duration_s for window in windows), np.concatenate([each.requests for each in windows]))


def is_stable(windows: Sequence[Window], compare_throughput: bool = True) -> bool:
    """Whether the last three windows agree within 10 % in throughput and in mean latency.

    The largest of the three may be at most 1.1 times the smallest, and none may be empty. compare_throughput: false
    for an open loop, whose throughput is that of its random send times.
    """
    last = windows[-STABLE_WINDOWS:]
    if len(last) < STABLE_WINDOWS or not all(len(window.requests) for window in last):
        return False
    figures = [[float(window.latencies_ns.mean()) for window in last]]
    if compare_throughput:
        figures.append([window.requests_per_s for window in last])
    return all(max(values) <= STABLE_RATIO * min(values) for values in figures)


def percentile(ascending: Sequence[int] | NDArray[np.int64], percent: float) -> int:
    """Return the value at index floor(percent / 100 * (n - 1) + 0.5) of n ascending values, n > 0."""
    return int(ascending[int(percent / 100 * (len(ascending) - 1) + 0.5)])


def summarize(nanoseconds: NDArray[np.int64]) -> Latencies:
    """Return mean and percentiles of latencies [N], N > 0."""
    ascending = np.sort(nanoseconds)
    return Latencies(
        mean_ms=float(ascending.mean()) / 1e6,
        p50_ms=percentile(ascending, 50) / 1e6,
        p90_ms=percentile(ascending, 90) / 1e6,
        p95_ms=percentile(ascending, 95) / 1e6,
        p99_ms=percentile(ascending, 99) / 1e6,
    )


def samples_of(start_ns: int, end_ns: int, requests: Times, seconds: float) -> tuple[LevelSlice, ...]:
    """Return consecutive slices of about half a second of the time from `start_ns` to `end_ns`.

    seconds: its planned length, which decides their number.
    """
    count = min(MAX_SAMPLES, max(1, round(seconds / SAMPLE_S)))
    boundaries = [start_ns + (end_ns - start_ns) * index // count for index in range(count + 1)]
    return tuple(_sample(window) for window in split_into_windows(boundaries, requests))


def _sample(window: Window) -> LevelSlice:
    figures = summarize(window.latencies_ns) if len(window.requests) else None
    return LevelSlice(
        seconds=window.duration_s,
        requests=len(window.requests),
        mean_ms=figures and figures.mean_ms,
        p50_ms=figures and figures.p50_ms,
        p99_ms=figures and figures.p99_ms,
    )
