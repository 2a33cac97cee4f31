"""The charts of a report, as Plotly figures: a colour for each record, a dash style for each percentile."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from benchmarks.records.record import Record

COLOURS = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2", "#dc2626", "#65a30d")
INK, FAINT, GRID = "#1e293b", "#64748b", "#e2e8f0"
FONT = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
PERCENTILES = {"p50": "solid", "p95": "dash", "p99": "dot"}


def throughput_figure(names: Sequence[str], records: Sequence[Record]) -> go.Figure:
    """Plot throughput by concurrency; a dashed line is the limit of a record."""
    figure = _figure("concurrency (requests in flight)", "images/s")
    for name, record, colour in _with_colours(names, records):
        levels = record.levels
        figure.add_scatter(
            **_series(name, colour),
            x=[level.concurrency for level in levels],
            y=[level.images_per_s for level in levels],
            marker_symbol=["circle" if level.stable and not level.errors else "circle-open" for level in levels],
            hovertemplate="concurrency %{x}<br>%{y:,.1f} images/s",
        )
        if record.limit:
            figure.add_hline(
                y=record.limit.images_per_s,
                line={"dash": "dash", "color": colour, "width": 1.5},
                annotation={"text": f"limit {record.limit.images_per_s:,.0f}", "font": {"color": colour, "size": 12}},
            )
    figure.update_yaxes(rangemode="tozero")
    return _with_concurrency_axis(figure, records)


def latency_figure(names: Sequence[str], records: Sequence[Record]) -> go.Figure:
    """Plot latency percentiles by concurrency, in milliseconds, on logarithmic axes."""
    figure = _figure("concurrency (requests in flight)", "latency, ms")
    for name, record, colour in _with_colours(names, records):
        for percentile, dash in PERCENTILES.items():
            figure.add_scatter(
                **_series(percentile if len(records) == 1 else f"{name} {percentile}", colour, dash),
                x=[level.concurrency for level in record.levels],
                y=[getattr(level, f"{percentile}_ms") for level in record.levels],
                hovertemplate=f"{percentile} %{{y:,.2f}} ms<br>concurrency %{{x}}",
            )
    figure.update_yaxes(type="log", dtick="D2", tickformat="~s")
    return _with_concurrency_axis(figure, records)


def trade_off_figure(names: Sequence[str], records: Sequence[Record]) -> go.Figure:
    """Plot throughput against p99 latency; labels are the concurrency, and up and left is better."""
    figure = _figure("p99 latency, ms", "images/s")
    for name, record, colour in _with_colours(names, records):
        figure.add_scatter(
            **{**_series(name, colour), "mode": "lines+markers+text"},
            x=[level.p99_ms for level in record.levels],
            y=[level.images_per_s for level in record.levels],
            text=[str(level.concurrency) for level in record.levels],
            textposition="bottom right",
            textfont={"color": FAINT, "size": 11},
            hovertemplate="%{y:,.1f} images/s at p99 %{x:,.2f} ms<br>concurrency %{text}",
        )
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(type="log", dtick="D2", tickformat="~s")
    return figure


def in_process_figure(names: Sequence[str], records: Sequence[Record]) -> go.Figure:
    """Plot in-process throughput of the artifact by batch size, before and after the load."""
    figure = _figure("batch size", "images/s in process")
    for name, record, colour in _with_colours(names, records):
        if record.limit is None:
            continue
        for half, points, dash in (("before", record.limit.before, "solid"), ("after", record.limit.after, "dot")):
            figure.add_scatter(
                **_series(half if len(records) == 1 else f"{name} {half}", colour, dash),
                x=[point.batch for point in points],
                y=[point.images_per_s for point in points],
                customdata=[point.mean_ms for point in points],
                hovertemplate="batch %{x}<br>%{y:,.1f} images/s<br>%{customdata:,.2f} ms a call",
            )
    figure.update_yaxes(rangemode="tozero")
    batches = {point.batch for record in records if record.limit for point in record.limit.before}
    return _with_doubling_axis(figure, batches)


def _with_colours(names: Sequence[str], records: Sequence[Record]) -> list[tuple[str, Record, str]]:
    return [
        (name, record, COLOURS[index % len(COLOURS)])
        for index, (name, record) in enumerate(zip(names, records, strict=True))
    ]


def _series(name: str, colour: str, dash: str = "solid") -> dict[str, object]:
    return {
        "name": name,
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2.5, "dash": dash},
        "marker": {"color": colour, "size": 8, "line": {"width": 2, "color": colour}},
    }


def _with_concurrency_axis(figure: go.Figure, records: Sequence[Record]) -> go.Figure:
    return _with_doubling_axis(figure, {level.concurrency or 0 for record in records for level in record.levels})


def _with_doubling_axis(figure: go.Figure, values: set[int]) -> go.Figure:
    ticks = sorted(values)
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[str(tick) for tick in ticks])
    return figure


def _figure(x_title: str, y_title: str) -> go.Figure:
    axis = {"gridcolor": GRID, "linecolor": GRID, "zeroline": False, "title_font": {"size": 12, "color": FAINT}}
    return go.Figure(
        layout={
            "font": {"family": FONT, "size": 12, "color": INK},
            "xaxis": {**axis, "title": {"text": x_title}},
            "yaxis": {**axis, "title": {"text": y_title}, "automargin": True},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
            "height": 340,
            "hoverlabel": {"bgcolor": "white", "bordercolor": GRID, "font": {"family": FONT, "color": INK}},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        }
    )
