"""Search for a precision that keeps the model's answers: each step computes more nodes in a higher precision."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property, partial
from pathlib import Path

import onnx
from onnx import ModelProto

from builder.onnx.wiring import HEAVY_OPERATORS, flattened, outer_nodes, wiring_of
from builder.precision.cast import cast_graph, reducible_nodes
from builder.precision.measure import measure_ranges, nodes_above, rank_by_error_growth, vary_contrast
from builder.precision.quantize import (
    Method,
    activation_products,
    int8_nodes,
    quantize_graph,
    quantized_operators,
    with_adjacent_nodes,
)
from tritonkit.errors import ArtifactError, InputError
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes.formats import Dialect, Precision, ReducedType

BOUNDS = (8192.0, 1024.0)
"""Nodes with values of this size stay in fp32. fp16 ends at 65504, and a sample does not show the largest values."""
SHARES = {"tenth": 0.1, "three tenths": 0.3}
"""Shares of the reduced nodes that stay in fp32 as the last resort: those where the error grows most."""

FP16: tuple[ReducedType, ...] = ("fp16",)
Nodes = Callable[[], Sequence[str]]
"""Names nodes, where a step needs them: finding them may take as long as the step itself."""
Reduce = Callable[[Collection[str]], tuple[ModelProto, Collection[str]]]
"""Reduces the graph, except the nodes to keep; returns it with its reduced nodes, none where no operator
gains from the precision."""


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


def whole_model(graph: Path, precision: Precision, description: str = "the whole model") -> PrecisionStep:
    """The step that takes a graph as it is; no node is kept in fp32 by choice."""

    def copy_graph(path: Path) -> Sequence[str]:
        shutil.copyfile(graph, path)
        return ()

    return PrecisionStep(precision, description, copy_graph)


class PrecisionSearch:
    """The steps for one fp32 graph, from the requested precision up to fp32."""

    def __init__(self, graph: Path, images: ImageArray, patterns: Sequence[str] = ()) -> None:
        """images: uint8 [N, H, W, 3], to measure value ranges and calibrate int8 on.

        Raises ArtifactError for a graph without arithmetic, InputError for a pattern that matches nothing.
        """
        self._graph = graph
        self._images = images
        self._flat = flattened(onnx.load(graph))
        self._wiring = wiring_of(self._flat)
        self._user_kept = match_nodes(self._flat, patterns)
        self._margins = outer_nodes(self._flat, self._wiring)

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
        yield whole_model(self._graph, "fp32", "everything in fp32")

    @cached_property
    def _ranges(self) -> dict[str, float]:
        return measure_ranges(self._flat, self._wiring, vary_contrast(self._images))

    def _step(self, precision: Precision, reduce: Reduce, description: str, keep: Nodes) -> PrecisionStep:
        def write(path: Path) -> Sequence[str]:
            kept = self._nodes_to_keep(keep())
            model, low = reduce(kept)
            if not low:  # the artifact would be in fp32, not in this precision
                raise ArtifactError(
                    f"{precision}, {description}: no operator that gains from it would be left in {precision}",
                    code="precision.nothing_reduced",
                )
            onnx.save(model, path)
            step.nodes = len(low)
            return kept

        step = PrecisionStep(precision, description, write)
        return step

    def _nodes_to_keep(self, nodes: Sequence[str]) -> list[str]:
        return [name for name in dict.fromkeys([*self._user_kept, *nodes]) if name not in self._margins]

    def _cast_steps(self, precision: ReducedType) -> Iterator[PrecisionStep]:
        reducible = reducible_nodes(self._flat, self._wiring, self._user_kept)

        def above(bound: float) -> list[str]:
            """The nodes whose values could overflow; bf16 has the range of fp32."""
            return nodes_above(self._flat, self._ranges, bound) if precision == "fp16" else []

        @cache
        def worst() -> list[str]:
            # Nodes that overflow stay in fp32: after an overflow all errors are infinite.
            without_overflow = cast_graph(self._flat, precision, [*self._user_kept, *above(BOUNDS[-1])])
            ranked = rank_by_error_growth(self._flat, self._wiring, without_overflow, self._images)
            return [name for name in ranked if name in reducible]

        def sensitive(share: float) -> Sequence[str]:
            return [*above(BOUNDS[-1]), *_top_share(share, worst())]

        def reduce(kept: Collection[str]) -> tuple[ModelProto, Collection[str]]:
            low = reducible - set(kept)
            is_heavy = any(node.name in low and node.op_type in HEAVY_OPERATORS for node in self._flat.graph.node)
            return (cast_graph(self._flat, precision, kept), low) if is_heavy else (self._flat, ())

        step = partial(self._step, precision, reduce)
        if precision == "fp16":
            for bound in BOUNDS:
                yield step(f"fp32 for values of {bound:g} and more", partial(above, bound))
        else:
            yield step("all nodes that can be", list)
        for name, share in SHARES.items():
            large = f"values of {BOUNDS[-1]:g} and more and for " if above(BOUNDS[-1]) else ""
            yield step(f"fp32 for {large}the {name} of the nodes where the error grows most", partial(sensitive, share))

    def _int8_steps(self, dialect: Dialect) -> Iterator[PrecisionStep]:
        products = activation_products(self._flat, self._wiring)
        operators = quantized_operators(self._flat, dialect)

        @cache
        def worst() -> list[str]:
            kept = self._nodes_to_keep(products)
            model = quantize_graph(self._flat, self._images, dialect, keep=kept, every_activation=True)
            low = set(int8_nodes(model, operators)) - set(kept)
            ranked = rank_by_error_growth(self._flat, self._wiring, model, self._images)
            return [name for name in ranked if name in low]

        def sensitive(share: float) -> Sequence[str]:
            return [*products, *with_adjacent_nodes(self._flat, self._wiring, _top_share(share, worst()), worst())]

        def reduce(method: Method, kept: Collection[str]) -> tuple[ModelProto, Collection[str]]:
            model = quantize_graph(self._flat, self._images, dialect, method, kept)
            return model, set(int8_nodes(model, operators)) - set(kept) - self._margins

        minmax = partial(self._step, "int8", partial(reduce, "minmax"))
        percentile = partial(self._step, "int8", partial(reduce, "percentile"))
        yield minmax(f"minmax calibration on {len(self._images)} images", list)
        yield percentile(f"percentile calibration on {len(self._images)} images", list)
        if products:
            yield minmax("fp32 for the products of two activations, as in attention", lambda: products)
        for name, share in SHARES.items():
            description = f"fp32 for the {name} of the nodes where the error grows most and their neighbours"
            yield minmax(description, partial(sensitive, share))


def match_nodes(flat: ModelProto, patterns: Sequence[str]) -> list[str]:
    """The nodes of `--keep-fp32`: their name, operator, or a tensor of theirs matches one of the shell-style patterns.

    Raises InputError for patterns that match nothing.
    """
    matched: dict[str, None] = {}
    unmatched = []
    for pattern in patterns:
        matching = [
            node.name
            for node in flat.graph.node
            if any(fnmatchcase(name, pattern) for name in (node.name, node.op_type, *node.input, *node.output))
        ]
        matched |= dict.fromkeys(matching)
        if not matching:
            unmatched.append(pattern)
    if unmatched:
        operators = sorted({node.op_type for node in flat.graph.node})
        weights = [tensor.name for tensor in flat.graph.initializer if "." in tensor.name][:3]
        raise InputError(
            f"--keep-fp32 {', '.join(unmatched)}: matches no node, operator or tensor of the graph. Its operators are "
            f"{', '.join(operators)}; tensors have names such as {', '.join(weights)}; * stands for anything",
            code="option.keep_fp32",
        )
    return list(matched)


def _top_share(share: float, ranked: Sequence[str]) -> Sequence[str]:
    """The first part of a ranking, at least one node, so that an attempt differs from the one before."""
    return ranked[: max(1, int(share * len(ranked)))]
