from __future__ import annotations

import math
import threading
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.load.arrivals import ClosedLoop, ConstantArrivals, PoissonArrivals, TraceArrivals
from benchmarks.load.generator import ThreadGenerator
from benchmarks.load.level import RunningLevel, Timing, measure_in_turns, measure_level
from tests.errors import raises
from tritonkit.errors import InferenceError

QUICK = Timing(window_s=0.1, max_windows=3, warm_up_s=0.02)


class Server:
    """Answers after a while; stalls now and then, when nobody gets an answer."""

    def __init__(self, latency_s: float = 0.001, stall_s: float = 0.0, every_s: float = 1.0) -> None:
        self.latency_s, self.stall_s, self.every_s = latency_s, stall_s, every_s
        self.start, self.batches = time.monotonic(), list[int]()
        self.lock, self.waiting, self.most_waiting = threading.Lock(), 0, 0

    def infer(self, batch: int) -> dict[str, NDArray[Any]]:
        with self.lock:
            self.batches.append(batch)
            self.waiting += 1
            self.most_waiting = max(self.most_waiting, self.waiting)
        time.sleep(self.latency_s)
        in_period = (time.monotonic() - self.start) % self.every_s
        time.sleep(max(0.0, self.stall_s - in_period))
        with self.lock:
            self.waiting -= 1
        return {}


class Refusing:
    def infer(self, batch: int) -> dict[str, NDArray[Any]]:
        raise InferenceError("the queue is full", code="inference.busy")


class Broken:
    def infer(self, batch: int) -> dict[str, NDArray[Any]]:
        raise ZeroDivisionError


def test_a_stall_is_charged_to_the_requests_that_were_due() -> None:
    """The fault of tools that wait for an answer before they send: they miss the requests that a stall delays."""
    stalling = {"stall_s": 0.2, "every_s": 0.6}
    timing = Timing(window_s=0.6, max_windows=3, warm_up_s=0.02)
    open_loop = measure_level(ThreadGenerator(Server(**stalling), [0]), ConstantArrivals(100), timing)
    capped = measure_level(ThreadGenerator(Server(**stalling), [0]), ClosedLoop(1), timing)
    assert open_loop.latency.p99_ms > 150
    assert capped.latency.p99_ms < 100


def test_latency_counts_from_the_intended_send_when_all_senders_wait() -> None:
    """Forty requests a second reach a server that answers twenty."""
    level = measure_level(ThreadGenerator(Server(0.05), [0], max_in_flight=1), ConstantArrivals(40), QUICK)
    assert level.from_send is not None
    assert level.from_send.p50_ms < 100 < level.latency.p99_ms
    assert level.slip is not None
    assert level.slip.p99_ms > 50
    assert "had to wait for a sender" in str(level.refused)


def test_more_senders_start_when_responses_are_slow() -> None:
    server = Server(latency_s=0.2)
    level = measure_level(ThreadGenerator(server, [0]), ConstantArrivals(200), QUICK)
    assert "wait for a sender" not in str(level.refused)
    assert server.most_waiting > 20


def test_batches_are_sent_in_turn() -> None:
    server = Server()
    measure_level(ThreadGenerator(server, [0, 1, 2]), PoissonArrivals(300), QUICK)
    assert sorted(set(server.batches)) == [0, 1, 2]
    assert max(np.bincount(server.batches)) - min(np.bincount(server.batches)) <= 1


def test_a_trace_is_sent_once_and_measured_as_a_whole() -> None:
    trace = TraceArrivals((0.0, 0.0, 0.1, 0.2, 1.25))
    server, windows = Server(latency_s=0.05), list[int]()
    level = measure_level(ThreadGenerator(server, [0]), trace, QUICK, on_window=windows.append)
    assert (len(server.batches), level.requests, level.stable, level.errors) == (5, 5, True, 0)
    assert windows == list(range(1, level.windows + 1))
    assert level.requests_per_s == pytest.approx(5 / 1.3, rel=0.2)
    assert "a pause of 1.1 s, 0.2 s after its start" in str(level.remark)
    assert [sample.requests for sample in level.samples] == [4, 0, 1]


@pytest.mark.parametrize("load", [ClosedLoop(2), PoissonArrivals(100)])
def test_the_error_is_raised_when_all_requests_fail(load: Any) -> None:
    with raises(InferenceError, "inference.busy"):
        measure_level(ThreadGenerator(Refusing(), [0]), load, QUICK)


