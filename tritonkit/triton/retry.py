"""Retries of requests that are safe to repeat."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from tritonkit.errors import BusyError, DeadlineError, NotReadyError, TritonkitError, UnreachableError

Answer = TypeVar("Answer")

TRANSIENT = (UnreachableError, NotReadyError, BusyError, DeadlineError)
"""Errors that may disappear within seconds."""
_FIRST_S, _LONGEST_S = 0.05, 2.0


@dataclass
class RetryPolicy:
    """Repeats a failed request with growing pauses, up to a time limit. Safe to use from several threads."""

    limit_s: float
    """Time limit, counted from the first failure."""
    on_failure: Callable[[TritonkitError], None] = lambda error: None
    """Called for each failure before the retry, in the thread of the request."""
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set it to stop all retries."""

    def call(
        self, request: Callable[[], Answer], passing: tuple[type[TritonkitError], ...] = TRANSIENT, option: str = ""
    ) -> Answer:
        """Call `request`, repeat it while it raises a `passing` error, and return its answer.

        option: the command's option for the time limit, for the message of the last error, which is raised.
        """
        pause_s, give_up_at = _FIRST_S, 0.0
        while True:
            try:
                return request()
            except passing as error:
                give_up_at = give_up_at or time.monotonic() + self.limit_s
                left_s = give_up_at - time.monotonic()
                if self.stopped.is_set() or not self.limit_s:
                    raise
                if left_s <= 0:
                    retried = f"Retried for {self.limit_s:g} s{f' ({option})' if option else ''}."
                    raise type(error)(f"{error} {retried}", code=error.code) from error
                self.on_failure(error)
                # The random factor spreads requests that failed at the same time.
                self.stopped.wait(min(left_s, pause_s * random.uniform(0.5, 1.5)))  # noqa: S311 - no secret
                pause_s = min(2 * pause_s, _LONGEST_S)
