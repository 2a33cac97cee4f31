"""Confidence intervals of ratios between two levels, from the slices of half a second that a record keeps.

Slices near in time are alike: a busy neighbour slows several in a row. So whole blocks of consecutive slices are drawn
(circular block bootstrap: Politis and Romano, "A circular block-resampling procedure for stationary data", 1992). They
are drawn from both levels together, each relative to its own mean: a pause that only one of two short measurements met
could have met the other as well. The latency statistics are means of the percentiles of the slices, weighted with their
requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.records.record import Sample

Metric = Literal["images_per_s", "p50_ms", "p99_ms"]
Deviations = Mapping[Metric, NDArray[np.float64]]
"""For each metric, logarithms of the ratio of two levels that differ by chance only [RESAMPLES]."""
Values = NDArray[np.float64]
Indices = NDArray[np.int64]

RESAMPLES = 10_000
MIN_SAMPLES = 8
"""With fewer slices, an interval would mean nothing."""


def resample(old: Sequence[Sample], new: Sequence[Sample], random: np.random.Generator) -> Deviations | None:
    """Return how much the ratios of two levels would vary if both were measured again; None with too few slices."""
    levels = (old, new)
    if any(len(level) < MIN_SAMPLES or not any(sample.requests for sample in level) for level in levels):
        return None
    drawn = _draw_blocks(len(old), len(new), random)
    return {
        metric: _log_ratios([_terms(level, metric) for level in levels], drawn)
        for metric in ("images_per_s", "p50_ms", "p99_ms")
    }


def ratio_interval(deviations: Values, ratio: float, confidence: float) -> tuple[float, float]:
    """Return the lowest and the highest plausible value of `ratio`, the new value over the old one."""
    tail = (1 - confidence) / 2
    low, high = ratio * np.exp(np.nanquantile(deviations, (tail, 1 - tail)))
    return float(low), float(high)


def _terms(samples: Sequence[Sample], metric: Metric) -> tuple[Values, Values]:
    """Return two terms of each slice [N]: a metric of some slices is the sum of the first over that of the second."""
    requests = np.array([sample.requests for sample in samples], float)
    if metric == "images_per_s":
        return requests, np.array([sample.seconds for sample in samples])
    return requests * np.array([getattr(sample, metric) or 0.0 for sample in samples]), requests


def _draw_blocks(old: int, new: int, random: np.random.Generator) -> tuple[Indices, Indices]:
    """Draw slices of both levels for each level [RESAMPLES, old] and [RESAMPLES, new].

    Slices are numbered through both levels. In a block, the first slice of a level follows its last one.
    """
    length = _block_length(old, new)

    def draw(count: int) -> Indices:
        starts = random.integers(0, old + new, (RESAMPLES, -(-count // length), 1))
        first, size = np.where(starts < old, 0, old), np.where(starts < old, old, new)
        indices: Indices = first + (starts - first + np.arange(length)) % size
        return indices.reshape(RESAMPLES, -1)[:, :count]

    return draw(old), draw(new)


def _block_length(old: int, new: int) -> int:
    return math.ceil(math.sqrt(min(old, new)))


def _log_ratios(levels: Sequence[tuple[Values, Values]], drawn: tuple[Indices, Indices]) -> Values:
    """Return the logarithms of the ratio new to old in each draw.

    A few blocks vary less than independent ones would, by the square root of (blocks - 1) / blocks.
    """
    above = np.concatenate([above * (below.sum() / above.sum()) for above, below in levels])
    below = np.concatenate([below for _, below in levels])
    with np.errstate(divide="ignore", invalid="ignore"):
        old, new = (np.log(above[chosen].sum(axis=1) / below[chosen].sum(axis=1)) for chosen in drawn)
        logarithms: Values = new - old
    logarithms[~np.isfinite(logarithms)] = np.nan  # no request in any of the drawn slices
    blocks = len(above) / _block_length(*(len(terms) for terms, _ in levels))
    return logarithms * math.sqrt(blocks / (blocks - 1))
