"""Limits the number of pixels in memory while threads decode images.

An image file of 400 kB can have 100 million pixels, and decoding takes up to 17 bytes for each. This file needs only
the standard library, so that it can be copied to a server.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PIXELS_PER_THREAD = 28_000_000
"""Pixels of a photograph, 24 million, and of its resize: threads that decode such images never wait."""
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""Returns freed memory to the system. Only the GNU C library has and needs it: it keeps freed memory for each thread,
so without it the process keeps the sum of what its threads ever used (malloc_trim(3))."""


class PixelBudget:
    """A number of pixels that threads share. An image with more pixels waits until it can have the whole budget."""

    def __init__(self, pixels: int) -> None:
        """Create a budget of `pixels`. Raises ValueError if it is less than 1."""
        if pixels < 1:
            raise ValueError(f"pixel budget: expected 1 or more pixels, got {pixels}")
        self.pixels = self._free = pixels
        self._turn = threading.Lock()
        self._released = threading.Condition()

    @staticmethod
    def for_threads(threads: int, minimum: int) -> PixelBudget:
        """Create a budget for one photograph in each thread, with at least `minimum` pixels."""
        return PixelBudget(max(minimum, threads * PIXELS_PER_THREAD))

    @contextmanager
    def __call__(self, pixels: int) -> Iterator[None]:
        """Wait until `pixels` are free, and reserve them for the block."""
        share = min(pixels, self.pixels)
        # The first waiting thread blocks those behind it, so small images cannot starve a large one.
        with self._turn, self._released:
            self._released.wait_for(lambda: share <= self._free)
            self._free -= share
        try:
            yield
        finally:
            # The threads together would keep more freed memory of such images than the budget.
            if _trim is not None and pixels > min(PIXELS_PER_THREAD, self.pixels // 2):
                _trim(0)
            with self._released:
                self._free += share
                self._released.notify()
