"""A model that came as a graph: what it takes and gives, and how its own file answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import onnx
from numpy.typing import NDArray

from builder.options import Layout
from builder.sources.base import Source
from builder.sources.onnx_file import saved
from builder.sources.onnx_held import held_by
from builder.targets import Precision
from builder.terms import OutputOptions
from model.errors import ArtifactError, InputError
from model.preprocess import ImageArray
from model.runners.base import Outputs, Runner
from model.spec import METADATA_KEY, ModelSpec, Normalize
from model.tasks import task_for

Raw = NDArray[Any]
Ask = Callable[[Raw], Raw]
"""A graph's own answer to a batch of the type and layout it takes, [N, ...]. Raises ArtifactError."""
Last = Literal["softmax", "sigmoid", "unit length", "argmax", "above 0", "above 0.5", "none"]
"""What turns a graph's last values into the answers of a task."""
PixelType = Literal["float32", "float16", "uint8"]


@dataclass(frozen=True)
class Given:
    """What a graph takes: one image input, in its own words."""

    input: str
    output: str
    dtype: PixelType
    layout: Layout
    batch: int | None
    """The one batch size it takes, None for any."""

    def prepared(self, images: ImageArray, normalize: Normalize) -> Raw:
        """Pixels uint8 [N, H, W, 3] as the graph takes them: normalised in numpy, by other code than the graph's."""
        pixels: Raw = images
        if self.dtype != "uint8":
            scaled = images.astype(np.float64) / 255
            pixels = ((scaled - np.array(normalize.mean)) / np.array(normalize.std)).astype(self.dtype)
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) if self.layout == "NCHW" else pixels)

    def asked(self, ask: Ask, pixels: Raw) -> Raw:
        """The graph's own answers [N, ...], asked in batches of the size it takes."""
        size = self.batch or len(pixels)
        places = np.arange(-(-len(pixels) // size) * size) % len(pixels)
        parts = [ask(pixels[places[start : start + size]]) for start in range(0, len(places), size)]
        for part in parts:
            if part.shape[:1] != (size,):
                raise ArtifactError(f"answers {list(part.shape)} for {size} pictures; expected the batch axis first")
        return np.concatenate(parts)[: len(pixels)]


class GivenRunner(Runner):
    """The file as it was given, with what stands around it done in numpy."""

    def __init__(self, spec: ModelSpec, origin: str, given: Given, ask: Ask, last: Last) -> None:
        self.spec, self.origin = spec, origin
        self.given, self.last = given, last
        self._ask = ask

    def _infer(self, batch: ImageArray) -> Outputs:
        raw = self.given.asked(self._ask, self.given.prepared(batch, self.spec.normalize))
        return {self.spec.outputs[0].name: finished(raw, self.last, self.given.layout)}

    def asked_as(self, spec: ModelSpec) -> GivenRunner:
        """The same file under another spec."""
        return GivenRunner(spec, self.origin, self.given, self._ask, self.last)


def finished(raw: Raw, last: Last, layout: Layout = "NCHW") -> Raw:
    """A task's answers from a graph's last values, [N, C] or [N, C, 1, 1]; masks from [N, C, H, W] or [N, H, W, C]."""
    if last in ("argmax", "above 0", "above 0.5"):
        channel = 1 if layout == "NCHW" else 3
        cut = 0.5 if last == "above 0.5" else 0
        mask: Raw = raw.argmax(axis=channel) if last == "argmax" else np.take(raw, 0, axis=channel) > cut
        return mask.astype(np.uint8)
    values: Raw = raw.reshape(len(raw), -1).astype(np.float32)
    if last == "softmax":
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        values = powers / powers.sum(axis=1, keepdims=True)
    elif last == "sigmoid":
        values = (1 / (1 + np.exp(-values.astype(np.float64)))).astype(np.float32)
    elif last == "unit length":
        values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return values


@dataclass(frozen=True)
class GraphSource(Source):
    """A graph in the kit's own terms: uint8 images in, the task's outputs out."""

    runner: Runner
    """The file as it was given."""
    model: onnx.ModelProto

    @property
    def spec(self) -> ModelSpec:
        return self.runner.spec

    @property
    def reference(self) -> Runner:
        return self.runner

    def write_graph(self, path: Path) -> None:
        onnx.helper.set_model_props(self.model, {METADATA_KEY: self.spec.to_json()})
        saved(self.model, path, origin=str(self.path))

    @property
    def precision(self) -> Precision:
        return held_by(self.model)

    def check_takes(self, precision: Precision) -> None:
        if self.precision != "fp32" and precision not in ("fp32", self.precision):
            raise InputError(
                f"{self.path}: it is {self.precision} already, so it can only be exported as is: give {self.precision} "
                f"as the precision, or none where ONNX is wanted; for {precision} give the graph as it was in fp32"
            )

    def asked_in(self, terms: OutputOptions) -> Self:
        if terms == OutputOptions():
            return self
        task = task_for(self.spec)
        if terms.probability or task.dense or not task.thresholded or not isinstance(self.runner, GivenRunner):
            raise InputError(
                f"{self.path}: --threshold and --probability are asked of a network, and this is a graph; leave them "
                "out, or export it with them where its checkpoint is (--threshold is possible for --task multilabel)"
            )
        if terms.threshold is None or not 0 < terms.threshold < 1:
            raise InputError(f"--threshold {terms.threshold}: expected a probability between 0 and 1")
        thresholds = dict.fromkeys(self.spec.labels, terms.threshold)
        return replace(self, runner=self.runner.asked_as(self.spec.model_copy(update={"thresholds": thresholds})))
