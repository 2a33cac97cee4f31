"""The contact sheet of answered pictures."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from client.filters import left_out
from client.infer import Row
from client.outputs.journal import Journal
from client.picture import Picture
from model.gallery import MAX_TILES, Tile, thumbnail, write_gallery
from model.preprocess import ImageError
from model.tasks import Answer, Task


class ContactSheet:
    """The sheet of a job's first rows: what an interrupted client answered, then this one's."""

    def __init__(self, task: Task, journal: Journal | None = None) -> None:
        """journal: of this job, with what an interrupted client answered; None where there is none."""
        self._task = task
        earlier = (row for row in map(_row, journal.rows() if journal else ()) if not left_out(row))
        self._rows = list(itertools.islice(earlier, MAX_TILES))
        self._told = {row.name: number for number, row in enumerate(self._rows)}
        self.total, self.failed = (journal.length, journal.failed) if journal else (0, 0)

    @property
    def has_room(self) -> bool:
        """Whether it shows the next picture too."""
        return len(self._rows) < MAX_TILES

    def show_again(self, picture: Picture) -> None:
        """Make the small picture of an earlier row again, where the sheet shows it; nothing is drawn on it."""
        number = self._told.get(picture.name)
        if number is None or self._rows[number].answer is None:
            return
        row = self._rows[number]
        try:
            self._rows[number] = Row(row.name, row.answer, thumbnail=thumbnail(picture.whole()))
        except ImageError:
            return  # it was answered, and has gone since: its tile has the words alone

    def write(self, row: Row) -> None:
        """Take a row of this client."""
        if left_out(row):
            return
        self.total += 1
        self.failed += row.answer is None
        if self.has_room:
            self._rows.append(row)

    def save(self, path: Path, title: str, origin: str) -> None:
        """Write the page. Raises OSError."""
        write_gallery(path, self._tiles(), title, f"answered by {origin}", self.total, self.failed)

    def _tiles(self) -> list[Tile]:
        answered = [row for row in self._rows if row.answer is not None]
        captions = iter(
            self._task.captions([row.answer for row in answered if row.answer], [row.name for row in answered])
        )
        return [
            Tile(name=row.name, image=row.thumbnail, caption=next(captions))
            if row.answer is not None
            else Tile(name=row.name, image=None, caption=row.error or "", failed=True)
            for row in self._rows
        ]


def _row(told: dict[str, Any]) -> Row:
    if "error" in told:
        return Row(told["path"], error=told["error"])
    return Row(told["path"], Answer({key: value for key, value in told.items() if key != "path"}))
