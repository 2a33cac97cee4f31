from __future__ import annotations

import numpy as np
import pytest

from benchmarks.load.histogram import decode_histogram, encode_histogram


def test_latencies_come_back_within_three_digits() -> None:
    latencies_ns = np.array([500, 1_000_000, 1_000_000, 123_456_789, 7_200_000_000_000])
    found = decode_histogram(encode_histogram(latencies_ns))
    assert list(found.values()) == [1, 2, 1, 1]
    assert list(found) == pytest.approx([1, 1000, 123_457, 3_600_000_000], rel=1e-3)
