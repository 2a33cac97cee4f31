from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import batches_of
from benchmarks.load.arrivals import ClosedLoop
from benchmarks.load.generator import ThreadGenerator
from benchmarks.load.histogram import decode_histogram
from benchmarks.load.level import Timing, measure_level
from tests.errors import raises
from tritonkit.errors import InferenceError, InputError
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.spec import ModelSpec, Outputs
from tritonkit.triton.client import Statistics

QUICK = Timing(window_s=0.1, max_windows=3, warm_up_s=0.05)


class Sleeper(Runner):
    """Answers after a while, or fails; notes how many wait at once."""

    def __init__(self, spec: ModelSpec, latency_s: float, fails_every: int = 0) -> None:
        self.spec, self.origin, self.latency_s, self.fails_every = spec, "sleeper", latency_s, fails_every
        self.calls, self.waiting, self.max_waiting = itertools.count(1), 0, 0
        self.lock = threading.Lock()

    def _infer(self, batch: NDArray[Any]) -> Outputs:
        with self.lock:
            self.waiting += 1
            self.max_waiting = max(self.max_waiting, self.waiting)
        time.sleep(self.latency_s)
        with self.lock:
            self.waiting -= 1
        if self.fails_every and next(self.calls) % self.fails_every == 0:
            raise InferenceError("the server is tired", code="inference.tired")
        return {}


def senders(runner: Runner, images: NDArray[np.uint8], batch: int = 1) -> ThreadGenerator[Any]:
    return ThreadGenerator(runner, batches_of(images, batch))


def test_as_many_requests_are_in_flight_as_asked(spec: ModelSpec, images: NDArray[np.uint8]) -> None:
    sleeper = Sleeper(spec, latency_s=0.02)
    measured = measure_level(senders(sleeper, images), ClosedLoop(3), timing=QUICK)
    assert sleeper.max_waiting == 3
    assert sleeper.waiting == 0
    assert measured.latency.p50_ms >= 20
    assert measured.requests == sum(decode_histogram(measured.histogram).values()) > 0
    assert sum(sample.requests for sample in measured.samples) == measured.requests
    assert (measured.errors, measured.counted) == (0, {})


def test_a_real_model_is_measured_in_process(onnx_file: Path, images: NDArray[np.uint8]) -> None:
    windows: list[int] = []
    with OnnxRuntimeRunner(onnx_file, threads=1) as runner:
        measured = measure_level(senders(runner, images, 2), ClosedLoop(2), QUICK, on_window=windows.append)
    latency = measured.latency
    assert windows == [1, 2, 3]
    assert 0 < latency.p50_ms <= latency.p90_ms <= latency.p95_ms <= latency.p99_ms
    assert measured.windows == 3
    assert measured.client_cores > 0


def test_measuring_stops_when_three_windows_agree(spec: ModelSpec, images: NDArray[np.uint8]) -> None:
    timing = Timing(window_s=0.4, max_windows=12, warm_up_s=0.05)
    measured = measure_level(senders(Sleeper(spec, latency_s=0.02), images), ClosedLoop(1), timing=timing)
    assert measured.stable
    assert 3 <= measured.windows < 12


def test_server_side_figures_come_from_what_was_counted_in_between(spec: ModelSpec, images: NDArray[np.uint8]) -> None:
    steps = itertools.count()

    def counters() -> dict[str, Statistics]:
        step = next(steps)
        return {"cats": Statistics(images=7 + 60 * step, batches={1: 3, 8: 2 * step})}

    measured = measure_level(senders(Sleeper(spec, latency_s=0.01), images, 2), ClosedLoop(2), QUICK, counters)
    assert measured.counted == {"cats": Statistics(images=180, batches={8: 6})}


def test_errors_are_counted_when_some_requests_fail(spec: ModelSpec, images: NDArray[np.uint8]) -> None:
    sleeper = Sleeper(spec, latency_s=0.005, fails_every=5)
    measured = measure_level(senders(sleeper, images), ClosedLoop(2), timing=QUICK)
    assert measured.errors > 0
    assert measured.first_error == "the server is tired"
    assert measured.requests > 0


def test_the_error_itself_is_raised_when_all_requests_fail(spec: ModelSpec, images: NDArray[np.uint8]) -> None:
    with raises(InferenceError, "inference.tired"):
        measure_level(senders(Sleeper(spec, latency_s=0.005, fails_every=1), images), ClosedLoop(2), QUICK)


def test_longer_windows_are_asked_for_when_nothing_ends_in_one(spec: ModelSpec, images: NDArray[np.uint8]) -> None:
    with raises(InputError, "benchmark.no_request_ended"):
        measure_level(senders(Sleeper(spec, latency_s=1.2), images), ClosedLoop(1), QUICK)
