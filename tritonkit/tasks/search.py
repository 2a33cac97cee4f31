"""Search: the items of a gallery that are nearest to an image, and the label of the nearest, or `unknown`.

The gallery is inside the model. Outputs: `answer` BYTES [1]; `label`, `path` BYTES [K] and `distance` FP32 [K], nearest
first. A distance is the cosine distance, 1 - cos, of the embeddings, in 0..2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import SpecError
from tritonkit.images.preprocess import Geometry
from tritonkit.spec import GallerySpec, Outputs, TaskSpec, TensorSpec
from tritonkit.tasks.base import (
    RANGE_TOLERANCE,
    TIE_TOLERANCE,
    Agreement,
    Answer,
    Geometries,
    OutputSummary,
    Targets,
    Task,
)

UNKNOWN = "unknown"
"""The answer for an image that is far from every item."""
RANKS = (1, 3, 5, 10)
"""The k of recall@k."""
SEARCH_TIE = 1e-5
"""Distances that differ by less are equal: the rounding of fp32. The distances that decide can be below 0.001."""
OWN_PATH = "answer.path"
"""Ground truth: the path of the image itself in the gallery, empty for an image that is not in it."""
APPROXIMATE_FLOOR = 0.9
"""The share of an image's neighbours that an approximate search must find; of fewer than ten, one may be missing."""
APPROXIMATE_QUALITY = 0.01
"""How much worse a metric may be with an approximate search."""


def gallery_of(spec: TaskSpec) -> GallerySpec:
    """Return the gallery of a search model. Raises SpecError for another model."""
    if spec.gallery is None:
        raise SpecError(
            f"{spec.task}: has no gallery; `builder index CHECKPOINT GALLERY` makes a search model of an embedding "
            "model",
            code="spec.no_gallery",
        )
    return spec.gallery


