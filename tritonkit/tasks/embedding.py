"""Embedding: a unit vector in D dimensions, close for images of the same class. Output `embedding` FP32 [D]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import SpecError
from tritonkit.images.preprocess import Geometry
from tritonkit.spec import Outputs, TaskSpec
from tritonkit.tasks.base import TIE_TOLERANCE, Agreement, Answer, Geometries, Targets, Task

LENGTH_TOLERANCE = 1e-2


class Embedding(Task):
    """Predicts a unit vector for each image."""

    name = "embedding"
    output_name = "embedding"
    floors = {"cosine": 0.999, "neighbour": 1.0}
    layer = "UnitLength"

    def __init__(self, task_spec: TaskSpec, output: str | None = None) -> None:
        super().__init__(task_spec, output)
        if task_spec.embedding_size is None:
            raise SpecError("embedding needs an embedding_size", code="spec.no_embedding_size")
        self._size = task_spec.embedding_size

    @property
    def channels(self) -> int:
        return self._size

    def joint(self, other: Task) -> Task:
        self._check_same_task(other)
        if self.channels != other.channels:
            raise SpecError(
                f"cannot compare embeddings of {self.channels} numbers with embeddings of {other.channels} numbers",
                code="spec.not_comparable",
            )
        return self

    def faults(self, outputs: Outputs) -> list[str]:
        lengths = np.linalg.norm(outputs[self.output], axis=1)
        worst = float(lengths[np.abs(lengths - 1).argmax()])
        if abs(worst - 1) <= LENGTH_TOLERANCE:
            return []
        return [f"{self.output} is not normalised: length {worst:.3g}, expected 1"]

    def agreement(
        self, expected: Outputs, actual: Outputs, geometries: Geometries = None, tie: float = TIE_TOLERANCE
    ) -> Agreement:
        reference, other = expected[self.output], actual[self.output]
        lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(other, axis=1)
        cosine = (reference * other).sum(axis=1) / np.maximum(lengths, 1e-12)
        neighbour = np.ones(len(reference))
        if len(reference) > 1:
            similar, chosen = _cosine_similarities(reference), _cosine_similarities(other).argmax(axis=1)
            chosen_similarity = np.take_along_axis(similar, chosen[:, None], axis=1)[:, 0]
            neighbour = (chosen_similarity >= similar.max(axis=1) - tie).astype(np.float64)
        return {"cosine": cosine.astype(np.float64).clip(0, 1), "neighbour": neighbour}

    def quality(self, outputs: Outputs, targets: Targets) -> dict[str, float]:
        truth = targets[self.output]
        # Recall needs a second image of the class.
        classes, counts = np.unique(truth, return_counts=True)
        has_match = np.isin(truth, classes[counts > 1])
        if not has_match.any():
            return {}
        nearest = _cosine_similarities(outputs[self.output]).argmax(axis=1)
        return {"recall@1": float((truth[nearest] == truth)[has_match].mean())}

    def answer(self, output: Mapping[str, NDArray[Any]], geometry: Geometry, top: int) -> Answer:
        values = output[self.output].astype(np.float32)
        # Nine digits preserve a float32 exactly.
        return Answer({"embedding": [float(f"{value:.9g}") for value in values.tolist()]}, embedding=values)

    def cells(self, fields: Mapping[str, Any]) -> list[str]:
        first = ", ".join(f"{value:.3f}" for value in fields["embedding"][:4])
        return [f"{len(fields['embedding'])} numbers: {first}, …"]

    def captions(self, answers: Sequence[Answer], names: Sequence[str]) -> list[str]:
        """Return the name of the most similar other image for each answer."""
        if len(answers) < 2:
            return super().captions(answers, names)
        similar = _cosine_similarities(np.array([answer.fields["embedding"] for answer in answers]))
        paths = [PurePath(name) for name in names]
        is_unique = len({path.name for path in paths}) == len(paths)
        labels = [path.name if is_unique else f"{path.parent.name}/{path.name}" for path in paths]
        return [f"nearest: {labels[row.argmax()]} ({row.max():.2f})" for row in similar]


def _cosine_similarities(vectors: NDArray[Any]) -> NDArray[Any]:
    """Return the cosines between all unit vectors [N, D] as [N, N], with -inf on the diagonal."""
    similar: NDArray[Any] = vectors @ vectors.T
    np.fill_diagonal(similar, -np.inf)
    return similar
