"""A confusion matrix as a small image and as a table. Takes milliseconds, so that each epoch can have one."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from train.reports.sheets import INK, MUTED, load_font
from tritonkit.evaluation.tasks.confusion import ConfusionMatrix
from tritonkit.system.files import atomic_write

_SIDE, _CELL = 640, (1, 96)
"""The side of the matrix in pixels, and the smallest and largest cell."""
_MARGIN, _TITLE = 12, 30
_MIN_LABELLED, _MIN_COUNTED = 11, 24
"""Smallest cells with labels next to them, and with counts in them."""
_LONGEST_LABEL = 16
_BLUE = np.array([47, 111, 222])


def write_confusion_image(path: Path, confusion: ConfusionMatrix, title: str) -> None:
    """Draw a matrix, truths in rows and answers in columns, whose colours are fractions of its rows."""
    rows, columns = confusion.counts.shape
    cell = max(_CELL[0], min(_CELL[1], _SIDE // max(rows, columns)))
    shares = confusion.counts / np.maximum(confusion.counts.sum(axis=1, keepdims=True), 1)
    colours = (255 + shares[..., None] * (_BLUE - 255)).astype(np.uint8)
    matrix = Image.fromarray(colours).resize((columns * cell, rows * cell), Image.Resampling.NEAREST)
    font = load_font(min(12, max(9, cell - 4)))
    has_labels = cell >= _MIN_LABELLED
    truths, answers = (_shortened(labels) if has_labels else [] for labels in (confusion.truths, confusion.answers))
    left = _MARGIN + round(max(map(font.getlength, truths), default=0)) + 6
    bottom = round(max(map(font.getlength, answers), default=0)) + 6
    note = f"rows: truth, columns: answer, counts: {confusion.unit}"
    words = max(load_font(14).getlength(title), load_font(11).getlength(note))
    width = max(left + matrix.width, _MARGIN + round(words)) + _MARGIN
    image = Image.new("RGB", (width, 2 * _TITLE + matrix.height + bottom), "white")
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, 6), title, fill=INK, font=load_font(14))
    draw.text((_MARGIN, 28), note, fill=MUTED, font=load_font(11))
    top = 2 * _TITLE - 8
    image.paste(matrix, (left, top))
    for number, label in enumerate(truths):
        draw.text((left - 6, top + (number + 0.5) * cell), label, fill=INK, font=font, anchor="rm")
    for number, label in enumerate(answers):
        image.paste(_upright(label, font), (round(left + (number + 0.5) * cell) - 7, top + matrix.height + 4))
    if cell >= _MIN_COUNTED:
        for (row, column), count in np.ndenumerate(confusion.counts):
            if count:
                position = (left + (column + 0.5) * cell, top + (row + 0.5) * cell)
                colour = "white" if shares[row, column] > 0.55 else INK
                draw.text(position, compact(int(count)), fill=colour, font=load_font(11), anchor="mm")
    with atomic_write(path) as temporary:
        image.save(temporary, "PNG")


def write_confusion_table(path: Path, confusion: ConfusionMatrix) -> None:
    """Write the counts that are not 0: a row each with truth, answer and count."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("truth", "answer", confusion.unit))
        for row, column in np.argwhere(confusion.counts):
            writer.writerow((confusion.truths[row], confusion.answers[column], confusion.counts[row, column]))


def _shortened(labels: tuple[str, ...]) -> list[str]:
    return [label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…" for label in labels]


def _upright(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Draw a text from bottom to top."""
    image = Image.new("RGB", (max(1, round(font.getlength(text))), 15), "white")
    ImageDraw.Draw(image).text((0, 7), text, fill=INK, font=font, anchor="lm")
    return image.rotate(90, expand=True)


def compact(count: int) -> str:
    """Shorten a count to at most four digits: 940, 9400, 94k, 9.4M."""
    if count < 10_000:
        return str(count)
    if count < 1_000_000:
        return f"{count / 1000:.0f}k"
    return f"{count / 1_000_000:.1f}M" if count < 10_000_000 else f"{count / 1_000_000:.0f}M"
