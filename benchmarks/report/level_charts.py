"""The charts of one record: latency histogram, where the time goes, batch sizes, and the schedule of an open loop."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from benchmarks.load.histogram import decode_histogram
from benchmarks.records.record import Level, Record
from benchmarks.report.breakdown import batch_shares, breakdown_ms, by_load, known_parts, load_of, range_text
from benchmarks.report.charts import load_name
from tritonkit.pages.figures import GREY, colour_of, line_style, new_figure, use_log_axis

BINS = 60
PARTS = {
    "decode": "#8b5cf6",
    "late send": "#ef4444",
    "network": "#0e93a8",
    "queue": "#d97706",
    "input": "#5f9a0b",
    "infer": "#3b82f6",
    "output": "#0d9668",
    "other": GREY,
}
STEPS = (("#f0a94a", "#5f9a0b"), ("#d97706", "#3b82f6"), ("#b45309", "#8b5cf6"))
"""Colours of queue and compute of each step of an ensemble."""


def histogram_figure(record: Record) -> go.Figure:
    """Plot the share of requests by latency, a line for each level; at first, only the best level is shown."""
    figure = new_figure("latency, ms", "share of the requests")
    for index, level in enumerate(with_histogram(record)):
        edges_ms, shares = latency_bins(decode_histogram(level.histogram))
        figure.add_scatter(
            name=level.load,
            x=edges_ms,
            y=[*shares, 0],
            mode="lines",
            line={"color": colour_of(index), "width": 1.5, "shape": "hv"},
            fill="tozeroy",
            visible=True if level is record.best else "legendonly",
            hovertemplate="from %{x:,.2f} ms: %{y:.2%}",
        )
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    use_log_axis(figure, "x")
    return figure


def with_histogram(record: Record) -> list[Level]:
    """Return the levels with a valid histogram: not of old records, and not refused."""
    return [level for level in by_load(record.levels) if level.histogram and not level.refused]


def latency_bins(counts: Mapping[int, int]) -> tuple[list[float], list[float]]:
    """Return the edges of logarithmic bins in milliseconds [BINS + 1], and the share of the requests in each bin.

    counts: requests by latency in microseconds.
    """
    latencies_ms = np.array(list(counts)) / 1e3
    edges = np.geomspace(latencies_ms.min() * 0.98, latencies_ms.max() * 1.02, BINS + 1)
    requests, _ = np.histogram(latencies_ms, edges, weights=list(counts.values()))
    return edges.tolist(), (requests / requests.sum()).tolist()


def breakdown_figure(record: Record) -> go.Figure:
    """Stack the parts of a mean request's time, by level, in milliseconds."""
    figure = new_figure(load_name(record), "ms of a mean request")
    rows = {f"{load_of(level):g}": breakdown_ms(level, record.load.batch) for level in by_load(record.levels)}
    parts = known_parts(record)
    of_steps = iter(colour for pair in STEPS * len(parts) for colour in pair)
    for part in parts:
        figure.add_bar(
            name=part,
            x=list(rows),
            y=[row.get(part, 0) for row in rows.values()],
            marker_color=PARTS.get(part) or next(of_steps),
            hovertemplate=f"{part} %{{y:,.3f}} ms",
        )
    figure.update_layout(barmode="stack", xaxis_type="category", bargap=0.35)
    return figure


def batch_figure(record: Record) -> go.Figure:
    """Stack the shares of executions by batch size, by level."""
    figure = new_figure(load_name(record), "share of the executions")
    rows = {f"{load_of(level):g}": batch_shares(level) for level in by_load(record.levels)}
    ranges = sorted({sizes for row in rows.values() for sizes in row})
    for index, sizes in enumerate(ranges):
        opacity = 0.25 + 0.75 * (index + 1) / len(ranges)
        figure.add_bar(
            name=range_text(sizes),
            x=list(rows),
            y=[row.get(sizes, 0) for row in rows.values()],
            marker_color=f"rgba(59, 130, 246, {opacity:.2f})",
            hovertemplate="%{y:.1%}",
        )
    figure.update_layout(barmode="stack", xaxis_type="category", bargap=0.35, yaxis_tickformat=".0%")
    return figure


def schedule_figure(record: Record) -> go.Figure:
    """Plot the rates that were sent and answered by the rate that the open loop intended, which is the diagonal."""
    figure = new_figure(load_name(record), "requests/s")
    rates = sorted(level.rate for level in by_load(record.levels) if level.rate)
    figure.add_scatter(
        name="intended", x=rates, y=rates, mode="lines", line={"color": GREY, "dash": "dash", "width": 1.5}
    )
    levels = by_load(record.levels)
    answered = [level.images_per_s / record.load.batch for level in levels]
    for at, (name, rates_per_s) in enumerate(
        (("sent", [level.sent_per_s for level in levels]), ("answered", answered))
    ):
        figure.add_scatter(
            **line_style(name, colour_of(1 - at), "dot" if name == "sent" else "solid"),
            x=[level.rate for level in levels],
            y=rates_per_s,
            marker_symbol=["x" if level.refused else "circle" for level in levels],
            hovertemplate=f"intended %{{x:,.1f}}, {name} %{{y:,.1f}} requests/s",
        )
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(rangemode="tozero")
    return figure


def send_time_figure(record: Record) -> go.Figure:
    """Plot p50 and p99 from the intended send and from the actual send; the gap is the time a request waited unsent."""
    figure = new_figure(load_name(record), "latency, ms")
    for at, percentile in enumerate(("p50", "p99")):
        levels = [
            level for level in by_load(record.levels) if level.from_send and (percentile == "p50" or not level.refused)
        ]
        for name, dash in (("intended", "solid"), ("actual", "dot")):
            sources = levels if name == "intended" else [level.from_send for level in levels]
            figure.add_scatter(
                **line_style(f"{percentile} from the {name} send", colour_of(at * 2), dash),
                x=[level.rate for level in levels],
                y=[getattr(source, f"{percentile}_ms") for source in sources],
                hovertemplate=f"{percentile} %{{y:,.2f}} ms from the {name} send",
            )
    use_log_axis(figure, "y")
    return figure
