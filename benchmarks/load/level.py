"""Measures levels: a load for some windows, alone or in turns with those of other models, and its figures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

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
    merge_windows,
    samples_of,
    split_into_windows,
    summarize,
    times_of,
)
from benchmarks.records.record import Latencies, LevelSlice, Slip
from tritonkit.errors import InputError, TritonkitError
from tritonkit.triton.client import Statistics

START_DELAY_NS = 20_000_000
"""Time to start the senders before the first request of an open loop."""
POLL_S = 0.01
"""Time between two looks whether a late trace was sent."""
INTERRUPTED_WAIT_S = 5.0
"""Longest wait for requests in flight after Ctrl-C or an error: the server may hang."""
BUSY_CORES = 0.85
"""A client process that uses more of a core may limit the throughput."""
TURN_S = 1.0
"""Levels of several models take turns of this length: the speed of a machine changes within seconds."""
TURN_LATENCIES = 10
"""A turn is longer where it would last for fewer latencies: a request that is in flight at its end does not count."""
TURN_WARM_UP = 0.25
"""Warm-up of a turn, as a share of its length."""


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
    in_turns: bool
    """Whether the windows were measured in turns with those of other models."""
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
    counted_ns: tuple[tuple[int, int], ...]
    """Start and end of the windows that count, or of their turns, on the clock `time.perf_counter_ns`."""
    sent_per_s: float | None
    """Requests of an open loop that were sent in the windows, a second."""

    @property
    def counted_s(self) -> float:
        """Seconds of the windows that count."""
        return sum(end - start for start, end in self.counted_ns) / 1e9

    @property
    def rate(self) -> float | None:
        """Requests a second that an open loop intended to send; None for a closed loop."""
        return None if isinstance(self.load, ClosedLoop) else self.load.rate

    @property
    def is_client_limit(self) -> bool:
        """Whether the client may have limited the throughput."""
        return self.client_cores >= BUSY_CORES * self.processes


class _Boundary(NamedTuple):
    """Clocks and server statistics at an end of a turn."""

    time_ns: int
    cpu_ns: int
    idle_s: float
    """Idle time of all cores since the machine started."""
    counters: Mapping[str, Statistics]


class _Turn(NamedTuple):
    """A window, or the part of one that is measured without a pause."""

    start: _Boundary
    end: _Boundary


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
    level = RunningLevel(generator, load, timing, counters, on_window).measure()
    if level.interrupted:
        raise level.interrupted
    return level


def measure_in_turns(levels: Sequence[RunningLevel]) -> list[LevelMeasurement]:
    """Measure closed loops in short turns until three windows of each agree, so that all see the same machine.

    All have the same number of turns. After Ctrl-C or an error of `counters`, all return what was measured, and the
    reason; if one has no request yet, this raises the reason. Raises the errors of the requests as `measure_level`.
    """
    interrupted: BaseException | None = None
    order = list(levels)
    try:
        latency_s = max(level.warm_up() for level in levels)
        turns = max(1, round(levels[0].timing.window_s / max(TURN_S, TURN_LATENCIES * latency_s)))
        for level in levels:
            level.turns_per_window = turns
        while not all(level.is_finished for level in levels):
            for _ in range(turns):
                for level in order:
                    level.take_turn()
                order.reverse()
    except (KeyboardInterrupt, TritonkitError) as reason:
        interrupted = reason
    return [level.result(interrupted) for level in levels]


class RunningLevel:
    """A level that is being measured: as a whole, or in turns with those of other models."""

    def __init__(
        self,
        generator: LoadGenerator,
        load: Load,
        timing: Timing,
        counters: Callable[[], Mapping[str, Statistics]] = dict,
        on_window: Callable[[int], None] = lambda windows: None,
    ) -> None:
        """The parameters are those of `measure_level`."""
        self.timing = timing
        self.turns_per_window: int | None = None
        """None for a level that is measured as a whole."""
        self._generator, self._load, self._counters, self._on_window = generator, load, counters, on_window
        self._boundaries: list[list[_Boundary]] = []
        """For each start of the load, the start of its first window or turn, and the end of each."""
        self._chunks = [times_of([])]
        self._errors = 0
        self._first_error: TritonkitError | None = None

    def measure(self) -> LevelMeasurement:
        """Measure as `measure_level`; after Ctrl-C or an error of `counters`, return what was measured, and why.

        Without a request, raises the reason.
        """
        interrupted: BaseException | None = None
        try:
            with self._sending() as start_ns:
                if isinstance(self._load, TraceArrivals):
                    self._follow_trace(start_ns, self._load.duration_s)
                else:
                    time.sleep(self.timing.warm_up_s)
                    first_ns = self._mark()
                    while not self.is_finished:
                        self._end_turn(first_ns + (len(self._turns) + 1) * int(self.timing.window_s * 1e9))
                        self._check_answers()
        except (KeyboardInterrupt, TritonkitError) as reason:
            interrupted = reason
        return self.result(interrupted)

    def warm_up(self) -> float:
        """Send during the warm-up; return the median latency in seconds, or the length of the warm-up without one."""
        with self._sending():
            time.sleep(self.timing.warm_up_s)
        requests = self._requests()
        return float(np.median(latencies_ns(requests))) / 1e9 if len(requests) else self.timing.warm_up_s

    def take_turn(self) -> None:
        """Send during a part of a window. Raises KeyboardInterrupt, errors of `counters`, the error if all fail."""
        with self._sending():
            time.sleep(min(self.timing.warm_up_s, self._turn_s * TURN_WARM_UP))
            self._end_turn(self._mark() + int(self._turn_s * 1e9))
            self._check_answers()

    @property
    def is_finished(self) -> bool:
        """Whether the last three windows agree, or there are as many as allowed."""
        return len(self._turns) >= self.timing.max_windows * self._window_turns or self._is_stable

    def result(self, interrupted: BaseException | None) -> LevelMeasurement:
        """Return the figures of the last windows, of a trace those of all.

        interrupted: why the level ended early. Without a request, raises this reason, the error of the requests, or
        InputError.
        """
        is_trace, is_open = isinstance(self._load, TraceArrivals), not isinstance(self._load, ClosedLoop)
        count = math.ceil(len(self._turns) / self._window_turns)
        turns = self._turns[0 if is_trace else max(0, count - STABLE_WINDOWS) * self._window_turns :]
        windows, load = self._windows(turns), self._load
        ended = np.concatenate([times_of([]), *(window.requests for window in windows)])
        requests = ended
        if is_open and turns:  # never in turns, so that there is no pause
            requests = due_between(turns[0].start.time_ns, turns[-1].end.time_ns, self._requests())
        if not len(requests):
            raise (
                interrupted
                or self._first_error
                or InputError(
                    f"{load}: no request ended within {len(windows)} windows of {windows[0].duration_s:.3g} s; use "
                    "longer windows with --window-s",
                    code="benchmark.no_request_ended",
                )
            )
        times_ns = tuple((turn.start.time_ns, turn.end.time_ns) for turn in turns)
        seconds = sum(end - start for start, end in times_ns) / 1e9
        latency = summarize(latencies_ns(requests))
        slip = slip_of(requests) if is_open else None
        return LevelMeasurement(
            load=load,
            requests=len(requests),
            requests_per_s=len(ended) / seconds,
            latency=latency,
            from_send=summarize(requests[:, 2] - requests[:, 1]) if is_open else None,
            slip=slip,
            refused=refusal(latency, slip, self._last, len(self._requests())) if slip else None,
            remark=remark(load, requests, ended),
            histogram=encode_histogram(latencies_ns(requests)),
            samples=tuple(self._samples()),
            stable=not interrupted and (is_trace or self._is_stable),
            windows=count,
            in_turns=self.turns_per_window is not None,
            errors=self._errors,
            first_error=str(self._first_error) if self._first_error else None,
            counted={} if interrupted else _statistics_of(turns),
            client_cores=sum(turn.end.cpu_ns - turn.start.cpu_ns for turn in turns) / 1e9 / seconds,
            processes=self._generator.processes,
            idle_cores=sum(turn.end.idle_s - turn.start.idle_s for turn in turns) / seconds,
            interrupted=interrupted,
            counted_ns=times_ns,
            sent_per_s=sent_between(times_ns[0][0], times_ns[-1][1], self._requests()) / seconds if is_open else None,
        )

    @contextmanager
    def _sending(self) -> Iterator[int]:
        """Send during the block, which gets the start of the load in nanoseconds; then wait for the last responses."""
        start_ns, wait_s, boundaries = time.perf_counter_ns() + START_DELAY_NS, math.inf, list[_Boundary]()
        self._boundaries.append(boundaries)
        self._generator.start(self._load, start_ns)
        try:
            yield start_ns
        except (KeyboardInterrupt, TritonkitError):
            wait_s = INTERRUPTED_WAIT_S
            if boundaries or not self._turns:
                cpu_ns = self._collect(self._generator.collect).cpu_ns
                now = _Boundary(time.perf_counter_ns(), cpu_ns, _idle_s(), {})
                boundaries += [now] if boundaries else [now._replace(time_ns=start_ns), now]
            raise
        finally:
            self._errors += self._collect(partial(self._generator.stop, wait_s)).failed

    def _follow_trace(self, start_ns: int, duration_s: float) -> None:
        """Wait until all requests of a trace were sent and answered."""
        _sleep_until(start_ns)
        self._mark()
        self._boundaries[-1][0] = self._boundaries[-1][0]._replace(time_ns=start_ns)
        end_ns, next_ns = start_ns + int(duration_s * 1e9), start_ns
        while (next_ns := next_ns + int(self.timing.window_s * 1e9)) < end_ns:
            self._end_turn(next_ns)
        _sleep_until(end_ns)
        while not self._collect(self._generator.collect).is_finished:
            time.sleep(POLL_S)
        self._collect(self._generator.stop)
        self._end_turn()

    def _mark(self) -> int:
        """Note the clocks and the server statistics; return the time in nanoseconds."""
        now_ns, collected = time.perf_counter_ns(), self._collect(self._generator.collect)
        self._boundaries[-1].append(_Boundary(now_ns, collected.cpu_ns, _idle_s(), self._counters()))
        return now_ns

    def _end_turn(self, time_ns: int = 0) -> None:
        """Wait until the end of a turn, and note it."""
        _sleep_until(time_ns)
        self._mark()
        windows, rest = divmod(len(self._turns), self._window_turns)
        if not rest:
            self._on_window(windows)

    def _check_answers(self) -> None:
        """Raise the error of the requests if all failed so far."""
        if self._first_error and not len(self._requests()):
            raise self._first_error

    def _collect(self, method: Callable[[], SenderReport]) -> SenderReport:
        """Keep the new requests of the generator."""
        self._last = method()
        self._chunks.append(self._last.requests)
        self._first_error = self._first_error or self._last.first_error
        return self._last

    def _requests(self) -> Times:
        """Return all answered requests."""
        self._chunks = [np.concatenate(self._chunks)]
        return self._chunks[0]

    @property
    def _turns(self) -> list[_Turn]:
        return [_Turn(*ends) for boundaries in self._boundaries for ends in pairwise(boundaries)]

    @property
    def _window_turns(self) -> int:
        return self.turns_per_window or 1

    @property
    def _turn_s(self) -> float:
        return self.timing.window_s / self._window_turns

    @property
    def _is_stable(self) -> bool:
        last = self._windows(self._turns[-STABLE_WINDOWS * self._window_turns :])
        return is_stable(last, compare_throughput=isinstance(self._load, ClosedLoop))

    def _windows(self, turns: Sequence[_Turn]) -> list[Window]:
        """Return the windows of consecutive turns; the last one may be shorter."""
        ends = [(turn.start.time_ns, turn.end.time_ns) for turn in turns]
        parts = [window for each in ends for window in split_into_windows(each, self._requests())]
        return [merge_windows(parts[at : at + self._window_turns]) for at in range(0, len(parts), self._window_turns)]

    def _samples(self) -> Iterator[LevelSlice]:
        """Yield slices of all windows; as many of each turn, so that those of two models are pairs."""
        for boundaries in filter(None, self._boundaries):
            start_ns, end_ns = boundaries[0].time_ns, boundaries[-1].time_ns
            seconds = (end_ns - start_ns) / 1e9 if self.turns_per_window is None else self._turn_s
            yield from samples_of(start_ns, end_ns, self._requests(), seconds)


def _statistics_of(turns: Sequence[_Turn]) -> dict[str, Statistics]:
    """Return what the server counted in turns, by model."""
    return {
        model: Statistics.total(turn.end.counters[model].since(turn.start.counters[model]) for turn in turns)
        for model in turns[-1].end.counters
    }


def _idle_s() -> float:
    return float(psutil.cpu_times().idle)


def _sleep_until(time_ns: int) -> None:
    time.sleep(max(0, time_ns - time.perf_counter_ns()) / 1e9)
