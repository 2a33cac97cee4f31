"""Latencies as an HdrHistogram, in the form that its tools read.

Source of the format: hdrhistogram.org, "V2 compressed": zlib, then base64.
"""

from __future__ import annotations

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

HIGHEST_US = 3_600_000_000
"""An hour."""
DIGITS = 3


def encode_histogram(nanoseconds: NDArray[np.int64]) -> str:
    """Return latencies [N] as an encoded histogram in microseconds; values outside 1 us to an hour are clipped."""
    histogram = HdrHistogram(1, HIGHEST_US, DIGITS)
    values, counts = np.unique(np.clip(nanoseconds // 1000, 1, HIGHEST_US), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    return bytes(histogram.encode()).decode("ascii")


def decode_histogram(text: str) -> dict[int, int]:
    """Return the requests by latency in microseconds, ascending. Each latency is the highest of its bucket."""
    histogram = HdrHistogram.decode(text)
    return {item.value_iterated_to: item.count_added_in_this_iter_step for item in histogram.get_recorded_iterator()}
