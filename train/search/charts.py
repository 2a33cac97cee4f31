"""The charts of a search: curves of all trials, importance of the keys, and the values of each trial side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from pydantic import JsonValue

from train.config.search import SearchParameter
from train.search.result import SearchResult, TrialResult
from train.search.space import value_text
from tritonkit.pages.figures import COLOURS, GREY, new_figure

_BEST, _COMPLETE = COLOURS[1], COLOURS[0]
_ROW_PX = 92
"""Height of one axis of the values side by side."""
_TEXT = 39
"""Characters that fit next to each other on a phone."""


def curves_figure(result: SearchResult) -> go.Figure:
    """Plot the metric of all trials by epoch; the best trial stands out, those that were stopped are grey."""
    figure = new_figure("epoch", result.metric)
    best = result.best
    others = [trial for trial in result.trials if trial.epochs and trial != best]
    complete = [trial for trial in others if trial.state == "complete"]
    stopped = [trial for trial in others if trial.state != "complete"]
    groups = (("stopped early", stopped, GREY, 1.2), ("complete", complete, _COMPLETE, 1.4), ("best", [best], _BEST, 3))
    for name, trials, colour, width in groups:
        points = [point for trial in trials if trial is not None for point in _points(trial)]
        if points:
            figure.add_scatter(
                name=f"trial {best.number}, the best" if best is not None and name == "best" else name,
                mode="lines+markers",
                line={"color": colour, "width": width},
                marker={"color": colour, "size": 3 + 2 * width},
                opacity=1 if name == "best" else 0.55,
                x=[epoch for epoch, _, _ in points],
                y=[value for _, value, _ in points],
                customdata=[number for _, _, number in points],
                hovertemplate="trial %{customdata}, epoch %{x}: %{y:.4f}<extra></extra>",
            )
    if max((len(trial.epochs) for trial in result.trials), default=0) < 10:
        figure.update_xaxes(dtick=1)  # no half epochs
    return figure


def importance_figure(importance: Mapping[str, float]) -> go.Figure:
    """Plot the importance of each key as a bar, the most important one on top."""
    figure = new_figure("share of the importance", "")
    ordered = sorted(importance.items(), key=lambda item: item[1])
    figure.add_bar(
        orientation="h",
        x=[share for _, share in ordered],
        y=[key for key, _ in ordered],
        marker={"color": _COMPLETE},
        text=[f"{share:.0%}" for _, share in ordered],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )
    figure.update_xaxes(tickformat=".0%", range=[0, 1.12 * max(importance.values())])
    figure.update_yaxes(showgrid=False, ticksuffix="  ")
    figure.update_layout(showlegend=False, height=90 + 40 * len(ordered))
    return figure


def values_figure(result: SearchResult, parameters: Mapping[str, SearchParameter]) -> go.Figure:
    """Plot parallel coordinates: a horizontal axis for each key and for the metric, a line down for each trial.

    The axes lie above each other, so that they keep the width of a phone.
    """
    drawn = [trial for trial in result.trials if trial.state in ("complete", "pruned") and trial.value is not None]
    drawn.sort(key=lambda trial: (trial == result.best, trial.state == "complete"))  # the best on top
    axes = [_parameter_axis(key, parameter) for key, parameter in parameters.items()]
    values = [trial.value for trial in drawn if trial.state == "complete" and trial.value is not None]
    axes.append(_number_axis(result.metric, min(values), max(values), log=False))
    figure = new_figure("", "")
    for trial in drawn:
        _add_trial(figure, trial, axes, result)
    for row, axis in enumerate(axes):
        _add_text(figure, f"<b>{axis.name}</b>", 0, -row, above=True)
        for text, place in axis.ticks:
            _add_text(figure, text, place, -row)
    figure.update_xaxes(range=[-0.03, 1.03], showgrid=False, showticklabels=False, showline=False, fixedrange=True)
    figure.update_yaxes(
        range=[-len(axes) + 0.6, 0.4],
        tickvals=[-row for row in range(len(axes))],
        showticklabels=False,
        showline=False,
        fixedrange=True,
    )
    figure.update_layout(showlegend=False, height=20 + _ROW_PX * len(axes))
    return figure


@dataclass(frozen=True)
class _Axis:
    name: str
    place: Callable[[JsonValue], float]
    """The place of a value, 0..1."""
    ticks: Sequence[tuple[str, float]]
    """Texts and their places."""


def _parameter_axis(key: str, parameter: SearchParameter) -> _Axis:
    if parameter.low is not None and parameter.high is not None:
        return _number_axis(key, parameter.low, parameter.high, parameter.log)
    choices = parameter.choices or ()
    longest = max(4, _TEXT // len(choices))
    places = [index / max(1, len(choices) - 1) for index in range(len(choices))]
    names = [text if len(text := value_text(choice)) <= longest else f"{text[: longest - 1]}…" for choice in choices]
    return _Axis(key, lambda value: places[choices.index(value)], list(zip(names, places, strict=True)))


def _number_axis(name: str, low: float, high: float, log: bool) -> _Axis:
    scale = math.log if log else float
    start, span = scale(low), (scale(high) - scale(low)) or 1.0
    middle = math.exp(start + span / 2) if log else start + span / 2
    ticks = [(value_text(low), 0.0), (value_text(middle), 0.5), (value_text(high), 1.0)]
    return _Axis(name, lambda value: (scale(float(str(value))) - start) / span, ticks)


def _add_trial(figure: go.Figure, trial: TrialResult, axes: Sequence[_Axis], result: SearchResult) -> None:
    """Draw a trial; the value of one that was pruned is no point of the last axis."""
    is_best, is_complete = trial == result.best, trial.state == "complete"
    values: list[JsonValue] = [trial.values[axis.name] for axis in axes[:-1]]
    if is_complete:
        values.append(trial.value)
    places = [axis.place(value) for axis, value in zip(axes, values, strict=False)]
    goodness = axes[-1].place(trial.value) if is_complete else 0.0
    if result.direction == "minimize":
        goodness = 1 - goodness
    colour = _BEST if is_best else _COMPLETE if is_complete else GREY
    words = [f"{axis.name} {value_text(value)}" for axis, value in zip(axes, values, strict=False)]
    figure.add_scatter(
        x=places,
        y=[-row for row in range(len(places))],
        mode="lines+markers",
        line={"color": colour, "width": 3 if is_best else 1.5, "dash": "solid" if is_complete else "dot"},
        marker={"color": colour, "size": 8 if is_best else 5},
        opacity=1 if is_best else 0.25 + 0.6 * goodness if is_complete else 0.4,
        text=[f"trial {trial.number}<br>{'<br>'.join(words)}"] * len(places),
        hovertemplate="%{text}<extra></extra>",
    )


def _points(trial: TrialResult) -> Iterable[tuple[float | None, float | None, int]]:
    """Yield epoch, value and number of the trial, and a gap after them."""
    yield from ((epoch, value, trial.number) for epoch, value in sorted(trial.epochs.items()))
    yield None, None, trial.number


def _add_text(figure: go.Figure, text: str, x: float, y: float, above: bool = False) -> None:
    """Write a text above or below a place of an axis, inside the chart, on a ground that hides the lines."""
    figure.add_annotation(
        text=text,
        x=x,
        y=y,
        xanchor="left" if x == 0 else "right" if x == 1 else "center",
        yanchor="bottom" if above else "top",
        yshift=5 if above else -5,
        showarrow=False,
        borderpad=1,
        font={"color": GREY, "size": 12},
        bgcolor="white",
    )
