"""The pixel budget: large images are decoded a few at a time, in little memory."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tritonkit.images.pixel_budget import PIXELS_PER_THREAD, PixelBudget
from tritonkit.images.preprocess import MAX_PIXELS, ImageError


class WatchedBudget:
    """A budget that records the highest number of reserved pixels."""

    def __init__(self, budget: PixelBudget) -> None:
        self.peak = self._reserved = 0
        self._budget = budget
        self._lock = threading.Lock()

    def reserve(self, pixels: int) -> int:
        with self._budget(pixels):
            with self._lock:
                self._reserved += pixels
                self.peak = max(self.peak, self._reserved)
            time.sleep(0.001)
            with self._lock:
                self._reserved -= pixels
        return pixels


def test_no_more_pixels_are_held_than_there_is_room_for() -> None:
    watched = WatchedBudget(PixelBudget(10))
    requests = [int(pixels) for pixels in np.random.default_rng(0).integers(1, 11, 200)]
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(watched.reserve, requests)) == requests
    assert watched.peak <= 10


def test_picture_has_all_the_room_alone_when_it_is_larger() -> None:
    budget = PixelBudget(10)
    with ThreadPoolExecutor(1) as other, budget(1_000_000):
        small = other.submit(WatchedBudget(budget).reserve, 1)
        time.sleep(0.02)
        assert not small.done()
    assert small.result() == 1


def test_room_is_given_back_when_a_picture_is_broken() -> None:
    budget = PixelBudget(10)
    for _ in range(3):
        with pytest.raises(ImageError), budget(10):
            raise ImageError("broken")


def test_each_thread_has_room_for_a_photograph() -> None:
    assert PIXELS_PER_THREAD >= 6000 * 4000 + 512 * 6000
    assert PixelBudget.for_threads(2, minimum=MAX_PIXELS).pixels == MAX_PIXELS
    assert PixelBudget.for_threads(64, minimum=MAX_PIXELS).pixels == 64 * PIXELS_PER_THREAD
    with pytest.raises(ValueError, match="got 0"):
        PixelBudget(0)
