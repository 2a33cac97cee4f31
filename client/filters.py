"""Which answers are of interest: those of some classes, or sure enough."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from client.infer import Finish, Row
from client.picture import Picture
from model.errors import InputError
from model.spec import TaskSpec
from model.tasks import Answer

KEPT = "kept"
"""What a row tells where a filter is set: whether its answer is of interest."""


@dataclass(frozen=True)
class Filter:
    """An answer is kept when one of its labels is wanted and probable enough.

    The label of a multiclass answer is its best one; those of a multilabel answer are all that it holds; those of a
    mask are the classes in it. An answer of several heads is kept when one of the heads' is.
    """

    question: TaskSpec
    classes: frozenset[str] = frozenset()
    """Empty for all."""
    least: float = 0.0
    """Probability from which a label counts."""

    @classmethod
    def checked(cls, question: TaskSpec, classes: Sequence[str], least: float | None) -> Filter | None:
        """The filter that is asked for, None for none. Raises InputError where the answers have nothing for it."""
        if not classes and least is None:
            return None
        asked = [inner for inner in (question, *question.heads.values()) if inner.labels]
        known = sorted({label for inner in asked for label in inner.labels})
        if not known:
            raise InputError(f"--class, --min-probability: a model for {question.task} has no labels to choose from")
        if least is not None and all(inner.task == "segmentation" for inner in asked):
            raise InputError("--min-probability: masks have no probability for each class; use --threshold or --class")
        if KEPT in question.heads:
            raise InputError(
                f"--class, --min-probability: a row tells under {KEPT!r} whether it is chosen, but a head of this "
                "model has that name; leave the options out, and choose among the rows of --output"
            )
        if problems := [_unknown(label, known) for label in classes if label not in known]:
            raise InputError("\n".join(problems))
        return cls(question, frozenset(classes), least or 0.0)

    def keeps(self, answer: Answer) -> bool:
        """Whether an answer is of interest."""
        if answer.mask is not None:  # the told regions are only the largest
            found = np.unique(answer.mask)
            return not self.classes or any(self.question.labels[number] in self.classes for number in found if number)
        if not self.question.heads:
            return self._keeps(answer.fields)
        return any(self._keeps(answer.fields[head]) for head, inner in self.question.heads.items() if inner.labels)

    def _keeps(self, told: Mapping[str, Any]) -> bool:
        return any(
            probability >= self.least and (not self.classes or label in self.classes)
            for label, probability in _labels(told)
        )


def filtered(finish: Finish, chosen: Filter | None) -> Finish:
    """What is done with each answer that is of interest; the others become rows that say they are not."""
    if chosen is None:
        return finish

    def finished(picture: Picture, answer: Answer) -> Row:
        kept = chosen.keeps(answer)
        marked = replace(answer, fields=answer.fields | {KEPT: kept})
        return finish(picture, marked) if kept else Row(picture.name, replace(marked, mask=None))

    return finished


def left_out(row: Row) -> bool:
    """Whether a filter says that the row is of no interest."""
    return row.answer is not None and row.answer.fields.get(KEPT) is False


def _labels(told: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The labels that one question's answer tells, each with its probability."""
    if "regions" in told:
        yield from ((region["label"], 1.0) for region in told["regions"])
    elif "label" in told:
        yield told["label"], told["probability"]
    elif "labels" in told:
        held = set(told["labels"])
        yield from ((entry["label"], entry["probability"]) for entry in told["top"] if entry["label"] in held)


def _unknown(label: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(label, known, n=3)
    some = ", ".join([*known[:10], "…"] if len(known) > 10 else known)
    there = f"did you mean {' or '.join(near)}?" if near else f"it has {some}"
    return f"--class {label}: the model has no such label; {there}"
