"""Limits of one's own, from the words of `--limit`: `max_abs=0.05`, or `fp16.max_abs=0.05` for one precision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from builder.targets import Precision
from model.comparison import Limits
from model.errors import InputError

_RANGES: dict[str, tuple[float, float]] = {
    "max_abs": (0, math.inf),
    "relative": (0, math.inf),
    "decisions": (0, 1),
    "quality": (0, 1),
    "tie": (0, 1),
    "slack": (0, math.inf),
    "probes": (0, math.inf),
}
"""What a limit may be, by the field of `Limits`."""


def limits_from(words: Sequence[str], base: Mapping[Precision, Limits]) -> dict[Precision, Limits]:
    """The limits of `base`, some replaced.

    words: `NAME=NUMBER` for every precision, `PRECISION.NAME=NUMBER` for one, which counts more, wherever it stands.
    Raises InputError that lists everything wrong with them.
    """
    given: dict[str, float] = {}
    problems = []
    for word in words:
        name, _, number = (part.strip() for part in word.partition("="))
        problem = _problem(name, number, given, base)
        if problem is None:
            given[name] = float(number)
        else:
            problems.append(f"  --limit {word}: {problem}")
    if problems:
        raise InputError("\n".join(["limits cannot be used:", *problems]))
    return {precision: limits.model_copy(update=_of(precision, given)) for precision, limits in base.items()}


def _problem(name: str, number: str, given: Mapping[str, float], base: Mapping[Precision, Limits]) -> str | None:
    """What is wrong with one limit, None when nothing is."""
    precision, dot, field = name.rpartition(".")
    if field not in _RANGES:
        return f"there is no limit {field!r}; expected NAME=NUMBER with one of {', '.join(_RANGES)}"
    if dot and precision not in base:
        return f"there is no precision {precision!r}; expected one of {', '.join(base)}, or none for all of them"
    if name in given:
        return "is given twice"
    least, most = _RANGES[field]
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if math.isfinite(value) and least <= value <= most:
        return None
    return f"expected a number {f'from {least} to {most}' if math.isfinite(most) else 'of at least 0'}"


def _of(precision: Precision, given: Mapping[str, float]) -> dict[str, float]:
    """What was given for a precision, by field."""
    for_all = {name: value for name, value in given.items() if "." not in name}
    prefix = f"{precision}."
    return for_all | {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
