"""Reads a trace: the times at which requests arrived, from a list of seconds or from a recorded log.

A list has one time in seconds a line. A log has one JSON object a line:

* `time`: seconds since 1970, or an ISO 8601 time with its offset.
* `request_time`, optional: seconds that the request took. It is subtracted, because nginx writes a line when a request
  ends: `log_format bench escape=json '{"time": $msec, "request_time": $request_time}';`

Other fields are ignored. Lines of a log may be in any order; times of a list ascend.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.load.arrivals import TraceArrivals
from tritonkit.errors import InputError, Problem

LONGEST_S = 7 * 24 * 3600
"""Between the first and the last time. A time in milliseconds would let a replay run for weeks."""
_SHOWN_PROBLEMS = 10


def read_trace(path: Path) -> TraceArrivals:
    """Read the times of a trace, as seconds from its first request.

    Raises InputError with all faulty lines, for an unreadable file, and for a file without times.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path}: the trace cannot be read ({reason})", code="trace.unreadable") from error
    while lines and not lines[-1].strip():
        lines.pop()
    is_log = next((line.lstrip().startswith("{") for line in lines if line.strip()), False)
    times, problems = _parse(lines, _time_of_log_line if is_log else _time_of_number)
    if not is_log:
        problems += [
            f"line {later}: {times[later]:g} s is before line {earlier}, {times[earlier]:g} s; times must ascend"
            for earlier, later in pairwise(times)
            if times[later] < times[earlier]
        ]
    if problems:
        more = [f"and {len(problems) - _SHOWN_PROBLEMS} more"] if len(problems) > _SHOWN_PROBLEMS else []
        raise InputError(
            "\n  ".join([f"{path}: is not a trace of request times:", *problems[:_SHOWN_PROBLEMS], *more]),
            code="trace.invalid",
            problems=[Problem("trace.line", problem) for problem in problems],
        )
    if not times:
        raise InputError(
            f"{path}: has no request times; expected a time in seconds a line, or JSON lines with `time`",
            code="trace.empty",
        )
    ascending = sorted(times.values())
    if (lasted_s := ascending[-1] - ascending[0]) > LONGEST_S:
        raise InputError(
            f"{path}: its first and last time are {lasted_s:.3g} s apart; expected times in seconds, at most "
            f"{LONGEST_S} s apart, because a trace takes as long to replay",
            code="trace.too_long",
        )
    return TraceArrivals(tuple(time - ascending[0] for time in ascending))


def _parse(lines: list[str], parse: Callable[[str], float]) -> tuple[dict[int, float], list[str]]:
    """Return times by line number, and a text for each line that has none."""
    times, problems = {}, []
    for number, line in enumerate(lines, start=1):
        try:
            times[number] = parse(line.strip())
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    return times, problems


def _time_of_number(line: str) -> float:
    if not line:
        raise ValueError("is empty; expected a time in seconds")
    try:
        seconds = float(line)
    except ValueError:
        raise ValueError(f"expected a time in seconds, got {line[:40]!r}") from None
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"expected a time in seconds from 0 on, got {line[:40]}")
    return seconds


def _time_of_log_line(line: str) -> float:
    try:
        entry = json.loads(line) if line else {}
    except ValueError:
        raise ValueError("is not JSON") from None
    if not isinstance(entry, dict) or "time" not in entry:
        raise ValueError("expected a JSON object with `time`")
    return _seconds(entry["time"]) - _number(entry.get("request_time", 0), "request_time")


def _seconds(value: Any) -> float:
    if not isinstance(value, str):
        return _number(value, "time")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return _number(value, "time")
    if moment.tzinfo is None:
        raise ValueError(f"time {value!r} has no offset from UTC, such as Z or +02:00")
    return moment.timestamp()


def _number(value: Any, field: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"expected {field} in seconds from 0 on, got {value!r}")
    return number
