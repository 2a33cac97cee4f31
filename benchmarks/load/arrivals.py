"""Who sends when: a closed loop, or the send times of an open loop.

A load can be shared among several client processes, which together are the same load.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

_CHUNK = 1024
MIN_PAUSE_S = 1.0
MIN_PAUSE_RATIO = 10
"""A gap is a pause if it is this many times the mean of the others, and at least `MIN_PAUSE_S`."""


@dataclass(frozen=True)
class ClosedLoop:
    """A fixed number of requests in flight: each sender waits for its response before the next request."""

    concurrency: int

    def share(self, index: int, processes: int) -> ClosedLoop:
        """Return the part of process `index`; it may be 0 requests in flight."""
        return ClosedLoop(self.concurrency // processes + (index < self.concurrency % processes))

    def __str__(self) -> str:
        return f"concurrency {self.concurrency}"


@dataclass(frozen=True)
class PoissonArrivals:
    """Independent requests at a mean rate: the gaps between them are exponential."""

    rate: float
    """Requests a second."""
    seed: tuple[int, ...] = (0,)

    def share(self, index: int, processes: int) -> PoissonArrivals:
        """Return the part of process `index`: the sum of independent Poisson processes is one."""
        return PoissonArrivals(self.rate / processes, (*self.seed, index, processes))

    def times(self) -> Iterator[float]:
        """Yield ascending send times in seconds from the start, without end."""
        random, now = np.random.default_rng(self.seed), 0.0
        while True:
            for gap in random.exponential(1 / self.rate, _CHUNK).tolist():
                now += gap
                yield now

    def __str__(self) -> str:
        return f"{self.rate:g} requests/s"


@dataclass(frozen=True)
class ConstantArrivals:
    """Requests at a constant rate."""

    rate: float
    """Requests a second."""
    offset_s: float = 0.0

    def share(self, index: int, processes: int) -> ConstantArrivals:
        """Return the part of process `index`: the processes send in turn."""
        return ConstantArrivals(self.rate / processes, self.offset_s + index / self.rate)

    def times(self) -> Iterator[float]:
        """Yield ascending send times in seconds from the start, without end."""
        return (self.offset_s + number / self.rate for number in count())

    def __str__(self) -> str:
        return f"{self.rate:g} requests/s"


@dataclass(frozen=True)
class TraceArrivals:
    """Requests at recorded times."""

    seconds: tuple[float, ...]
    """Ascending, from the start."""

    @property
    def duration_s(self) -> float:
        """Time from the start to the last request."""
        return self.seconds[-1]

    @property
    def rate(self) -> float:
        """Mean requests a second."""
        return len(self.seconds) / self.duration_s if self.duration_s else float(len(self.seconds))

    @property
    def pause(self) -> tuple[float, float] | None:
        """Start and length in seconds of the longest gap, if it is much longer than the others."""
        if len(self.seconds) < 3:
            return None
        gaps = np.diff(self.seconds)
        longest = int(gaps.argmax())
        if gaps[longest] < max(MIN_PAUSE_S, MIN_PAUSE_RATIO * float(np.delete(gaps, longest).mean())):
            return None
        return self.seconds[longest], float(gaps[longest])

    def share(self, index: int, processes: int) -> TraceArrivals:
        """Return the part of process `index`: the processes send in turn."""
        return replace(self, seconds=self.seconds[index::processes])

    def times(self) -> Iterator[float]:
        """Yield the send times in seconds from the start."""
        return iter(self.seconds)

    def __str__(self) -> str:
        return f"trace of {len(self.seconds)} requests"


OpenLoop = PoissonArrivals | ConstantArrivals | TraceArrivals
Load = ClosedLoop | OpenLoop
