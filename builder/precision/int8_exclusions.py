"""Find the nodes of a quantised graph that compute in int8, and those that can only stay in fp32 together."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from onnx import ModelProto, NodeProto

from builder.onnx.wiring import HEAVY_OPERATORS, Wiring

_FACTORS = 2
"""The inputs that must be int8: activation and weight, or two activations. A bias may stay in fp32."""


def int8_nodes(model: ModelProto, operators: Collection[str]) -> list[str]:
    """The nodes of these operators whose inputs are all dequantised tensors; runtimes compute them in int8."""
    dequantised = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in operators and all(name in dequantised for name in node.input[:_FACTORS])
    ]


def activation_products(flat: ModelProto, wiring: Wiring) -> list[str]:
    """The matrix products without a weight, such as the scores of attention.

    A softmax follows and amplifies small differences, so int8 costs more here than the error of the product shows.
    """
    return [
        node.name
        for node in flat.graph.node
        if node.op_type == "MatMul" and all(name in wiring.producer for name in node.input)
    ]


def with_adjacent_nodes(flat: ModelProto, wiring: Wiring, nodes: Sequence[str], low: Collection[str]) -> list[str]:
    """The nodes, with those of `low` that produce or share their inputs: a tensor is rounded for all its consumers.

    flat: the fp32 graph; low: the int8 nodes. The result is in the order of the graph.
    """
    by_name = {node.name: node for node in flat.graph.node}
    kept, pending, visited = set(nodes), [t for name in nodes for t in by_name[name].input], set[str]()
    while pending:
        tensor = pending.pop()
        if tensor in visited or tensor not in wiring.producer:
            continue
        visited.add(tensor)
        producer = wiring.producer[tensor]
        around = [producer, *wiring.consumers.get(tensor, [])]
        kept.update(node.name for node in around if node.name in low)
        if _passes_values_on(producer, wiring):
            pending += producer.input
    return [node.name for node in flat.graph.node if node.name in kept]


def _passes_values_on(node: NodeProto, wiring: Wiring) -> bool:
    """Whether a node only clips, moves or scales one activation, as Relu and pools do."""
    return node.op_type not in HEAVY_OPERATORS and sum(name in wiring.producer for name in node.input) == 1
