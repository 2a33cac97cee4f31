"""The options that choose a load: their words, and `--concurrency` and `--rate` as levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

from tritonkit.errors import InputError

MlperfScenario = Literal["SingleStream", "MultiStream", "Server", "Offline"]
Arrivals = Literal["poisson", "constant"]
DEFAULT_CONCURRENCY = "1:64"
Number = TypeVar("Number", int, float)
MAX_CONCURRENCY = 1024
MIN_RATE, MAX_RATE = 0.01, 100_000
"""Requests a second."""


def concurrency_levels(text: str) -> tuple[int, ...]:
    """Parse `4`, `1:64` (doubling, with the end included) or `1,8,32`. Raises InputError."""
    levels = _levels(text, int)
    if not levels or not 1 <= levels[0] <= levels[-1] <= MAX_CONCURRENCY:
        raise InputError(
            f"--concurrency {text}: expected a number such as 4, a doubling range such as 1:64, or a list such as "
            f"1,8,32, all in 1..{MAX_CONCURRENCY}",
            code="option.concurrency",
        )
    return levels


def rate_levels(text: str) -> tuple[float, ...]:
    """Parse requests a second: `50`, `10:80` (doubling, with the end included) or `10,25.5`. Raises InputError."""
    levels = _levels(text, float)
    if not levels or not MIN_RATE <= levels[0] <= levels[-1] <= MAX_RATE:
        raise InputError(
            f"--rate {text}: expected requests a second such as 50, a doubling range such as 10:80, or a list such as "
            f"10,25.5,40, all in {MIN_RATE:g}..{MAX_RATE}",
            code="option.rate",
        )
    return levels


def _levels(text: str, parse: Callable[[str], Number]) -> tuple[Number, ...]:
    """Return the levels, ascending; none if the text has another form."""
    try:
        if ":" not in text:
            return tuple(sorted(set(map(parse, text.split(",")))))
        first, last = map(parse, text.split(":"))
    except ValueError:
        return ()
    levels = [last] if 0 < first <= last else []
    while 0 < first < last:
        levels.append(first)
        first *= 2
    return tuple(sorted(levels))
