"""Records as one self-contained page: no address in it is fetched, so it works offline and as an attachment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from benchmarks import charts
from benchmarks.record import Record
from benchmarks.table import notes, remarks
from model import pages
from model.errors import InputError
from model.files import atomic_write

TEMPLATE = "report.html.jinja"
CHART_OPTIONS = {"displayModeBar": False, "responsive": True}


class Chart(NamedTuple):
    """A figure on the page."""

    title: str
    caption: str
    html: Markup


CHARTS: tuple[tuple[str, str, Callable[[Sequence[str], Sequence[Record]], go.Figure]], ...] = (
    (
        "Throughput",
        "Dashed: the artifact in process. Hollow: unstable or failing.",
        charts.throughput,
    ),
    ("Latency", "From sending a request to holding its answer.", charts.latency),
    ("Throughput against latency", "Numbers are the concurrency. Up and to the left is better.", charts.trade_off),
    ("In process, no server", "Where the limit comes from, by batch size.", charts.in_process),
)


def write_report(path: Path, records: Sequence[Record]) -> None:
    """Write the page, whole or not at all. Raises InputError."""
    try:
        with atomic_write(path) as beside:
            beside.write_text(report_html(records), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: the report cannot be written ({error}); choose another --html") from error


def report_html(records: Sequence[Record]) -> str:
    """The page for one record, or for several laid over each other."""
    names = unlike_names(records)
    return (
        pages.templates(Path(__file__).parent)
        .get_template(TEMPLATE)
        .render(
            records=list(zip(names, records, charts.COLOURS * len(records), strict=False)),
            charts=_charts(names, records),
            plotly=Markup(get_plotlyjs()),  # noqa: S704 - the library's own script
            notes=notes,
            remarks=remarks,
        )
    )


def unlike_names(records: Sequence[Record]) -> list[str]:
    """A name for each record: model and version, with the time where that is not enough, numbered as a last resort."""
    names = [record.name for record in records]
    names = _told_apart(names, [f"{record.started_utc:%Y-%m-%d %H:%M:%S}" for record in records])
    return _told_apart(names, [f"#{number}" for number in range(1, len(records) + 1)])


def _told_apart(names: Sequence[str], additions: Sequence[str]) -> list[str]:
    counts = Counter(names)
    return [f"{name} {addition}" if counts[name] > 1 else name for name, addition in zip(names, additions, strict=True)]


def _charts(names: Sequence[str], records: Sequence[Record]) -> list[Chart]:
    shown = [entry for entry in CHARTS if entry[2] is not charts.in_process or any(r.limit for r in records)]
    return [
        Chart(title, caption, _html(figure(names, records), f"chart-{number}"))
        for number, (title, caption, figure) in enumerate(shown)
    ]


def _html(figure: go.Figure, identifier: str) -> Markup:
    html = figure.to_html(full_html=False, include_plotlyjs=False, config=CHART_OPTIONS, div_id=identifier)
    return Markup(html)  # noqa: S704 - Plotly escapes what it is given
