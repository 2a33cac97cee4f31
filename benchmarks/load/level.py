"""Closed-loop load: a fixed number of senders, each waiting for its response before the next request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.load.histogram import encode_histogram
from benchmarks.load.windows import (
    STABLE_WINDOWS,
    RequestTimes,
    Window,
    is_stable,
    latencies_ns,
    samples_of,
    split_into_windows,
    summarize,
    times_of,
)
from benchmarks.records.record import Latencies, Sample
from tritonkit.errors import InputError, TritonkitError
from tritonkit.images.preprocess import ImageArray

if TYPE_CHECKING:
    from tritonkit.triton.client import Statistics

MAX_CONCURRENCY = 1024
Batch = TypeVar("Batch")
BatchIn = TypeVar("BatchIn", contravariant=True)


class SupportsInfer(Protocol[BatchIn]):
    """Anything with `infer(batch)`: a model runner, or a TensorModel."""

    def infer(self, batch: BatchIn) -> dict[str, NDArray[Any]]:
        """Run one batch and return the outputs by name. Raises TritonkitError."""
        ...


@dataclass(frozen=True)
class Timing:
    """Duration of a level: windows of `window_s` until three agree, at most `max_windows`."""

    window_s: float = 5.0
    max_windows: int = 10
    warm_up_s: float = 1.0
    """Time under load before the first window."""


@dataclass(frozen=True)
class LevelMeasurement:
    """The result of one level: figures of the last three windows; errors of the whole level with its warm-up."""

    concurrency: int
    requests: int
    requests_per_s: float
    latency: Latencies
    histogram: str
    """An encoded HdrHistogram of the latencies, in microseconds."""
    samples: tuple[Sample, ...]
    """Slices of all windows."""
    stable: bool
    windows: int
    errors: int
    first_error: str | None
    counted: Mapping[str, Statistics]
    """What the server counted meanwhile, by model."""
    client_cores: float
    """CPU time of the load generator per second: 0.5 is half a core."""


class WindowBoundary(NamedTuple):
    """Clocks and server statistics between two windows."""

    time_ns: int
    cpu_ns: int
    counters: Mapping[str, Statistics]


@dataclass
class SenderResults:
    """Finished and failed requests of all senders."""

    finished: list[RequestTimes] = field(default_factory=list)
    failed: int = 0
    first_error: TritonkitError | None = None
    """Only the first error is kept, because an error references its request."""

    def add_failure(self, error: TritonkitError) -> None:
        """Count a failed request."""
        self.failed += 1
        self.first_error = self.first_error or error


def concurrency_levels(text: str) -> tuple[int, ...]:
    """Parse `4`, `1:64` (doubling, with the end included) or `1,8,32`. Raises InputError."""
    try:
        if ":" in text:
            first, last = map(int, text.split(":"))
            levels = (*(first << step for step in range(last.bit_length()) if 0 < first << step < last), last)
        else:
            first, levels = 1, tuple(map(int, text.split(",")))
            last = max(levels)
    except ValueError:
        first, last, levels = 1, 0, ()
    if not levels or min(levels) < 1 or not 1 <= first <= last <= MAX_CONCURRENCY:
        raise InputError(
            f"--concurrency {text}: expected a number such as 4, a doubling range such as 1:64, or a list such as "
            f"1,8,32, all in 1..{MAX_CONCURRENCY}",
            code="option.concurrency",
        )
    return tuple(sorted(set(levels)))


def batches_of(images: ImageArray, size: int) -> list[ImageArray]:
    """Split images into batches uint8 [size, H, W, 3]; the last batch is filled from the first images."""
    order = np.arange(-(-len(images) // size) * size) % len(images)
    return [np.ascontiguousarray(images[chosen]) for chosen in order.reshape(-1, size)]


def measure_level(
    runner: SupportsInfer[Batch],
    batches: Sequence[Batch],
    concurrency: int,
    timing: Timing,
    counters: Callable[[], Mapping[str, Statistics]] = dict,
    on_window: Callable[[int], None] = lambda windows: None,
) -> LevelMeasurement:
    """Keep `concurrency` requests in flight until three windows agree.

    counters: reads the server statistics by model. on_window: called with the number of finished windows.
    Raises the error of the requests if all fail, InputError if no request ends within three windows.
    """
    boundaries: list[WindowBoundary] = []
    stable = False
    with _run_senders(runner, batches, concurrency) as results:
        time.sleep(timing.warm_up_s)
        boundaries.append(_read_boundary(counters))
        while not stable and len(boundaries) <= timing.max_windows:
            due_ns = boundaries[0].time_ns + int(len(boundaries) * timing.window_s * 1e9)
            time.sleep(max(0, due_ns - time.perf_counter_ns()) / 1e9)
            boundaries.append(_read_boundary(counters))
            if results.first_error and not results.finished:
                raise results.first_error
            stable = is_stable(_last_windows(boundaries, results))
            on_window(len(boundaries) - 1)
    # The senders have stopped: they may have added requests that ended before the last boundary.
    windows = _last_windows(boundaries, results)
    requests = np.concatenate([window.requests for window in windows])
    if not len(requests):
        if results.first_error:
            raise results.first_error
        raise InputError(
            f"concurrency {concurrency}: no request ended within {len(windows)} windows of "
            f"{windows[0].duration_s:.3g} s; use longer windows with --window-s",
            code="benchmark.no_request_ended",
        )
    first, last = boundaries[-len(windows) - 1], boundaries[-1]
    return LevelMeasurement(
        concurrency=concurrency,
        requests=len(requests),
        requests_per_s=len(requests) / sum(window.duration_s for window in windows),
        latency=summarize(latencies_ns(requests)),
        histogram=encode_histogram(latencies_ns(requests)),
        samples=samples_of(boundaries[0].time_ns, last.time_ns, times_of(results.finished)),
        stable=stable,
        windows=len(boundaries) - 1,
        errors=results.failed,
        first_error=str(results.first_error) if results.first_error else None,
        counted={model: now.since(first.counters[model]) for model, now in last.counters.items()},
        client_cores=(last.cpu_ns - first.cpu_ns) / (last.time_ns - first.time_ns),
    )


def _last_windows(boundaries: Sequence[WindowBoundary], results: SenderResults) -> list[Window]:
    """Return the last three windows, or all if fewer."""
    last = [boundary.time_ns for boundary in boundaries[-STABLE_WINDOWS - 1 :]]
    return split_into_windows(last, times_of(results.finished.copy()))


def _read_boundary(counters: Callable[[], Mapping[str, Statistics]]) -> WindowBoundary:
    return WindowBoundary(time.perf_counter_ns(), time.process_time_ns(), counters())


@contextmanager
def _run_senders(runner: SupportsInfer[Batch], batches: Sequence[Batch], concurrency: int) -> Iterator[SenderResults]:
    """Run sender threads during the block; its end waits for requests in flight."""
    results, stop = SenderResults(), threading.Event()
    with ThreadPoolExecutor(concurrency, thread_name_prefix="load") as pool:
        senders: list[Future[None]] = []
        try:
            for index in range(concurrency):
                senders.append(pool.submit(_send, runner, batches, index, results, stop))
            yield results
        finally:
            stop.set()
    for sender in senders:
        sender.result()


def _send(
    runner: SupportsInfer[Batch], batches: Sequence[Batch], index: int, results: SenderResults, stop: threading.Event
) -> None:
    infer, clock, add_finished = runner.infer, time.perf_counter_ns, results.finished.append
    while not stop.is_set():
        batch = batches[index % len(batches)]
        index += 1
        start_ns = clock()
        try:
            infer(batch)
        except TritonkitError as error:
            results.add_failure(error)
        else:
            add_finished(RequestTimes(start_ns, start_ns, clock()))
