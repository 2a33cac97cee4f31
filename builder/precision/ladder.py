"""From the wanted precision to one that keeps the model's answers: each step gives up a little more of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx
from onnx import ModelProto

from builder.precision.cast import Reduced, low_nodes, reduced
from builder.precision.graph import Wiring, flattened, margins, wiring_of
from builder.precision.keep import named_by
from builder.precision.losses import lossiest
from builder.precision.quantize import Method, quantized
from builder.precision.ranges import Ranges, beyond, contrast_varied, ranges_of
from builder.targets import Dialect, Precision
from model.preprocess import ImageArray

BOUNDS = (8192.0, 1024.0)
"""Nodes with a value of this size stay in fp32. fp16 ends at 65504; networks meet larger values than a sample shows."""
SHARES = (0.1, 0.3)
"""Of the nodes, those where the error grows most, kept in fp32 when bounds do not help."""

FP16: tuple[Reduced, ...] = ("fp16",)
Converter = Callable[[ModelProto, Reduced, Sequence[str]], ModelProto]
"""From an fp32 graph to one in a reduced type, but for the nodes named."""


@dataclass(frozen=True)
class Step:
    """One try at a precision."""

    precision: Precision
    how: str
    """What is kept out of the precision, in words."""
    write: Callable[[Path], Sequence[str]]
    """Writes the graph; returns the names of the nodes kept in fp32, margins not counted."""
    nodes: int = 0
    """Nodes in the reduced precision."""


class Ladder:
    """The steps for one fp32 graph."""

    def __init__(
        self, graph: Path, images: ImageArray, patterns: Sequence[str] = (), convert: Converter = reduced
    ) -> None:
        """images: uint8 [N, H, W, 3], what ranges and calibration are measured on.

        Raises ArtifactError for a graph without arithmetic, InputError for a pattern that matches nothing.
        """
        self._convert = convert
        self._graph = graph
        self._images = images
        self._flat: ModelProto = flattened(onnx.load(graph))
        self._wiring: Wiring = wiring_of(self._flat)
        self._asked = named_by(self._flat, patterns)

    @cached_property
    def _ranges(self) -> Ranges:
        return ranges_of(self._flat, self._wiring, contrast_varied(self._images))

    @cached_property
    def _worst(self) -> list[str]:
        return lossiest(self._flat, self._wiring, reduced(self._flat, "fp16", self._asked), self._images)

    def steps(self, wanted: Precision, dialect: Dialect, casts: Collection[Reduced] = FP16) -> Iterator[Step]:
        """From the wanted precision down to fp32. casts: the types that the format takes in a graph."""
        if wanted == "int8":
            yield from self._int8(dialect)
        if wanted in ("int8", "fp16") and "fp16" in casts:
            yield from self._cast_steps("fp16")
        if wanted == "bf16" or (wanted == "fp16" and "bf16" in casts):
            yield from self._cast_steps("bf16")
        yield self.whole()

    def whole(self) -> Step:
        """The fp32 graph as it is."""

        def write(path: Path) -> Sequence[str]:
            shutil.copyfile(self._graph, path)
            return ()

        return Step("fp32", "everything in fp32", write)

    def _cast_steps(self, precision: Reduced) -> Iterator[Step]:
        if precision == "fp16":
            for bound in BOUNDS:
                yield self._cast(precision, f"values of {bound:g} and more in fp32", beyond(*self._measured, bound))
        else:  # bf16 reaches as far as fp32; it lacks digits
            yield self._cast(precision, "all that can be", [])
        for share in SHARES:
            count = int(share * len(self._low))
            kept = [name for name in self._worst if name in self._low][:count]
            far = beyond(*self._measured, BOUNDS[-1]) if precision == "fp16" else []
            how = f"the {share:.0%} of nodes that lose most in fp32"
            yield self._cast(precision, f"{how}, and values of {BOUNDS[-1]:g}" if far else how, [*far, *kept])

    @property
    def _measured(self) -> tuple[ModelProto, Ranges]:
        return self._flat, self._ranges

    @cached_property
    def _low(self) -> set[str]:
        return low_nodes(self._flat, self._wiring, self._asked)

    @cached_property
    def _margins(self) -> set[str]:
        return margins(self._flat, self._wiring)

    def _cast(self, precision: Reduced, how: str, keep: Sequence[str]) -> Step:
        kept = [name for name in dict.fromkeys([*self._asked, *keep]) if name not in self._margins]

        def write(path: Path) -> Sequence[str]:
            onnx.save(self._convert(self._flat, precision, kept), path)
            return kept

        return Step(precision, how, write, nodes=len(self._low - set(kept)))

    def _int8(self, dialect: Dialect) -> Iterator[Step]:
        methods: tuple[Method, ...] = ("minmax", "percentile")
        for method in methods:
            yield self._quantized(dialect, method, f"{method} calibration on {len(self._images)} images", [])
        for share in SHARES:
            kept = [name for name in self._worst if name in self._low][: int(share * len(self._low))]
            yield self._quantized(dialect, "minmax", f"the {share:.0%} of nodes that lose most in fp32", kept)

    def _quantized(self, dialect: Dialect, method: Method, how: str, keep: Sequence[str]) -> Step:
        kept = list(dict.fromkeys([*self._asked, *keep]))

        def write(path: Path) -> Sequence[str]:
            onnx.save(quantized(self._flat, self._images, dialect, method, kept), path)
            return kept

        return Step("int8", how, write, nodes=len(self._low - set(kept)))
