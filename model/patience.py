"""Asking again what is safe to ask again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from model.errors import (
    BusyError,
    DeadlineError,
    NotReadyError,
    TritonkitError,
    UnreachableError,
)

Answer = TypeVar("Answer")

PASSING = (UnreachableError, NotReadyError, BusyError, DeadlineError)
"""What may be over in a moment."""
_FIRST_S, _LONGEST_S = 0.05, 2.0


@dataclass
class RetryPolicy:
    """For how long a failure is borne with, counted from the first one. Safe to use from several threads."""

    for_s: float
    on_failure: Callable[[TritonkitError], None] = lambda error: None
    """Told of each failure before the request is repeated, in the thread of the request."""
    over: threading.Event = field(default_factory=threading.Event)
    """Once set, nothing is repeated any more."""

    def ask(
        self, request: Callable[[], Answer], passing: tuple[type[TritonkitError], ...] = PASSING, option: str = ""
    ) -> Answer:
        """The answer of `request`, repeated while it raises what is `passing`, with growing pauses.

        option: the option of the command that would have us wait longer, for the last error, which is raised.
        """
        pause_s, give_up_at = _FIRST_S, 0.0
        while True:
            try:
                return request()
            except passing as error:
                give_up_at = give_up_at or time.monotonic() + self.for_s
                left_s = give_up_at - time.monotonic()
                if left_s <= 0 or self.over.is_set():
                    raise self._final_error(error, option) from error
                self.on_failure(error)
                # Requests that failed together do not come back together.
                self.over.wait(min(left_s, pause_s * random.uniform(0.5, 1.5)))  # noqa: S311 - no secret
                pause_s = min(2 * pause_s, _LONGEST_S)

    def _final_error(self, error: TritonkitError, option: str) -> TritonkitError:
        if not self.for_s or self.over.is_set():
            return error
        return type(error)(f"{error} Asked again for {self.for_s:g} s{f' ({option})' if option else ''}.")
