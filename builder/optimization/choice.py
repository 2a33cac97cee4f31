"""Choose the best candidate: the fastest as served or, of those within noise of it, the one with the smallest error."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

from tritonkit.repository.optimization import Candidate, Goal, Optimization, RoundFigures, ServedLoad

NOISE = 0.03
"""Candidates whose speeds differ by less are equally fast."""
LARGEST_NOISE = 0.10
"""Up to this difference they are also equally fast if the faster one was not faster in every round."""


class RatedCandidate(NamedTuple):
    """A candidate that can be chosen, and the load at which it is fastest."""

    candidate: Candidate
    load: ServedLoad


class Choice(NamedTuple):
    """The best candidate, and why it is."""

    candidate: Candidate
    reason: str


def choose(candidates: Iterable[Candidate], goal: Goal, p99_bound_ms: float | None = None) -> Choice | None:
    """Choose among the candidates that can be chosen; None if there is none.

    With a bound, only loads count whose p99 does not exceed it.
    """
    rated = rate(candidates, goal, p99_bound_ms)
    if not rated:
        return None
    fastest = max(rated, key=lambda one: speed(one.load, goal))
    equal = [one for one in rated if is_equally_fast(one.load, fastest.load, goal)]
    chosen = min(equal, key=_error_order)
    reason = figures_text(chosen.load)
    if len(equal) > 1:
        others = ", ".join(one.candidate.name for one in equal if one is not chosen)
        reason += f"; within noise of {others}, and it has the smallest error of them"
    elif len(rated) > 1:
        reason += "; the most images per second" if goal == "throughput" else "; the lowest p50"
    else:
        reason += "; no other candidate could be chosen"
    return Choice(chosen.candidate, reason)


def rate(candidates: Iterable[Candidate], goal: Goal, p99_bound_ms: float | None = None) -> list[RatedCandidate]:
    """The candidates that can be chosen, each at its best load."""
    rated = [(candidate, best_load(candidate, goal, p99_bound_ms)) for candidate in candidates]
    return [RatedCandidate(candidate, load) for candidate, load in rated if load is not None]


def best_load(candidate: Candidate, goal: Goal, p99_bound_ms: float | None = None) -> ServedLoad | None:
    """The load at which a candidate is fastest, of those measured in every round; None if it cannot be chosen."""
    if candidate.excluded is not None or candidate.verdict != "passed" or not candidate.loads:
        return None
    rounds = max(len(load.rounds) for load in candidate.loads)
    allowed = [
        load
        for load in candidate.loads
        if len(load.rounds) == rounds and (p99_bound_ms is None or load.p99_ms <= p99_bound_ms)
    ]
    return max(allowed, key=lambda load: speed(load, goal), default=None)


def shown_load(candidate: Candidate, optimization: Optimization) -> ServedLoad | None:
    """The load to show of a candidate: its best one or, if it exceeds the bound, that of the lowest p99."""
    best = best_load(candidate, optimization.target, optimization.p99_bound_ms)
    return best or min(candidate.loads, key=lambda load: load.p99_ms, default=None)


def speed(figures: RoundFigures, goal: Goal) -> float:
    """Images per second, or the inverse of the median latency in seconds: larger is better."""
    return figures.images_per_s if goal == "throughput" else 1000 / figures.p50_ms


def is_equally_fast(load: ServedLoad, fastest: ServedLoad, goal: Goal) -> bool:
    """Whether a difference is noise: it is small, or the order changed between rounds and it is not large.

    The rounds were measured in turns, so each round of one is compared with the same round of the other.
    """
    ratios = [speed(one, goal) / speed(other, goal) for one, other in zip(load.rounds, fastest.rounds, strict=False)]
    ratio = median(ratios)
    return ratio >= 1 - NOISE or (max(ratios) >= 1 and ratio >= 1 - LARGEST_NOISE)


def pareto_front(rated: Iterable[RatedCandidate], goal: Goal) -> list[RatedCandidate]:
    """Those that no other one beats in speed and error at once, from the smallest error on."""
    front: list[RatedCandidate] = []
    for one in sorted(rated, key=lambda one: (one.candidate.relative or 0, -speed(one.load, goal))):
        if not front or speed(one.load, goal) > speed(front[-1].load, goal):
            front.append(one)
    return front


def figures_text(load: ServedLoad) -> str:
    """The figures of a load in words."""
    requests = "1 request" if load.concurrency == 1 else f"{load.concurrency} requests"
    return (
        f"{load.images_per_s:.1f} images/s, p50 {load.p50_ms:.1f} ms, p99 {load.p99_ms:.1f} ms with {requests} in "
        "flight"
    )


def _error_order(rated: RatedCandidate) -> tuple[float, float, int]:
    candidate = rated.candidate
    return candidate.quality_loss, candidate.relative or 0.0, candidate.bytes or 0
