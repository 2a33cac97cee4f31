"""Plotly charts on a page: their common style, with colours for a light and a dark page, and their HTML."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

COLOURS = ("#3b82f6", "#d97706", "#0d9668", "#db2777", "#8b5cf6", "#0e93a8", "#ef4444", "#5f9a0b")
"""Contrast of at least 3 both on white and on the dark card of `page.css`."""
GREY = "#7c8aa0"
INK, GRID = "#1e293b", "#e2e8f0"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
CHART_OPTIONS = {"displayModeBar": False, "responsive": True}
"""For `Figure.to_html`."""


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


def plotly_script() -> Markup:
    """Return Plotly's script, which each page holds once, so that it works offline."""
    return Markup(get_plotlyjs())  # noqa: S704 - the library's own script


def colour_of(index: int) -> str:
    """Return the colour of a line by its number."""
    return COLOURS[index % len(COLOURS)]


def new_figure(x_title: str, y_title: str) -> go.Figure:
    """Return an empty figure; `charts.css` gives its text and grid the colours of the page."""
    axis = {"gridcolor": GRID, "linecolor": GRID, "zeroline": False, "title_font": {"size": 12, "color": GREY}}
    return go.Figure(
        layout={
            "template": "none",
            "font": {"family": FONT, "size": 12, "color": GREY},
            "xaxis": {**axis, "title": {"text": x_title}, "automargin": True},
            "yaxis": {**axis, "title": {"text": y_title}, "automargin": True},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
            "height": 340,
            "hoverlabel": {"bgcolor": "white", "bordercolor": GRID, "font": {"family": FONT, "color": INK}},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "showlegend": True,
        }
    )


def line_style(name: str, colour: str, dash: str = "solid") -> dict[str, object]:
    """Return the settings of a line with markers."""
    return {
        "name": name,
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2.5, "dash": dash},
        "marker": {"color": colour, "size": 8, "line": {"width": 2, "color": colour}},
    }


def use_log_axis(figure: go.Figure, axis: str) -> None:
    """Make the axis `x` or `y` logarithmic, with labels at 1, 2 and 5 of each power of ten."""
    figure.update_layout({f"{axis}axis": {"type": "log", "dtick": "D2", "tickformat": "~s"}})


def use_value_ticks(figure: go.Figure, values: Iterable[float]) -> None:
    """Make the x axis logarithmic, with a label at each of these values."""
    ticks = sorted(set(values))
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,.5g}" for tick in ticks])
