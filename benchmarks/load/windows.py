"""Windows, stability and percentiles, computed as in NVIDIA's perf_analyzer.

Source: triton-inference-server/perf_analyzer, src/inference_profiler.cc: `ValidLatencyMeasurement` (which
requests count), `SummarizeLatency` (percentiles), `IsInferWindowStable` and `IsLatencyWindowStable` (stability),
`MergePerfStatusReports` (the figures). One difference: its time windows last 1.2 times the configured interval, ours
exactly the interval.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

STABLE_WINDOWS = 3
STABLE_RATIO = 1.1
"""The largest over the smallest of the three: perf_analyzer's default `--stability-percentage` of 10."""


class RequestTimes(NamedTuple):
    """One answered request, both times in nanoseconds of the same clock."""

    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class Window:
    """A time window, and the latencies of all requests that ended in it."""

    start_ns: int
    end_ns: int
    latencies_ns: tuple[int, ...]

    @property
    def duration_s(self) -> float:
        """The length of the window in seconds."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def requests_per_s(self) -> float:
        """Requests that ended in the window, per second."""
        return len(self.latencies_ns) / self.duration_s

    @property
    def mean_latency_ns(self) -> float:
        """The mean latency in nanoseconds. The window must not be empty."""
        return sum(self.latencies_ns) / len(self.latencies_ns)


@dataclass(frozen=True)
class Figures:
    """Throughput and latency over several windows."""

    requests: int
    requests_per_s: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float


def split_into_windows(boundaries_ns: Sequence[int], requests: Iterable[RequestTimes]) -> list[Window]:
    """Return the windows between ascending boundaries; a request that ends on one belongs to the window before it."""
    latencies: list[list[int]] = [[] for _ in boundaries_ns[1:]]
    for start_ns, end_ns in requests:
        if boundaries_ns[0] <= end_ns <= boundaries_ns[-1]:
            latencies[max(0, bisect_left(boundaries_ns, end_ns) - 1)].append(end_ns - start_ns)
    ends = pairwise(boundaries_ns)
    return [Window(start, end, tuple(inside)) for (start, end), inside in zip(ends, latencies, strict=True)]


def is_stable(windows: Sequence[Window]) -> bool:
    """Whether the last three windows agree within 10 % in throughput and in mean latency.

    The largest of the three may be at most 1.1 times the smallest, and none may be empty.
    """
    last = windows[-STABLE_WINDOWS:]
    if len(last) < STABLE_WINDOWS or not all(window.latencies_ns for window in last):
        return False
    rates = [window.requests_per_s for window in last]
    means = [window.mean_latency_ns for window in last]
    return max(rates) <= STABLE_RATIO * min(rates) and max(means) <= STABLE_RATIO * min(means)


def percentile(ascending: Sequence[int], percent: float) -> int:
    """Return the value at index floor(percent / 100 * (n - 1) + 0.5) of n ascending values, n > 0."""
    return ascending[int(percent / 100 * (len(ascending) - 1) + 0.5)]


def merge_windows(windows: Sequence[Window]) -> Figures | None:
    """Return the figures over all requests of several windows; None if they are empty."""
    latencies = sorted(latency for window in windows for latency in window.latencies_ns)
    if not latencies:
        return None
    return Figures(
        requests=len(latencies),
        requests_per_s=len(latencies) / sum(window.duration_s for window in windows),
        mean_ms=sum(latencies) / len(latencies) / 1e6,
        p50_ms=percentile(latencies, 50) / 1e6,
        p90_ms=percentile(latencies, 90) / 1e6,
        p95_ms=percentile(latencies, 95) / 1e6,
        p99_ms=percentile(latencies, 99) / 1e6,
    )
