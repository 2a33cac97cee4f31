"""Answers in a CSV: all names are read back, and a file that another program changed is refused by its line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.infer import Row
from client.outputs.answer_files import AnswerFiles, open_answer_files
from client.outputs.job_settings import JobSettings
from tests.errors import raises
from tritonkit.errors import InputError
from tritonkit.tasks import Answer

ANSWER = Answer({"label": "thé", "probability": 0.5})
NAMES = ["plain.jpg", "a\rb.jpg", "a\nb.jpg", "a\r\nb.jpg", 'a "b", c.jpg', " thé.jpg"]


@contextmanager
def job(folder: Path, *names: str) -> Iterator[AnswerFiles]:
    """Open outputs of these names as `client infer` does."""
    settings = JobSettings(model="m", version="1", spec="0" * 64, top=1, outputs=names)
    with open_answer_files([folder / name for name in names], settings, ANSWER, lambda message: None) as answers:
        yield answers


def answer(folder: Path, names: Sequence[str], *outputs: str) -> list[str]:
    """Run a job and return the names that had no row before."""
    with job(folder, *outputs) as answers:
        new = [name for name in names if not answers.has_row(name)]
        for name in new:
            answers.write(Row(name, ANSWER))
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


def insert_blank_line(data: bytes) -> bytes:
    return data + b"\n"


def encode_as_cp1252(data: bytes) -> bytes:
    return data.decode().encode("cp1252")


def remove_quotes_around_return(data: bytes) -> bytes:
    return data + b"a\rb.jpg,,th,0.5\n"


def cut_within_quotes(data: bytes) -> bytes:
    return data + b'"a\nb.jpg'


CHANGES: list[tuple[Callable[[bytes], bytes], str, str]] = [
    (insert_blank_line, "line 4", "0 cells, expected 4"),
    (encode_as_cp1252, "line 2", "UTF-8"),
    (remove_quotes_around_return, "line 4", "1 cells, expected 4"),
    (cut_within_quotes, "line 5", "unexpected end of data"),
]


@pytest.mark.parametrize("outputs", [("a.csv",), ("a.jsonl", "a.csv")])
@pytest.mark.parametrize(("change", "line", "reason"), CHANGES)
def test_changed_file_is_refused_before_anything_is_answered(
    tmp_path: Path, outputs: tuple[str, ...], change: Callable[[bytes], bytes], line: str, reason: str
) -> None:
    answer(tmp_path, ["1.jpg", "2.jpg"], *outputs)
    path = tmp_path / "a.csv"
    path.write_bytes(change(path.read_bytes()))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with raises(InputError, "output.row") as caught, job(tmp_path, *outputs):
        pytest.fail("the job has started")
    assert all(datum in str(caught.value) for datum in (f"a.csv: {line} ", reason, "--overwrite"))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
