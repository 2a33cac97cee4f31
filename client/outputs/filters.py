"""Filter answers by class and by probability."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from client.infer import FinishRow, Row
from client.picture import Picture
from tritonkit.errors import InputError, Problem
from tritonkit.spec import TaskSpec
from tritonkit.tasks import Answer
from tritonkit.tasks.search import UNKNOWN

KEPT = "kept"
"""The key of a row that says whether the filter keeps its answer."""


@dataclass(frozen=True)
class Filter:
    """Keeps an answer if one of its labels is selected and probable enough.

    The label of a multiclass answer is the best one. A multilabel answer has all labels that reach their thresholds. A
    mask has its classes, an answer of objects the label of each object. An answer of several heads is kept if the
    answer of one head is.
    """

    task_spec: TaskSpec
    classes: frozenset[str] = frozenset()
    """Empty selects all labels."""
    min_probability: float = 0.0
    """Minimum probability of a selected label."""

    @classmethod
    def from_options(cls, task_spec: TaskSpec, classes: Sequence[str], min_probability: float | None) -> Filter | None:
        """Return the filter of the options, None without options. Raises InputError if the filter does not fit."""
        if not classes and min_probability is None:
            return None
        labelled = [spec for spec in (task_spec, *task_spec.heads.values()) if spec.labels]
        labels = sorted({label for spec in labelled for label in spec.labels})
        if task_spec.gallery is not None:
            labels.append(UNKNOWN)
        if not labels:
            raise InputError(
                f"--class, --min-probability: a model for {task_spec.task} has no labels to filter by",
                code="filter.no_labels",
            )
        if min_probability is not None and all(spec.task == "segmentation" for spec in labelled):
            raise InputError(
                "--min-probability: a mask has no probability for each class; use --threshold or --class",
                code="filter.mask_probability",
            )
        if min_probability is not None and task_spec.gallery is not None:
            raise InputError(
                "--min-probability: a search answers with distances, and its model calls far images unknown; use "
                "--class, or publish another threshold with builder index --false-accept",
                code="filter.search_probability",
            )
        if KEPT in task_spec.heads:
            raise InputError(
                f"--class, --min-probability: the row key {KEPT!r} says whether the filter keeps an answer, but a head "
                "of this model has the same name; omit the options, and filter the rows of --output",
                code="filter.key_taken",
            )
        problems = []
        for label in classes:
            if label not in labels:
                similar = difflib.get_close_matches(label, labels, n=3)
                labels_text = ", ".join([*labels[:10], "…"] if len(labels) > 10 else labels)
                hint = f"did you mean {' or '.join(similar)}?" if similar else f"its labels are {labels_text}"
                problems.append(Problem("filter.label", f"--class {label}: the model has no such label; {hint}"))
        if problems:
            raise InputError("\n".join(problem.message for problem in problems), code="filter.label", problems=problems)
        return cls(task_spec, frozenset(classes), min_probability or 0.0)

    def accepts(self, answer: Answer) -> bool:
        """Whether the filter keeps an answer."""
        if "objects" in answer.fields and not self.task_spec.heads:
            return self._keeps_fields(answer.fields)
        if answer.mask is not None:  # the answer's regions are only the largest ones
            class_numbers = np.unique(answer.mask)
            return not self.classes or any(
                self.task_spec.labels[number] in self.classes for number in class_numbers if number
            )
        if not self.task_spec.heads:
            return self._keeps_fields(answer.fields)
        return any(
            self._keeps_fields(answer.fields[head]) for head, spec in self.task_spec.heads.items() if spec.labels
        )

    def _keeps_fields(self, fields: Mapping[str, Any]) -> bool:
        """Whether one answer, or that of one head, has a label to keep."""
        entries: list[tuple[str, float]] = []
        if "regions" in fields:
            entries = [(region["label"], 1.0) for region in fields["regions"]]
        elif "objects" in fields:
            entries = [(entry["label"], entry["probability"]) for entry in fields["objects"]]
        elif "label" in fields:
            entries = [(fields["label"], fields.get("probability", 1.0))]
        elif "labels" in fields:
            chosen = set(fields["labels"])
            entries = [(entry["label"], entry["probability"]) for entry in fields["top"] if entry["label"] in chosen]
        return any(
            probability >= self.min_probability and (not self.classes or label in self.classes)
            for label, probability in entries
        )


def with_filter(finish: FinishRow, answer_filter: Filter | None) -> FinishRow:
    """Return a `finish` that finishes the answers the filter keeps, and marks all rows with `KEPT`."""
    if answer_filter is None:
        return finish

    def finish_accepted(picture: Picture, answer: Answer) -> Row:
        is_accepted = answer_filter.accepts(answer)
        marked_answer = replace(answer, fields=answer.fields | {KEPT: is_accepted})
        return finish(picture, marked_answer) if is_accepted else Row(picture.name, replace(marked_answer, mask=None))

    return finish_accepted


def is_filtered_out(row: Row) -> bool:
    """Whether a filter removed this row's answer."""
    return row.answer is not None and row.answer.fields.get(KEPT) is False
