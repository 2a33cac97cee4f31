"""How many pixels lie in memory at once while threads decode pictures, however large those are.

A picture of 400 kB can have 100 million pixels, and decoding takes up to 17 bytes for each. The file needs nothing of
ours, so that it can be carried to a server.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PIXELS_PER_THREAD = 28_000_000
"""The pixels of a camera's photograph, 24 million, and of resizing it: where all threads decode such, none waits."""
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""Gives what is free back to the system. The GNU C library alone has it: it keeps freed memory for each thread apart,
and so as much as all of them together ever had, though they had it one after the other (malloc_trim(3))."""


class PixelBudget:
    """Room for so many pixels, which threads share. A picture of more waits until it has all the room alone."""

    def __init__(self, pixels: int) -> None:
        """Raises ValueError for no pixels."""
        if pixels < 1:
            raise ValueError(f"pixels decoded at once are 1 or more, got {pixels}")
        self.pixels = self._free = pixels
        self._turn = threading.Lock()
        self._given_back = threading.Condition()

    @staticmethod
    def for_threads(threads: int, at_least: int) -> PixelBudget:
        """Room for a photograph in each thread, and for `at_least` so many pixels."""
        return PixelBudget(max(at_least, threads * PIXELS_PER_THREAD))

    @contextmanager
    def __call__(self, pixels: int) -> Iterator[None]:
        """Wait for room for so many pixels, and keep it while the block lasts."""
        share = min(pixels, self.pixels)
        # Whoever waits for room keeps the others waiting behind it: small pictures never pass a large one by for ever.
        with self._turn, self._given_back:
            self._given_back.wait_for(lambda: share <= self._free)
            self._free -= share
        try:
            yield
        finally:
            # Of such pictures all threads together would keep more than there is room for.
            if _trim is not None and pixels > min(PIXELS_PER_THREAD, self.pixels // 2):
                _trim(0)
            with self._given_back:
                self._free += share
                self._given_back.notify()
