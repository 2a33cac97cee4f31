"""A run's curves over the epochs as a PNG."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from train.reports.sheets import INK, MUTED
from tritonkit.system.files import atomic_write

_MAX_WITH_MARKERS = 20
"""Largest number of points of a line on which each is marked."""
_MANY_LINES = 8
_STYLE: Any = {
    "font.size": 10,
    "axes.edgecolor": "#c4cad6",
    "axes.labelcolor": MUTED,
    "axes.prop_cycle": cycler(
        color=["#2f6fde", "#e8793a", "#12805c", "#8a5cd1", "#c0263c", "#0e93a8", "#b58900", "#6b7280", "#d05fa8"]
    ),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "grid.color": "#e9ecf1",
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a label is a dollar
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def draw_curves(path: Path, rows: Sequence[Mapping[str, float]], monitor: str, title: str) -> None:
    """Plot the rows of a History: losses, metrics of val with the best epoch marked, and the learning rate."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    losses = [name for name in names if name.endswith("loss")]
    metrics = [name for name in names if name.startswith("val_") and name not in losses]
    with _figure(path, (11, 5), title) as figure:
        axes = figure.subplot_mosaic([["loss", "metrics"], ["lr", "lr"]], height_ratios=[5, 1])
        for name, series in (("loss", losses), ("metrics", metrics), ("lr", ["lr"])):
            _lines(axes[name], rows, series)
        axes["loss"].set_title("loss")
        axes["metrics"].set_title(_mark_best(axes["metrics"], rows, monitor), color=INK)
        axes["lr"].set_title("learning rate", fontsize=9, fontweight="normal", color=MUTED)
        axes["lr"].set_ylim(bottom=0)
        axes["lr"].yaxis.set_major_locator(MaxNLocator(2))
        axes["lr"].set_xlabel("epoch")
        for name in ("loss", "metrics"):
            axes[name].legend(fontsize=9, ncols=2 if len(axes[name].lines) > _MANY_LINES else 1)


def draw_learning_rates(
    path: Path,
    rates: Sequence[float],
    losses: Sequence[float],
    smooth_losses: Sequence[float],
    suggestion: float,
    title: str,
    log: bool,
) -> None:
    """Plot the losses of a sweep over their learning rates, and mark the suggestion. log: the scale of the rates."""
    with _figure(path, (8, 4.5), title) as figure:
        axes = figure.add_subplot()
        axes.grid(visible=True)
        axes.plot(rates, losses, linewidth=1, color="#aebfdd", label="loss, the median of the passes")
        axes.plot(rates, smooth_losses, linewidth=1.8, label="smoothed")
        axes.axvline(suggestion, color=INK, linewidth=1, linestyle=":")
        height = float(np.interp(suggestion, rates, smooth_losses))
        axes.plot(suggestion, height, "o", color=INK, markersize=6, label=f"suggestion {suggestion:.2g}")
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))  # the usual one needs math text
        low, high = min(losses), max(smooth_losses[: smooth_losses.index(min(smooth_losses)) + 1])
        axes.set_ylim(low - 0.1 * (high - low), high + 0.2 * (high - low))  # the last losses are far above
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss")
        axes.legend(fontsize=9, loc="lower left" if log else "upper right")


@contextmanager
def _figure(path: Path, inches: tuple[float, float], title: str) -> Iterator[Figure]:
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # missing letters are drawn as boxes
        figure = Figure(figsize=inches, dpi=110, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
        figure.suptitle(title, x=0.12 / inches[0], ha="left", fontsize=12, fontweight="bold")
        yield figure
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="png")


def _lines(axes: Any, rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> None:
    axes.grid(visible=True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for name in names:
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        epochs, values = zip(*points, strict=True)
        axes.plot(
            epochs, values, label=name, linewidth=1.8, marker="o" if len(points) <= _MAX_WITH_MARKERS else "", ms=3
        )


def _mark_best(axes: Any, rows: Sequence[Mapping[str, float]], monitor: str) -> str:
    """Mark the best epoch, and return its description."""
    measured = [row for row in rows if monitor in row]
    if not measured:
        return "metrics"
    best = max(measured, key=lambda row: row[monitor])
    axes.axvline(best["epoch"], color=MUTED, linewidth=1, linestyle=":")
    axes.plot(best["epoch"], best[monitor], "o", color=INK, markersize=6)
    return f"best {monitor} {best[monitor]:.4f}, epoch {best['epoch']:.0f}"
