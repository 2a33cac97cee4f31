"""Objects: the objects in an image, each with its box, mask and label. The task of a pipeline.

A request has one image, so the outputs have no batch axis; N is the number of objects: `boxes` INT32 [N, 4] (left, top,
right, bottom in pixels of the upright image; right and bottom are exclusive), `masks` BYTES [N] (COCO RLE counts of the
whole image), `labels` BYTES [N], `probabilities` FP32 [N, C], `size` INT32 [2] (width and height of the image).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import AnswerError
from tritonkit.images.preprocess import MAX_PIXELS, Geometry
from tritonkit.spec import VARIABLE_SIZE, Outputs, TensorSpec
from tritonkit.tasks.base import TIE_TOLERANCE, Agreement, Answer, Geometries, Targets, Task
from tritonkit.tasks.multiclass import Multiclass, top_labels

_MAX_CLASS = 255
_MAX_BITS = 35
"""Of a number in an RLE: seven characters, as many as a signed number of 32 bits needs."""


class Objects(Task):
    """Finds the objects in an image, and predicts one label for each."""

    name = "objects"
    output_name = "labels"
    floors = {"objects": 1.0}
    min_labels = 2

    def outputs(self, image: TensorSpec) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec(name="boxes", dtype="INT32", shape=(VARIABLE_SIZE, 4)),
            TensorSpec(name="masks", dtype="BYTES", shape=(VARIABLE_SIZE,)),
            TensorSpec(name=self.output, dtype="BYTES", shape=(VARIABLE_SIZE,)),
            TensorSpec(name="probabilities", dtype="FP32", shape=(VARIABLE_SIZE, self.channels)),
            TensorSpec(name="size", dtype="INT32", shape=(2,)),
        )

    def layout_problems(self, outputs: Outputs) -> list[str]:
        expected = ("boxes", "masks", self.output, "probabilities", "size")
        if missing := [name for name in expected if name not in outputs]:
            return [f"output {', '.join(missing)} is missing; the model returns {', '.join(outputs)}"]
        counts = {name: outputs[name].shape[1] for name in expected[:-1]}
        if len(set(counts.values())) > 1:
            return [f"the outputs have different numbers of objects: {counts}"]
        return []

    def faults(self, outputs: Outputs) -> list[str]:
        boxes, sizes = outputs["boxes"].astype(np.int64), outputs["size"].astype(np.int64)
        if (sizes < 1).any() or (sizes.prod(axis=1) > MAX_PIXELS).any():
            return [f"size is {sizes[0].tolist()}, which no image has"]
        ends = np.concatenate([sizes, sizes], axis=1)[:, None]
        if (boxes < 0).any() or (boxes > ends).any() or (boxes[..., :2] >= boxes[..., 2:]).any():
            return [f"boxes are not inside the image of {sizes[0].tolist()} pixels"]
        if unknown := set(outputs[self.output].ravel().tolist()) - set(self.labels):
            return [f"labels has {sorted(unknown)[0]!r}, which is no label of the model"]
        probabilities = outputs["probabilities"].reshape(-1, self.channels)
        return Multiclass(self.task_spec).faults({"probabilities": probabilities}) if len(probabilities) else []

    def agreement(
        self, expected: Outputs, actual: Outputs, geometries: Geometries = None, tie: float = TIE_TOLERANCE
    ) -> Agreement:
        """Return for one image whether both answers have the same boxes, masks and labels; outputs are [1, N, ...]."""
        same = all(np.array_equal(expected[name], actual[name]) for name in ("size", "boxes", "masks"))
        if same:
            reference = expected["probabilities"][0]
            chosen = [self.labels.index(str(label)) for label in actual[self.output][0]]
            best = reference.max(axis=1, initial=0)
            same = bool((reference[np.arange(len(chosen)), chosen] >= best - tie).all())
        return {"objects": np.array([float(same)])}

    def quality(self, outputs: Outputs, targets: Targets) -> dict[str, float]:
        return {}

    def answer(self, output: Mapping[str, NDArray[Any]], geometry: Geometry, top: int) -> Answer:
        """Return the answer for one image. Its mask has 1 for the first label, 2 for the second, up to 255."""
        width, height = (int(side) for side in output["size"])
        mask = np.zeros(width * height, np.uint8)
        found = []
        for box, counts, label, values in zip(
            output["boxes"].tolist(), output["masks"], output[self.output], output["probabilities"], strict=True
        ):
            for start, end in _runs_of_rle(str(counts), mask.size):
                mask[start:end] = min(self.labels.index(str(label)) + 1, _MAX_CLASS)
            ranking = top_labels(values, self.labels, top)
            found.append({"box": box, **ranking[0], "top": ranking, "mask": str(counts)})
        numbers = Counter(entry["label"] for entry in found)
        fields = {
            "size": [width, height],
            "counts": {label: numbers[label] for label in self.labels},
            "objects": found,
        }
        return Answer(fields, mask=np.ascontiguousarray(mask.reshape(width, height).T))

    def example_outputs(self, image: TensorSpec) -> Outputs:
        return {
            "boxes": np.array([[0, 0, 1, 1]], np.int32),
            "masks": np.array(["01"]),
            self.output: np.array([self.labels[0]]),
            "probabilities": np.ones((1, self.channels), np.float32),
            "size": np.array([1, 1], np.int32),
        }

    def cells(self, fields: Mapping[str, Any]) -> list[str]:
        counts = [f"{count} {label}" for label, count in fields["counts"].items() if count]
        return [", ".join(counts) or "no objects"]


def _runs_of_rle(counts: str, pixels: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of set pixels, in the order of columns. Raises AnswerError.

    counts: COCO's compressed RLE. Runs of clear and set pixels alternate; from the fourth on, a run is the difference
    to the one before the last. A number has five bits in each character, the lowest first; bit 32 says that more
    follow, and bit 16 of the last character is the sign. Source: github.com/cocodataset/cocoapi, common/maskApi.c,
    `rleFrString`. So a client needs no library of COCO to draw masks.
    """
    runs: list[int] = []
    value = shift = position = 0
    for character in counts:
        code = ord(character) - 48
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            if shift > _MAX_BITS:  # the shifts of an endless number would take quadratic time
                break
            continue
        value -= (1 << shift) if code & 16 else 0
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
        if runs[-1] < 0 or position + runs[-1] > pixels:
            break
        if len(runs) % 2 == 0:
            yield position, position + runs[-1]
        position += runs[-1]
    else:
        if position == pixels and not shift:
            return
    raise AnswerError(f"the runs of a mask do not add up to the {pixels:,} pixels of its image", code="answer.mask")
