"""Out-of-fold predictions: each image is predicted by the model of its fold, which was not trained on it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import default_collate

from tritonkit.errors import DataError
from tritonkit.evaluation.evaluate import AnsweredBatch
from tritonkit.evaluation.samples.sample import IMAGE, Sample
from tritonkit.evaluation.tasks import EvaluationTask
from tritonkit.evaluation.tasks.heads import HeadsEvaluation
from tritonkit.evaluation.tasks.multilabel import SEPARATOR
from tritonkit.spec import ModelSpec, Outputs, TaskSpec
from tritonkit.system.files import atomic_write
from tritonkit.tasks import task_for
from tritonkit.tasks.base import Targets

PREDICTIONS_FILE = "predictions.csv"
_PROBABILITY = "probability/"


@dataclass(frozen=True)
class HeadPredictions:
    """The truths and the out-of-fold probabilities of a head, or of a model without heads."""

    labels: tuple[str, ...]
    truths: NDArray[np.bool_]
    """[N, C]: whether an image has a label; of multiclass, each row has one."""
    probabilities: NDArray[np.float64]
    """[N, C], with six decimals; a row of multiclass sums to 1."""


@dataclass(frozen=True)
class OutOfFold:
    """The out-of-fold predictions of N images, sorted by fold and path."""

    images: tuple[Path, ...]
    folds: NDArray[np.int64]
    """[N], from 1."""
    errors: NDArray[np.float64]
    """[N]: 0 for a correct answer, 1 for the largest error."""
    heads: Mapping[str, HeadPredictions]
    """By head; under an empty name for a model without heads. Without the heads that have no probabilities."""


def out_of_fold(folder: Path) -> OutOfFold:
    """Read the out-of-fold predictions of a finished `train folds`. folder: of the experiment.

    Raises DataError if they are missing or cannot be read.
    """
    path = folder / PREDICTIONS_FILE
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or ())
        heads = {column.removesuffix("truth").removesuffix("."): column for column in columns if _is_truth(column)}
        return OutOfFold(
            images=tuple(Path(row[IMAGE]) for row in rows),
            folds=np.array([int(row["fold"]) for row in rows], np.int64),
            errors=np.array([float(row["error"]) for row in rows]),
            heads={
                head: predictions
                for head, column in heads.items()
                if (predictions := _head_predictions(rows, columns, column)) is not None
            },
        )
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: does not exist; run `train folds` until all folds are finished", code="folds.no_predictions"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); delete it, and run `train folds` again", code="folds.broken_predictions"
        ) from error


def _is_truth(column: str) -> bool:
    return column == "truth" or (column.endswith(".truth") and _PROBABILITY not in column)


def _head_predictions(
    rows: Sequence[Mapping[str, str]], columns: Sequence[str], truth_column: str
) -> HeadPredictions | None:
    """Read the predictions of one head. Raises ValueError for a truth that is not one of its labels."""
    prefix = truth_column.removesuffix("truth") + _PROBABILITY
    labels = [column.removeprefix(prefix) for column in columns if column.startswith(prefix)]
    if not labels:
        return None
    index = {label: number for number, label in enumerate(labels)}
    truths = np.zeros((len(rows), len(labels)), np.bool_)
    for number, row in enumerate(rows):
        for label in _labels_of_cell(row[truth_column], index):
            if label not in index:
                raise ValueError(f"unknown label {label!r} in column {truth_column}")
            truths[number, index[label]] = True
    probabilities = [[float(row[prefix + label]) for label in labels] for row in rows]
    return HeadPredictions(tuple(labels), truths, np.array(probabilities).reshape(truths.shape))


def _labels_of_cell(cell: str, labels: Iterable[str]) -> list[str]:
    return [cell] if cell in labels else [label for label in cell.split(SEPARATOR) if label]


class FoldAnswers:
    """Collects the answers of one fold's model, and writes a row for each image. Batches of masks are not kept."""

    def __init__(self, fold: int, task: EvaluationTask, spec: ModelSpec) -> None:
        self._fold, self._task, self._spec = fold, task, spec
        self._rows: list[dict[str, str]] = []
        self._kept: list[tuple[Sequence[Sample], Outputs]] = []
        """For a task that compares samples, so that all are scored at once."""

    def add(self, batch: AnsweredBatch) -> None:
        """Add a batch of answers."""
        if self._task.compares_samples:
            self._kept.append((batch.samples, batch.outputs))
        else:
            self._add(batch.samples, batch.outputs, self._task.golden_targets(batch.targets))

    def save(self, path: Path) -> None:
        """Write the rows as CSV, sorted by path."""
        if self._kept:
            task, preprocess = self._task, self._spec.preprocess
            samples = [sample for each, _ in self._kept for sample in each]
            names = self._kept[0][1]
            outputs = {name: np.concatenate([arrays[name] for _, arrays in self._kept]) for name in names}
            targets = default_collate([task.target(s.truth, s.gallery, preprocess, self._spec) for s in samples])
            self._add(samples, outputs, task.golden_targets(targets))
        write_rows(path, sorted(self._rows, key=lambda row: row[IMAGE]))

    def _add(self, samples: Sequence[Sample], outputs: Outputs, targets: Targets) -> None:
        errors = self._task.error_score(outputs, targets, self._spec).tolist()
        columns = [_columns(samples, outputs, *head) for head in _heads(self._task, self._spec)]
        for number, (sample, error) in enumerate(zip(samples, errors, strict=True)):
            if not sample.gallery:
                cells = {name: column[number] for each in columns for name, column in each.items()}
                first = {IMAGE: str(sample.path.absolute()), "fold": str(self._fold), "error": f"{error:.6f}"}
                self._rows.append(first | cells)


def join_predictions(tables: Iterable[Path], path: Path) -> None:
    """Write the predictions of single folds as one table."""
    rows = []
    for table in tables:
        with table.open(newline="", encoding="utf-8") as file:
            rows += list(csv.DictReader(file))
    write_rows(path, rows)


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write a CSV whose columns are the keys of the first row."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _heads(task: EvaluationTask, spec: ModelSpec) -> list[tuple[str, EvaluationTask, TaskSpec]]:
    """Return the heads whose truth is in the data, with their names; a task without heads has an empty one."""
    if isinstance(task, HeadsEvaluation):
        return [(name, each, spec.heads[name]) for name, each in task.main.items()]
    return [("", task, spec)]


def _columns(
    samples: Sequence[Sample], outputs: Outputs, head: str, task: EvaluationTask, task_spec: TaskSpec
) -> dict[str, list[str]]:
    """Return the columns of one head: the truth and, where the outputs are probabilities of labels, the prediction."""
    prefix = f"{head}." if head else ""
    truths = [sample.truth[head] if head else sample.truth for sample in samples]
    words = [str(truth) if task.dense else SEPARATOR.join(task.classes(truth)) for truth in truths]
    columns = {f"{prefix}truth": words}
    known, labels = task_for(task_spec, head or None), task_spec.labels
    probabilities = outputs[known.output]
    if probabilities.shape[1:] != (len(labels),):
        return columns
    if known.thresholded:
        decided = probabilities >= np.array([task_spec.threshold(label) for label in labels])
    else:
        decided = np.arange(len(labels)) == probabilities.argmax(axis=1)[:, None]
    columns[f"{prefix}predicted"] = [SEPARATOR.join(labels[index] for index in row.nonzero()[0]) for row in decided]
    for label, column in zip(labels, probabilities.T, strict=True):
        columns[f"{prefix}{_PROBABILITY}{label}"] = [f"{value:.6f}" for value in column.tolist()]
    return columns
