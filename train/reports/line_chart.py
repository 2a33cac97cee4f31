"""A line chart as SVG, in the colours of the page around it, light or dark, with text that a phone shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 360, 210
"""About the width of a phone, so that text is drawn there at its own size."""
_RIGHT, _TOP, _BOTTOM = 10, 10, 24
_CHARACTER = 6.2
"""Width of a digit at the page's font size."""
_MIN_SPAN = 0.02
"""Smallest span of the values on the axis, as a share of them: a smaller change must not look like a large one."""
COLORS = 9
"""Number of line colours of the page, `--line-1` and so on."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One line: its name, its last value, the number of its colour, and its points as SVG takes them."""

    name: str
    last: float
    colour: int
    points: str
    dots: tuple[tuple[float, float], ...]
    """The points to mark, where there are few."""


@dataclass(frozen=True)
class LineChart:
    """A chart to draw: lines, and the ticks of both axes with their places."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    marked: float | None
    """The place of a marked value of x, such as the best epoch."""
    left: float
    """The place of the vertical axis, with room for its labels."""
    width: int = WIDTH
    height: int = HEIGHT
    bottom: int = HEIGHT - _BOTTOM


def line_chart(title: str, series: Mapping[str, Points], marked: float | None = None) -> LineChart | None:
    """Place the lines of the series with points; None if there are none."""
    series = {name: points for name, points in series.items() if points}
    if not series:
        return None
    xs, ys = ([point[axis] for points in series.values() for point in points] for axis in (0, 1))
    missing = max(_MIN_SPAN * max(map(abs, ys)) or 1.0, max(ys) - min(ys)) - (max(ys) - min(ys))
    y_values = MaxNLocator(nbins=4).tick_values(min(ys) - missing / 2, max(ys) + missing / 2)
    y_texts = [f"{y:.6g}" for y in map(float, y_values)]
    left = 12 + _CHARACTER * max(map(len, y_texts))
    x_low, x_high, y_low, y_high = min(xs), max(xs), float(y_values[0]), float(y_values[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = 0.5 if x_high == x_low else (x - x_low) / (x_high - x_low)
        up = (y - y_low) / (y_high - y_low)
        width, height = WIDTH - left - _RIGHT, HEIGHT - _TOP - _BOTTOM
        return round(left + across * width, 1), round(HEIGHT - _BOTTOM - up * height, 1)

    lines = []
    for number, (name, points) in enumerate(series.items()):
        placed = [place(*point) for point in points]
        dots = tuple(placed) if len(placed) <= 20 else ()
        text = " ".join(f"{x},{y}" for x, y in placed)
        lines.append(Line(name, points[-1][1], number % COLORS + 1, text, dots))
    x_values = [
        x for x in MaxNLocator(nbins=6, integer=True, min_n_ticks=1).tick_values(x_low, x_high) if x_low <= x <= x_high
    ]
    return LineChart(
        title,
        tuple(lines),
        tuple((place(x, y_low)[0], f"{x:.0f}") for x in x_values or [x_low]),
        tuple((place(x_low, y)[1], text) for y, text in zip(map(float, y_values), y_texts, strict=True)),
        None if marked is None else place(marked, y_low)[0],
        left,
    )
