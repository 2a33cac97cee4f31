"""The geometry of the scatter chart on the page of `builder optimize`: error to the right, speed upwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from builder.optimization.choice import RatedCandidate, pareto_front
from tritonkit.repository.optimization import Optimization

SMALLEST_ERROR = 1e-7
"""Smaller errors are drawn here: the last digit of fp32."""
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 44
"""Margins in pixels."""
LARGEST_RADIUS, SMALLEST_RADIUS = 15.0, 4.0
LABEL_HEIGHT = 15
"""Distance of labels, in pixels."""


class Point(NamedTuple):
    """A candidate as a marker, whose area is the size of its files. Positions are pixels."""

    name: str
    x: float
    y: float
    radius: float
    label_x: float
    label_y: float
    anchor: str
    """Of the label: `start` right of the marker, `end` left of it."""
    kind: str
    """`chosen`, `front` or `other`."""


class Tick(NamedTuple):
    """A line of the grid."""

    position: float
    text: str


class Scatter(NamedTuple):
    """A chart of one size, in pixels."""

    width: int
    height: int
    points: list[Point]
    front: str
    """The points of the Pareto front, as SVG writes them."""
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    x_title: str
    y_title: str


def scatter(optimization: Optimization, rated: Sequence[RatedCandidate], width: int, height: int) -> Scatter:
    """Place the candidates that can be chosen. rated: at least one."""
    is_latency = optimization.target == "latency"
    values = [one.load.p50_ms if is_latency else one.load.images_per_s for one in rated]
    errors = [max(one.candidate.relative or 0.0, SMALLEST_ERROR) for one in rated]
    first, last = math.floor(math.log10(min(errors))), math.ceil(math.log10(max(errors)))
    last = max(last, first + 1)
    step = _step(max(values))
    top = step * math.ceil(max(values) / step * 1.02)

    def to_x(error: float) -> float:
        inner = width - LEFT - RIGHT - 2 * LARGEST_RADIUS
        return LEFT + LARGEST_RADIUS + inner * (math.log10(error) - first) / (last - first)

    def to_y(value: float) -> float:
        return height - BOTTOM - (height - TOP - BOTTOM) * value / top

    front = pareto_front(rated, optimization.target)
    places = {
        one.candidate.name: (to_x(error), to_y(value)) for one, error, value in zip(rated, errors, values, strict=True)
    }
    decades = range(first, last + 1)
    shown = [decade for decade in decades if (decade - first) % max(1, len(decades) // 6) == 0]
    return Scatter(
        width=width,
        height=height,
        points=_points(rated, places, width, {one.candidate.name for one in front}, optimization.chosen),
        front=" ".join(f"{x:.1f},{y:.1f}" for x, y in (places[one.candidate.name] for one in front)),
        x_ticks=[Tick(to_x(10.0**decade), f"1e{decade}") for decade in shown],
        y_ticks=[Tick(to_y(number * step), f"{number * step:g}") for number in range(round(top / step) + 1)],
        x_title="relative error (smaller is better)",
        y_title="p50, ms (lower is better)" if is_latency else "images per second",
    )


def _points(
    rated: Sequence[RatedCandidate],
    places: dict[str, tuple[float, float]],
    width: int,
    front: set[str],
    chosen: str | None,
) -> list[Point]:
    """The markers, with labels that do not overlap each other."""
    largest = max(one.candidate.bytes or 1 for one in rated)
    points: list[Point] = []
    lowest = {"start": -math.inf, "end": -math.inf}  # the label placed last on each side
    for one in sorted(rated, key=lambda one: places[one.candidate.name][1]):
        name, (x, y) = one.candidate.name, places[one.candidate.name]
        radius = max(SMALLEST_RADIUS, LARGEST_RADIUS * math.sqrt((one.candidate.bytes or 1) / largest))
        anchor = "start" if x < width * 0.6 else "end"
        label_y = lowest[anchor] = max(y, lowest[anchor] + LABEL_HEIGHT)
        label_x = x + (radius + 5) * (1 if anchor == "start" else -1)
        kind = "chosen" if name == chosen else "front" if name in front else "other"
        points.append(Point(name, x, y, radius, label_x, label_y, anchor, kind))
    return points


def _step(largest: float) -> float:
    """The distance of grid lines: 1, 2 or 5 times a power of ten, for three to seven lines."""
    power = 10.0 ** math.floor(math.log10(largest / 3))
    return next(factor * power for factor in (1, 2, 5, 10) if largest / (factor * power) <= 6)
