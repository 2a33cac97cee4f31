"""Measures one level: a load for some windows, and the figures of its requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import psutil

from benchmarks.load.arrivals import ClosedLoop, Load, TraceArrivals
from benchmarks.load.generator import LoadGenerator, SenderReport
from benchmarks.load.histogram import encode_histogram
from benchmarks.load.schedule import due_between, refusal, remark, sent_between, slip_of
from benchmarks.load.windows import (
    STABLE_WINDOWS,
    Times,
    Window,
    is_stable,
    latencies_ns,
    samples_of,
    split_into_windows,
    summarize,
    times_of,
)
from benchmarks.records.record import Latencies, LevelSlice, Slip
from tritonkit.errors import InputError, TritonkitError

if TYPE_CHECKING:
    from tritonkit.triton.client import Statistics

START_DELAY_NS = 20_000_000
"""Time to start the senders before the first request of an open loop."""
POLL_S = 0.01
"""Time between two looks whether a late trace was sent."""
INTERRUPTED_WAIT_S = 5.0
"""Longest wait for requests in flight after Ctrl-C or an error: the server may hang."""
BUSY_CORES = 0.85
"""A client process that uses more of a core may limit the throughput."""


@dataclass(frozen=True)
class Timing:
    """Duration of a level: windows of `window_s` until three agree, at most `max_windows`. A trace has its own."""

    window_s: float = 5.0
    max_windows: int = 10
    warm_up_s: float = 1.0
    """Time under load before the first window."""


@dataclass(frozen=True)
class LevelMeasurement:
    """The result of one level: figures of the last three windows; errors of the whole level with its warm-up.

    A trace is measured as a whole.
    """

    load: Load
    requests: int
    requests_per_s: float
    """Requests that ended in the windows."""
    latency: Latencies
    """From the intended send."""
    from_send: Latencies | None
    """From the actual send; None for a closed loop."""
    slip: Slip | None
    refused: str | None
    """Why p99 is no valid figure."""
    remark: str | None
    histogram: str
    """An encoded HdrHistogram of the latencies, in microseconds."""
    samples: tuple[LevelSlice, ...]
    """Slices of all windows."""
    stable: bool
    windows: int
    errors: int
    first_error: str | None
    counted: Mapping[str, Statistics]
    """What the server counted meanwhile, by model; empty if the level was interrupted."""
    client_cores: float
    """CPU time of the load generator per second: 0.5 is half a core."""
    processes: int
    idle_cores: float
    """Cores of this machine that nothing used."""
    interrupted: BaseException | None
    start_ns: int
    """Of the first counted window, on the clock `time.perf_counter_ns`."""
    end_ns: int
    sent_per_s: float | None
    """Requests of an open loop that were sent in the windows, a second."""

    @property
    def rate(self) -> float | None:
        """Requests a second that an open loop intended to send; None for a closed loop."""
        return None if isinstance(self.load, ClosedLoop) else self.load.rate

    @property
    def is_client_limit(self) -> bool:
        """Whether the client may have limited the throughput."""
        return self.client_cores >= BUSY_CORES * self.processes


class _Boundary(NamedTuple):
    """Clocks and server statistics between two windows."""

    time_ns: int
    cpu_ns: int
    idle_s: float
    """Idle time of all cores since the machine started."""
    counters: Mapping[str, Statistics]


def measure_level(
    generator: LoadGenerator,
    load: Load,
    timing: Timing,
    counters: Callable[[], Mapping[str, Statistics]] = dict,
    on_window: Callable[[int], None] = lambda windows: None,
) -> LevelMeasurement:
    """Send a load until three windows agree, or all of a trace.

    counters: reads the server statistics by model. on_window: called with the number of finished windows.
    Raises the error of the requests if all fail, InputError if no request ends within the windows, errors of
    `counters`.
    """
    level = measure_until_interrupted(generator, load, timing, counters, on_window)
    if level.interrupted:
        raise level.interrupted
    return level


def measure_until_interrupted(
    generator: LoadGenerator,
    load: Load,
    timing: Timing,
    counters: Callable[[], Mapping[str, Statistics]] = dict,
    on_window: Callable[[int], None] = lambda windows: None,
) -> LevelMeasurement:
    """Measure as `measure_level`; after Ctrl-C or an error of `counters`, return what was measured, and the reason."""
    start_ns = time.perf_counter_ns() + START_DELAY_NS
    level = _RunningLevel(generator, load, timing.window_s, counters, on_window)
    interrupted: BaseException | None = None
    generator.start(load, start_ns)
    try:
        if isinstance(load, TraceArrivals):
            level.follow_trace(start_ns, load.duration_s)
        else:
            level.run_windows(timing.warm_up_s, timing.max_windows)
    except (KeyboardInterrupt, TritonkitError) as reason:
        interrupted = reason
        level.interrupt(start_ns)
    finally:
        last = level.collect(partial(generator.stop, INTERRUPTED_WAIT_S) if interrupted else generator.stop)
    return _result(level, load, last, interrupted)


class _RunningLevel:
    """The boundaries of the windows, and the requests so far."""

    def __init__(
        self,
        generator: LoadGenerator,
        load: Load,
        window_s: float,
        counters: Callable[[], Mapping[str, Statistics]],
        on_window: Callable[[int], None],
    ) -> None:
        self.generator, self.boundaries = generator, list[_Boundary]()
        self._window_ns, self._counters, self._on_window = int(window_s * 1e9), counters, on_window
        self._is_open = not isinstance(load, ClosedLoop)
        self._chunks = [times_of([])]

    def run_windows(self, warm_up_s: float, max_windows: int) -> None:
        """Wait for the warm-up, and for windows until three agree."""
        time.sleep(warm_up_s)
        self._end_window()
        while len(self.boundaries) <= max_windows and not self.is_stable:
            _sleep_until(self.boundaries[0].time_ns + len(self.boundaries) * self._window_ns)
            last = self._end_window()
            if last.first_error and not len(self.requests()):
                raise last.first_error

    def follow_trace(self, start_ns: int, duration_s: float) -> None:
        """Wait until all requests of a trace were sent and answered."""
        _sleep_until(start_ns)
        self._end_window()
        self.boundaries = [self.boundaries[0]._replace(time_ns=start_ns)]
        end_ns = start_ns + int(duration_s * 1e9)
        while (next_ns := self.boundaries[-1].time_ns + self._window_ns) < end_ns:
            _sleep_until(next_ns)
            self._end_window()
        _sleep_until(end_ns)
        while not self.collect(self.generator.collect).is_finished:
            time.sleep(POLL_S)
        self.collect(self.generator.stop)
        self._end_window()

    def interrupt(self, start_ns: int) -> None:
        """End the last window early, without statistics of the server."""
        now = _Boundary(time.perf_counter_ns(), self.collect(self.generator.collect).cpu_ns, _idle_s(), {})
        self.boundaries = [*(self.boundaries or [now._replace(time_ns=start_ns)]), now]

    def collect(self, method: Callable[[], SenderReport]) -> SenderReport:
        """Keep the new requests of the generator."""
        collected = method()
        self._chunks.append(collected.requests)
        return collected

    def requests(self) -> Times:
        """Return all answered requests."""
        self._chunks = [np.concatenate(self._chunks)]
        return self._chunks[0]

    def windows(self, last: int) -> list[Window]:
        """Return the last windows."""
        return split_into_windows([boundary.time_ns for boundary in self.boundaries[-last - 1 :]], self.requests())

    @property
    def is_stable(self) -> bool:
        """Whether the last three windows agree."""
        if len(self.boundaries) <= STABLE_WINDOWS:
            return False
        return is_stable(self.windows(STABLE_WINDOWS), compare_throughput=not self._is_open)

    def _end_window(self) -> SenderReport:
        now_ns = time.perf_counter_ns()
        collected = self.collect(self.generator.collect)
        self.boundaries.append(_Boundary(now_ns, collected.cpu_ns, _idle_s(), self._counters()))
        if len(self.boundaries) > 1:
            self._on_window(len(self.boundaries) - 1)
        return collected


def _result(
    level: _RunningLevel, load: Load, last: SenderReport, interrupted: BaseException | None
) -> LevelMeasurement:
    """Return the figures of the last windows, of a trace those of all.

    Without a request, raises the reason of the interruption, the error of the requests, or InputError.
    """
    is_trace, is_open = isinstance(load, TraceArrivals), not isinstance(load, ClosedLoop)
    count = len(level.boundaries) - 1
    windows = level.windows(count if is_trace else min(count, STABLE_WINDOWS))
    first, end = level.boundaries[-len(windows) - 1], level.boundaries[-1]
    seconds = (end.time_ns - first.time_ns) / 1e9
    ended = np.concatenate([window.requests for window in windows])
    requests = due_between(first.time_ns, end.time_ns, level.requests()) if is_open else ended
    if not len(requests):
        raise (
            interrupted
            or last.first_error
            or InputError(
                f"{load}: no request ended within {len(windows)} windows of {windows[0].duration_s:.3g} s; use longer "
                "windows with --window-s",
                code="benchmark.no_request_ended",
            )
        )
    latency = summarize(latencies_ns(requests))
    slip = slip_of(requests) if is_open else None
    return LevelMeasurement(
        load=load,
        requests=len(requests),
        requests_per_s=len(ended) / seconds,
        latency=latency,
        from_send=summarize(requests[:, 2] - requests[:, 1]) if is_open else None,
        slip=slip,
        refused=refusal(latency, slip, last, len(level.requests())) if slip else None,
        remark=remark(load, requests, ended),
        histogram=encode_histogram(latencies_ns(requests)),
        samples=samples_of(level.boundaries[0].time_ns, end.time_ns, level.requests()),
        stable=not interrupted and (is_trace or level.is_stable),
        windows=count,
        errors=last.failed,
        first_error=str(last.first_error) if last.first_error else None,
        counted={model: now.since(first.counters[model]) for model, now in end.counters.items()},
        client_cores=(end.cpu_ns - first.cpu_ns) / 1e9 / seconds,
        processes=level.generator.processes,
        idle_cores=(end.idle_s - first.idle_s) / seconds,
        interrupted=interrupted,
        start_ns=first.time_ns,
        end_ns=end.time_ns,
        sent_per_s=sent_between(first.time_ns, end.time_ns, level.requests()) / seconds if is_open else None,
    )


def _idle_s() -> float:
    return float(psutil.cpu_times().idle)


def _sleep_until(time_ns: int) -> None:
    time.sleep(max(0, time_ns - time.perf_counter_ns()) / 1e9)
