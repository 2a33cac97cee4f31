"""How many requests are under way at once: as many as make the server answer more in the same time, and no more.

The number grows while throughput does, at first by half and then one by one, and goes back when it did not. By
Little's law the latency grows in proportion where throughput stays, so that requests would only wait in the server's
queue, and the answers of its other clients with them. It is halved when the server refuses or is late, as TCP does, and
a quarter less when the same number takes twice as long as before: others need the server too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from model.errors import BusyError, DeadlineError

MOST = 64
"""Requests under way at once, whatever the server could take."""
_FIRST = 4
"""Two instances at work, and two requests that wait for them."""
_REST = 8
"""Rounds after a vain try before the next one."""
_LEAST_ANSWERS = 6
"""In a round."""
_FADING = 0.95
"""The best of the last rounds is what a try is held against; each round it counts for less."""

Clock = Callable[[], float]


class AdaptiveConcurrency:
    """A number of requests that follows what the server can take. Safe to use from several threads."""

    def __init__(self, fixed: int | None = None, first: int = _FIRST, clock: Clock = time.monotonic) -> None:
        """`fixed` stays; otherwise `first` is where it begins. clock: seconds."""
        self.limit = fixed or first
        self._fixed = fixed is not None
        self._clock = clock
        self._lock = threading.Lock()
        self._good_limit, self._good_rate = self.limit, 0.0
        self._fast, self._rest, self._unheard = True, 0, 0
        self._begin(skip=self.limit)

    def answered(self, images: int, waiting: bool) -> None:
        """A request with so many images came back; `waiting` says whether the limit has kept another one from going."""
        with self._lock:
            self._unheard = max(0, self._unheard - 1)
            if self._fixed:
                return
            if self._skip:
                self._skip -= 1
                self._began = self._clock()
                return
            self._answers += 1
            self._images += images
            self._waited += waiting
            if self._answers >= max(2 * self.limit, _LEAST_ANSWERS) and self._clock() > self._began:
                self._decide(self._images / (self._clock() - self._began))

    def failed(self, error: Exception) -> None:
        """A request failed, and is asked again. All that were under way with it are one sign, not many."""
        with self._lock:
            if self._fixed or self._unheard or not isinstance(error, BusyError | DeadlineError):
                return
            self._unheard = self.limit
            self._settle(max(1, self.limit // 2), 0.0)
            self._fast, self._rest = False, _REST
            self._begin(skip=self._unheard)

    def _decide(self, rate: float) -> None:
        """What a round has shown. rate: images per second."""
        if self._waited < self._answers / 2:
            self._begin(skip=0)  # the pictures do not come faster than they are answered
        elif self.limit > self._good_limit:
            hoped = 1 + (self.limit / self._good_limit - 1) / 2
            if rate >= hoped * self._good_rate:
                self._settle(self.limit, rate)
                self._try_more()
            else:
                self.limit = self._good_limit
                self._fast, self._rest = False, _REST
                self._begin(skip=self.limit)
        elif rate < self._good_rate / 2:
            self._settle(max(1, self.limit * 3 // 4), 0.0)
            self._fast, self._rest = False, _REST
            self._begin(skip=self.limit)
        else:
            self._settle(self.limit, max(rate, _FADING * self._good_rate))
            self._rest = max(0, self._rest - 1)
            self._begin(skip=0) if self._rest else self._try_more()

    def _settle(self, limit: int, rate: float) -> None:
        self.limit = self._good_limit = limit
        self._good_rate = rate

    def _try_more(self) -> None:
        self.limit = min(MOST, self.limit + (max(1, self.limit // 2) if self._fast else 1))
        self._begin(skip=self.limit)

    def _begin(self, skip: int) -> None:
        """Begin a round, after so many answers to requests that were sent on other terms."""
        self._skip, self._began = skip, self._clock()
        self._answers = self._images = self._waited = 0
