"""The charts that compare records: a colour for each record, a dash style for each percentile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from benchmarks.load.histogram import decode_histogram
from benchmarks.records.compare import BenchmarkResult, ResultLevel
from benchmarks.records.record import Level, Limit, Record, best_of
from benchmarks.report.breakdown import by_load, load_of
from tritonkit.pages.figures import GREY, colour_of, line_style, new_figure, use_log_axis, use_value_ticks

PERCENTILES = {"p50": "solid", "p90": "dash", "p99": "dot"}
POINTS = 150
PERCENTILE_TICKS = {1: "0", 2: "50", 10: "90", 100: "99", 1000: "99.9", 10**4: "99.99", 10**5: "99.999"}
"""Of the axis 1 / (1 - percentile), which HdrHistogram's plots use."""


class Series(NamedTuple):
    """A record, or a result of perf_analyzer, with its name and colour on the page."""

    name: str
    colour: str
    measured: BenchmarkResult

    @property
    def limit(self) -> Limit | None:
        """The limit of a record."""
        return self.measured.limit if isinstance(self.measured, Record) else None


def load_name(measured: BenchmarkResult) -> str:
    """Return the title of the axis of loads."""
    return "requests/s that the load intends to send" if is_open_loop(measured) else "concurrency (requests in flight)"


def is_open_loop(measured: BenchmarkResult) -> bool:
    """Whether the levels are rates, not concurrencies."""
    return any(level.rate for level in measured.levels)


def trade_off_figure(series: Sequence[Series], is_only: bool) -> go.Figure:
    """Plot throughput against latency, a line for each percentile; up and left is better.

    is_only: the page has one record, so colours are free for the percentiles, and the loads are labels.
    """
    figure = new_figure("latency, ms", "images/s")
    for name, colour, measured in series:
        for percentile in PERCENTILES:
            levels = _shown(measured, percentile)
            style = _percentile_style(name, percentile, None if is_only else colour)
            has_labels = is_only and percentile == "p99"
            figure.add_scatter(
                **{**style, "mode": "lines+markers+text" if has_labels else "lines+markers"},
                x=[getattr(level, f"{percentile}_ms") for level in levels],
                y=[level.images_per_s for level in levels],
                text=[f"{load_of(level):g}" for level in levels] if has_labels else None,
                customdata=[level.load for level in levels],
                textposition="bottom right",
                textfont={"color": GREY, "size": 11},
                hovertemplate=f"%{{y:,.1f}} images/s at {percentile} %{{x:,.2f}} ms<br>%{{customdata}}",
            )
    figure.update_yaxes(rangemode="tozero")
    use_log_axis(figure, "x")
    return figure


def throughput_figure(series: Sequence[Series]) -> go.Figure:
    """Plot throughput by load of records with the same kind of loop; a dashed line is the limit of a record."""
    figure = new_figure(load_name(series[0].measured), "images/s")
    for one in series:
        levels = by_load(one.measured.levels)
        figure.add_scatter(
            **line_style(one.name, one.colour),
            x=[load_of(level) for level in levels],
            y=[level.images_per_s for level in levels],
            marker_symbol=["circle" if level.is_sound else "circle-open" for level in levels],
            customdata=[level.load for level in levels],
            hovertemplate="%{customdata}<br>%{y:,.1f} images/s",
        )
        if one.limit:
            figure.add_hline(
                y=one.limit.images_per_s,
                line={"dash": "dash", "color": one.colour, "width": 1.5},
                annotation={"text": f"limit {one.limit.images_per_s:,.0f}", "font": {"color": one.colour, "size": 12}},
            )
    figure.update_yaxes(rangemode="tozero")
    use_value_ticks(figure, _loads(series))
    return figure


def latency_figure(series: Sequence[Series], is_only: bool) -> go.Figure:
    """Plot latency percentiles by load of records with the same kind of loop; a refused p99 is left out.

    is_only: the page has one record, so colours are free for the percentiles.
    """
    figure = new_figure(load_name(series[0].measured), "latency, ms")
    for name, colour, measured in series:
        for percentile in PERCENTILES:
            levels = _shown(measured, percentile)
            figure.add_scatter(
                **_percentile_style(name, percentile, None if is_only else colour),
                x=[load_of(level) for level in levels],
                y=[getattr(level, f"{percentile}_ms") for level in levels],
                customdata=[level.load for level in levels],
                hovertemplate=f"{percentile} %{{y:,.2f}} ms<br>%{{customdata}}",
            )
    use_log_axis(figure, "y")
    use_value_ticks(figure, _loads(series))
    return figure