def known_or_unknown(gallery: GallerySpec, distance: NDArray[np.float32], label: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return the output `answer`, [N, 1], from the distances and labels of the neighbours, [N, K], nearest first."""
    return np.where(distance[:, :1] < np.float32(gallery.threshold), label[:, :1], UNKNOWN)


class Search(Task):
    """Finds the nearest items of the gallery inside the model."""

    name = "search"
    output_name = "answer"
    floors = {"answer": 1.0, "neighbors": 1.0}
    min_labels = 1

    def __init__(self, task_spec: TaskSpec, output: str | None = None) -> None:
        super().__init__(task_spec, output)
        self._gallery = gallery_of(task_spec)

    @property
    def _is_approximate(self) -> bool:
        return self._gallery.approximate_recall is not None

    def outputs(self, image: TensorSpec) -> tuple[TensorSpec, ...]:
        count = self._gallery.neighbors
        return (
            TensorSpec(name=self.output, dtype="BYTES", shape=(1,)),
            TensorSpec(name="label", dtype="BYTES", shape=(count,)),
            TensorSpec(name="path", dtype="BYTES", shape=(count,)),
            TensorSpec(name="distance", dtype="FP32", shape=(count,)),
        )

    def layout_problems(self, outputs: Outputs) -> list[str]:
        if problems := super().layout_problems(outputs):
            return problems
        shape = (self._gallery.neighbors,)
        return [
            f"output {name} is missing"
            if name not in outputs
            else f"output {name} has shape {list(outputs[name].shape[1:])} for an image, expected {list(shape)}"
            for name in ("label", "path", "distance")
            if name not in outputs or outputs[name].shape[1:] != shape
        ]

    def faults(self, outputs: Outputs) -> list[str]:
        distances, faults = outputs["distance"], []
        lowest, highest = float(distances.min()), float(distances.max())
        if lowest < -RANGE_TOLERANCE or highest > 2 + RANGE_TOLERANCE:
            faults.append(
                f"distances lie in {lowest:.3g}..{highest:.3g}, expected 0..2: embeddings without unit length"
            )
        if (np.diff(distances, axis=1) < 0).any():
            faults.append("the distances are not in increasing order")
        expected = known_or_unknown(self._gallery, distances, outputs["label"])[:, 0]
        wrong = np.flatnonzero(outputs[self.output][:, 0] != expected)
        if len(wrong):
            first = int(wrong[0])
            faults.append(
                f"the answer is {outputs[self.output][first, 0]}, but the nearest item has distance "
                f"{distances[first, 0]:.4g}, which means {expected[first]}"
            )
        return faults

    def agreement(
        self, expected: Outputs, actual: Outputs, geometries: Geometries = None, tie: float = TIE_TOLERANCE
    ) -> Agreement:
        """Compare answers, and which items are found.

        Items whose distances differ by less than `tie`, at most `SEARCH_TIE`, may change places, also at the threshold
        and after the last neighbour. Of an approximate search, `neighbors` is the share of the items that it finds.
        """
        tie = min(tie, SEARCH_TIE)
        share_of_items = _share_of_found_items if self._is_approximate else _share_of_right_items
        rows = [
            (
                {name: array[row] for name, array in expected.items()},
                {name: array[row] for name, array in actual.items()},
            )
            for row in range(len(expected["distance"]))
        ]
        return {
            "answer": np.array([self._is_same_answer(*row, tie) for row in rows], np.float64),
            "neighbors": np.array([share_of_items(*row, tie) for row in rows], np.float64),
        }

    def aligned(self, expected: Outputs, actual: Outputs) -> Outputs:
        """Return the expected outputs; of an approximate search, with the expected distance of each item it found.

        One item that it does not find would else move all later distances. An item that the expected answer lacks
        must be farther than all of it; then its distance counts as right.
        """
        if not self._is_approximate:
            return expected
        distances = expected["distance"].copy()
        for row, (paths, found) in enumerate(zip(actual["path"], actual["distance"], strict=True)):
            known = dict(zip(expected["path"][row], expected["distance"][row], strict=True))
            last = expected["distance"][row, -1] - SEARCH_TIE
            for rank, (path, distance) in enumerate(zip(paths, found, strict=True)):
                distances[row, rank] = known.get(path, distance if distance >= last else distances[row, rank])
        return {**expected, "distance": distances}

    def _floor(self, measure: str) -> float:
        if measure != "neighbors" or not self._is_approximate:
            return self.floors[measure]
        count = self._gallery.neighbors
        return min(APPROXIMATE_FLOOR, (count - 1) / count) if count > 1 else 1.0

    def quality_limit(self, quality: float) -> float:
        return max(quality, APPROXIMATE_QUALITY) if self._is_approximate else quality

    def _is_same_answer(self, expected: Outputs, actual: Outputs, tie: float) -> bool:
        before, after = expected[self.output][0], actual[self.output][0]
        if before == after:
            return True
        nearest = expected["distance"][0]
        is_at_threshold = abs(nearest - self._gallery.threshold) <= tie
        equally_near = expected["label"][expected["distance"] <= nearest + tie]
        if UNKNOWN in (before, after):
            return bool(is_at_threshold) and (after == UNKNOWN or after in equally_near)
        return bool(after in equally_near)

    def quality(self, outputs: Outputs, targets: Targets) -> dict[str, float]:
        """Return recall@k; an image of the gallery does not find itself."""
        truth = targets[self.output]
        own = targets.get(OWN_PATH, np.full(len(truth), ""))
        hits: dict[str, list[bool]] = {}
        for row, (label, path) in enumerate(zip(truth, own, strict=True)):
            others = outputs["label"][row][outputs["path"][row] != path]
            for k in RANKS:
                if k <= self._gallery.neighbors - bool(path):
                    hits.setdefault(f"recall@{k}", []).append(label in others[:k])
        return {name: float(np.mean(found)) for name, found in hits.items() if len(found) == len(truth)}

    def summarize(self, outputs: Outputs) -> dict[str, OutputSummary]:
        """Summarize by the distance of the nearest item, and by the answer; `unknown` has no label."""
        answers = outputs[self.output][:, :1] == np.array(self.labels)
        return {self.output: OutputSummary(outputs["distance"][:, :1].astype(np.float16), ("distance",), answers)}

    def decisions(self, fields: Mapping[str, Any]) -> dict[str, str]:
        return {"label": fields["label"]}

    def joint(self, other: Task) -> Task:
        """Return one of both: labels are texts in the outputs, so those of two galleries are comparable as they are.

        If one of them is approximate, it is that.
        """
        self._check_same_task(other)
        return other if isinstance(other, Search) and other._is_approximate else self

    def place(self, outputs: Outputs, joint: Task) -> Outputs:
        return outputs

    def answer(self, output: Mapping[str, NDArray[Any]], geometry: Geometry, top: int) -> Answer:
        neighbors = [
            {"label": str(label), "distance": float(f"{distance:.7g}"), "path": str(path)}
            for label, distance, path in zip(output["label"], output["distance"], output["path"], strict=True)
        ]
        fields = {"label": str(output[self.output][0]), "distance": neighbors[0]["distance"]}
        return Answer({**fields, "neighbors": neighbors[:top]})

    def cells(self, fields: Mapping[str, Any]) -> list[str]:
        return [
            str(fields["label"]),
            *(f"{neighbor['path']} {neighbor['distance']:.4f}" for neighbor in fields["neighbors"]),
        ]

    def captions(self, answers: Sequence[Answer], names: Sequence[str]) -> list[str]:
        """Return the label of each answer with the path of its nearest item."""
        nearest = [answer.fields["neighbors"][0] for answer in answers]
        return [
            f"{answer.fields['label']}: {item['path']} ({item['distance']:.4f})"
            for answer, item in zip(answers, nearest, strict=True)
        ]


def _share_of_right_items(expected: Outputs, actual: Outputs, tie: float) -> float:
    """Return the share of the ranks with the right item, or one that is as near; its label must be right too."""
    known = {path: row for row, path in enumerate(expected["path"])}
    distances, last = expected["distance"], expected["distance"][-1]
    is_right = []
    for rank, (path, label, distance) in enumerate(
        zip(*(actual[n] for n in ("path", "label", "distance")), strict=True)
    ):
        row = known.get(path)
        if row is None:  # it may stand for the last one only
            is_right.append(max(abs(distance - last), abs(distances[rank] - last)) <= tie)
        else:
            is_right.append(label == expected["label"][row] and abs(distances[row] - distances[rank]) <= tie)
    return float(np.mean(is_right))


def _share_of_found_items(expected: Outputs, actual: Outputs, tie: float) -> float:
    """Return the share of the expected items that were found, or others that are as near, with their labels."""
    known, last = dict(zip(expected["path"], expected["label"], strict=True)), expected["distance"][-1]
    found = {
        path
        for path, label, distance in zip(*(actual[name] for name in ("path", "label", "distance")), strict=True)
        if (label == known[path] if path in known else distance <= last + tie)
    }
    return len(found) / len(expected["path"])
