"""The contact sheet of answered images."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from client.infer import Row
from client.outputs.filters import is_filtered_out
from client.outputs.journal import Journal
from client.picture import Picture
from tritonkit.images.preprocess import ImageError
from tritonkit.pages.contact_sheet import MAX_TILES, ContactSheetTile, thumbnail, write_contact_sheet
from tritonkit.tasks import Answer, Task


class ContactSheet:
    """The sheet of a job's first rows: the rows of an interrupted client, then those of this client."""

    def __init__(self, task: Task, journal: Journal | None = None) -> None:
        """journal: of this job, with the rows of an interrupted client; None if there is none."""
        self._task = task
        earlier = (row for row in map(_row_from_fields, journal.rows() if journal else ()) if not is_filtered_out(row))
        self._rows = list(itertools.islice(earlier, MAX_TILES))
        self._row_numbers = {row.name: number for number, row in enumerate(self._rows)}
        self.total, self.failed = (journal.length, journal.failed) if journal else (0, 0)

    @property
    def has_room(self) -> bool:
        """Whether the sheet can show another image."""
        return len(self._rows) < MAX_TILES

    def restore_thumbnail(self, picture: Picture) -> None:
        """Make the thumbnail of an earlier row again, without its mask, if the sheet shows the row."""
        number = self._row_numbers.get(picture.name)
        if number is None or self._rows[number].answer is None:
            return
        row = self._rows[number]
        try:
            self._rows[number] = Row(row.name, row.answer, thumbnail=thumbnail(picture.decode()))
        except ImageError:
            return  # the file was deleted after it was answered, so its tile has only a caption

    def write(self, row: Row) -> None:
        """Add a row of this client."""
        if is_filtered_out(row):
            return
        self.total += 1
        self.failed += row.answer is None
        if self.has_room:
            self._rows.append(row)

    def save(self, path: Path, title: str, origin: str) -> None:
        """Write the page. Raises OSError."""
        write_contact_sheet(path, self._tiles(), title, f"answered by {origin}", self.total, self.failed)

    def _tiles(self) -> list[ContactSheetTile]:
        answered = [row for row in self._rows if row.answer is not None]
        captions = iter(
            self._task.captions([row.answer for row in answered if row.answer], [row.name for row in answered])
        )
        return [
            ContactSheetTile(name=row.name, image=row.thumbnail, caption=next(captions))
            if row.answer is not None
            else ContactSheetTile(name=row.name, image=None, caption=row.error or "", failed=True)
            for row in self._rows
        ]


def _row_from_fields(fields: dict[str, Any]) -> Row:
    if "error" in fields:
        return Row(fields["path"], error=fields["error"])
    return Row(fields["path"], Answer({key: value for key, value in fields.items() if key != "path"}))
