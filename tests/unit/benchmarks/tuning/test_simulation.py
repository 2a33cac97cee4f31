"""The simulated batcher, against cases computed by hand and a batcher that handles one request after the other."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest

from benchmarks.tuning.simulation import Configurations, Predictions, simulate_closed, simulate_open

START_MS, IMAGE_MS, OVERHEAD_MS = 5.0, 5.0, 1.0


def configurations(
    max_requests: int = 8,
    delay_ms: float = 0,
    instances: int = 1,
    preferred: tuple[int, ...] = (),
    image_ms: float = IMAGE_MS,
    alone: float = 1.0,
) -> Configurations:
    """A batch of n requests takes START_MS + n * image_ms."""
    times = (START_MS + image_ms * np.arange(max_requests + 1)) / 1e3
    return Configurations(
        max_requests=np.array([max_requests]),
        delay_s=np.array([delay_ms / 1e3]),
        instances=np.array([instances]),
        batch_s=times[None],
        busy_shares=np.linspace(alone, 1, instances)[None],
        overhead_s=np.array([OVERHEAD_MS / 1e3]),
        spacing_s=np.zeros(1),
        preferred=(preferred,),
    )


def rate_and_p99_ms(predictions: Predictions) -> tuple[float, float]:
    return float(predictions.requests_per_s[0]), float(predictions.p99_s[0]) * 1e3


def test_one_client_waits_for_each_response() -> None:
    rate, p99_ms = rate_and_p99_ms(simulate_closed(configurations(), 1))
    assert rate == pytest.approx(1000 / (10 + 1))
    assert p99_ms == pytest.approx(11)


def test_requests_that_wait_for_the_instance_become_a_batch() -> None:
    """The first request goes alone (10 ms), the 7 others together (40 ms), and so on in turns."""
    predictions = simulate_closed(configurations(), 8)
    assert rate_and_p99_ms(predictions) == pytest.approx((8000 / (10 + 40), 50), rel=1e-3)
    assert predictions.mean_batch[0] == pytest.approx(4, rel=0.02)


def test_a_batch_is_never_larger_than_the_largest() -> None:
    predictions = simulate_closed(configurations(max_requests=2), 8)
    assert predictions.mean_batch[0] == 2
    assert rate_and_p99_ms(predictions)[0] == pytest.approx(2000 / 15)


def test_a_delay_gathers_all_requests_and_ends_when_the_batch_is_full() -> None:
    predictions = simulate_closed(configurations(delay_ms=20), 8)
    assert rate_and_p99_ms(predictions) == pytest.approx((8000 / (45 + 1), 46), rel=1e-3)


def test_a_batch_that_does_not_fill_waits_for_the_whole_delay() -> None:
    predictions = simulate_closed(configurations(delay_ms=20), 4)
    assert rate_and_p99_ms(predictions) == pytest.approx((4000 / (20 + 25 + 1), 46), rel=1e-3)


def test_a_preferred_size_starts_a_batch_before_the_delay_ends() -> None:
    predictions = simulate_closed(configurations(delay_ms=20, preferred=(4,)), 4)
    assert rate_and_p99_ms(predictions) == pytest.approx((4000 / (25 + 1), 26), rel=1e-3)


def test_two_instances_run_at_the_same_time_and_slow_each_other_down() -> None:
    parallel = simulate_closed(configurations(max_requests=1, instances=2), 2)
    assert rate_and_p99_ms(parallel)[0] == pytest.approx(2000 / 11, rel=0.01)
    lone = simulate_closed(configurations(max_requests=1, instances=2, alone=0.5), 1)
    assert rate_and_p99_ms(lone)[1] == pytest.approx(5 + 1)


def test_requests_of_an_open_loop_queue_behind_a_slow_batch() -> None:
    """Arrivals at 0, 2 and 4 ms: one alone for 10 ms, then both others for 15 ms; the last response comes at 26 ms."""
    predictions = simulate_open(configurations(), np.array([0.0, 0.002, 0.004]))
    assert predictions.p50_s[0] == pytest.approx((0.026 - 0.002 + 0.026 - 0.004) / 2, abs=0.002)
    assert predictions.mean_batch[0] == pytest.approx(1.5)


def test_an_open_loop_beyond_the_throughput_has_a_growing_latency() -> None:
    arrivals_s = np.arange(200) / 50
    slow, fast = (simulate_open(configurations(1, image_ms=image_ms), arrivals_s) for image_ms in (30, 5))
    assert slow.p99_s[0] > 1
    assert fast.p99_s[0] == pytest.approx(0.011)


def test_predictions_are_monotonic() -> None:
    """More clients never lower p99, a slower model never raises the rate, more instances never lower it."""
    p99 = [rate_and_p99_ms(simulate_closed(configurations(), clients))[1] for clients in (1, 2, 4, 8, 16, 32)]
    assert p99 == sorted(p99)
    rates = [rate_and_p99_ms(simulate_closed(configurations(image_ms=image_ms), 8))[0] for image_ms in (9, 7, 5, 3)]
    assert rates == sorted(rates)
    rates = [rate_and_p99_ms(simulate_closed(configurations(instances=count), 16))[0] for count in (1, 2, 4)]
    assert rates == sorted(rates)


def test_jitter_raises_p99_but_hardly_the_mean() -> None:
    steady, noisy = (rate_and_p99_ms(simulate_closed(configurations(), 8, jitter)) for jitter in (0.0, 0.1))
    assert noisy[1] > 1.05 * steady[1]
    assert noisy[0] == pytest.approx(steady[0], rel=0.05)


def simulated_one_by_one(case: Configurations, clients: int, requests: int) -> float:
    """Requests per second of a batcher that handles events in the order of their times."""
    largest, delay_s = int(case.max_requests[0]), float(case.delay_s[0])
    events = [(number * 1e-6, 1) for number in range(clients)]
    pending: list[float] = []  # not yet in the waiting batch
    waiting = free_instances = 0
    free_instances = int(case.instances[0])
    finished: list[float] = []
    while len(finished) < requests:
        now, arrivals = heapq.heappop(events)
        if arrivals > 0:
            pending.append(now)
        elif arrivals < 0:
            free_instances += 1
            responses = -arrivals
            finished += [now] * responses
            for _ in range(responses):
                heapq.heappush(events, (now + float(case.overhead_s[0]), 1))
        while True:
            is_due = pending and (now - pending[0] >= delay_s - 1e-12 or waiting + len(pending) >= largest)
            while is_due and pending and waiting < largest:
                pending.pop(0)
                waiting += 1
            if not (waiting and free_instances):
                break
            free_instances -= 1
            heapq.heappush(events, (now + float(case.batch_s[0, waiting]), -waiting))
            waiting = 0
        if pending and pending[0] + delay_s > now:
            heapq.heappush(events, (pending[0] + delay_s, 0))
    half = len(finished) // 4
    return (len(finished) - half) / (finished[-1] - finished[half])


@pytest.mark.parametrize("seed", range(15))
def test_the_simulation_agrees_with_a_batcher_of_single_events(seed: int) -> None:
    random = np.random.default_rng(seed)
    case = configurations(
        max_requests=int(random.choice([1, 2, 4, 8, 16])),
        delay_ms=float(random.choice([0, 0.7, 3.1, 17.3])),
        instances=int(random.choice([1, 2, 3])),
        image_ms=float(random.uniform(0.5, 8)),
    )
    clients = int(random.choice([1, 2, 5, 9, 20]))
    expected = simulated_one_by_one(case, clients, 1000)
    rate, _ = rate_and_p99_ms(simulate_closed(case, clients))
    assert math.log(rate / expected) == pytest.approx(0, abs=0.1)
