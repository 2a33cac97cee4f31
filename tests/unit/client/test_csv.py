"""Answers in a CSV: every name can be read back."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from client.infer import Row
from client.outputs.job import Job, JobSettings, open_job
from tritonkit.tasks import Answer

ANSWER = Answer({"label": "thé", "probability": 0.5})
NAMES = ["plain.jpg", "a\rb.jpg", "a\nb.jpg", "a\r\nb.jpg", 'a "b", c.jpg', " thé.jpg"]


@contextmanager
def job(folder: Path, *names: str) -> Iterator[Job]:
    """Open outputs of these names as `client infer` does."""
    settings = JobSettings(model="m", version="1", spec="0" * 64, top=1, outputs=names)
    with open_job([folder / name for name in names], settings, ANSWER, lambda message: None) as opened:
        yield opened


def answer(folder: Path, names: Sequence[str], *outputs: str) -> list[str]:
    """Run a job and return the names that had no row before."""
    with job(folder, *outputs) as opened:
        new = [name for name in names if not opened.has_row(name)]
        for name in new:
            opened.write(Row(name, ANSWER))
    return new


def read_names(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row["path"] for row in csv.DictReader(file)]


def test_every_name_comes_back_when_a_finished_file_is_added_to(tmp_path: Path) -> None:
    assert answer(tmp_path, NAMES[:3], "a.csv") == NAMES[:3]
    assert answer(tmp_path, NAMES, "a.csv") == NAMES[3:]
    assert answer(tmp_path, NAMES, "a.csv") == []
    assert read_names(tmp_path / "a.csv") == NAMES
    assert (tmp_path / "a.csv").read_bytes().startswith("path,error,label,probability\nplain.jpg,,thé,0.5\n".encode())
