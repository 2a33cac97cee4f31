"""Reads the images to embed: a folder, a CSV or a JSON, as `train test` reads them, but labels are optional."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonkit.errors import Problem
from tritonkit.evaluation.labelled_images import known_labels, labelled_part, raise_if_any, show_notes
from tritonkit.evaluation.labelled_tables import part_paths
from tritonkit.evaluation.readers import read_table, subfolders
from tritonkit.evaluation.samples.sample import COLUMNS, IMAGE, LABEL, Row, Table, search_notes
from tritonkit.evaluation.tasks import EvaluationTask, evaluation_task_of, recorded_data
from tritonkit.evaluation.tasks.base import natural_sort_key
from tritonkit.images.picture_files import PictureSearch, pictures_below
from tritonkit.spec import ModelSpec


@dataclass(frozen=True)
class EmbeddingInput:
    """An image file with its label."""

    path: Path
    label: str | None = None
    """The labels of an image with several are separated by commas."""
    in_model: bool = False
    """Whether the model has these labels, so that its answer can be compared with them."""


def read_pictures(path: Path, spec: ModelSpec) -> list[EmbeddingInput]:
    """Read the images of a folder, a CSV or a JSON, or of its test or val part; sorted by path.

    The label is the truth as the model's task reads it, else the column `label`, else None. A folder without class
    folders has no labels. Raises DataError that lists all problems, such as files that do not exist.
    """
    task = evaluation_task_of(spec)
    part = part_paths(path).get(labelled_part(path), path)
    if part.is_dir() and (task.dense or not subfolders(part)):
        search = PictureSearch()
        found: list[tuple[str, Row]] = [(str(picture), {IMAGE: picture}) for picture in pictures_below(part, search)]
        table = Table([IMAGE], found, notes=search_notes(search))
    else:
        columns = {COLUMNS[name]: theirs for name, theirs in recorded_data(spec).columns.items()}
        table = read_table(part, columns={IMAGE: columns[IMAGE]} if IMAGE in columns else {})
        table.rows = [(place, _renamed(row, columns)) for place, row in table.rows]
    problems = list(table.problems)
    if not table.rows and not problems:
        problems.append(Problem("data.no_images", f"there are no images in {part}"))
    raise_if_any(path, problems)
    show_notes(path, table.notes)
    labels = set(known_labels(spec))
    return [_picture(row, task, labels) for _, row in table.rows]


def _renamed(row: Row, columns: dict[str, str]) -> Row:
    """Return a row with the standard names of columns that the model's configuration names otherwise."""
    return {**row, **{ours: row[theirs] for ours, theirs in columns.items() if ours != IMAGE and theirs in row}}


def _picture(row: Row, task: EvaluationTask, labels: set[str]) -> EmbeddingInput:
    try:
        classes = () if task.dense else task.classes(task.truth(row))
    except ValueError:  # there is no such column, or no value in it
        label = str(row.get(LABEL) or "").strip()
        return EmbeddingInput(row[IMAGE], label or None, label in labels)
    known = bool(classes) and labels.issuperset(classes)
    return EmbeddingInput(row[IMAGE], None if task.dense else joined(classes), known)


def joined(classes: Sequence[str]) -> str:
    """Write the labels of a truth or of an answer in one order, so that equal ones are equal texts."""
    return ", ".join(sorted(classes, key=natural_sort_key)) or "none"
