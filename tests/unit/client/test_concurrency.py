"""The number of requests in flight, against servers of a known capacity in simulated time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from client.concurrency import MAX_CONCURRENCY, AdaptiveConcurrency
from tritonkit.errors import BusyError, DeadlineError, UnreachableError

IMAGES = 16


@dataclass
class SimulatedServer:
    """Answers so many requests at once, each in some seconds; the others wait in its queue, up to `queue` of them."""

    capacity: int
    service_s: Callable[[float], float] = lambda now: 1.0
    queue: int = 1000
    decode_s: float = 0.0
    """The client has a request ready so often."""
    now: float = 0.0
    limits: list[int] = field(default_factory=list)
    """The pace's, after each answer."""
    refusals: int = 0

    def clock(self) -> float:
        return self.now

    def run(self, pace: AdaptiveConcurrency, requests: int) -> None:
        free, under_way, sent, ready = [0.0] * self.capacity, list[float](), 0, 0.0
        while len(self.limits) < requests:
            while len(under_way) < pace.limit and ready <= self.now:
                end = max(self.now, heapq.heappop(free)) + self.service_s(self.now)
                heapq.heappush(free, end)
                heapq.heappush(under_way, end)
                sent += 1
                ready = self.decode_s * sent
                if len(under_way) > self.capacity + self.queue:
                    self.refusals += 1
                    pace.record_failure(BusyError("the queue is full"))
            if len(under_way) < pace.limit and (not under_way or ready < under_way[0]):
                self.now = ready
                continue
            self.now = heapq.heappop(under_way)
            pace.record_answer(IMAGES, is_limited=ready <= self.now and len(under_way) + 1 >= pace.limit)
            self.limits.append(pace.limit)


@pytest.mark.parametrize("capacity", [1, 2, 4, 8, 12, 24])
def test_pace_reaches_the_capacity_and_stays_near_it_when_a_server_answers_some_at_once(capacity: int) -> None:
    server = SimulatedServer(capacity)
    server.run(AdaptiveConcurrency(clock=server.clock), 2000)
    later = server.limits[1000:]
    assert min(later) >= min(capacity, 4)
    assert max(later) <= max(6, 2 * capacity)
    assert server.now < 1.1 * 2000 / capacity + 10


def test_pace_stops_at_the_most_when_the_server_could_take_more() -> None:
    server = SimulatedServer(capacity=200)
    server.run(AdaptiveConcurrency(clock=server.clock), 3000)
    assert max(server.limits) == server.limits[-1] == MAX_CONCURRENCY


def test_pace_is_halved_once_when_a_full_queue_refuses_all_that_is_under_way() -> None:
    pace = AdaptiveConcurrency(initial_limit=8, clock=lambda: 0.0)
    for _ in range(8):
        pace.record_failure(BusyError("the queue is full"))
    assert pace.limit == 4
    for _ in range(8):
        pace.record_answer(IMAGES, is_limited=True)
    pace.record_failure(DeadlineError("too late"))
    assert pace.limit == 2


def test_pace_is_never_less_than_one() -> None:
    pace = AdaptiveConcurrency(initial_limit=1, clock=lambda: 0.0)
    pace.record_failure(BusyError("the queue is full"))
    assert pace.limit == 1


def test_pace_stays_when_a_failure_says_nothing_of_the_load() -> None:
    pace = AdaptiveConcurrency(initial_limit=8, clock=lambda: 0.0)
    pace.record_failure(UnreachableError("nobody answers"))
    assert pace.limit == 8


def test_refusals_stay_rare_when_the_queue_is_short() -> None:
    server = SimulatedServer(capacity=8, queue=0)
    server.run(AdaptiveConcurrency(clock=server.clock), 2000)
    assert 0 < server.refusals < 2000 / 25
    assert server.now < 1.7 * 2000 / 8


def test_pace_stays_when_pictures_come_slower_than_they_are_answered() -> None:
    server = SimulatedServer(capacity=16, service_s=lambda now: 0.1, decode_s=0.05)
    server.run(AdaptiveConcurrency(clock=server.clock), 500)
    assert set(server.limits) == {4}


def test_pace_goes_down_when_others_take_the_server() -> None:
    server = SimulatedServer(capacity=16, service_s=lambda now: 1.0 if now < 60 else 3.0)
    server.run(AdaptiveConcurrency(clock=server.clock), 1500)
    alone = server.limits[600]
    assert alone >= 16
    assert min(server.limits[900:]) < alone


def test_pace_stays_when_it_is_fixed() -> None:
    pace = AdaptiveConcurrency(3, clock=lambda: 0.0)
    pace.record_failure(BusyError("the queue is full"))
    for _ in range(100):
        pace.record_answer(IMAGES, is_limited=True)
    assert pace.limit == 3
