"""Search for a precision that keeps the model's answers: each step computes more nodes in a higher precision."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

import onnx
from onnx import ModelProto

from builder.onnx.wiring import HEAVY_OPERATORS, Wiring, flattened, outer_nodes, wiring_of
from builder.precision.cast import cast_graph, reducible_nodes
from builder.precision.int8_exclusions import activation_products, int8_nodes, with_adjacent_nodes
from builder.precision.keep_fp32 import match_nodes
from builder.precision.quantize import Method, quantize_graph, quantized_operators
from builder.precision.ranges import Ranges, measure_ranges, nodes_above, vary_contrast
from builder.precision.sensitivity import rank_by_error_growth
from tritonkit.errors import ArtifactError
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes.formats import Dialect, Precision, ReducedType

BOUNDS = (8192.0, 1024.0)
"""Nodes with values of this size stay in fp32. fp16 ends at 65504, and a sample does not show the largest values."""
SHARES = {"tenth": 0.1, "three tenths": 0.3}
"""Shares of the reduced nodes that stay in fp32 as the last resort: those where the error grows most."""

FP16: tuple[ReducedType, ...] = ("fp16",)


@dataclass
class PrecisionStep:
    """One attempt at a precision."""

    precision: Precision
    description: str
    """What stays in fp32, in words for the verdict."""
    write: Callable[[Path], Sequence[str]]
    """Chooses the nodes to keep and writes the graph; returns the nodes kept in fp32, without the outer nodes."""
    nodes: int = 0
    """The number of nodes in the reduced precision, set by `write`."""


class PrecisionSearch:
    """The steps for one fp32 graph, from the requested precision up to fp32."""

    def __init__(self, graph: Path, images: ImageArray, patterns: Sequence[str] = ()) -> None:
        """images: uint8 [N, H, W, 3], to measure value ranges and calibrate int8 on.

        Raises ArtifactError for a graph without arithmetic, InputError for a pattern that matches nothing.
        """
        self._graph = graph
        self._images = images
        self._flat: ModelProto = flattened(onnx.load(graph))
        self._wiring: Wiring = wiring_of(self._flat)
        self._user_kept = match_nodes(self._flat, patterns)

    @cached_property
    def _ranges(self) -> Ranges:
        return measure_ranges(self._flat, self._wiring, vary_contrast(self._images))

    def steps(
        self, precision: Precision, dialect: Dialect, casts: Collection[ReducedType] = FP16
    ) -> Iterator[PrecisionStep]:
        """The steps from `precision` to fp32. casts: the reduced types that the format accepts in a graph."""
        if precision == "int8":
            yield from self._int8_steps(dialect)
        if precision in ("int8", "fp16") and "fp16" in casts:
            yield from self._cast_steps("fp16")
        if precision == "bf16" or (precision == "fp16" and "bf16" in casts):
            yield from self._cast_steps("bf16")
        yield self.fp32_step()

    def fp32_step(self) -> PrecisionStep:
        """Return the last step: a copy of the fp32 graph, unchanged."""

        def write(path: Path) -> Sequence[str]:
            shutil.copyfile(self._graph, path)
            return ()

        return PrecisionStep("fp32", "everything in fp32", write)

    def _cast_steps(self, precision: ReducedType) -> Iterator[PrecisionStep]:
        if precision == "fp16":
            for bound in BOUNDS:
                yield self._cast_step(
                    precision, f"fp32 for values of {bound:g} and more", partial(self._nodes_above, bound)
                )
        else:  # bf16 has the range of fp32, so nothing overflows
            yield self._cast_step(precision, "all nodes that can be", list)
        worst = cache(partial(self._most_sensitive, precision))  # computed by the first step that needs it
        for share_name, share in SHARES.items():
            above = f"values of {BOUNDS[-1]:g} and more and for " if self._overflow_nodes(precision) else ""
            description = f"fp32 for {above}the {share_name} of the nodes where the error grows most"
            yield self._cast_step(precision, description, partial(self._cast_share, share, worst, precision))

    def _overflow_nodes(self, precision: ReducedType) -> list[str]:
        """The nodes whose values could overflow fp16; none for bf16."""
        return self._nodes_above(BOUNDS[-1]) if precision == "fp16" else []

    def _nodes_above(self, bound: float) -> list[str]:
        return nodes_above(self._flat, self._ranges, bound)

    def _most_sensitive(self, precision: ReducedType) -> list[str]:
        """The reduced nodes by error growth. Overflow nodes stay in fp32: after an overflow all errors are infinite."""
        without_overflow = cast_graph(self._flat, precision, [*self._user_kept, *self._overflow_nodes(precision)])
        ranked = rank_by_error_growth(self._flat, self._wiring, without_overflow, self._images)
        return [name for name in ranked if name in self._reducible]

    def _cast_share(self, share: float, worst: Callable[[], list[str]], precision: ReducedType) -> list[str]:
        return [*self._overflow_nodes(precision), *_top_share(share, worst())]

    @cached_property
    def _reducible(self) -> set[str]:
        return reducible_nodes(self._flat, self._wiring, self._user_kept)

    @cached_property
    def _heavy(self) -> set[str]:
        return {node.name for node in self._flat.graph.node if node.op_type in HEAVY_OPERATORS}

    @cached_property
    def _margins(self) -> set[str]:
        return outer_nodes(self._flat, self._wiring)

    def _cast_step(self, precision: ReducedType, description: str, keep: Callable[[], Sequence[str]]) -> PrecisionStep:
        def write(path: Path) -> Sequence[str]:
            kept = self._nodes_to_keep(keep())
            left = self._reducible - set(kept)
            if not left & self._heavy:  # the artifact would be in fp32, not in this precision
                raise ArtifactError(
                    f"{precision}, {description}: no convolution or matrix product would be left in {precision}",
                    code="precision.nothing_reduced",
                )
            onnx.save(cast_graph(self._flat, precision, kept), path)
            step.nodes = len(left)
            return kept

        step = PrecisionStep(precision, description, write)
        return step

    def _nodes_to_keep(self, nodes: Sequence[str]) -> list[str]:
        return [name for name in dict.fromkeys([*self._user_kept, *nodes]) if name not in self._margins]

    def _int8_steps(self, dialect: Dialect) -> Iterator[PrecisionStep]:
        methods: tuple[Method, ...] = ("minmax", "percentile")
        for method in methods:
            yield self._int8_step(dialect, method, f"{method} calibration on {len(self._images)} images", list)
        if products := activation_products(self._flat, self._wiring):
            description = "fp32 for the products of two activations, as in attention"
            yield self._int8_step(dialect, "minmax", description, lambda: products)
        worst = cache(partial(self._most_sensitive_int8, dialect))
        for share_name, share in SHARES.items():
            description = f"fp32 for the {share_name} of the nodes where the error grows most and their neighbours"
            yield self._int8_step(dialect, "minmax", description, partial(self._int8_share, share, worst))

    def _most_sensitive_int8(self, dialect: Dialect) -> list[str]:
        kept = self._nodes_to_keep(activation_products(self._flat, self._wiring))
        model = quantize_graph(self._flat, self._images, dialect, keep=kept, every_activation=True)
        low = set(int8_nodes(model, quantized_operators(self._flat, dialect))) - set(kept)
        ranked = rank_by_error_growth(self._flat, self._wiring, model, self._images)
        return [name for name in ranked if name in low]

    def _int8_share(self, share: float, worst: Callable[[], list[str]]) -> list[str]:
        sensitive = with_adjacent_nodes(self._flat, self._wiring, _top_share(share, worst()), worst())
        return [*activation_products(self._flat, self._wiring), *sensitive]

    def _int8_step(
        self, dialect: Dialect, method: Method, description: str, keep: Callable[[], Sequence[str]]
    ) -> PrecisionStep:
        def write(path: Path) -> Sequence[str]:
            kept = self._nodes_to_keep(keep())
            model = quantize_graph(self._flat, self._images, dialect, method, kept)
            step.nodes = len(
                set(int8_nodes(model, quantized_operators(self._flat, dialect))) - set(kept) - self._margins
            )
            if not step.nodes:
                raise ArtifactError(
                    f"int8, {description}: no node would be left in int8", code="precision.nothing_reduced"
                )
            onnx.save(model, path)
            return kept

        step = PrecisionStep("int8", description, write)
        return step


def _top_share(share: float, ranked: Sequence[str]) -> Sequence[str]:
    """The first part of a ranking, at least one node, so that an attempt differs from the one before."""
    return ranked[: max(1, int(share * len(ranked)))]
