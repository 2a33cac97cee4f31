"""The figures of a record as tables of text, a row for each level: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.records.compare import ResultLevel
from benchmarks.records.perf_analyzer import PerfAnalyzerResult
from benchmarks.records.record import Level, Record
from benchmarks.report.breakdown import (
    AnyLevel,
    batch_shares,
    breakdown_ms,
    by_load,
    known_parts,
    load_of,
    range_text,
    slowest_step,
)
from benchmarks.report.remarks import notes

NOTES, REFUSED = "notes", "refused"
"""A heading, and a cell in place of an invalid figure."""
_Cell = Callable[[Level], str]


class LevelTable(NamedTuple):
    """A table whose first column is the load."""

    title: str
    headings: list[str]
    rows: list[list[str]]


def level_tables(record: Record) -> list[LevelTable]:
    """Return results, schedule, parts of the time, batch sizes, client and GPU; what is empty is left out."""
    levels = by_load(record.levels)
    step = next((slowest_step(level.server)[0] for level in levels if level.server), "")
    tables = [
        _table("throughput and latency", levels, _RESULTS),
        _table("schedule of the open loop, ms", levels, _SCHEDULE),
        _table("where the time of a mean request goes, ms", levels, _time_cells(record)),
        _table(f"share of executions by batch size{f' of {step}' if step else ''}", levels, _batch_cells(levels)),
        _table("mean batch, client and GPU", levels, _RESOURCES),
    ]
    return [table for table in tables if len(table.headings) > 1]


def csv_table(result: PerfAnalyzerResult) -> LevelTable:
    """Return what a CSV of perf_analyzer has."""
    return _table("throughput and latency", result.levels, _FIGURES)


def _table(title: str, levels: Sequence[AnyLevel], cells: Mapping[str, Callable[[AnyLevel], str]]) -> LevelTable:
    columns = {heading: [cell(level) for level in levels] for heading, cell in cells.items()}
    filled = {heading: column for heading, column in columns.items() if any(column)}
    load = "requests/s" if any(level.rate for level in levels) else "concurrency"
    rows = [[f"{load_of(level):g}", *(column[at] for column in filled.values())] for at, level in enumerate(levels)]
    return LevelTable(title, [load, *filled], rows)


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _ms(value: float | None) -> str:
    """Return a time with three or more digits, such as 1.23, 123.4 and 12,345."""
    return _number(value, 2 if (value or 0) < 100 else 1 if (value or 0) < 1000 else 0)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


_FIGURES: dict[str, Callable[[ResultLevel], str]] = {
    "images/s": lambda level: _number(level.images_per_s, 1),
    "p50 ms": lambda level: _ms(level.p50_ms),
    "p90 ms": lambda level: _ms(level.p90_ms),
    "p95 ms": lambda level: _ms(level.p95_ms),
    "p99 ms": lambda level: REFUSED if level.refused else _ms(level.p99_ms),
}
_RESULTS: dict[str, _Cell] = {
    "images/s": _FIGURES["images/s"],
    "limit": lambda level: _share(level.share_of_limit),
    **_FIGURES,
    NOTES: notes,
}
_SCHEDULE: dict[str, _Cell] = {
    "sent/s": lambda level: _number(level.sent_per_s, 1),
    "p50 from send": lambda level: _ms(level.from_send.p50_ms if level.from_send else None),
    "p99 from send": lambda level: (
        REFUSED if level.refused else _ms(level.from_send.p99_ms if level.from_send else None)
    ),
    "slip p50": lambda level: _ms(level.slip.p50_ms if level.slip else None),
    "slip p99": lambda level: _ms(level.slip.p99_ms if level.slip else None),
    "slip max": lambda level: _ms(level.slip.max_ms if level.slip else None),
    "sent late": lambda level: f"{level.slip.late_share:.1%}" if level.slip else "",
}
_RESOURCES: dict[str, _Cell] = {
    "requests": lambda level: f"{level.requests:,}",
    "batch": lambda level: _number(level.server.mean_batch if level.server else None),
    "cores": lambda level: _number(level.client.cores),
    "processes": lambda level: f"{level.client.processes}",
    "GPU": lambda level: _share(level.gpu.utilization if level.gpu else None),
    "GPU MiB": lambda level: _number(level.gpu.memory_mib if level.gpu else None, 0),
    "watts": lambda level: _number(level.gpu.watts if level.gpu else None, 0),
    "J/image": lambda level: _number(level.gpu.joules_per_image if level.gpu else None, 3),
}


def _time_cells(record: Record) -> dict[str, _Cell]:
    """Return the parts of the mean latency, and the mean."""

    def cell(part: str) -> _Cell:
        return lambda level: _ms(breakdown_ms(level, record.load.batch).get(part) or None)

    cells = {part: cell(part) for part in known_parts(record)}
    return {**cells, "mean": lambda level: _ms(level.mean_ms)} if cells else {}


def _batch_cells(levels: Sequence[Level]) -> dict[str, _Cell]:
    ranges = sorted({sizes for level in levels for sizes in batch_shares(level)})

    def cell(sizes: tuple[int, int]) -> _Cell:
        return lambda level: _share(batch_shares(level).get(sizes))

    return {range_text(sizes): cell(sizes) for sizes in ranges}
