"""A run's plots as PNGs: curves over the epochs, and confusion matrices."""

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
from matplotlib.ticker import MaxNLocator

from train.reports.sheets import INK, MUTED
from tritonkit.evaluation.tasks.confusion import ConfusionMatrix
from tritonkit.system.files import atomic_write

_MAX_WITH_COUNTS = 20
"""Largest number of rows or columns of a matrix with counts in its cells."""
_MAX_TICKS = 50
_MANY_LINES = 8
_LONGEST_LABEL = 22
_LETTER_INCHES = 0.085
_SLANTED = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
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


def draw_confusion(path: Path, confusion: ConfusionMatrix, title: str) -> None:
    """Plot a matrix whose colours are fractions of its rows; with counts in the cells if the matrix is small."""
    counts = confusion.counts
    height, width = (min(14.0, max(2.5, 0.45 * side)) for side in counts.shape)
    has_counts = max(counts.shape) <= _MAX_WITH_COUNTS
    with _figure(path, (width + 2.8, height + 1.7), title) as figure:
        axes = figure.add_subplot()
        axes.spines[:].set_visible(False)
        counts_note = f"counts are {confusion.unit}, " if has_counts else ""
        axes.set_title(f"{counts_note}colours are fractions of a row", fontsize=9, fontweight="normal", color=MUTED)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        slanted = max(map(len, confusion.answers)) * _LETTER_INCHES > width / len(confusion.answers)
        _ticks(axes.yaxis, confusion.truths)
        _ticks(axes.xaxis, confusion.answers, **(_SLANTED if slanted else {}))
        axes.set_ylabel("truth")
        axes.set_xlabel("answer")
        if has_counts:
            _write_counts(axes, counts, shares)


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
            epochs, values, label=name, linewidth=1.8, marker="o" if len(points) <= _MAX_WITH_COUNTS else "", ms=3
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


def _ticks(axis: Any, labels: Sequence[str], **options: Any) -> None:
    """Label each class, or every n-th class if there are many."""
    positions = range(0, len(labels), -(-len(labels) // _MAX_TICKS))
    short = [label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…" for label in labels]
    axis.set_ticks(list(positions), labels=[short[position] for position in positions], fontsize=9, **options)
    axis.set_tick_params(length=0)


def _write_counts(axes: Any, counts: Any, shares: Any) -> None:
    axes.set_xticks(np.arange(0.5, counts.shape[1] - 1), minor=True)
    axes.set_yticks(np.arange(0.5, counts.shape[0] - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.55 else INK
            axes.text(column, row, compact(int(count)), ha="center", va="center", color=colour, fontsize=9)


def compact(count: int) -> str:
    """Shorten a count to at most four digits: 940, 9400, 94k, 9.4M."""
    if count < 10_000:
        return str(count)
    if count < 1_000_000:
        return f"{count / 1000:.0f}k"
    return f"{count / 1_000_000:.1f}M" if count < 10_000_000 else f"{count / 1_000_000:.0f}M"
