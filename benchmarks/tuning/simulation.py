"""A simulation of Triton's dynamic batcher, for thousands of configurations at once.

Each step forms one batch of every configuration, by the rules of core, src/dynamic_batch_scheduler.cc:

- A batch starts when an instance is free and its oldest request has waited for the queue delay, or a preferred size
  (without one: the largest batch) is reached.
- While all instances are busy, later requests join the waiting batch, each after its own delay.
- A batch is cut to a preferred size, unless its oldest request has waited for the whole delay.

In a closed loop, a client sends its next request when it has the response. In an open loop, requests arrive at given
times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MIN_STEPS = 60
"""Batches that are simulated."""
MIN_REQUESTS = 400
"""Requests of a closed loop, at least; p99 needs some hundreds."""
SKIPPED_SHARE = 0.25
"""Share of the batches that only warm up."""
_START_GAP_S = 1e-6
"""Between the first requests of the clients: the first goes alone, as on a server."""


@dataclass(frozen=True)
class Configurations:
    """N configurations to simulate. Times are in seconds, sizes in requests."""

    max_requests: Integers
    """[N] The most requests of one batch."""
    delay_s: Floats
    """[N]"""
    instances: Integers
    """[N]"""
    batch_s: Floats
    """[N, B + 1] Time of a batch of 0 to B requests on an instance while all instances run."""
    busy_shares: Floats
    """[N, I] The time of a batch while 1 to I instances run, as a share of `batch_s`."""
    overhead_s: Floats
    """[N] From the end of a batch to the next request of the client: response, client and network."""
    spacing_s: Floats
    """[N] CPU time of the client and the server for one request; the responses of a batch follow one another."""
    preferred: tuple[tuple[int, ...], ...]
    """Preferred sizes of each configuration; empty: the largest batch."""

    def rows(self, chosen: slice) -> Configurations:
        """Return a part of the configurations."""
        return Configurations(
            self.max_requests[chosen],
            self.delay_s[chosen],
            self.instances[chosen],
            self.batch_s[chosen],
            self.busy_shares[chosen],
            self.overhead_s[chosen],
            self.spacing_s[chosen],
            self.preferred[chosen],
        )

    def __len__(self) -> int:
        return len(self.max_requests)


@dataclass(frozen=True)
class Predictions:
    """The predicted figures of N configurations: [N] arrays."""

    requests_per_s: Floats
    p50_s: Floats
    p99_s: Floats
    mean_batch: Floats
    """Requests of a batch."""


class _Batch(NamedTuple):
    """The next batch of each configuration: [N] arrays."""

    start_s: Floats
    size: Integers


class _Preferred(NamedTuple):
    """Preferred sizes as tables."""

    trigger: Integers
    """[N] The size that starts a batch at once: the smallest preferred one, else the largest batch."""
    floor: Integers
    """[N, B + 1] The largest preferred size within 0 to B waiting requests; 0 where none is reached."""


def simulate_closed(configurations: Configurations, concurrency: int, jitter: float = 0.0) -> Predictions:
    """Simulate `concurrency` clients. jitter: standard deviation of the logarithm of a batch's time."""
    chunk = max(1, 200_000 // concurrency)
    parts = [
        _simulate_closed(configurations.rows(slice(first, first + chunk)), concurrency, jitter)
        for first in range(0, len(configurations), chunk)
    ]
    return Predictions(*(np.concatenate(column) for column in zip(*map(_columns, parts), strict=True)))


def _columns(part: Predictions) -> tuple[Floats, ...]:
    return part.requests_per_s, part.p50_s, part.p99_s, part.mean_batch


def _simulate_closed(configurations: Configurations, concurrency: int, jitter: float) -> Predictions:
    count, steps = len(configurations), max(MIN_STEPS, int(MIN_REQUESTS / concurrency / (1 - SKIPPED_SHARE)) + 1)
    noise = _noise(steps, jitter)
    preferred = _preferred_tables(configurations)
    arrivals = np.tile(np.arange(concurrency) * _START_GAP_S, (count, 1))
    free_at = np.zeros((count, int(configurations.instances.max())))
    free_at[np.arange(free_at.shape[1]) >= configurations.instances[:, None]] = np.inf
    position = np.arange(concurrency)
    starts, sizes = np.empty((steps, count)), np.empty((steps, count), int)
    latencies = np.full((steps, count, concurrency), np.nan, np.float32)
    for step in range(steps):
        batch = _next_batch(configurations, preferred, arrivals, free_at)
        end_s = _run(configurations, batch, free_at, noise[step])
        received = (end_s + configurations.overhead_s)[:, None] + position * configurations.spacing_s[:, None]
        in_batch = position < batch.size[:, None]
        latencies[step][in_batch] = (received - arrivals)[in_batch]
        arrivals = np.sort(np.where(in_batch, received, arrivals), axis=1)
        starts[step], sizes[step] = batch
    return _summarize(starts, sizes, latencies)


def simulate_open(configurations: Configurations, arrivals_s: Floats, jitter: float = 0.0) -> Predictions:
    """Simulate requests that arrive at ascending times [M], whatever the server does."""
    chunk = 4096
    parts = [
        _simulate_open(configurations.rows(slice(first, first + chunk)), arrivals_s, jitter)
        for first in range(0, len(configurations), chunk)
    ]
    return Predictions(*(np.concatenate(column) for column in zip(*map(_columns, parts), strict=True)))


def _simulate_open(configurations: Configurations, arrivals_s: Floats, jitter: float) -> Predictions:
    count, total, widest = len(configurations), len(arrivals_s), int(configurations.max_requests.max())
    noise = _noise(total, jitter)
    preferred = _preferred_tables(configurations)
    padded = np.concatenate([arrivals_s, np.full(widest + 1, np.inf)])
    free_at = np.zeros((count, int(configurations.instances.max())))
    free_at[np.arange(free_at.shape[1]) >= configurations.instances[:, None]] = np.inf
    head, position = np.zeros(count, int), np.arange(widest + 1)
    starts: list[Floats] = []
    sizes: list[Integers] = []
    latencies = np.full((count, total), np.nan, np.float32)
    while (head < total).any():
        waiting = padded[np.minimum(head[:, None] + position, len(padded) - 1)]
        batch = _next_batch(configurations, preferred, waiting, free_at)
        batch = batch._replace(size=np.where(head < total, batch.size, 0))
        end_s = _run(configurations, batch, free_at, noise[len(starts)])
        received = (end_s + configurations.overhead_s)[:, None] + position * configurations.spacing_s[:, None]
        row, column = np.nonzero(position < batch.size[:, None])
        latencies[row, head[row] + column] = received[row, column] - waiting[row, column]
        head += batch.size
        starts.append(np.where(batch.size > 0, batch.start_s, np.nan))
        sizes.append(batch.size)
    skipped = int(total * SKIPPED_SHARE)
    figures = np.nanpercentile(latencies[:, skipped:], (50, 99), axis=1)
    last_s = np.nanmax(np.array(starts), axis=0)
    executions = (np.array(sizes) > 0).sum(axis=0)
    return Predictions(total / np.maximum(last_s, arrivals_s[-1]), figures[0], figures[1], total / executions)


def _next_batch(configurations: Configurations, preferred: _Preferred, arrivals: Floats, free_at: Floats) -> _Batch:
    """Form the next batch. arrivals: ascending times of the waiting and coming requests, [N, C]."""
    row, largest = np.arange(len(arrivals)), configurations.max_requests
    padded = np.concatenate([arrivals, np.full((len(arrivals), 1), np.inf)], axis=1)
    last = padded.shape[1] - 1

    def arrival_of(number: Integers) -> Floats:
        """The time of the request with this index; infinite if it never comes."""
        times: Floats = padded[row, np.minimum(number, last)]
        return times

    def count_until(time_s: Floats) -> Integers:
        count: Integers = np.minimum((arrivals <= time_s[:, None]).sum(axis=1), largest)
        return count

    expires_s, reached_s = arrivals[:, 0] + configurations.delay_s, arrival_of(preferred.trigger - 1)
    ready_s = np.minimum(expires_s, reached_s)
    start_s = np.maximum(ready_s, free_at.min(axis=1))
    # Requests that join while all instances are busy, each after its own delay.
    until_s = np.where(configurations.delay_s > 0, ready_s, start_s)
    for _ in range(arrivals.shape[1]):
        size = count_until(until_s)
        next_s = np.minimum(arrival_of(size) + configurations.delay_s, arrival_of(largest - 1))
        joins = (next_s <= start_s) & (next_s > until_s) & (size < largest)
        if not joins.any():
            break
        until_s = np.where(joins, next_s, until_s)
    size = count_until(until_s)
    floor = preferred.floor[row, size]
    is_cut = (floor > 0) & ((configurations.delay_s == 0) | (reached_s < expires_s))
    return _Batch(start_s, np.where(is_cut, floor, size))


def _run(configurations: Configurations, batch: _Batch, free_at: Floats, noise: float) -> Floats:
    """Run a batch on the instance that is free first, and return its end; `free_at` is changed."""
    row, chosen = np.arange(len(free_at)), free_at.argmin(axis=1)
    others = ((free_at > batch.start_s[:, None]) & np.isfinite(free_at)).sum(axis=1)
    share = configurations.busy_shares[row, others]
    end_s: Floats = batch.start_s + configurations.batch_s[row, batch.size] * share * noise
    free_at[row, chosen] = end_s
    return end_s


def _preferred_tables(configurations: Configurations) -> _Preferred:
    trigger = configurations.max_requests.copy()
    floor = np.zeros((len(configurations), int(configurations.max_requests.max()) + 1), int)
    for number, sizes in enumerate(configurations.preferred):
        if sizes:
            trigger[number] = min(sizes)
            for size in sorted(sizes):
                floor[number, size:] = size
    return _Preferred(trigger, floor)


def _noise(steps: int, jitter: float) -> Floats:
    """Factors of a batch's time with mean 1; equal for all configurations, so that their ranks are comparable."""
    return np.random.default_rng(0).lognormal(-(jitter**2) / 2, jitter, steps) if jitter else np.ones(steps)


def _summarize(starts: Floats, sizes: Integers, latencies: NDArray[np.float32]) -> Predictions:
    skipped = int(len(starts) * SKIPPED_SHARE)
    counted = latencies[skipped:].swapaxes(0, 1).reshape(starts.shape[1], -1)
    ascending = np.sort(counted, axis=1)  # NaN comes last
    number = np.isfinite(ascending).sum(axis=1)
    row = np.arange(len(ascending))
    p50, p99 = (ascending[row, ((number - 1) * share + 0.5).astype(int)] for share in (0.5, 0.99))
    requests = sizes[skipped:-1].sum(axis=0)
    rate = requests / (starts[-1] - starts[skipped])
    return Predictions(rate, p50.astype(float), p99.astype(float), requests / (len(starts) - 1 - skipped))
