"""A source that is a graph: its input and output, and a runner of the original file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import onnx
from numpy.typing import NDArray

from builder.onnx.file import save_onnx
from builder.onnx.precision import reduced_or_quantized_precision
from builder.sources.base import Source
from tritonkit.errors import ArtifactError, InputError
from tritonkit.export_options import Layout, OutputOptions
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import Precision
from tritonkit.spec import METADATA_KEY, ModelSpec, Normalize, Outputs
from tritonkit.tasks import task_for

Raw = NDArray[Any]
GraphFunction = Callable[[Raw], Raw]
"""Runs a graph on a batch in its own dtype and layout; returns its raw output [N, ...]. Raises ArtifactError."""
FinalStep = Literal["softmax", "sigmoid", "unit length", "argmax", "above 0", "above 0.5", "none"]
"""The step from a graph's raw output to the output of a task."""
PixelType = Literal["float32", "float16", "uint8"]


@dataclass(frozen=True)
class GraphSignature:
    """The input and output of a graph with one image input."""

    input: str
    output: str
    dtype: PixelType
    layout: Layout
    batch: int | None
    """The fixed batch size; None for any size."""
    size: tuple[int | None, int | None]
    """Height and width; None where they are dynamic."""

    def preprocess(self, images: ImageArray, normalize: Normalize) -> Raw:
        """Convert pixels uint8 [N, H, W, 3] to the graph's input, in numpy, independent of the exported graph."""
        pixels: Raw = images
        if self.dtype != "uint8":
            scaled = images.astype(np.float64) / 255
            pixels = ((scaled - np.array(normalize.mean)) / np.array(normalize.std)).astype(self.dtype)
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) if self.layout == "NCHW" else pixels)

    def infer(self, run: GraphFunction, pixels: Raw) -> Raw:
        """Run the graph in batches of its fixed size; returns its raw outputs [N, ...]."""
        size = self.batch or len(pixels)
        rows = np.arange(-(-len(pixels) // size) * size) % len(pixels)
        parts = [run(pixels[rows[start : start + size]]) for start in range(0, len(rows), size)]
        for part in parts:
            if part.shape[:1] != (size,):
                raise ArtifactError(
                    f"outputs {list(part.shape)} for {size} images; expected the batch axis first",
                    code="onnx.output_batch",
                )
        return np.concatenate(parts)[: len(pixels)]


class ForeignGraphRunner(Runner):
    """Runs the original file; preprocessing and the final step are computed in numpy."""

    def __init__(
        self, spec: ModelSpec, origin: str, signature: GraphSignature, run: GraphFunction, final_step: FinalStep
    ) -> None:
        self.spec, self.origin = spec, origin
        self.signature, self.final_step = signature, final_step
        self._run = run

    def _infer(self, batch: ImageArray) -> Outputs:
        raw = self.signature.infer(self._run, self.signature.preprocess(batch, self.spec.normalize))
        return {self.spec.outputs[0].name: apply_final_step(raw, self.final_step, self.signature.layout)}

    def with_spec(self, spec: ModelSpec) -> ForeignGraphRunner:
        """A runner of the same file with another spec."""
        return ForeignGraphRunner(spec, self.origin, self.signature, self._run, self.final_step)


def apply_final_step(raw: Raw, final_step: FinalStep, layout: Layout = "NCHW") -> Raw:
    """Compute a task's output from raw values [N, C] or [N, C, 1, 1]; masks from [N, C, H, W] or [N, H, W, C]."""
    if final_step in ("argmax", "above 0", "above 0.5"):
        channel = 1 if layout == "NCHW" else 3
        threshold = 0.5 if final_step == "above 0.5" else 0
        mask: Raw = raw.argmax(axis=channel) if final_step == "argmax" else np.take(raw, 0, axis=channel) > threshold
        return mask.astype(np.uint8)
    values: Raw = raw.reshape(len(raw), -1).astype(np.float32)
    if final_step == "softmax":
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        values = powers / powers.sum(axis=1, keepdims=True)
    elif final_step == "sigmoid":
        values = (1 / (1 + np.exp(-values.astype(np.float64)))).astype(np.float32)
    elif final_step == "unit length":
        values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return values


@dataclass(frozen=True)
class GraphSource(Source):
    """A graph with tritonkit's inputs and outputs: uint8 images in, the task's outputs out."""

    runner: Runner
    """Runs the original file."""
    model: onnx.ModelProto

    @property
    def spec(self) -> ModelSpec:
        return self.runner.spec

    @property
    def reference(self) -> Runner:
        return self.runner

    def write_graph(self, path: Path) -> None:
        onnx.helper.set_model_props(self.model, {METADATA_KEY: self.spec.to_json()})
        save_onnx(self.model, path, origin=str(self.path))

    @property
    def precision(self) -> Precision:
        return reduced_or_quantized_precision(self.model)

    def check_precision(self, precision: Precision) -> None:
        if self.precision != "fp32" and precision not in ("fp32", self.precision):
            raise InputError(
                f"{self.path}: the graph is {self.precision} already and can only be exported unchanged: request "
                f"{self.precision}, or no precision for ONNX; for {precision} pass the original fp32 graph",
                code="onnx.already_reduced",
            )

    def with_output_options(self, options: OutputOptions) -> Self:
        if options.threshold is None and not options.probability:
            return self
        task = task_for(self.spec)
        if options.probability or task.dense or not task.thresholded or not isinstance(self.runner, ForeignGraphRunner):
            raise InputError(
                f"{self.path}: --threshold and --probability need a network, and this is a graph; leave them out, or "
                "export the checkpoint with them (--threshold works for a graph with --task multilabel)",
                code="option.output_of_graph",
            )
        thresholds = dict.fromkeys(self.spec.labels, options.threshold)
        return replace(self, runner=self.runner.with_spec(self.spec.model_copy(update={"thresholds": thresholds})))
