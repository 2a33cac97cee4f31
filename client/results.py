"""Answers as typed values, for Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.infer import Row
from tritonkit.spec import TaskSpec
from tritonkit.tasks import Answer


@dataclass(frozen=True)
class Ranked:
    """A label with its probability, 0..1."""

    label: str
    probability: float


@dataclass(frozen=True)
class Region:
    """A class of a mask, and the share of the image it covers, 0..1."""

    label: str
    share: float


@dataclass(frozen=True)
class Result:
    """The answer for one image. The subclasses have the fields of their task."""

    name: str
    fields: Mapping[str, Any] = field(repr=False)
    """The JSON object of `client infer`."""


@dataclass(frozen=True)
class LabelResult(Result):
    """Multiclass: the most probable label."""

    label: str
    probability: float
    top: tuple[Ranked, ...]
    """The best labels, best first; their number is the client's `top`."""


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
    """Segmentation: class numbers, uint8 [H, W] at the image's own size; 0 is the background."""

    mask: NDArray[np.uint8] = field(repr=False)
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class FoundObject:
    """An object in an image, and its label."""

    box: tuple[int, int, int, int]
    """(left, top, right, bottom) in pixels of the upright image; right and bottom are exclusive."""
    label: str
    probability: float
    top: tuple[Ranked, ...]
    rle: str = field(repr=False)
    """Its mask of the whole image as the counts of COCO's compressed RLE."""


@dataclass(frozen=True)
class ObjectsResult(Result):
    """A pipeline: the objects in an image, in the order of their topmost rows."""

    objects: tuple[FoundObject, ...]
    counts: Mapping[str, int]
    """Number of objects by label."""
    mask: NDArray[np.uint8] = field(repr=False)
    """Uint8 [H, W] at the image's own size: 0 for no object, else 1 for the model's first label, and so on."""


@dataclass(frozen=True)
class Neighbor:
    """An item of a gallery: its label, its path when the gallery was indexed, and the cosine distance to the image."""

    label: str
    distance: float
    path: str


@dataclass(frozen=True)
class SearchResult(Result):
    """Search: the label of the nearest item, or `unknown`, and the nearest items, nearest first."""

    label: str
    distance: float
    neighbors: tuple[Neighbor, ...]


@dataclass(frozen=True)
class HeadsResult(Result):
    """Several heads: one result for each, by the head's name."""

    heads: Mapping[str, Result]


@dataclass(frozen=True)
class Failed(Result):
    """An image that could not be read, or whose answer is impossible (NaN), with the reason. Only streams return it."""

    error: str


def result_of(row: Row, task_spec: TaskSpec) -> Result:
    """Return the row as a result of its task."""
    if row.answer is None:
        return Failed(row.name, row.as_json(), row.error or "")
    return _typed_result(row.name, row.answer, task_spec)


def _typed_result(name: str, answer: Answer, task_spec: TaskSpec) -> Result:
    fields = answer.fields
    match task_spec.task:
        case "multiclass":
            return LabelResult(name, fields, fields["label"], fields["probability"], _ranking(fields))
        case "multilabel":
            return LabelSetResult(name, fields, tuple(fields["labels"]), _ranking(fields))
        case "embedding" if answer.embedding is not None:
            return EmbeddingResult(name, fields, answer.embedding)
        case "segmentation" if answer.mask is not None:
            regions = tuple(Region(region["label"], region["share"]) for region in fields["regions"])
            return MaskResult(name, fields, answer.mask, regions)
        case "objects" if answer.mask is not None:
            objects = tuple(
                FoundObject(tuple(entry["box"]), entry["label"], entry["probability"], _ranking(entry), entry["mask"])
                for entry in fields["objects"]
            )
            return ObjectsResult(name, fields, objects, fields["counts"], answer.mask)
        case "search":
            neighbors = tuple(Neighbor(**neighbor) for neighbor in fields["neighbors"])
            return SearchResult(name, fields, fields["label"], fields["distance"], neighbors)
        case "heads":
            results: dict[str, Result] = {}
            offset = 0  # the answer's embedding holds those of all heads, one after the other
            for head, head_spec in task_spec.heads.items():
                vector = None
                if head_spec.embedding_size is not None and answer.embedding is not None:
                    vector = answer.embedding[offset : offset + head_spec.embedding_size]
                    offset += head_spec.embedding_size
                results[head] = _typed_result(name, Answer(fields[head], embedding=vector), head_spec)
            return HeadsResult(name, fields, results)
    return Result(name, fields)  # the task of a plug-in


def _ranking(fields: Mapping[str, Any]) -> tuple[Ranked, ...]:
    return tuple(Ranked(entry["label"], entry["probability"]) for entry in fields["top"])