@pytest.mark.parametrize("load", [ClosedLoop(2), PoissonArrivals(100)])
def test_a_fault_of_a_sender_is_raised(load: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        measure_level(ThreadGenerator(Broken(), [0]), load, QUICK)
    assert not [thread for thread in threading.enumerate() if thread.name == "load"]


@pytest.mark.parametrize("load", [ClosedLoop(2), PoissonArrivals(100), TraceArrivals(tuple(np.arange(0, 9, 0.01)))])
@pytest.mark.parametrize("reason", [KeyboardInterrupt(), InferenceError("the server is gone", code="server.gone")])
def test_what_was_measured_is_kept_when_a_level_is_interrupted(load: Any, reason: BaseException) -> None:
    calls = []

    def counters() -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 3:
            raise reason
        return {}

    level = RunningLevel(ThreadGenerator(Server(), [0]), load, QUICK, counters).measure()
    assert level.interrupted is reason
    assert (level.windows, level.stable) == (2, False)
    assert level.requests > 0


class Turns:
    """Notes the order in which several were asked."""

    def __init__(self, name: str, order: list[str]) -> None:
        self.name, self.order, self.lock = name, order, threading.Lock()

    def infer(self, batch: int) -> dict[str, NDArray[Any]]:
        with self.lock:
            if self.order[-1:] != [self.name]:
                self.order.append(self.name)
        time.sleep(0.01)
        return {}


def test_levels_of_two_models_are_measured_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.load.level.TURN_S", 0.2)
    order: list[str] = []
    timing, windows = Timing(window_s=0.4, max_windows=3, warm_up_s=0.05), {"a": list[int](), "b": list[int]()}
    levels = measure_in_turns(
        [
            RunningLevel(ThreadGenerator(Turns(name, order), [0]), ClosedLoop(2), timing, on_window=seen.append)
            for name, seen in windows.items()
        ]
    )
    assert "".join(order) == "ababababa"  # the warm-up, and ab ba ab ba ab ba
    assert windows == {"a": [1, 2, 3], "b": [1, 2, 3]}
    for level in levels:
        assert (len(level.counted_ns), len(level.samples), level.windows) == (6, 6, 3)
        assert 1.2 <= level.counted_s < 2
        assert level.requests == sum(sample.requests for sample in level.samples)
        assert level.requests_per_s == pytest.approx(level.requests / level.counted_s)
    starts = sorted((start, end) for level in levels for start, end in level.counted_ns)
    assert all(end <= next_start for (_, end), (next_start, _) in pairwise(starts))


def test_all_levels_are_kept_when_one_is_interrupted_in_its_turn() -> None:
    calls = []

    def counters() -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return {}

    levels = measure_in_turns(
        [RunningLevel(ThreadGenerator(Server(), [0]), ClosedLoop(1), QUICK, counters) for _ in range(2)]
    )
    assert all(isinstance(level.interrupted, KeyboardInterrupt) for level in levels)
    assert all(level.requests > 0 and not level.stable for level in levels)


def test_an_interrupt_before_the_first_answer_is_raised() -> None:
    def counters() -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RunningLevel(ThreadGenerator(Server(latency_s=0.3), [0]), ClosedLoop(1), QUICK, counters).measure()


def test_an_interrupt_before_the_first_turn_is_raised() -> None:
    level = RunningLevel(ThreadGenerator(Server(), [0]), PoissonArrivals(100), QUICK)
    with pytest.raises(KeyboardInterrupt):
        level.result(KeyboardInterrupt())


@pytest.mark.parametrize("load", [ClosedLoop(1), PoissonArrivals(100)])
def test_a_second_interrupt_while_the_last_answers_are_awaited_keeps_the_level(load: Any) -> None:
    class Impatient(ThreadGenerator[int]):
        def stop(self, wait_s: float = math.inf) -> Any:
            super().stop(wait_s)
            raise KeyboardInterrupt

    level = RunningLevel(Impatient(Server(), [0]), load, QUICK).measure()
    assert isinstance(level.interrupted, KeyboardInterrupt)
    assert level.requests > 0


def test_requests_in_flight_are_not_waited_for_without_end() -> None:
    generator = ThreadGenerator(Server(latency_s=1.0), [0])
    generator.start(ClosedLoop(2), 0)
    start = time.monotonic()
    assert len(generator.stop(wait_s=0.05).requests) == 0
    assert time.monotonic() - start < 0.9
