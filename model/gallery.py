"""A contact sheet: pictures with a few words below each, as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import colorsys
import functools
import io
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model import pages
from model.files import atomic_write
from model.spec import Frozen

MAX_TILES = 500
"""More pictures than this do not make a sheet one looks at; the page says how many were left out."""
_THUMBNAIL = (320, 320)
_LEAST_SIDE = 160
_GOLDEN_RATIO = 0.618034


class Tile(Frozen):
    """One picture on the sheet."""

    name: str
    image: str | None
    """A data URL as `thumbnail` makes it; None stands for a picture that cannot be shown."""
    caption: str
    failed: bool = False
    """Whether the caption says what went wrong; it stands in red."""


def write_gallery(
    path: Path, tiles: Iterable[Tile], title: str, subtitle: str, total: int | None = None, failed: int = 0
) -> None:
    """Write a sheet of the first MAX_TILES tiles, whole or not at all.

    total, failed: how many pictures there were and how many failed, where not all of them are among the tiles.
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
    with atomic_write(path) as beside:
        beside.write_text(page, encoding="utf-8")


def thumbnail(image: Image.Image) -> str:
    """A copy of an RGB picture as a data URL, at the size of a tile: few pixels are shown as squares."""
    small = image.copy()
    small.thumbnail(_THUMBNAIL)
    if (times := -(-_LEAST_SIDE // max(image.size))) > 1:
        small = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def overlay(image: Image.Image, mask: NDArray[np.uint8]) -> Image.Image:
    """An RGB picture whose pixels of a class other than 0 are half of that class's colour.

    mask: class numbers uint8 [H, W], of the picture's size.
    """
    colours = paletted(mask).convert("RGB")
    return Image.composite(Image.blend(image, colours, 0.5), image, foreground(mask))


def paletted(mask: NDArray[np.uint8]) -> Image.Image:
    """A picture of mode P whose values are the class numbers [H, W], shown in colours; 0 is black."""
    image = Image.fromarray(mask)
    image.putpalette(_palette())
    return image


def foreground(mask: NDArray[np.uint8]) -> Image.Image:
    """A picture of mode L: 255 where a pixel's class is not 0."""
    return Image.fromarray(np.where(mask > 0, np.uint8(255), np.uint8(0)))


@functools.cache
def _palette() -> list[int]:
    """256 bright colours; hues a golden ratio apart keep neighbouring class numbers well apart."""
    bright = (colorsys.hsv_to_rgb(number * _GOLDEN_RATIO % 1, 0.85, 1.0) for number in range(255))
    return [0, 0, 0, *(round(level * 255) for colour in bright for level in colour)]
