"""A contact sheet: one self-contained HTML page with images and captions."""

from __future__ import annotations

import colorsys
import functools
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tritonkit import pages
from tritonkit.spec import Frozen
from tritonkit.system.files import atomic_write

MAX_TILES = 500
"""Maximum number of images on a sheet; the page shows how many there were."""
_THUMBNAIL = (320, 320)
_LEAST_SIDE = 160
_GOLDEN_RATIO = 0.618034


class ContactSheetTile(Frozen):
    """One image of the sheet."""

    name: str
    image: str | None
    """A data URL from `thumbnail`; None for an image that cannot be shown."""
    caption: str
    failed: bool = False
    """Whether the caption is an error, which is shown in red."""


def write_contact_sheet(
    path: Path, tiles: Iterable[ContactSheetTile], title: str, subtitle: str, total: int | None = None, failed: int = 0
) -> None:
    """Write a sheet of the first MAX_TILES tiles, atomically.

    total, failed: number of all images and of failed images, if the tiles are only some of them.
    """
    all_tiles = list(tiles)
    page = (
        pages.templates(Path(pages.__file__).parent)
        .get_template("gallery.html.jinja")
        .render(
            tiles=all_tiles[:MAX_TILES],
            title=title,
            subtitle=f"{subtitle} · {datetime.now(UTC):%d %B %Y, %H:%M} UTC",
            total=len(all_tiles) if total is None else total,
            failed=failed or sum(tile.failed for tile in all_tiles),
        )
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def thumbnail(image: Image.Image) -> str:
    """Return an RGB image as a data URL, resized to a tile; the pixels of a small image become squares."""
    small = image.copy()
    small.thumbnail(_THUMBNAIL)
    if (times := -(-_LEAST_SIDE // max(image.size))) > 1:
        small = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=85)
    return pages.data_url(data.getvalue(), "jpeg")


def overlay(image: Image.Image, mask: NDArray[np.uint8]) -> Image.Image:
    """Blend an RGB image with the colours of a mask's classes, half and half; class 0 stays unchanged.

    mask: class numbers uint8 [H, W], of the image's size.
    """
    colours = paletted(mask).convert("RGB")
    return Image.composite(Image.blend(image, colours, 0.5), image, foreground(mask))


def draw_objects(image: Image.Image, objects: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Image.Image:
    """Draw boxes with labels over an RGB image. objects: as in an answer: `box`, `label`, `probability`.

    labels: of the model; a label has the colour of its class in `overlay`.
    """
    drawn, palette = image.copy(), _palette()
    draw = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(max(10, min(image.size) // 24))
    width = max(1, min(image.size) // 160)
    for entry in objects:
        left, top, right, bottom = entry["box"]
        number = 3 * min(labels.index(entry["label"]) + 1, 255)
        colour = (palette[number], palette[number + 1], palette[number + 2])
        draw.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=width)
        text = f"{entry['label']} {entry['probability']:.2f}"
        place = draw.textbbox((left, top), text, font=font)
        draw.rectangle(place, fill=colour)
        draw.text((left, top), text, fill=(0, 0, 0), font=font)
    return drawn


def paletted(mask: NDArray[np.uint8]) -> Image.Image:
    """Convert class numbers uint8 [H, W] to an image of mode P with a colour for each class; 0 is black."""
    image = Image.fromarray(mask)
    image.putpalette(_palette())
    return image


def foreground(mask: NDArray[np.uint8]) -> Image.Image:
    """Convert class numbers to an image of mode L: 255 where the class is not 0."""
    return Image.fromarray(np.where(mask > 0, np.uint8(255), np.uint8(0)))


@functools.cache
def _palette() -> list[int]:
    """Return 256 bright colours; hues at steps of the golden ratio keep neighbouring class numbers distinct."""
    bright = (colorsys.hsv_to_rgb(number * _GOLDEN_RATIO % 1, 0.85, 1.0) for number in range(255))
    return [0, 0, 0, *(round(level * 255) for colour in bright for level in colour)]
