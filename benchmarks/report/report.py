"""Shows records as one self-contained HTML page, which works offline and as an attachment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from benchmarks.records.record import Record
from benchmarks.report import charts
from benchmarks.report.table import notes, remarks
from tritonkit import pages
from tritonkit.errors import InputError
from tritonkit.system.files import atomic_write

TEMPLATE = "report.html.jinja"
CHART_OPTIONS = {"displayModeBar": False, "responsive": True}


class Chart(NamedTuple):
    """A chart on the page."""

    title: str
    caption: str
    html: Markup


CHARTS: tuple[tuple[str, str, Callable[[Sequence[str], Sequence[Record]], go.Figure]], ...] = (
    (
        "Throughput",
        "Dashed line: the artifact in process. Hollow points: unstable or with errors.",
        charts.throughput_figure,
    ),
    ("Latency", "From sending a request to receiving its response.", charts.latency_figure),
    (
        "Throughput against latency",
        "Labels are the concurrency. Up and left is better.",
        charts.trade_off_figure,
    ),
    ("In process, no server", "The measurements of the limit, by batch size.", charts.in_process_figure),
)


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
    has_limit = any(record.limit for record in records)
    chart_entries = [entry for entry in CHARTS if has_limit or entry[2] is not charts.in_process_figure]
    drawn = []
    for number, (title, caption, figure) in enumerate(chart_entries):
        html = figure(names, records).to_html(
            full_html=False, include_plotlyjs=False, config=CHART_OPTIONS, div_id=f"chart-{number}"
        )
        drawn.append(Chart(title, caption, Markup(html)))  # noqa: S704 - Plotly escapes its input
    return (
        pages.templates(Path(__file__).parent)
        .get_template(TEMPLATE)
        .render(
            records=list(zip(names, records, charts.COLOURS * len(records), strict=False)),
            charts=drawn,
            plotly=Markup(get_plotlyjs()),  # noqa: S704 - the library's own script
            notes=notes,
            remarks=remarks,
        )
    )


def unique_names(records: Sequence[Record]) -> list[str]:
    """Return a unique name for each record: model and version, if needed with the time, then with a number."""
    names = [record.name for record in records]
    names = _add_suffix_to_duplicates(names, [f"{record.started_utc:%Y-%m-%d %H:%M:%S}" for record in records])
    return _add_suffix_to_duplicates(names, [f"#{number}" for number in range(1, len(records) + 1)])


def _add_suffix_to_duplicates(names: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    counts = Counter(names)
    return [f"{name} {addition}" if counts[name] > 1 else name for name, addition in zip(names, suffixes, strict=True)]