def percentile_figure(levels: Mapping[str, Level], colours: Sequence[str]) -> go.Figure:
    """Plot latency by percentile of levels with a histogram: an axis on which each further nine has the same width."""
    figure = new_figure("percentile", "latency, ms")
    most = 1.0
    for (name, level), colour in zip(levels.items(), colours, strict=True):
        positions, latencies_ms = percentile_points(decode_histogram(level.histogram))
        most = max(most, positions[-1])
        figure.add_scatter(
            **{**line_style(name, colour), "mode": "lines"},
            x=positions.tolist(),
            y=latencies_ms.tolist(),
            customdata=(100 - 100 / positions).tolist(),
            hovertemplate="%{customdata:.6~g} % within %{y:,.2f} ms",
        )
    ticks = {x: text for x, text in PERCENTILE_TICKS.items() if x <= 2 * most}
    figure.update_xaxes(type="log", tickvals=list(ticks), ticktext=list(ticks.values()))
    figure.update_yaxes(rangemode="tozero")
    return figure


def percentile_points(counts: Mapping[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return 1 / (1 - percentile) and the latencies in milliseconds, both [POINTS].

    counts: requests by latency in microseconds, ascending. The last point is the slowest of n requests, at n.
    """
    latencies_us, ranks = np.array(list(counts)), np.cumsum(list(counts.values()))
    positions = np.geomspace(1, ranks[-1], POINTS)
    chosen = np.searchsorted(ranks, (1 - 1 / positions) * ranks[-1], side="right")
    return positions, latencies_us[np.minimum(chosen, len(ranks) - 1)] / 1e3


def in_process_figure(series: Sequence[Series], is_only: bool) -> go.Figure:
    """Plot in-process throughput of the artifact by batch size, before and after the load.

    is_only: the page has one record, which shows each number of parallel sessions; of several, the fastest.
    """
    figure = new_figure("batch size", "images/s in process")
    for one in series:
        halves = (("before", one.limit.before), ("after", one.limit.after)) if one.limit else ()
        for half, points in halves:
            numbers = sorted({point.sessions for point in points})
            for at, sessions in enumerate(numbers):
                if not is_only and sessions != best_of(points).sessions:
                    continue
                chosen = [point for point in points if point.sessions == sessions]
                label = half if len(numbers) == 1 else f"{half}, {sessions} session{'s' * (sessions > 1)}"
                dash = "solid" if half == "before" else "dot"
                title, colour = (label, colour_of(at)) if is_only else (f"{one.name} {label}", one.colour)
                figure.add_scatter(
                    **line_style(title, colour, dash),
                    x=[point.batch for point in chosen],
                    y=[point.images_per_s for point in chosen],
                    customdata=[point.mean_ms for point in chosen],
                    hovertemplate="batch %{x}<br>%{y:,.1f} images/s<br>%{customdata:,.2f} ms a call",
                )
    figure.update_yaxes(rangemode="tozero")
    use_value_ticks(figure, (point.batch for one in series if one.limit for point in one.limit.before))
    return figure


def _percentile_style(name: str, percentile: str, colour: str | None) -> dict[str, object]:
    """Return the style of a percentile's line: a colour for each percentile, or the record's colour and a dash."""
    if colour is None:
        return line_style(percentile, colour_of(list(PERCENTILES).index(percentile)))
    in_legend = {"legendgroup": name, "showlegend": percentile == "p50"}
    return {**line_style(name, colour, PERCENTILES[percentile]), **in_legend}


def _shown(measured: BenchmarkResult, percentile: str) -> list[ResultLevel]:
    return [level for level in by_load(measured.levels) if percentile != "p99" or not level.refused]


def _loads(series: Sequence[Series]) -> list[float]:
    return [load_of(level) for one in series for level in one.measured.levels]
