"""Prints a record as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.records.record import Level, Record, best_of

PIPE_WIDTH = 120
"""Columns for output to a file or a pipe."""
MAX_DRIFT = 0.1


def print_record(record: Record) -> None:
    """Print the levels of a record, its limit and remarks."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, PIPE_WIDTH)
    title = f"{record.name} at {record.subject.url}, batch {record.load.batch}, {record.started_utc:%Y-%m-%d %H:%M} UTC"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold")
    latencies = ("p50 ms", "p90 ms", "p95 ms", "p99 ms")
    for heading in ("load", "images/s", "of limit", *latencies, "mean batch", "queue µs", "requests"):
        table.add_column(heading, justify="right")
    table.add_column("notes", style="yellow")
    for level in record.levels:
        table.add_row(
            level.load,
            f"{level.images_per_s:,.1f}",
            "" if level.share_of_limit is None else f"{level.share_of_limit:.0%}",
            *(f"{latency:,.2f}" for latency in (level.p50_ms, level.p90_ms, level.p95_ms, level.p99_ms)),
            _number(level.server.mean_batch if level.server else None, ".2f"),
            _number(level.server.queue_us if level.server else None, ",.0f"),
            f"{level.requests:,}",
            notes(level),
            style="bold" if level is record.best else "",
        )
    console.print(table)
    for line in remarks(record):
        console.print(Text(line))
    console.print()


def remarks(record: Record) -> list[str]:
    """Return remarks about the reliability of the results, one sentence each."""
    lines = [f"INCOMPLETE: {missing_levels(record)}"] if record.incomplete else []
    lines.append(_limit(record))
    if record.load.generated:
        lines.append("generated input: random values, so the outputs mean nothing")
    if any(level.errors for level in record.levels):
        first = next(level.first_error for level in record.levels if level.first_error)
        lines.append(f"ERRORS: {sum(level.errors for level in record.levels)} requests failed; the first: {first}")
    if not all(level.stable for level in record.levels):
        lines.append(
            f"unstable: no three windows in a row agreed within 10 % in {record.load.max_windows}; "
            "the figures are those of the last three. Is the machine busy with something else?"
        )
    if record.limit and abs(record.limit.drift) > MAX_DRIFT:
        lines.append(f"drift: the limit changed by {record.limit.drift:+.0%} between before and after the load")
    return lines


def missing_levels(record: Record) -> str:
    """Return how many levels an incomplete record has, and why the others are missing."""
    return f"{len(record.levels)} of {record.load.planned_levels} levels; {record.incomplete}"


def notes(level: Level) -> str:
    """Return the problems of a level in a few words; empty if there are none."""
    words = [f"{level.errors} errors"] * bool(level.errors) + ["unstable"] * (not level.stable)
    return ", ".join(words)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _limit(record: Record) -> str:
    limit = record.limit
    if limit is None:
        return f"limit: none, {record.limit_missing}"
    threads = f"{limit.threads} threads" if limit.threads else "all cores"
    before = best_of(limit.before).images_per_s
    after = f"{best_of(limit.after).images_per_s:,.1f}" if limit.after else "not measured"
    return (
        f"limit: {limit.images_per_s:,.1f} images/s, the same artifact in process at batch {limit.batch} on "
        f"{threads} ({before:,.1f} before the load, {after} after)"
    )
