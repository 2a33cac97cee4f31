"""Confidence intervals of ratios between two levels, from the slices of half a second that a record keeps.

Slices near in time are alike: a busy neighbour slows several in a row. So whole blocks of consecutive slices are drawn
(circular block bootstrap: Politis and Romano, "A circular block-resampling procedure for stationary data", 1992). They
are drawn from both levels together, each relative to its own typical value: a pause that only one of two short
measurements met could have met the other as well. Of levels that were measured in turns, the same times are drawn: what
slowed one slowed the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.records.record import LevelSlice

Metric = Literal["images_per_s", "p50_ms", "p99_ms"]
Values = NDArray[np.float64]
Deviations = Mapping[Metric, Values]
"""For each metric, logarithms of the ratio of two levels that differ by chance only [RESAMPLES]."""
Figure = Callable[[Values], Values]
"""Returns the figure of a level from values of its slices, along the last axis."""

RESAMPLES = 4_000
MIN_SAMPLES = 8
"""With fewer slices, an interval would mean nothing."""
_NO_ANSWER = 1e-9
"""Instead of 0, where no drawn slice has an answer."""
SHARES: dict[Metric, float] = {"p50_ms": 0.5, "p99_ms": 0.99}


def resample(
    old: Sequence[LevelSlice], new: Sequence[LevelSlice], random: np.random.Generator, in_turns: bool = False
) -> Deviations | None:
    """Return how much the ratios of two levels would vary if both were measured again; None with too few slices.

    in_turns: whether the levels were measured in turns: then their slices are pairs, which met the same machine.
    """
    if in_turns:
        pairs = list(zip(old, new, strict=False))
        old, new = ([pair[side] for pair in pairs] for side in (0, 1))
        answered = [[pair[side] for pair in pairs if pair[0].requests and pair[1].requests] for side in (0, 1)]
    else:
        answered = [[sample for sample in level if sample.requests] for level in (old, new)]
    if min(map(len, answered)) < MIN_SAMPLES:
        return None
    rates = [np.array([sample.requests / sample.seconds for sample in level]) for level in (old, new)]
    log_ratios = partial(_log_ratios, random=random, in_turns=in_turns)
    deviations: dict[Metric, Values] = {"images_per_s": log_ratios(rates, _mean, _mean)}
    requests = int(np.median([sample.requests for level in answered for sample in level]))
    for metric, share in SHARES.items():
        percentiles = [np.array([getattr(sample, metric) for sample in level]) for level in answered]
        quantile = partial(np.quantile, q=_rank(share, requests, random), axis=-1)
        # Relative to p99 itself, a pause that raised it would leave no trace.
        deviations[metric] = log_ratios(percentiles, _lower_quartile, quantile)
    return deviations


def ratio_interval(deviations: Values, ratio: float, confidence: float) -> tuple[float, float]:
    """Return the lowest and the highest plausible value of `ratio`, the new value over the old one."""
    tail = (1 - confidence) / 2
    low, high = ratio * np.exp(np.quantile(deviations, (tail, 1 - tail)))
    return float(low), float(high)


def _rank(share: float, requests: int, random: np.random.Generator) -> float:
    """Return which quantile of the slices' percentiles is the percentile of all requests.

    Of few requests, p99 is the largest one, which is often below the p99 of a whole level. requests: in a slice.
    """
    place = int(share * (requests - 1) + 0.5)  # as in benchmarks/load/windows.py
    return float(np.mean(random.binomial(requests, share, RESAMPLES) > place))


def _mean(values: Values) -> Values:
    means: Values = values.mean(axis=-1)
    return means


def _lower_quartile(values: Values) -> Values:
    quartile: Values = np.quantile(values, 0.25, axis=-1)
    return quartile


def _log_ratios(
    levels: Sequence[Values], typical: Figure, figure: Figure, random: np.random.Generator, in_turns: bool
) -> Values:
    """Draw slices for both levels, and return the logarithms of the ratio of their figures, new to old.

    typical: the value of a level that its slices are relative to. in_turns: draw the same times for both. A few blocks
    vary less than independent ones would, by the square root of (blocks - 1) / blocks.
    """
    sizes = [len(values) for values in levels]
    length = math.ceil(math.sqrt(min(sizes)))
    if in_turns:
        drawn, blocks = _draw(sizes[:1], sizes[0], length, random), sizes[0] / length
        old, new = (_logarithms(figure(values[drawn])) - _logarithms(figure(values)) for values in levels)
    else:
        pool = np.concatenate([values / typical(values) for values in levels])
        blocks = len(pool) / length
        old, new = (_logarithms(figure(pool[_draw(sizes, size, length, random)])) for size in sizes)
    deviations: Values = (new - old) * math.sqrt(blocks / (blocks - 1))
    return deviations


def _logarithms(figures: Values) -> Values:
    logarithms: Values = np.log(np.maximum(figures, _NO_ANSWER))
    return logarithms


def _draw(sizes: Sequence[int], count: int, length: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Draw blocks of `length` slices of levels of these sizes, numbered through [RESAMPLES, count].

    In a block, the first slice of a level follows its last one.
    """
    ends = np.cumsum(sizes)
    starts = random.integers(0, ends[-1], (RESAMPLES, -(-count // length), 1))
    level = np.searchsorted(ends, starts, side="right")
    size = np.array(sizes)[level]
    first = ends[level] - size
    indices: NDArray[np.int64] = first + (starts - first + np.arange(length)) % size
    return indices.reshape(RESAMPLES, -1)[:, :count]
