"""The contact sheet of answered pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from client.infer import Row
from client.outputs.files import Write
from model.gallery import MAX_TILES, Tile, write_gallery
from model.tasks import Task


@contextmanager
def contact_sheet(path: Path, task: Task, title: str, origin: str) -> Iterator[Write]:
    """Write the sheet of the first rows when all have come; after an error there is none."""
    first: list[Row] = []
    total = failed = 0

    def write(row: Row) -> None:
        nonlocal total, failed
        total += 1
        failed += row.answer is None
        if total <= MAX_TILES:
            first.append(row)

    yield write
    write_gallery(path, _tiles(first, task), title, f"answered by {origin}", total, failed)


def _tiles(rows: Sequence[Row], task: Task) -> list[Tile]:
    answered = [row for row in rows if row.answer is not None]
    captions = iter(task.captions([row.answer for row in answered if row.answer], [row.name for row in answered]))
    return [
        Tile(name=row.name, image=row.thumbnail, caption=next(captions))
        if row.answer is not None
        else Tile(name=row.name, image=None, caption=row.error or "", failed=True)
        for row in rows
    ]
