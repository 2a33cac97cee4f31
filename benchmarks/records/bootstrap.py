"""Confidence intervals of ratios between two levels, from the slices of half a second that a record keeps.

Slices near in time are alike: a busy neighbour slows several in a row. So whole blocks of consecutive slices are drawn
(circular block bootstrap: Politis and Romano, "A circular block-resampling procedure for stationary data", 1992). The
latency statistics are means of the percentiles of the slices, weighted with their requests.
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
"""For each metric, the logarithm of a resampled value over the measured one [RESAMPLES]."""

RESAMPLES = 10_000
MIN_SAMPLES = 8
"""With fewer slices, an interval would mean nothing."""


def resample(samples: Sequence[Sample], random: np.random.Generator) -> Deviations | None:
    """Return how far the metrics of a level would vary if it were measured again; None with too few samples."""
    answered = np.array([sample.requests for sample in samples], float)
    if len(samples) < MIN_SAMPLES or not answered.any():
        return None
    chosen = _blocks(len(samples), random)
    seconds = np.array([sample.seconds for sample in samples])
    p50, p99 = (
        answered * np.array([value or 0.0 for value in values])
        for values in zip(*((sample.p50_ms, sample.p99_ms) for sample in samples), strict=True)
    )
    statistics: dict[Metric, NDArray[np.float64]] = {
        "images_per_s": _log_ratio(answered, seconds, chosen),
        "p50_ms": _log_ratio(p50, answered, chosen),
        "p99_ms": _log_ratio(p99, answered, chosen),
    }
    return statistics


def ratio_interval(
    old: Deviations, new: Deviations, metric: Metric, ratio: float, confidence: float
) -> tuple[float, ...]:
    """Return the lowest and the highest plausible value of `ratio`, the new value over the old one."""
    tail = (1 - confidence) / 2
    return tuple(float(value) for value in ratio * np.exp(np.nanquantile(new[metric] - old[metric], (tail, 1 - tail))))


def _block_length(samples: int) -> int:
    return math.ceil(math.sqrt(samples))


def _blocks(samples: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return indices of samples [RESAMPLES, samples] in blocks of consecutive ones; the first follows the last."""
    length = _block_length(samples)
    starts = random.integers(0, samples, (RESAMPLES, -(-samples // length)))
    indices = (starts[:, :, None] + np.arange(length)) % samples
    return indices.reshape(RESAMPLES, -1)[:, :samples]


def _log_ratio(
    above: NDArray[np.float64], below: NDArray[np.float64], chosen: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the deviations of the ratio of two sums.

    A few blocks vary less than independent ones would, by the square root of (blocks - 1) / blocks.
    """
    blocks = len(above) / _block_length(len(above))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = above[chosen].sum(axis=1) / below[chosen].sum(axis=1)
        logarithms = np.log(ratios * (below.sum() / above.sum()))
    logarithms[~np.isfinite(logarithms)] = np.nan  # no request in any of the chosen slices
    scaled: NDArray[np.float64] = logarithms * math.sqrt(blocks / (blocks - 1))
    return scaled
