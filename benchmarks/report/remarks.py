"""What a reader must know about a record, in sentences: for the terminal and for the page."""

from __future__ import annotations

from typing import Literal, NamedTuple

from benchmarks.records.record import MAX_DRIFT, Level, Record, best_of

SCENARIOS = {
    "closed": "closed loop",
    "open": "open loop",
    "SingleStream": "MLPerf SingleStream",
    "MultiStream": "MLPerf MultiStream",
    "Server": "MLPerf Server",
    "Offline": "MLPerf Offline",
}
ARRIVALS = {"poisson": "Poisson arrivals", "constant": "a constant rate", "trace": "the send times of a trace"}

MIN_P99_REQUESTS = 100
"""Of fewer, no request lies above the p99."""


class Remark(NamedTuple):
    """A sentence about a record."""

    severity: Literal["bad", "warning", "info"]
    """bad: figures are missing or invalid. warning: they may mislead."""
    text: str


class KeyFigure(NamedTuple):
    """A value with its unit, and what it is."""

    value: str
    caption: str


def remarks(record: Record) -> list[Remark]:
    """Return what limits the validity of the figures, the worst first, and how the limit was measured."""
    found = [Remark("bad", f"INCOMPLETE: {missing_levels(record)}")] if record.incomplete else []
    for level in record.levels:
        if level.refused:
            found.append(Remark("bad", f"REFUSED: p99 at {level.load}: {level.refused}"))
        if level.incomplete:
            found.append(Remark("bad", f"INCOMPLETE: {level.load}: {level.incomplete}"))
        if level.remark:
            found.append(Remark("warning", f"{level.load}: {level.remark}"))
    if any(level.errors for level in record.levels):
        first = next(level.first_error for level in record.levels if level.first_error)
        count = sum(level.errors for level in record.levels)
        found.append(Remark("bad", f"ERRORS: {count} requests failed; the first: {first}"))
    if not all(level.stable or level.incomplete for level in record.levels):
        text = (
            f"unstable: no three windows in a row agreed within 10 % in {record.load.max_windows}; "
            "the figures are those of the last three. Is the machine busy with something else?"
        )
        found.append(Remark("warning", text))
    if few := [level.load for level in record.levels if level.requests < MIN_P99_REQUESTS]:
        text = (
            f"few requests at {', '.join(few)}: the p99 of fewer than {MIN_P99_REQUESTS} is their slowest; use longer "
            "windows with --window-s"
        )
        found.append(Remark("warning", text))
    if limited := [level.load for level in record.levels if level.client.is_limit]:
        text = f"the load generator was the limit at {', '.join(limited)}: the server may be faster than shown"
        found.append(Remark("warning", text))
    if record.limit and record.limit.exceeded:
        found.append(Remark("warning", f"above the limit: {record.limit.exceeded}"))
    if record.limit and abs(record.limit.drift) > MAX_DRIFT:
        text = f"drift: the limit changed by {record.limit.drift:+.0%} between before and after the load"
        found.append(Remark("warning", text))
    if record.load.generated:
        found.append(Remark("info", "generated input: random values, so the outputs mean nothing"))
    found.append(Remark("info", _limit(record)))
    return sorted(found, key=lambda remark: ("bad", "warning", "info").index(remark.severity))


def missing_levels(record: Record) -> str:
    """Return how many levels an incomplete record has, and why the others are missing."""
    planned = record.load.planned_levels
    return f"{len(record.levels)}{f' of {planned}' if planned else ''} levels; {record.incomplete}"


def notes(level: Level) -> str:
    """Return the problems of a level in a few words; empty if there are none."""
    problems = {
        f"{level.errors} errors": level.errors,
        "refused": level.refused,
        "incomplete": level.incomplete,
        "unstable": not (level.stable or level.incomplete),
        "client is the limit": level.client.is_limit,
    }
    return ", ".join(words for words, is_there in problems.items() if is_there)


def load_words(record: Record) -> str:
    """Return the kind of load in words, such as `open loop, Poisson arrivals, 1 image a request`."""
    load = record.load
    scenario = f"{SCENARIOS[load.scenario]}, {ARRIVALS[load.arrivals]}" if load.arrivals else SCENARIOS[load.scenario]
    bound = f", p99 at most {load.p99_bound_ms:g} ms" if load.p99_bound_ms else ""
    content = "image file" if load.encoded else "image"
    return f"{scenario}{bound}, {load.batch} {content}{'s' * (load.batch > 1)} a request"


def key_figures(record: Record) -> list[KeyFigure]:
    """Return the figures at the head of a report: throughput, share of the limit, latency, result of the scenario."""
    best = record.best
    figures = [KeyFigure(_rate(best.images_per_s), f"images/s at {best.load}")]
    if best.share_of_limit is not None:
        figures.append(KeyFigure(f"{best.share_of_limit:.0%}", "of the in-process limit"))
    p99 = "refused" if best.refused else f"{best.p99_ms:,.1f} ms"
    figures.append(KeyFigure(p99, f"p99 latency there; p50 {best.p50_ms:,.1f} ms"))
    return [*figures, *scenario_result(record)]


def scenario_result(record: Record) -> list[KeyFigure]:
    """Return the figure that MLPerf Inference reports for a scenario; empty for other loads."""
    best, load = record.best, record.load
    match load.scenario:
        case "SingleStream":
            return [KeyFigure(f"{best.p90_ms:,.2f} ms", "SingleStream: p90 latency")]
        case "MultiStream":
            return [KeyFigure(f"{best.p99_ms:,.2f} ms", f"MultiStream: p99 latency of {load.batch} images")]
        case "Offline":
            return [KeyFigure(_rate(best.images_per_s), "Offline: images/s")]
        case "Server":
            within = [level for level in record.levels if level.meets(load.p99_bound_ms or 0)]
            fastest = max((level.rate or 0 for level in within), default=None)
            if fastest is None:
                return [KeyFigure("none", f"Server: no rate had a p99 of at most {load.p99_bound_ms:g} ms")]
            return [KeyFigure(_rate(fastest), f"Server: requests/s with a p99 of at most {load.p99_bound_ms:g} ms")]
        case _:
            return []


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def _limit(record: Record) -> str:
    limit = record.limit
    if limit is None:
        return f"limit: none, {record.limit_missing}"
    threads = f"{limit.threads} thread{'s' * (limit.threads > 1)}" if limit.threads else "all cores"
    if limit.sessions > 1:
        threads = f"{limit.sessions} parallel sessions of {threads} each"
    before = best_of(limit.before).images_per_s
    after = f"{best_of(limit.after).images_per_s:,.1f}" if limit.after else "not measured"
    return (
        f"limit: {limit.images_per_s:,.1f} images/s, the same artifact in process at batch {limit.batch} on "
        f"{threads} ({before:,.1f} before the load, {after} after)"
    )
