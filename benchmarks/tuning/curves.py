"""How long a batch takes on an instance: measured by the server's statistics, and estimated for other instances.

A backend runs a batch as a whole, or each of its images by itself on the threads of the instance. In the second case
an instance takes new requests while others run, so it counts as one instance a thread, with batches of one request.

A model is measured with a few numbers of instances and threads. For others the time of the nearest measured ones is
scaled: threads by Amdahl's law, and instances by their share of the cores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from benchmarks.tuning.simulation import Floats
from benchmarks.tuning.space import Workers
from tritonkit.spec import Frozen
from tritonkit.triton.client import BatchTimes

_SERIAL_SHARES = np.linspace(0, 1, 21)
_CONTENTION = 0.1
"""Assumed cost of each thread beyond the cores, as a share of the time, where it was not measured."""


class BatchCurve(Frozen):
    """The time of a batch for one number of instances and threads."""

    instances: int
    threads: int | None
    sizes: tuple[int, ...]
    """Measured batch sizes in images, ascending."""
    seconds: tuple[float, ...]
    """Their mean time while all instances run; never falls."""
    alone: float = 1.0
    """The time of the smallest batch while no other instance runs, as a share of that."""
    image_s: float | None = None
    """Mean time of an image on one thread, of a backend that runs each image by itself; None for whole batches."""
    overhead_s: float = 0.0
    """Mean latency outside the server's queue and instances: network, client, request handling."""
    spacing_s: float = 0.0
    """CPU time of the client for one request."""
    jitter: float = 0.0
    """Standard deviation of the logarithm of a batch's time."""

    @property
    def workers(self) -> Workers:
        """Instances and threads."""
        return Workers(self.instances, self.threads)

    def parallel(self, cores: int) -> int:
        """Return the number of batches that run at the same time."""
        return self.instances if self.image_s is None else self.instances * self.workers.threads_on(cores)

    def busy_shares(self, cores: int) -> Floats:
        """Return the time of a batch while 1, 2, ... batches run, as a share of the time while all run."""
        count = self.parallel(cores)
        running = np.arange(1, count + 1)
        if self.image_s is None:
            return self.alone + (1 - self.alone) * (running - 1) / max(1, count - 1) if count > 1 else np.ones(1)
        shares = np.maximum(running, min(cores, count)) / count
        shares[0] = self.seconds[0] / self.image_s / self.sizes[0]  # an image that is alone has all threads
        return np.minimum(shares, 1.0)

    @classmethod
    def from_times(cls, workers: Workers, loaded: Mapping[int, BatchTimes], **further: float) -> Self:
        """Make a curve of the statistics of a level that keeps all instances busy."""
        measured = {size: times for size, times in sorted(loaded.items()) if times.executions > 0}
        # A size that came once or twice says little beside sizes that came often.
        common = max(times.executions for times in measured.values())
        kept = {size: times for size, times in measured.items() if times.executions >= min(3, common)}
        means = [times.total_ns / times.executions / 1e9 for times in kept.values()]
        return cls(
            instances=workers.instances,
            threads=workers.threads,
            sizes=tuple(kept),
            seconds=tuple(np.maximum.accumulate(means).tolist()),
            **further,
        )

    def table(self, largest: int) -> Floats:
        """Return the time of 0 to `largest` images, in seconds: straight lines between the measured sizes."""
        counts = np.arange(largest + 1)
        table = np.interp(counts, self.sizes, self.seconds)
        # Below the smallest size a share of its time; above the largest one the mean slope, as one step may be noise.
        table = np.where(counts < self.sizes[0], self.seconds[0] * counts / self.sizes[0], table)
        first = (self.sizes[0], self.seconds[0]) if len(self.sizes) > 1 else (0, 0.0)
        slope = (self.seconds[-1] - first[1]) / (self.sizes[-1] - first[0])
        return np.where(counts > self.sizes[-1], self.seconds[-1] + slope * (counts - self.sizes[-1]), table)


class CurveModel:
    """Curves of measured workers, and estimates for others."""

    def __init__(self, curves: Sequence[BatchCurve], cores: int) -> None:
        self.curves, self.cores = {curve.workers: curve for curve in curves}, cores
        self._serial = self._fit_serial_share()

    def curve(self, workers: Workers) -> BatchCurve:
        """Return the curve of instances and threads."""
        if workers in self.curves:
            return self.curves[workers]
        point = workers_point(workers, self.cores)
        nearest = min(self.curves, key=lambda known: math.dist(workers_point(known, self.cores), point))
        scale = self._relative_time(workers) / self._relative_time(nearest)
        known = self.curves[nearest]
        changes: dict[str, object] = {
            "instances": workers.instances,
            "threads": workers.threads,
            "seconds": tuple(second * scale for second in known.seconds),
            "alone": self._relative_time(workers, alone=True) / self._relative_time(workers),
        }
        if known.image_s is not None:  # the same rate of the cores, divided among more or fewer threads
            count = known.model_copy(update=changes).parallel(self.cores)
            changes["image_s"] = known.image_s * count / known.parallel(self.cores)
        return known.model_copy(update=changes)

    def _relative_time(self, workers: Workers, alone: bool = False, serial: float | None = None) -> float:
        """Return the time of a batch in units of its time on one core."""
        serial = self._serial if serial is None else serial
        threads = workers.threads_on(self.cores)
        busy = 1 if alone else workers.instances
        cores = min(threads, self.cores / busy)
        excess = max(0.0, busy * threads / self.cores - 1)
        return (serial + (1 - serial) / cores) * (1 + _CONTENTION * excess)

    def _fit_serial_share(self) -> float:
        """Return the serial share of Amdahl's law that explains the measured curves best."""
        first = [curve.seconds[-1] / curve.sizes[-1] for curve in self.curves.values()]
        if len(first) < 2:
            return 0.1

        def spread(serial: float) -> float:
            ratios = [
                math.log(second / self._relative_time(workers, serial=serial))
                for second, workers in zip(first, self.curves, strict=True)
            ]
            return float(np.std(ratios))

        return float(min(_SERIAL_SHARES, key=spread))


def workers_point(workers: Workers, cores: int) -> tuple[float, float]:
    """Return instances and threads as a point: where one of them doubles, the distance is 1."""
    return math.log2(workers.instances), math.log2(workers.threads_on(cores))
