"""A contact sheet: pictures with their answers, as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from client.infer import Row
from model.files import written_beside
from model.preprocess import ImageError, decode_image, read_picture
from model.spec import Frozen, ModelSpec
from model.tasks import task_of

MAX_TILES = 500
"""More pictures than this do not make a sheet one looks at; the page says how many were left out."""
_THUMBNAIL = (320, 320)


class Tile(Frozen):
    """One picture on the sheet."""

    name: str
    image: str | None
    caption: str
    failed: bool


def write_gallery(path: Path, rows: Sequence[Row], spec: ModelSpec, origin: str) -> None:
    """Write the sheet of `rows`, whole or not at all."""
    tiles = [_tile(row, spec) for row in rows[:MAX_TILES]]
    environment = Environment(loader=PackageLoader("client", "."), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("gallery.html.jinja").render(
        tiles=tiles, title=spec.name, origin=origin, total=len(rows), failed=sum(row.error is not None for row in rows)
    )
    with written_beside(path) as beside:
        beside.write_text(page, encoding="utf-8")


def _tile(row: Row, spec: ModelSpec) -> Tile:
    name = row.as_json()["path"]
    if row.answer is None:
        return Tile(name=name, image=None, caption=row.error or "", failed=True)
    return Tile(name=name, image=_thumbnail(row.path), caption=task_of(spec).caption(row.answer), failed=False)


def _thumbnail(path: Path) -> str | None:
    """The picture as a data URL, None when it has gone since it was answered."""
    try:
        image = decode_image(read_picture(path))
    except ImageError:
        return None
    image.thumbnail(_THUMBNAIL)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
