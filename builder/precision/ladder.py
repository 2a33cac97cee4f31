"""From the wanted precision to one that keeps the model's answers: each step gives up a little more of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

import onnx
from onnx import ModelProto

from builder.precision.cast import Reduced, low_nodes, reduced
from builder.precision.graph import HEAVY, Wiring, flattened, margins, wiring_of
from builder.precision.keep import named_by
from builder.precision.losses import lossiest
from builder.precision.quantize import Method, operators_of, quantized
from builder.precision.ranges import Ranges, beyond, contrast_varied, ranges_of
from builder.precision.spared import int8_nodes, products_of_activations, with_neighbours
from builder.targets import Dialect, Precision
from model.errors import ArtifactError
from model.preprocess import ImageArray

BOUNDS = (8192.0, 1024.0)
"""Nodes with a value of this size stay in fp32. fp16 ends at 65504; networks meet larger values than a sample shows."""
SHARES = {"tenth": 0.1, "three tenths": 0.3}
"""Of the nodes in the precision, those where the error grows most, kept in fp32 when nothing else helps."""

FP16: tuple[Reduced, ...] = ("fp16",)
Converter = Callable[[ModelProto, Reduced, Sequence[str]], ModelProto]
"""From an fp32 graph to one in a reduced type, but for the nodes named."""


@dataclass
class Step:
    """One try at a precision."""

    precision: Precision
    how: str
    """What is kept out of the precision, in words."""
    write: Callable[[Path], Sequence[str]]
    """Finds out what to keep and writes the graph; returns the nodes kept in fp32, margins not counted."""
    nodes: int = 0
    """Nodes in the reduced precision, known once it is written."""


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
                yield self._cast(precision, f"fp32 for values of {bound:g} and more", partial(self._beyond, bound))
        else:  # bf16 reaches as far as fp32; it lacks digits
            yield self._cast(precision, "all that can be", list)
        worst = cache(partial(self._lossiest, precision))  # in the time of the try that needs it
        for words, share in SHARES.items():
            far = f"values of {BOUNDS[-1]:g} and more and for " if self._far(precision) else ""
            how = f"fp32 for {far}the {words} of the nodes that lose most"
            yield self._cast(precision, how, partial(self._share, share, worst, precision))

    def _far(self, precision: Reduced) -> list[str]:
        """What reaches the lowest bound, where that says something."""
        return self._beyond(BOUNDS[-1]) if precision == "fp16" else []

    def _beyond(self, bound: float) -> list[str]:
        return beyond(self._flat, self._ranges, bound)

    def _lossiest(self, precision: Reduced) -> list[str]:
        """Of the guarded graph: past an overflow nothing could be told apart."""
        guarded = reduced(self._flat, precision, [*self._asked, *self._far(precision)])
        ranked = lossiest(self._flat, self._wiring, guarded, self._images)
        return [name for name in ranked if name in self._low]

    def _share(self, share: float, worst: Callable[[], list[str]], precision: Reduced) -> list[str]:
        return [*self._far(precision), *_first(share, worst())]

    @cached_property
    def _low(self) -> set[str]:
        return low_nodes(self._flat, self._wiring, self._asked)

    @cached_property
    def _heavy(self) -> set[str]:
        return {node.name for node in self._flat.graph.node if node.op_type in HEAVY}

    @cached_property
    def _margins(self) -> set[str]:
        return margins(self._flat, self._wiring)

    def _cast(self, precision: Reduced, how: str, keep: Callable[[], Sequence[str]]) -> Step:
        def write(path: Path) -> Sequence[str]:
            kept = self._kept(keep())
            left = self._low - set(kept)
            if not left & self._heavy:  # another artifact in fp32, not one in this precision
                raise ArtifactError(
                    f"{precision}, {how}: no convolution or matrix product would be left in {precision}"
                )
            onnx.save(self._convert(self._flat, precision, kept), path)
            step.nodes = len(left)
            return kept

        step = Step(precision, how, write)
        return step

    def _kept(self, found: Sequence[str]) -> list[str]:
        return [name for name in dict.fromkeys([*self._asked, *found]) if name not in self._margins]

    def _int8(self, dialect: Dialect) -> Iterator[Step]:
        methods: tuple[Method, ...] = ("minmax", "percentile")
        for method in methods:
            yield self._quantized(dialect, method, f"{method} calibration on {len(self._images)} images", list)
        if between := products_of_activations(self._flat, self._wiring):
            how = "fp32 for the products of two activations, as attention has them"
            yield self._quantized(dialect, "minmax", how, lambda: between)
        worst = cache(partial(self._lossiest_int8, dialect))
        for words, share in SHARES.items():
            how = f"fp32 for the {words} of the nodes that lose most and those around them"
            yield self._quantized(dialect, "minmax", how, partial(self._int8_share, share, worst))

    def _lossiest_int8(self, dialect: Dialect) -> list[str]:
        kept = self._kept(products_of_activations(self._flat, self._wiring))
        model = quantized(self._flat, self._images, dialect, keep=kept, every_activation=True)
        low = set(int8_nodes(model, operators_of(self._flat, dialect))) - set(kept)
        ranked = lossiest(self._flat, self._wiring, model, self._images)
        return [name for name in ranked if name in low]

    def _int8_share(self, share: float, worst: Callable[[], list[str]]) -> list[str]:
        lossy = with_neighbours(self._flat, self._wiring, _first(share, worst()), worst())
        return [*products_of_activations(self._flat, self._wiring), *lossy]

    def _quantized(self, dialect: Dialect, method: Method, how: str, keep: Callable[[], Sequence[str]]) -> Step:
        def write(path: Path) -> Sequence[str]:
            kept = self._kept(keep())
            model = quantized(self._flat, self._images, dialect, method, kept)
            step.nodes = len(set(int8_nodes(model, operators_of(self._flat, dialect))) - set(kept) - self._margins)
            if not step.nodes:
                raise ArtifactError(f"int8, {how}: no node would be left in int8")
            onnx.save(model, path)
            return kept

        step = Step("int8", how, write)
        return step


def _first(share: float, ranked: Sequence[str]) -> Sequence[str]:
    """At least one, so that a try differs from the one before."""
    return ranked[: max(1, int(share * len(ranked)))]
