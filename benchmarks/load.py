"""Closed-loop load: so many requests in flight, each sender waiting for its answer before it sends again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.windows import STABLE_WINDOWS, Figures, Request, Window, is_stable, merged, windows_between
from model.errors import InputError, TritonkitError
from model.preprocess import ImageArray

if TYPE_CHECKING:
    from model.runners.triton import Counters

MAX_CONCURRENCY = 1024
Batch = TypeVar("Batch")
BatchIn = TypeVar("BatchIn", contravariant=True)


class Asks(Protocol[BatchIn]):
    """What answers one request: a model's runner, or what asks a model of any inputs."""

    def infer(self, batch: BatchIn) -> dict[str, NDArray[Any]]:
        """Answer one batch: the outputs by name. Raises TritonkitError."""
        ...


@dataclass(frozen=True)
class Timing:
    """How long to measure: windows of `window_s` until three agree, at most `max_windows` of them."""

    window_s: float = 5.0
    max_windows: int = 10
    warm_up_s: float = 1.0
    """Under the level's own load, before its first window."""


@dataclass(frozen=True)
class Measured:
    """One level of load, figures over its last three windows; errors over all its time, the warm-up included."""

    concurrency: int
    figures: Figures
    stable: bool
    windows: int
    errors: int
    first_error: str | None
    mean_batch: float | None
    """Images in one execution on the server, on average; None when it did not say."""
    queue_us: float | None
    """How long a request waited in the server's queue, on average."""
    client_cores: float
    """Processor time the load generator itself took: 0.5 is half a core."""


class Boundary(NamedTuple):
    """What is read between two windows."""

    time_ns: int
    cpu_ns: int
    counters: Counters | None


@dataclass
class Loop:
    """Requests as the senders finish them."""

    ended: list[Request] = field(default_factory=list)
    failed: int = 0
    first_error: TritonkitError | None = None
    """Only the first is kept: an error holds on to the request it came from."""

    def fail(self, error: TritonkitError) -> None:
        """Count a failed request."""
        self.failed += 1
        self.first_error = self.first_error or error


def concurrency_levels(text: str) -> tuple[int, ...]:
    """Read `4`, `1:64` (doubling, the end always included) or `1,8,32`. Raises InputError."""
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
            f"--concurrency {text}: expected a number like 4, a doubling range like 1:64, or a list like 1,8,32, "
            f"all within 1..{MAX_CONCURRENCY}"
        )
    return tuple(sorted(set(levels)))


def batches_of(images: ImageArray, size: int) -> list[ImageArray]:
    """Ready-made batches uint8 [size, H, W, 3] that go once through all images, from the start again if short."""
    count = -(-len(images) // size)
    order = np.arange(count * size) % len(images)
    return [np.ascontiguousarray(images[chosen]) for chosen in order.reshape(count, size)]


def measure_level(
    runner: Asks[Batch],
    batches: Sequence[Batch],
    concurrency: int,
    timing: Timing,
    counters: Callable[[], Counters] | None = None,
    on_window: Callable[[int], None] = lambda done: None,
) -> Measured:
    """Hold `concurrency` requests in flight until three windows agree.

    counters reads the server's own count; on_window is told how many windows are done.
    Raises the requests' own error when all fail, InputError when none ends within three windows.
    """
    boundaries: list[Boundary] = []
    stable = False
    with _senders(runner, batches, concurrency) as loop:
        time.sleep(timing.warm_up_s)
        boundaries.append(_boundary(counters))
        while not stable and len(boundaries) <= timing.max_windows:
            due_ns = boundaries[0].time_ns + int(len(boundaries) * timing.window_s * 1e9)
            time.sleep(max(0, due_ns - time.perf_counter_ns()) / 1e9)
            boundaries.append(_boundary(counters))
            if loop.first_error and not loop.ended:
                raise loop.first_error
            stable = is_stable(_windows(boundaries, loop))
            on_window(len(boundaries) - 1)
    # Again, now that senders have noted what ended just before the last boundary.
    return _summary(concurrency, boundaries, loop, stable)


def _windows(boundaries: Sequence[Boundary], loop: Loop) -> list[Window]:
    """The last three windows, or as many as there are."""
    last = [boundary.time_ns for boundary in boundaries[-STABLE_WINDOWS - 1 :]]
    return windows_between(last, loop.ended.copy())


def _boundary(counters: Callable[[], Counters] | None) -> Boundary:
    return Boundary(time.perf_counter_ns(), time.process_time_ns(), counters() if counters else None)


def _summary(concurrency: int, boundaries: Sequence[Boundary], loop: Loop, stable: bool) -> Measured:
    windows = _windows(boundaries, loop)
    figures = merged(windows)
    if figures is None:
        if loop.first_error:
            raise loop.first_error
        raise InputError(
            f"concurrency {concurrency}: no request ended within {len(windows)} windows of "
            f"{windows[0].duration_s:.3g} s; ask for longer ones with --window-s"
        )
    first, last = boundaries[-len(windows) - 1], boundaries[-1]
    mean_batch, queue_us = _server_side(first.counters, last.counters)
    return Measured(
        concurrency=concurrency,
        figures=figures,
        stable=stable,
        windows=len(boundaries) - 1,
        errors=loop.failed,
        first_error=str(loop.first_error) if loop.first_error else None,
        mean_batch=mean_batch,
        queue_us=queue_us,
        client_cores=(last.cpu_ns - first.cpu_ns) / (last.time_ns - first.time_ns),
    )


def _server_side(first: Counters | None, last: Counters | None) -> tuple[float | None, float | None]:
    """Mean executed batch in images and mean queue time in microseconds, from what was counted in between."""
    if first is None or last is None:
        return None, None
    executions, requests = last.executions - first.executions, last.requests - first.requests
    mean_batch = (last.images - first.images) / executions if executions > 0 else None
    queue_us = (last.queue_ns - first.queue_ns) / requests / 1e3 if requests > 0 else None
    return mean_batch, queue_us


@contextmanager
def _senders(runner: Asks[Batch], batches: Sequence[Batch], concurrency: int) -> Iterator[Loop]:
    """Threads that send for as long as the block lasts; leaving it waits for the requests in flight."""
    loop, stop = Loop(), threading.Event()
    with ThreadPoolExecutor(concurrency, thread_name_prefix="load") as pool:
        senders: list[Future[None]] = []
        try:
            for index in range(concurrency):
                senders.append(pool.submit(_send, runner, batches, index, loop, stop))
            yield loop
        finally:
            stop.set()
    for sender in senders:
        sender.result()


def _send(runner: Asks[Batch], batches: Sequence[Batch], index: int, loop: Loop, stop: threading.Event) -> None:
    infer, clock, ended = runner.infer, time.perf_counter_ns, loop.ended.append
    while not stop.is_set():
        batch = batches[index % len(batches)]
        index += 1
        start_ns = clock()
        try:
            infer(batch)
        except TritonkitError as error:
            loop.fail(error)
        else:
            ended(Request(start_ns, clock()))
