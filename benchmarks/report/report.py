"""Shows records as one self-contained HTML page, which works offline and as an attachment."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from benchmarks.records.record import Level, Record
from benchmarks.report import charts, level_charts
from benchmarks.report.breakdown import batch_shares, breakdown_ms, by_load, slowest_step
from benchmarks.report.columns import LevelTable, level_tables
from benchmarks.report.figures import CHART_OPTIONS, colour_of
from benchmarks.report.remarks import key_figures, load_words, remarks
from benchmarks.report.side_by_side import sections
from tritonkit import pages
from tritonkit.errors import InputError
from tritonkit.system.files import atomic_write

TEMPLATE = "report.html.jinja"


class Chart(NamedTuple):
    """A chart on the page."""

    title: str
    caption: str
    figure: go.Figure

    @property
    def html(self) -> Markup:
        """The chart as HTML, without Plotly's script."""
        html = self.figure.to_html(full_html=False, include_plotlyjs=False, config=CHART_OPTIONS)
        return Markup(html)  # noqa: S704 - Plotly escapes its input


class RecordView(charts.Series):
    """A record with what the page shows of it alone."""

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
        return by_load(self.record).index(self.record.best)

    @property
    def command(self) -> str:
        """The command that measures this again; empty if the record does not have it."""
        return shlex.join(["bench", "run", *self.record.arguments]) if self.record.arguments else ""


def write_report(path: Path, records: Sequence[Record]) -> None:
    """Write the page atomically. Raises InputError."""
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(report_html(records), encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: the report cannot be written ({error}); choose another --html", code="output.unwritable"
        ) from error


def report_html(records: Sequence[Record]) -> str:
    """Return the page for one record, or for the comparison of several."""
    names = unique_names(records)
    views = [
        RecordView(name, colour_of(at), record) for at, (name, record) in enumerate(zip(names, records, strict=True))
    ]
    return (
        pages.templates(Path(__file__).parent)
        .get_template(TEMPLATE)
        .render(
            views=views,
            charts=list(_common_charts(views)),
            sections=sections(records),
            plotly=Markup(get_plotlyjs()),  # noqa: S704 - the library's own script
            remarks=remarks,
            key_figures=key_figures,
            load_words=load_words,
        )
    )


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
        drawn = [one for one in series if bool(one.record.best.rate) == is_open]
        if not any(len(one.record.levels) > 1 for one in drawn):
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
    if any(one.record.limit for one in series):
        yield Chart(
            "In process, no server",
            "The measurements of the limit, by batch size.",
            charts.in_process_figure(series, is_only),
        )


def _levels_with_percentiles(series: Sequence[charts.Series]) -> list[tuple[str, str, Level]]:
    """Return name, colour and level: all levels of one record, or the best level of each record."""
    if len(series) == 1:
        levels = level_charts.with_histogram(series[0].record)
        return [(level.load, colour_of(at), level) for at, level in enumerate(levels)]
    return [
        (f"{name}, {record.best.load}", colour, record.best)
        for name, colour, record in series
        if record.best in level_charts.with_histogram(record)
    ]


def _charts_of(record: Record) -> Iterator[Chart]:
    """Yield the charts that show one record."""
    if any(breakdown_ms(level, record.load.batch) for level in record.levels):
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
            "Intended and achieved rate",
            "On the dashed line, server and client keep up with the load. A cross is a refused level.",
            level_charts.schedule_figure(record),
        )
        yield Chart(
            "Latency from the intended and from the actual send",
            "A gap is the time that requests were late: a figure from the actual send does not charge it.",
            level_charts.send_time_figure(record),
        )


def unique_names(records: Sequence[Record]) -> list[str]:
    """Return a unique name for each record: model and version, if needed with the time, then with a number."""
    names = [record.name for record in records]
    names = _add_suffix_to_duplicates(names, [f"{record.started_utc:%Y-%m-%d %H:%M:%S}" for record in records])
    return _add_suffix_to_duplicates(names, [f"#{number}" for number in range(1, len(records) + 1)])


def _add_suffix_to_duplicates(names: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    counts = Counter(names)
    return [f"{name} {addition}" if counts[name] > 1 else name for name, addition in zip(names, suffixes, strict=True)]
