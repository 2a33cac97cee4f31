"""A confusion matrix on a page: a table with colours for few labels, an image for many, and the frequent confusions."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from train.reports.confusion import compact
from train.reports.evaluation import ConfusionCounts
from tritonkit.pages import data_url

MAX_TABLE = 20
"""Largest number of rows of a matrix that is shown as a table."""
_MAX_CONFUSIONS = 10
_INK = (47, 111, 222)


@dataclass(frozen=True)
class Cell:
    """A cell of the table: its count as text and in full, its share of the row in percent, and whether it is right."""

    text: str
    count: int
    percent: int
    correct: bool


@dataclass(frozen=True)
class Confusion:
    """A truth that was answered with another label: how often, and the share of the truth's images."""

    truth: str
    answer: str
    count: int
    share: float


@dataclass(frozen=True)
class ConfusionView:
    """A matrix to show; `rows` for few labels, else `image`, a data URL."""

    head: str
    unit: str
    truths: tuple[str, ...]
    answers: tuple[str, ...]
    total: int
    is_square: bool
    """Whether answers are labels, so that the diagonal is correct."""
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    image: str | None
    confusions: tuple[Confusion, ...]
    """The most frequent confusions, the most frequent first."""
    precision: dict[str, float]
    recall: dict[str, float]
    """By label; of a square matrix."""


def confusion_view(head: str, confusion: ConfusionCounts) -> ConfusionView:
    """Prepare a matrix for the page."""
    counts = np.zeros((len(confusion.truths), len(confusion.answers)), dtype=np.int64)
    for row, column, count in confusion.cells:
        counts[row, column] = count
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals[:, None], 1)
    is_square = confusion.truths == confusion.answers
    rows: list[tuple[str, tuple[Cell, ...]]] = []
    if max(counts.shape) <= MAX_TABLE:
        for row, truth in enumerate(confusion.truths):
            cells = [
                Cell(compact(int(count)), int(count), round(100 * share), row == column if is_square else column == 0)
                for column, (count, share) in enumerate(zip(counts[row], shares[row], strict=True))
            ]
            rows.append((truth, tuple(cells)))
    confusions: list[Confusion] = []
    if is_square:
        wrong = counts * ~np.eye(len(counts), dtype=bool)
        order = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_CONFUSIONS]
        for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True):
            if wrong[row, column]:
                truth, answer = confusion.truths[row], confusion.answers[column]
                confusions.append(Confusion(truth, answer, int(wrong[row, column]), float(shares[row, column])))
    return ConfusionView(
        head=head,
        unit=confusion.unit,
        truths=confusion.truths,
        answers=confusion.answers,
        total=int(counts.sum()),
        is_square=is_square,
        rows=tuple(rows),
        image=None if rows else _image(shares),
        confusions=tuple(confusions),
        precision=_shares(confusion.truths, counts, counts.sum(axis=0)) if is_square else {},
        recall=_shares(confusion.truths, counts, totals) if is_square else {},
    )


def _shares(labels: tuple[str, ...], counts: NDArray[np.int64], totals: NDArray[np.int64]) -> dict[str, float]:
    pairs = zip(labels, np.diag(counts), totals, strict=True)
    return {label: float(correct / total) for label, correct, total in pairs if total}


def _image(shares: NDArray[np.float64]) -> str:
    """Draw a pixel for each cell, transparent where it is 0, so that the image fits a light and a dark page."""
    pixels = np.zeros((*shares.shape, 4), dtype=np.uint8)
    pixels[..., :3] = _INK
    # A rare confusion must still be visible.
    pixels[..., 3] = np.where(shares > 0, 40 + 215 * shares, 0)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", optimize=True)
    return data_url(data.getvalue(), "png")
