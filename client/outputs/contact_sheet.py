"""The contact sheet of answered images."""

from __future__ import annotations

import json
from pathlib import Path

from client.infer import Row
from client.outputs.drawings import labels_of
from client.outputs.filters import is_filtered_out
from client.outputs.job import Job
from client.picture import Picture
from tritonkit.images.preprocess import ImageError
from tritonkit.pages.contact_sheet import MAX_TILES, ContactSheetTile, draw_objects, thumbnail, write_contact_sheet
from tritonkit.tasks import Answer, Task


class ContactSheet:
    """The sheet of a job's first rows: the rows of an interrupted client, then those of this client."""

    def __init__(self, task: Task, job: Job | None = None) -> None:
        """job: has the rows of an interrupted client; None without --output."""
        self._task = task
        self._rows: list[Row] = []
        self.total = self.failed = 0
        for fields in map(json.loads, job.rows(only_new=True) if job else ()):
            error = fields.get("error")
            self.write(Row(fields.pop("path"), None if error else Answer(fields), error))
        self._row_numbers = {row.name: number for number, row in enumerate(self._rows)}

    @property
    def has_room(self) -> bool:
        """Whether the sheet can show another image."""
        return len(self._rows) < MAX_TILES

    def restore_thumbnail(self, picture: Picture) -> None:
        """Make the thumbnail of an earlier row again, without its mask, if the sheet shows the row."""
        number = self._row_numbers.get(picture.name)
        if number is None:
            return
        row = self._rows[number]
        if row.answer is None:
            return
        try:
            image = picture.decode()
            if found := row.answer.fields.get("objects"):
                image = draw_objects(image, found, labels_of(row.answer))
            self._rows[number] = Row(row.name, row.answer, thumbnail=thumbnail(image))
        except ImageError:
            return  # the file was deleted after it was answered, so its tile has only a caption

    def write(self, row: Row) -> None:
        """Add a row."""
        if is_filtered_out(row):
            return
        self.total += 1
        self.failed += row.answer is None
        if self.has_room:
            self._rows.append(row)

    def save(self, path: Path, title: str, origin: str) -> None:
        """Write the page. Raises OSError."""
        answered = [(row.name, row.answer) for row in self._rows if row.answer is not None]
        captions = iter(self._task.captions([answer for _, answer in answered], [name for name, _ in answered]))
        tiles = [
            ContactSheetTile(name=row.name, image=row.thumbnail, caption=next(captions))
            if row.answer is not None
            else ContactSheetTile(name=row.name, image=None, caption=row.error or "", failed=True)
            for row in self._rows
        ]
        write_contact_sheet(path, tiles, title, f"answered by {origin}", self.total, self.failed)
