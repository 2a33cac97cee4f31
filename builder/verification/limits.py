"""Parse the option `--limit`: `max_abs=0.05`, or `fp16.max_abs=0.05` for one precision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tritonkit.comparison import Limits
from tritonkit.errors import InputError, Problem
from tritonkit.runtimes.formats import Precision

_RANGES: dict[str, tuple[float, float]] = {
    "max_abs": (0, math.inf),
    "relative": (0, math.inf),
    "decisions": (0, 1),
    "quality": (0, 1),
    "tie": (0, 1),
    "slack": (0, math.inf),
    "probes": (0, math.inf),
}
"""The allowed range of each field of `Limits`."""


def limits_from(options: Sequence[str], base: Mapping[Precision, Limits]) -> dict[Precision, Limits]:
    """Replace values in the limits of `base`.

    options: `NAME=NUMBER` for every precision, `PRECISION.NAME=NUMBER` for one precision, which takes precedence.
    Raises InputError that lists all problems.
    """
    values: dict[str, float] = {}
    problems = []
    for option in options:
        name, _, number = (part.strip() for part in option.partition("="))
        problem = _option_problem(name, number, values, base)
        if problem is None:
            values[name] = float(number)
        else:
            problems.append(Problem(problem.code, f"--limit {option}: {problem.message}"))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise InputError(f"limits cannot be used:\n{lines}", code="option.limit", problems=problems)
    return {precision: limits.model_copy(update=_limits_for(precision, values)) for precision, limits in base.items()}


def _option_problem(
    name: str, number: str, values: Mapping[str, float], base: Mapping[Precision, Limits]
) -> Problem | None:
    """The problem of one option, None where it is valid."""
    precision, dot, field = name.rpartition(".")
    if field not in _RANGES:
        return Problem(
            "option.unknown_limit", f"unknown limit {field!r}; expected NAME=NUMBER with one of {', '.join(_RANGES)}"
        )
    if dot and precision not in base:
        return Problem(
            "option.limit_precision",
            f"unknown precision {precision!r}; expected one of {', '.join(base)}, or no precision for all of them",
        )
    if name in values:
        return Problem("option.limit_repeated", "is set twice")
    minimum, maximum = _RANGES[field]
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if math.isfinite(value) and minimum <= value <= maximum:
        return None
    expected = f"from {minimum} to {maximum}" if math.isfinite(maximum) else "of at least 0"
    return Problem("option.limit_range", f"expected a number {expected}")


def _limits_for(precision: Precision, values: Mapping[str, float]) -> dict[str, float]:
    """The new values for one precision, by field name."""
    for_all = {name: value for name, value in values.items() if "." not in name}
    prefix = f"{precision}."
    return for_all | {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
