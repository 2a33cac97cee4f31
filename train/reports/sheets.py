"""Writes a contact sheet as one PNG: images in rows, each with a caption."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from tritonkit.system.files import atomic_write

INK, MUTED, RIGHT, WRONG = "#1d2433", "#7c869a", "#12805c", "#c0263c"
_PAGE, _CARD = "#f5f6f8", "#ffffff"
_WIDTH = 1440
_AREA = 150 * 150
"""Area of each image on the sheet in pixels, for any shape."""
_MARGIN, _GAP, _INSIDE, _LINE = 28, 12, 6, 17
_TOP = _MARGIN + 56
_CAPTION, _NOTE = 13, 12
_LONGEST = 1000
MAX_LINES = 4
"""Largest number of lines of a caption, and of a note; the rest is left out."""


@dataclass(frozen=True)
class SheetCell:
    """An image with a caption in `colour`, and a note in grey."""

    image: Image.Image
    caption: str
    note: str = ""
    colour: str = INK


def write_sheet(path: Path, cells: Sequence[SheetCell], title: str, subtitle: str) -> None:
    """Write RGB images of one size as a PNG, atomically."""
    size = _size(cells[0].image)
    captions = [_wrapped(cell.caption, load_font(_CAPTION), size[0]) for cell in cells]
    notes = [_wrapped(cell.note, load_font(_NOTE), size[0]) for cell in cells]
    lines = max(len(caption) + len(note) for caption, note in zip(captions, notes, strict=True))
    card = (size[0] + 2 * _INSIDE, size[1] + 2 * _INSIDE + lines * _LINE)
    columns = max(1, min(len(cells), (_WIDTH - 2 * _MARGIN + _GAP) // (card[0] + _GAP)))
    rows = math.ceil(len(cells) / columns)
    width = 2 * _MARGIN + columns * (card[0] + _GAP) - _GAP
    sheet = Image.new("RGB", (max(width, _WIDTH // 2), _TOP + rows * (card[1] + _GAP) - _GAP + _MARGIN), _PAGE)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 6), title, fill=INK, font=load_font(20, bold=True))
    draw.text((_MARGIN, _MARGIN + 24), subtitle, fill=MUTED, font=load_font(_CAPTION))
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        left, top = _MARGIN + column * (card[0] + _GAP), _TOP + row * (card[1] + _GAP)
        draw.rounded_rectangle((left, top, left + card[0], top + card[1]), 6, fill=_CARD)
        sheet.paste(_resized(cell.image, size), (left + _INSIDE, top + _INSIDE))
        below = (left + _INSIDE, top + _INSIDE + size[1] + 4)
        caption_lines = [(line, cell.colour, load_font(_CAPTION)) for line in captions[number]]
        _write(draw, below, [*caption_lines, *((line, MUTED, load_font(_NOTE)) for line in notes[number])])
    with atomic_write(path) as temporary:
        sheet.save(temporary, "PNG")


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    # Nearest-neighbour enlargement shows the pixels that the network gets.
    return image.resize(size, Image.Resampling.NEAREST if size[0] > image.width else Image.Resampling.LANCZOS)


def _size(image: Image.Image) -> tuple[int, int]:
    """Return the width and height of an image on the sheet."""
    scale = math.sqrt(_AREA * max(1.0, image.width / image.height) / (image.width * image.height))
    scale = min(scale, (_WIDTH - 2 * _MARGIN - 2 * _INSIDE) / image.width)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _write(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    lines: Sequence[tuple[str, str, ImageFont.FreeTypeFont]],
) -> None:
    for number, (line, colour, font) in enumerate(lines):
        draw.text((corner[0], corner[1] + number * _LINE), line, fill=colour, font=font)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Wrap text into up to MAX_LINES lines of this width, between words if possible."""
    lines: list[str] = []
    rest = " ".join(text.split())[:_LONGEST]
    while rest and len(lines) < MAX_LINES:
        fitting = len(rest)
        while fitting > 1 and font.getlength(rest[:fitting]) > width:
            fitting -= 1
        if fitting < len(rest) and " " in rest[: fitting + 1]:
            fitting = rest[: fitting + 1].rindex(" ")
        lines.append(rest[:fitting])
        rest = rest[fitting:].lstrip()
    return [*lines[:-1], f"{lines[-1][:-1]}…"] if rest else lines


@functools.cache
def load_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which matplotlib installs and which has more letters than Pillow's default font."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
