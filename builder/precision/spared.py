"""Which nodes of a quantised graph compute in int8, and which must leave it together."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from onnx import ModelProto, NodeProto

from builder.precision.graph import HEAVY_OPERATORS, Wiring

_FACTORS = 2
"""So many inputs decide: activation and weight, or two activations. A bias may stay in fp32."""


def int8_nodes(model: ModelProto, operators: Collection[str]) -> list[str]:
    """The nodes, of these operators, that take dequantised tensors alone, which runtimes compute in int8."""
    dequantised = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in operators and all(name in dequantised for name in node.input[:_FACTORS])
    ]


def activation_products(flat: ModelProto, wiring: Wiring) -> list[str]:
    """The matrix products without a weight, as attention's scores.

    A softmax follows, which makes much of small differences, so they lose more in int8 than their own error tells.
    """
    return [
        node.name
        for node in flat.graph.node
        if node.op_type == "MatMul" and all(name in wiring.producer for name in node.input)
    ]


def with_adjacent_nodes(flat: ModelProto, wiring: Wiring, nodes: Sequence[str], low: Collection[str]) -> list[str]:
    """Nodes, and those of `low` that make or take what they take: a tensor is rounded for all who take it.

    flat: the fp32 graph; low: the nodes that are in int8 with them. In the order of the graph.
    """
    by_name = {node.name: node for node in flat.graph.node}
    kept, edge, seen = set(nodes), [t for name in nodes for t in by_name[name].input], set[str]()
    while edge:
        tensor = edge.pop()
        if tensor in seen or tensor not in wiring.producer:
            continue
        seen.add(tensor)
        maker = wiring.producer[tensor]
        around = [maker, *wiring.consumers.get(tensor, [])]
        kept.update(node.name for node in around if node.name in low)
        if _passes_values_on(maker, wiring):
            edge += maker.input
    return [node.name for node in flat.graph.node if node.name in kept]


def _passes_values_on(node: NodeProto, wiring: Wiring) -> bool:
    """Are its values those of its one activation, cut, moved or scaled, as of Relu and pools?"""
    return node.op_type not in HEAVY_OPERATORS and sum(name in wiring.producer for name in node.input) == 1
