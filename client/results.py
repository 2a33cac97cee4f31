"""Answers as typed values, for Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.infer import Row
from model.spec import TaskSpec
from model.tasks import Answer


@dataclass(frozen=True)
class Ranked:
    """A label and how probable it is, 0..1."""

    label: str
    probability: float


@dataclass(frozen=True)
class Region:
    """A class of a mask and the share of the picture it covers, 0..1."""

    label: str
    share: float


@dataclass(frozen=True)
class Result:
    """What was answered about one picture. Its own fields are those of the model's task."""

    name: str
    fields: Mapping[str, Any] = field(repr=False)
    """The same as the JSON object of `client infer`."""


@dataclass(frozen=True)
class LabelResult(Result):
    """Multiclass: the most probable label."""

    label: str
    probability: float
    top: tuple[Ranked, ...]
    """As many as were asked for, the best first."""


@dataclass(frozen=True)
class LabelSetResult(Result):
    """Multilabel: all labels that reach their thresholds, the most probable first."""

    labels: tuple[str, ...]
    top: tuple[Ranked, ...]


@dataclass(frozen=True)
class EmbeddingResult(Result):
    """Embedding: a float32 vector [D] of unit length."""

    vector: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True)
class MaskResult(Result):
    """Segmentation: class numbers uint8 [H, W] at the picture's own size, 0 the background."""

    mask: NDArray[np.uint8] = field(repr=False)
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class HeadsResult(Result):
    """Several heads: a result each, by the head's name."""

    heads: Mapping[str, Result]


@dataclass(frozen=True)
class Failed(Result):
    """A picture that could not be read, or whose answer means nothing (NaN), and why. Only streams have these."""

    error: str


def result_of(row: Row, question: TaskSpec) -> Result:
    """A row as the result its task has."""
    if row.answer is None:
        return Failed(row.name, row.as_json(), row.error or "")
    return _typed(row.name, row.answer, question)


def _typed(name: str, answer: Answer, question: TaskSpec) -> Result:
    told = answer.fields
    match question.task:
        case "multiclass":
            return LabelResult(name, told, told["label"], told["probability"], _top(told))
        case "multilabel":
            return LabelSetResult(name, told, tuple(told["labels"]), _top(told))
        case "embedding" if answer.embedding is not None:
            return EmbeddingResult(name, told, answer.embedding)
        case "segmentation" if answer.mask is not None:
            regions = tuple(Region(region["label"], region["share"]) for region in told["regions"])
            return MaskResult(name, told, answer.mask, regions)
        case "heads":
            return HeadsResult(name, told, _heads(name, answer, question))
    return Result(name, told)  # a task of one's own


def _heads(name: str, answer: Answer, question: TaskSpec) -> dict[str, Result]:
    """Each head by itself; their embeddings lie one after the other in the answer's."""
    typed: dict[str, Result] = {}
    start = 0
    for head, inner in question.heads.items():
        vector = None
        if inner.embedding_size is not None and answer.embedding is not None:
            vector = answer.embedding[start : start + inner.embedding_size]
            start += inner.embedding_size
        typed[head] = _typed(name, Answer(answer.fields[head], embedding=vector), inner)
    return typed


def _top(told: Mapping[str, Any]) -> tuple[Ranked, ...]:
    return tuple(Ranked(entry["label"], entry["probability"]) for entry in told["top"])
