"""Prints a record as tables that fit a terminal of 80 columns."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.records.compare import BenchmarkResult
from benchmarks.records.record import Record
from benchmarks.report.breakdown import by_load
from benchmarks.report.columns import NOTES, LevelTable, csv_table, level_tables
from benchmarks.report.remarks import load_words, remarks, scenario_result

STYLES = {"bad": "bold red", "warning": "yellow", "info": ""}


def print_measured(measured: BenchmarkResult) -> None:
    """Print a record, or the levels of a result of perf_analyzer."""
    if isinstance(measured, Record):
        print_record(measured)
        return
    console = Console(highlight=False)
    console.print(
        Text(measured.name, "bold"), _rich_table(csv_table(measured), best=measured.levels.index(measured.best))
    )


def print_record(record: Record) -> None:
    """Print the levels of a record, the parts of their time, the limit and remarks."""
    console = Console(highlight=False)
    console.print(Text(f"{record.name} at {record.subject.url}, {record.started_utc:%Y-%m-%d %H:%M} UTC", "bold"))
    console.print(Text(load_words(record)))
    best = by_load(record.levels).index(record.best)
    for table in level_tables(record):
        console.print()
        console.print(Text(table.title, "dim"))
        console.print(_rich_table(table, best))
    console.print()
    for figure in scenario_result(record):
        console.print(Text(f"{figure.caption}: {figure.value}", "bold"))
    for remark in remarks(record):
        console.print(Text(remark.text, STYLES[remark.severity]), soft_wrap=not console.is_terminal)
    console.print()


def _rich_table(table: LevelTable, best: int) -> Table:
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(table.headings):
        if heading == NOTES:
            drawn.add_column(heading, style="yellow")
        else:
            drawn.add_column(heading, justify="right", no_wrap=number == 0, overflow="fold")
    for number, row in enumerate(table.rows):
        drawn.add_row(*row, style="bold" if number == best else "")
    return drawn
