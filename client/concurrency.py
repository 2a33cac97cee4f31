"""Adapt the number of concurrent requests to what the server can process.

The number grows while throughput grows: first by half, later by one. It goes back if throughput did not grow. By
Little's law, more requests at the same throughput only wait longer in the server's queue, and delay its other
clients. The number is halved if the server refuses a request or answers too late, as in TCP. It falls by a quarter if
the same number takes twice as long as before, because other clients need the server too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tritonkit.errors import BusyError, DeadlineError

MAX_CONCURRENCY = 64
"""Upper limit of concurrent requests."""
_INITIAL_LIMIT = 4
"""Two model instances at work, and two requests that wait for them."""
_ROUNDS_BETWEEN_RAISES = 8
"""Rounds to wait after a raise that did not help."""
_MIN_ROUND_ANSWERS = 6
"""Minimum number of answers in a round."""
_RATE_DECAY = 0.95
"""The best rate counts less after each round by this factor."""

Clock = Callable[[], float]


class AdaptiveConcurrency:
    """A limit of concurrent requests that follows the server's capacity. Safe to use from several threads."""

    def __init__(
        self, fixed_limit: int | None = None, initial_limit: int = _INITIAL_LIMIT, clock: Clock = time.monotonic
    ) -> None:
        """fixed_limit: a limit that never changes; None: it adapts. initial_limit: the first limit. clock: seconds."""
        self.limit = fixed_limit or initial_limit
        self._is_fixed = fixed_limit is not None
        self._clock = clock
        self._lock = threading.Lock()
        self._best_limit, self._best_rate = self.limit, 0.0
        self._grows_fast, self._rounds_to_raise, self._ignored_answers = True, 0, 0
        self._start_round(answers_to_skip=self.limit)

    def record_answer(self, images: int, is_limited: bool) -> None:
        """Record an answered request. is_limited: whether another request had to wait because of the limit."""
        with self._lock:
            self._ignored_answers = max(0, self._ignored_answers - 1)
            if self._is_fixed:
                return
            if self._answers_to_skip:
                self._answers_to_skip -= 1
                self._round_start_s = self._clock()
                return
            self._round_answers += 1
            self._round_images += images
            self._limited_answers += is_limited
            if self._round_answers >= max(2 * self.limit, _MIN_ROUND_ANSWERS) and self._clock() > self._round_start_s:
                self._evaluate_round(self._round_images / (self._clock() - self._round_start_s))

    def record_failure(self, error: Exception) -> None:
        """Record a failed request that will be retried. Requests that were in flight together count as one failure."""
        with self._lock:
            if self._is_fixed or self._ignored_answers or not isinstance(error, BusyError | DeadlineError):
                return
            self._ignored_answers = self.limit
            self._set_best(max(1, self.limit // 2), 0.0)
            self._grows_fast, self._rounds_to_raise = False, _ROUNDS_BETWEEN_RAISES
            self._start_round(answers_to_skip=self._ignored_answers)

    def _evaluate_round(self, rate: float) -> None:
        """Change the limit after a round. rate: images per second."""
        if self._limited_answers < self._round_answers / 2:
            self._start_round(answers_to_skip=0)  # decoding is the bottleneck, not the limit
        elif self.limit > self._best_limit:
            required_gain = 1 + (self.limit / self._best_limit - 1) / 2
            if rate >= required_gain * self._best_rate:
                self._set_best(self.limit, rate)
                self._raise_limit()
            else:
                self.limit = self._best_limit
                self._grows_fast, self._rounds_to_raise = False, _ROUNDS_BETWEEN_RAISES
                self._start_round(answers_to_skip=self.limit)
        elif rate < self._best_rate / 2:
            self._set_best(max(1, self.limit * 3 // 4), 0.0)
            self._grows_fast, self._rounds_to_raise = False, _ROUNDS_BETWEEN_RAISES
            self._start_round(answers_to_skip=self.limit)
        else:
            self._set_best(self.limit, max(rate, _RATE_DECAY * self._best_rate))
            self._rounds_to_raise = max(0, self._rounds_to_raise - 1)
            self._start_round(answers_to_skip=0) if self._rounds_to_raise else self._raise_limit()

    def _set_best(self, limit: int, rate: float) -> None:
        self.limit = self._best_limit = limit
        self._best_rate = rate

    def _raise_limit(self) -> None:
        self.limit = min(MAX_CONCURRENCY, self.limit + (max(1, self.limit // 2) if self._grows_fast else 1))
        self._start_round(answers_to_skip=self.limit)

    def _start_round(self, answers_to_skip: int) -> None:
        """Start a round. answers_to_skip: number of answers to requests that were sent under the previous limit."""
        self._answers_to_skip, self._round_start_s = answers_to_skip, self._clock()
        self._round_answers = self._round_images = self._limited_answers = 0
