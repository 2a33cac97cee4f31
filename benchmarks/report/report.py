"""Shows records as one self-contained HTML page, which works offline and as an attachment."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.records.compare import BenchmarkResult, compare
from benchmarks.records.perf_analyzer import PerfAnalyzerResult
from benchmarks.records.record import Level, Record, translate_write_errors
from benchmarks.report import charts, level_charts
from benchmarks.report.breakdown import batch_shares, by_load, known_parts, slowest_step
from benchmarks.report.columns import LevelTable, level_tables
from benchmarks.report.comparison import comparison_sentences, comparison_table
from benchmarks.report.remarks import key_figures, load_words, remarks
from benchmarks.report.side_by_side import sections
from tritonkit import pages
from tritonkit.errors import InputError
from tritonkit.pages.figures import Chart, colour_of, plotly_script
from tritonkit.system.files import atomic_write

TEMPLATE = "report.html.jinja"


class RecordView(NamedTuple):
    """A record with its name and colour on the page."""

    name: str
    colour: str
    record: Record

    @property
    def charts(self) -> list[Chart]:
        """The charts of this record."""
        return list(_charts_of(self.record))

    @property
    def tables(self) -> list[LevelTable]:
        """The figures of this record."""
        return level_tables(self.record)

    @property
    def best_row(self) -> int:
        """The row of the best level in each table."""
        return by_load(self.record.levels).index(self.record.best)

    @property
    def command(self) -> str:
        """The command that measures this again; empty if the record does not have it."""
        return shlex.join(["bench", "run", *self.record.arguments]) if self.record.arguments else ""


class ComparisonView(NamedTuple):
    """Two records compared, or a sentence that says why they are not."""

    headings: list[str]
    rows: list[list[str]]
    sentences: list[str]


def write_report(path: Path, measured: Sequence[BenchmarkResult]) -> None:
    """Write the page atomically. Raises InputError, or ExternalError for a full or failing disk."""
    with translate_write_errors(path, "report", "--html"), atomic_write(path) as temporary:
        temporary.write_text(report_html(measured), encoding="utf-8")


def report_html(measured: Sequence[BenchmarkResult]) -> str:
    """Return the page for one record, or for the comparison of several records and results of perf_analyzer."""
    names = unique_names(measured)
    series = [charts.Series(names[at], colour_of(at), one) for at, one in enumerate(measured)]
    views = [RecordView(name, colour, one) for name, colour, one in series if isinstance(one, Record)]
    return (
        pages.templates(Path(__file__).parent)
        .get_template(TEMPLATE)
        .render(
            title=", ".join(names),
            views=views,
            others=[one for one in series if isinstance(one.measured, PerfAnalyzerResult)],
            comparison=_comparison(*measured) if len(measured) == 2 else None,
            charts=list(_common_charts(series)),
            sections=sections([view.record for view in views]),
            plotly=plotly_script(),
            remarks=remarks,
            key_figures=key_figures,
            load_words=load_words,
        )
    )


def _comparison(old: BenchmarkResult, new: BenchmarkResult) -> ComparisonView:
    try:
        compared = compare(old, new)
    except InputError as error:
        return ComparisonView([], [], [str(error)])
    return ComparisonView(*comparison_table(compared), comparison_sentences(compared))


def _common_charts(series: Sequence[charts.Series]) -> Iterator[Chart]:
    """Yield the charts in which all records are drawn."""
    is_only = len(series) == 1
    dashes = "" if is_only else " Solid: p50, dashed: p90, dotted: p99."
    yield Chart(
        "Throughput against latency",
        f"Up and left is better.{' Labels are the loads.' if is_only else dashes}",
        charts.trade_off_figure(series, is_only),
    )
    for loop, is_open in (("closed loop", False), ("open loop", True)):
        drawn = [one for one in series if charts.is_open_loop(one.measured) == is_open]
        if not any(len(one.measured.levels) > 1 for one in drawn):
            continue
        yield Chart(
            f"Throughput, {loop}",
            "Dashed line: the artifact in process. Hollow points: unstable, refused, incomplete or with errors.",
            charts.throughput_figure(drawn),
        )
        start = "the intended send" if is_open else "sending a request"
        yield Chart(f"Latency, {loop}", f"From {start} to its response.{dashes}", charts.latency_figure(drawn, is_only))
    if levels := _levels_with_percentiles(series):
        yield Chart(
            "Latency by percentile",
            "Each further nine has the same width. The last point is the slowest request.",
            charts.percentile_figure({name: level for name, _, level in levels}, [colour for _, colour, _ in levels]),
        )
    if any(one.limit for one in series):
        yield Chart(
            "In process, no server",
            "The measurements of the limit, by batch size.",
            charts.in_process_figure(series, is_only),
        )


def _levels_with_percentiles(series: Sequence[charts.Series]) -> list[tuple[str, str, Level]]:
    """Return name, colour and level: all levels of one record, or the best level of each record."""
    records = [(one.name, one.colour, one.measured) for one in series if isinstance(one.measured, Record)]
    if len(series) == len(records) == 1:
        levels = level_charts.with_histogram(records[0][2])
        return [(level.load, colour_of(at), level) for at, level in enumerate(levels)]
    return [
        (f"{name}, {record.best.load}", colour, record.best)
        for name, colour, record in records
        if record.best in level_charts.with_histogram(record)
    ]


def _charts_of(record: Record) -> Iterator[Chart]:
    """Yield the charts that show one record."""
    if known_parts(record):
        yield Chart(
            "Where the time goes",
            "Means of a request, from Triton's statistics and the client's clock.",
            level_charts.breakdown_figure(record),
        )
    if record.best in level_charts.with_histogram(record):
        yield Chart(
            "Latency histogram",
            f"At {record.best.load}. Click an entry of the legend to show another load.",
            level_charts.histogram_figure(record),
        )
    if any(batch_shares(level) for level in record.levels):
        step = next((slowest_step(level.server)[0] for level in record.levels if level.server), "")
        yield Chart(
            "Batch sizes",
            f"Images in an execution on the server{f', of the step {step}' if step else ''}.",
            level_charts.batch_figure(record),
        )
    if any(level.from_send for level in record.levels):
        yield Chart(
            "Intended, sent and answered rate",
            "On the dashed line, server and client keep up with the load. A cross is a refused level.",
            level_charts.schedule_figure(record),
        )
        yield Chart(
            "Latency from the intended and from the actual send",
            "A gap is the time that requests were late: a figure from the actual send does not charge it.",
            level_charts.send_time_figure(record),
        )


def unique_names(measured: Sequence[BenchmarkResult]) -> list[str]:
    """Return a unique name for each record: model and version, if needed with the time, then with a number."""
    names = [one.name for one in measured]
    times = [f"{one.started_utc:%Y-%m-%d %H:%M:%S}" if isinstance(one, Record) else "" for one in measured]
    names = _add_suffix_to_duplicates(names, times)
    return _add_suffix_to_duplicates(names, [f"#{number}" for number in range(1, len(measured) + 1)])


def _add_suffix_to_duplicates(names: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    counts = Counter(names)
    return [f"{name} {addition}" if counts[name] > 1 else name for name, addition in zip(names, suffixes, strict=True)]
